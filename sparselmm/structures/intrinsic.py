"""Precisions made fit for the equations: positive definite where they have a null space, and at unit scale."""

from typing import Protocol, runtime_checkable

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import splu

from .._errors import ModelError
from .._typing import FloatArray, IntArray
from ..engines import Pattern, make_engine
from .base import Precision
from .limits import Bounds, bounds_of

PROBES = 8  # of a variance that only has to be right to some 30 %


@runtime_checkable
class Intrinsic(Precision, Protocol):
    """A Precision with a null space, which the model counts among the fixed effects."""

    def null_space(self) -> sp.csc_array:
        """An orthonormal basis N, (m, null_dim): Q N = 0, N'N = I, whatever rho."""

    def pins(self) -> IntArray:
        """null_dim levels on which N is invertible: Q is positive definite among the others."""


class _Wrapped:
    """A Precision that passes everything on to another one."""

    null_dim = 0

    def __init__(self, inner: Precision):
        self.inner, self.n_levels, self.n_params = inner, inner.n_levels, inner.n_params

    def names(self, effect: str, group: str) -> tuple[str, ...]:
        return self.inner.names(effect, group)

    def start(self) -> FloatArray:
        return self.inner.start()

    def pattern(self) -> tuple[IntArray, IntArray]:
        return self.inner.pattern()

    def values(self, rho: FloatArray) -> FloatArray:
        return self.inner.values(rho)

    def gradient(self, rho: FloatArray) -> FloatArray:
        return self.inner.gradient(rho)

    def logdet(self, rho: FloatArray) -> float:
        return self.inner.logdet(rho)

    def logdet_gradient(self, rho: FloatArray) -> FloatArray:
        return self.inner.logdet_gradient(rho)

    def natural_names(self, effect: str, group: str) -> tuple[str, ...]:
        return self.inner.natural_names(effect, group)

    def to_natural(self, rho: FloatArray) -> FloatArray:
        return self.inner.to_natural(rho)

    def from_natural(self, natural: FloatArray) -> FloatArray:
        return self.inner.from_natural(natural)

    def bounds(self) -> Bounds:
        return bounds_of(self.inner)


class Pinned(_Wrapped):
    """Q + E W E' for the pins E of an intrinsic Q and W their diagonal of Q (or 1): positive definite on the same
    pattern.

    With N's columns among the fixed effects it is the same model: (Q + E W E')^-1 differs from the covariance with
    the pins held at zero by N_E W^-1 N_E', N_E = N (E'N)^-1, which the fixed effects take up. Its determinant is
    |W| times that of Q without the pins, |Q|_+ |E'N|^2.
    """

    def __init__(self, intrinsic: Intrinsic):
        super().__init__(intrinsic)
        pins, self.null_space = np.asarray(intrinsic.pins(), dtype=np.int64), intrinsic.null_space
        rows, cols = intrinsic.pattern()
        diagonal = np.flatnonzero(rows == cols)
        place = np.empty(self.n_levels, np.int64)
        place[rows[diagonal]] = diagonal
        self._pinned = place[pins]
        own = intrinsic.values(intrinsic.start())[self._pinned]
        self._weights = np.where(own > 0.0, own, 1.0)  # zero in a series that is all null space
        corner = sp.csc_array(intrinsic.null_space())[pins]
        # N at the pins is block-diagonal by series, so that its LU has hardly more entries than itself
        pivots = np.abs(splu(sp.csc_matrix(corner)).U.diagonal())
        self._shift = float(np.log(self._weights).sum() + 2.0 * np.log(pivots).sum())

    def values(self, rho: FloatArray) -> FloatArray:
        out = super().values(rho).copy()
        out[self._pinned] += self._weights
        return out

    def logdet(self, rho: FloatArray) -> float:
        return super().logdet(rho) + self._shift


class Scaled(_Wrapped):
    """scale^2 Q: levels of variance one on average, where those of Q have scale^2."""

    def __init__(self, inner: Precision, scale: float):
        super().__init__(inner)
        self.scale = scale

    def values(self, rho: FloatArray) -> FloatArray:
        return self.scale**2 * super().values(rho)

    def gradient(self, rho: FloatArray) -> FloatArray:
        return self.scale**2 * super().gradient(rho)

    def logdet(self, rho: FloatArray) -> float:
        return super().logdet(rho) + 2.0 * self.n_levels * float(np.log(self.scale))


def proper(Q: Precision | None) -> tuple[Precision | None, float]:
    """Q positive definite with levels of variance one on average, and the standard deviation that they had."""
    unit = getattr(Q, "unit_variance", False)
    if Q is None or (unit and not Q.null_dim):
        return Q, 1.0
    positive: Precision = Pinned(Q) if Q.null_dim and isinstance(Q, Intrinsic) else Q
    scale = 1.0 if unit else _average_sd(positive)
    return Scaled(positive, scale), scale


def _average_sd(Q: Precision) -> float:
    """sqrt of the mean variance of a level, off the null space, by Hutchinson's probes: z'Q^+ z for random signs z."""
    rows, cols = Q.pattern()
    lower = sp.csc_matrix((Q.values(Q.start()), (rows, cols)), shape=(Q.n_levels, Q.n_levels))
    lower.sort_indices()
    engine = make_engine("auto", Pattern(lower.indptr.astype(np.int64), lower.indices.astype(np.int64)))
    engine.factorize(lower.data)
    z = np.random.default_rng(0).choice([-1.0, 1.0], (Q.n_levels, PROBES))
    if isinstance(Q, Pinned):
        N = Q.null_space()
        z = z - N @ (N.T @ z)
    return float(np.sqrt((z * engine.solve(z)).sum() / z.size))


def check_intrinsic(Q: Precision, what: str) -> None:
    """ModelError where a precision has a null space and does not say which."""
    if Q.null_dim and not isinstance(Q, Intrinsic):
        raise ModelError(
            f"{what}: its precision has a null space of dimension {Q.null_dim} and lacks null_space() and pins(), "
            "which say which directions have no prior; a product of intrinsic precisions cannot be fitted"
        )
