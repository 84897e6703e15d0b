"""mode="common" against a dense matrix-normal likelihood and closed forms; mode="shrunk" against its limits."""

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize

import sparselmm as slm
from sparselmm.closed_form import general_linear_model, multivariate_normal
from sparselmm.many.blocks import complete
from tests import naive
from tests.many.references import ONE, responses, samples
from tests.many.test_general import CROSSED

RTOL = 1e-8  # two algorithms for one likelihood
SEARCH = 1e-6  # of -2l: what a search without derivatives reaches
CLOSED = 1e-10  # the same closed form in another order of sums


def dense_common(Y, X, V, reml, full):
    """-2 log-likelihood of MN(XB, V, Sigma) with B and Sigma at their estimates, by n x n matrices (seed P7)."""
    n, v = Y.shape
    P = naive.projection(X, V)
    nu = n - X.shape[1] if reml else n
    Sigma = Y.T @ P @ Y / nu
    logdet = naive.logdet(Sigma) if full else np.log(np.diag(Sigma)).sum()
    rest = naive.logdet(X.T @ np.linalg.inv(V) @ X) if reml else 0.0
    return v * (naive.logdet(V) + rest) + nu * logdet + nu * v * (1 + np.log(2 * np.pi)), Sigma


def problem(v, n=60):
    rng = np.random.default_rng(6)
    data = pd.DataFrame({"g": np.arange(n) % 10, "h": rng.integers(0, 6, n), "x": rng.normal(size=n)})
    mix = rng.normal(size=(v, v)) / np.sqrt(v) + np.eye(v)
    E = rng.normal(size=(n, v)) + rng.normal(size=(10, v))[data["g"]] + 0.5 * rng.normal(size=(6, v))[data["h"]]
    return data, 2.0 + E @ mix


@pytest.mark.parametrize("formula", ["~ x + (1 | g)", "~ x + (1 | g) + (1 | h)"])
@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("v", [4, 70])
def test_common_is_the_dense_matrix_normal_optimum(formula, reml, v):
    """v = 4 has a full Sigma; v = 70 > n - p a diagonal one."""
    data, Y = problem(v)
    X = np.column_stack([np.ones(len(data)), data["x"]])
    Z = [np.eye(10)[data["g"]], np.eye(6)[data["h"]]][: formula.count("|")]
    full = v < len(data) - 2

    def deviance(theta):
        V = naive.marginal_cov(Z, [t**2 * np.eye(z.shape[1]) for t, z in zip(theta, Z, strict=True)], len(data))
        return dense_common(Y, X, V, reml, full)

    fits = slm.lmm_many(formula, data, Y, reml=reml, mode="common")
    theta = fits.estimates.theta[0]
    assert (fits.estimates.theta == theta).all() and fits.converged.all() and fits.extra["converged"]
    value, Sigma = deviance(theta)
    np.testing.assert_allclose(-2.0 * fits.extra["loglik"], value, rtol=RTOL)
    np.testing.assert_allclose(fits.sigma**2, np.diag(Sigma), rtol=RTOL)
    best = minimize(lambda t: deviance(t)[0], theta + 0.1, method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-8})
    assert value <= best.fun + SEARCH
    if full:
        np.testing.assert_allclose(fits.extra["Sigma"], Sigma, rtol=RTOL)
    V = naive.marginal_cov(Z, [t**2 * np.eye(z.shape[1]) for t, z in zip(theta, Z, strict=True)], len(data))
    np.testing.assert_allclose(fits.fixef[0], naive.gls(Y[:, 0], X, V)[0], rtol=RTOL)


def without_group_variance(v=4):
    """Responses whose group means after X are all equal: the variance of groups is zero, and V = I."""
    data, Y = problem(v)
    X = np.column_stack([np.ones(len(data)), data["x"]])
    Z = np.eye(10)[data["g"]]
    W = np.column_stack([Z, data["x"]])
    noise = Y - W @ np.linalg.lstsq(W, Y, rcond=None)[0]
    return data, X, noise + X @ np.arange(2.0 * v).reshape(2, v)


def test_common_with_V_the_identity_is_the_general_linear_model():
    """Seeds P7 (B, Sigma) and, for X = 1, P504 (mu, Sigma): ML estimates in closed form."""
    data, X, Y = without_group_variance()
    fits = slm.lmm_many("~ x + (1 | g)", data, Y, reml=False, mode="common")
    closed = general_linear_model(Y, X)
    assert fits.is_singular.all() and (fits.varpar == 0.0).all()
    np.testing.assert_allclose(fits.fixef, closed.B.T, rtol=CLOSED, atol=CLOSED)
    np.testing.assert_allclose(fits.extra["Sigma"], closed.Sigma, rtol=CLOSED, atol=CLOSED)
    np.testing.assert_allclose(fits.extra["loglik"], closed.loglik, rtol=CLOSED)

    centred = Y - X @ np.linalg.lstsq(X, Y, rcond=None)[0] + 3.0
    fits = slm.lmm_many("~ 1 + (1 | g)", data, centred, reml=False, mode="common")
    normal = multivariate_normal(centred)
    np.testing.assert_allclose(fits.fixef[:, 0], normal.mu, rtol=CLOSED)
    np.testing.assert_allclose(fits.extra["Sigma"], normal.Sigma, rtol=CLOSED, atol=CLOSED)
    np.testing.assert_allclose(fits.extra["loglik"], normal.loglik, rtol=CLOSED)


