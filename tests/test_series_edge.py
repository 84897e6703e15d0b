"""Limits of series: variances of zero, correlations of 1 and -1, rates of zero and infinity, against the limit models.

A limit is computed 1e-8 before it, where the criterion cancels to about 1e-6 (absolutely); a rate of infinity exactly.
"""

import numpy as np
import pandas as pd
import pytest
import scipy.linalg as sla
from scipy.optimize import minimize_scalar

import sparselmm as slm
from tests import naive

DEVIANCE_RTOL = 1e-10  # two computations of one number
LIMIT_ATOL = 2e-5  # 1e-8 before the limit of 160 rows, in criteria near 500
SD_RTOL = 1e-4  # the certificate there is 1e-4 standard errors
MOST_ITERATIONS = 15
RATE = ["kappa_residual"]


@pytest.fixture(scope="module")
def fit():
    return slm.lmm("Reaction ~ Days + ar1(0 + Days)", slm.load_dataset("sleepstudy"))


def test_variance_is_exactly_zero(fit):
    assert fit.converged
    assert fit.is_singular
    assert fit.n_iter <= MOST_ITERATIONS
    assert fit.varpar["sd_ar1(Days)|Days"] == 0.0
    assert not fit.ranef()["Days"].to_numpy().any()


def test_criterion_is_that_of_least_squares(fit):
    X, y = fit.spec.X, fit.spec.y
    r2, nu = np.linalg.lstsq(X, y)[1][0], len(y) - X.shape[1]
    expected = np.linalg.slogdet(X.T @ X)[1] + nu * (1 + np.log(2 * np.pi * r2 / nu))
    assert fit.deviance == pytest.approx(expected, rel=DEVIANCE_RTOL)


def test_score_of_the_correlation_is_zero_there(fit):
    score = fit.likelihood.derivatives(np.array([0.0, 1.0])).gradient
    assert score[1] == 0.0


def test_correlation_has_no_standard_error(fit):
    assert np.isnan(fit.varpar_se["rho_ar1(Days)|Days"])
    assert "rho_ar1(Days)|Days" in fit.summary()


# --- limits of correlations and rates -------------------------------------------------------------------


def series(kind, seed=1, n_series=20, length=8, rows=1):
    """y of `kind` in n_series series: "constant" or "alternating" levels, "white" ones for each time, or "noise"."""
    rng = np.random.default_rng(seed)
    g, t = np.repeat(np.arange(n_series), length * rows), np.tile(np.repeat(np.arange(length), rows), n_series)
    frame = pd.DataFrame({"g": g, "t": t, "state": g * length + t, "sign": (-1.0) ** t, "x": rng.normal(size=len(g))})
    level = {
        "constant": lambda: rng.normal(size=n_series)[g],
        "alternating": lambda: rng.normal(size=n_series)[g] * frame.sign,
        "white": lambda: rng.normal(size=n_series * length)[frame.state],
        "noise": lambda: 0.0,
    }[kind]()
    return frame.assign(y=level + rng.normal(size=len(g)))


# formula, data, the limit model, the parameter and its limit, what the summary says
LIMITS = {
    "constant ar1": ("ar1(0 + t | g)", series("constant"), "(1 | g)", "rho_ar1(t)|g", 1.0, "one number"),
    "constant ou": ("ou(0 + t | g)", series("constant"), "(1 | g)", "kappa_ou(t)|g", 0.0, "one number"),
    "alternating": (
        "ar1(0 + t | g)", series("alternating", 2), "(0 + sign | g)", "rho_ar1(t)|g", -1.0, "alternating sign",
    ),
    "white ou": (
        "ou(0 + t | g)", series("white", rows=2), "(1 | state)", "kappa_ou(t)|g", np.inf, "no correlation",
    ),
    "white ou beside g": (
        "(1 | g) + ou(0 + t | g)", series("white", rows=2), "(1 | g) + (1 | state)", "kappa_ou(t)|g", np.inf,
        "no correlation",
    ),
}  # fmt: skip


