"""Cross-products of coded designs, accumulated row by row: Z'WZ in blocks and Z'W[X y].

Z of a term is never formed: row i has the values z_i = x_i A^-1 in the columns of level `codes[i]`; x_i is row i of
`columns` (n, r), A (r, r) lower triangular the term's `basis`. Columns that are just ones are given as (0, 1), weights
that are all one as (0,). Kernels work on rows or levels begin ... end-1 and release the GIL.
"""

import numpy as np
from numba import njit

from .._typing import AnyArray, BoolArray, FloatArray, IntArray


@njit(cache=True, nogil=True)
def conditioned(i: int, columns: FloatArray, basis: FloatArray, z: FloatArray) -> None:
    """z (r,) with z A = x_i."""
    r = len(z)
    for a in range(r - 1, -1, -1):
        value = columns[i, a] if len(columns) else 1.0
        for b in range(a + 1, r):
            value -= z[b] * basis[b, a]
        z[a] = value / basis[a, a]


@njit(cache=True, nogil=True)
def level_grams(
    begin: int, end: int, codes: AnyArray, columns: FloatArray, basis: FloatArray, weights: FloatArray, out: FloatArray
) -> None:
    """out[l] += sum over rows i of level l of w_i z_i z_i'; out (m, r, r)."""
    z = np.empty(len(basis))
    for i in range(begin, end):
        conditioned(i, columns, basis, z)
        block, w = out[codes[i]], weights[i] if len(weights) else 1.0
        for a in range(len(z)):
            for b in range(len(z)):
                block[a, b] += w * z[a] * z[b]


@njit(cache=True, nogil=True)
def level_sums(
    begin: int, end: int, codes: AnyArray, columns: FloatArray, basis: FloatArray, V: FloatArray, weights: FloatArray,
    out: FloatArray,
) -> None:  # fmt: skip
    """out[l] += sum over rows i of level l of w_i z_i v_i'; V (n, c), out (m, r, c)."""
    z = np.empty(len(basis))
    for i in range(begin, end):
        conditioned(i, columns, basis, z)
        block, w = out[codes[i]], weights[i] if len(weights) else 1.0
        for a in range(len(z)):
            for c in range(V.shape[1]):
                block[a, c] += w * z[a] * V[i, c]


@njit(cache=True, nogil=True)
def centred_sums(
    begin: int, end: int, codes: AnyArray, columns: FloatArray, basis: FloatArray, X: FloatArray, shift: FloatArray,
    y: FloatArray, weights: FloatArray, out: FloatArray,
) -> None:  # fmt: skip
    """out[l] += sum over rows i of level l of w_i z_i [x_i - shift, y_i]; X (n, p), y (n,), out (m, r, p+1)."""
    z, p = np.empty(len(basis)), len(shift)
    for i in range(begin, end):
        conditioned(i, columns, basis, z)
        block, w = out[codes[i]], weights[i] if len(weights) else 1.0
        for a in range(len(z)):
            value = w * z[a]
            for j in range(p):
                block[a, j] += value * (X[i, j] - shift[j])
            block[a, p] += value * y[i]


@njit(cache=True, nogil=True)
def rows_by_level(codes: AnyArray, free: IntArray, out: AnyArray) -> None:
    """out (n,) = the rows in the order of their levels; free (m,) = the first place of each level, moved on."""
    for i in range(len(codes)):
        out[free[codes[i]]] = i
        free[codes[i]] += 1


@njit(cache=True, nogil=True)
def nested_in(fine: AnyArray, coarse: AnyArray, parent: IntArray) -> bool:
    """Whether every level of `fine` lies within one of `coarse`; parent (levels of fine,), -1 at the start, gets it."""
    for i in range(len(fine)):
        p = parent[fine[i]]
        if p < 0:
            parent[fine[i]] = coarse[i]
        elif p != coarse[i]:
            return False
    return True


@njit(cache=True, nogil=True)
def count_pairs(begin: int, end: int, start: IntArray, other: AnyArray, m: int, counts: IntArray) -> None:
    """counts[l] = how many of the m levels occur among other[start_l : start_l+1]: partners of level l."""
    seen = np.full(m, -1, np.int64)
    for level in range(begin, end):
        for t in range(start[level], start[level + 1]):
            if seen[other[t]] != level:
                seen[other[t]] = level
                counts[level] += 1


