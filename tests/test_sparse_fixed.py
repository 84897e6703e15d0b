"""Sparse fixed effects against the same columns kept dense, and against explicit matrices."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import sparselmm as slm
from sparselmm.dense import DenseLikelihood
from sparselmm.formula import build_spec
from sparselmm.likelihood import Likelihood

CRITERION, ESTIMATE = 1e-10, 1e-8


def table(n=1500, levels=150, seed=0):
    rng = np.random.default_rng(seed)
    data = pd.DataFrame({"x": rng.normal(size=n), "g": rng.integers(0, 30, n), "h": rng.integers(0, 20, n)})
    data["f"] = pd.Categorical(rng.integers(0, levels, n))
    data["s"] = pd.Categorical(rng.choice(["a", "b", "c"], n))
    effect = rng.normal(size=levels)[data["f"]] + rng.normal(size=30)[data["g"]] + 0.5 * rng.normal(size=20)[data["h"]]
    data["y"] = 100 + 2 * data["x"] + effect + rng.normal(size=n)
    return data


def pair(formula="y ~ x + f + s + (1 + x | g) + (1 | h)", data=None, **more):
    """The model with its factor sparse, and with all columns dense."""
    sparse = build_spec(formula, table() if data is None else data, **more)
    assert sparse.S is not None and sparse.S.shape[1] > 100
    return sparse, replace(sparse, X=np.hstack([sparse.X, sparse.S.toarray()]), S=None)


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("more", [{}, {"weights": "w"}, {"residual": "varident(s)"}])
def test_criterion_score_and_information(reml, more):
    data = table()
    data["w"] = np.random.default_rng(1).uniform(0.5, 2, len(data))
    sparse, dense = (Likelihood(spec) for spec in pair(data=data, **more))
    theta = sparse.parameters.start([np.array([[0.7, 0], [0.2, 0.4]]), np.eye(1)])
    a, b = sparse(theta, reml=reml), dense(theta, reml=reml)
    assert a.deviance == pytest.approx(b.deviance, rel=CRITERION)
    assert a.sigma == pytest.approx(b.sigma, rel=ESTIMATE)
    np.testing.assert_allclose(a.beta, b.beta, rtol=ESTIMATE, atol=ESTIMATE)
    for one, two in zip(a.b, b.b, strict=True):
        np.testing.assert_allclose(one, two, rtol=ESTIMATE, atol=ESTIMATE)
    first, second = sparse.derivatives(theta, reml=reml), dense.derivatives(theta, reml=reml)
    np.testing.assert_allclose(first.gradient, second.gradient, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(first.hessian, second.hessian, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(sparse.vcov(theta, 1.3), dense.vcov(theta, 1.3), rtol=ESTIMATE, atol=ESTIMATE)
    np.testing.assert_allclose(sparse.fixed_variances(theta, 1.3), np.diag(dense.vcov(theta, 1.3)), rtol=ESTIMATE)
    for prediction in (True, False):
        pairs = (likelihood.random_vcov(theta, 1.3, prediction=prediction) for likelihood in (sparse, dense))
        for one, two in zip(*pairs, strict=True):
            np.testing.assert_allclose(one, two, rtol=ESTIMATE, atol=ESTIMATE)


def test_an_edge_under_both_criteria():
    sparse, dense = (Likelihood(spec) for spec in pair())
    theta = sparse.parameters.start([np.zeros((2, 2)), np.eye(1)])
    for reml in (True, False):
        a, b = (likelihood.derivatives(theta, reml=reml) for likelihood in (sparse, dense))
        np.testing.assert_allclose(a.hessian, b.hessian, rtol=1e-6, atol=1e-6 * np.abs(b.hessian).max())


def test_against_the_marginal_covariance_matrix():
    spec, _ = pair(data=table(n=400, levels=120))
    sparse, dense = Likelihood(spec), DenseLikelihood(spec)
    theta = sparse.parameters.start([np.array([[0.7, 0], [0.2, 0.4]]), np.eye(1)])
    for reml in (True, False):
        a, b = sparse(theta, reml=reml), dense(theta, reml=reml)
        assert a.deviance == pytest.approx(b.deviance, rel=1e-9)
        np.testing.assert_allclose(a.beta, b.beta, rtol=1e-7, atol=1e-7)


def test_a_fit_with_predictions_of_new_rows():
    data = table()
    fit = slm.lmm("y ~ x + f + s + (1 | g)", data)
    _, dense = pair("y ~ x + f + s + (1 | g)", data)
    other = slm.LinearMixedModel.from_arrays(dense.y, dense.X, dense.terms, fixed_names=dense.fixed_names).fit()
    assert fit.converged and fit.deviance == pytest.approx(other.deviance, rel=CRITERION)
    pd.testing.assert_series_equal(fit.fixef, other.fixef, rtol=1e-6)
    pd.testing.assert_series_equal(fit.fixef_se, other.fixef_se, rtol=1e-6)
    np.testing.assert_allclose(fit.predict(data.iloc[:50]), fit.fitted[:50], rtol=1e-10)
    rows = data.iloc[:3].copy()
    rows.loc[rows.index[1], "x"] = np.nan
    assert np.isnan(fit.predict(rows)).tolist() == [False, True, False]


def test_from_arrays_a_sparse_X():
    data = table(n=600, levels=120)
    _, dense = pair("y ~ x + f + (1 | g)", data)
    X = sp.csr_array(dense.X)
    a = slm.LinearMixedModel.from_arrays(dense.y, X, dense.terms, fixed_names=dense.fixed_names)
    assert a.spec.S.shape[1] == 119 and a.spec.X.shape[1] == 2
    b = slm.LinearMixedModel.from_arrays(dense.y, dense.X, dense.terms, fixed_names=dense.fixed_names)
    theta = np.ones(1)
    assert a.loglik(theta) == pytest.approx(b.loglik(theta), rel=CRITERION)


def test_columns_that_depend_on_others_are_dropped():
    """y ~ f + year with year constant within f: one column too many; and a level twice."""
    data = table()
    data["year"] = data["f"].cat.codes // 10 * 1.0
    fit = slm.lmm("y ~ year + f + (1 | g)", data)
    same = slm.lmm("y ~ f + (1 | g)", data)
    assert fit.dropped_columns == ("year",) and np.isnan(fit.fixef["year"])
    assert fit.deviance == pytest.approx(same.deviance, rel=CRITERION)
    np.testing.assert_allclose(fit.fitted, same.fitted, rtol=1e-8)
    spec = same.spec
    doubled = sp.hstack([spec.X, spec.S, spec.S[:, :3]])
    twice = slm.LinearMixedModel.from_arrays(spec.y, doubled, spec.terms).fit()
    assert len(twice.dropped_columns) == 3 and twice.deviance == pytest.approx(same.deviance, rel=CRITERION)


def test_two_crossed_factors_of_many_levels():
    data = table(n=3000)
    data["k"] = pd.Categorical(np.random.default_rng(5).integers(0, 110, len(data)))
    sparse, dense = pair("y ~ f + k + (1 | g)", data)
    a, b = Likelihood(sparse), Likelihood(dense)
    assert a([0.5]).deviance == pytest.approx(b([0.5]).deviance, rel=CRITERION)
    np.testing.assert_allclose(a([0.5]).beta, b([0.5]).beta, rtol=1e-7, atol=1e-7)


WITHIN = ["f + (1 | f)", "x + f + (1 | coarse) + (1 | g)", "f + (1 + x | coarse)", "s + f + f:x + (0 + x | coarse)"]


@pytest.mark.parametrize("right", WITHIN)
@pytest.mark.parametrize("weights", [None, "w"])
def test_a_term_within_a_sparse_factor_is_refused(right, weights):
    """REML is the same at any variance, as it says itself at two of them."""
    data = table()
    data["coarse"], data["w"] = data["f"].cat.codes // 10, np.random.default_rng(1).uniform(0.5, 2, len(data))
    with pytest.raises(slm.ModelError, match="the fixed effects contain .* REML says nothing of its variance"):
        slm.lmm(f"y ~ {right}", data, weights=weights)
    if right == WITHIN[0]:
        held = [slm.lmm(f"y ~ {right}", data, weights=weights, fixed={"sd_Intercept|f": sd}) for sd in (0.3, 3.0)]
        assert held[0].deviance == pytest.approx(held[1].deviance, rel=CRITERION)
        assert slm.lmm(f"y ~ {right}", data, weights=weights, reml=False).varpar["sd_Intercept|f"] == 0.0


def test_a_term_that_a_sparse_factor_contains_but_for_one_row_is_fitted():
    data = table()
    coarse = data["f"].cat.codes.to_numpy() // 10
    coarse[0] = (coarse[0] + 1) % 15
    assert slm.lmm("y ~ f + (1 | coarse) + (1 | g)", data.assign(coarse=coarse)).varpar["sd_Intercept|g"] > 0.5


def test_beside_a_random_walk():
    data = table()
    data["t"] = np.random.default_rng(6).integers(0, 40, len(data))
    fit = slm.lmm("y ~ x + f + rw1(0 + t) + (1 | g)", data)
    intercept = fit.fixef["Intercept"]
    assert fit.converged and np.isfinite(fit.fixef_se).all() and 90 < intercept < 110
    assert abs(fit.ranef()["t"].to_numpy().sum()) < 1e-6


def test_the_summary_shows_the_first_coefficients_and_says_how_many_there_are():
    fit = slm.lmm("y ~ x + f + (1 | g)", table())
    text = fit.summary()
    assert "and 91 more, in fixef and fixef_se" in text and len(text.splitlines()) < 90
    line = next(row.split() for row in text.splitlines() if row.split()[:1] == ["x"])
    assert float(line[1]) == pytest.approx(fit.fixef["x"], rel=1e-3)
    assert float(line[2]) == pytest.approx(fit.fixef_se["x"], rel=1e-2)
    assert float(line[3]) == pytest.approx(fit.fixef["x"] / fit.fixef_se["x"], rel=1e-3)