@pytest.mark.parametrize("reml", [True, False], ids=["REML", "ML"])
@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_is_its_model(name, reml):
    formula, data, limit, parameter, value, words = LIMITS[name]
    fit = slm.lmm(f"y ~ x + {formula}", data, reml=reml)
    other = slm.lmm(f"y ~ x + {limit}", data, reml=reml)
    assert fit.converged and fit.method == "newton" and fit.is_singular
    assert fit.n_iter <= MOST_ITERATIONS
    assert fit.varpar[parameter] == value
    assert fit.deviance == pytest.approx(other.deviance, abs=LIMIT_ATOL, rel=0)
    np.testing.assert_allclose(fit.varpar.drop(parameter), other.varpar, rtol=SD_RTOL, atol=1e-3)
    np.testing.assert_allclose(fit.fixef, other.fixef, rtol=SD_RTOL)
    assert f"{parameter} = {value:.0f} (" in fit.summary() and words in fit.summary()
    assert np.isnan(fit.varpar_se[parameter])
    inside = other.varpar > 0
    np.testing.assert_allclose(fit.varpar_se.drop(parameter)[inside.to_numpy()], other.varpar_se[inside], rtol=1e-3)
    held = slm.lmm(f"y ~ x + {formula}", data, reml=reml, fixed=dict(fit.varpar))
    assert held.deviance == pytest.approx(fit.deviance, abs=LIMIT_ATOL, rel=0)


@pytest.mark.parametrize("reml", [True, False], ids=["REML", "ML"])
@pytest.mark.parametrize("irregular", [False, True])
def test_independent_residuals(reml, irregular):
    """Where the neighbours' correlation is negative an exponential one is at its limit, and that is least squares."""
    data = series("noise", 3 - 2 * irregular)
    data["t"] = data.t + irregular * np.random.default_rng(1).uniform(0, 0.9, len(data))
    fit, plain = slm.lmm("y ~ x", data, residual="ou(t | g)", reml=reml), slm.lmm("y ~ x", data, reml=reml)
    assert fit.converged and fit.is_singular and fit.n_iter <= MOST_ITERATIONS
    assert fit.varpar["kappa_residual"] == np.inf
    assert fit.deviance == pytest.approx(plain.deviance, rel=DEVIANCE_RTOL)
    assert fit.varpar_se["sigma"] == pytest.approx(plain.varpar_se["sigma"], rel=1e-6)


# nlme 3.1-162 (R 4.2.2): gls(Yield ~ 1, Dyestuff2, correlation = corCAR1(form = ~ t | Batch)), t = 0 ... 4 in a batch.
# Its phi = exp(-kappa) ends at 1.5e-9: -2 log-likelihood and sigma there
NLME = {True: (161.828277828944, 3.71568427570083), False: (162.873036673727, 3.65323135258636)}


@pytest.mark.parametrize("reml", [True, False], ids=["REML", "ML"])
def test_independent_residuals_of_nlme(reml):
    data = slm.load_dataset("Dyestuff2")
    data["t"] = data.groupby("Batch", observed=True).cumcount()
    fit = slm.lmm("Yield ~ 1", data, residual="ou(t | Batch)", reml=reml)
    deviance, sigma = NLME[reml]
    assert fit.varpar["kappa_residual"] == np.inf
    assert fit.deviance == pytest.approx(deviance, rel=1e-8)
    assert fit.sigma == pytest.approx(sigma, rel=1e-6)


def walk(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=100)
    return pd.DataFrame({"y": np.cumsum(rng.normal(size=100)), "t": np.arange(100), "x": x})


def random_walk_deviance(data, noise):
    """REML: with a mean in the model only increments count, so that W = min(i, j) + noise I."""
    X = np.column_stack([np.ones(len(data)), data.x])
    i = data.t.to_numpy() + 1.0
    return naive.profile_deviance(data.y.to_numpy(), X, np.minimum.outer(i, i) + noise * np.eye(len(i)), True)


def test_residuals_that_are_a_random_walk():
    """A correlation of one whose standard deviation goes to infinity: only the step's is finite."""
    data = walk(3)
    fit = slm.lmm("y ~ x", data, residual="ar1(t)")
    assert fit.converged and fit.is_singular and fit.varpar["rho_residual"] == 1.0
    assert fit.n_iter <= MOST_ITERATIONS
    assert fit.deviance == pytest.approx(random_walk_deviance(data, 0.0), abs=LIMIT_ATOL, rel=0)


