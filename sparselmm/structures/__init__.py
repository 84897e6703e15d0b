"""Structures of random effects and residuals: one file each, behind the three protocols of `base`."""

from .ar1 import AR1
from .base import Covariance, Precision, Residual, correlations, covariance_words, make_covariance, register_covariance
from .conformance import check_covariance, check_precision, check_residual
from .cs import CompoundSymmetry, HeterogeneousCompoundSymmetry
from .diag import Diagonal
from .fields import Fields
from .known import Known
from .kronecker import Kronecker
from .latent import latent_words, register_latent
from .ou import OU
from .pedigree import Pedigree
from .residual_serial import AR1Residual, OUResidual
from .residual_unstructured import UnstructuredResidual
from .residual_varident import ProductResidual, VarIdentResidual
from .us import Unstructured

__all__ = [
    "AR1",
    "OU",
    "AR1Residual",
    "CompoundSymmetry",
    "Covariance",
    "Diagonal",
    "Fields",
    "HeterogeneousCompoundSymmetry",
    "Known",
    "Kronecker",
    "OUResidual",
    "Pedigree",
    "Precision",
    "ProductResidual",
    "Residual",
    "Unstructured",
    "UnstructuredResidual",
    "VarIdentResidual",
    "check_covariance",
    "check_precision",
    "check_residual",
    "correlations",
    "covariance_words",
    "latent_words",
    "make_covariance",
    "register_covariance",
    "register_latent",
]
