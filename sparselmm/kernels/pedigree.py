"""Pedigrees: generations, inbreeding, relationships and Henderson's inverse.

Animals are 0 ... n-1, `parents` (n, 2) holds their sires and dams, -1 where unknown. A = T D T': row j of the unit
lower triangular T^-1 is e_j - e_sire/2 - e_dam/2, and D has d_j = 1 - (1 + F_sire)/4 - (1 + F_dam)/4 over the known
parents. `bounds` (n_generations + 1,) says where each generation starts: all but the first function want animals
sorted by generation.
"""

from typing import TypeAlias

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .._typing import BoolArray, FloatArray, IntArray
from .codes import counting_sort
from .kinship import Run, active_counts, ancestry_bound, by_ancestors, by_table, in_one_piece, last_uses

Int32Array: TypeAlias = NDArray[np.int32]

WIDEST_TABLE, MOST_CELLS = 5000, 1e9  # relationships among so many parents at a time: 0.4 GB, 1 s altogether
MOST_ANCESTORS = 1e8  # pairs of a parent and an ancestor: 1.2 GB
LANES = 8  # columns of A computed together: a row of X is one cache line


@njit(cache=True)
def number_generations(parents: IntArray, stack: IntArray, out: IntArray) -> int:
    """out_j = 0 for founders, else 1 + the later of the parents' generations; O(n).

    stack: (n,) workspace. Returns 0, or the length k of a loop: stack[i+1] is a parent of stack[i] for i < k-1, and
    stack[0] one of stack[k-1].
    """
    new, pending = -1, -2
    out[:] = new
    for root in range(len(out)):
        depth = 0 if out[root] == new else -1
        stack[0] = root
        while depth >= 0:
            j, generation = stack[depth], 0
            out[j] = pending
            for parent in parents[j]:
                if parent >= 0 and out[parent] == pending:
                    return _keep_loop(stack, depth, parent)
                if parent >= 0 and out[parent] == new:
                    depth += 1
                    stack[depth] = parent
                    break
                if parent >= 0:
                    generation = max(generation, out[parent] + 1)
            if stack[depth] == j:
                out[j] = generation
                depth -= 1
    return 0


@njit(cache=True)
def _keep_loop(stack: IntArray, depth: int, start: int) -> int:
    """Move what lies on the stack from `start` to `depth` to its front; returns how many."""
    first = depth
    while stack[first] != start:
        first -= 1
    length = depth + 1 - first
    for i in range(length):
        stack[i] = stack[first + i]
    return length


@njit(cache=True)
def mendelian_variances(parents: IntArray | Int32Array, F: FloatArray, start: int, stop: int, out: FloatArray) -> None:
    """out_j = d_j for start <= j < stop; parents: (n, 2), or with more columns behind."""
    for j in range(start, stop):
        out[j] = 1.0
        for c in range(2):
            if parents[j, c] >= 0:
                out[j] -= 0.25 * (1.0 + F[parents[j, c]])


@njit(inline="always")
def _visit(
    j: int, nodes: Int32Array, bounds: IntArray, count: IntArray, place: IntArray, seen: BoolArray, X: FloatArray
) -> None:
    """Give j the next slot of its generation, with a row of zeros in X, unless it has one.

    `seen` is apart from `nodes` because the branch waits for it: 25 ns an animal, not 110.
    """
    if not seen[j]:
        seen[j] = True
        g = nodes[j, 2]
        slot = bounds[g] + count[g]
        count[g] += 1
        nodes[j, 3], place[slot] = slot, j
        for b in range(LANES):
            X[slot, b] = 0.0


@njit(cache=True)
def relate(
    lanes: IntArray, others: IntArray, nodes: Int32Array, bounds: IntArray, d: FloatArray,
    count: IntArray, place: IntArray, seen: BoolArray, up: IntArray, X: FloatArray,
) -> None:  # fmt: skip
    """X[nodes[j, 3], b] = A[j, lanes_b] for j in `others` and all ancestors: A e = T (D (T'e)) (Colleau 2002).

    lanes: at most LANES animals. The rest is workspace (`_workspace`): count for each generation up to that of lanes
    and others. An animal visited has the next slot of its generation, so that what is in use of X stays in cache.
    """
    for j in others:
        _visit(j, nodes, bounds, count, place, seen, X)
    for j in lanes:
        _visit(j, nodes, bounds, count, place, seen, X)
    for b in range(len(lanes)):
        X[nodes[lanes[b], 3], b] = 1.0
    for g in range(len(count) - 1, -1, -1):
        for k in range(bounds[g], bounds[g] + count[g]):
            for c in range(2):
                parent = nodes[place[k], c]
                up[k, c] = -1
                if parent >= 0:
                    _visit(parent, nodes, bounds, count, place, seen, X)
                    up[k, c] = slot = nodes[parent, 3]
                    for b in range(LANES):
                        X[slot, b] += 0.5 * X[k, b]
    for g in range(len(count)):
        for k in range(bounds[g], bounds[g] + count[g]):
            seen[place[k]] = False
            for b in range(LANES):
                X[k, b] *= d[place[k]]
            for c in range(2):
                slot = up[k, c]
                if slot >= 0:
                    for b in range(LANES):
                        X[k, b] += 0.5 * X[slot, b]
        count[g] = 0


