"""Codes of interactions and nested factors from integer codes: only the combinations that occur, in sorted order."""

from collections.abc import Sequence

import numpy as np
from numba import njit

from .._typing import AnyArray, IntArray


@njit(cache=True)
def code_integers(values: IntArray, low: int, code_of: AnyArray, codes: AnyArray) -> None:
    """codes (n,) = rank of each value among the distinct ones; code_of: -1 for every value from low to the highest."""
    for value in values:
        code_of[value - low] = 0
    count = 0
    for i in range(len(code_of)):
        if code_of[i] == 0:
            code_of[i] = count
            count += 1
    for i in range(len(values)):
        codes[i] = code_of[values[i] - low]


@njit(cache=True)
def counting_sort(order: IntArray, codes: IntArray, start: IntArray, out: IntArray) -> None:
    """Sort the rows `order` (n,) by codes[order], stably, into `out` (n,).

    start: (m+1,) zeros, workspace for the codes 0 ... m-1.
    """
    for row in order:
        start[codes[row] + 1] += 1
    for level in range(1, len(start)):
        start[level] += start[level - 1]
    for row in order:
        level = codes[row]
        out[start[level]] = row
        start[level] += 1


@njit(cache=True)
def number_pairs(order: IntArray, a: IntArray, b: IntArray, codes: IntArray, first: IntArray) -> int:
    """Number the distinct pairs (a, b) along `order`, in which equal pairs are neighbours.

    codes: (n,) gets each row's pair number. first: (n,) gets in its front a row of each pair. Returns their count.
    """
    count = 0
    for i in range(len(order)):
        row = order[i]
        if i == 0 or a[row] != a[order[i - 1]] or b[row] != b[order[i - 1]]:
            first[count] = row
            count += 1
        codes[row] = count - 1
    return count


def pair_codes(a: IntArray, n_a: int, b: IntArray, n_b: int) -> tuple[IntArray, IntArray]:
    """Codes of the pairs (a, b) that occur, sorted by a, then b; O(n + n_a + n_b).

    a, b: (n,) codes 0 ... n_a-1 and 0 ... n_b-1. Returns codes (n,) and a row of each pair (m,).
    """
    n = len(a)
    by_b, by_both = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64)
    counting_sort(np.arange(n), b, np.zeros(n_b + 1, dtype=np.int64), by_b)
    counting_sort(by_b, a, np.zeros(n_a + 1, dtype=np.int64), by_both)
    codes = by_b  # the first order has served
    m = number_pairs(by_both, a, b, codes, first := np.empty(n, dtype=np.int64))
    return codes, first[:m].copy()


def interaction_codes(factors: Sequence[AnyArray], sizes: Sequence[int]) -> tuple[AnyArray, IntArray]:
    """Codes of the combinations of several factors that occur, sorted by the first factor, then the second, ...

    factors: each (n,) codes 0 ... size-1. They are joined two at a time, so the product of the sizes is never
    formed. Returns codes (n,) and part_codes (m, number of factors): what each combination is made of.
    """
    codes, size = factors[0], sizes[0]
    first = np.empty(0, dtype=np.int64)
    for factor, n_levels in zip(factors[1:], sizes[1:], strict=True):
        codes, first = pair_codes(codes, size, factor, n_levels)
        size = len(first)
    if len(factors) == 1:
        return codes, np.arange(size, dtype=np.int64)[:, None]
    return codes, np.column_stack([f[first] for f in factors])
