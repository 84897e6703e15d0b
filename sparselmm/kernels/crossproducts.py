"""Cross-products of coded designs, accumulated row by row: Z'WZ in blocks and Z'W[X y].

Z of a term is never formed: row i has the values `columns[i]` in the columns of level `codes[i]`.
"""

from numba import njit

from .._typing import FloatArray, IntArray


@njit(cache=True)
def block_sums(place: IntArray, left: FloatArray, right: FloatArray, weights: FloatArray, out: FloatArray) -> None:
    """out[t] += sum over rows i of place t of w_i left_i right_i'; left (n, a), right (n, b), out (m, a, b).

    Places are levels for Z'WZ within a term and Z'WV, pairs of levels for Z'WZ between two terms.
    """
    for i in range(len(place)):
        block = out[place[i]]
        for a in range(left.shape[1]):
            value = weights[i] * left[i, a]
            for b in range(right.shape[1]):
                block[a, b] += value * right[i, b]


@njit(cache=True)
def spread(codes: IntArray, columns: FloatArray, effects: FloatArray, out: FloatArray) -> None:
    """out_i += z_i' effects[codes_i]: Z b of one term; effects (m, r), out (n,)."""
    for i in range(len(codes)):
        for a in range(columns.shape[1]):
            out[i] += columns[i, a] * effects[codes[i], a]
