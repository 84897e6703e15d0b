"""Substitution with Cholesky factors: small dense ones, and the transpose of a sparse one."""

import numpy as np
from numba import njit
from scipy.linalg.lapack import dtrtrs

from .._typing import FloatArray, IntArray


def solve_lower(L: FloatArray, B: FloatArray, *, transposed: bool = False) -> FloatArray:
    """L^-1 B, or L^-T B: L (p, p) lower triangular, B (p,) or (p, c). What is around LAPACK in SciPy takes longer."""
    if not B.size:
        return np.zeros(B.shape)
    out, info = dtrtrs(L.T, B, lower=0, trans=int(not transposed))
    if info:
        raise np.linalg.LinAlgError(f"a triangular matrix has a zero in row {info} of its diagonal")
    return np.asarray(out)


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
