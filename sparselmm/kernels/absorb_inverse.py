"""Selected inverse after absorption: H = M^-1 on the pattern of M, from H22 = S^-1 (names as in `kernels.absorb`).

    G_i = H22 W_i',   H21_i = -G_i L_i^-1,   H11_i = L_i^-T (I + W_i G_i) L_i^-1

Where H21 is not wanted, half the work is enough: with F_i the upper triangle of H22 and half its diagonal, W_i G_i is
the symmetric part of 2 W_i F_i W_i', so that 2 F_i W_i' takes the place of G_i. Two columns of the
tail that one level meets are an entry of S, so H22 is known wherever it is read.
"""

import numpy as np
from numba import njit

from .._typing import AnyArray, FloatArray, IntArray

TILE = 64  # rows and columns copied at once: both sides stay in the first cache


@njit(cache=True, nogil=True)
def symmetrise(begin: int, end: int, H: FloatArray) -> None:
    """H[j, i] = H[i, j] for i < j, tiles of rows begin ... end-1: the upper triangle is copied to the lower one."""
    for block in range(begin, end):
        first, last = block * TILE, min((block + 1) * TILE, len(H))
        for left in range(0, last, TILE):
            for j in range(first, last):
                for i in range(left, min(left + TILE, j)):
                    H[j, i] = H[i, j]


@njit(inline="always")  # a call costs as much as a short sum
def _gathered_dot(row: FloatArray, tail: AnyArray, w: FloatArray, first: int, last: int) -> float:
    """sum of row[tail_t] w_t over meetings first ... last-1.

    Eight sums by hand: with gather instructions, which fastmath brings in, it takes twice as long and more.
    """
    a = b = c = d = e = f = g = h = 0.0
    t = first
    while t + 8 <= last:
        a += row[tail[t]] * w[t]
        b += row[tail[t + 1]] * w[t + 1]
        c += row[tail[t + 2]] * w[t + 2]
        d += row[tail[t + 3]] * w[t + 3]
        e += row[tail[t + 4]] * w[t + 4]
        f += row[tail[t + 5]] * w[t + 5]
        g += row[tail[t + 6]] * w[t + 6]
        h += row[tail[t + 7]] * w[t + 7]
        t += 8
    while t < last:
        a += row[tail[t]] * w[t]
        t += 1
    return ((a + b) + (c + d)) + ((e + f) + (g + h))


@njit(inline="always")
def _two_gathered_dots(
    row: FloatArray, tail: AnyArray, W: FloatArray, a: int, b: int, first: int, last: int
) -> tuple[float, float]:
    """The same with columns a and b of W (meetings, r)."""
    one = two = 0.0
    for t in range(first, last):
        one += row[tail[t]] * W[t, a]
        two += row[tail[t]] * W[t, b]
    return one, two


@njit(cache=True, nogil=True)
def _times_column(
    j: int, start: IntArray, tail: AnyArray, columns: IntArray, at: AnyArray, level: AnyArray, W: FloatArray,
    row: FloatArray, half: bool, G: FloatArray,
) -> None:  # fmt: skip
    """G of the meetings of tail column j, W_i times row j of H22; half: of 2 F instead, which has columns j and on."""
    r, w = W.shape[1], W.reshape(-1)
    for k in range(columns[j], columns[j + 1]):
        p, i = np.int64(at[k]), np.int64(level[k])
        first, last = p if half else start[i], start[i + 1]
        if r == 1:
            G[p, 0] = _gathered_dot(row, tail, w, first, last)
        for a in range(0, r if r > 1 else 0, 2):
            b = min(a + 1, r - 1)
            G[p, a], G[p, b] = _two_gathered_dots(row, tail, W, a, b, first, last)
        if half:
            for a in range(r):
                G[p, a] = 2.0 * G[p, a] - row[j] * W[p, a]


@njit(cache=True, nogil=True)
def _tail_entries(
    j: int, indptr: IntArray, indices: IntArray, lo: int, hi: int, row: FloatArray, out: FloatArray
) -> None:
    """Column j of the tail of M: out on M's pattern = row j of H22."""
    c = j if j < lo else j + hi - lo
    for k in range(indptr[c], indptr[c + 1]):
        if indices[k] < lo:
            out[k] = row[indices[k]]
        elif indices[k] >= hi:
            out[k] = row[indices[k] - (hi - lo)]


