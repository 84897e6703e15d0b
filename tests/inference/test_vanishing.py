"""Fits in which a residual variance seems to run to zero: what they are told, and that the way out is one."""

import re

import numpy as np
import pandas as pd
import pytest

import sparselmm as slm
from sparselmm.inference.vanishing import random_variances, vanishing
from tests import naive

LIMIT_ATOL = 2e-5  # of a deviance, where what is computed at sigma = sd/1000 has its slope times 1e-6, and rounding
LIMIT_RTOL = 1e-3  # of what comes from differences of a score with six digits


def strata(seed=1):
    """25 to 70 rows of seven series, a state each; few of them in the stratum of the smallest errors."""
    rng = np.random.default_rng(seed)
    n = rng.integers(25, 70)
    data = pd.DataFrame({"g": rng.choice(list("abcdefg"), n), "h": rng.integers(0, 5, n)})
    data["f"] = rng.choice(["lo", "hi", "mid"], n, p=[0.2, 0.3, 0.5])
    data["x"], data["t"] = rng.normal(size=n), data.groupby("g").cumcount() * rng.integers(1, 3)
    data["y"] = rng.normal(size=n) * data.f.map({"lo": 0.3, "hi": 1.0, "mid": 2.0}) + data.x
    return data


def alone(seed=1):
    """Series without an error beside them."""
    rng, steps = np.random.default_rng(seed), np.arange(9)
    L = np.linalg.cholesky(0.7 ** np.abs(np.subtract.outer(steps, steps)))
    data = pd.DataFrame({"g": np.repeat(np.arange(6), 9), "t": np.tile(steps, 6)})
    return data.assign(y=(L @ rng.normal(size=(9, 6))).T.ravel())


def told(formula, data, **more):
    """The warning of a fit that did not converge, and the fit."""
    with pytest.warns(slm.SparselmmWarning, match="did not converge") as caught:
        fit = slm.lmm(formula, data, **more)
    return str(caught[0].message), fit


def held(message):
    """The name and the value that a message gives as an example."""
    name, value = re.search(r"fixed=\{'(.+?)': (.+?)\}", message).groups()
    return {name: float(value)}


def test_a_stratum_without_residuals_is_named_and_may_be_held():
    data = strata()
    message, fit = told("y ~ x + ou(0 + t | g)", data, residual="varident(f)")
    assert "ratio_lo|residual seems to run to zero: the random terms fit every row of this stratum" in message
    assert "join the stratum" in message and message.split("; ", 1)[1] in str(fit.summary())
    again = slm.lmm("y ~ x + ou(0 + t | g)", data, residual="varident(f)", fixed=held(message))
    assert again.converged and vanishing(again) == ""


def test_the_first_stratum_is_sigma():
    data = strata().assign(f=lambda d: d.f.map({"lo": "a", "hi": "b", "mid": "c"}))
    message, _ = told("y ~ x + ou(0 + t | g)", data, residual="varident(f)")
    assert "sigma seems to run to zero: the random terms fit every row of this stratum" in message


@pytest.mark.parametrize("reml", [True, False], ids=["REML", "ML"])
@pytest.mark.parametrize("engine", ["auto", "dense"])
def test_series_without_an_error_of_their_own(engine, reml):
    """They take the place of the residuals: the same model as a serial residual, which has no sigma beside it."""
    data = alone(5).assign(x=np.sin(np.arange(54) ** 2), h=np.arange(54) % 7)
    data["y"] += 0.8 * np.cos(3 * data.h)
    fit = slm.lmm("y ~ x + (1 | h) + ar1(0 + t | g)", data, reml=reml, engine=engine)
    limit = slm.lmm("y ~ x + (1 | h)", data, residual="ar1(t | g)", reml=reml)
    assert fit.converged and fit.is_singular and vanishing(fit) != ""
    assert "sigma is computed at a thousandth" in fit.summary()
    assert fit.deviance == pytest.approx(limit.deviance, abs=LIMIT_ATOL)
    names = {"sd_Intercept|h": "sd_Intercept|h", "sd_ar1(t)|g": "sigma", "rho_ar1(t)|g": "rho_residual"}
    for ours, theirs in names.items():
        assert fit.varpar[ours] == pytest.approx(limit.varpar[theirs], rel=LIMIT_RTOL)
        assert fit.varpar_se[ours] == pytest.approx(limit.varpar_se[theirs], rel=LIMIT_RTOL)
    assert np.isnan(fit.varpar_se["sigma"]) and fit.varpar["sigma"] < 2e-3 * fit.varpar["sd_ar1(t)|g"]
    expected = limit.coef_table("satterthwaite")
    np.testing.assert_allclose(fit.coef_table("satterthwaite"), expected, rtol=LIMIT_RTOL)


def test_variances_of_rows_by_the_random_terms():
    """Against the diagonal of Z G Z' of dense matrices, with AR(1) levels of variance one."""
    data = strata()
    fit = slm.lmm(
        "y ~ x + (1 + x | g) + ar1(0 + t | f)",
        data,
        fixed={"sd_Intercept|g": 1.0, "sd_x|g": 2.0, "cor_Intercept.x|g": -0.5, "sd_ar1(t)|f": 0.7,
               "rho_ar1(t)|f": 0.6, "sigma": 0.5},
    )  # fmt: skip
    G = np.array([[1.0, -1.0], [-1.0, 4.0]])
    rows = np.column_stack([np.ones(len(data)), data.x])
    expected = np.diag(naive.marginal_cov([rows], [G], len(data))) - 1.0 + 0.49
    np.testing.assert_allclose(random_variances(fit) * 0.25, expected, rtol=1e-10)


def test_a_mean_that_only_random_effects_hold():
    """Its square hides the residuals: such a fit was told that its random terms fit every row."""
    i = np.arange(1, 135)
    data = pd.DataFrame({"y": 6750 + np.sin(i * i) + np.cos(3 * (i % 3)), "x": np.cos(0.7 * i * i), "h": i % 3})
    assert "about 6.75e+03 where fixed effects are zero" in vanishing(slm.lmm("y ~ 0 + x + (1 | h)", data))
    assert vanishing(slm.lmm("y ~ x + (1 | h)", data)) == ""


def test_rows_that_the_fixed_effects_fit_in_a_stratum():
    """Seven rows, two of them in a stratum: the error began with a colon and spoke of random effects."""
    data = pd.DataFrame({"g": [0, 1, 2, 3, 3, 3, 4], "t": [1, 3, 14, 10, 12, 13, 14], "f": list("qpqrrrp")})
    data["x"] = [0.187452, 0.391415, -0.135583, 0.28198, -0.231383, 0.122217, -1.171649]
    data["y"] = [-26.047, 4.338, 12.722, -6.067, -3.461, 6.526, 3.12]
    with pytest.raises(slm.SparselmmError, match=re.escape("residual ar1(t | g) * varident(f): some rows are fitted")):
        slm.lmm("y ~ x + f", data, residual="ar1(t | g) * varident(f)", reml=False)
