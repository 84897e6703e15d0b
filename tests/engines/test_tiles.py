"""The tiled factor and inverse against LAPACK on the whole matrix."""

import numpy as np
import pytest
from scipy.linalg import lapack

from sparselmm._errors import EngineError
from sparselmm.engines import threads, tiles
from sparselmm.kernels.tiles import HEIGHT, STRIP, WIDTH

RTOL = 1e-12  # two orders of the same sums, matrices of condition below 10
SIZES = [1, 2, STRIP, WIDTH - 1, WIDTH, WIDTH + 1, WIDTH + STRIP + 1, 2 * WIDTH + HEIGHT + 7]


@pytest.fixture(params=[1, 3])
def many(request):
    threads.set_threads(request.param)
    yield
    threads.set_threads(None)


def positive(n, seed=0):
    """A symmetric positive definite matrix, and its upper triangle over NaN: what nobody may read."""
    A = np.random.default_rng(seed).normal(size=(n, n)) / np.sqrt(n)
    A = A @ A.T + np.eye(n)
    return A, np.where(np.tri(n, dtype=bool).T, A, np.nan)


@pytest.mark.parametrize("n", SIZES)
def test_equals_lapack(n, many):
    A, S = positive(n)
    tiles.factorise(S)
    L = lapack.dpotrf(A, lower=1)[0]
    np.testing.assert_allclose(np.triu(S), L.T, rtol=0, atol=RTOL)
    tiles.invert(S, Z := np.full_like(S, np.nan))
    np.testing.assert_allclose(np.triu(Z), np.triu(np.linalg.inv(A)), rtol=0, atol=RTOL)
    tiles.invert(S, S)
    np.testing.assert_array_equal(np.triu(S), np.triu(Z))


def test_the_number_of_threads_changes_no_digit():
    found = []
    for n in (1, 2, 5):
        threads.set_threads(n)
        S = positive(WIDTH + HEIGHT + 9)[1]
        tiles.factorise(S)
        L = np.triu(S)
        tiles.invert(S, S)
        found.append((L, np.triu(S)))
    threads.set_threads(None)
    for L, Z in found[1:]:
        np.testing.assert_array_equal(L, found[0][0])
        np.testing.assert_array_equal(Z, found[0][1])


@pytest.mark.parametrize("where", [0, WIDTH // 2, WIDTH, 2 * WIDTH + 1], ids=str)
@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf, 0.0])
def test_not_positive_definite(where, value):
    S = positive(2 * WIDTH + 5)[1]
    S[where, where] = value
    with np.errstate(invalid="ignore"), pytest.raises(EngineError, match="not positive definite at these parameters"):
        tiles.factorise(S)
