"""Passes over the fixed effects' columns against NumPy on the whole of them."""

import numpy as np
import pytest

from sparselmm.kernels import columns as kernels

RTOL = 1e-12  # the same sums in another order
N = 3000  # more than a slab of five columns holds


@pytest.fixture(params=[False, True], ids=["equal", "weighted"])
def weights(request):
    w = np.random.default_rng(5).uniform(0.5, 2.0, N)
    return (w, w) if request.param else (np.empty(0), np.ones(N))


@pytest.fixture
def X():
    rng = np.random.default_rng(1)
    return np.column_stack([np.ones(N), 1e3 + rng.normal(size=N), rng.normal(size=(N, 3))])


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=RTOL, atol=RTOL * np.abs(expected).max())


def test_largest(X):
    close(kernels.largest(0, N, -X), np.abs(X).max(axis=0))


def test_rows_of_the_basis(X):
    used = np.array([0, 2, 4])
    R = np.triu(np.random.default_rng(2).normal(size=(3, 3))) + 2 * np.eye(3)
    out = np.empty((N, 3))
    for begin, end in ((0, 100), (100, N)):
        kernels.orthonormal_rows(begin, end, X, used, R, out)
    close(out @ R, X[:, used])


def test_projection_and_what_it_leaves(X, weights):
    y, step = np.random.default_rng(3).normal(size=N), np.arange(5.0)
    close(kernels.project(10, N, X, y, weights[0]), X[10:].T @ (weights[1] * y)[10:])
    close(kernels.project(0, N, X, np.empty(0), weights[0]), X.T @ weights[1])
    before = y.copy()
    kernels.take_away(0, N, X, step, y)
    close(y, before - X @ step)


def test_distance_to_one(X):
    used, some = np.array([0, 2]), np.array([0.9, 0.2])
    assert kernels.distance_to_one(0, N, X, used, some) == pytest.approx(np.abs(X[:, used] @ some - 1).max(), rel=RTOL)


def test_divide_rows():
    rng = np.random.default_rng(3)
    R, rows = np.triu(rng.normal(size=(4, 4))) + 3 * np.eye(4), rng.normal(size=(9, 5))
    out = rows.copy()
    kernels.divide_rows(2, 7, R, out)
    close(out[2:7, :4] @ R, rows[2:7, :4])
    np.testing.assert_array_equal(np.delete(out, np.s_[2:7], axis=0), np.delete(rows, np.s_[2:7], axis=0))
    np.testing.assert_array_equal(out[:, 4], rows[:, 4])


def test_gram(X, weights):
    close(kernels.gram(0, N, X, weights[0]), X.T @ (weights[1][:, None] * X))


@pytest.mark.parametrize("rows", [3, 5, 200, N])
def test_triangular_factor(X, weights, rows):
    """R'R = X'WX, and as accurate as LAPACK's QR: the Gram matrix alone would lose the digits of 1e3 + noise."""
    size = np.abs(X).max(axis=0)
    R = kernels.triangular_factor(0, rows, X, size, weights[0])
    scaled = X[:rows] / size * np.sqrt(weights[1][:rows, None])
    assert not np.tril(R, -1).any()
    close(R.T @ R, scaled.T @ scaled)
    exact = np.linalg.qr(scaled, mode="r")
    np.testing.assert_allclose(np.abs(np.diag(R))[: len(exact)], np.abs(np.diag(exact)), rtol=1e-11)  # condition 1e3
