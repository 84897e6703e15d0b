"""Covariance structures of the random effects: one file each, behind the two protocols of `base`."""

from .base import Covariance, Precision, correlations, covariance_words, make_covariance, register_covariance
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
    "correlations",
    "covariance_words",
    "make_covariance",
    "register_covariance",
]
