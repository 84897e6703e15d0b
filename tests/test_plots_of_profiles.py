"""Zeta plots by what their Axes hold."""

import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

import sparselmm as slm
from sparselmm import plots
from sparselmm.datasets import load_dataset

BETWEEN = 1e-6  # zeta between nodes, by the same spline another way
KINK = 1e-4  # of a slope by differences: a cubic Hermite spline has kinks in its second derivative


@pytest.fixture(scope="module")
def profile():
    return slm.lmm("Reaction ~ Days + (Days | Subject)", load_dataset("sleepstudy")).profile()


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def curve_and_rest(ax):
    """The long line, what is upright, and the dashed tangent."""
    lines = sorted(ax.lines, key=lambda line: len(line.get_xdata()))
    upright = [line for line in lines if line.get_xdata()[0] == line.get_xdata()[-1]]
    return lines[-1], upright, [line for line in lines if line.get_linestyle() == "--"]


def test_an_axes_for_each_parameter(profile):
    axes = plots.zeta(profile)
    assert axes.shape == (2, 3) and [ax.get_xlabel() for ax in axes.flat] == list(profile.curves)
    assert [ax.get_ylabel() for ax in axes[:, 0]] == ["zeta", "zeta"]
    for ax, curve in zip(axes.flat, profile.curves.values(), strict=True):
        x, zeta = curve_and_rest(ax)[0].get_data()
        np.testing.assert_allclose(zeta, [curve.at(v) for v in x[:-1]] + [curve.zeta[-1]], atol=BETWEEN)
        assert (x[0], x[-1]) == pytest.approx((curve.value[0], curve.value[-1]))
        low, high = ax.get_ylim()
        assert low < min(c.zeta.min() for c in profile.curves.values()) and high == -low


def test_upright_lines_end_intervals(profile):
    ax = plots.zeta(profile, "Days")[0, 0]
    _, upright, tangents = curve_and_rest(ax)
    ends = [line.get_xdata()[0] for line in upright]
    table = [profile.confint(level).loc["Days"] for level in (0.5, 0.8, 0.9, 0.95, 0.99)]
    np.testing.assert_allclose(np.sort(ends), np.sort(np.ravel(table)))
    heights = np.sort([line.get_ydata()[1] for line in upright])
    np.testing.assert_allclose(heights[-5:], norm.ppf([0.75, 0.9, 0.95, 0.975, 0.995]), atol=BETWEEN)
    h, curve = 1e-3, profile.curves["Days"]
    estimate = curve.value[curve.zeta == 0][0]
    slope = (curve.at(estimate + h) - curve.at(estimate - h)) / (2 * h)
    assert tangents[0].get_slope() == pytest.approx(slope, rel=KINK) and tangents[0].get_xy1() == (estimate, 0.0)


def test_a_narrow_profile_has_fewer_lines_and_given_axes_are_used():
    fit = slm.lmm("Yield ~ 1 + (1 | Batch)", load_dataset("Dyestuff2"))  # a variance of zero
    profile = fit.profile(["sd_Intercept|Batch", "sigma"], level=0.9)
    axes = plt.subplots(1, 3)[1]
    assert plots.zeta(profile, axes=axes) is axes and not axes[2].get_visible()
    _, upright, _ = curve_and_rest(axes[0])
    found = [line.get_xdata()[0] for line in upright]
    assert np.sum(np.array(found) > 0) == 3 and min(found) == 0.0  # 50, 80, 90 %; nothing below zero
    assert len(curve_and_rest(axes[1])[1]) == 6


def test_a_parameter_that_nothing_depends_on_is_level():
    rng = np.random.default_rng(2)
    g, t = np.divmod(np.arange(60), 12)
    data = pd.DataFrame({"y": rng.normal(size=60), "t": t, "g": g})
    fit = slm.lmm("y ~ 1 + ar1(0 + t | g)", data, fixed={"sd_ar1(t)|g": 0.0})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        axes = plots.zeta(fit.profile("varpar"))
    heights = [np.abs(curve_and_rest(ax)[0].get_ydata()).max() for ax in axes.flat[:2]]
    assert heights[0] < 1e-3 and heights[1] > 2.5


@pytest.mark.parametrize("which", ["Day", ["Days", "x"], []])
def test_unknown_names_are_refused(profile, which):
    with pytest.raises(slm.ModelError, match="this profile has Intercept, Days, sd_Intercept"):
        plots.zeta(profile, which)


def test_what_has_no_profile_says_so():
    t = np.linspace(0.0, 1.0, 30)
    walk = slm.lmm("y ~ 1 + rw2(0 + t)", pd.DataFrame({"t": t, "y": np.sin(6 * t) + np.cos(99 * np.arange(30)) / 3}))
    ax = plots.zeta(walk.profile(["Intercept", "sigma"]))[0, 0]
    assert [text.get_text() for text in ax.texts] == ["no profile"] and not len(ax.get_xticks())
