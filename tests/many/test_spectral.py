"""One variance ratio: against lme4, lmerTest and n x n algebra."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import sparselmm as slm
from sparselmm.formula import build_spec
from sparselmm.many.design import Design, residualise
from sparselmm.many.spectral import Spectral
from tests import naive
from tests.many.references import ONE, SHARED, everything, golden, reference, responses, samples

FIXEF_RTOL = 1e-5  # of the larger of the value and its standard error; se too: what lme4's optimisers reach
SD_RTOL = 1e-4  # standard deviations; where the fit is singular they are exactly zero
LOGLIK_RTOL = 1e-8  # a lower one would be a worse optimum
SAME_RATIO = 1e-9  # at lme4's own ratio the formulas must agree to rounding
DF_RTOL = 1e-3  # lmerTest differentiates numerically
DENSE_RTOL = 1e-9  # two algorithms for one number
SINGULAR = 1e-4  # lme4's standard deviation of a singular fit, relative to sigma


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def spectral(formula, data, reml=True):
    return Spectral(Design(build_spec(f"row {formula}", data.assign(row=np.arange(float(len(data))))), None), reml)


def assert_agrees(fits, expected):
    beta, se = expected["beta"], expected["se"]
    scale = np.maximum(np.abs(beta), se)
    assert (np.abs(fits.fixef - beta) <= FIXEF_RTOL * scale).all()
    np.testing.assert_allclose(fits.fixef_se, se, rtol=FIXEF_RTOL)
    np.testing.assert_allclose(fits.sigma, expected["sdcor"][:, -1], rtol=SD_RTOL)
    assert (fits.loglik >= expected["loglik"] - LOGLIK_RTOL * np.abs(expected["loglik"])).all()
    assert fits.converged.all()


@pytest.mark.parametrize(("name", "reml"), [("one", True), ("one_ml", False)])
def test_every_response_is_lme4s_fit(name, reml):
    expected = reference(name)
    v = len(expected["loglik"])
    fits = slm.lmm_many(ONE, samples(), responses()[:, :v], reml=reml)
    assert_agrees(fits, expected)
    np.testing.assert_allclose(fits.varpar[:, 0], expected["sdcor"][:, 0], rtol=SD_RTOL)
    assert fits.varpar_names == ("sd_Intercept|donor",)


def test_degrees_of_freedom_are_lmertests():
    fits = slm.lmm_many(ONE, samples(), responses(), contrasts={"age - trt": {"age": 1, "trt": -1}})
    np.testing.assert_allclose(fits.fixef_df, golden()["satterthwaite"], rtol=DF_RTOL)
    frame = fits.to_frame().query("coefficient == 'age - trt'").head(len(golden()["contrast"]))
    expected = pd.DataFrame(golden()["contrast"])
    np.testing.assert_allclose(frame["estimate"], expected["Estimate"], atol=FIXEF_RTOL)
    np.testing.assert_allclose(frame["std_error"], expected["Std. Error"], rtol=FIXEF_RTOL)
    np.testing.assert_allclose(frame["df"], expected["df"], rtol=DF_RTOL)
    np.testing.assert_allclose(frame["p_value"], expected["Pr(>|t|)"], rtol=DF_RTOL)


@pytest.mark.skipif(not SHARED.exists(), reason="the shared references are not here")
def test_all_200_responses():
    """One of lme4's fits stopped short (its criterion is higher): there, its own ratio must give its own numbers."""
    data, Y, ref, _ = everything()
    fits = slm.lmm_many(ONE, data, Y)
    beta, se, deviance = ref[:, 2:6], ref[:, 6:10], -2.0 * fits.loglik
    close = (np.abs(fits.fixef - beta) <= FIXEF_RTOL * np.maximum(np.abs(beta), se)).all(axis=1)
    close &= (np.abs(fits.fixef_se / se - 1.0) <= FIXEF_RTOL).all(axis=1)
    assert (deviance <= ref[:, 10] + LOGLIK_RTOL * ref[:, 10]).all() and (~close).sum() <= 1
    assert (deviance[~close] < ref[~close, 10]).all()
    singular = ref[:, 0] <= SINGULAR**2 * ref[:, 1]
    assert (fits.is_singular == singular).all() and (fits.varpar[singular] == 0.0).all()
    np.testing.assert_allclose(fits.varpar[:, 0] ** 2, ref[:, 0], rtol=1e-3)
    np.testing.assert_allclose(fits.sigma**2, ref[:, 1], rtol=1e-3)

    fitter = spectral(ONE, data)
    block = residualise(fitter.design, Y.to_numpy().copy())
    edge = np.zeros(len(ref), dtype=np.int64)
    at = fitter.estimates(block, *fitter.sums(block), ref[:, 0] / ref[:, 1], np.zeros(len(ref)), edge)
    np.testing.assert_allclose(at.se, se, rtol=SAME_RATIO)
    np.testing.assert_allclose(at.beta, beta, atol=SAME_RATIO)
    np.testing.assert_allclose(-2.0 * at.loglik, ref[:, 10], rtol=SAME_RATIO)


