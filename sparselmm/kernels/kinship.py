"""Inbreeding by generations: relationships among the parents still needed, or shared ancestors of shallow pedigrees.

Both give what `pedigree.add_inbreeding` gives, whose passes over all ancestors of a sire's mates are slow where many
sires are used: 100,000 animals in 25 generations of random mating take 3.7 s there and 0.7 s here. Animals and bounds
are as in `pedigree`.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .._typing import FloatArray, IntArray

Int32Array: TypeAlias = NDArray[np.int32]
Run: TypeAlias = Callable[..., Any]  # (kernel, bounds of pieces, *arguments), as `engines.threads.parallel`

MOST_PIECES, CELLS = 16, 200_000  # of a table; cells of a piece, at least: about 0.2 ms


def in_one_piece(kernel: Callable[..., Any], bounds: IntArray, *args: Any) -> Any:
    """A `Run` without threads."""
    return kernel(bounds[0], bounds[-1], *args)


@njit(cache=True)
def last_uses(parents: IntArray, generation: IntArray, out: IntArray) -> None:
    """out_j = the last generation with offspring of j, 0 for none."""
    out[:] = 0
    for j in range(len(parents)):
        for c in range(2):
            if parents[j, c] >= 0:
                out[parents[j, c]] = max(out[parents[j, c]], generation[j])


def active_counts(generation: IntArray, last: IntArray) -> IntArray:
    """How many animals of generations up to g have offspring after g, for every g."""
    enter, leave = (np.bincount(x[last > 0], minlength=generation[-1] + 1) for x in (generation, last))
    return np.cumsum(enter - leave)


@njit(cache=True)
def _step(g: int, parents: IntArray, bounds: IntArray, last: IntArray, members: IntArray, count: int,
          slot: IntArray, up: IntArray) -> int:  # fmt: skip
    """Members of the next table, and in up (k, 2) the rows of this one that they are the mean of; returns how many.

    An animal that stays is the mean of itself, a parent that is not known is row `count`, of zeros.
    """
    kept = 0
    for i in range(count):
        if last[members[i]] > g:
            members[kept], up[kept, 0], up[kept, 1] = members[i], i, i
            kept += 1
    for j in range(bounds[g], bounds[g + 1]):
        if last[j] > g:
            for c in range(2):
                up[kept, c] = slot[parents[j, c]] if parents[j, c] >= 0 else count
            members[kept] = j
            kept += 1
    for i in range(kept):
        slot[members[i]] = i
    return kept


@njit(cache=True)
def _look_up(begin: int, end: int, parents: IntArray, slot: IntArray, A: FloatArray, F: FloatArray) -> None:
    """F_j = A[sire_j, dam_j]/2 for animals begin ... end-1."""
    for j in range(begin, end):
        if parents[j, 0] >= 0 and parents[j, 1] >= 0:
            F[j] = 0.5 * A[slot[parents[j, 0]], slot[parents[j, 1]]]


@njit(cache=True, nogil=True)
def _average(begin: int, end: int, first: int, count: int, kept: int, members: IntArray, up: IntArray, F: FloatArray,
             A: FloatArray, B: FloatArray) -> None:  # fmt: skip
    """Rows begin ... end-1 of the next table B (kept, kept) from A (count, count); animals from `first` on are new."""
    h = np.empty(count + 1)
    for i in range(begin, end):
        for k in range(count + 1):
            h[k] = 0.5 * (A[up[i, 0], k] + A[up[i, 1], k])
        for k in range(kept):
            B[i, k] = 0.5 * (h[up[k, 0]] + h[up[k, 1]])
        if members[i] >= first:
            B[i, i] = 1.0 + F[members[i]]


def by_table(parents: IntArray, bounds: IntArray, last: IntArray, size: int, F: FloatArray, run: Run) -> None:
    """F_j = A[sire_j, dam_j]/2 from the table of A among the parents still needed (Emik & Terrill 1949).

    size: the largest number of these at a time. F: (n,) zeros. run: calls a kernel by pieces of rows. Time: the sum of
    the squares of the sizes.
    """
    A, B = np.zeros((size + 1, size + 1)), np.zeros((size + 1, size + 1))
    members, slot, up = np.empty(size, np.int64), np.empty(len(F), np.int64), np.empty((size, 2), np.int64)
    count = 0
    for g in range(len(bounds) - 1):
        _look_up(bounds[g], bounds[g + 1], parents, slot, A, F)
        kept = _step(g, parents, bounds, last, members, count, slot, up)
        rows = np.linspace(0, kept, min(MOST_PIECES, 1 + kept * count // CELLS) + 1).astype(np.int64)
        run(_average, rows, bounds[g], count, kept, members, up, F, A, B)
        B[kept, : kept + 1] = 0.0
        B[: kept + 1, kept] = 0.0
        A, B, count = B, A, kept


@njit(cache=True)
def ancestry_bound(parents: IntArray, last: IntArray) -> float:
    """At most so many pairs of a parent and one of its ancestors, counting an ancestor once for every path to it."""
    size, total = np.ones(len(last)), 0.0
    for j in range(len(last)):
        for c in range(2):
            if parents[j, c] >= 0:
                size[j] += size[parents[j, c]]
        size[j] = min(size[j], j + 1.0)
        if last[j] > 0:
            total += size[j]
    return total


@njit(cache=True)
def _add_ancestors(j: int, parents: IntArray, start: IntArray, ids: Int32Array, shares: FloatArray) -> int:
    """Row j of T: half of its parents' rows, merged in the order of animals, then itself; returns the end."""
    to, a, a_end, b, b_end = start[j], 0, 0, 0, 0
    if parents[j, 0] >= 0:
        a, a_end = start[parents[j, 0]], start[parents[j, 0] + 1]
    if parents[j, 1] >= 0:
        b, b_end = start[parents[j, 1]], start[parents[j, 1] + 1]
    while a < a_end or b < b_end:
        take = min(ids[a] if a < a_end else len(parents), ids[b] if b < b_end else len(parents))
        ids[to], shares[to] = take, 0.0
        if a < a_end and ids[a] == take:
            shares[to] += 0.5 * shares[a]
            a += 1
        if b < b_end and ids[b] == take:
            shares[to] += 0.5 * shares[b]
            b += 1
        to += 1
    ids[to], shares[to] = j, 1.0
    return to + 1