def _workspace(
    parents: IntArray, generation: IntArray, bounds: IntArray
) -> tuple[Int32Array, tuple[IntArray, IntArray, BoolArray, IntArray, FloatArray]]:
    """nodes, and (count, place, seen, up, X) for `relate`; what is never visited takes no memory.

    nodes: (n, 4) sire, dam, generation and slot of an animal side by side, in 32 bits: one cache miss a visit.
    """
    n = len(parents)
    nodes = np.column_stack([parents, generation, generation]).astype(np.int32)
    count, place, seen = np.zeros(len(bounds) - 1, np.int64), np.empty(n, np.int64), np.zeros(n, np.bool_)
    return nodes, (count, place, seen, np.empty((n, 2), np.int64), np.empty((n, LANES)))


@njit(cache=True)
def _next_batch(start: int, pairs: IntArray, c: int, nodes: Int32Array, lanes: IntArray, lane: IntArray) -> int:
    """Fill `lanes` with the next parents of sex c of one generation's offspring, and `lane` with each one's place.

    Returns where these offspring end.
    """
    stop, b = start, -1
    while stop < len(pairs) and nodes[pairs[stop], 2] == nodes[pairs[start], 2]:
        parent = nodes[pairs[stop], c]
        if b < 0 or lanes[b] != parent:
            if b == LANES - 1:
                break
            b += 1
            lanes[b] = parent
        lane[stop] = b
        stop += 1
    return stop


@njit(cache=True)
def add_inbreeding(
    pairs: IntArray, c: int, nodes: Int32Array, bounds: IntArray, count: IntArray, place: IntArray, seen: BoolArray,
    up: IntArray, X: FloatArray, F: FloatArray, d: FloatArray,
) -> None:  # fmt: skip
    """F_j = A[sire_j, dam_j]/2 and d_j, one generation after the other (Sargolzaei, Iwaisaki & Colleau 2005).

    pairs: the animals with two known parents, sorted by generation, then by the parent of sex c (0 sire, 1 dam): one
    pass over the ancestors of LANES of these and their mates serves all offspring. F: (n,) zeros. d: (n,).
    """
    lanes, lane, mates = np.empty(LANES, np.int64), np.empty(len(pairs), np.int64), np.empty(len(pairs), np.int64)
    for i in range(len(pairs)):
        mates[i] = nodes[pairs[i], 1 - c]
    start = known = 0
    while start < len(pairs):
        g = nodes[pairs[start], 2]
        mendelian_variances(nodes, F, known, bounds[g], d)
        known = bounds[g]
        stop = _next_batch(start, pairs, c, nodes, lanes, lane)
        relate(lanes[: lane[stop - 1] + 1], mates[start:stop], nodes, bounds, d, count[:g], place, seen, up, X)
        for i in range(start, stop):
            F[pairs[i]] = 0.5 * X[nodes[mates[i], 3], lane[i]]
        start = stop
    mendelian_variances(nodes, F, known, len(F), d)


def inbreeding(
    parents: IntArray, generation: IntArray, bounds: IntArray, run: Run = in_one_piece
) -> tuple[FloatArray, FloatArray]:
    """F (n,) and d (n,), by a table, by lists of ancestors or by passes over them, whichever fits."""
    F, d, last = np.zeros(len(parents)), np.empty(len(parents)), np.empty(len(parents), np.int64)
    last_uses(parents, generation, last)
    active = active_counts(generation, last).astype(np.float64)
    if active.max() <= WIDEST_TABLE and active @ active <= MOST_CELLS:
        by_table(parents, bounds, last, int(active.max()), F, run)
        mendelian_variances(parents, F, 0, len(F), d)
        return F, d
    pairs, c = _pairs(parents, generation)
    room = ancestry_bound(parents, last)
    if room <= MOST_ANCESTORS:
        ids, shares = np.empty(int(room), np.int32), np.empty(int(room))
        by_ancestors(parents, bounds, last, pairs, c, ids, shares, F, d)
        return F, d
    nodes, (count, place, seen, up, X) = _workspace(parents, generation, bounds)
    add_inbreeding(pairs, c, nodes, bounds, count, place, seen, up, X, F, d)
    return F, d


