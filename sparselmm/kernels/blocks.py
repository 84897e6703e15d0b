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
