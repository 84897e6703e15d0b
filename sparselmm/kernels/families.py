"""Markers against a block-diagonal V^-1: for each marker g all g'B g and g'h in one pass over the people.

People are sorted by the size of their family; those of size s, n_s families, stand as an s x n_s array from `base` on,
so that every inner loop runs over families. B of a family is packed (diagonal once, the others twice): entry (a, b)
with b <= a of all n_s families lies at offset + (a(a+1)/2 + b) n_s. Numbers do not depend on how markers are divided
among blocks.
"""

import numpy as np
from numba import njit

from .._typing import AnyArray, BoolArray, FloatArray, IntArray

TILE = 256  # families at a time: their part of B, read once for all markers of a block, stays in the cache
MISSING = -127  # of a genotype in bytes, as bed-reader has it
# Sums may be vectorised; NaN and infinity keep their meaning. `forceinline`: see tests/kernels/test_same_bits.py.
REORDER = {"reassoc", "contract"}


@njit(cache=True, nogil=True)
def marker_moments(begin: int, end: int, raw: AnyArray, people: IntArray, count: IntArray, first: FloatArray,
                   total: FloatArray, low: FloatArray, high: FloatArray) -> None:  # fmt: skip
    """Of markers begin ... end-1 over `people` (columns of raw): how many are known, the first one, the sum of their
    differences from it, the least and the largest.
    """
    for k in range(begin, end):
        n, origin, s, least, most = 0, 0.0, 0.0, np.inf, -np.inf
        for i in people:
            x = np.float64(raw[k, i])
            if x == MISSING or np.isnan(x):
                continue
            if n == 0:
                origin = x
            n += 1
            s += x - origin
            least, most = min(least, x), max(most, x)
        count[k], first[k], total[k], low[k], high[k] = n, origin, s, least, most


@njit(cache=True, nogil=True)
def fill_markers(raw: AnyArray, people: IntArray, centre: FloatArray, value: FloatArray, out: FloatArray) -> None:
    """out (k, m) = genotypes of `people` less centre_k, value_k (k,) where they are missing."""
    for k in range(len(raw)):
        for i in range(len(people)):
            x = np.float64(raw[k, people[i]])
            out[k, i] = value[k] if x == MISSING or np.isnan(x) else x - centre[k]


@njit(cache=True, nogil=True)
def mark_missing(raw: AnyArray, people: IntArray, out: BoolArray) -> None:
    """out (m,) = whose genotype of one marker, raw (samples,), is missing."""
    for i in range(len(people)):
        x = np.float64(raw[people[i]])
        out[i] = x == MISSING or np.isnan(x)


@njit(cache=True, forceinline=True, nogil=True, fastmath=REORDER)
def _tile(x: FloatArray, size: int, width: int, n: int, B: FloatArray, at: int) -> float:
    """sum over `width` families of x'B x; x (size, TILE)."""
    total = 0.0
    for a in range(size):
        for b in range(a + 1):
            start = at + (a * (a + 1) // 2 + b) * n
            block, left, right = B[start : start + width], x[a, :width], x[b, :width]
            part = 0.0
            for f in range(width):
                part += block[f] * left[f] * right[f]
            total += part
    return total


@njit(cache=True, forceinline=True, nogil=True, fastmath=REORDER)
def _dot(h: FloatArray, x: FloatArray) -> float:
    total = 0.0
    for f in range(len(x)):
        total += h[f] * x[f]
    return total


@njit(cache=True, nogil=True)
def _load(raw: AnyArray, people: IntArray, centre: float, value: float, x: FloatArray) -> None:
    """x (width,) = one marker's genotypes raw (samples,) at `people` less `centre`, `value` where they are missing."""
    for f in range(len(people)):
        g = np.float64(raw[people[f]])
        x[f] = value if g == MISSING or np.isnan(g) else g - centre


@njit(cache=True, nogil=True)
def family_products(
    begin: int, end: int, raw: AnyArray, centre: FloatArray, value: FloatArray, people: IntArray, sizes: IntArray,
    counts: IntArray, B: FloatArray, h: FloatArray, quadratic: FloatArray, linear: FloatArray,
) -> None:  # fmt: skip
    """quadratic (k, c) = g'B_c g and linear (k, d) = g'h_d of markers begin ... end-1, which are zero before.

    raw (k, samples), from which centre (k,) is taken off; value (k,) of missing genotypes; people (m,) in the order of
    families; sizes, counts: of each group of families. B (c, packed); h (d, m).
    """
    x = np.empty((np.max(sizes), TILE))
    base, packed = 0, 0
    for group in range(len(sizes)):
        s, n = sizes[group], counts[group]
        for first in range(0, n, TILE):
            width = min(TILE, n - first)
            for k in range(begin, end):
                for a in range(s):
                    start = base + a * n + first
                    _load(raw[k], people[start : start + width], centre[k], value[k], x[a, :width])
                    for d in range(len(h)):
                        linear[k, d] += _dot(h[d, start : start + width], x[a, :width])
                for c in range(len(B)):
                    quadratic[k, c] += _tile(x, s, width, n, B[c], packed + first)
        base += s * n
        packed += s * (s + 1) // 2 * n
