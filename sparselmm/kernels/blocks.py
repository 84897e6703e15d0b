"""Small dense blocks of a sparse symmetric matrix: scaling into a frozen pattern, and products."""

import numpy as np
from numba import njit

from .._typing import FloatArray, IntArray


@njit(cache=True, nogil=True)
def locate(indptr: IntArray, indices: IntArray, rows: IntArray, cols: IntArray, out: IntArray) -> None:
    """out_t = position of entry (rows_t, cols_t) in a CSC pattern with sorted indices; -1 where absent or rows_t < 0.

    Entries in the order of the pattern are found one behind the other; others by bisection.
    """
    k, col = np.int64(-1), np.int64(-1)
    for t in range(len(rows)):
        if rows[t] < 0:
            out[t] = -1
            continue
        lo, hi = indptr[cols[t]], indptr[cols[t] + 1]
        k = k + 1 if cols[t] == col else lo
        if k >= hi or indices[k] != rows[t]:
            k = lo + np.searchsorted(indices[lo:hi], rows[t])
        out[t], col = (k if k < hi and indices[k] == rows[t] else -1), cols[t]


@njit(cache=True, nogil=True)
def sort_entries(
    rows: IntArray, cols: IntArray, by_row: IntArray, start: IntArray, indptr: IntArray, out: IntArray
) -> int:
    """CSC pattern of entries in any order, each once, those with rows_t < 0 left out; returns nnz.

    Columns are listed row by row, then rows column by column, so they come out sorted in O(n + q). start, indptr:
    (q+1,) zeros. by_row: (n,) workspace. out: (n,) gets the nnz row indices in its front.
    """
    q = len(start) - 1
    for t in range(len(rows)):
        if rows[t] >= 0:
            start[rows[t] + 1] += 1
            indptr[cols[t] + 1] += 1
    for i in range(q):
        start[i + 1] += start[i]
        indptr[i + 1] += indptr[i]
    free = start[:-1].copy()
    for t in range(len(rows)):
        if rows[t] >= 0:
            by_row[free[rows[t]]] = cols[t]
            free[rows[t]] += 1
    free[:] = indptr[:-1]
    for i in range(q):
        for t in range(start[i], start[i + 1]):
            c = by_row[t]
            if free[c] == indptr[c] or out[free[c] - 1] != i:
                out[free[c]] = i
                free[c] += 1
    nnz = 0
    for c in range(q):
        first, indptr[c] = indptr[c], nnz
        for t in range(first, free[c]):
            out[nnz] = out[t]
            nnz += 1
    indptr[q] = nnz
    return nnz


@njit(cache=True)
def add_scaled(blocks: FloatArray, Ta: FloatArray, Tb: FloatArray, dest: IntArray, out: FloatArray) -> None:
    """out[dest_t] += Ta' blocks_t Tb, entry by entry; dest (n_blocks, ra, rb), -1 skips an entry."""
    ra, rb = Ta.shape[0], Tb.shape[0]
    left = np.empty((ra, rb))
    for t in range(len(blocks)):
        for a in range(ra):
            for b in range(rb):
                left[a, b] = 0.0
                for c in range(ra):
                    left[a, b] += Ta[c, a] * blocks[t, c, b]
        for a in range(ra):
            for b in range(rb):
                if dest[t, a, b] >= 0:
                    total = 0.0
                    for c in range(rb):
                        total += left[a, c] * Tb[c, b]
                    out[dest[t, a, b]] += total


@njit(cache=True)
def add_product(
    blocks: FloatArray, rows: IntArray, cols: IntArray, right: FloatArray, out: FloatArray, transpose: bool
) -> None:
    """out[rows_t] += blocks_t right[cols_t], or its transpose the other way; right, out (m, r, k)."""
    ra, rb, k = blocks.shape[1], blocks.shape[2], right.shape[2]
    for t in range(len(blocks)):
        for a in range(ra):
            for b in range(rb):
                value = blocks[t, a, b]
                for c in range(k):
                    if transpose:
                        out[cols[t], b, c] += value * right[rows[t], a, c]
                    else:
                        out[rows[t], a, c] += value * right[cols[t], b, c]


@njit(cache=True, nogil=True)
def times_transposed(begin: int, end: int, T: FloatArray, blocks: FloatArray, out: FloatArray) -> None:
    """out_l = T' blocks_l for levels begin ... end-1; blocks, out (m, r, c)."""
    for t in range(begin, end):
        for a in range(blocks.shape[1]):
            for c in range(blocks.shape[2]):
                total = 0.0
                for b in range(blocks.shape[1]):
                    total += T[b, a] * blocks[t, b, c]
                out[t, a, c] = total


@njit(cache=True, nogil=True)
def add_to_diagonals(dest: IntArray, values: FloatArray, out: FloatArray) -> None:
    """out[dest_t] += values_t, the same for each of the r entries dest_t; dest (n, r)."""
    for t in range(len(dest)):
        for a in range(dest.shape[1]):
            out[dest[t, a]] += values[t]


@njit(cache=True, nogil=True)
def half_moment(
    begin: int, end: int, rows: IntArray, cols: IntArray, weights: FloatArray, blocks: FloatArray, low_rank: FloatArray
) -> FloatArray:
    """A (r, r), A + A' = sum over l, m of K_lm (blocks_lm + f_l f_m'): K symmetric, its lower triangle K[rows, cols].

    weights: (n,) those entries of K; blocks (n, r, r), or (0, r, r) for none; low_rank f (m, r, c).
    """
    r, width = low_rank.shape[1], low_rank.shape[2]
    out = np.zeros((r, r))
    for t in range(begin, end):
        i, j = rows[t], cols[t]
        w = 0.5 * weights[t] if i == j else weights[t]
        for a in range(r):
            for b in range(r):
                total = blocks[t, a, b] if len(blocks) else 0.0
                for c in range(width):
                    total += low_rank[i, a, c] * low_rank[j, b, c]
                out[a, b] += w * total
    return out
