"""Cross-products with the fixed effects: three passes over centred columns against the stored basis and NumPy's QR."""

import numpy as np
import pytest
import scipy.sparse as sp

import sparselmm as slm
from sparselmm.designs import Design
from sparselmm.projected import Centred, Stored, projected, with_basis

N, M = 2000, 50  # rows over several slabs, the last one not full
RTOL = 1e-11  # the same sums in another order, times a condition of 30


def model(X, weights=None, offset=None, sparse=False, y=None):
    rng = np.random.default_rng(8)
    codes = np.r_[np.arange(M), rng.integers(0, M, N - M)]
    columns = np.column_stack([np.ones(N), rng.normal(size=N)])
    if sparse:
        Z = sp.csc_array((np.ones(N), (np.arange(N), codes)), shape=(N, M))
        term = slm.RandomTerm(Z, name="g", effects=("Intercept",))
    else:
        term = slm.RandomTerm(codes, columns=columns, effects=("Intercept", "x"))
    y = rng.normal(size=N) if y is None else y
    return slm.ModelSpec(y, X, tuple(f"x{j}" for j in range(X.shape[1])), (term,), weights, offset)


def columns(centre=2e3, constant=2.5):
    rng = np.random.default_rng(9)
    x = rng.normal(size=N)
    factor = rng.integers(0, 4, N)
    dummies = (factor[:, None] == np.arange(1, 4)).astype(float)
    return np.column_stack([x, np.full(N, constant), centre + 5 * x**2, centre * rng.normal(size=N), dummies])


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=RTOL, atol=RTOL * np.abs(expected).max())


@pytest.mark.parametrize("sparse", [False, True], ids=["codes", "sparse"])
@pytest.mark.parametrize("weighted", [False, True], ids=["equal", "weighted"])
@pytest.mark.parametrize("many", [1, 10**9], ids=["by threads", "whole"])
def test_centred_columns_give_what_the_stored_basis_gives(monkeypatch, weighted, sparse, many):
    monkeypatch.setattr("sparselmm.projected.MANY", many)
    rng = np.random.default_rng(10)
    weights, offset = (rng.uniform(0.5, 2, N), rng.normal(size=N)) if weighted else (None, None)
    spec = model(columns(), weights, offset, sparse)
    w = np.zeros(0) if weights is None else weights
    rows, expected = projected(spec, w), with_basis(spec, w)
    assert isinstance(rows, Centred) and isinstance(expected, Stored)
    V, design = expected.V * np.append(np.sign(np.diag(expected.fixed.R)), 1.0), Design(spec.terms[0], w)
    close(rows.fixed.start, expected.fixed.start)
    close(np.abs(rows.fixed.R), np.abs(expected.fixed.R))
    close(rows.y, expected.y)
    close(rows.sums(design), design.sums(V))
    close(rows.stored(), V)
    one = np.ones(N) if weights is None else weights
    close(rows.xy, V.T @ (one[:, None] * V))
    assert rows.fixed.kept.tolist() == list(range(7)) and not len(rows.fixed.dropped)
    close(rows.fixed.logdet, np.linalg.slogdet(spec.X.T @ (one[:, None] * spec.X))[1])


def test_a_response_far_from_zero_loses_no_digits():
    """NIST's SmLs has 13 constant leading digits: what is left of the response is exact up to its own rounding."""
    rng = np.random.default_rng(11)
    noise = np.round(rng.normal(size=N) * 2**10) / 2**10
    near = projected(model(columns(), y=noise), np.zeros(0))
    far = projected(model(columns(), y=2.0**40 + noise), np.zeros(0))
    np.testing.assert_allclose(far.y, near.y, atol=1e-12)


@pytest.mark.parametrize(
    "X",
    [
        columns()[:, [0, 2, 3]],  # no constant
        np.column_stack([columns(), columns()[:, 2] - columns()[:, 0]]),  # dependent
        np.column_stack([columns(), columns()[:, 0] + 1e-3 * np.arange(N) / N]),  # nearly so
        np.column_stack([np.ones(N), 1e9 + np.random.default_rng(3).normal(size=N)]),  # R's lm drops such a column
        np.column_stack([np.where(np.arange(N) == 1, 2.0, 1.0), columns()[:, 0]]),  # constant in the sample alone
        np.zeros((N, 0)),
    ],
    ids=["no constant", "dependent", "nearly", "far from zero", "nearly constant", "none"],
)
def test_what_qr_should_judge(X):
    spec = model(X)
    rows = projected(spec, np.zeros(0))
    assert isinstance(rows, Stored)
    assert len(rows.fixed.kept) == np.linalg.matrix_rank(X / np.abs(X).max(axis=0, initial=1e-300), tol=1e-5)
