"""Trends that the fixed part leaves to a series or a field: correlations of 1, standard deviations at infinity.

With a constant in the fixed part the REML criterion of a stationary series tends to that of a random walk, and that
of a field, s^2 a^|i-k| b^|j-l|, as s^2 (1 - a) = p and s^2 (1 - b) = q stay what they are, to that of two of them,
-p |i-k| - q |j-l|. Expected values are minima of those criteria with n x n matrices.
"""

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize

import sparselmm as slm
from sparselmm.inference.vanishing import vanishing
from tests import naive

LIMIT_ATOL = 2e-5  # 1e-8 before the limit of 100 rows
QUIET_ATOL = 3e-5  # sigma of zero is computed at a thousandth of the steps' standard deviation, 2e-5 off
DEVIANCE_RTOL = 1e-9  # two computations of one number
MOST_ITERATIONS = 32
SEARCH = {"method": "Nelder-Mead", "options": {"xatol": 1e-7, "fatol": 1e-11, "maxiter": 4000}}


def series(kind, seed, noise=1.0):
    rng, t = np.random.default_rng(seed), np.arange(100)
    level = {"line": 0.1 * t, "curve": 0.002 * t**2, "walk": np.cumsum(rng.normal(size=100))}[kind]
    return pd.DataFrame({"t": t, "y": 5 + level + noise * rng.normal(size=100), "x": rng.normal(size=100)})


def field(seed, slopes=(0.3, 0.2)):
    rng = np.random.default_rng(seed)
    row, col = map(np.ravel, np.meshgrid(np.arange(12), np.arange(9), indexing="ij"))
    y = 5 + slopes[0] * row + slopes[1] * col + 0.5 * rng.normal(size=108)
    return pd.DataFrame({"row": row, "col": col, "y": y})


def distances(x):
    return np.abs(np.subtract.outer(x.to_numpy(), x.to_numpy())).astype(float)


def shifted(W):
    """W and a large common variance, which REML with a constant does not see, so that W is positive definite."""
    return W - 2.0 * W.min()


def criterion(data, X, W, reml=True):
    return naive.profile_deviance(data.y.to_numpy(), X, W, reml)


def lowest_walk(data):
    """(deviance, variance of a step over sigma^2) of a random walk and noise."""
    X, D = np.column_stack([np.ones(100), data.x]), distances(data.t)
    at = lambda v: criterion(data, X, shifted(np.eye(100) - 0.5 * np.exp(v[0]) * D))  # noqa: E731
    found = min((minimize(at, [start], **SEARCH) for start in (-6.0, -2.0, 0.0)), key=lambda found: found.fun)
    return found.fun, np.exp(found.x[0])


@pytest.mark.parametrize("structure", ["ar1", "ou"])
@pytest.mark.parametrize(
    ("kind", "seed"), [("line", 0), ("line", 3), ("curve", 0), ("curve", 1), ("walk", 1), ("walk", 5)]
)
def test_a_series_and_noise_end_at_a_random_walk(structure, kind, seed):
    """Fits of lines and walks did not converge, and those of curves said that sigma is zero."""
    data = series(kind, seed)
    fit = slm.lmm(f"y ~ x + {structure}(0 + t)", data)
    deviance, step = lowest_walk(data)
    assert fit.converged and fit.method == "newton" and fit.n_iter <= MOST_ITERATIONS
    assert fit.varpar.iloc[1] == {"ar1": 1.0, "ou": 0.0}[structure] and "random walk" in fit.summary()
    assert fit.deviance == pytest.approx(deviance, abs=LIMIT_ATOL, rel=0)
    variance = 2e-8 * (fit.varpar.iloc[0] / fit.sigma) ** 2  # of a step, 1e-8 before the limit
    assert variance == pytest.approx(step, rel=1e-2)
    assert not fit.estimate.sigma_is_zero and fit.varpar_se["sigma"] > 0.0


@pytest.mark.parametrize("kind", ["line", "curve", "walk"])
def test_by_ml_the_level_has_a_price(kind):
    """log|V| grows with the level's variance, so that the correlation stays below 1."""
    data = series(kind, 3)
    fit = slm.lmm("y ~ x + ar1(0 + t)", data, reml=False)
    X, D = np.column_stack([np.ones(100), data.x]), distances(data.t)
    at = lambda v: criterion(data, X, np.eye(100) + np.exp(2 * v[0]) * np.tanh(v[1]) ** D, False)  # noqa: E731
    start = [np.log(fit.varpar.iloc[0] / fit.sigma), np.arctanh(fit.varpar.iloc[1])]
    assert fit.converged and not fit.is_singular and fit.n_iter <= MOST_ITERATIONS
    assert fit.deviance == pytest.approx(at(start), rel=DEVIANCE_RTOL)
    assert fit.deviance <= minimize(at, np.array(start) + [0.3, -0.2], **SEARCH).fun + 1e-8


