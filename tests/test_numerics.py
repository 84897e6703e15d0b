"""Digits: responses far from zero, columns of any scale, covariates far from zero, NIST's stiffest data set."""

from fractions import Fraction

import numpy as np
import pandas as pd
import pytest

import sparselmm as slm
from sparselmm.closed_form import one_way
from sparselmm.datasets import load_dataset
from tests import golden
from tests.problems import PROBLEMS

CENTRED_RTOL = 1e-9  # the demand is 1e-6; what is left here is the rounding of sums, not of the origin
ESTIMATE_RTOL = 1e-6  # of parameters, at a scaled gradient below 1e-5
NIST_RTOL = 1e-6
ROUNDED_INPUT = 2e-3  # in doubles near 1e12 the digits of NIST's data are right to 6e-5 of a spread of 0.1
GRID = 2.0**-20  # numbers on this grid can be added to 1e9 without rounding
ORIGIN = 1e9

methods = pytest.mark.parametrize("reml", [False, True], ids=["ML", "REML"])


def on_grid(y):
    return np.round(np.asarray(y) / GRID) * GRID


def same_fit(fit, expected, shift=0.0):
    """Same deviance (up to a known constant) and variance parameters."""
    assert fit.deviance - shift == pytest.approx(expected.deviance, rel=CENTRED_RTOL)
    np.testing.assert_allclose(fit.varpar, expected.varpar, rtol=ESTIMATE_RTOL, atol=ESTIMATE_RTOL)
    assert fit.converged and expected.converged


# --- responses far from zero ----------------------------------------------------------------------------

FAR = {
    "intercept": ("y ~ x + (1 | g)", "slope"),
    "cells without an intercept": ("y ~ 0 + f + (1 | g)", "slope"),
    "cells and a covariate": ("y ~ 0 + x + f + (1 | g)", "slope"),
    "slopes": ("y ~ x + (1 + x | g)", "slope"),
    "crossed": ("y ~ x + (1 | s) + (1 | d)", "crossed"),
    "dependent columns": ("y ~ x + x2 + f + is_b + (1 | g)", "rank_deficient"),
}


@pytest.mark.parametrize("name", FAR)
@methods
def test_response_far_from_zero(name, reml):
    """y = 1e9 + noise has the deviance of the noise, whichever columns of X span the constant."""
    formula, problem = FAR[name]
    data = PROBLEMS[problem].data()
    data["y"] = on_grid(data.y)
    expected = slm.lmm(formula, data, reml=reml)
    fit = slm.lmm(formula, data.assign(y=ORIGIN + data.y), reml=reml)
    same_fit(fit, expected)
    slope = "x"
    if slope in expected.fixef:
        assert fit.fixef[slope] == pytest.approx(expected.fixef[slope], rel=ESTIMATE_RTOL)
    np.testing.assert_allclose(fit.fitted - ORIGIN, expected.fitted, atol=1e-6)


@methods
def test_weighted_response_far_from_zero(reml):
    data = PROBLEMS["weighted"].data()
    data["y"] = on_grid(data.y)
    expected = slm.lmm("y ~ x + (1 | g)", data, weights="w", reml=reml)
    same_fit(slm.lmm("y ~ x + (1 | g)", data.assign(y=ORIGIN + data.y), weights="w", reml=reml), expected)


def test_offset_far_from_zero():
    """An offset takes the origin away where X could not."""
    data = PROBLEMS["one_factor"].data()
    data["y"] = on_grid(data.y)
    expected = slm.lmm("y ~ 0 + x + (1 | g)", data)
    far = data.assign(y=ORIGIN + data.y, off=ORIGIN)
    same_fit(slm.lmm("y ~ 0 + x + offset(off) + (1 | g)", far), expected)


def test_intercept_that_is_not_the_first_column():
    data = PROBLEMS["one_factor"].data()
    y = on_grid(data.y)
    X = np.column_stack([data.x, np.full(len(y), 5.0)])
    fits = [slm.LinearMixedModel.from_arrays(v, X, [slm.RandomTerm(data.g.to_numpy())]).fit() for v in (y, ORIGIN + y)]
    same_fit(fits[1], fits[0])
    assert fits[1].fixef["x0"] == pytest.approx(fits[0].fixef["x0"], rel=ESTIMATE_RTOL)
    assert fits[1].fixef["x1"] == pytest.approx(ORIGIN / 5, rel=ESTIMATE_RTOL)


@methods
def test_dense_engine_agrees_far_from_zero(reml):
    model = PROBLEMS["large_response"].model()
    dense = PROBLEMS["large_response"].model(engine="dense")
    same_fit(model.fit(reml=reml), dense.fit(reml=reml))


