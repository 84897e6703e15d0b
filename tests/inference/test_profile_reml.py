"""Profiles of the REML criterion against the textbook's, minimised and solved by scipy."""

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import brentq, minimize, minimize_scalar
from scipy.stats import norm

import sparselmm as slm
from sparselmm.datasets import load_dataset
from tests import naive

EXACT = 1e-5  # of an end, relative: zeta is right to 1e-6, and a search of a flat deviance of 120 to 1e-5
LEVEL = 0.9


def unbalanced():
    rng = np.random.default_rng(5)
    g = np.repeat(np.arange(13), rng.integers(1, 7, 13))
    n = len(g)
    x = rng.normal(size=n)
    y = 1 + 0.5 * x + rng.normal(size=13)[g] + 0.8 * rng.normal(size=n)
    return pd.DataFrame({"y": y, "x": x, "g": g, "w": rng.uniform(0.5, 2.0, n)})


def criterion(data):
    """(tau, sigma) -> -2 l of REML, weights included."""
    X, Z = np.column_stack([np.ones(len(data)), data.x]), np.eye(13)[data.g]
    V = lambda tau, sigma: tau**2 * Z @ Z.T + sigma**2 * np.diag(1 / data.w)  # noqa: E731
    return lambda tau, sigma: naive.deviance(data.y.to_numpy(), X, V(tau, sigma), True)


def least(function, low, high):
    return minimize_scalar(function, bounds=(low, high), method="bounded", options={"xatol": 1e-11}).fun


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("engine", ["auto", "dense"])
def test_ends_of_a_one_way_layout(reml, engine):
    """Whatever the criterion of the fit."""
    data = unbalanced()
    fit, f = slm.lmm("y ~ x + (1 | g)", data, weights="w", reml=reml, engine=engine), criterion(data)
    lowest = least(lambda tau: least(lambda sigma: f(tau, sigma), 0.3, 2.0), 0.2, 4.0)
    rise = norm.isf(0.5 - 0.5 * LEVEL) ** 2
    along = {
        "sd_Intercept|g": lambda tau: least(lambda sigma: f(tau, sigma), 0.3, 2.0) - lowest - rise,
        "sigma": lambda sigma: least(lambda tau: f(tau, sigma), 0.0, 6.0) - lowest - rise,
    }
    found = fit.confint("profile", LEVEL, reml=True)
    assert found.index.tolist() == list(along)
    for name, excess in along.items():
        low, high = found.loc[name]
        middle = 0.5 * (low + high)
        assert low == pytest.approx(brentq(excess, 0.2 * low, middle), rel=EXACT)
        assert high == pytest.approx(brentq(excess, middle, 4 * high), rel=EXACT)
    assert fit.profile(reml=True).reml and not fit.profile("sigma").reml


def test_a_correlation():
    """At its ends the REML criterion, minimised over the other three parameters by Nelder and Mead, is z^2 higher."""
    data = load_dataset("sleepstudy")
    fit = slm.lmm("Reaction ~ Days + (Days | Subject)", data)
    X = np.column_stack([np.ones(180), data.Days])
    codes = np.unique(data.Subject, return_inverse=True)[1]
    Z = np.zeros((180, 36))
    Z[np.arange(180), 2 * codes], Z[np.arange(180), 2 * codes + 1] = 1.0, data.Days

    def constrained(rho):
        def f(x):
            a, b, sigma = np.exp(x)
            G = np.array([[a * a, rho * a * b], [rho * a * b, b * b]])
            V = Z @ np.kron(np.eye(18), G) @ Z.T + sigma**2 * np.eye(180)
            return naive.deviance(data.Reaction.to_numpy(), X, V, True)

        start = np.log(fit.varpar.iloc[[0, 1, 3]].to_numpy())
        return minimize(f, start, method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-9}).fun

    ends = fit.confint("profile", which="cor_Intercept.Days|Subject", reml=True).iloc[0]
    for rho in ends:
        assert np.sqrt(constrained(rho) - fit.deviance) == pytest.approx(norm.isf(0.025), abs=1e-5)


def test_the_exact_interval_of_the_residual():
    """Alone, sigma^2 hat is chi-square over its degrees of freedom: REML's deviance is nu (log s + sigma_hat^2/s)."""
    data = unbalanced()
    fit = slm.lmm("y ~ x", data)
    nu, z2 = len(data) - 2, norm.isf(0.025) ** 2
    rise = lambda ratio: nu * (np.log(ratio) + 1 / ratio - 1) - z2  # noqa: E731
    expected = fit.sigma * np.sqrt([brentq(rise, 0.1, 1.0), brentq(rise, 1.0, 10.0)])
    assert fit.confint("profile", reml=True).loc["sigma"].tolist() == pytest.approx(expected, rel=EXACT)


@pytest.mark.parametrize("which", ["x", "fixef", ["sigma", "Intercept"]])
def test_coefficients_are_refused(which):
    with pytest.raises(slm.ModelError, match="the REML criterion has no coefficients"):
        slm.lmm("y ~ x + (1 | g)", unbalanced()).confint("profile", which=which, reml=True)


@pytest.mark.parametrize("seed", [6, 7])
def test_a_curve_stays_between_its_nodes(seed):
    """A series that could take all of the variance: nodes of log sigma are far apart at first; zeta went up to 39."""
    rng = np.random.default_rng(seed)
    x, e = rng.normal(size=90), rng.normal(size=90)
    table = pd.DataFrame(
        {"g": np.repeat(np.arange(9), 10), "t": np.tile(np.arange(10), 9), "x": x, "y": 1 + x + 0.9 * e}
    )
    curve = slm.lmm("y ~ x + ar1(0 + t | g)", table).profile("sigma", reml=True).curves["sigma"]
    assert curve.value[1] / curve.value[0] > 50.0
    inner = np.linspace(curve.value[0], curve.value[1])[1:-1]
    zeta = np.array([curve.at(value) for value in inner])
    assert ((curve.zeta[0] < zeta) & (zeta < curve.zeta[1])).all()
    assert curve.line()[1].max() == pytest.approx(curve.zeta[-1], rel=1e-12)
