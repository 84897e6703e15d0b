"""Seed 1 (matrix-normal general linear model) and seed 4 (multivariate normal) against scipy and perturbations."""

import numpy as np
import pytest
import scipy.sparse as sp
from scipy import stats

from sparselmm._errors import DataError, ModelError
from sparselmm.closed_form import general_linear_model, multivariate_normal

RTOL = 1e-9  # dense computations of one number at condition numbers below 1e4
N, V_COLS, P = 30, 3, 4


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=RTOL * np.abs(expected).max())


def ar1_precision(n, rho):
    """Inverse of V_ij = rho^|i-j|: tridiagonal, 1/(1-rho^2) [1, 1+rho^2, ..., 1], -rho/(1-rho^2) beside it."""
    diagonal = np.full(n, 1 + rho**2)
    diagonal[[0, -1]] = 1.0
    return sp.diags_array([np.full(n - 1, -rho), diagonal, np.full(n - 1, -rho)], offsets=[-1, 0, 1]) / (1 - rho**2)


@pytest.fixture
def data():
    rng = np.random.default_rng(11)
    X = np.column_stack([np.ones(N), rng.normal(size=(N, P - 1))])
    V = 0.7 ** np.abs(np.subtract.outer(np.arange(N), np.arange(N)))
    E = np.linalg.cholesky(V) @ rng.normal(size=(N, V_COLS)) @ rng.normal(size=(V_COLS, V_COLS))
    return X @ rng.normal(size=(P, V_COLS)) + E, X, V


def test_equals_the_formulas_of_the_theorem(data):
    Y, X, V = data
    fit = general_linear_model(Y, X, V)
    W = np.linalg.inv(V)
    B = np.linalg.inv(X.T @ W @ X) @ X.T @ W @ Y
    close(fit.B, B)
    close(fit.Sigma, (Y - X @ B).T @ W @ (Y - X @ B) / N)
    close(fit.XtPX_inv, np.linalg.inv(X.T @ W @ X))
    close(fit.residuals, Y - X @ B)
    close(fit.fitted + fit.residuals, Y)


def test_loglik_is_the_matrix_normal_density(data):
    Y, X, V = data
    fit = general_linear_model(Y, X, V)
    expected = stats.matrix_normal.logpdf(Y, mean=X @ fit.B, rowcov=V, colcov=fit.Sigma)
    assert fit.loglik == pytest.approx(expected, rel=RTOL)


@pytest.mark.parametrize("size", [1e-3, 1e-1])
def test_no_neighbour_is_more_likely(data, size):
    Y, X, V = data
    fit = general_linear_model(Y, X, V)
    rng = np.random.default_rng(2)
    density = lambda B, Sigma: stats.matrix_normal.logpdf(Y, mean=X @ B, rowcov=V, colcov=Sigma)  # noqa: E731
    for _ in range(25):
        T = np.eye(V_COLS) + size * rng.normal(size=(V_COLS, V_COLS))
        assert density(fit.B + size * rng.normal(size=fit.B.shape), fit.Sigma) < fit.loglik
        assert density(fit.B, T @ fit.Sigma @ T.T) < fit.loglik


@pytest.mark.parametrize("form", [np.asarray, sp.csc_array, sp.csr_array, sp.coo_array], ids=lambda f: f.__name__)
def test_precision_gives_what_its_inverse_gives(data, form):
    Y, X, V = data
    expected = general_linear_model(Y, X, V)
    got = general_linear_model(Y, X, precision=form(ar1_precision(N, 0.7).toarray()))
    for name in ("B", "Sigma", "residuals", "XtPX_inv"):
        close(getattr(got, name), getattr(expected, name))
    assert got.loglik == pytest.approx(expected.loglik, rel=RTOL)


def test_sparse_precision_with_fill_and_reordering():
    """A grid Laplacian plus identity: the factor's ordering is not the identity."""
    side = 7
    path = sp.diags_array([np.full(side - 1, -1.0), np.full(side, 2.0), np.full(side - 1, -1.0)], offsets=[-1, 0, 1])
    P = sp.kronsum(path, path) + sp.eye_array(side**2)
    rng = np.random.default_rng(4)
    Y, X = rng.normal(size=(side**2, 2)), rng.normal(size=(side**2, 3))
    got = general_linear_model(Y, X, precision=P)
    expected = general_linear_model(Y, X, np.linalg.inv(P.toarray()))
    close(got.B, expected.B)
    close(got.Sigma, expected.Sigma)
    assert got.loglik == pytest.approx(expected.loglik, rel=RTOL)


