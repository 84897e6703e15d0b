"""Absorption of a block-diagonal term (Henderson 1984): r x r blocks are eliminated, what meets them is downdated.

    M = [ D , B ; B' , A ],   D = blockdiag(D_i),   D_i = L_i L_i',   W_i = L_i^-1 B_i,   S = A - sum_i W_i' W_i

Level i of the absorbed term meets few of the columns that are left (the tail). A *meeting* p is one such pair, stored
level by level (`start`, `tail`), with W (meetings, r), and listed by column of the tail too (`columns`, `at`, `level`).
A column of S has one owner who adds its levels in order: no races, and the same sums for any number of threads.
Kernels work on levels or columns begin ... end-1 and release the GIL. Unsigned indices spare Numba a test for
negative ones in the inner loops.
"""

import numpy as np
from numba import njit

from .._typing import AnyArray, FloatArray, IntArray


@njit(cache=True, nogil=True)
def _between(begin: int, end: int, indices: IntArray, lo: int, hi: int) -> tuple[int, int]:
    """Where rows lo ... hi-1 stand among the sorted ones at begin ... end-1."""
    column = indices[begin:end]
    return begin + np.searchsorted(column, lo), begin + np.searchsorted(column, hi)


@njit(cache=True, nogil=True)
def count_meetings(
    indptr: IntArray, indices: IntArray, lo: int, hi: int, r: int, before: IntArray, after: IntArray
) -> bool:
    """before_i, after_i = columns of the tail left and right of columns lo ... hi-1 that level i meets.

    False where these columns are not block-diagonal with full r x r blocks, or meet others in parts of blocks.
    """
    for j in range(lo):
        k, stop = _between(indptr[j], indptr[j + 1], indices, lo, hi)
        while k < stop:
            if (indices[k] - lo) % r != 0 or k + r > stop or indices[k + r - 1] != indices[k] + r - 1:
                return False
            before[(indices[k] - lo) // r] += 1
            k += r
    for c in range(lo, hi):
        a, begin, end = (c - lo) % r, indptr[c], indptr[c + 1]
        own = r - a
        if end - begin < own or indices[begin + own - 1] != c + own - 1:
            return False
        if end - begin > own and indices[begin + own] < hi:
            return False
        first = indptr[c - a] + r
        if a == 0:
            after[(c - lo) // r] = end - begin - own
        elif not np.array_equal(indices[begin + own : end], indices[first : indptr[c - a + 1]]):
            return False
    return True


@njit(cache=True, nogil=True)
def list_meetings(
    indptr: IntArray, indices: IntArray, lo: int, hi: int, r: int, start: IntArray, before: IntArray,
    tail: AnyArray, place: AnyArray,
) -> None:  # fmt: skip
    """tail (meetings,) = column of the tail; place = position in M's values of those that stand left of lo."""
    m = len(start) - 1
    used = np.zeros(m, np.int64)
    for j in range(lo):
        k, stop = _between(indptr[j], indptr[j + 1], indices, lo, hi)
        while k < stop:
            i = (indices[k] - lo) // r
            tail[start[i] + used[i]] = j
            place[before[i] + used[i]] = k
            used[i] += 1
            k += r
    for i in range(m):
        p = start[i] + used[i]
        for k in range(indptr[lo + i * r] + r, indptr[lo + i * r + 1]):
            tail[p] = indices[k] - (hi - lo)
            p += 1


@njit(cache=True, nogil=True)
def transpose(start: IntArray, minor: AnyArray, ends: IntArray, major: AnyArray, place: AnyArray) -> None:
    """A compressed pattern the other way: entries of minor j from ends_j on, their major index and place."""
    free = ends[:-1].copy()
    for i in range(len(start) - 1):
        for p in range(start[i], start[i + 1]):
            k = free[minor[p]]
            major[k], place[k] = i, p
            free[minor[p]] += 1


@njit(cache=True, nogil=True)
def column_work(start: IntArray, columns: IntArray, at: AnyArray, level: AnyArray, out: IntArray) -> None:
    """out_j = updates of column j of S and terms of its products with W: of each of its levels, the rest and all."""
    for j in range(len(out)):
        total = 0
        for k in range(columns[j], columns[j + 1]):
            i = np.int64(level[k])
            total += 2 * start[i + 1] - start[i] - np.int64(at[k])
        out[j] = total


@njit(cache=True, nogil=True)
def _cholesky(i: int, L: FloatArray) -> bool:
    """L_i in place, lower triangle; False where a pivot is not a positive number."""
    r = L.shape[1]
    for b in range(r):
        pivot = L[i, b, b]
        for c in range(b):
            pivot -= L[i, b, c] ** 2
        if not 0.0 < pivot < np.inf:
            return False
        L[i, b, b] = np.sqrt(pivot)
        for a in range(b + 1, r):
            value = L[i, a, b]
            for c in range(b):
                value -= L[i, a, c] * L[i, b, c]
            L[i, a, b] = value / L[i, b, b]
    return True


@njit(cache=True, nogil=True)
def eliminate(
    begin: int, end: int, values: FloatArray, indptr: IntArray, lo: int, start: IntArray, before: IntArray,
    place: AnyArray, L: FloatArray, W: FloatArray,
) -> bool:  # fmt: skip
    """L_i L_i' = D_i and W_i = L_i^-1 B_i from M's values; False where a D_i is not positive definite."""
    r = L.shape[1]
    for i in range(begin, end):
        c, first, n_before = lo + i * r, start[i], before[i + 1] - before[i]
        for b in range(r):
            for a in range(b, r):
                L[i, a, b] = values[indptr[c + b] + a - b]
        if not _cholesky(i, L):
            return False
        for p in range(first, start[i + 1]):
            t = p - first - n_before
            for a in range(r):
                k = place[before[i] + p - first] + a if t < 0 else indptr[c + a] + r - a + t
                value = values[k]
                for b in range(a):
                    value -= L[i, a, b] * W[p, b]
                W[p, a] = value / L[i, a, a]
    return True


@njit(cache=True, nogil=True)
def _start_column(
    j: int, values: FloatArray, indptr: IntArray, indices: IntArray, lo: int, hi: int, column: FloatArray
) -> None:
    """column += entries of A in column j of the tail."""
    c = j if j < lo else j + hi - lo
    for k in range(indptr[c], indptr[c + 1]):
        row = indices[k]
        if row < lo:
            column[row] += values[k]
        elif row >= hi:
            column[row - (hi - lo)] += values[k]


@njit(cache=True, nogil=True)
def _downdate_column(
    j: int, start: IntArray, tail: AnyArray, columns: IntArray, at: AnyArray, level: AnyArray, W: FloatArray,
    column: FloatArray,
) -> None:  # fmt: skip
    """column -= column j of sum_i W_i' W_i, rows j and below."""
    r, w = W.shape[1], W.reshape(-1)
    for k in range(columns[j], columns[j + 1]):
        p, end = np.int64(at[k]), start[np.int64(level[k]) + 1]
        if r == 1:
            for t in range(p, end):
                column[tail[t]] -= w[p] * w[t]
            continue
        for t in range(p, end):
            total = 0.0
            for a in range(r):
                total += w[p * r + a] * w[t * r + a]
            column[tail[t]] -= total


@njit(cache=True, nogil=True)
def schur_dense(
    begin: int, end: int, values: FloatArray, indptr: IntArray, indices: IntArray, lo: int, hi: int, start: IntArray,
    tail: AnyArray, columns: IntArray, at: AnyArray, level: AnyArray, W: FloatArray, S: FloatArray,
) -> None:  # fmt: skip
    """Column j of S into S[j, j:], for columns begin ... end-1."""
    for j in range(begin, end):
        S[j, j:] = 0.0
        _start_column(j, values, indptr, indices, lo, hi, S[j])
        _downdate_column(j, start, tail, columns, at, level, W, S[j])


@njit(cache=True, nogil=True)
def schur_sparse(
    begin: int, end: int, values: FloatArray, indptr: IntArray, indices: IntArray, lo: int, hi: int, start: IntArray,
    tail: AnyArray, columns: IntArray, at: AnyArray, level: AnyArray, W: FloatArray, S_indptr: IntArray,
    S_indices: IntArray, S: FloatArray,
) -> None:  # fmt: skip
    """The same on a sparse pattern (CSC, lower triangle): S (nnz,)."""
    column = np.empty(len(columns) - 1)
    for j in range(begin, end):
        for k in range(S_indptr[j], S_indptr[j + 1]):
            column[S_indices[k]] = 0.0
        _start_column(j, values, indptr, indices, lo, hi, column)
        _downdate_column(j, start, tail, columns, at, level, W, column)
        for k in range(S_indptr[j], S_indptr[j + 1]):
            S[k] = column[S_indices[k]]


@njit(cache=True, nogil=True)
def _in_order(j: int, count: int, seen: IntArray, found: IntArray, out: IntArray) -> None:
    """The first `count` of `found`, sorted: by a walk over the marks of column j where they stand close together."""
    if 16 * count < len(seen) - j:
        out[:] = np.sort(found[:count])
        return
    n = 0
    for row in range(j, len(seen)):
        if seen[row] == j:
            out[n] = row
            n += 1


@njit(cache=True, nogil=True)
def schur_rows(
    begin: int, end: int, wanted: IntArray, indptr: IntArray, indices: IntArray, lo: int, hi: int, start: IntArray,
    tail: AnyArray, columns: IntArray, at: AnyArray, level: AnyArray, counts: IntArray, first: IntArray, out: IntArray,
) -> None:  # fmt: skip
    """Rows of S in columns wanted[begin:end]: how many, and sorted into out from first_n on, unless that is empty."""
    seen, found = np.full(len(columns) - 1, -1, np.int64), np.empty(len(columns) - 1, np.int64)
    for n in range(begin, end):
        j, count = wanted[n], 0
        c = j if j < lo else j + hi - lo
        for k in range(indptr[c], indptr[c + 1]):
            row = indices[k] if indices[k] < lo else indices[k] - (hi - lo)
            if (indices[k] < lo or indices[k] >= hi) and seen[row] != j:
                seen[row], found[count] = j, row
                count += 1
        for k in range(columns[j], columns[j + 1]):
            for t in range(np.int64(at[k]), start[np.int64(level[k]) + 1]):
                if seen[tail[t]] != j:
                    seen[tail[t]], found[count] = j, tail[t]
                    count += 1
        counts[n] = count
        if len(out) > 0:
            _in_order(j, count, seen, found, out[first[n] : first[n + 1]])


@njit(cache=True, nogil=True)
def forward(begin: int, end: int, lo: int, L: FloatArray, right: FloatArray, out: FloatArray) -> None:
    """out_i = L_i^-1 right_i, (r, k); out (m r, k) has the absorbed rows of right only."""
    r = L.shape[1]
    for i in range(begin, end):
        for a in range(r):
            for c in range(out.shape[1]):
                value = right[lo + i * r + a, c]
                for b in range(a):
                    value -= L[i, a, b] * out[i * r + b, c]
                out[i * r + a, c] = value / L[i, a, a]


@njit(cache=True, nogil=True)
def reduce(
    begin: int, end: int, lo: int, hi: int, columns: IntArray, at: AnyArray, level: AnyArray, W: FloatArray,
    right: FloatArray, Z: FloatArray, out: FloatArray,
) -> None:  # fmt: skip
    """out_j = right_j - sum over the meetings of column j of W_p' Z_level, (k,)."""
    r = W.shape[1]
    for j in range(begin, end):
        for c in range(out.shape[1]):
            out[j, c] = right[j if j < lo else j + hi - lo, c]
        for k in range(columns[j], columns[j + 1]):
            p, i = np.int64(at[k]), np.int64(level[k])
            for a in range(r):
                for c in range(out.shape[1]):
                    out[j, c] -= W[p, a] * Z[i * r + a, c]


@njit(cache=True, nogil=True)
def backward(
    begin: int, end: int, start: IntArray, tail: AnyArray, L: FloatArray, W: FloatArray, y: FloatArray, Z: FloatArray
) -> None:
    """Z_i = L_i^-T (Z_i - W_i y), in place."""
    r = L.shape[1]
    for i in range(begin, end):
        for p in range(start[i], start[i + 1]):
            for a in range(r):
                for c in range(Z.shape[1]):
                    Z[i * r + a, c] -= W[p, a] * y[tail[p], c]
        for a in range(r - 1, -1, -1):
            for c in range(Z.shape[1]):
                value = Z[i * r + a, c]
                for b in range(a + 1, r):
                    value -= L[i, b, a] * Z[i * r + b, c]
                Z[i * r + a, c] = value / L[i, a, a]
