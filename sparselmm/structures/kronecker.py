"""The Kronecker product of two precisions: separable models, AR(1) x AR(1) of field trials."""

import numpy as np

from .._typing import FloatArray, IntArray
from ..kernels.series import places
from .base import Precision
from .limits import Bounds, bounds_of


class Kronecker:
    """Q = Q1 (x) Q2 with levels i*n2 + j, the first factor's level outermost; rho = (rho_1, rho_2).

    With n_i levels and a null space of dimension d_i each: null_dim = n1 n2 - (n1 - d1)(n2 - d2) and
    log|Q| = (n2 - d2) log|Q1| + (n1 - d1) log|Q2|, since the nonzero eigenvalues are the products of nonzero ones.
    effects: what the two parts are called in the names of parameters, such as ("ar1(row)", "ar1(col)").
    """

    def __init__(self, first: Precision, second: Precision, effects: tuple[str, str] | None = None):
        self.first, self.second, self.effects = first, second, effects
        self.sizes = self._sizes()
        self.n_levels = int(self.sizes[0] @ self.sizes[1])
        self.n_params = first.n_params + second.n_params
        self.unit_variance = all(getattr(Q, "unit_variance", False) for Q in (first, second))
        self.bridge = _bridge(first, second) if self.unit_variance else ""
        self._ranks = first.n_levels - first.null_dim, second.n_levels - second.null_dim
        self.null_dim = self._null_dim()
        self._build_pattern()

    def names(self, effect: str, group: str) -> tuple[str, ...]:
        one, two = self._effects(effect)
        return *self.first.names(one, group), *self.second.names(two, group)

    def start(self) -> FloatArray:
        return np.concatenate([self.first.start(), self.second.start()])

    def pattern(self) -> tuple[IntArray, IntArray]:
        return self._rows, self._cols

    def values(self, rho: FloatArray) -> FloatArray:
        one, two = self._split(rho)
        return self.first.values(one)[self._from_first] * self.second.values(two)[self._from_second]

    def gradient(self, rho: FloatArray) -> FloatArray:
        one, two = self._split(rho)
        left, right = self.first.values(one)[self._from_first], self.second.values(two)[self._from_second]
        return np.concatenate(
            [
                self.first.gradient(one)[:, self._from_first] * right,
                left * self.second.gradient(two)[:, self._from_second],
            ]
        )

    def logdet(self, rho: FloatArray) -> float:
        one, two = self._split(rho)
        return self._ranks[1] * self.first.logdet(one) + self._ranks[0] * self.second.logdet(two)

    def logdet_gradient(self, rho: FloatArray) -> FloatArray:
        one, two = self._split(rho)
        parts = self._ranks[1] * self.first.logdet_gradient(one), self._ranks[0] * self.second.logdet_gradient(two)
        return np.concatenate(parts)

    def natural_names(self, effect: str, group: str) -> tuple[str, ...]:
        one, two = self._effects(effect)
        return *self.first.natural_names(one, group), *self.second.natural_names(two, group)

    def to_natural(self, rho: FloatArray) -> FloatArray:
        one, two = self._split(rho)
        return np.concatenate([self.first.to_natural(one), self.second.to_natural(two)])

    def from_natural(self, natural: FloatArray) -> FloatArray:
        one, two = self._split(natural)
        return np.concatenate([self.first.from_natural(one), self.second.from_natural(two)])

    def bounds(self) -> Bounds:
        """Those of both."""
        pairs = zip(bounds_of(self.first), bounds_of(self.second), strict=True)
        low, high = (np.append(*pair) for pair in pairs)
        return low, high

    def level(self, i: IntArray, j: IntArray) -> IntArray:
        """That of the levels i of the first factor and j of the second, of one block, (c,) each."""
        return cells(*self.sizes, i, j)

    def parts(self) -> tuple[IntArray, IntArray]:
        """Inverse of `level`: the level of either factor of each level, (m,)."""
        size1, size2 = self.sizes
        g = np.repeat(np.arange(len(size1)), size1 * size2)
        first, second = np.divmod(places(size1 * size2), size2[g])
        return (np.cumsum(size1) - size1)[g] + first, (np.cumsum(size2) - size2)[g] + second

    def _sizes(self) -> tuple[IntArray, IntArray]:
        """Levels of either factor in each block: there is one."""
        return np.array([self.first.n_levels]), np.array([self.second.n_levels])

    def _null_dim(self) -> int:
        return self.n_levels - self._ranks[0] * self._ranks[1]

    def _effects(self, effect: str) -> tuple[str, str]:
        return self.effects or (f"{effect}.first", f"{effect}.second")

    def _split(self, rho: FloatArray) -> tuple[FloatArray, FloatArray]:
        return rho[: self.first.n_params], rho[self.first.n_params :]

    def _build_pattern(self) -> None:
        """A lower entry of Q1 off the diagonal meets all of Q2; one on it meets the lower triangle of Q2."""
        (i, j), (k, el) = self.first.pattern(), self.second.pattern()
        block1, block2 = (np.repeat(np.arange(len(size)), size) for size in self.sizes)
        beside = np.flatnonzero(k != el)
        rows, cols = np.concatenate([k, el[beside]]), np.concatenate([el, k[beside]])
        entry = np.concatenate([np.arange(len(k)), beside])
        low, on = np.flatnonzero(i != j), np.flatnonzero(i == j)
        one, two = (
            np.concatenate(pair)
            for pair in zip(_meetings(low, block1[i], block2[rows]), _meetings(on, block1[i], block2[k]), strict=True)
        )
        self._rows, self._cols = self.level(i[one], rows[two]), self.level(j[one], cols[two])
        self._from_first, self._from_second = one, entry[two]


def cells(size1: IntArray, size2: IntArray, i: IntArray, j: IntArray) -> IntArray:
    """Number of the cell of row i and column j, of one block, (c,) each, where blocks g have size1 x size2 cells."""
    start, start1, start2 = (np.cumsum(size) - size for size in (size1 * size2, size1, size2))
    g = np.repeat(np.arange(len(size1)), size1)[i]
    return start[g] + (i - start1[g]) * size2[g] + j - start2[g]


def _bridge(first: Precision, second: Precision) -> str:
    """Those of two series with one parameter each, which predictions read one by one; "" of others."""
    names = [getattr(Q, "bridge", "") for Q in (first, second)]
    return ":".join(names) if all(names) and first.n_params == second.n_params == 1 else ""


def _meetings(chosen: IntArray, block: IntArray, other: IntArray) -> tuple[IntArray, IntArray]:
    """Each of `chosen` with all places of `other` (c,) whose block is its own: (pairs,) each."""
    order, count = np.argsort(other, kind="stable"), np.bincount(other, minlength=int(block.max()) + 1)
    many = count[block[chosen]]
    one = np.repeat(chosen, many)
    return one, order[(np.cumsum(count) - count)[block[one]] + places(many)]
