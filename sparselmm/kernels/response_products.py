"""Cross-products of one design in the layout of `responses`.

Row i has Z[i] in level codes[i] of the absorbed term and tail[i] in the columns places[i] of the tail, which are the
entries local[i] among those that the level has.
"""

from numba import njit

from .._typing import FloatArray, IntArray


@njit(cache=True)
def design_products(
    codes: IntArray, Z: FloatArray, places: IntArray, local: IntArray, tail: FloatArray, weights: FloatArray,
    G: FloatArray, C: FloatArray, D: FloatArray,
) -> None:  # fmt: skip
    """G (m, r, r), C (m, r, e) and D (d, d), all of them sums over rows of w x x'."""
    G[:], C[:], D[:] = 0.0, 0.0, 0.0
    for i in range(len(codes)):
        level, w = codes[i], weights[i]
        for a in range(Z.shape[1]):
            value = w * Z[i, a]
            for b in range(Z.shape[1]):
                G[level, a, b] += value * Z[i, b]
            for t in range(tail.shape[1]):
                C[level, a, local[i, t]] += value * tail[i, t]
        for t in range(tail.shape[1]):
            value = w * tail[i, t]
            for u in range(tail.shape[1]):
                D[places[i, t], places[i, u]] += value * tail[i, u]


@njit(cache=True)
def response_sums(
    codes: IntArray, Z: FloatArray, places: IntArray, tail: FloatArray, weights: FloatArray, y: FloatArray,
    c: FloatArray, s: FloatArray,
) -> float:  # fmt: skip
    """c (m, r) = Z'Wy and s (d,) of the tail; returns y'Wy."""
    c[:], s[:], total = 0.0, 0.0, 0.0
    for i in range(len(codes)):
        value = weights[i] * y[i]
        total += value * y[i]
        for a in range(Z.shape[1]):
            c[codes[i], a] += value * Z[i, a]
        for t in range(tail.shape[1]):
            s[places[i, t]] += value * tail[i, t]
    return total


@njit(cache=True, nogil=True)
def all_designs(
    begin: int, end: int, codes: IntArray, Z: FloatArray, places: IntArray, local: IntArray, tail: FloatArray,
    W: FloatArray, G: FloatArray, C: FloatArray, D: FloatArray,
) -> None:  # fmt: skip
    """`design_products` for each row of weights W (g, n)."""
    for g in range(begin, end):
        design_products(codes, Z, places, local, tail, W[g], G[g], C[g], D[g])


@njit(cache=True, nogil=True)
def all_sums(
    begin: int, end: int, codes: IntArray, Z: FloatArray, places: IntArray, tail: FloatArray, W: FloatArray,
    Y: FloatArray, c: FloatArray, s: FloatArray, yy: FloatArray,
) -> None:  # fmt: skip
    """`response_sums` for each row of Y (v, n), with its row of W or the one row that all share."""
    for j in range(begin, end):
        w = W[j] if len(W) > 1 else W[0]
        yy[j] = response_sums(codes, Z, places, tail, w, Y[j], c[j], s[j])
