"""Selected inverse from a Cholesky factor, front by front (Takahashi, Fagan & Chin 1973).

For a supernode J with rows I below it and A = L L':

    Y = L_IJ L_JJ^-1,   Z_IJ = -Z_II Y,   Z_JJ = L_JJ^-T L_JJ^-1 - Y' Z_IJ        (Z = A^-1)

I lies within the rows of J's parent, so Z_II is a part of the parent's front, Z on J and I together. Fronts are dense,
the tree is walked from its roots, and a front goes when its last child has read it: two stacks, by the parity of a
supernode's depth, hold all that live, and a child never lies above the front that it frees.

Fronts and panels are column-major with one triangle, written here as row-major (column, row).
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from .._typing import FloatArray, IntArray
from .blas import Blas, N, T, gemm, invert_factor, solve_right, symm

LOOPS = 4000  # products below, by plain loops: a call of BLAS costs about a microsecond
GATHER = 1e-9  # seconds an entry of Z_II: what merging weighs, with a front and an operation by loops and by BLAS
LOOP_FRONT, LOOP_FLOP, BLAS_FRONT, BLAS_FLOP = 1e-7, 1e-9, 2e-6, 4e-11


class Columns(NamedTuple):
    """Where L lies: column j has height[j] values from at[j] on, their rows from rows_at[j] on in indices."""

    at: IntArray
    rows_at: IntArray
    height: IntArray
    indices: IntArray


class Tree(NamedTuple):
    """Columns first[s] ... first[s+1]-1 are supernode s, its front has size[s] rows: these columns and those below.

    parent, child: the supernode above and the lowest one below, -1 for none. walk: the order from the roots down.
    side, top: the stack and the place in it where the front lies. lengths: (3,) of the two stacks and of the largest
    panel. owner: (q,) supernode of a column.
    """

    first: IntArray
    size: IntArray
    parent: IntArray
    child: IntArray
    walk: IntArray
    side: IntArray
    top: IntArray
    lengths: IntArray
    owner: IntArray


class Supernodes(NamedTuple):
    """rows[start[s]:start[s+1]]: of the front of s. relative: place of each, if below, among the parent's rows."""

    tree: Tree
    start: IntArray
    rows: IntArray
    relative: IntArray


@njit(cache=True)
def _seconds(width: int, below: int) -> float:
    work = width * (2.0 * below * below + 2.0 * width * below + width * width)
    if width * (width + below) ** 2 < LOOPS:
        return LOOP_FRONT + LOOP_FLOP * work
    return BLAS_FRONT + GATHER * below * below / 2 + BLAS_FLOP * work


@njit(cache=True)
def merged_columns(parent: IntArray, counts: IntArray, out: IntArray) -> int:
    """First columns of the supernodes of L into out (q + 1,); returns how many. counts: (q,) entries of L's columns.

    A run of columns, each the parent of the one before with the same rows below, is one supernode; it joins the run
    before where its first column is the parent of that and one front with zeros takes less time than two.
    """
    q, found, j = len(counts), 0, 0
    while j < q:
        end = j + 1
        while end < q and parent[end - 1] == end and counts[end] == counts[end - 1] - 1:
            end += 1
        joins = j > 0 and parent[j - 1] == j
        if joins:
            width, below, last = j - out[found - 1], counts[j - 1] - 1, counts[end - 1] - 1
            joins = _seconds(width + end - j, last) < _seconds(width, below) + _seconds(end - j, last)
        if not joins:
            out[found] = j
            found += 1
        j = end
    out[found] = q
    return found


