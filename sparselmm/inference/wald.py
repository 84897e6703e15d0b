"""Wald tests: the variances taken as known, normal and chi-squared distributions."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .._typing import FloatArray
from ..coefficients import uncorrelated

if TYPE_CHECKING:
    from ..results import Fit


@dataclass(frozen=True, slots=True)
class FTest:
    """F with (num_df, den_df) degrees of freedom. scale: what F was multiplied by (Kenward & Roger's lambda)."""

    F: float
    num_df: int
    den_df: float
    scale: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Wald:
    """vcov: (p, p)."""

    vcov: FloatArray
    name: str = "wald"

    def degrees(self, L: FloatArray) -> FloatArray:
        """Infinite, (c,)."""
        return np.full(len(L), np.inf)

    def f_test(self, L: FloatArray, difference: FloatArray) -> FTest:
        """Wald's chi-squared over its degrees of freedom."""
        _, squares = orthogonal_contrasts(L, difference, self.vcov)
        return FTest(float(squares.mean()), len(squares), np.inf)


def wald(fit: "Fit") -> Wald:
    """Wald's method at the estimated variances."""
    return Wald(fit.vcov.to_numpy())


def orthogonal_contrasts(L: FloatArray, difference: FloatArray, vcov: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Uncorrelated combinations of the rows of L, (q, p), and their squared t values, (q,), q the rank of L."""
    K, keep = uncorrelated(L @ vcov @ L.T)
    return K[:, keep].T @ L, (K[:, keep].T @ difference) ** 2
