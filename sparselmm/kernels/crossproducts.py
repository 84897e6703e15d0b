"""Cross-products of coded designs, accumulated row by row: Z'WZ in blocks and Z'W[X y].

Z of a term is never formed: row i has the values `columns[i]` in the columns of level `codes[i]`.
"""

from numba import njit

from .._typing import FloatArray, IntArray


@njit(cache=True)
def level_blocks(codes: IntArray, columns: FloatArray, weights: FloatArray, out: FloatArray) -> None:
    """out[l] += sum over rows i of level l of w_i z_i z_i'; out (m, r, r)."""
    r = columns.shape[1]
    for i in range(len(codes)):
        block = out[codes[i]]
        for a in range(r):
            left = weights[i] * columns[i, a]
            for b in range(r):
                block[a, b] += left * columns[i, b]


@njit(cache=True)
def pair_blocks(pair: IntArray, za: FloatArray, zb: FloatArray, weights: FloatArray, out: FloatArray) -> None:
    """out[t] += sum over rows i of pair t of w_i za_i zb_i'; out (n_pairs, ra, rb)."""
    for i in range(len(pair)):
        block = out[pair[i]]
        for a in range(za.shape[1]):
            left = weights[i] * za[i, a]
            for b in range(zb.shape[1]):
                block[a, b] += left * zb[i, b]


@njit(cache=True)
def level_sums(codes: IntArray, columns: FloatArray, weights: FloatArray, V: FloatArray, out: FloatArray) -> None:
    """out[l, a] += sum over rows i of level l of w_i z_ia V_i; V (n, c), out (m, r, c)."""
    for i in range(len(codes)):
        block = out[codes[i]]
        for a in range(columns.shape[1]):
            left = weights[i] * columns[i, a]
            for c in range(V.shape[1]):
                block[a, c] += left * V[i, c]


@njit(cache=True)
def spread(codes: IntArray, columns: FloatArray, effects: FloatArray, out: FloatArray) -> None:
    """out_i += z_i' effects[codes_i]: Z b of one term; effects (m, r), out (n,)."""
    for i in range(len(codes)):
        for a in range(columns.shape[1]):
            out[i] += columns[i, a] * effects[codes[i], a]
