"""Covariance structures of the random effects: one file each, behind the two protocols of `base`."""

from .ar1 import AR1
from .base import Covariance, Precision, correlations, covariance_words, make_covariance, register_covariance
from .conformance import check_covariance, check_precision
from .cs import CompoundSymmetry, HeterogeneousCompoundSymmetry
from .diag import Diagonal
from .known import Known
from .kronecker import Kronecker
from .latent import latent_words, register_latent
from .ou import OU
from .pedigree import Pedigree
from .us import Unstructured

__all__ = [
    "AR1",
    "OU",
    "CompoundSymmetry",
    "Covariance",
    "Diagonal",
    "HeterogeneousCompoundSymmetry",
    "Known",
    "Kronecker",
    "Pedigree",
    "Precision",
    "Unstructured",
    "check_covariance",
    "check_precision",
    "correlations",
    "covariance_words",
    "latent_words",
    "make_covariance",
    "register_covariance",
    "register_latent",
]
