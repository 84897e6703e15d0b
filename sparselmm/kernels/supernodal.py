"""Cholesky factor of a sparse matrix by supernodes, its solves and its selected inverse, without a stack of fronts.

A supernode is a run of columns J of L with the same rows I below it, kept as one dense panel. It sends its update
L_IJ L_IJ' straight to the panels of its ancestors, and of the inverse Z it asks their panels for Z_II:

    Y = L_IJ L_JJ^-1,   Z_IJ = -Z_II Y,   Z_JJ = L_JJ^-T L_JJ^-1 - Y' Z_IJ        (Takahashi, Fagan & Chin 1973)

So the factor takes the memory of L and the inverse that of L once more (fronts, as Amestoy et al. 2001 have them, would
lie on a stack beside it: 25 instead of 9 GB for a million animals). Panels are column-major, (size, width).
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from .._typing import FloatArray, IntArray
from .blas import Blas, N, T, factorise_lower, gemm, invert_factor, own_places, solve_right
from .selinv import LOOPS, Tree, invert_by_loops, supernode_tree

CHUNK, NARROW = 2**17, 64  # entries of an update at a time, about a cache; columns of it at least


class Panels(NamedTuple):
    """Supernode s: columns first[s] ... first[s+1]-1, rows[start[s]:start[s+1]] (these columns, then those below).

    Its panel is at[s]:at[s+1] of an array of values. owner: (q,) supernode of a column.
    """

    first: IntArray
    size: IntArray
    start: IntArray
    rows: IntArray
    at: IntArray
    owner: IntArray


@njit(cache=True)
def _unite(tree: Tree, indptr: IntArray, indices: IntArray, start: IntArray, rows: IntArray) -> None:
    """Rows of each supernode: its columns, and what is below them in the matrix and in the supernodes below it."""
    n = len(tree.size)
    seen, child, sibling = np.full(len(indptr) - 1, -1), np.full(n, -1), np.full(n, -1)
    for s in range(n):
        begin, end, k = tree.first[s], tree.first[s + 1], start[s]
        for j in range(begin, end):
            rows[k] = j
            k += 1
        below = k
        for t in range(indptr[begin], indptr[end]):
            i = indices[t]
            if i >= end and seen[i] != s:
                seen[i], rows[k], k = s, i, k + 1
        c = child[s]
        while c >= 0:
            for t in range(start[c] + tree.first[c + 1] - tree.first[c], start[c + 1]):
                i = rows[t]
                if i >= end and seen[i] != s:
                    seen[i], rows[k], k = s, i, k + 1
            c = sibling[c]
        rows[below:k].sort()
        p = tree.parent[s]
        if p >= 0:
            sibling[s], child[p] = child[p], s


def panels(parent: IntArray, counts: IntArray, indptr: IntArray, indices: IntArray) -> Panels:
    """Panels of the factor of a matrix whose lower triangle has this pattern (CSC), from its elimination tree.

    parent (q,), counts (q,): of the columns of L, which follow each other in postorder.
    """
    tree = supernode_tree(parent, counts)
    start = np.append(0, np.cumsum(tree.size))
    rows = np.empty(start[-1], np.int64)
    _unite(tree, indptr, indices, start, rows)
    return Panels(
        tree.first, tree.size, start, rows, np.append(0, np.cumsum(np.diff(tree.first) * tree.size)), tree.owner
    )


@njit(cache=True, nogil=True)
def panel_places(begin: int, end: int, P: Panels, rows: IntArray, cols: IntArray, out: IntArray) -> bool:
    """out_t = place of entry (rows_t, cols_t), rows_t >= cols_t, among the values; False where one is not in L."""
    for t in range(begin, end):
        s = P.owner[cols[t]]
        lo, hi = P.start[s], P.start[s + 1]
        if rows[t] < P.first[s + 1]:
            k = rows[t] - P.first[s]
        else:
            k = np.searchsorted(P.rows[lo:hi], rows[t])
            if k == hi - lo or P.rows[lo + k] != rows[t]:
                return False
        out[t] = P.at[s] + (cols[t] - P.first[s]) * P.size[s] + k
    return True


@njit(cache=True)
def _relative(P: Panels, lo: int, hi: int, a: int, out: IntArray) -> int:
    """Places of rows[lo:hi] in supernode a, which has them all, into out; returns how many are columns of a."""
    begin, end, k = P.first[a], P.first[a + 1], lo
    while k < hi and P.rows[k] < end:
        out[k - lo] = P.rows[k] - begin
        k += 1
    columns, base, place, last = k - lo, P.start[a], end - begin, P.size[a]
    search = 16 * (hi - k) < last - place
    for t in range(k, hi):
        row = P.rows[t]
        if search:
            place += np.searchsorted(P.rows[base + place : base + last], row)
        else:
            while P.rows[base + place] != row:
                place += 1
        out[t - lo] = place
        place += 1
    return columns


@njit(cache=True)
def _factor_by_loops(width: int, size: int, panel: FloatArray) -> bool:
    """L_JJ and L_IJ in place of A_JJ and A_IJ; False where A_JJ is not positive definite."""
    for c in range(width):
        column = panel[c * size : (c + 1) * size]
        if not column[c] > 0.0:
            return False
        column[c] = np.sqrt(column[c])
        column[c + 1 :] /= column[c]
        for d in range(c + 1, width):
            x, to = column[d], panel[d * size : (d + 1) * size]
            for i in range(d, size):
                to[i] -= x * column[i]
    return True


@njit(cache=True)
def _send_by_loops(P: Panels, s: int, a: int, k: int, columns: int, places: IntArray, values: FloatArray) -> None:
    """Less L_IJ L_IJ' in the columns of supernode a that begin at row k of s."""
    size, at, width = P.size[s], P.at[s], P.first[s + 1] - P.first[s]
    for j in range(k, k + columns):
        to = P.at[a] + places[j - k] * P.size[a]
        for c in range(width):
            x = values[at + c * size + j]
            for i in range(j, size):
                values[to + places[i - k]] -= x * values[at + c * size + i]


