"""AR(1) across levels: u_i = a u_{i-1} + nu_i within each series (seed 3, "AR(1) - covariance and inverse covariance").

With x = arctanh a, 1/(1-a^2) = cosh^2 x: every entry is a hyperbolic function of x, and nothing cancels as |a| -> 1.
"""

from typing import Any, Protocol

import numpy as np

from .._errors import ModelError
from .._typing import FloatArray, IntArray
from ..kernels.series import band_pattern, checked_lengths
from .limits import Bounds, arctanh_or_bound, correlation_bounds, exp_or_limit, log_or_bound, tanh_or_limit

FIRST, INNER, LAST, ONLY, BESIDE = range(5)  # the different entries of Q: four on the diagonal, one beside it
START = np.arctanh(0.5)
LOG_START = np.log([1e-8]), np.log([1e8])  # bounds of log w: beyond them u_1 is zero, or unknown


class _Start(Protocol):
    """What the variance of the first state of a series decides."""

    words: tuple[str, ...]
    coordinates: tuple[str, ...]
    start: FloatArray

    def entries(self, rho: FloatArray) -> FloatArray:
        """The five different entries of Q, (5,)."""

    def gradient(self, rho: FloatArray) -> FloatArray:
        """Their derivatives, (n_params, 5)."""

    def logdet(self, rho: FloatArray) -> FloatArray:
        """log|Q| = (per series, per step) . (n_series, n_steps), (2,)."""

    def logdet_gradient(self, rho: FloatArray) -> FloatArray:
        """Their derivatives, (n_params, 2)."""


class _Stationary:
    """Q = 1/(1-a^2) tridiag(-a; 1, 1+a^2, ..., 1+a^2, 1), marginal variances 1; rho = (arctanh a)."""

    words: tuple[str, ...] = ("rho",)
    coordinates: tuple[str, ...] = ("atanh_rho",)
    start = np.array([START])

    def entries(self, rho: FloatArray) -> FloatArray:
        """cosh^2 x = 1/(1-a^2), cosh 2x = (1+a^2)/(1-a^2), sinh(2x)/2 = a/(1-a^2)."""
        end, inner = np.cosh(rho[0]) ** 2, np.cosh(2 * rho[0])
        return np.array([end, inner, end, 1.0, -np.sinh(2 * rho[0]) / 2])

    def gradient(self, rho: FloatArray) -> FloatArray:
        end = np.sinh(2 * rho[0])
        return np.array([[end, 2 * end, end, 0.0, -np.cosh(2 * rho[0])]])

    def logdet(self, rho: FloatArray) -> FloatArray:
        """-log(1-a^2) = 2 log cosh x a step."""
        size = abs(rho[0])
        return np.array([0.0, 2 * (size + np.log1p(np.exp(-2 * size)) - np.log(2.0))])

    def logdet_gradient(self, rho: FloatArray) -> FloatArray:
        return np.array([[0.0, 2 * np.tanh(rho[0])]])


class _Free:
    """Q = B^-T C^-1 B^-1, C = diag(w, 1, ..., 1), B^-1 = I - a (one below); rho = (arctanh a, log w)."""

    words: tuple[str, ...] = ("rho", "start")
    coordinates: tuple[str, ...] = ("atanh_rho", "log_start")
    start = np.array([START, 2 * np.log(np.cosh(START))])  # the stationary w = 1/(1-a^2)

    def entries(self, rho: FloatArray) -> FloatArray:
        a, first = np.tanh(rho[0]), np.exp(-rho[1])
        return np.array([first + a * a, 1.0 + a * a, 1.0, first, -a])

    def gradient(self, rho: FloatArray) -> FloatArray:
        a, da, first = np.tanh(rho[0]), 1 / np.cosh(rho[0]) ** 2, np.exp(-rho[1])
        return np.array([[2 * a * da, 2 * a * da, 0.0, 0.0, -da], [-first, 0.0, 0.0, -first, 0.0]])

    def logdet(self, rho: FloatArray) -> FloatArray:
        return np.array([-rho[1], 0.0])

    def logdet_gradient(self, rho: FloatArray) -> FloatArray:
        return np.array([[0.0, 0.0], [-1.0, 0.0]])


