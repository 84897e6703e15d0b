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


CORRECTED = {
    "one factor": ("y ~ x + (1 | g)", {}),
    "slopes by ML": ("y ~ x + (x | g)", {"reml": False}),
    "weights": ("y ~ x + (1 | g) + (1 | h)", {"weights": "w"}),
    "a held ratio": ("y ~ x + (1 | g) + (1 | h)", {"fixed": {"sd_Intercept|h": 0.4}}),
    "sigma held": ("y ~ x + (1 | g)", {"fixed": {"sigma": 0.8}}),
    "strata": ("y ~ x + (1 | g)", {"residual": "varident(f)"}),
}
CHANGE = 0.02  # of y, in refits
CLOSE = 1e-3  # of the correction: searches end within 1e-5 standard errors, and CHANGE is not small


@pytest.mark.parametrize("case", CORRECTED)
def test_the_correction_is_how_refits_follow_each_row(case):
    """Greven & Kneib (2010): the trace of dy_hat/dy, variance parameters estimated again each time."""
    formula, options = CORRECTED[case]
    rng = np.random.default_rng(5)
    g, h = np.repeat(np.arange(8), 5), np.tile(np.arange(5), 8)
    table = pd.DataFrame({"g": g, "h": h, "f": h % 2, "x": rng.normal(size=40), "w": rng.uniform(0.5, 2.0, 40)})
    effects = rng.normal(size=8)[g] + rng.normal(size=8)[g] * table.x + 0.6 * rng.normal(size=5)[h]
    table["y"] = effects + 0.7 * rng.normal(size=40)
    fit = slm.lmm(formula, table, **options)
    assert not fit.is_singular
    y, theta, slopes = fit.spec.y, fit.theta.to_numpy(), []
    for row in CHANGE * np.eye(40):
        up, down = (fit.refit(y + sign * row, start=theta).fitted @ row for sign in (1.0, -1.0))
        slopes.append((up - down) / (2.0 * CHANGE**2))
    plain, found = conditional_aic(fit), conditional_aic(fit, corrected=True)
    correction = found.effective_df - plain.effective_df
    assert correction > 0.02
    assert correction == pytest.approx(sum(slopes) - plain.effective_df, rel=CLOSE, abs=1e-3)
    assert found.loglik == plain.loglik
    assert found.caic - plain.caic == pytest.approx(2.0 * correction)


def test_the_correction_of_nothing_that_moves():
    batches = slm.lmm("Yield ~ (1 | Batch)", load_dataset("Dyestuff2"))  # a variance of zero, which cAIC4 leaves out
    fixed = slm.lmm("Yield ~ (1 | Batch)", load_dataset("Dyestuff"), fixed={"sd_Intercept|Batch": 40, "sigma": 50})
    for fit in (batches, fixed):
        plain = conditional_aic(fit).effective_df
        assert conditional_aic(fit, corrected=True).effective_df == pytest.approx(plain, rel=RTOL)


def test_the_correction_is_near_that_of_caic4():
    """cAIC4 1.0 has 19.03 and 28.62 with sigma; its terms in y'Py carry 1/2 where the derivative has 1."""
    for formula, name, df in [
        ("Reaction ~ Days + (1 | Subject)", "sleepstudy", 19.03),
        ("diameter ~ (1 | plate) + (1 | sample)", "Penicillin", 28.62),
    ]:
        found = conditional_aic(slm.lmm(formula, load_dataset(name)), corrected=True).effective_df + 1.0
        assert found == pytest.approx(df, abs=0.015)
