"""Cross-products with any K that has the pattern of R^-1: a diagonal, and the links of a `Residual`.

    Z'KZ = sum_i K_ii z_i z_i' + sum over links (i, j) of K_ij (z_i z_j' + z_j z_i')

Which rows (and pairs of levels) meet is found once. K is constant on each class of rows and links: where classes are
few (a regular AR(1), a handful of strata), one cross-product a class is stored, and another rho costs a linear
combination that is free of n; otherwise every K takes one pass over the rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from ._typing import FloatArray, IntArray
from .kernels.chains import chain_forms, chain_product, entry_rows, entry_sums, pair_forms, pair_products
from .kernels.codes import pair_codes
from .structures.base import Residual

MOST_STORED = 12  # classes, a cross-product kept for each: 1e6 rows in 1e4 series then cost 1 ms, a pass 0.2 s


@dataclass(frozen=True, slots=True, eq=False)
class Entries:
    """Z of one term, row by row: entry t stands in row rows[t] and level levels[t], with columns[t] (r,).

    start: (n+1,) first entry of each row.
    """

    n_levels: int
    start: IntArray
    rows: IntArray
    levels: IntArray
    columns: FloatArray

    @classmethod
    def of_matrix(cls, Z: sp.csr_array, n_levels: int, scale: FloatArray) -> "Entries":
        """From Z as n x (m r), row i times scale_i (n,)."""
        blocks = sp.csr_array(Z).tobsr((1, Z.shape[1] // n_levels))
        start = blocks.indptr.astype(np.int64)
        rows = np.repeat(np.arange(Z.shape[0]), np.diff(start))
        return cls(n_levels, start, rows, blocks.indices.astype(np.int64), blocks.data[:, 0] * scale[rows][:, None])

    def times(self, effects: FloatArray) -> FloatArray:
        """Z b, (n,); effects (m, r)."""
        products = (self.columns * effects[self.levels]).sum(axis=1)
        return np.bincount(self.rows, products, minlength=len(self.start) - 1).astype(np.float64, copy=False)

    def sums(self, V: FloatArray) -> FloatArray:
        """Z'V, (m, r, c); V (n, c)."""
        out = np.zeros((self.n_levels, self.columns.shape[1], V.shape[1]))
        entry_sums(self.rows, self.levels, self.columns, V, out)
        return out


@dataclass(frozen=True, slots=True, eq=False)
class Meeting:
    """Where two terms k >= j meet: pair (N,) the block of each meeting of entries, -1 above the diagonal of a term.

    left, right: (N,) entries of k and j. which: (N,) the value of K, a row or n + a link. rows, cols: levels of
    each block.
    """

    terms: tuple[int, int]
    pair: IntArray
    left: IntArray
    right: IntArray
    which: IntArray
    rows: IntArray
    cols: IntArray


