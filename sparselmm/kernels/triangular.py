"""Back substitution with the transpose of a sparse Cholesky factor."""

from numba import njit

from .._typing import FloatArray, IntArray


@njit(cache=True)
def solve_transposed(indptr: IntArray, indices: IntArray, values: FloatArray, out: FloatArray) -> None:
    """L'x = out in place, out (q, c); L lower triangular in CSC form with sorted rows, its diagonal first.

    x_j = (out_j - sum_{i>j} L_ij x_i) / L_jj, last row first.
    """
    for j in range(len(indptr) - 2, -1, -1):
        for t in range(indptr[j] + 1, indptr[j + 1]):
            for c in range(out.shape[1]):
                out[j, c] -= values[t] * out[indices[t], c]
        for c in range(out.shape[1]):
            out[j, c] /= values[indptr[j]]