def _pairs(parents: IntArray, generation: IntArray) -> tuple[IntArray, int]:
    """Animals with two known parents, by generation, then by the parent of the sex with fewer of them, and that sex."""
    both = np.flatnonzero((parents >= 0).all(axis=1))
    orders = [_by_parent(both, parents[:, c], generation) for c in (0, 1)]
    runs = [np.count_nonzero(np.diff(parents[order, c])) for c, order in enumerate(orders)]
    c = int(runs[1] < runs[0])
    return orders[c], c


def _by_parent(animals: IntArray, parent: IntArray, generation: IntArray) -> IntArray:
    """`animals` sorted by generation, then parent."""
    n = len(parent)
    by_parent, out = np.empty_like(animals), np.empty_like(animals)
    counting_sort(animals, parent, np.zeros(n + 1, np.int64), by_parent)
    counting_sort(by_parent, generation, np.zeros(n + 1, np.int64), out)
    return out


def relationships(
    animals: IntArray, parents: IntArray, generation: IntArray, bounds: IntArray, d: FloatArray
) -> FloatArray:
    """A among `animals` (k, k), LANES columns at a time; O(n) memory beside the result."""
    nodes, (count, place, seen, up, X) = _workspace(parents, generation, bounds)
    out = np.empty((len(animals), len(animals)))
    for start in range(0, len(animals), LANES):
        lanes = animals[start : start + LANES]
        relate(lanes, animals, nodes, bounds, d, count, place, seen, up, X)
        out[:, start : start + LANES] = X[nodes[animals, 3], : len(lanes)]
    return out


@njit(cache=True)
def relationship_times(parents: IntArray, d: FloatArray, x: FloatArray) -> None:
    """x = A x = T D T'x, (n, c), in O(n c) (Colleau 2002); parents (n, 2) come before their offspring."""
    n, c = x.shape
    for j in range(n - 1, -1, -1):
        for parent in parents[j]:
            if parent >= 0:
                for k in range(c):
                    x[parent, k] += 0.5 * x[j, k]
    for j in range(n):
        for k in range(c):
            x[j, k] *= d[j]
        for parent in parents[j]:
            if parent >= 0:
                for k in range(c):
                    x[j, k] += 0.5 * x[parent, k]


@njit(cache=True)
def henderson_entries(parents: IntArray, d: FloatArray, rows: IntArray, cols: IntArray, values: FloatArray) -> int:
    """Lower triangle of sum_j w_j w_j'/d_j, w_j = e_j - e_sire/2 - e_dam/2, with repeated entries; returns how many.

    Henderson (1976) and Quaas (1976). A parent may be a group, numbered from n on (Quaas 1988). Outputs: (6n,).
    """
    count = 0
    where, w = np.empty(3, np.int64), np.array([1.0, -0.5, -0.5])
    for j in range(len(parents)):
        where[0], where[1], where[2] = j, parents[j, 0], parents[j, 1]
        for a in range(3):
            for b in range(a + 1):
                if where[a] >= 0 and where[b] >= 0:
                    rows[count] = max(where[a], where[b])
                    cols[count] = min(where[a], where[b])
                    values[count] = w[a] * w[b] / d[j]
                    if a != b and where[a] == where[b]:  # selfing: both halves of the cross-product
                        values[count] *= 2.0
                    count += 1
    return count


@njit(cache=True)
def _sum_repeated(order: IntArray, rows: IntArray, cols: IntArray, values: FloatArray, out_rows: IntArray,
                  out_cols: IntArray, out: FloatArray) -> int:  # fmt: skip
    """Entries along `order`, in which equal places are neighbours, each place once; returns how many."""
    last = -1
    for t in order:
        if last < 0 or out_rows[last] != rows[t] or out_cols[last] != cols[t]:
            last += 1
            out_rows[last], out_cols[last], out[last] = rows[t], cols[t], 0.0
        out[last] += values[t]
    return last + 1


def henderson_inverse(parents: IntArray, d: FloatArray, size: int) -> tuple[IntArray, IntArray, FloatArray]:
    """Rows, columns and values of the lower triangle of A^-1 (size x size), sorted by column, then row.

    size: n, or n plus the number of groups.
    """
    most = 6 * len(parents)
    rows, cols, values = np.empty(most, np.int64), np.empty(most, np.int64), np.empty(most)
    count = henderson_entries(parents, d, rows, cols, values)
    rows, cols, values = rows[:count], cols[:count], values[:count]
    by_row, order = np.empty(count, np.int64), np.empty(count, np.int64)
    counting_sort(np.arange(count), rows, np.zeros(size + 1, np.int64), by_row)
    counting_sort(by_row, cols, np.zeros(size + 1, np.int64), order)
    out = np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count)
    kept = _sum_repeated(order, rows, cols, values, *out)
    return out[0][:kept].copy(), out[1][:kept].copy(), out[2][:kept].copy()