@njit(cache=True, nogil=True)
def inverse_dense(
    begin: int, end: int, indptr: IntArray, indices: IntArray, lo: int, hi: int, start: IntArray, tail: AnyArray,
    columns: IntArray, at: AnyArray, level: AnyArray, W: FloatArray, H: FloatArray, half: bool, G: FloatArray,
    out: FloatArray,
) -> None:  # fmt: skip
    """G and the tail's entries of out, for columns begin ... end-1 of the tail; H (q2, q2), half: upper triangle."""
    for j in range(begin, end):
        _times_column(j, start, tail, columns, at, level, W, H[j], half, G)
        _tail_entries(j, indptr, indices, lo, hi, H[j], out)


@njit(cache=True, nogil=True)
def inverse_sparse(
    begin: int, end: int, indptr: IntArray, indices: IntArray, lo: int, hi: int, start: IntArray, tail: AnyArray,
    columns: IntArray, at: AnyArray, level: AnyArray, W: FloatArray, S_indptr: IntArray, S_indices: IntArray,
    row_indptr: IntArray, row_indices: IntArray, row_place: IntArray, H: FloatArray, half: bool, G: FloatArray,
    out: FloatArray,
) -> None:  # fmt: skip
    """The same with H (nnz,) on the pattern of S; row_*: the entries of its lower triangle by rows, and where."""
    row = np.empty(len(columns) - 1)
    for j in range(begin, end):
        for k in range(S_indptr[j], S_indptr[j + 1]):
            row[S_indices[k]] = H[k]
        for k in range(row_indptr[j], row_indptr[j] if half else row_indptr[j + 1]):
            row[row_indices[k]] = H[row_place[k]]
        _times_column(j, start, tail, columns, at, level, W, row, half, G)
        _tail_entries(j, indptr, indices, lo, hi, row, out)


@njit(cache=True, nogil=True)
def _lower_inverse(i: int, L: FloatArray, out: FloatArray) -> None:
    """out = L_i^-1 (r, r), lower triangle."""
    for b in range(len(out)):
        out[b, b] = 1.0 / L[i, b, b]
        for a in range(b + 1, len(out)):
            total = 0.0
            for c in range(b, a):
                total += L[i, a, c] * out[c, b]
            out[a, b] = -total / L[i, a, a]


@njit(cache=True, nogil=True)
def _level_block(
    first: int, last: int, inverse: FloatArray, W: FloatArray, G: FloatArray, inner: FloatArray, out: FloatArray
) -> None:
    """inner (r, r) = I + symmetric part of W_i G_i, out = L^-T inner L^-1; inverse = L^-1; meetings first ... last-1"""
    r = len(inverse)
    for a in range(r):
        for b in range(r):
            inner[a, b] = 1.0 if a == b else 0.0
    for p in range(first, last):
        for a in range(r):
            for b in range(r):
                inner[a, b] += 0.5 * (W[p, a] * G[p, b] + W[p, b] * G[p, a])
    for a in range(r):
        for b in range(a + 1):
            total = 0.0
            for c in range(a, r):
                for d in range(b, r):
                    total += inverse[c, a] * inner[c, d] * inverse[d, b]
            out[a, b] = total


@njit(cache=True, nogil=True)
def absorbed_entries(
    begin: int, end: int, indptr: IntArray, lo: int, start: IntArray, before: IntArray, place: AnyArray, L: FloatArray,
    W: FloatArray, G: FloatArray, half: bool, out: FloatArray,
) -> None:  # fmt: skip
    """H11_i and, unless half, H21_i on M's pattern, for levels begin ... end-1."""
    r = L.shape[1]
    inverse, inner, block = np.zeros((r, r)), np.empty((r, r)), np.empty((r, r))
    for i in range(begin, end):
        c, first, n_before = lo + i * r, start[i], before[i + 1] - before[i]
        _lower_inverse(i, L, inverse)
        _level_block(first, start[i + 1], inverse, W, G, inner, block)
        for b in range(r):
            for a in range(b, r):
                out[indptr[c + b] + a - b] = block[a, b]
        for p in range(first, first if half else start[i + 1]):
            t = p - first - n_before
            for a in range(r):
                k = place[before[i] + p - first] + a if t < 0 else indptr[c + a] + r - a + t
                value = 0.0
                for b in range(a, r):
                    value -= G[p, b] * inverse[b, a]
                out[k] = value
