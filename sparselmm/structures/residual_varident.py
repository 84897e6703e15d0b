"""Residual variances that differ between strata (nlme's varIdent), alone or beside a correlation in time."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .._errors import DataError, ModelError
from .._typing import FloatArray, IntArray
from .limits import Bounds, bounds_of
from .residual_serial import AR1Residual, OUResidual


class VarIdentResidual:
    """R = diag(ratio^2): one ratio a stratum to the standard deviation of the first one, whose ratio is 1.

    strata: (n,) codes 0 ... S-1, each used. levels: the names of the strata. rho: log ratios of strata 1 ... S-1.
    Errors: DataError for codes that are not used; ModelError for a single stratum, or where none has two rows.
    """

    def __init__(self, strata: Any, levels: Sequence[Any] | None = None, label: str = ""):
        self.row_class = np.asarray(strata, dtype=np.int64)
        self.label = label or "varident(f)"
        self.n_rows = len(self.row_class)
        self._count = np.bincount(self.row_class)
        if not self._count.all():
            raise DataError(f"residual {self.label}: code {self._count.argmin()} of the strata does not occur")
        if len(self._count) < 2:
            raise ModelError(f"residual {self.label}: there is one stratum only, so no ratio to estimate; leave it out")
        if self._count.max() < 2:
            raise ModelError(
                f"residual {self.label}: {len(self._count)} strata of one row each have no variance to estimate; "
                "varident() reads a factor, not a number that differs from row to row"
            )
        self.n_params = len(self._count) - 1
        self.levels = tuple(range(len(self._count)) if levels is None else levels)
        self.later = self.earlier = self.link_class = np.zeros(0, dtype=np.int64)

    def rows(self, keep: IntArray) -> "VarIdentResidual":
        left = np.bincount(self.row_class[keep], minlength=len(self.levels))
        if not left.all():
            lost = self.levels[int(left.argmin())]
            raise DataError(f"residual {self.label}: no row of stratum {lost!r} is left, so it has no variance")
        return VarIdentResidual(self.row_class[keep], self.levels, self.label)

    def names(self) -> tuple[str, ...]:
        return tuple(f"log_{name}" for name in self.natural_names())

    def natural_names(self) -> tuple[str, ...]:
        texts = [f"{level:.15g}" if isinstance(level, float) else str(level) for level in self.levels[1:]]
        return tuple(f"ratio_{text}|residual" for text in texts)

    def start(self) -> FloatArray:
        return np.zeros(self.n_params)

    def to_natural(self, rho: FloatArray) -> FloatArray:
        return np.exp(rho)

    def from_natural(self, natural: FloatArray) -> FloatArray:
        for name, value in zip(self.natural_names(), natural, strict=True):
            if not 0.0 < value < np.inf:
                raise ModelError(f"{name} = {value:g}: a ratio of standard deviations is positive")
        return np.log(natural)

    def ratios(self, rho: FloatArray) -> FloatArray:
        """Of every stratum, (S,)."""
        return np.exp(np.append(0.0, rho))

    def values(self, rho: FloatArray) -> tuple[FloatArray, FloatArray]:
        return self.ratios(rho) ** -2, np.zeros(0)

    def gradient(self, rho: FloatArray) -> tuple[FloatArray, FloatArray]:
        return -2 * np.diag(self.ratios(rho) ** -2)[1:], np.zeros((self.n_params, 0))

    def logdet(self, rho: FloatArray) -> float:
        return float(2 * self._count[1:] @ rho)

    def logdet_gradient(self, rho: FloatArray) -> FloatArray:
        return 2.0 * self._count[1:].astype(np.float64)

    def times(self, rho: FloatArray, V: FloatArray) -> FloatArray:
        return self.scales(rho)[:, None] ** 2 * V

    def scales(self, rho: FloatArray) -> FloatArray:
        return self.ratios(rho)[self.row_class]

    def covariance(self, rho: FloatArray) -> FloatArray:
        return np.diag(self.scales(rho) ** 2)

    def covariance_gradient(self, rho: FloatArray) -> FloatArray:
        inside = self.row_class == np.arange(1, self.n_params + 1)[:, None]
        return np.array([np.diag(2 * row * self.scales(rho) ** 2) for row in inside])


class ProductResidual:
    """R = S C S, C of `serial` and S the scales of `strata`; rho: that of `serial`, then the log ratios."""

    def __init__(self, serial: AR1Residual | OUResidual, strata: VarIdentResidual):
        if serial.n_rows != strata.n_rows:
            raise DataError(f"residual: {serial.n_rows} rows in {serial.label}, {strata.n_rows} in {strata.label}")
        self._serial, self._strata = serial, strata
        self.label = f"{serial.label} * {strata.label}"
        self.n_rows, self.n_params = serial.n_rows, serial.n_params + strata.n_params
        self.later, self.earlier = serial.later, serial.earlier
        s = strata.row_class
        self._rows, self.row_class = joint_codes(serial.row_class, s)
        self._links, self.link_class = joint_codes(serial.link_class, s[self.later], s[self.earlier])

    def rows(self, keep: IntArray) -> "ProductResidual":
        return ProductResidual(self._serial.rows(keep), self._strata.rows(keep))

    def names(self) -> tuple[str, ...]:
        return self._serial.names() + self._strata.names()

    def natural_names(self) -> tuple[str, ...]:
        return self._serial.natural_names() + self._strata.natural_names()

    def start(self) -> FloatArray:
        return np.append(self._serial.start(), self._strata.start())

    def to_natural(self, rho: FloatArray) -> FloatArray:
        serial, strata = self._split(rho)
        return np.append(self._serial.to_natural(serial), self._strata.to_natural(strata))

    def from_natural(self, natural: FloatArray) -> FloatArray:
        serial, strata = self._split(natural)
        return np.append(self._serial.from_natural(serial), self._strata.from_natural(strata))

    def bounds(self) -> Bounds:
        """Those of `serial`; none of a ratio."""
        pairs = zip(self._serial.bounds(), bounds_of(self._strata), strict=True)
        low, high = (np.append(*pair) for pair in pairs)
        return low, high

    def values(self, rho: FloatArray) -> tuple[FloatArray, FloatArray]:
        serial, strata = self._split(rho)
        rows, links = self._serial.values(serial)
        by_row, by_link = self._scaling(strata)
        return rows[self._rows[0]] * by_row, links[self._links[0]] * by_link

    def gradient(self, rho: FloatArray) -> tuple[FloatArray, FloatArray]:
        """d/dlog ratio_s: K times -1 for each end in stratum s."""
        serial, strata = self._split(rho)
        rows, links = self.values(rho)
        by_row, by_link = self._scaling(strata)
        drows, dlinks = self._serial.gradient(serial)
        free = np.arange(1, self._strata.n_params + 1)[:, None]
        _, later, earlier = self._links
        return (
            np.vstack([drows[:, self._rows[0]] * by_row, -2.0 * (self._rows[1] == free) * rows]),
            np.vstack([dlinks[:, self._links[0]] * by_link, -(1.0 * (later == free) + (earlier == free)) * links]),
        )

    def logdet(self, rho: FloatArray) -> float:
        serial, strata = self._split(rho)
        return self._serial.logdet(serial) + self._strata.logdet(strata)

    def logdet_gradient(self, rho: FloatArray) -> FloatArray:
        serial, strata = self._split(rho)
        return np.append(self._serial.logdet_gradient(serial), self._strata.logdet_gradient(strata))

    def times(self, rho: FloatArray, V: FloatArray) -> FloatArray:
        scale = self.scales(rho)[:, None]
        return scale * self._serial.times(self._split(rho)[0], scale * V)

    def scales(self, rho: FloatArray) -> FloatArray:
        return self._strata.scales(self._split(rho)[1])

    def covariance(self, rho: FloatArray) -> FloatArray:
        scale = self.scales(rho)
        return np.outer(scale, scale) * self._serial.covariance(self._split(rho)[0])

    def covariance_gradient(self, rho: FloatArray) -> FloatArray:
        scale, R = self.scales(rho), self.covariance(rho)
        inside = 1.0 * (self._strata.row_class == np.arange(1, self._strata.n_params + 1)[:, None])
        serial = np.outer(scale, scale) * self._serial.covariance_gradient(self._split(rho)[0])
        return np.concatenate([serial, (inside[:, :, None] + inside[:, None]) * R])

    def _split(self, rho: FloatArray) -> tuple[FloatArray, FloatArray]:
        return rho[: self._serial.n_params], rho[self._serial.n_params :]

    def _scaling(self, strata: FloatArray) -> tuple[FloatArray, FloatArray]:
        """1/(s_i s_j) of each class of rows and of links."""
        inverse = 1.0 / self._strata.ratios(strata)
        return inverse[self._rows[1]] ** 2, inverse[self._links[1]] * inverse[self._links[2]]


def joint_codes(*codes: IntArray) -> tuple[IntArray, IntArray]:
    """Classes of c codes (n,) at once: the codes of each class (c, classes), and the class of each row (n,)."""
    sizes = [int(c.max()) + 1 for c in codes]
    keys, out = np.unique(np.ravel_multi_index(codes, sizes), return_inverse=True)
    return np.array(np.unravel_index(keys, sizes)), out
