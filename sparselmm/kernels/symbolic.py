"""Predicted fill of a Cholesky factor: elimination tree and column counts (Davis 2006, section 4.3)."""

import numpy as np
from numba import njit

from .._typing import IntArray


@njit(cache=True)
def column_counts(indptr: IntArray, indices: IntArray, parent: IntArray, counts: IntArray) -> None:
    """counts_j = nonzeros of column j of L for a symmetric pattern whose CSC upper triangle is given.

    Walks every row's subtree of the elimination tree once: O(nnz(L)) time, O(q) memory.
    """
    q = len(indptr) - 1
    ancestor = np.full(q, -1, np.int64)
    mark = np.full(q, -1, np.int64)
    parent[:] = -1
    for j in range(q):
        for k in range(indptr[j], indptr[j + 1]):
            i = indices[k]
            while i != -1 and i < j:
                up = ancestor[i]
                ancestor[i] = j
                if up == -1:
                    parent[i] = j
                i = up
    for j in range(q):
        counts[j] = 1
        mark[j] = j
        for k in range(indptr[j], indptr[j + 1]):
            i = indices[k]
            while i < j and mark[i] != j:
                counts[i] += 1
                mark[i] = j
                i = parent[i]
