"""Small dense blocks of a sparse symmetric matrix: scaling into a frozen pattern, and products."""

import numpy as np
from numba import njit

from .._typing import FloatArray, IntArray


@njit(cache=True)
def locate(indptr: IntArray, indices: IntArray, rows: IntArray, cols: IntArray, out: IntArray) -> None:
    """out_t = position of entry (rows_t, cols_t) in a CSC pattern with sorted indices; -1 where absent."""
    for t in range(len(rows)):
        lo, hi = indptr[cols[t]], indptr[cols[t] + 1]
        k = lo + np.searchsorted(indices[lo:hi], rows[t])
        out[t] = k if k < hi and indices[k] == rows[t] else -1


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
