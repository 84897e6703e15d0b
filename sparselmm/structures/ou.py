"""Ornstein-Uhlenbeck across levels: AR(1) in continuous time, correlation exp(-kappa |t - s|) within each series."""

from typing import Any

import numpy as np

from .._errors import ModelError
from .._typing import FloatArray, IntArray
from ..kernels.series import band_pattern, check_close, checked_lengths, series_gaps
from .limits import Bounds, exp_or_limit, log_or_bound, rate_bounds


class OU:
    """Independent stationary OU series with marginal variance 1; rho = (log kappa).

    times: (m,) of the states, series by series, increasing. lengths: (n_series,) states each. Across a gap d the
    correlation is f = exp(-kappa d); from the Markov factorisation, u_j | u_{j-1} ~ N(f u_{j-1}, 1 - f^2),

        Q[j, j] = 1 + w_j + w_{j+1},   Q[j, j-1] = -s_j,   w = f^2/(1-f^2) = 1/expm1(2 kappa d),
        log|Q| = -sum log(1 - f^2),    s = f/(1-f^2) = 1/(2 sinh(kappa d)),

    w_j = 0 where there is no gap (the ends). Errors: DataError for times that do not increase or differ by rounding,
    or no gap at all.
    """

    n_params = 1
    null_dim = 0
    unit_variance = True
    bridge = "ou"

    def __init__(self, times: Any, lengths: Any):
        self.times = np.asarray(times, dtype=np.float64)
        self.lengths = checked_lengths(lengths, 1, "ou")
        self.n_levels = len(self.times)
        self._later, self.gaps = series_gaps(self.times, self.lengths)
        check_close(self.gaps, float(np.ptp(self.times)), "ou")

    def names(self, effect: str, group: str) -> tuple[str, ...]:
        return (f"log_kappa_{effect}|{group}",)

    def start(self) -> FloatArray:
        return -np.log(np.array([np.median(self.gaps)]))

    def pattern(self) -> tuple[IntArray, IntArray]:
        return band_pattern(self.lengths, 1)

    def values(self, rho: FloatArray) -> FloatArray:
        _, w, s = self._weights(rho)
        return self._on_pattern(1.0, w, -s)

    def gradient(self, rho: FloatArray) -> FloatArray:
        """With u = kappa d = du/dx: dw = -2 u w (1 + w), ds = -u s (1 + 2 w)."""
        u, w, s = self._weights(rho)
        return self._on_pattern(0.0, -2 * u * w * (1 + w), u * s * (1 + 2 * w))[None]

    def logdet(self, rho: FloatArray) -> float:
        return -float(np.log(-np.expm1(-2 * np.exp(rho[0]) * self.gaps)).sum())

    def logdet_gradient(self, rho: FloatArray) -> FloatArray:
        """-2 u w a gap."""
        u, w, _ = self._weights(rho)
        return np.array([-2 * (u @ w)])

    def logdets(self, rho: FloatArray) -> FloatArray:
        return self._by_series(-np.log(-np.expm1(-2 * np.exp(rho[0]) * self.gaps)))

    def logdets_gradient(self, rho: FloatArray) -> FloatArray:
        u, w, _ = self._weights(rho)
        return self._by_series(-2 * u * w)[None]

    def natural_names(self, effect: str, group: str) -> tuple[str, ...]:
        return (f"kappa_{effect}|{group}",)

    def to_natural(self, rho: FloatArray) -> FloatArray:
        return exp_or_limit(rho, self.bounds())

    def from_natural(self, natural: FloatArray) -> FloatArray:
        if not natural[0] >= 0.0:
            raise ModelError(f"kappa of ou = {natural[0]:g}: a rate is not negative")
        return log_or_bound(natural, self.bounds())

    def bounds(self) -> Bounds:
        """Where kappa is 0 (one constant a series) or infinite (independent levels) for double precision."""
        return rate_bounds(self.gaps)

    def _by_series(self, terms: FloatArray) -> FloatArray:
        """Sums over the gaps of each series."""
        owner = np.repeat(np.arange(len(self.lengths)), self.lengths)[self._later]
        return np.asarray(np.bincount(owner, terms, len(self.lengths)), dtype=np.float64)

    def _weights(self, rho: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """u = kappa d, w and s of every gap, each (c,); by f = exp(-u) <= 1, so that no large u overflows."""
        u = np.exp(rho[0]) * self.gaps
        f, rest = np.exp(-u), -np.expm1(-2 * u)
        return u, f * f / rest, f / rest

    def _on_pattern(self, diagonal: float, w: FloatArray, beside: FloatArray) -> FloatArray:
        """diagonal + w_j + w_{j+1}, then `beside`, (nnz,)."""
        out = np.concatenate([np.full(self.n_levels, diagonal), beside])
        out[self._later] += w
        out[self._later - 1] += w
        return out
