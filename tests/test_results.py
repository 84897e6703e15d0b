"""Every attribute of a fit: against a textbook at the fit's own parameters, and as a record that can be kept."""

import copy
import dataclasses
import pickle

import numpy as np
import pandas as pd
import pytest

import sparselmm as slm
from sparselmm.datasets import load_dataset
from tests import naive

EXACT_RTOL = 1e-9  # the criterion at a fixed theta against explicit inverses of n x n matrices
SAME_RTOL = 1e-12  # the same numbers added in another order
SLOPES = "Reaction ~ Days + (Days | Subject)"
ATTRIBUTES = {
    *("fixef", "fixef_se", "vcov", "sigma", "loglik", "deviance", "aic", "bic", "nobs", "n_params", "varcorr"),
    *("varpar", "varpar_se", "theta", "fitted", "resid", "reml", "converged", "is_singular", "gradient_norm"),
    *("n_iter", "engine", "method", "timings", "dropped_columns", "spec", "likelihood", "estimate"),
    *("ranef", "predict", "summary", "tidy", "glance"),
    *("coef_table", "test", "anova", "caic", "emmeans", "varpar_vcov", "heritability", "variance_ratio", "reliability"),
    *("residuals", "leverage", "cooks_distance", "vif", "r_squared", "icc", "re_pca", "check"),
    *("refit", "simulate", "bootstrap", "profile", "confint", "save"),
}


@pytest.fixture(scope="module")
def fit():
    return slm.lmm(SLOPES, load_dataset("sleepstudy"))


def test_public_names_of_a_fit(fit):
    """Other people's scripts rely on these (DESIGN, section 7)."""
    assert {name for name in dir(fit) if not name.startswith("_")} == ATTRIBUTES


CASES = [
    (SLOPES, "sleepstudy", {}),
    ("Reaction ~ 0 + Days + (1 | Subject)", "sleepstudy", {"offset": "Days"}),
    ("diameter ~ 1 + (1 | plate) + (1 | sample)", "Penicillin", {}),
    ("score ~ Machine + hcs(0 + Machine | Worker)", "Machines", {}),
    ("distance ~ age * Sex + (1 | Subject)", "Orthodont", {"weights": np.tile([1.0, 2.0, 3.0, 4.0], 27)}),
    ("Reaction ~ 0 + (Days | Subject)", "sleepstudy", {}),
    ("Reaction ~ Days", "sleepstudy", {}),
]


def matrices(fit):
    """y less the offset, X and Z, Psi and W of the fit, written out."""
    spec, parameters = fit.spec, fit.likelihood.parameters
    Z, psi = [], []
    for term, part in zip(spec.terms, parameters.parts(fit.theta.to_numpy()), strict=True):
        z = np.zeros((spec.n, term.n_levels, term.n_effects))
        z[np.arange(spec.n), term.Z] = 1.0 if term.columns is None else term.columns
        Z.append(z.reshape(spec.n, -1))
        T = term.covariance.factor(part)
        psi.append(np.kron(np.eye(term.n_levels), T @ T.T))
    y = spec.y if spec.offset is None else spec.y - spec.offset
    return y, spec.X, Z, psi, naive.marginal_cov(Z, psi, spec.n, spec.weights)