@njit(cache=True)
def _send_by_blas(
    P: Panels, s: int, a: int, k: int, columns: int, places: IntArray, values: FloatArray, b: Blas, piece: FloatArray
) -> None:
    """The same, some columns at a time."""
    size, at, width, done = P.size[s], P.at[s], P.first[s + 1] - P.first[s], 0
    while done < columns:
        top = k + done
        m = size - top
        n = min(columns - done, max(NARROW, CHUNK // m))
        gemm(b, N, T, m, n, width, 1.0, values, at + top, size, values, at + top, size, 0.0, piece, 0, m)
        for j in range(n):
            to = P.at[a] + places[done + j] * P.size[a]
            for i in range(j, m):
                values[to + places[done + i]] -= piece[j * m + i]
        done += n


@njit(cache=True, nogil=True)
def factorise(begin: int, end: int, P: Panels, last: int, b: Blas, values: FloatArray) -> int:
    """L in place of A for supernodes begin ... end-1 and all below them; supernode `last` is sent nothing.

    Returns the first column of a supernode that is not positive definite, or -1.
    """
    b, piece, places = own_places(b), np.empty(_longest(P)), np.empty(P.size.max(), np.int64)
    for s in range(begin, end):
        width, size, at = P.first[s + 1] - P.first[s], P.size[s], P.at[s]
        small = width * size * size < LOOPS
        if small:
            if not _factor_by_loops(width, size, values[at : at + width * size]):
                return P.first[s]
        else:
            if factorise_lower(b, width, values, at, size) != 0:
                return P.first[s]
            solve_right(b, T, size - width, width, values, at, size, values, at + width, size)
        k, lo = width, P.start[s]
        while k < size:
            a = P.owner[P.rows[lo + k]]
            if a == last:
                break
            k += _send(P, s, a, k, P.size[a], small, places, values, b, piece)
    return -1


@njit(cache=True, nogil=True)
def send_to_last(begin: int, end: int, P: Panels, last: int, b: Blas, values: FloatArray) -> None:
    """Updates of columns begin ... end-1 of supernode `last` by all below it."""
    b, piece, places = own_places(b), np.empty(_longest(P)), np.empty(P.size.max(), np.int64)
    for s in range(last):
        lo, hi = P.start[s], P.start[s + 1]
        if P.rows[hi - 1] < P.first[last] + begin:
            continue
        width = P.first[s + 1] - P.first[s]
        k = width + np.searchsorted(P.rows[lo + width : hi], P.first[last] + begin)
        columns = np.searchsorted(P.rows[lo + k : hi], P.first[last] + end)
        if columns > 0:
            _send(P, s, last, k, columns, width * (hi - lo) ** 2 < LOOPS, places, values, b, piece)


@njit(cache=True)
def _longest(P: Panels) -> int:
    """Entries of the largest piece of an update."""
    return max(CHUNK, NARROW * P.size.max())


@njit(cache=True)
def _send(
    P: Panels,
    s: int,
    a: int,
    k: int,
    most: int,
    small: bool,
    places: IntArray,
    values: FloatArray,
    b: Blas,
    piece: FloatArray,
) -> int:
    """The update of supernode a, from row k of s on, `most` columns of it at most; returns how many."""
    columns = min(most, _relative(P, P.start[s] + k, P.start[s + 1], a, places))
    if small:
        _send_by_loops(P, s, a, k, columns, places, values)
    else:
        _send_by_blas(P, s, a, k, columns, places, values, b, piece)
    return columns


@njit(cache=True, inline="always")
def _less(x: FloatArray, c: int, i: int, factor: float, j: int) -> None:
    """x_i less factor times x_j: rows of length c."""
    for r in range(c):
        x[i * c + r] -= factor * x[j * c + r]


@njit(cache=True)
def _lower_by_loops(top: int, width: int, below: IntArray, panel: FloatArray, x: FloatArray, c: int) -> None:
    size = width + len(below)
    for j in range(width):
        column = panel[j * size : (j + 1) * size]
        for r in range(c):
            x[(top + j) * c + r] /= column[j]
        for i in range(j + 1, width):
            _less(x, c, top + i, column[i], top + j)
        for i in range(len(below)):
            _less(x, c, below[i], column[width + i], top + j)


@njit(cache=True)
def _upper_by_loops(top: int, width: int, below: IntArray, panel: FloatArray, x: FloatArray, c: int) -> None:
    size = width + len(below)
    for j in range(width - 1, -1, -1):
        column = panel[j * size : (j + 1) * size]
        for i in range(len(below)):
            _less(x, c, top + j, column[width + i], below[i])
        for i in range(j + 1, width):
            _less(x, c, top + j, column[i], top + i)
        for r in range(c):
            x[(top + j) * c + r] /= column[j]


@njit(cache=True, nogil=True)
def solve_lower(P: Panels, b: Blas, values: FloatArray, x: FloatArray, c: int, piece: FloatArray) -> None:
    """x = L^-1 x, flat (q c,), rows of length c: to BLAS the columns of a (c, q) matrix."""
    b = own_places(b)
    for s in range(len(P.size)):
        width, size, at, top = P.first[s + 1] - P.first[s], P.size[s], P.at[s], P.first[s]
        below = P.rows[P.start[s] + width : P.start[s + 1]]
        if width * size * c < LOOPS:
            _lower_by_loops(top, width, below, values[at : at + width * size], x, c)
            continue
        solve_right(b, T, c, width, values, at, size, x, top * c, c)
        if len(below) > 0:
            gemm(b, N, T, c, len(below), width, 1.0, x, top * c, c, values, at + width, size, 0.0, piece, 0, c)
            for i in range(len(below)):
                for r in range(c):
                    x[below[i] * c + r] -= piece[i * c + r]


@njit(cache=True)
def solve_upper(P: Panels, b: Blas, values: FloatArray, x: FloatArray, c: int, piece: FloatArray) -> None:
    """x = L'^-1 x, as `solve_lower` has it."""
    for s in range(len(P.size) - 1, -1, -1):
        width, size, at, top = P.first[s + 1] - P.first[s], P.size[s], P.at[s], P.first[s]
        below = P.rows[P.start[s] + width : P.start[s + 1]]
        if width * size * c < LOOPS:
            _upper_by_loops(top, width, below, values[at : at + width * size], x, c)
            continue
        if len(below) > 0:
            for i in range(len(below)):
                for r in range(c):
                    piece[i * c + r] = x[below[i] * c + r]
            gemm(b, N, N, c, width, len(below), -1.0, piece, 0, c, values, at + width, size, 1.0, x, top * c, c)
        solve_right(b, N, c, width, values, at, size, x, top * c, c)


@njit(cache=True)
def _ask_by_loops(P: Panels, s: int, Z: FloatArray, places: IntArray, front: FloatArray) -> None:
    """Z_II, its lower triangle, into a front (size, size) of s."""
    size, lo, k = P.size[s], P.start[s], P.first[s + 1] - P.first[s]
    while k < size:
        a = P.owner[P.rows[lo + k]]
        columns = _relative(P, lo + k, lo + size, a, places)
        for j in range(columns):
            source, to = P.at[a] + places[j] * P.size[a], (k + j) * size + k
            for i in range(j, size - k):
                front[to + i] = Z[source + places[i]]
        k += columns


@njit(cache=True)
def _ask_by_blas(P: Panels, s: int, b: Blas, Y: FloatArray, Z: FloatArray, places: IntArray, piece: FloatArray) -> None:
    """Z_IJ = -Z_II Y in the panel of s: some columns of Z_II at a time, which are as many of its rows."""
    width, size, lo, at = P.first[s + 1] - P.first[s], P.size[s], P.start[s], P.at[s]
    k, below = width, size - width
    for c in range(width):
        Z[at + c * size + width : at + (c + 1) * size] = 0.0
    while k < size:
        a = P.owner[P.rows[lo + k]]
        columns, done = _relative(P, lo + k, lo + size, a, places), 0
        while done < columns:
            top = k + done
            m = size - top
            n = min(columns - done, max(NARROW, CHUNK // m))
            for j in range(n):
                source = P.at[a] + places[done + j] * P.size[a]
                for i in range(j, m):
                    piece[j * m + i] = Z[source + places[done + i]]
                for i in range(j + 1, n):
                    piece[i * m + j] = piece[j * m + i]
            gemm(b, N, N, m, width, n, -1.0, piece, 0, m, Y, top - width, below, 1.0, Z, at + top, size)
            if m > n:
                gemm(b, T, N, n, width, m - n, -1.0, piece, n, m, Y, top - width + n, below, 1.0, Z, at + top, size)
            done += n
        k += columns


@njit(cache=True, nogil=True)
def invert(begin: int, end: int, P: Panels, b: Blas, values: FloatArray, Z: FloatArray) -> None:
    """Z = the entries of A^-1 on the pattern of L (lower triangles), in panels as those of L.

    For supernodes begin ... end-1, when those above have theirs.
    """
    b, piece, places, Y = own_places(b), np.empty(_longest(P)), np.empty(P.size.max(), np.int64), np.empty(_widest(P))
    for s in range(end - 1, begin - 1, -1):
        width, size, at = P.first[s + 1] - P.first[s], P.size[s], P.at[s]
        if width * size * size < LOOPS:
            _ask_by_loops(P, s, Z, places, piece)
            invert_by_loops(width, size, values[at : at + width * size], piece)
            Z[at : at + width * size] = piece[: width * size]
            continue
        for c in range(width):
            Z[at + c * size + c : at + c * size + width] = values[at + c * size + c : at + c * size + width]
        invert_factor(b, width, Z, at, size)
        below = size - width
        if below > 0:
            for c in range(width):
                Y[c * below : (c + 1) * below] = values[at + c * size + width : at + (c + 1) * size]
            solve_right(b, N, below, width, values, at, size, Y, 0, below)
            _ask_by_blas(P, s, b, Y, Z, places, piece)
            gemm(b, T, N, width, width, below, -1.0, Y, 0, below, Z, at + width, size, 1.0, Z, at, size)


@njit(cache=True)
def _widest(P: Panels) -> int:
    """Entries of the largest panel below its diagonal block."""
    widths = P.first[1:] - P.first[:-1]
    return (widths * (P.size - widths)).max()