_STARTS: dict[str, _Start] = {"stationary": _Stationary(), "free": _Free()}


class AR1:
    """Independent AR(1) series, one after another; lengths (n_series,) states each.

    start="stationary": Var u_1 = 1/(1-a^2) of the innovation variance. Unit scale: every *marginal* variance is 1,
    so the term's sd is that of u_i, and cov(u_i, u_j) = a^|i-j|.
    start="free" (seed 3's general form): w = tau_1^2/tau^2 is a parameter. Unit scale: the *innovations* have
    variance 1, so the term's sd is tau and that of u_1 is sqrt(w) tau. |a| <= 1 here as well.
    a = 1 is a legal limit: one constant a series (stationary), a random walk (free).

    Errors: DataError for lengths that are not positive, or all 1 (rho could not be estimated); ModelError for a
    start that does not exist.
    """

    null_dim = 0

    def __init__(self, lengths: Any, start: str = "stationary"):
        if start not in _STARTS:
            raise ModelError(f"ar1: unknown start '{start}': known are {', '.join(sorted(_STARTS))}")
        self.lengths = checked_lengths(lengths, 1, "ar1")
        self._start = _STARTS[start]
        self.unit_variance = start == "stationary"
        self.bridge = "ar1" if start == "stationary" else "ar1_free"
        self.n_levels = int(self.lengths.sum())
        self.n_params = len(self._start.words)
        self._counts = np.array([len(self.lengths), self.n_levels - len(self.lengths)], dtype=np.float64)
        self._kind = _kinds(self.lengths)

    def names(self, effect: str, group: str) -> tuple[str, ...]:
        return tuple(f"{word}_{effect}|{group}" for word in self._start.coordinates)

    def start(self) -> FloatArray:
        return self._start.start.copy()

    def pattern(self) -> tuple[IntArray, IntArray]:
        return band_pattern(self.lengths, 1)

    def values(self, rho: FloatArray) -> FloatArray:
        return self._start.entries(rho)[self._kind]

    def gradient(self, rho: FloatArray) -> FloatArray:
        return self._start.gradient(rho)[:, self._kind]

    def logdet(self, rho: FloatArray) -> float:
        return float(self._start.logdet(rho) @ self._counts)

    def logdet_gradient(self, rho: FloatArray) -> FloatArray:
        return self._start.logdet_gradient(rho) @ self._counts

    def logdets(self, rho: FloatArray) -> FloatArray:
        first, step = self._start.logdet(rho)
        return first + step * (self.lengths - 1)

    def logdets_gradient(self, rho: FloatArray) -> FloatArray:
        first, step = np.hsplit(self._start.logdet_gradient(rho), 2)
        return first + step * (self.lengths - 1)

    def natural_names(self, effect: str, group: str) -> tuple[str, ...]:
        return tuple(f"{word}_{effect}|{group}" for word in self._start.words)

    def to_natural(self, rho: FloatArray) -> FloatArray:
        return np.append(tanh_or_limit(rho[:1]), exp_or_limit(rho[1:], LOG_START))

    def from_natural(self, natural: FloatArray) -> FloatArray:
        if not abs(natural[0]) <= 1.0:
            raise ModelError(f"rho of ar1 = {natural[0]:g}: it lies between -1 and 1")
        if not (natural[1:] >= 0.0).all():
            raise ModelError(f"start of ar1 = {natural[1]:g}: the ratio tau_1^2/tau^2 of two variances is not negative")
        return np.append(arctanh_or_bound(natural[:1]), log_or_bound(natural[1:], LOG_START))

    def bounds(self) -> Bounds:
        """Where rho is 1 or -1 for double precision, and w zero or infinite."""
        both = zip(correlation_bounds(), LOG_START, strict=True)
        low, high = (np.append(*pair)[: self.n_params] for pair in both)
        return low, high


def _kinds(lengths: IntArray) -> IntArray:
    """Which of the five entries stands at each place of the pattern (nnz,): the diagonal, then beside it."""
    m, last = int(lengths.sum()), np.cumsum(lengths) - 1
    kind = np.full(2 * m - len(lengths), BESIDE)
    kind[:m] = INNER
    kind[last] = LAST
    kind[last - lengths + 1] = np.where(lengths > 1, FIRST, ONLY)
    return kind