@pytest.mark.parametrize("engine", ["cholmod", "dense"])
@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize(("formula", "data", "options"), CASES)
def test_numbers_are_those_of_a_textbook_at_the_same_theta(formula, data, options, reml, engine):
    fit = slm.lmm(formula, load_dataset(data), reml=reml, engine=engine, **options)
    y, X, Z, psi, W = matrices(fit)
    sigma = naive.profile_sigma(y, X, W, reml)
    beta, cov = naive.gls(y, X, W)
    deviance = naive.profile_deviance(y, X, W, reml)
    n, k = len(y), X.shape[1] + len(fit.varpar)
    mean = X @ beta + sum((Zk @ b for Zk, b in zip(Z, naive.blup(y, X, Z, psi, W), strict=True)), np.zeros(n))
    for got, expected in [
        (fit.sigma, sigma),
        (fit.fixef, beta),
        (fit.vcov, sigma**2 * cov),
        (fit.fixef_se, sigma * np.sqrt(np.diag(cov))),
        (fit.deviance, deviance),
        (fit.loglik, -deviance / 2),
        (fit.aic, deviance + 2 * k),
        (fit.bic, deviance + k * np.log(n)),
        (fit.resid, y - mean),
        (fit.fitted + fit.resid, fit.spec.y),
    ]:
        np.testing.assert_allclose(got, expected, rtol=EXACT_RTOL, atol=EXACT_RTOL * sigma)
    assert (fit.nobs, fit.n_params, fit.reml, fit.engine) == (n, k, reml, engine)


def test_kinds_and_names(fit):
    assert all(type(getattr(fit, name)) is float for name in ("sigma", "loglik", "deviance", "aic", "bic"))
    assert all(type(getattr(fit, name)) is int for name in ("nobs", "n_params", "n_iter"))
    assert all(type(getattr(fit, name)) is bool for name in ("converged", "is_singular", "reml"))
    assert all(isinstance(getattr(fit, name), pd.Series) for name in ("fixef", "fixef_se", "varpar", "theta"))
    assert isinstance(fit.fitted, np.ndarray) and fit.fitted.shape == fit.resid.shape == (180,)
    assert list(fit.fixef.index) == list(fit.vcov.index) == list(fit.vcov.columns) == ["Intercept", "Days"]
    assert list(fit.theta.index) == ["Intercept|Subject", "Days.Intercept|Subject", "Days|Subject"]
    assert fit.gradient_norm < 1e-4 and type(fit.gradient_norm) is float
    assert fit.method == "newton" and fit.engine == "absorb" and fit.dropped_columns == ()


def test_timings_of_each_stage(fit):
    assert list(fit.timings) == ["formula", "cross-products", "analysis", "optimisation", "total"]
    assert fit.timings["total"] == pytest.approx(sum(list(fit.timings.values())[:-1]))


def test_theta_is_the_relative_cholesky_factor(fit):
    """lme4's theta: sigma T T' is varcorr."""
    T = np.zeros((2, 2))
    T[0, 0], T[1, 0], T[1, 1] = fit.theta
    cov = fit.sigma**2 * T @ T.T
    np.testing.assert_allclose(fit.varcorr.vcov[:3], [cov[0, 0], cov[1, 1], cov[0, 1]], rtol=SAME_RTOL)


def test_a_dropped_column_is_missing():
    table = load_dataset("sleepstudy")
    table["twice"] = 2 * table.Days
    fit = slm.lmm("Reaction ~ Days + twice + (1 | Subject)", table)
    without = slm.lmm("Reaction ~ Days + (1 | Subject)", table)
    assert fit.dropped_columns == ("twice",)
    assert np.isnan(fit.fixef["twice"]) and np.isnan(fit.fixef_se["twice"])
    assert list(fit.vcov.columns) == ["Intercept", "Days"] and fit.n_params == without.n_params
    np.testing.assert_allclose(fit.fixef.dropna(), without.fixef, rtol=SAME_RTOL)
    np.testing.assert_allclose(fit.fitted, without.fitted, rtol=SAME_RTOL)


def test_dropped_rows_are_not_in_fitted():
    table = load_dataset("sleepstudy")
    table.loc[[3, 100], "Days"] = np.nan
    fit = slm.lmm(SLOPES, table)
    assert fit.nobs == len(fit.fitted) == 178 and fit.spec.n_dropped == 2
    np.testing.assert_array_equal(fit.fitted + fit.resid, table.Reaction.drop([3, 100]))


