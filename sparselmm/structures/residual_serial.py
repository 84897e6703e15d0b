"""Residuals correlated in time within a series: AR(1) over integer times, CAR(1) over real ones (as in nlme).

Both are Markov chains. Where c is the correlation of a row with the one before it, and w = c^2/(1-c^2),

    K_ii = 1 + w_i + w_next,   K_i,before = -c/(1-c^2),   log|R| = sum log(1-c^2)

(w = 0 where there is no neighbour): K is tridiagonal whatever the gaps. Each gap is one class of links.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np

from .._errors import DataError, EngineError, ModelError
from .._typing import FloatArray, IntArray
from ..kernels.chains import markov_product
from ..kernels.series import TOO_CLOSE
from .limits import Bounds, arctanh_or_bound, correlation_bounds, exp_or_limit, log_or_bound, rate_bounds, tanh_or_limit

NO_LINK = -1
LARGEST_ATANH = 18.0  # tanh(18) is 1 - 5e-16
LARGEST_LOG = 300.0
AnySerial = TypeVar("AnySerial", bound="_Serial")
START = 0.5  # the correlation across the median gap that a search starts from


class _Serial:
    """What AR(1) and CAR(1) share; `_correlation` is all that differs.

    time: (n,) numbers. series: (n,) codes of the series, one series if None. labels: of the series, for messages.
    label: the words, `ar1(t | g)`. Errors: DataError for times that are missing or twice in a series; ModelError
    where no series has two rows.
    """

    n_params = 1
    word: ClassVar[str]
    parameter: ClassVar[str]
    coordinate: ClassVar[str]

    def __init__(self, time: Any, series: Any = None, labels: Sequence[Any] | None = None, label: str = ""):
        self.label = label or f"{self.word}(t)"
        self.time = _check_time(time, self.label)
        self.n_rows = len(self.time)
        self.series = np.zeros(self.n_rows, np.int64) if series is None else np.asarray(series, dtype=np.int64)
        if len(self.series) != self.n_rows:
            raise DataError(f"residual {self.label}: {self.n_rows} times for {len(self.series)} codes of series")
        order = np.lexsort((self.time, self.series))
        same = self.series[order[1:]] == self.series[order[:-1]]
        self.later, self.earlier = order[1:][same], order[:-1][same]
        gap = self.time[self.later] - self.time[self.earlier]
        self._check_gaps(gap, [None] if series is None else labels)
        self.gaps, self.link_class = np.unique(gap, return_inverse=True)
        self._count = np.bincount(self.link_class)
        self._beside, self.row_class = _neighbours(self.later, self.earlier, self.link_class, self.n_rows)

    def _check_gaps(self, gap: FloatArray, labels: Sequence[Any] | None) -> None:
        if not len(gap):
            raise ModelError(f"residual {self.label}: no series has two rows, so there is no correlation to estimate")
        twice = np.flatnonzero(gap <= TOO_CLOSE * np.ptp(self.time))  # as good as equal: 1 - c^2 would be rounding
        if len(twice):
            row = self.later[twice[0]]
            name = int(self.series[row]) if labels is None else labels[self.series[row]]
            of, group = ("", "g") if name is None else (f" of series {name!r}", "g:h")
            raise DataError(
                f"residual {self.label}: two rows{of} have the time {self.time[row]:.15g} "
                f"({len(twice)} such pairs). Times within a series must differ; name the series by a finer group, "
                f"{self.word}(t | {group}), or average these rows"
            )

    def _correlation(self, rho: FloatArray, gap: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """c, 1 - c^2 and dc/drho across gaps > 0; gap and results of one shape."""
        raise NotImplementedError

    def rows(self: AnySerial, keep: IntArray) -> AnySerial:
        return type(self)(self.time[keep], self.series[keep], label=self.label)

    def names(self) -> tuple[str, ...]:
        return (f"{self.coordinate}_residual",)

    def natural_names(self) -> tuple[str, ...]:
        return (f"{self.parameter}_residual",)

    def values(self, rho: FloatArray) -> tuple[FloatArray, FloatArray]:
        c, rest, _ = self._correlation(rho, self.gaps)
        return 1.0 + self._sum_beside(c * c / rest), -c / rest

    def gradient(self, rho: FloatArray) -> tuple[FloatArray, FloatArray]:
        """dw = 2 c dc/(1-c^2)^2, d(-c/(1-c^2)) = -(1 + c^2) dc/(1-c^2)^2."""
        c, rest, dc = self._correlation(rho, self.gaps)
        slope = dc / rest**2
        return self._sum_beside(2 * c * slope)[None], (-(1 + c * c) * slope)[None]

    def _sum_beside(self, w: FloatArray) -> FloatArray:
        """Sum over the links of each class of rows."""
        return np.append(w, 0.0)[self._beside].sum(axis=1)

    def logdet(self, rho: FloatArray) -> float:
        return float(self._count @ np.log(self._correlation(rho, self.gaps)[1]))

    def logdet_gradient(self, rho: FloatArray) -> FloatArray:
        c, rest, dc = self._correlation(rho, self.gaps)
        return np.array([-2 * self._count @ (c * dc / rest)])

    def times(self, rho: FloatArray, V: FloatArray) -> FloatArray:
        out = np.empty_like(V)
        cor = self._correlation(rho, self.gaps)[0][self.link_class]
        markov_product(self.later, self.earlier, cor, np.ascontiguousarray(V), out)
        return out

    def scales(self, rho: FloatArray) -> FloatArray:
        return np.ones(self.n_rows)

    def covariance(self, rho: FloatArray) -> FloatArray:
        return self._dense(lambda lag: self._correlation(rho, lag)[0], 1.0)

    def covariance_gradient(self, rho: FloatArray) -> FloatArray:
        return self._dense(lambda lag: self._correlation(rho, lag)[2], 0.0)[None]

    def _dense(self, entry: Any, diagonal: float) -> FloatArray:
        """entry(|t_i - t_j|) within a series, `diagonal` on the diagonal, zero elsewhere."""
        pairs = self.series[:, None] == self.series
        np.fill_diagonal(pairs, False)
        out = np.diag(np.full(self.n_rows, diagonal))
        out[pairs] = entry(np.abs(self.time[:, None] - self.time)[pairs])
        return out


class AR1Residual(_Serial):
    """cor(e_i, e_j) = rho^|t_i - t_j| within a series, integer times, rho of either sign: nlme's corAR1."""

    word, parameter, coordinate = "ar1", "rho", "atanh_rho"

    def __init__(self, time: Any, series: Any = None, labels: Sequence[Any] | None = None, label: str = ""):
        super().__init__(time, series, labels, label)
        bad = np.flatnonzero(self.time != np.rint(self.time))
        if len(bad):
            raise DataError(
                f"residual {self.label}: the time {self.time[bad[0]]:.15g} in row {bad[0]} is not an integer, and "
                f"ar1() counts steps. Number the occasions 1, 2, ..., or write ou{self.label.removeprefix('ar1')}"
            )

    def start(self) -> FloatArray:
        """START across the median gap: 1,440 steps from 0.5 the correlation is zero, and so is the score."""
        across = np.arctanh(START ** (1.0 / np.median(self.gaps[self.link_class])))
        return np.minimum([across], 0.95 * self.bounds()[1])

    def to_natural(self, rho: FloatArray) -> FloatArray:
        return tanh_or_limit(rho)

    def from_natural(self, natural: FloatArray) -> FloatArray:
        if not abs(natural[0]) <= 1.0:
            raise ModelError(f"rho_residual = {natural[0]:g}: it lies between -1 and 1")
        return arctanh_or_bound(natural)

    def bounds(self) -> Bounds:
        """Where rho is 1 or -1 for double precision."""
        return correlation_bounds()

    def _correlation(self, rho: FloatArray, gap: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """With x = rho[0], 1 - tanh^2 x = 1/cosh^2 x, so that 1 - c^2 does not cancel as |tanh x| -> 1."""
        _bound(rho[0], LARGEST_ATANH, "rho_residual is 1 or -1")
        a, da = np.tanh(rho[0]), 1 / np.cosh(rho[0]) ** 2
        log_square = np.log1p(-da) if da < 1.0 else -np.inf
        return a**gap, -np.expm1(gap * log_square), gap * a ** (gap - 1) * da


class OUResidual(_Serial):
    """cor(e_i, e_j) = exp(-kappa |t_i - t_j|) within a series, real times: nlme's corCAR1 with phi = exp(-kappa)."""

    word, parameter, coordinate = "ou", "kappa", "log_kappa"

    def start(self) -> FloatArray:
        return np.log([-np.log(START) / np.median(self.gaps[self.link_class])])

    def to_natural(self, rho: FloatArray) -> FloatArray:
        return exp_or_limit(rho, self.bounds())

    def from_natural(self, natural: FloatArray) -> FloatArray:
        if not natural[0] >= 0.0:
            raise ModelError(f"kappa_residual = {natural[0]:g}: a rate is not negative")
        return log_or_bound(natural, self.bounds())

    def bounds(self) -> Bounds:
        """Where kappa is 0 (a series is one number) or infinite (independent residuals) for double precision."""
        return rate_bounds(self.gaps)

    def _correlation(self, rho: FloatArray, gap: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        _bound(rho[0], LARGEST_LOG, "kappa_residual is 0 or infinite")
        u = np.exp(rho[0]) * gap
        c = np.exp(-u)
        return c, -np.expm1(-2 * u), -u * c


def _check_time(time: Any, label: str) -> FloatArray:
    try:
        out = np.asarray(time, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"residual {label}: times are not numeric: {error}") from error
    if out.ndim != 1 or not np.isfinite(out).all():
        raise DataError(f"residual {label}: times must be a vector of finite numbers, not of shape {out.shape}")
    return out


def _bound(x: float, limit: float, what: str) -> None:
    if abs(x) > limit:
        raise EngineError(f"{what} to rounding: the residual correlation matrix is singular")


def _neighbours(later: IntArray, earlier: IntArray, link: IntArray, n: int) -> tuple[IntArray, IntArray]:
    """Classes of the two links of each class of rows (classes, 2), NO_LINK where none; the class of each row (n,)."""
    ends = np.full((2, n), NO_LINK)
    ends[0, later] = link
    ends[1, earlier] = link
    base = int(link.max()) + 2
    keys, row_class = np.unique((ends.max(axis=0) + 1) * base + ends.min(axis=0) + 1, return_inverse=True)
    return np.column_stack([keys // base, keys % base]) - 1, row_class
