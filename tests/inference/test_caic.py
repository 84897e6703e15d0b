"""Conditional AIC against n x n matrices."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import sparselmm as slm
from sparselmm.datasets import load_dataset
from sparselmm.inference.caic import conditional_aic
from tests import naive
from tests.inference.test_ddf import crossed_V, small
from tests.inference.test_predict_errors import repeated

RTOL = 1e-9  # one trace by two factorisations


def check(fit, V, R, count=1):
    """H = I - sigma^2 R P and the normal density of y given beta and b; V, R (n, n) with their scale."""
    P = naive.projection(fit.spec.X, V)
    found = conditional_aic(fit)
    rho = fit.nobs - np.trace(R @ P)
    loglik = stats.multivariate_normal.logpdf(fit.spec.y, fit.fitted, R)
    np.testing.assert_allclose([found.effective_df, found.loglik], [rho, loglik], rtol=RTOL)
    np.testing.assert_allclose([found.caic, fit.caic], -2 * loglik + 2 * (rho + count), rtol=RTOL)


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("weights", [None, "w"])
@pytest.mark.parametrize("engine", ["auto", "dense"])
def test_crossed_factors(reml, weights, engine):
    table = small()
    fit = slm.lmm("y ~ x + f + (1 | g) + (1 | h)", table, reml=reml, weights=weights, engine=engine)
    w = None if weights is None else table.w.to_numpy()
    R = fit.sigma**2 * (np.eye(60) if w is None else np.diag(1 / w))
    check(fit, crossed_V(table, w)(fit.varpar.to_numpy()), R)


def test_series_and_correlated_residuals():
    rng = np.random.default_rng(6)
    s, t = np.repeat(np.arange(8), 9), np.tile(np.arange(9), 8)
    lag, same = np.abs(t[:, None] - t), s[:, None] == s
    y = np.linalg.cholesky(np.where(same, 0.7**lag, 0.0)) @ rng.normal(size=72) + rng.normal(size=8)[s]
    table = pd.DataFrame({"s": s, "t": t, "x": rng.normal(size=72), "y": y + 0.3 * rng.normal(size=72)})
    fit = slm.lmm("y ~ x + ar1(0 + t | s)", table)
    sd, rho, sigma = fit.varpar
    check(fit, np.where(same, sd**2 * rho**lag, 0.0) + sigma**2 * np.eye(72), sigma**2 * np.eye(72))
    fit = slm.lmm("y ~ x + (1 | s)", table, residual="ar1(t | s)")
    sd, rho, sigma = fit.varpar
    R = np.where(same, sigma**2 * rho**lag, 0.0)
    check(fit, sd**2 * same + R, R)


def test_sigma_that_is_held_does_not_count():
    table = small()
    fit = slm.lmm("y ~ x + f + (1 | g) + (1 | h)", table, fixed={"sigma": 1.1})
    check(fit, crossed_V(table)(fit.varpar.to_numpy()), 1.21 * np.eye(60), count=0)


@pytest.mark.parametrize("formula", ["y ~ x + rw2(0 + u)", "y ~ 1 + rw1(0 + u | g)", "y ~ x + many + (1 | g)"])
def test_null_spaces_and_sparse_fixed_effects(formula):
    """Effective degrees of freedom by moving each response in turn, at the same variances."""
    rng = np.random.default_rng(7)
    table = repeated(m=3, steps=6) if "many" not in formula else repeated(m=30, steps=8)
    table["many"] = rng.permutation(np.arange(len(table)) % 101).astype(str)
    fit = slm.lmm(formula, table)
    held, y = fit.varpar.to_dict(), table["y"].to_numpy()
    model = lambda y: slm.lmm(formula, table.assign(y=y), fixed=held).fitted  # noqa: E731
    some = np.arange(0, len(y), 1 if len(y) < 50 else 20)
    own = [model(y + (np.arange(len(y)) == i))[i] - fit.fitted[i] for i in some]
    np.testing.assert_allclose(fit.leverage()[some], own, atol=1e-6)  # differences of solutions
    found = conditional_aic(fit)
    loglik = stats.norm.logpdf(fit.resid, scale=fit.sigma).sum()
    assert found.loglik == pytest.approx(loglik, rel=RTOL)
    if len(some) == len(y):
        assert fit.caic == pytest.approx(-2 * loglik + 2 * (sum(own) + 1), rel=1e-6)


def test_without_random_effects_it_is_aic():
    table = load_dataset("sleepstudy")
    fit = slm.lmm("Reaction ~ Days", table, reml=False)
    assert fit.caic == pytest.approx(fit.aic, rel=RTOL)
    singular = slm.lmm("Yield ~ 1 + (1 | Batch)", load_dataset("Dyestuff2"))
    assert conditional_aic(singular).effective_df == pytest.approx(1.0, abs=1e-6)  # a mean and nothing else