def test_common_leaves_out_what_has_gaps():
    data, Y = problem(4)
    Y[0, 1], Y[:, 2] = np.nan, 1.0
    fits = slm.lmm_many("~ x + (1 | g)", data, Y, mode="common")
    assert [bool(r) for r in fits.reason] == [False, True, True, False] and fits.extra["Sigma"].shape == (2, 2)


def test_shrunk_ratios_lie_between_their_own_and_the_priors():
    """Where all have one ratio the prior is narrow, and a ratio is nearer to its centre than the response's own."""
    rng = np.random.default_rng(3)
    data = samples()
    u = rng.normal(size=(100, 300))[data["donor"] - 1]
    Y = rng.normal(size=(500, 300)) + np.sqrt(0.5) * u
    own, drawn = (slm.lmm_many(ONE, data, Y, mode=mode) for mode in ("per-response", "shrunk"))
    centre = drawn.extra["log_ratio_mean"]
    assert abs(centre - np.log(0.5)) < 0.1 and drawn.extra["log_ratio_sd"] < 0.3
    away, nearer = (np.abs(2.0 * np.log(f.estimates.theta[:, 0]) - centre) for f in (own, drawn))
    assert (nearer <= away + 1e-9).all() and drawn.converged.all()
    assert (drawn.loglik <= own.loglik + 1e-9).all()


def test_shrunk_is_the_minimum_of_the_penalised_profile():
    data, Y = samples(), responses()
    fits = slm.lmm_many(ONE, data, Y, mode="shrunk")
    mu, tau = fits.extra["log_ratio_mean"], fits.extra["log_ratio_sd"]
    Z, X = np.eye(100)[data["donor"] - 1], None
    X = np.column_stack([np.ones(500), data["age"], data["sex"] == "1", data["trt"]]).astype(float)

    def penalised(log_phi):
        V = np.eye(500) + np.exp(log_phi) * Z @ Z.T
        return naive.profile_deviance(Y[:, 0], X, V, True) + ((log_phi - mu) / tau) ** 2

    found = 2.0 * np.log(fits.estimates.theta[0, 0])
    assert penalised(found) <= min(penalised(found + step) for step in (-0.05, 0.05)) and complete(Y).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "together"}, "mode='together'"),
        ({"mode": "shrunk", "formula": CROSSED}, "one variance ratio"),
        ({"mode": "common", "weights": np.ones((12, 500))}, "one V"),
    ],
)
def test_modes_that_cannot_be(options, message):
    options = {"formula": ONE} | options
    with pytest.raises(slm.SparselmmError, match=message):
        slm.lmm_many(options.pop("formula"), samples(), responses(), **options)


def test_responses_that_x_fits_exactly_have_no_part_in_the_common_fit():
    """Their residuals are rounding errors, which had a share in log|Sigma| and so in V."""
    Y, age = responses()[:, :4], samples()[["age"]].to_numpy(float)
    expected = slm.lmm_many(ONE, samples(), Y, mode="common")
    found = slm.lmm_many(ONE, samples(), np.hstack([Y, 2.0 * age + 1.0, 1e150 * Y[:, :1]]), mode="common")
    assert found.reason[4] == "the fixed effects fit the response exactly" and "1e140" in found.reason[5]
    np.testing.assert_array_equal(found.fixef[:4], expected.fixef)
    assert found.extra["loglik"] == expected.extra["loglik"]


@pytest.mark.parametrize("formula", [ONE, "~ age + (1 | donor) + (1 | batch)"])
def test_responses_that_determine_each_other_have_no_common_covariance(formula):
    Y = responses()[:, :3]
    Y = pd.DataFrame(np.hstack([Y, Y[:, :1] + 2.0 * Y[:, 1:2]]), columns=list("abcd"))
    with pytest.raises(slm.ModelError, match="response '[abd]' is, beside X, a linear combination of others"):
        slm.lmm_many(formula, samples(), Y, mode="common")


def test_responses_that_x_fits_exactly_have_no_part_in_the_prior():
    Y, age = responses(), samples()[["age"]].to_numpy(float)
    expected = slm.lmm_many(ONE, samples(), Y, mode="shrunk")
    found = slm.lmm_many(ONE, samples(), np.hstack([Y, 2.0 * age + 1.0, 1e150 * Y[:, :1]]), mode="shrunk")
    assert dict(found.extra) == dict(expected.extra)
    assert (found.reason[12:] != "").all()
