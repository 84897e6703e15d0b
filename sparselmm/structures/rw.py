"""Intrinsic random walks of first and second order over any increasing knots: the smoothing priors.

Unit scale: innovation variance 1 per unit of time, as of a Wiener process (rw1) and its integral (rw2).
"""

from typing import Any

import numpy as np
import scipy.sparse as sp

from .._errors import DataError
from .._typing import FloatArray, IntArray
from ..kernels.series import band_pattern, check_close, checked_lengths, places, series_gaps
from .fixed import FixedPrecision

CLOSEST = 1e4  # gaps to a span: with entries of Q, 1/gap^3, up to 1e10 the deviance is good to 1e-7 of its size


class RW1(FixedPrecision):
    """u_j - u_{j-1} ~ N(0, d_j), d_j the gap: Q = D' diag(1/d) D with D of first differences.

    times: (m,) of the states, series by series, increasing. lengths: (n_series,) states each. The null space is
    one constant a series. log|Q| = sum_series log T - sum log d, since a path's Laplacian has cofactors 1 (matrix-tree
    theorem: |Q| = T prod 1/d). Errors: DataError for times that do not increase, or no series with two.
    """

    order = 1
    bridge = "rw1"

    def __init__(self, times: Any, lengths: Any):
        self.lengths = checked_lengths(lengths, 1, "rw1")
        self.times = np.asarray(times, dtype=np.float64)
        later, d = series_gaps(self.times, self.lengths)
        check_close(d, float(np.ptp(self.times)), "rw1")
        values = band_values(self.lengths, later, np.array([[-1.0], [1.0]]), 1 / d)
        logdet = np.log(self.lengths).sum() - np.log(d).sum()
        super().__init__(band_pattern(self.lengths, 1), values, logdet, null_dim=len(self.lengths))

    def null_space(self) -> sp.csc_array:
        """(m, n_series), orthonormal: 1/sqrt(T) on each series."""
        return by_series(np.repeat(self.lengths**-0.5, self.lengths)[:, None], self.lengths)

    def pins(self) -> IntArray:
        """The first state of each series."""
        return np.flatnonzero(places(self.lengths) == 0)


class RW2(FixedPrecision):
    """Second differences over irregular knots, Q = H' B^-1 H (Lindgren & Rue 2008, section 3, Scand. J. Stat. 35).

    At each inner knot, with the gaps c before and d after it, H has 1/c, -(1/c + 1/d), 1/d and B has (c + d)/2:
    the slope changes by N(0, (c+d)/2). Knots a step h apart: h^-3 times the usual 1, -4, 6, -4, 1. The rows of H at
    the ends are zero, so the null space is exactly span{1, t} in every series (all of R^T where T < 3).

    log|Q| = sum_series log(T sum (t - mean t)^2) - 2 sum log d - sum log B: |Q| = |H H'|/|B|, and H without its first
    two columns is triangular with 1/d, which relates |H H'| to the Gram determinant of {1, t}.
    Errors: DataError for times that do not increase, or no series with three.
    """

    order = 2

    def __init__(self, times: Any, lengths: Any):
        self.lengths = checked_lengths(lengths, 2, "rw2")
        self.times = np.asarray(times, dtype=np.float64)
        later, gaps = series_gaps(self.times, self.lengths)
        third = np.flatnonzero(places(self.lengths)[later] > 1)  # gaps with another gap before them
        self._check_close(gaps)
        c, d = gaps[third - 1], gaps[third]
        values = band_values(self.lengths, later[third], np.stack([1 / c, -(1 / c + 1 / d), 1 / d]), 2 / (c + d))
        several = self.lengths > 1
        spread = self._sum(self._centred() ** 2)[several]
        logdet = np.log(self.lengths[several] * spread).sum() - 2 * np.log(gaps).sum() - np.log((c + d) / 2).sum()
        super().__init__(band_pattern(self.lengths, 2), values, logdet, null_dim=int(np.minimum(self.lengths, 2).sum()))

    def null_space(self) -> sp.csc_array:
        """(m, null_dim), orthonormal: 1/sqrt(T) and the centred times of each series (the first only where T = 1)."""
        t = self._centred()
        size = np.sqrt(self._sum(t * t))
        scale = np.divide(1.0, size, out=np.zeros(len(size)), where=size > 0)
        columns = np.column_stack([np.repeat(self.lengths**-0.5, self.lengths), t * np.repeat(scale, self.lengths)])
        return by_series(columns, self.lengths)

    def pins(self) -> IntArray:
        """The ends of each series: a line between them stays within them, one through its first two states does not."""
        place = places(self.lengths)
        return np.flatnonzero((place == 0) | (place == np.repeat(self.lengths, self.lengths) - 1))

    def _check_close(self, gaps: FloatArray) -> None:
        """Q has the third powers of gaps: beyond CLOSEST of the whole span the criterion loses its digits."""
        start, last = np.cumsum(self.lengths) - self.lengths, np.cumsum(self.lengths) - 1
        span = float((self.times[last] - self.times[start]).max())
        if gaps.min() * CLOSEST < span:
            digits = max(0, int(np.ceil(-np.log10(span / 1000))))
            raise DataError(
                f"rw2: two knots are {gaps.min():.3g} apart where they span {span:.6g}; closer than 1/{CLOSEST:,.0f} "
                f"of it rounding takes the second differences. Round the times: {digits} decimals leave 1000 knots"
            )

    def _sum(self, x: FloatArray) -> FloatArray:
        return np.add.reduceat(x, np.cumsum(self.lengths) - self.lengths)

    def _centred(self) -> FloatArray:
        start = np.cumsum(self.lengths) - self.lengths
        t = self.times - np.repeat(self.times[start], self.lengths)
        return t - np.repeat(self._sum(t) / self.lengths, self.lengths)


def by_series(columns: FloatArray, lengths: IntArray) -> sp.csc_array:
    """Each series' part of `columns` (m, c) as columns of its own, (m, n_series c), without those that are zero."""
    m, c = columns.shape
    series = np.repeat(np.arange(len(lengths)), lengths)
    cols = (series[:, None] * c + np.arange(c)).ravel()
    out = sp.csc_array((columns.ravel(), (np.repeat(np.arange(m), c), cols)), shape=(m, len(lengths) * c))
    out.eliminate_zeros()
    return out[:, np.diff(out.indptr) > 0]


def band_values(lengths: IntArray, last: IntArray, coefs: FloatArray, weights: FloatArray) -> FloatArray:
    """Values of sum_k weights_k c_k c_k' on `band_pattern(lengths, order)`.

    c_k has coefs[:, k] (order + 1, or 1 column for all) at the neighbouring states that end at last[k].
    """
    order = len(coefs) - 1
    bands = np.zeros((order + 1, int(lengths.sum())))
    for i in range(order + 1):
        for j in range(i + 1):
            bands[i - j, last - order + i] += coefs[i] * coefs[j] * weights
    place = places(lengths)
    return np.concatenate([band[place >= k] for k, band in enumerate(bands)])