class Banded:
    """Z'KZ in blocks, Z'KV and V'KV for K of the residual's pattern; V (n, c). Rows come times sqrt(weight).

    places: for each pair of terms k >= j, both numbers and the levels (rows, cols) of the blocks.
    """

    def __init__(self, residual: Residual, designs: Sequence[Entries], V: FloatArray):
        self.residual, self.designs, self.V = residual, list(designs), np.ascontiguousarray(V)
        n, links = len(V), np.arange(len(residual.later)) + len(V)
        everyone = np.arange(n)
        first = np.concatenate([everyone, residual.later, residual.earlier])
        second = np.concatenate([everyone, residual.earlier, residual.later])
        which = np.concatenate([everyone, links, links])
        self._meetings = [
            _meeting((k, j), a, b, first, second, which)
            for k, a in enumerate(self.designs)
            for j, b in enumerate(self.designs[: k + 1])
        ]
        self.places = [(m.terms, m.rows, m.cols) for m in self._meetings]
        self._stored = self._store()
        if self._stored is not None:
            self._meetings = []

    def products(self, d: FloatArray, o: FloatArray) -> tuple[list[FloatArray], list[FloatArray], FloatArray]:
        """Blocks of Z'KZ (one array for each of `places`), Z'KV of each term (m, r, c), V'KV; d, o: K by classes."""
        if self._stored is None:
            return self._pass(d[self.residual.row_class], o[self.residual.link_class])
        blocks, sums, square = self._stored
        weights = np.concatenate([d, o])
        combine = lambda stack: np.tensordot(weights, stack, 1)  # noqa: E731
        return [combine(b) for b in blocks], [combine(s) for s in sums], combine(square)

    def slopes(
        self, blocks: Sequence[FloatArray], sums: Sequence[FloatArray], square: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """df/dK by K's value in each class of rows and of links, where f is linear in what `products` gives.

        f = <blocks, Z'KZ> + <sums, Z'KV> + <square, V'KV>, sums of products entry by entry; square is symmetric.
        """
        if self._stored is None:
            return self._slopes_by_pass(blocks, sums, square)
        by_block, by_sum, squares = self._stored
        pairs = zip([*by_block, *by_sum, squares], [*blocks, *sums, square], strict=True)
        total = np.sum([np.tensordot(stack, part, part.ndim) for stack, part in pairs], axis=0)
        rows = int(self.residual.row_class.max()) + 1
        return total[:rows], total[rows:]

    def _slopes_by_pass(
        self, blocks: Sequence[FloatArray], sums: Sequence[FloatArray], square: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        n, residual = len(self.V), self.residual
        out, Y = np.zeros(n + len(residual.later)), self.V @ square
        for m, values in zip(self._meetings, blocks, strict=True):
            za, zb = (self.designs[k].columns for k in m.terms)
            pair_forms(m.pair, m.left, m.right, m.which, np.ascontiguousarray(values), za, zb, out)
        for design, S in zip(self.designs, sums, strict=True):
            entry_rows(design.rows, design.levels, design.columns, np.ascontiguousarray(S), Y)
        chain_forms(residual.later, residual.earlier, self.V, Y, out)
        rows, links = np.bincount(residual.row_class, out[:n]), np.bincount(residual.link_class, out[n:])
        return rows.astype(np.float64), links.astype(np.float64)

    def rest(self, coefficients: FloatArray, effects: Sequence[FloatArray]) -> FloatArray:
        """V coefficients - Z b, (n,); effects (m, r) of each term."""
        fitted = (design.times(b) for design, b in zip(self.designs, effects, strict=True))
        return sum((-f for f in fitted), start=self.V @ coefficients)

    def times(self, d: FloatArray, o: FloatArray, V: FloatArray) -> FloatArray:
        """K V, (n, c)."""
        return self._product(d[self.residual.row_class], o[self.residual.link_class], V)

    def _product(self, d: FloatArray, o: FloatArray, V: FloatArray) -> FloatArray:
        out = np.empty_like(V)
        chain_product(self.residual.later, self.residual.earlier, d, o, V, out)
        return out

    def _pass(self, d: FloatArray, o: FloatArray) -> tuple[list[FloatArray], list[FloatArray], FloatArray]:
        """The same with K by rows (n,) and links (L,)."""
        values, KV = np.concatenate([d, o]), self._product(d, o, self.V)
        blocks = []
        for m in self._meetings:
            za, zb = (self.designs[k].columns for k in m.terms)
            out = np.zeros((len(m.rows), za.shape[1], zb.shape[1]))
            pair_products(m.pair, m.left, m.right, m.which, values, za, zb, out)
            blocks.append(out)
        return blocks, [design.sums(KV) for design in self.designs], self.V.T @ KV

    def _store(self) -> tuple[list[FloatArray], list[FloatArray], FloatArray] | None:
        """One cross-product for each class, stacked; None where there are too many."""
        rows, links = self.residual.row_class, self.residual.link_class
        n_rows, n_links = int(rows.max()) + 1, int(links.max(initial=-1)) + 1
        if n_rows + n_links > MOST_STORED:
            return None
        none = np.zeros(len(rows)), np.zeros(len(links))
        each = [self._pass(1.0 * (rows == c), none[1]) for c in range(n_rows)]
        each += [self._pass(none[0], 1.0 * (links == c)) for c in range(n_links)]
        blocks, sums, squares = zip(*each, strict=True)
        stack = lambda parts: [np.stack(part) for part in zip(*parts, strict=True)]  # noqa: E731
        return stack(blocks), stack(sums), np.stack(squares)


def _meeting(
    terms: tuple[int, int], a: Entries, b: Entries, first: IntArray, second: IntArray, which: IntArray
) -> Meeting:
    """Entries of a in the rows `first` with those of b in the rows `second`, (N,) each."""
    left, right, value = _side_by_side(a, b, first, second, which)
    row, col = a.levels[left], b.levels[right]
    pair = np.full(len(left), -1)
    inside = np.flatnonzero(row >= col) if terms[0] == terms[1] else np.arange(len(left))
    pair[inside], where = pair_codes(row[inside], a.n_levels, col[inside], b.n_levels)
    where = inside[where]
    return Meeting(terms, pair, left, right, value, row[where], col[where])


def _side_by_side(
    a: Entries, b: Entries, first: IntArray, second: IntArray, which: IntArray
) -> tuple[IntArray, IntArray, IntArray]:
    """Every entry of row first[t] beside every entry of row second[t]."""
    counts = np.diff(b.start)[second]
    if (np.diff(a.start) == 1).all() and (counts == 1).all():
        return first, second, which
    total = np.diff(a.start)[first] * counts
    pair = np.repeat(np.arange(len(first)), total)
    within = np.arange(len(pair)) - np.repeat(np.cumsum(total) - total, total)
    left = a.start[first][pair] + within // counts[pair]
    return left, b.start[second][pair] + within % counts[pair], which[pair]