@njit(cache=True, nogil=True)
def list_pairs(
    begin: int, end: int, start: IntArray, other: AnyArray, m: int, first: IntArray, partner: IntArray
) -> None:
    """partner[first_l : first_l+1] = the partners of level l, sorted; many of them are found in order, not sorted."""
    seen = np.full(m, -1, np.int64)
    for level in range(begin, end):
        p, stop = first[level], first[level + 1]
        for t in range(start[level], start[level + 1]):
            if seen[other[t]] != level:
                seen[other[t]] = level
                partner[p] = other[t]
                p += 1
        if 8 * (stop - first[level]) < m:
            partner[first[level] : stop].sort()
            continue
        p = first[level]
        for k in range(m):
            if seen[k] == level:
                partner[p] = k
                p += 1


@njit(cache=True, nogil=True)
def pair_sums(
    begin: int, end: int, start: IntArray, order: AnyArray, other: AnyArray, m: int, first: IntArray,
    partner: IntArray, left: FloatArray, left_basis: FloatArray, right: FloatArray, right_basis: FloatArray,
    weights: FloatArray, out: FloatArray,
) -> None:  # fmt: skip
    """out[p] += sum of w_i z_i y_i' over the rows i that pair p = (partner[p], level l) has; out (pairs, ra, rb).

    Rows of level l are order[start_l : start_l+1] (or these numbers themselves where order is empty), the other
    term's levels there `other`; z belongs to the other term (left), y to that of level l (right).
    """
    slot = np.empty(m, np.int64)
    z, y = np.empty(len(left_basis)), np.empty(len(right_basis))
    for level in range(begin, end):
        for p in range(first[level], first[level + 1]):
            slot[partner[p]] = p
        for t in range(start[level], start[level + 1]):
            i = order[t] if len(order) else t
            conditioned(i, left, left_basis, z)
            conditioned(i, right, right_basis, y)
            block, w = out[slot[other[t]]], weights[i] if len(weights) else 1.0
            for a in range(len(z)):
                for b in range(len(y)):
                    block[a, b] += w * z[a] * y[b]


@njit(cache=True, nogil=True)
def nested_sums(
    begin: int, end: int, codes: AnyArray, left: FloatArray, left_basis: FloatArray, right: FloatArray,
    right_basis: FloatArray, weights: FloatArray, out: FloatArray,
) -> None:  # fmt: skip
    """out[l] += sum over rows i of level l of w_i z_i y_i'; out (m, ra, rb)."""
    z, y = np.empty(len(left_basis)), np.empty(len(right_basis))
    for i in range(begin, end):
        conditioned(i, left, left_basis, z)
        conditioned(i, right, right_basis, y)
        block, w = out[codes[i]], weights[i] if len(weights) else 1.0
        for a in range(len(z)):
            for b in range(len(y)):
                block[a, b] += w * z[a] * y[b]


@njit(cache=True, nogil=True)
def table_sums(
    begin: int, end: int, codes: AnyArray, other: AnyArray, left: FloatArray, left_basis: FloatArray,
    right: FloatArray, right_basis: FloatArray, weights: FloatArray, seen: BoolArray, out: FloatArray,
) -> None:  # fmt: skip
    """out[l, k] += sum of w_i z_i y_i' over the rows i of levels l (codes) and k (other); out (m, m_other, ra, rb).

    seen[l, k] where there are any. z (left) belongs to the other term.
    """
    z, y = np.empty(len(left_basis)), np.empty(len(right_basis))
    for i in range(begin, end):
        conditioned(i, left, left_basis, z)
        conditioned(i, right, right_basis, y)
        seen[codes[i], other[i]] = True
        block, w = out[codes[i], other[i]], weights[i] if len(weights) else 1.0
        for a in range(len(z)):
            for b in range(len(y)):
                block[a, b] += w * z[a] * y[b]


@njit(cache=True, nogil=True)
def is_sorted(codes: AnyArray) -> bool:
    """Whether no code is smaller than the one before it."""
    for i in range(1, len(codes)):
        if codes[i] < codes[i - 1]:
            return False
    return True


@njit(cache=True, nogil=True)
def spread(codes: AnyArray, columns: FloatArray, effects: FloatArray, out: FloatArray) -> None:
    """out_i += z_i' effects[codes_i]: Z b of one term; effects (m, r), out (n,)."""
    for i in range(len(codes)):
        for a in range(effects.shape[1]):
            out[i] += (columns[i, a] if len(columns) else 1.0) * effects[codes[i], a]
