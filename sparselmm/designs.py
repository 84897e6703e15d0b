"""Z of each random term in its conditioned basis, and the cross-products of such designs block by block.

What is integer codes with columns never becomes a sparse matrix, nor is a conditioned column stored: kernels make z_i
where row i is read.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy.linalg as sla
import scipy.sparse as sp

from ._typing import AnyArray, FloatArray, IntArray
from .banded import Entries
from .engines.threads import parallel, pieces, row_pieces
from .fixed import design_matrix
from .kernels import crossproducts as kernels
from .kernels.codes import counting_sort
from .terms import RandomTerm

PAIR_ROWS = 100_000  # rows of a piece of work on pairs, at least; each piece fills an array of the other's levels
SMALL_TABLE = 0.1  # numbers a row of the data


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Blocks of Z_k'WZ_l that are not zero: levels rows (of term k) and cols (of l), values (n, r_k, r_l)."""

    row_term: int
    col_term: int
    rows: IntArray
    cols: IntArray
    values: FloatArray


def effect_basis(gram: FloatArray) -> FloatArray:
    """Lower triangular A with A'A = gram (r x r), so that Z A^-1 has orthonormal columns."""
    flip = gram[::-1, ::-1]
    size = np.sqrt(np.diag(flip))
    try:
        U = np.linalg.cholesky(flip / np.outer(size, size)).T * size
    except np.linalg.LinAlgError:
        U = np.diag(size)
    return np.ascontiguousarray(U[::-1, ::-1])


