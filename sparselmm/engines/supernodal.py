"""Our own sparse Cholesky by supernodes, in an ordering of CHOLMOD's: factor, solves, selected inverse."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._errors import EngineError
from .._typing import FloatArray, IntArray
from ..kernels.blas import blas
from ..kernels.selinv import supernode_tree
from ..kernels.supernodal import (
    CHUNK,
    NARROW,
    Panels,
    factorise,
    invert,
    panel_places,
    panels,
    send_to_last,
    solve_lower,
    solve_upper,
)
from ..kernels.tiles import clear_columns
from . import tiles
from .base import NOT_POSITIVE, Pattern, compressed
from .cholmod import Ordering, check_memory, order, seconds
from .threads import blas_threads, by_pieces, parallel, pieces, row_pieces

BYTES_PER_COLUMN = 64.0  # of the tree and the orders
BYTES_PER_ENTRY = 48.0  # an entry of M: values and pattern (here, in CHOLMOD, by rows of L), and its place in L
# Seconds of a factorisation with its selected inverse, one thread. Measured beside the forecast: 100,000 animals 4.3 s
# (4.4), a field trial 0.75 (0.75), 50,000 workers in 5,000 firms 0.53 (0.63), lattice of 100 x 200 0.023 (0.035).
RATES = 2e-7, 4e-8, 2.4e-11
DENSE = 400  # columns of the last supernode from which threads share it, and what hangs on it
SLICES, GRAIN = 8, 1e6  # of its columns; operations in one piece of what hangs on it
KEPT_BYTES = 1e9  # of the inverse: touching new memory took 0.3 s an evaluation with 100,000 animals (0.4 GB)


class Supernodal:
    """Sparse Cholesky of M on a frozen pattern: analysed once, factorised in place."""

    name = "supernodal"

    def __init__(self, pattern: Pattern):
        self.pattern = pattern
        ordering = order(pattern, RATES)[2]
        tree = ordering.parent, ordering.counts
        self.ordering, self.nnz_factor, self.flops = ordering.name, ordering.nnz, ordering.flops
        self.reason, self.memory = ordering.reason, forecast_bytes(pattern, *tree)
        self.seconds = seconds(pattern.q, tree, RATES)
        check_memory(self.memory, self.nnz_factor)
        self._perm, self._place = ordering.perm, np.argsort(ordering.perm)
        self._panels, self._at = _lay_out(pattern, ordering, self._place)
        self._values = self._inverse = np.empty(0)
        self._diagonal = _diagonal(self._panels)
        self._last, self._bounds, self._slices = _shares(self._panels)
        self._blas = blas()
        cols = np.repeat(np.arange(pattern.q), np.diff(pattern.indptr))
        self._wanted = _Wanted(pattern.indices, cols, self._at)

    def __reduce__(self) -> tuple[type, tuple[Pattern]]:
        return Supernodal, (self.pattern,)

    def factorize(self, values: FloatArray) -> None:
        if not len(self._values):
            self._values = np.empty(self._panels.at[-1])
        self._clear()
        self._values[self._at] = values
        failed = self._in_parts(factorise, self._bounds, self._panels, self._last, self._blas, self._values)
        if max(failed, default=-1) >= 0:
            raise EngineError(NOT_POSITIVE)
        if self._has_root:
            self._in_parts(send_to_last, self._slices, self._panels, self._last, self._blas, self._values)
            tiles.factorise(self._root(self._values))
        pivots = self._values[self._diagonal]
        if not np.isfinite(pivots).all():
            raise EngineError(NOT_POSITIVE)
        self._logdet = 2.0 * float(np.log(pivots).sum())

    def _clear(self) -> None:
        """Zeros wherever `factorise` looks."""
        if not self._has_root:
            self._values[:] = 0.0
            return
        root = self._root(self._values)
        self._values[: -root.size] = 0.0
        parallel(clear_columns, self._slices, root)

    @property
    def _has_root(self) -> bool:
        """Whether the last supernode is left to threads."""
        return self._last < len(self._panels.size)

    def _root(self, values: FloatArray) -> FloatArray:
        """The panel of the last supernode: row j is column j."""
        width = self._panels.size[-1]
        return values[len(values) - width * width :].reshape(width, width)

    def _in_parts(self, kernel: Callable[..., Any], bounds: IntArray, *args: Any) -> list[Any]:
        """By threads below a large last supernode, else whole, with the threads that BLAS has."""
        if not self._has_root:
            return by_pieces(kernel, bounds, *args)
        with blas_threads(0.0):
            return by_pieces(kernel, bounds, *args)

    def solve(self, right: FloatArray) -> FloatArray:
        x = np.ascontiguousarray(right[self._perm], dtype=np.float64)
        count = x[:1].size
        flat, piece = x.reshape(-1), np.empty(self._panels.size.max(initial=0) * count)
        solve_lower(self._panels, self._blas, self._values, flat, count, piece)
        solve_upper(self._panels, self._blas, self._values, flat, count, piece)
        return x[self._place]

    def squares(self, right: FloatArray) -> FloatArray:
        """Diagonal of right' M^-1 right, (k,), of right (q, k): half of the work of `solve`; any thread may call it."""
        x = np.ascontiguousarray(right[self._perm], dtype=np.float64)
        piece = np.empty(self._panels.size.max(initial=0) * x.shape[1])
        solve_lower(self._panels, self._blas, self._values, x.reshape(-1), x.shape[1], piece)
        return np.asarray(np.einsum("qk,qk->k", x, x))

    def logdet(self) -> float:
        return self._logdet

    def selected_inverse(self, rows: IntArray, cols: IntArray) -> FloatArray:
        if not self._wanted.same(rows, cols):
            self._wanted = _Wanted(rows, cols, _locate(self._panels, self._place[rows], self._place[cols]))
        Z = self._inverse if len(self._inverse) else np.empty(len(self._values))
        if Z.nbytes <= KEPT_BYTES:
            self._inverse = Z
        if self._has_root:
            tiles.invert(self._root(self._values), self._root(Z))
        self._in_parts(invert, self._bounds, self._panels, self._blas, self._values, Z)
        return Z[self._wanted.place]


