"""Substitution with small triangular matrices against NumPy's dense solver."""

import numpy as np
import pytest

from sparselmm.kernels.triangular import solve_lower

RTOL = 1e-12  # p = 5 well-conditioned


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(5,), (5, 1), (5, 3), (5, 0)])
@pytest.mark.parametrize("transposed", [False, True])
def test_solves(order, shape, transposed):
    rng = np.random.default_rng(1)
    L = np.asarray(np.tril(rng.normal(size=(5, 5))) + 3 * np.eye(5), order=order)
    B = np.asarray(rng.normal(size=shape), order=order)
    before = B.copy()
    x = solve_lower(L, B, transposed=transposed)
    np.testing.assert_allclose(x, np.linalg.solve(L.T if transposed else L, B), rtol=RTOL)
    np.testing.assert_array_equal(B, before)


def test_what_is_above_the_diagonal_does_not_count():
    L = np.array([[2.0, 99.0], [1.0, 4.0]])
    np.testing.assert_allclose(solve_lower(L, np.array([2.0, 9.0])), [1.0, 2.0], rtol=RTOL)


def test_singular():
    with pytest.raises(np.linalg.LinAlgError, match="row 2"):
        solve_lower(np.diag([1.0, 0.0]), np.ones(2))


def test_no_columns():
    assert solve_lower(np.zeros((0, 0)), np.zeros((0, 2))).shape == (0, 2)