class Design:
    """Z of one term, Z basis^-1: codes with columns, or a sparse matrix. weights: (n,), or (0,) where all are one."""

    def __init__(self, term: RandomTerm, weights: FloatArray):
        self.term, self.weights = term, weights
        self.coded = not sp.issparse(term.Z)
        if self.coded:
            self.columns = np.empty((0, 1)) if term.columns is None else term.columns
            self.basis = effect_basis(_mean_gram(self.columns, weights))
            return
        r, ones = term.n_effects, weights if len(weights) else np.ones(term.n_rows)
        gram = np.zeros((r, r))
        for a in range(r):
            for b in range(r):
                gram[a, b] = (term.Z[:, a::r].multiply(term.Z[:, b::r]).T @ ones).sum()
        self.basis = effect_basis(gram / term.n_rows)
        inverse = sp.kron(sp.eye_array(term.n_levels), np.linalg.inv(self.basis))
        self.sparse = sp.csr_array(term.Z @ inverse)

    @cached_property
    def sorted(self) -> bool:
        """Whether the rows come level by level."""
        return bool(kernels.is_sorted(self.term.Z))

    def conditioned_columns(self) -> FloatArray:
        """The rows z_i, (n, r)."""
        columns = self.columns if len(self.columns) else np.ones((self.term.n_rows, 1))
        return np.ascontiguousarray(sla.solve_triangular(self.basis, columns.T, trans="T", lower=True).T)

    def matrix(self) -> sp.csr_array:
        """n x (m r)."""
        return design_matrix(replace(self.term, columns=self.conditioned_columns())) if self.coded else self.sparse

    def entries(self, scale: FloatArray) -> Entries:
        """Rows of Z times scale (n,)."""
        if not self.coded:
            return Entries.of_matrix(self.sparse, self.term.n_levels, scale)
        n = len(scale)
        columns = self.conditioned_columns() * scale[:, None]
        return Entries(self.term.n_levels, np.arange(n + 1), np.arange(n), self.term.Z.astype(np.int64), columns)

    def sums(self, V: FloatArray) -> FloatArray:
        """Z'WV, (m, r, c)."""
        m, r = self.term.n_levels, self.term.n_effects
        if self.coded:
            return self._by_level(kernels.level_sums, V.shape[1], V, self.weights)
        return np.asarray(self.sparse.T @ _weighted(V, self.weights)).reshape(m, r, V.shape[1])

    def centred_sums(self, X: FloatArray, shift: FloatArray, y: FloatArray) -> FloatArray:
        """Z'W[X-shift y], (m, r, p+1)."""
        m, r, p = self.term.n_levels, self.term.n_effects, len(shift)
        if self.coded:
            return self._by_level(kernels.centred_sums, p + 1, X, shift, y, self.weights)
        turned = self.sparse.T
        out = np.empty((m * r, p + 1))
        out[:, :p] = turned @ _weighted(X, self.weights)
        out[:, :p] -= np.outer(turned @ (self.weights if len(self.weights) else np.ones(len(y))), shift)
        out[:, p] = turned @ (self.weights * y if len(self.weights) else y)
        return out.reshape(m, r, p + 1)

    @cached_property
    def grams(self) -> FloatArray:
        """Diagonal blocks of Z'WZ, (m, r, r), of codes."""
        return self._by_level(kernels.level_grams, self.term.n_effects, self.weights)

    def products(self, columns: "Design", other: "Design") -> FloatArray:
        """Sums of w z y' by level of this term, (m, ra, rb), of the z of `columns` and the y of `other`."""
        out = (self.term.n_levels, columns.term.n_effects, other.term.n_effects)
        args = columns.columns, columns.basis, other.columns, other.basis, self.weights
        return self.accumulated(kernels.nested_sums, out, self.term.Z, *args)

    def _by_level(self, kernel: Callable[..., None], width: int, *args: FloatArray) -> FloatArray:
        out = (self.term.n_levels, self.term.n_effects, width)
        return self.accumulated(kernel, out, self.term.Z, self.columns, self.basis, *args)

    def accumulated(self, kernel: Callable[..., None], shape: tuple[int, ...], *args: AnyArray) -> FloatArray:
        """kernel(begin, end, *args, out) over all rows, at the same time in pieces that do not depend on the threads.

        Pieces of sorted rows end with a level; else each piece has sums of its own, if few enough to be cheap.
        """
        n, bounds = self.term.n_rows, row_pieces(self.term.n_rows)
        if self.sorted:
            bounds = np.unique(np.append(np.searchsorted(self.term.Z, self.term.Z[bounds[:-1]]), n))
            out = np.zeros(shape)
            parallel(kernel, bounds, *args, out)
            return out
        count = int(np.clip(n // (4 * np.prod(shape)), 1, len(bounds) - 1))
        bounds, outs = np.linspace(0, n, count + 1).astype(np.int64), np.zeros((count, *shape))

        def some(first: int, last: int) -> None:
            for piece in range(first, last):
                kernel(bounds[piece], bounds[piece + 1], *args, outs[piece])

        parallel(some, np.arange(count + 1))
        return outs[0] if count == 1 else outs.sum(axis=0)


def _mean_gram(columns: FloatArray, weights: FloatArray) -> FloatArray:
    """(r, r) mean of w x x'."""
    if not len(columns):
        return np.full((1, 1), weights.mean() if len(weights) else 1.0)
    return np.asarray(columns.T @ _weighted(columns, weights) / len(columns))


def _weighted(V: FloatArray, weights: FloatArray) -> FloatArray:
    return weights[:, None] * V if len(weights) else V


def cross_blocks(designs: Sequence[Design]) -> tuple[Block, ...]:
    """Z'WZ, one entry for each pair of terms k >= j; within a term the blocks with row >= col.

    Blocks between two terms of codes are sorted by col, then row. Rows are put in the order of a term's levels once,
    for all that meet it.
    """
    found: dict[tuple[int, int], Block] = {}
    for j, right in enumerate(designs):
        by_level = _Rows(right)
        for k, left in enumerate(designs[j:], start=j):
            if not (left.coded and right.coded):
                found[k, j] = _cross_sparse(left, right, k, j)
            elif k == j:
                levels = np.arange(left.term.n_levels)
                found[k, j] = Block(k, j, levels, levels, left.grams)
            else:
                found[k, j] = _nested(left, right, k, j) or _tabulated(left, right, k, j) or by_level.cross(left, k, j)
    return tuple(found[pair] for pair in sorted(found))


class _Rows:
    """The rows in the order of a term's levels: level l has order[start_l : start_l+1]; order is empty if all are."""

    def __init__(self, design: Design):
        self.design = design

    @cached_property
    def start(self) -> IntArray:
        """(m+1,)."""
        counts = np.bincount(self.design.term.Z, minlength=self.design.term.n_levels)
        return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    @cached_property
    def order(self) -> AnyArray:
        """(n,), or (0,) where the rows are in that order already."""
        Z = self.design.term.Z
        narrow = np.int32 if len(Z) <= np.iinfo(np.int32).max else np.int64
        if self.design.sorted:
            return np.zeros(0, dtype=narrow)
        kernels.rows_by_level(Z, self.start[:-1].copy(), out := np.empty(len(Z), dtype=narrow))
        return out

    def cross(self, left: Design, k: int, j: int) -> Block:
        """Z_left'W Z: the levels of `left` that each level meets are marked, sorted, and summed, level by level."""
        right, start, order, m = self.design, self.start, self.order, left.term.n_levels
        other = left.term.Z[order] if len(order) else left.term.Z
        bounds = pieces(start, max(PAIR_ROWS, 4 * m))
        counts = np.zeros(len(start) - 1, dtype=np.int64)
        parallel(kernels.count_pairs, bounds, start, other, m, counts)
        first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        rows, shape = np.empty(first[-1], dtype=np.int64), (left.term.n_effects, right.term.n_effects)
        parallel(kernels.list_pairs, bounds, start, other, m, first, rows)
        values = np.zeros((len(rows), *shape))
        parallel(
            kernels.pair_sums, bounds, start, order, other, m, first, rows, left.columns, left.basis,
            right.columns, right.basis, left.weights, values,
        )  # fmt: skip
        return Block(k, j, rows, np.repeat(np.arange(len(counts)), counts), values)


def _tabulated(left: Design, right: Design, k: int, j: int) -> Block | None:
    """Z_left'W Z_right by a table of all pairs of levels, where that is small: one pass, and nothing is sorted."""
    shape = right.term.n_levels, left.term.n_levels, left.term.n_effects, right.term.n_effects
    if np.prod(shape, dtype=float) > SMALL_TABLE * right.term.n_rows:
        return None
    seen = np.zeros(shape[:2], dtype=np.bool_)
    args = left.term.Z, left.columns, left.basis, right.columns, right.basis, left.weights, seen
    table = right.accumulated(kernels.table_sums, shape, right.term.Z, *args)
    cols, rows = np.nonzero(seen)
    return Block(k, j, rows, cols, table[cols, rows])


def _nested(left: Design, right: Design, k: int, j: int) -> Block | None:
    """Z_left'W Z_right where one term is nested in the other: a block for each level of the finer one."""
    fine, coarse = (left, right) if left.term.n_levels >= right.term.n_levels else (right, left)
    parent = np.full(fine.term.n_levels, -1, dtype=np.int64)
    if not kernels.nested_in(fine.term.Z, coarse.term.Z, parent):
        return None
    if len(left.columns) or len(right.columns):
        values = fine.products(left, right)
    else:
        values = fine.grams * (fine.basis / coarse.basis)
    levels = np.flatnonzero(parent >= 0)
    if fine is right:
        return Block(k, j, parent[levels], levels, values[levels])
    by_parent = np.empty(len(levels), dtype=np.int64)
    counting_sort(levels, parent, np.zeros(coarse.term.n_levels + 1, dtype=np.int64), by_parent)
    return Block(k, j, by_parent, parent[by_parent], values[by_parent])


def _cross_sparse(left: Design, right: Design, k: int, j: int) -> Block:
    ra, rb = left.term.n_effects, right.term.n_effects
    scaled = right.matrix()
    if len(left.weights):
        scaled = sp.csr_array(scaled.multiply(left.weights[:, None]))
    product = (left.matrix().T @ scaled).tobsr((ra, rb))
    rows = np.repeat(np.arange(product.shape[0] // ra), np.diff(product.indptr))
    cols, values = product.indices.astype(np.int64), product.data
    if left is right:
        lower = rows >= cols
        rows, cols, values = rows[lower], cols[lower], values[lower]
        rows, cols, values = _with_diagonal(rows, cols, values, left.term.n_levels)
    return Block(k, j, rows.astype(np.int64), cols, np.ascontiguousarray(values))


def _with_diagonal(rows: IntArray, cols: IntArray, values: FloatArray, m: int) -> tuple[IntArray, IntArray, FloatArray]:
    """The same blocks plus zero ones for levels without any data."""
    missing = np.setdiff1d(np.arange(m), rows[rows == cols])
    zeros = np.zeros((len(missing), *values.shape[1:]))
    return np.append(rows, missing), np.append(cols, missing), np.concatenate([values, zeros])