@njit(cache=True)
def by_ancestors(parents: IntArray, bounds: IntArray, last: IntArray, pairs: IntArray, c: int, ids: Int32Array,
                 shares: FloatArray, F: FloatArray, d: FloatArray) -> None:  # fmt: skip
    """F_j = A[sire_j, dam_j]/2 = sum_a T[sire, a] d_a T[dam, a]/2 over shared ancestors, with the rows of T of parents.

    pairs: the animals with two known parents, sorted by generation, then by the parent of sex c, whose row is spread
    once. ids, shares: room for `ancestry_bound`. F: (n,) zeros. d: (n,), filled.
    """
    n = len(F)
    start, spread, of, t = np.zeros(n + 1, np.int64), np.zeros(n), -1, 0
    for g in range(len(bounds) - 1):
        while t < len(pairs) and pairs[t] < bounds[g + 1]:
            j, t = pairs[t], t + 1
            if parents[j, c] != of:
                if of >= 0:
                    for k in range(start[of], start[of + 1]):
                        spread[ids[k]] = 0.0
                of = parents[j, c]
                for k in range(start[of], start[of + 1]):
                    spread[ids[k]] = shares[k] * d[ids[k]]
            mate, total = parents[j, 1 - c], 0.0
            for k in range(start[mate], start[mate + 1]):
                total += shares[k] * spread[ids[k]]
            F[j] = 0.5 * total
        for j in range(bounds[g], bounds[g + 1]):
            d[j] = 1.0
            for k in range(2):
                if parents[j, k] >= 0:
                    d[j] -= 0.25 * (1.0 + F[parents[j, k]])
            start[j + 1] = _add_ancestors(j, parents, start, ids, shares) if last[j] > 0 else start[j]
