"""Intrinsic precisions made proper: what a null space without a prior leaves of Q (DESIGN section 2)."""

from typing import Protocol, runtime_checkable

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import splu

from .._errors import ModelError
from .._typing import FloatArray, IntArray
from .base import Precision


@runtime_checkable
class Intrinsic(Precision, Protocol):
    """A Precision with a null space, which the model counts among the fixed effects."""

    def null_space(self) -> sp.csc_array:
        """An orthonormal basis N, (m, null_dim): Q N = 0, N'N = I, whatever rho."""

    def pins(self) -> IntArray:
        """null_dim levels on which N is invertible: Q is positive definite among the others."""


class Pinned:
    """Q + E W E' for the pins E of an intrinsic Q and W their diagonal of Q (or 1): positive definite on the same
    pattern.

    With N's columns among the fixed effects it is the same model: (Q + E W E')^-1 differs from the covariance with
    the pins held at zero by N_E W^-1 N_E', N_E = N (E'N)^-1, which the fixed effects take up. Its determinant is
    |W| times that of Q without the pins, |Q|_+ |E'N|^2.
    """

    null_dim = 0

    def __init__(self, intrinsic: Intrinsic):
        self.intrinsic = intrinsic
        self.n_levels, self.n_params = intrinsic.n_levels, intrinsic.n_params
        pins = np.asarray(intrinsic.pins(), dtype=np.int64)
        rows, cols = intrinsic.pattern()
        diagonal = np.flatnonzero(rows == cols)
        place = np.empty(self.n_levels, np.int64)
        place[rows[diagonal]] = diagonal
        self._pinned = place[pins]
        own = intrinsic.values(intrinsic.start())[self._pinned]
        self._weights = np.where(own > 0.0, own, 1.0)  # zero in a series that is all null space
        corner = sp.csc_array(intrinsic.null_space())[pins]
        # N at the pins is block-diagonal by series, so that its LU has hardly more entries than itself
        sign = np.abs(splu(sp.csc_matrix(corner)).U.diagonal()) if len(pins) else np.empty(0)
        self._shift = float(np.log(self._weights).sum() + 2.0 * np.log(sign).sum())

    def names(self, effect: str, group: str) -> tuple[str, ...]:
        return self.intrinsic.names(effect, group)

    def start(self) -> FloatArray:
        return self.intrinsic.start()

    def pattern(self) -> tuple[IntArray, IntArray]:
        return self.intrinsic.pattern()

    def values(self, rho: FloatArray) -> FloatArray:
        out = self.intrinsic.values(rho).copy()
        out[self._pinned] += self._weights
        return out

    def gradient(self, rho: FloatArray) -> FloatArray:
        return self.intrinsic.gradient(rho)

    def logdet(self, rho: FloatArray) -> float:
        return self.intrinsic.logdet(rho) + self._shift

    def logdet_gradient(self, rho: FloatArray) -> FloatArray:
        return self.intrinsic.logdet_gradient(rho)

    def natural_names(self, effect: str, group: str) -> tuple[str, ...]:
        return self.intrinsic.natural_names(effect, group)

    def to_natural(self, rho: FloatArray) -> FloatArray:
        return self.intrinsic.to_natural(rho)

    def from_natural(self, natural: FloatArray) -> FloatArray:
        return self.intrinsic.from_natural(natural)


def proper(Q: Precision | None) -> Precision | None:
    """Q, pinned where it is intrinsic; None stays."""
    return Pinned(Q) if Q is not None and Q.null_dim and isinstance(Q, Intrinsic) else Q


def check_intrinsic(Q: Precision, what: str) -> None:
    """ModelError where a precision has a null space and does not say which."""
    if Q.null_dim and not isinstance(Q, Intrinsic):
        raise ModelError(
            f"{what}: its precision has a null space of dimension {Q.null_dim} and lacks null_space() and pins(), "
            "which say which directions have no prior; a product of intrinsic precisions cannot be fitted"
        )