def kernel_case(rng, n, m, weighted):
    """A dense kernel over m levels, each row in one of them, some levels without rows."""
    half = rng.normal(size=(m, m + 3))
    Q = np.linalg.inv(half @ half.T / m)
    codes = rng.integers(0, m, n)
    X = np.column_stack([np.ones(n), rng.normal(size=n)])
    weights = np.exp(rng.normal(size=n, scale=0.4)) if weighted else None
    term = slm.RandomTerm(codes, name="id", Q=slm.Known(sp.csc_array(0.5 * (Q + Q.T))))
    spec = slm.ModelSpec(np.arange(float(n)), X, ("one", "x"), (term,), weights=weights)
    K = (np.linalg.inv(Q))[np.ix_(codes, codes)]
    return spec, X, K, np.ones(n) if weights is None else weights


@pytest.mark.parametrize(("n", "m"), [(40, 25), (30, 60)])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reml", [True, False])
def test_a_kernel_against_dense_algebra(rng, n, m, weighted, reml):
    """Fewer levels than rows, and more; V is n x n here."""
    spec, X, K, w = kernel_case(rng, n, m, weighted)
    noise = rng.normal(size=(n, 6)) / np.sqrt(w)[:, None]
    Y = 3 + noise + np.linalg.cholesky(K + 1e-9 * np.eye(n)) @ rng.normal(size=(n, 6)) * np.linspace(0, 2, 6)
    fitter = Spectral(Design(spec), reml)
    out = fitter.fit(residualise(fitter.design, Y.copy()))
    assert out.converged.all()
    for j, phi in enumerate(out.theta[:, 0] ** 2):
        deviance = lambda phi, y=Y[:, j]: naive.profile_deviance(y, X, np.diag(1 / w) + phi * K, reml)  # noqa: E731
        V = np.diag(1 / w) + phi * K
        np.testing.assert_allclose(-2 * out.loglik[j], deviance(phi), rtol=DENSE_RTOL)
        beta, cov = naive.gls(Y[:, j], X, V)
        sigma = naive.profile_sigma(Y[:, j], X, V, reml)
        np.testing.assert_allclose(out.beta[j], beta, rtol=DENSE_RTOL, atol=DENSE_RTOL)
        np.testing.assert_allclose(out.se[j], sigma * np.sqrt(np.diag(cov)), rtol=DENSE_RTOL)
        grid = [deviance(x) for x in np.append(0.0, np.geomspace(1e-4, 1e4, 60))]
        assert deviance(phi) <= min(grid) + 1e-9


@pytest.mark.parametrize("formula", ["~ 0 + (1 | g)", "~ x + (1 | g)", "~ x + twice + (1 | g)"])
@pytest.mark.parametrize("shift", [0.0, 1e9])
def test_no_fixed_effects_dependent_ones_and_large_means(rng, formula, shift):
    """Against single fits by the dense engine; a mean of 1e9 leaves seven digits of the data."""
    data = pd.DataFrame({"g": np.arange(60) % 12, "x": rng.normal(size=60)})
    data["twice"] = 2.0 * data["x"]
    Y = rng.normal(size=(60, 3)) + rng.normal(size=(12, 3))[data["g"]] + (shift if "0" not in formula else 0.0)
    fits = slm.lmm_many(formula, data, Y)
    for j in range(3):
        single = slm.lmm("y" + formula, data.assign(y=Y[:, j]), engine="dense")
        np.testing.assert_allclose(fits.loglik[j], single.loglik, rtol=LOGLIK_RTOL)
        np.testing.assert_array_equal(np.isnan(fits.fixef[j]), np.isnan(single.fixef))
        np.testing.assert_allclose(fits.fixef_se[j], single.fixef_se, rtol=FIXEF_RTOL)


def test_a_term_that_the_fixed_effects_explain_is_an_error(rng):
    data = pd.DataFrame({"g": np.arange(60) % 12})
    with pytest.raises(slm.ModelError, match="explain the whole term"):
        slm.lmm_many("~ C(g) + (1 | g)", data, rng.normal(size=(60, 2)))


def test_an_exact_fit_by_the_random_effects_says_so(rng):
    data = pd.DataFrame({"g": np.arange(60) % 12, "x": rng.normal(size=60)})
    fits = slm.lmm_many("~ x + (1 | g)", data, rng.normal(size=(12, 2))[data["g"]])
    assert not fits.converged.any() and all("sigma goes to zero" in reason for reason in fits.reason)
