"""Predicted fill against elimination of a dense boolean matrix."""

import numpy as np
import pytest
import scipy.sparse as sp

from sparselmm.kernels.symbolic import column_counts


def eliminate(pattern):
    """Pattern of L, below and on the diagonal, by Gaussian elimination on booleans; input symmetric."""
    A = pattern.copy() | np.eye(len(pattern), dtype=bool)
    for j in range(len(A)):
        below = np.flatnonzero(A[j + 1 :, j]) + j + 1
        A[np.ix_(below, below)] = True
    return np.tril(A)


def grid(k):
    """The five-point neighbours of a k x k grid."""
    line = sp.diags_array([np.ones(k - 1), np.ones(k - 1)], offsets=[-1, 1])
    return (sp.kron(line, sp.eye_array(k)) + sp.kron(sp.eye_array(k), line)).toarray() > 0


def symmetric(q, density, seed):
    A = np.random.default_rng(seed).random((q, q)) < density
    return A | A.T


def arrow(q, at_end):
    A = np.eye(q, dtype=bool)
    A[-1 if at_end else 0, :] = A[:, -1 if at_end else 0] = True
    return A


def forest(q, seed):
    """Several trees: each node but every tenth hangs on an earlier one."""
    rng, A = np.random.default_rng(seed), np.eye(q, dtype=bool)
    for i in range(q):
        if i % 10:
            j = rng.integers(i - i % 10, i)
            A[i, j] = A[j, i] = True
    return A


PATTERNS = {
    "one": np.ones((1, 1), bool),
    "diagonal": np.eye(20, dtype=bool),
    "full": np.ones((15, 15), bool),
    "arrow, no fill": arrow(25, True),
    "arrow, all fill": arrow(25, False),
    "forest": forest(60, 1),
    "grid": grid(8),
    **{f"random {seed}": symmetric(40, 0.05 * (seed + 1), seed) for seed in range(4)},
}


@pytest.mark.parametrize("name", PATTERNS)
def test_column_counts_and_parents(name):
    A = PATTERNS[name]
    q, L = len(A), eliminate(A)
    upper = sp.csc_array(np.triu(A | np.eye(q, dtype=bool)).astype(float))
    parent, counts = np.full(q, 77), np.full(q, 77)
    column_counts(upper.indptr.astype(np.int64), upper.indices.astype(np.int64), parent, counts)
    np.testing.assert_array_equal(counts, L.sum(axis=0))
    below = [np.flatnonzero(L[j + 1 :, j]) + j + 1 for j in range(q)]
    np.testing.assert_array_equal(parent, [rows[0] if len(rows) else -1 for rows in below])