@pytest.mark.parametrize("seed", [1, 3])
def test_a_series_that_is_a_random_walk(seed):
    data = walk(seed).assign(y=lambda d: d.y + 0.5 * np.random.default_rng(9).normal(size=100))
    fit = slm.lmm("y ~ x + ar1(0 + t)", data)
    grid = np.exp(np.linspace(-6, 1, 400))
    best = min(random_walk_deviance(data, noise) for noise in grid)
    assert fit.converged
    assert fit.deviance <= best + 1e-3  # of a grid with steps of 2 % in the noise
    if fit.varpar["rho_ar1(t)|t"] == 1.0:
        assert fit.is_singular and fit.deviance == pytest.approx(best, abs=1e-3, rel=0)


@pytest.mark.parametrize("end", [-1, 1])
def test_a_limit_that_is_no_optimum_is_left(end):
    """From a start exactly at rho = 1 or -1."""
    data = series("constant", 2)
    model = slm.LinearMixedModel("y ~ x + ar1(0 + t | g)", data)
    fit, high = model.fit(), model.likelihood.parameters.bounds()[1]
    again = model.fit(start=np.array([1.0, end * high[1]]))
    assert not fit.is_singular
    assert again.converged and again.deviance == pytest.approx(fit.deviance, rel=1e-8)


def test_correlation_is_not_searched_where_the_variance_is_zero():
    """White noise, a row a state: an exponential correlation cannot be negative, so nothing is left of the term."""
    data = series("noise", 1)
    fit = slm.lmm("y ~ x + ou(0 + t | g)", data)
    assert fit.converged and fit.varpar["sd_ou(t)|g"] == 0.0 and fit.n_iter <= MOST_ITERATIONS
    assert fit.deviance == pytest.approx(slm.lmm("y ~ x", data).deviance, rel=DEVIANCE_RTOL)
    assert "kappa_ou(t)|g = " not in next(line for line in fit.summary().split("\n") if line.startswith("Singular"))


def test_sigma_of_zero_beside_a_variance_of_zero():
    """Twelve rows with a state each: the inner series takes the place of the residuals, the outer one is nothing."""
    rng = np.random.default_rng(6)
    data = pd.DataFrame({"y": rng.normal(size=12), "x": rng.normal(size=12), "t": np.tile(np.arange(3), 4)})
    data = data.assign(g=np.repeat([0, 1], 6), f=np.tile(np.repeat([0, 1], 3), 2))
    fit = slm.lmm("y ~ x + ar1(0 + t | g/f)", data)
    assert fit.converged and fit.varpar["sd_ar1(t)|g"] == 0.0 and np.isnan(fit.varpar_se["sigma"])
    X, y = np.column_stack([np.ones(12), data.x]), data.y.to_numpy()
    V = lambda rho: sla.block_diag(*4 * [rho ** np.abs(np.subtract.outer(np.arange(3), np.arange(3)))])  # noqa: E731
    best = minimize_scalar(lambda rho: naive.profile_deviance(y, X, V(rho), True), bounds=(-0.9, 0.9))
    assert fit.deviance == pytest.approx(best.fun, abs=LIMIT_ATOL)
    assert fit.varpar["rho_ar1(t)|g:f"] == pytest.approx(best.x, abs=1e-3)


def test_of_two_maxima_at_negative_and_positive_correlations_the_higher_one():
    """Lower to one side of the start, the criterion is lower still to the other; a grid of V says which wins."""
    data = pd.DataFrame({"g": [0, 0, 0, 1, 1, 1, 2, 3, 3], "t": [7, 12, 14, 3, 17, 19, 3, 10, 18]})
    data["y"] = [-1.012, 2.319, -0.504, 5.36, 5.208, -0.962, 30.003, 19.202, 14.458]
    gaps = np.abs(np.subtract.outer(data.t.to_numpy(), data.t.to_numpy()))
    same = np.equal.outer(data.g.to_numpy(), data.g.to_numpy())
    criterion = lambda rho: naive.profile_deviance(data.y.to_numpy(), np.ones((9, 1)), same * rho**gaps, True)  # noqa: E731
    grid = [criterion(rho) for rho in (*np.linspace(-0.99, -0.5, 50), *np.linspace(0.5, 0.995, 100))]
    fit = slm.lmm("y ~ 1", data, residual="ar1(t | g)")
    assert fit.varpar["rho_residual"] > 0.9
    assert min(grid) - 1e-2 < fit.deviance < min(grid)