@dataclass(frozen=True, slots=True, eq=False)
class _Wanted:
    """Entries (rows, cols) of M^-1 and their place in the panels of Z."""

    rows: IntArray
    cols: IntArray
    place: IntArray

    def same(self, rows: IntArray, cols: IntArray) -> bool:
        return np.array_equal(rows, self.rows) and np.array_equal(cols, self.cols)


def _lay_out(pattern: Pattern, ordering: Ordering, place: IntArray) -> tuple[Panels, IntArray]:
    """Panels of L, and where each value of M lies in them."""
    i, j = place[pattern.indices], place[np.repeat(np.arange(pattern.q), np.diff(pattern.indptr))]
    lower = compressed(np.maximum(i, j), np.minimum(i, j), pattern.q)
    P = panels(ordering.parent, ordering.counts, *lower)
    return P, _locate(P, i, j)


def _shares(P: Panels) -> tuple[int, IntArray, IntArray]:
    """The last supernode where threads share it (else how many there are), bounds of trees below it, of its columns."""
    n = len(P.size)
    if not n or P.size[-1] < DENSE:
        return n, np.array([0, n]) if n else np.zeros(1, np.int64), np.zeros(1, np.int64)
    widths, last = np.diff(P.first), n - 1
    first_below = P.rows[np.minimum(P.start[:-1] + widths, len(P.rows) - 1)]
    hangs = (P.owner[first_below] == last) | (widths == P.size)
    ends = np.append(0, np.flatnonzero(hangs[:last]) + 1)
    work = np.append(0.0, np.cumsum(widths * P.size.astype(np.float64) ** 2))
    slices = P.size[-1] * (1.0 - np.sqrt(1.0 - np.linspace(0.0, 1.0, SLICES + 1)))
    return last, ends[pieces(work[ends], GRAIN)], slices.astype(np.int64)


def _diagonal(P: Panels) -> IntArray:
    """Places of the pivots, (q,)."""
    column = np.arange(len(P.owner)) - P.first[P.owner]
    return P.at[P.owner] + column * (P.size[P.owner] + 1)


def _locate(P: Panels, i: IntArray, j: IntArray) -> IntArray:
    """Places of entries (i, j) of the permuted matrix."""
    out = np.empty(len(i), np.int64)
    if not all(parallel(panel_places, row_pieces(len(i)), P, np.maximum(i, j), np.minimum(i, j), out)):
        raise EngineError("an entry outside the pattern of L was asked for")
    return out


def forecast_bytes(pattern: Pattern, parent: IntArray, counts: IntArray) -> float:
    """Bytes at the peak: L, its inverse on the same pattern, and what belongs to the entries of M."""
    tree = supernode_tree(parent, counts)
    widths, sizes = np.diff(tree.first).astype(np.float64), tree.size.astype(np.float64)
    below = float((widths * (sizes - widths)).max(initial=0.0)) + max(CHUNK, NARROW * float(sizes.max(initial=0.0)))
    return (
        8.0 * (2.0 * float(widths @ sizes) + below + float(sizes.sum()))
        + BYTES_PER_COLUMN * pattern.q
        + BYTES_PER_ENTRY * pattern.nnz
    )