def test_tidy_has_a_row_for_every_parameter(fit):
    table = fit.tidy()
    assert list(table.columns) == ["effect", "group", "term", "estimate", "std_error", "statistic"]
    assert table.effect.tolist() == ["fixed"] * 2 + ["ran_pars"] * 4
    assert table.group.tolist()[2:] == ["Subject"] * 3 + ["Residual"] and table.group[:2].isna().all()
    assert table.term.tolist() == ["Intercept", "Days", "sd_Intercept", "sd_Days", "cor_Intercept.Days", "sigma"]
    np.testing.assert_array_equal(table.estimate, np.r_[fit.fixef, fit.varpar])
    np.testing.assert_array_equal(table.std_error, np.r_[fit.fixef_se, fit.varpar_se])
    np.testing.assert_array_equal(table.statistic[:2], fit.fixef / fit.fixef_se)


def test_glance_is_one_row_of_facts(fit):
    table = fit.glance()
    assert len(table) == 1
    assert list(table.columns) == [
        *("nobs", "n_params", "sigma", "loglik", "deviance", "aic", "bic", "reml", "converged", "is_singular"),
        *("n_iter", "gradient_norm", "engine"),
    ]
    assert all(table[name][0] == getattr(fit, name) for name in table)


def test_a_fit_cannot_be_changed(fit):
    with pytest.raises(dataclasses.FrozenInstanceError):
        fit.timings = {}
    with pytest.raises((AttributeError, TypeError)):  # Python 3.11's slotted dataclasses raise TypeError
        fit.sigma = 1.0
    before = fit.fixef.copy(), fit.theta.copy(), fit.ranef()["Subject"].copy(), fit.fitted.copy()
    for table in (fit.fixef, fit.theta, fit.ranef()["Subject"], fit.vcov, fit.varpar):
        table.iloc[0] = 0.0
    fit.fitted[:] = 0.0
    after = fit.fixef, fit.theta, fit.ranef()["Subject"], fit.fitted
    for left, right in zip(before, after, strict=True):
        np.testing.assert_array_equal(left, right)


def test_another_fit_of_the_same_model_leaves_the_first_alone():
    model = slm.LinearMixedModel(SLOPES, load_dataset("sleepstudy"))
    first = model.fit()
    before = first.summary(), first.ranef(se=True)["Subject"], first.vcov
    model.fit(reml=False, fixed={"sigma": 40.0})
    model.loglik([3.0, 0.0, 0.0])
    after = first.summary(), first.ranef(se=True)["Subject"], first.vcov
    assert before[0] == after[0]
    pd.testing.assert_frame_equal(before[1], after[1], check_exact=True)
    pd.testing.assert_frame_equal(before[2], after[2], check_exact=True)


@pytest.mark.parametrize("engine", ["absorb", "cholmod", "dense"])
@pytest.mark.parametrize("fixed", [None, {"sigma": 30.0}])
@pytest.mark.parametrize("how", [lambda fit: pickle.loads(pickle.dumps(fit)), copy.deepcopy, copy.copy])
def test_a_fit_can_be_pickled_and_copied(how, engine, fixed):
    table = load_dataset("sleepstudy")
    fit = slm.lmm("Reaction ~ poly(Days, 2) + (Days | Subject)", table, engine=engine, fixed=fixed)
    other = how(fit)
    assert str(other) == str(fit) and repr(other) == repr(fit)
    pd.testing.assert_frame_equal(other.ranef(se=True)["Subject"], fit.ranef(se=True)["Subject"], rtol=SAME_RTOL)
    pd.testing.assert_frame_equal(other.tidy(), fit.tidy(), rtol=SAME_RTOL)
    np.testing.assert_allclose(other.predict(table.tail()), fit.predict(table.tail()), rtol=SAME_RTOL)
    assert other.likelihood(fit.theta, reml=True).deviance == pytest.approx(
        fit.likelihood(fit.theta, reml=True).deviance, rel=SAME_RTOL
    )


def test_repr_is_one_line(fit):
    assert repr(fit) == f"<sparselmm fit by REML: {SLOPES}; deviance 1743.6283>"
