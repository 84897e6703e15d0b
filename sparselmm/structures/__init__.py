"""Covariance structures of the random effects: one file each, behind the two protocols of `base`."""

from .base import Covariance, Precision, correlations, covariance_words, make_covariance, register_covariance
from .conformance import check_covariance, check_precision
from .cs import CompoundSymmetry, HeterogeneousCompoundSymmetry
from .diag import Diagonal
from .us import Unstructured

__all__ = [
    "CompoundSymmetry",
    "Covariance",
    "Diagonal",
    "HeterogeneousCompoundSymmetry",
    "Precision",
    "Unstructured",
    "check_covariance",
    "check_precision",
    "correlations",
    "covariance_words",
    "make_covariance",
    "register_covariance",
]