@njit(cache=True)
def _walk(tree: Tree) -> None:
    """Order from the roots down that keeps what hangs on a supernode together, and lowest children: they come last."""
    n = len(tree.size)
    sibling, pending, depth, k = np.full(n, -1), np.empty(n, np.int64), 0, 0
    tree.child[:] = -1
    for s in range(n - 1, -1, -1):
        p = tree.parent[s]
        if p < 0:
            pending[depth] = s
            depth += 1
        else:
            sibling[s] = tree.child[p]
            tree.child[p] = s
    while depth > 0:
        depth -= 1
        s = pending[depth]
        tree.walk[k] = s
        k += 1
        c = tree.child[s]
        while c >= 0:
            pending[depth] = c
            depth += 1
            c = sibling[c]


@njit(cache=True)
def _stack(tree: Tree) -> None:
    """Where fronts lie when the tree is walked."""
    tree.lengths[:] = 0
    used = np.zeros(2, np.int64)
    for s in tree.walk:
        size, p = tree.size[s], tree.parent[s]
        side = 0 if p < 0 else 1 - tree.side[p]
        tree.side[s], tree.top[s] = side, used[side]
        tree.lengths[side] = max(tree.lengths[side], used[side] + size * size)
        tree.lengths[2] = max(tree.lengths[2], size * (tree.first[s + 1] - tree.first[s]))
        if p >= 0 and tree.child[p] == s:
            used[1 - side] = tree.top[p]
        if tree.child[s] >= 0:
            used[side] += size * size


def supernode_tree(parent: IntArray, counts: IntArray) -> Tree:
    """Supernodes from the elimination tree, parent (q,), and the entries of L's columns, counts (q,)."""
    q = len(counts)
    first = np.empty(q + 1, np.int64)
    first = first[: merged_columns(parent, counts, first) + 1]
    widths, last = np.diff(first), first[1:] - 1
    owner = np.append(np.repeat(np.arange(len(last)), widths), -1)
    child, walk, side, top = np.empty((4, len(last)), np.int64)
    lengths = np.empty(3, np.int64)
    size = widths + counts[last] - 1
    tree = Tree(first, size, owner[parent[last]], child, walk, side, top, lengths, owner[:q])
    _walk(tree)
    _stack(tree)
    return tree


@njit(cache=True)
def _lay_out(tree: Tree, columns: Columns, start: IntArray, rows: IntArray, relative: IntArray) -> None:
    """Rows of every supernode, its columns and then what its last column has below, and their places in the parent."""
    for s in range(len(tree.size)):
        k, last = start[s], tree.first[s + 1] - 1
        for j in range(tree.first[s], last):
            rows[k] = j
            k += 1
        rows[k : start[s + 1]] = columns.indices[columns.rows_at[last] : columns.rows_at[last] + columns.height[last]]
    for s in range(len(tree.size)):
        k = base = start[tree.parent[s]]
        for t in range(start[s] + tree.first[s + 1] - tree.first[s], start[s + 1]):
            while rows[k] != rows[t]:
                k += 1
            relative[t] = k - base


def supernodes(columns: Columns) -> Supernodes:
    """Supernodes of L, merged where that pays, and where their fronts will lie."""
    below = columns.rows_at + (columns.height > 1)
    parent = np.where(columns.height > 1, columns.indices[below], -1).astype(np.int64)
    tree = supernode_tree(parent, columns.height)
    start = np.concatenate([[0], np.cumsum(tree.size)])
    rows, relative = np.empty(start[-1], np.int64), np.empty(start[-1], np.int64)
    _lay_out(tree, columns, start, rows, relative)
    return Supernodes(tree, start, rows, relative)


@njit(cache=True)
def front_positions(S: Supernodes, rows: IntArray, cols: IntArray, out: IntArray) -> None:
    """out_t = place in the front of cols_t's supernode of entry (rows_t, cols_t), rows_t >= cols_t; -1 where absent."""
    for t in range(len(rows)):
        s = S.tree.owner[cols[t]]
        lo, hi = S.start[s], S.start[s + 1]
        k = np.searchsorted(S.rows[lo:hi], rows[t])
        absent = k == hi - lo or S.rows[lo + k] != rows[t]
        out[t] = -1 if absent else (cols[t] - S.tree.first[s]) * (hi - lo) + k


