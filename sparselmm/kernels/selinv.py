"""Selected inverse from a Cholesky factor, supernode by supernode (Takahashi, Fagan & Chin 1973).

For a supernode J with row structure I below it and A = L L':

    Y = L_IJ L_JJ^-1,   Z_IJ = -Z_II Y,   Z_JJ = L_JJ^-T L_JJ^-1 - Y' Z_IJ        (Z = A^-1)

Every entry of Z_II that this needs lies on the pattern of L. Panels are dense and row-major, so the work
is matrix products. A scalar recursion took 100 times the factorisation on a pedigree (DESIGN section 4).
"""

import numpy as np
from numba import njit

from .._typing import FloatArray, IntArray

MAX_WIDTH = 96  # wider supernodes are cut: L_JJ^-1 stays cheap beside the products


@njit(cache=True)
def supernodes(indptr: IntArray, indices: IntArray, out: IntArray) -> int:
    """First columns of the supernodes of L (CSC, sorted) into out (q + 1,); returns how many.

    Column j+1 joins j when it holds j's rows below the diagonal: then they differ by one in count and
    j+1 is j's parent.
    """
    q, count = len(indptr) - 1, 0
    for j in range(q):
        joins = (
            j > 0
            and indptr[j + 1] - indptr[j] == indptr[j] - indptr[j - 1] - 1
            and indices[indptr[j - 1] + 1] == j
            and j - out[count - 1] < MAX_WIDTH
        )
        if not joins:
            out[count] = j
            count += 1
    out[count] = q
    return count


@njit(cache=True)
def panel_positions(
    first: IntArray, start: IntArray, indptr: IntArray, indices: IntArray, rows: IntArray, cols: IntArray, out: IntArray
) -> None:
    """out_t = place in the panels of entry (rows_t, cols_t), rows_t >= cols_t; -1 where L has none."""
    for t in range(len(rows)):
        s = np.searchsorted(first, cols[t], side="right") - 1
        lo, hi = indptr[first[s]], indptr[first[s] + 1]
        k = np.searchsorted(indices[lo:hi], rows[t])
        absent = k == hi - lo or indices[lo + k] != rows[t]
        out[t] = -1 if absent else start[s] + k * (first[s + 1] - first[s]) + cols[t] - first[s]


@njit(cache=True)
def _load_panel(s: int, first: IntArray, indptr: IntArray, data: FloatArray, out: FloatArray) -> None:
    """Panel of supernode s from the columns of L; out (rows, width), zero above the diagonal."""
    for c in range(out.shape[1]):
        j = first[s] + c
        out[:c, c] = 0.0
        for k in range(indptr[j], indptr[j + 1]):
            out[c + k - indptr[j], c] = data[k]


@njit(cache=True)
def _gather(
    below: IntArray, first: IntArray, start: IntArray, owner: IntArray, indptr: IntArray, indices: IntArray,
    Z: FloatArray, out: FloatArray,
) -> None:  # fmt: skip
    """out (u, u) = Z on below x below, read from the panels of the supernodes that own these columns."""
    u = len(below)
    rel = np.empty(u, np.int64)
    a = 0
    while a < u:
        s = owner[below[a]]
        lo, width = indptr[first[s]], first[s + 1] - first[s]
        k = 0
        for i in range(a, u):
            while indices[lo + k] != below[i]:
                k += 1
            rel[i] = start[s] + k * width - first[s]
        while a < u and below[a] < first[s + 1]:
            for i in range(a, u):
                value = Z[rel[i] + below[a]]
                out[i, a] = value
                out[a, i] = value
            a += 1


@njit(cache=True)
def _lower_inverse(L: FloatArray, out: FloatArray) -> None:
    """out = L^-1 for a lower triangular L (w, w)."""
    for j in range(len(L)):
        out[:j, j] = 0.0
        out[j, j] = 1.0 / L[j, j]
        for i in range(j + 1, len(L)):
            total = 0.0
            for k in range(j, i):
                total += L[i, k] * out[k, j]
            out[i, j] = -total / L[i, i]


@njit(cache=True)
def selected_inverse(
    first: IntArray, start: IntArray, owner: IntArray, indptr: IntArray, indices: IntArray, data: FloatArray,
    Z: FloatArray,
) -> None:  # fmt: skip
    """Z, all panels one after another, = entries of A^-1 on the pattern of L; L in CSC, sorted."""
    for s in range(len(first) - 2, -1, -1):
        width = first[s + 1] - first[s]
        rows = indptr[first[s] + 1] - indptr[first[s]]
        panel = Z[start[s] : start[s] + rows * width].reshape(rows, width)
        _load_panel(s, first, indptr, data, panel)
        inverse = np.empty((width, width))
        _lower_inverse(panel[:width], inverse)
        below = indices[indptr[first[s]] + width : indptr[first[s]] + rows]
        if len(below) == 0:
            panel[:width] = np.dot(inverse.T, inverse)
            continue
        ZII = np.empty((len(below), len(below)))
        _gather(below, first, start, owner, indptr, indices, Z, ZII)
        Y = np.dot(panel[width:], inverse)
        ZIJ = np.dot(ZII, Y)
        panel[:width] = np.dot(inverse.T, inverse) + np.dot(Y.T, ZIJ)
        panel[width:] = -ZIJ
