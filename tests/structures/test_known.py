"""A given precision or covariance: round trips, blocks, and every refusal."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from sparselmm._errors import DataError, ModelError
from sparselmm.structures import known
from sparselmm.structures.known import Known

from .precisions import DENSE, check, dense

NONE = np.empty(0)


def spd(size, seed):
    A = np.random.default_rng(seed).normal(size=(size, size + 2))
    return A @ A.T / size


def families():
    """Covariance of interleaved families of 3, 1, 4, 3, 1 and 2 members."""
    sizes = [3, 1, 4, 3, 1, 2]
    full = sp.block_diag([sp.csc_array(spd(size, i)) for i, size in enumerate(sizes)]).toarray()
    shuffle = np.random.default_rng(9).permutation(sum(sizes))
    return full[np.ix_(shuffle, shuffle)]


@pytest.mark.parametrize("make", [np.asarray, sp.csr_matrix, sp.coo_array, sp.csc_array])
def test_precision_goes_in_and_comes_out(make):
    A = families()
    Q = Known(make(A))
    np.testing.assert_array_equal(dense(Q, NONE), A)
    check(Q)


@pytest.mark.parametrize("make", [np.asarray, sp.csr_matrix])
def test_covariance_is_inverted_by_families(make):
    A = families()
    Q = Known(make(A), "covariance")
    np.testing.assert_allclose(dense(Q, NONE) @ A, np.eye(len(A)), atol=DENSE)
    assert len(Q.pattern()[0]) == sum(s * (s + 1) // 2 for s in [3, 1, 4, 3, 1, 2])
    check(Q)


def test_covariance_of_many_families_over_several_batches(monkeypatch):
    monkeypatch.setattr(known, "BATCH", 20)
    A = families()
    np.testing.assert_allclose(dense(Known(A, "covariance"), NONE) @ A, np.eye(len(A)), atol=DENSE)


def path(m):
    """A tridiagonal precision, one connected block: |Q| = m + 1 (Dirichlet Laplacian)."""
    return sp.diags([-np.ones(m - 1), 2 * np.ones(m), -np.ones(m - 1)], [-1, 0, 1])


def test_a_large_precision_goes_through_the_sparse_cholesky():
    Q = Known(path(2000))
    assert Q.logdet(NONE) == pytest.approx(np.log(2001), rel=1e-9)
    assert len(Q.values(NONE)) == 3999


def test_levels_of_the_matrix_are_found():
    Q = Known(families(), levels=[f"id{i}" for i in range(14)])
    assert Q.codes(["id3", "id0", "id3"]).tolist() == [3, 0, 3]
    assert Known(families()).codes(np.array([13, 2])).tolist() == [13, 2]
    with pytest.raises(DataError, match="2 of 3 levels of the data are not in the matrix: 'x', 'y'"):
        Q.codes(["x", "id1", "y"])


def test_a_table_has_its_own_labels():
    """Rows of a relationship matrix in any order: labels were ignored, and 22.309 became 23.285."""
    A, order = families(), np.random.default_rng(1).permutation(14)
    table = pd.DataFrame(A[np.ix_(order, order)], index=order, columns=order)
    Q = Known(table, kind="covariance")
    assert Q.levels == order.tolist() == Known(table, "covariance", levels=order).levels
    at = Q.codes(range(14))
    np.testing.assert_allclose(np.linalg.inv(dense(Q, NONE))[np.ix_(at, at)], A, atol=DENSE)
    assert Known(pd.DataFrame(A), levels=order).levels == order.tolist()  # no labels of its own


def test_the_matrix_of_the_user_stays_as_it_was():
    A = sp.csc_array(families())
    before = A.copy()
    Known(A, "covariance")
    np.testing.assert_array_equal(A.data, before.data)
    np.testing.assert_array_equal(A.indices, before.indices)


def changed(i, j, value):
    A = families()
    A[i, j] = value
    return A


@pytest.mark.parametrize(
    ("matrix", "options", "message"),
    [
        (np.ones((2, 3)), {}, r"shape \(2, 3\); it must be square"),
        (np.ones((0, 0)), {}, "square"),
        (np.ones(3), {}, r"precision, a ndarray, has shape \(3,\); it must be square"),
        ("K", {}, r"precision, a str, has shape \(\); it must be square"),
        (np.array([["a"]]), {}, "precision is not a matrix of numbers: could not convert"),
        (np.eye(2) * 1j, {}, "not a matrix of numbers: its entries are complex"),
        (pd.DataFrame(np.eye(2), ["a", "b"], ["b", "a"]), {}, "index of the precision and its columns .* 'a' and 'b'"),
        (pd.DataFrame(np.eye(2), ["a", "b"], ["a", "b"]), {"levels": ["b", "a"]}, "and levels= have different labels"),
        (np.eye(2), {"levels": np.array([7, 7])}, "level 7 stands twice"),
        (families(), {"levels": ["a", "b"]}, "2 levels for a matrix of 14 rows"),
        (np.eye(2), {"levels": ["a", "a"]}, "'a' stands twice"),
        (changed(2, 2, np.nan), {}, "1 entries of the precision are infinite or missing"),
        (np.diag([1.0, -2.0]), {"levels": ["a", "b"]}, "diagonal is -2 at level 'b'"),
        (np.diag([1.0, 0.0]), {"kind": "covariance"}, "covariance is not positive definite: its diagonal is 0"),
        (
            [[1.0, 0.2, 0.1], [0.2, 1.0, 0.0], [0.3, 0.0, 1.0]],
            {"levels": ["a", "b", "c"]},
            r"\('c', 'a'\) = 0.3 and \('a', 'c'\) = 0.1 differ most",
        ),
        ([[1.0, 2.0], [2.0, 1.0]], {}, r"precision.*block of 2 levels 0, 1: its smallest eigenvalue is -1\."),
        ([[1.0, 2.0], [2.0, 1.0]], {"kind": "covariance"}, "covariance.*smallest eigenvalue is -1. Identical twins"),
        (sp.block_diag([sp.eye_array(3), np.ones((2, 2))]), {"kind": "covariance"}, "block of 2 levels 3, 4"),
        (path(400) - 0.1 * sp.identity(400), {}, "precision of 400 levels is not positive definite"),
        (sp.csr_matrix(path(10_001)), {"kind": "covariance"}, r"block of 10,001 levels.*0\.8 GB.*at most 10,000"),
    ],
)
def test_matrices_that_are_refused(matrix, options, message):
    with pytest.raises(DataError, match=message):
        Known(matrix, **options)


def test_unknown_kind_is_refused():
    with pytest.raises(ModelError, match="'precision' or 'covariance', not 'corr'"):
        Known(np.eye(2), kind="corr")


def test_rounding_is_not_asymmetry():
    A = np.linalg.inv(families())
    assert np.abs(A - A.T).max() > 0
    check(Known(A))