@njit(cache=True)
def _load_panel(s: int, S: Supernodes, columns: Columns, data: FloatArray, out: FloatArray) -> None:
    """Columns of L in supernode s into out (width * size,), zeros where L has none."""
    lo, size, first = S.start[s], S.tree.size[s], S.tree.first[s]
    for c in range(S.tree.first[s + 1] - first):
        k, base, at, rows_at = c, c * size, columns.at[first + c], columns.rows_at[first + c]
        if columns.height[first + c] == size - c:
            out[base + c : base + size] = data[at : at + size - c]
            continue
        for t in range(columns.height[first + c]):
            while S.rows[lo + k] != columns.indices[rows_at + t]:
                out[base + k] = 0.0
                k += 1
            out[base + k] = data[at + t]
            k += 1
        out[base + k : base + size] = 0.0


@njit(cache=True)
def _gather(relative: IntArray, big: int, source: FloatArray, width: int, size: int, out: FloatArray) -> None:
    """Z_II from the parent's front (big x big) into the lower right of the front `out` (size x size)."""
    u = len(relative)
    for i in range(u):
        row, to = relative[i] * big, (width + i) * size + width
        for k in range(i, u):
            out[to + k] = source[row + relative[k]]


@njit(cache=True)
def invert_by_loops(width: int, size: int, panel: FloatArray, front: FloatArray) -> None:
    """One column after the other, from the last: the recursion with supernodes of one column."""
    for c in range(width - 1, -1, -1):
        column, row = panel[c * size : (c + 1) * size], front[c * size : (c + 1) * size]
        pivot = 1.0 / column[c]
        row[c:] = 0.0
        for i in range(c + 1, size):
            y, total = pivot * column[i], 0.0
            at = i * size
            for k in range(i + 1, size):
                row[k] -= y * front[at + k]
                total += column[k] * front[at + k]
            row[i] -= y * front[at + i] + pivot * total
        total = 0.0
        for i in range(c + 1, size):
            total += column[i] * row[i]
        row[c] = pivot * (pivot - total)


@njit(cache=True)
def _by_blas(b: Blas, width: int, size: int, panel: FloatArray, front: FloatArray) -> None:
    below = size - width
    for c in range(width):
        front[c * size + c : c * size + width] = panel[c * size + c : c * size + width]
    invert_factor(b, width, front, 0, size)
    if below > 0:
        solve_right(b, N, below, width, panel, 0, size, panel, width, size)
        symm(b, below, width, -1.0, front, width * (size + 1), size, panel, width, size, 0.0, front, width, size)
        gemm(b, T, N, width, width, below, -1.0, panel, width, size, front, width, size, 1.0, front, 0, size)


@njit(cache=True)
def selected_inverse(
    S: Supernodes, columns: Columns, data: FloatArray, b: Blas, stacks: tuple[FloatArray, FloatArray],
    panel: FloatArray, ends: IntArray, order: IntArray, place: IntArray, out: FloatArray,
) -> None:  # fmt: skip
    """out_t = entry t of A^-1.

    place_t as `front_positions` gives it; order[ends[s]:ends[s+1]] are the entries in supernode s.
    """
    tree = S.tree
    for s in tree.walk:
        width, size, p = tree.first[s + 1] - tree.first[s], tree.size[s], tree.parent[s]
        front = stacks[tree.side[s]][tree.top[s] : tree.top[s] + size * size]
        _load_panel(s, S, columns, data, panel)
        if p >= 0:
            below = S.relative[S.start[s] + width : S.start[s + 1]]
            _gather(below, tree.size[p], stacks[tree.side[p]][tree.top[p] :], width, size, front)
        if width * size * size < LOOPS:
            invert_by_loops(width, size, panel, front)
        else:
            _by_blas(b, width, size, panel, front)
        for t in range(ends[s], ends[s + 1]):
            out[order[t]] = front[place[order[t]]]