@pytest.mark.parametrize("structure", ["ar1", "ou"])
@pytest.mark.parametrize(("seed", "reml"), [(0, True), (0, False), (2, True), (5, False)])
def test_a_series_of_high_correlation_without_noise(structure, seed, reml):
    """Beside a correlation of 0.996 a sigma of a thousandth of the levels' standard deviation cost 2.6e-3."""
    data = series("walk", seed, noise=0.0)
    fit = slm.lmm(f"y ~ 1 + {structure}(0 + t)", data, reml=reml)
    D = distances(data.t)
    at = lambda v: criterion(data, np.ones((100, 1)), np.tanh(v[0]) ** D, reml)  # noqa: E731
    assert fit.converged and fit.estimate.sigma_is_zero
    assert fit.deviance == pytest.approx(minimize(at, [2.5], **SEARCH).fun, abs=QUIET_ATOL, rel=0)


def test_little_noise_beside_a_walk_is_noise():
    """It ended at a sigma of zero, 0.06 higher."""
    data = series("walk", 1, noise=0.0)
    fit = slm.lmm("y ~ 1 + ar1(0 + t)", data)
    D, (sd, rho, sigma) = distances(data.t), fit.varpar
    assert fit.converged and not fit.is_singular
    W = np.eye(100) + (sd / sigma) ** 2 * rho**D
    assert fit.deviance == pytest.approx(criterion(data, np.ones((100, 1)), W), rel=DEVIANCE_RTOL)
    assert fit.deviance < criterion(data, np.ones((100, 1)), rho**D) - 0.05


def told(formula, data):
    """The warning of a fit that did not converge, and the fit."""
    with pytest.warns(slm.SparselmmWarning, match="did not converge") as caught:
        fit = slm.lmm(formula, data)
    return str(caught[0].message), fit


FIELDS = ("ar1(0 + row):ar1(0 + col)", "ar1(0 + row):ou(0 + col)", "ou(0 + row):ou(0 + col)")


@pytest.mark.parametrize("slopes", [(0.3, 0.2), (0.3, 0.0)])
@pytest.mark.parametrize("seed", [0, 1])
def test_two_walks_are_the_limit_of_a_field(seed, slopes):
    """The criterion falls all the way, by a multiple of 1 - a, and `rw1 + rw1` is where it ends."""
    data = field(seed, slopes)
    D, E, X = distances(data.row), distances(data.col), np.ones((108, 1))
    walks = lambda v: criterion(data, X, shifted(np.eye(108) - np.exp(v[0]) * D - np.exp(v[1]) * E))  # noqa: E731
    limit = minimize(walks, [-2.0, -2.0], **SEARCH)
    fit = slm.lmm("y ~ 1 + rw1(0 + row) + rw1(0 + col)", data)
    assert fit.converged and fit.deviance == pytest.approx(limit.fun, abs=1e-6, rel=0)

    def near(a):
        """The lowest criterion of fields with a correlation of exp(-a) between rows."""
        V = lambda v: np.exp(v[0]) / a * np.exp(-a * (D + np.exp(v[1] - v[0]) * E))  # noqa: E731
        return minimize(lambda v: criterion(data, X, np.eye(108) + V(v)), limit.x, **SEARCH).fun - limit.fun

    far, nearer, nearest = (near(a) for a in (1e-2, 1e-3, 1e-4))
    assert far > 5 * nearer > 25 * nearest > 0
    assert nearest == pytest.approx(nearer / 10, rel=0.1)


@pytest.mark.parametrize("terms", FIELDS)
@pytest.mark.parametrize("slopes", [(0.3, 0.2), (2.0, 0.1), (0.3, 0.0)])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_field_with_a_trend_names_its_limit(seed, slopes, terms):
    """It said that sigma runs to zero, after 58 iterations and more than 160 factorisations, or ended with an error."""
    data = field(seed, slopes)
    message, fit = told(f"y ~ 1 + {terms}", data)
    assert "correlations run to 1 and a standard deviation to infinity" in message
    assert f"{terms} is left with a trend" in message
    assert "that of rw1(0 + row) + rw1(0 + col) in its place" in message and "trend in row and col" in message
    assert message.split("; ", 1)[1] in fit.summary() and fit.method == "newton"
    walks = slm.lmm("y ~ 1 + rw1(0 + row) + rw1(0 + col)", data)
    assert walks.deviance < fit.deviance < walks.deviance + 0.2


@pytest.mark.parametrize("terms", FIELDS)
def test_by_ml_a_field_with_a_trend_has_an_optimum(terms):
    fit = slm.lmm(f"y ~ 1 + {terms}", field(0), reml=False)
    assert fit.converged and not fit.is_singular and vanishing(fit) == ""


def test_a_field_beside_its_trend_converges():
    fit = slm.lmm("y ~ row + col + ar1(0 + row):ar1(0 + col)", field(0))
    assert fit.converged and fit.n_iter <= MOST_ITERATIONS