def test_long_series_with_sparse_precision():
    """n = 100,000: 80 GB as a dense V. log|V| = (n - 1) log(1 - rho^2), a closed form."""
    n, rho = 100_000, 0.9
    e = np.random.default_rng(8).normal(size=n)
    got = general_linear_model(e, np.ones(n), precision=ar1_precision(n, rho))
    innovations = np.append(np.sqrt(1 - rho**2) * e[0], e[1:] - rho * e[:-1])
    ones = np.append(np.sqrt(1 - rho**2), np.full(n - 1, 1 - rho))
    mu = ones @ innovations / (ones @ ones)
    sigma2 = np.sum((innovations - mu * ones) ** 2) / (1 - rho**2) / n
    assert got.B[0, 0] == pytest.approx(mu, rel=RTOL)
    assert got.Sigma[0, 0] == pytest.approx(sigma2, rel=RTOL)
    expected = -(n * np.log(2 * np.pi * sigma2) + (n - 1) * np.log(1 - rho**2) + n) / 2
    assert got.loglik == pytest.approx(expected, rel=RTOL)


@pytest.mark.parametrize("shift", [2.0**30, 2.0**40])
def test_response_far_from_zero(data, shift):
    """Multiples of 2^-12 and 2^k add without rounding, so that the answer differs in the intercept only."""
    Y, X, V = data
    Y = np.round(Y * 2**12) / 2**12
    here, there = general_linear_model(Y, X, V), general_linear_model(Y + shift, X, V)
    assert there.loglik == pytest.approx(here.loglik, rel=RTOL)
    close(there.B[1:], here.B[1:])


def test_multivariate_normal_is_mean_and_biased_covariance(data):
    Y = data[0]
    fit = multivariate_normal(Y)
    close(fit.mu, Y.mean(axis=0))
    close(fit.Sigma, np.cov(Y, rowvar=False, bias=True))
    assert fit.loglik == pytest.approx(stats.multivariate_normal.logpdf(Y, fit.mu, fit.Sigma).sum(), rel=RTOL)


def test_singular_sigma_has_infinite_likelihood(data):
    Y, X, V = data
    n = P + V_COLS
    assert np.isfinite(general_linear_model(Y[:n], X[:n]).loglik)
    assert general_linear_model(Y[: n - 1], X[: n - 1]).loglik == np.inf
    assert general_linear_model(np.column_stack([Y, Y[:, 0]]), X, V).loglik == np.inf
    assert general_linear_model(np.column_stack([Y, np.zeros(N)]), X, V).loglik == np.inf


def test_no_fixed_effects(data):
    Y, _, V = data
    fit = general_linear_model(Y, np.empty((N, 0)), V)
    assert fit.B.shape == (0, V_COLS) and fit.XtPX_inv.shape == (0, 0)
    close(fit.Sigma, Y.T @ np.linalg.inv(V) @ Y / N)


def test_bad_input(data):
    Y, X, V = data
    indefinite = V - 2 * np.eye(N)
    for arguments, message in [
        ({"X": X[:-1]}, r"X has shape \(29, 4\)"),
        ({"X": X[None]}, "X has shape"),
        ({"Y": Y * np.nan}, "Y has infinite or missing"),
        ({"V": V, "precision": V}, "both given"),
        ({"V": sp.csc_array(V)}, "sparse matrix is taken as precision="),
        ({"V": V[:-1]}, r"V has shape \(29, 30\)"),
        ({"V": np.tril(V)}, "V is not symmetric"),
        ({"V": indefinite}, "V is not positive definite"),
        ({"precision": indefinite}, "precision is not positive definite"),
        ({"precision": sp.csc_array(indefinite)}, "precision is not positive definite"),
        ({"precision": sp.csc_array(np.diag(np.arange(N)))}, "precision is"),
        ({"precision": sp.csc_array(np.tril(V))}, "precision is not symmetric"),
        ({"precision": sp.csc_array(V * np.inf)}, "precision has infinite"),
    ]:
        with pytest.raises(DataError, match=message):
            general_linear_model(**({"Y": Y, "X": X} | arguments))


def test_dependent_columns_are_named(data):
    Y, X, V = data
    with pytest.raises(ModelError, match="column 4 of X"):
        general_linear_model(Y, np.column_stack([X, X[:, 1] - X[:, 2]]), V)
    with pytest.raises(ModelError, match="column 3 of X"):
        general_linear_model(Y[:3], X[:3])