# --- NIST SmLs09 ----------------------------------------------------------------------------------------

REPLICATES = 2001
LEVELS = [4, 3, 5, 3, 5, 3, 5, 3, 5]  # tenths above 1e12


def smls09():
    """NIST StRD one-way ANOVA SmLs09 (Simon & Lesage 1989): exact values and treatments.

    9 treatments of 2001 values; a treatment's first value is its mean, the rest alternate 0.1 below and above it.
    """
    pattern = [0, *([-1, 1] * (REPLICATES // 2))]
    values = [10**12 + Fraction(level + step, 10) for level in LEVELS for step in pattern]
    return values, np.repeat(np.arange(len(LEVELS)), REPLICATES)


def test_smls09_has_its_certified_values():
    """In rational arithmetic: sums of squares, F, R^2 and residual sd as certified (no rounding in any of them)."""
    values, _ = smls09()
    cells = [values[i : i + REPLICATES] for i in range(0, len(values), REPLICATES)]
    means = [sum(c) / REPLICATES for c in cells]
    grand = sum(means) / len(means)
    between = REPLICATES * sum((m - grand) ** 2 for m in means)
    within = sum((y - m) ** 2 for c, m in zip(cells, means, strict=True) for y in c)
    df = len(cells) - 1, len(values) - len(cells)
    assert (between, within, df) == (Fraction("160.08"), 180, (8, 18000))
    assert (between / df[0]) / (within / df[1]) == 2001
    assert (within / df[1]) == Fraction("0.1") ** 2
    assert float(between / (between + within)) == pytest.approx(4.70712773465067e-01, rel=1e-14)
    assert len({str(y)[:13] for y in map(float, values)}) == 1


@methods
def test_smls09(reml):
    """The fit of the doubles is that of the same doubles less 1e12 (an exact subtraction), in closed form."""
    values, treatment = smls09()
    y = np.array([float(v) for v in values])
    centred = np.array([float(Fraction(v) - 10**12) for v in y.tolist()])
    expected = one_way(centred, treatment, reml)
    fit = slm.lmm("y ~ 1 + (1 | treatment)", pd.DataFrame({"y": y, "treatment": treatment}), reml=reml)
    assert fit.deviance == pytest.approx(expected.deviance, rel=NIST_RTOL)
    assert fit.sigma**2 == pytest.approx(expected.sigma2, rel=NIST_RTOL)
    assert fit.varpar.iloc[0] ** 2 == pytest.approx(expected.variances["group"], rel=1e-5)
    assert fit.sigma == pytest.approx(0.1, rel=ROUNDED_INPUT)


@methods
def test_smls09_before_it_is_rounded_to_doubles(reml):
    """On the exact values less 1e12 the fit gives the certified residual sd and F."""
    values, treatment = smls09()
    y = np.array([float(v - 10**12) for v in values])
    fit = slm.lmm("y ~ 1 + (1 | treatment)", pd.DataFrame({"y": y, "treatment": treatment}), reml=reml)
    assert fit.sigma == pytest.approx(0.1, rel=NIST_RTOL)
    F = (1 + REPLICATES * (fit.varpar.iloc[0] / fit.sigma) ** 2) * (1 if reml else 9 / 8)
    assert F == pytest.approx(2001, rel=1e-5)


# --- columns of any scale -------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e3, 1e6])
@methods
def test_scale_of_a_column_of_X(scale, reml):
    """ML does not change; the REML criterion does by log|X'V^-1X|, 2 log(scale)."""
    data = PROBLEMS["slope"].data()
    expected = slm.lmm("y ~ x + z + (1 | g)", data, reml=reml)
    fit = slm.lmm("y ~ x + z + (1 | g)", data.assign(x=scale * data.x, z=data.z / scale**0.5), reml=reml)
    same_fit(fit, expected, shift=np.log(scale) * (2 - 1) if reml else 0.0)
    assert fit.fixef["x"] * scale == pytest.approx(expected.fixef["x"], rel=ESTIMATE_RTOL)
    assert fit.fixef_se["x"] * scale == pytest.approx(expected.fixef_se["x"], rel=ESTIMATE_RTOL)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
@methods
def test_scale_of_a_random_slope(scale, reml):
    data = PROBLEMS["slope"].data()
    expected = slm.lmm("y ~ x + (1 + x | g)", data, reml=reml)
    fit = slm.lmm("y ~ x + (1 + x | g)", data.assign(x=scale * data.x), reml=reml)
    shift = 2 * np.log(scale) if reml else 0.0
    assert fit.deviance - shift == pytest.approx(expected.deviance, rel=CENTRED_RTOL)
    units = np.array([1.0, scale, 1.0, 1.0])  # sd, sd, cor, sigma
    np.testing.assert_allclose(fit.varpar * units, expected.varpar, rtol=ESTIMATE_RTOL)
    assert fit.n_iter == expected.n_iter


@pytest.mark.parametrize("scale", [1e-100, 1e-6, 1e6, 1e100])
@methods
def test_scale_of_the_response(scale, reml):
    """y -> c y adds 2 nu log c and multiplies sigma and the standard deviations by c."""
    data = PROBLEMS["slope"].data()
    expected = slm.lmm("y ~ x + (1 + x | g)", data, reml=reml)
    fit = slm.lmm("y ~ x + (1 + x | g)", data.assign(y=scale * data.y), reml=reml)
    nu = len(data) - 2 * reml
    assert fit.deviance - 2 * nu * np.log(scale) == pytest.approx(expected.deviance, rel=CENTRED_RTOL)
    units = np.array([scale, scale, 1.0, scale])
    np.testing.assert_allclose(fit.varpar / units, expected.varpar, rtol=ESTIMATE_RTOL)


@pytest.mark.parametrize("engine", ["absorb", "cholmod", "dense"])
@pytest.mark.parametrize("scale", [1e-12, 1e-4, 1e4, 1e12])
@methods
def test_scale_of_the_weights(scale, reml, engine):
    """w -> c w multiplies sigma by sqrt(c) and leaves everything else, the steps of the search too."""
    data = PROBLEMS["weighted"].data()
    expected = slm.lmm("y ~ x + (1 + z | g)", data, weights="w", reml=reml, engine=engine)
    fit = slm.lmm("y ~ x + (1 + z | g)", data.assign(w=scale * data.w), weights="w", reml=reml, engine=engine)
    assert fit.deviance == pytest.approx(expected.deviance, rel=CENTRED_RTOL)
    units = np.array([1.0, 1.0, 1.0, np.sqrt(scale)])
    np.testing.assert_allclose(fit.varpar / units, expected.varpar, rtol=ESTIMATE_RTOL)
    assert fit.n_iter == expected.n_iter


def test_nearly_dependent_columns():
    """x + 1e-5 z beside x spans what z does: the deviance is the same, six digits further down."""
    data = PROBLEMS["slope"].data()
    expected = slm.lmm("y ~ x + z + (1 | g)", data, reml=False)
    fit = slm.lmm("y ~ x + w + (1 | g)", data.assign(w=data.x + 1e-5 * data.z), reml=False)
    same_fit(fit, expected)
    assert fit.fixef["w"] * 1e-5 == pytest.approx(expected.fixef["z"], rel=ESTIMATE_RTOL)


# --- covariates far from zero ---------------------------------------------------------------------------


@methods
def test_random_slope_on_a_covariate_far_from_zero(reml):
    """x around 1e6 with spread 1e3, slopes in x: the same model as slopes in xs = (x - 1e6)/1e3.

    lme4's default fit of the first stops 135 below the maximum of the log-likelihood (tests/golden, badscale_ML).
    """
    data = golden.load("sim_badscale")
    assert 0.99e6 < data.x.min() and data.x.max() < 1.01e6
    raw, scaled = (slm.lmm(f"y ~ {x} + a + ({x} | g)", data, reml=reml) for x in ("x", "xs"))
    shift = 2 * np.log(1e3) if reml else 0.0
    assert raw.deviance - shift == pytest.approx(scaled.deviance, rel=CENTRED_RTOL)
    assert raw.fixef["x"] * 1e3 == pytest.approx(scaled.fixef["xs"], rel=ESTIMATE_RTOL)
    assert raw.varpar["sd_x|g"] * 1e3 == pytest.approx(scaled.varpar["sd_xs|g"], rel=ESTIMATE_RTOL)
    assert raw.sigma == pytest.approx(scaled.sigma, rel=ESTIMATE_RTOL)
    assert raw.n_iter <= scaled.n_iter + 2


@pytest.mark.parametrize("origin", [10.0, 1e3, 1e5])
def test_origin_of_a_random_slope(origin):
    """Reaction on Days + origin: the intercepts' variance explodes, the fit does not."""
    data = load_dataset("sleepstudy")
    expected = slm.lmm("Reaction ~ Days + (Days | Subject)", data)
    fit = slm.lmm("Reaction ~ Days + (Days | Subject)", data.assign(Days=data.Days + origin))
    assert fit.deviance == pytest.approx(expected.deviance, rel=CENTRED_RTOL)
    assert fit.varpar["sd_Days|Subject"] == pytest.approx(expected.varpar["sd_Days|Subject"], rel=ESTIMATE_RTOL)
    assert fit.n_iter <= expected.n_iter + 2
