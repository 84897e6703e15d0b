"""Plots of residuals, quantiles, fitted curves and series, by what their Axes hold; and the numbers of a curve."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats

import sparselmm as slm
from sparselmm import plots
from sparselmm.datasets import load_dataset
from sparselmm.inference.curve import curve
from sparselmm.inference.residuals import standardized_effects
from tests.inference.test_predict_errors import repeated

SAME = 1e-9  # the same numbers by another way


@pytest.fixture(scope="module")
def fit():
    return slm.lmm("Reaction ~ Days + (Days | Subject)", load_dataset("sleepstudy"))


@pytest.fixture(scope="module")
def series():
    return slm.lmm("y ~ x + ou(0 + u | g)", repeated())


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_residuals_over_fitted_values_or_anything_else(fit):
    ax = plots.residuals(fit)
    x, y = ax.lines[0].get_data()
    np.testing.assert_array_equal(x, fit.fitted)
    np.testing.assert_array_equal(y, fit.residuals("standardized"))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("fitted value", "standardised residual")
    days = load_dataset("sleepstudy").Days
    ax = plots.residuals(fit, days)
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), days)
    assert ax.get_xlabel() == "Days"
    middle = ax.lines[2].get_data()
    assert middle[0][0] == pytest.approx(np.sort(days)[:20].mean())  # 9 bins of 20 rows
    with pytest.raises(slm.ModelError, match=r"x has shape \(3,\) for 180 rows"):
        plots.residuals(fit, [1, 2, 3])
    with pytest.raises(slm.ModelError, match="x: the name of a column of the fixed part, or 180 numbers"):
        plots.residuals(fit, ["a"] * 180)


def test_quantiles_of_residuals_stand_in_a_band_of_order_statistics(fit):
    ax = plots.quantiles(fit)
    x, y = ax.lines[1].get_data()
    np.testing.assert_array_equal(y, np.sort(fit.residuals("standardized")))
    np.testing.assert_allclose(x, stats.norm.ppf((np.arange(1, 181) - 0.5) / 180), rtol=SAME)
    low, high = np.sort(np.random.default_rng(1).standard_normal((20000, 180)), axis=1)[:, [9]].T.repeat(2, 0)
    band = ax.collections[0].get_paths()[0].vertices
    tenth = np.sort(band[np.isclose(band[:, 0], x[9])][:, 1])
    np.testing.assert_allclose(tenth, [np.quantile(low, 0.025), np.quantile(high, 0.975)], atol=0.02)  # by simulation


def test_quantiles_of_random_effects_have_variance_one():
    """var(b_hat) over data drawn from the model: 400 groups of different size, each BLUP over its own sd."""
    rng = np.random.default_rng(3)
    g = np.repeat(np.arange(400), rng.integers(1, 9, 400))
    y = rng.normal(size=400)[g] + rng.normal(size=len(g))
    fit = slm.lmm("y ~ 1 + (1 | g)", pd.DataFrame({"g": g, "y": y}), fixed={"sd_Intercept|g": 1.0, "sigma": 1.0})
    z = standardized_effects(fit, "g", "Intercept")
    assert z.std() == pytest.approx(1.0, abs=0.1)  # 2.8 standard errors
    n = np.bincount(g)
    expected = fit.ranef()["g"]["Intercept"] / np.sqrt(n / (n + 1))  # of a known mean: var(b_hat) = n/(n + 1)
    np.testing.assert_allclose(z, expected, rtol=0.01)
    ax = plots.quantiles(fit, "g")
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), np.sort(z))
    assert ax.get_ylabel() == "Intercept of g, over its sd"


def test_quantiles_of_nothing():
    table = pd.DataFrame({"g": np.repeat(np.arange(6), 4), "y": np.tile([1.0, -1.0, 2.0, -2.0], 6)})
    with pytest.raises(slm.ModelError, match="nothing varies"):
        plots.quantiles(slm.lmm("y ~ 1 + (1 | g)", table), "g")


def test_a_panel_of_four(fit):
    axes = plots.panel(fit)
    assert axes.shape == (2, 2)
    np.testing.assert_array_equal(axes[1, 1].lines[0].get_xdata(), fit.leverage())
    roots = np.sqrt(np.abs(fit.residuals("standardized")))
    np.testing.assert_array_equal(axes[1, 0].lines[0].get_ydata(), roots)
    given = plt.subplots(2, 2)[1]
    assert plots.panel(fit, given) is given and given[0, 1].lines


def test_fitted_curves_of_groups(fit):
    axes = plots.fitted(fit, "Days", groups=5)
    shown = [ax for ax in axes.ravel() if ax.get_visible()]
    assert len(shown) == 5 and (shown[0].get_title(), shown[-1].get_title()) == ("308", "372")
    table = load_dataset("sleepstudy")
    mine = (table.Subject == shown[0].get_title()).to_numpy()
    data, population, curve_of = shown[0].lines
    np.testing.assert_array_equal(data.get_ydata(), table.Reaction[mine])
    np.testing.assert_array_equal(population.get_ydata(), fit.predict(re=False)[mine])
    np.testing.assert_array_equal(curve_of.get_ydata(), fit.fitted[mine])
    assert axes[-1, 0].get_xlabel() == "Days" and axes[0, 0].get_ylabel() == "Reaction"
    with pytest.raises(slm.ModelError, match="x='days': no column of the fixed part; it has Intercept, Days"):
        plots.fitted(fit, "days")
    with pytest.raises(slm.ModelError, match="group='plate': no group of independent levels; there is 'Subject'"):
        plots.fitted(fit, "Days", "plate")


def test_a_curve_is_the_prediction_at_its_times(series):
    found = curve(series, series=["s2", "s0"], level=0.9)
    assert list(found) == ["series", "time", "fit", "se", "lower", "upper"]
    assert found.series.unique().tolist() == ["s2", "s0"] and found.groupby("series").size().min() > 200
    new = pd.DataFrame({"g": found.series, "u": found.time, "x": repeated().x.mean()})
    table = series.predict(new, re=["g"], interval="confidence", level=0.9)
    np.testing.assert_allclose(found[["fit", "se", "lower", "upper"]], table, rtol=SAME)
    alone = curve(series, "ou(0 + u | g)", series=["s2"], fixed=False)
    states = series.ranef(se="prediction")["g"].loc["s2"]
    at = alone.set_index("time").loc[states.index]
    np.testing.assert_allclose(at[["fit", "se"]], states, rtol=SAME)


def test_terms_of_the_time_move_along_and_others_stay():
    table = repeated()
    fit = slm.lmm("y ~ x + u + np.sin(u) + rw2(0 + u)", table)
    found = curve(fit)
    assert found.time.tolist() == sorted(table.u.unique())  # a walk of second order is known at its states only
    expected = fit.predict(pd.DataFrame({"u": found.time, "x": table.x.mean()}), interval="confidence")
    np.testing.assert_allclose(found[["fit", "se", "lower", "upper"]], expected, rtol=SAME)


def test_ordered_categories_as_times():
    steps = [f"step {i}" for i in range(9)]
    table = repeated().assign(t=lambda d: pd.Categorical.from_codes(d.t, steps, ordered=True))
    fit = slm.lmm("y ~ x + ar1(0 + t | g)", table)
    found = curve(fit, series=["s1"])
    new = pd.DataFrame({"g": "s1", "t": pd.Categorical.from_codes(found.time.astype(int), steps), "x": table.x.mean()})
    for given in (new, new.assign(t=new.t.astype(str))):
        np.testing.assert_allclose(found["fit"], fit.predict(given), rtol=SAME)


def test_a_curve_has_its_band(series):
    ax = plots.curve(series, series=["s1"], level=0.5)
    table = curve(series, series=["s1"], level=0.5)
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), table["fit"])
    edge = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert edge.min() == table["lower"].min() and edge.max() == table["upper"].max()
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("u", "y") and ax.get_legend() is None
    several = plots.curve(series, fixed=False)
    assert len(several.lines) == plots.SERIES and several.get_ylabel() == "ou(u)"
    assert several.get_legend().get_title().get_text() == "g"


def test_curves_that_are_not_there(fit, series):
    with pytest.raises(slm.ModelError, match="curve: no series in this model; it has none"):
        plots.curve(fit)
    with pytest.raises(slm.ModelError, match=r"no series 'h' in this model; it has 'ou\(0 \+ u \| g\)'"):
        plots.curve(series, "h")
    with pytest.raises(slm.ModelError, match="no series 's9'; it has 's0', 's1'"):
        plots.curve(series, series=["s9"])
    with pytest.raises(slm.ModelError, match="from arrays"):
        plots.curve(slm.LinearMixedModel.from_arrays([1.0, 2, 4, 3], np.ones((4, 1)), []).fit())


def test_long_names_keep_their_beginning_and_their_end(fit):
    names = {level: f"subject of the study of sleep, {level}" for level in load_dataset("sleepstudy").Subject.unique()}
    table = load_dataset("sleepstudy").assign(Subject=lambda t: t.Subject.map(names).astype(str))
    ax = plots.caterpillar(slm.lmm("Reaction ~ Days + (1 | Subject)", table))
    shown = [label.get_text() for label in ax.get_yticklabels()]
    assert len(set(shown)) == 18 and max(map(len, shown)) <= plots.LONGEST
    assert all(text.startswith("subject of t...") for text in shown)


def test_the_names_of_curves_stand_beside_them(series):
    ax = plots.curve(series)
    ax.figure.canvas.draw()
    assert ax.get_legend().get_window_extent().x0 >= ax.get_window_extent().x1
