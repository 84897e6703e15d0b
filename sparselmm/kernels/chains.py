"""Rows that are linked: products with a sparse K, with what is linear in K, and with the covariance of a Markov chain.

Link l joins the rows later[l] and earlier[l]. In a chain a row is `later` in one link at most and `earlier` in one at
most, and its links come forwards in time.
"""

from numba import njit

from .._typing import FloatArray, IntArray


@njit(cache=True)
def pair_products(
    pair: IntArray, left: IntArray, right: IntArray, which: IntArray, values: FloatArray, za: FloatArray,
    zb: FloatArray, out: FloatArray,
) -> None:  # fmt: skip
    """out[pair_t] += values[which_t] za[left_t] zb[right_t]'; out (n_pairs, ra, rb), a pair of -1 is left out."""
    for t in range(len(pair)):
        if pair[t] < 0:
            continue
        block = out[pair[t]]
        for a in range(za.shape[1]):
            scaled = values[which[t]] * za[left[t], a]
            if scaled != 0.0:  # most are where the effects are those of traits
                for b in range(zb.shape[1]):
                    block[a, b] += scaled * zb[right[t], b]


@njit(cache=True)
def pair_forms(
    pair: IntArray, left: IntArray, right: IntArray, which: IntArray, blocks: FloatArray, za: FloatArray,
    zb: FloatArray, out: FloatArray,
) -> None:  # fmt: skip
    """out[which_t] += za[left_t]' blocks[pair_t] zb[right_t]: the transpose of `pair_products`."""
    for t in range(len(pair)):
        if pair[t] < 0:
            continue
        block = blocks[pair[t]]
        for a in range(za.shape[1]):
            if za[left[t], a] != 0.0:
                total = 0.0
                for b in range(zb.shape[1]):
                    total += block[a, b] * zb[right[t], b]
                out[which[t]] += za[left[t], a] * total


@njit(cache=True)
def entry_sums(rows: IntArray, levels: IntArray, columns: FloatArray, V: FloatArray, out: FloatArray) -> None:
    """out[l, a] += sum over the entries t of level l of columns_ta V[rows_t]: Z'V; V (n, c), out (m, r, c)."""
    for t in range(len(rows)):
        block = out[levels[t]]
        for a in range(columns.shape[1]):
            for c in range(V.shape[1]):
                block[a, c] += columns[t, a] * V[rows[t], c]


@njit(cache=True)
def entry_rows(rows: IntArray, levels: IntArray, columns: FloatArray, S: FloatArray, out: FloatArray) -> None:
    """out[rows_t] += sum_a columns_ta S[levels_t, a]: Z S, the transpose of `entry_sums`; S (m, r, c), out (n, c)."""
    for t in range(len(rows)):
        for a in range(columns.shape[1]):
            for c in range(out.shape[1]):
                out[rows[t], c] += columns[t, a] * S[levels[t], a, c]


@njit(cache=True)
def chain_forms(later: IntArray, earlier: IntArray, V: FloatArray, Y: FloatArray, out: FloatArray) -> None:
    """out (n + L,) += V_i'Y_i of each row and V_i'Y_j + V_j'Y_i of each link; V, Y (n, c)."""
    n = len(V)
    for i in range(n):
        for c in range(V.shape[1]):
            out[i] += V[i, c] * Y[i, c]
    for l in range(len(later)):  # noqa: E741
        i, j = later[l], earlier[l]
        for c in range(V.shape[1]):
            out[n + l] += V[i, c] * Y[j, c] + V[j, c] * Y[i, c]


@njit(cache=True)
def chain_product(
    later: IntArray, earlier: IntArray, diagonal: FloatArray, beside: FloatArray, V: FloatArray, out: FloatArray
) -> None:
    """out = K V for the symmetric K with `diagonal` (n,) and K[later_l, earlier_l] = beside_l; V, out (n, c)."""
    for i in range(len(diagonal)):
        for c in range(V.shape[1]):
            out[i, c] = diagonal[i] * V[i, c]
    for l in range(len(later)):  # noqa: E741
        for c in range(V.shape[1]):
            out[later[l], c] += beside[l] * V[earlier[l], c]
            out[earlier[l], c] += beside[l] * V[later[l], c]


@njit(cache=True)
def markov_product(later: IntArray, earlier: IntArray, cor: FloatArray, V: FloatArray, out: FloatArray) -> None:
    """out = C V, C_ij the product of cor over the links between i and j: forwards, backwards, each row counted once."""
    back = V.copy()
    out[:] = V
    for l in range(len(later)):  # noqa: E741
        for c in range(V.shape[1]):
            out[later[l], c] += cor[l] * out[earlier[l], c]
    for l in range(len(later) - 1, -1, -1):  # noqa: E741
        for c in range(V.shape[1]):
            back[earlier[l], c] += cor[l] * back[later[l], c]
    for i in range(len(V)):
        for c in range(V.shape[1]):
            out[i, c] += back[i, c] - V[i, c]
