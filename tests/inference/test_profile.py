"""Profile likelihood against lme4's, and against the textbook's deviance minimised by another optimiser."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize, minimize_scalar
from scipy.stats import norm

import sparselmm as slm
from sparselmm.datasets import load_dataset
from sparselmm.inference.confint import _ends, wald_scale
from sparselmm.inference.profile import Curve
from sparselmm.inference.profile_paths import scale_of
from tests import naive
from tests.problems import PROBLEMS

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "confint.json").read_text())
DATASETS = ["sleepstudy", "Dyestuff", "Dyestuff2", "Penicillin", "Pastes"]
SPLINE = 1e-3  # of an interval's width: lme4 interpolates between points 0.2 of zeta apart, we between points 0.5 apart
EXACT = 1e-6  # zeta where a node lies: two optimisers of one deviance of 50 to 2000
BETWEEN = 2e-3  # zeta between nodes, by interpolation
ENGINES = 1e-6  # sparse and dense engine, relative to the width


def of_lme4(name, table):
    """lme4's rows under our names: .sig01 ... are the factor T term by term, column by column."""
    order = {
        "sleepstudy": ["sd_Intercept|Subject", "cor_Intercept.Days|Subject", "sd_Days|Subject"],
        "Dyestuff": ["sd_Intercept|Batch"],
        "Dyestuff2": ["sd_Intercept|Batch"],
        "Penicillin": ["sd_Intercept|plate", "sd_Intercept|sample"],
        "Pastes": ["sd_Intercept|sample", "sd_Intercept|batch"],
    }[name]
    names = {f".sig{i:02d}": ours for i, ours in enumerate(order, 1)} | {".sigma": "sigma", "(Intercept)": "Intercept"}
    frame = pd.DataFrame.from_dict(table, orient="index", columns=["lower", "upper"])
    return frame.rename(index=names)


@pytest.fixture(scope="module")
def fits():
    return {name: slm.lmm(GOLDEN[name]["formula"], load_dataset(name)) for name in DATASETS}


@pytest.mark.parametrize("name", DATASETS)
def test_intervals_are_those_of_lme4(fits, name):
    fit = fits[name]
    profile = fit.profile()
    for level in (0.95, 0.8):
        expected = of_lme4(name, GOLDEN[name][f"profile_{level:.2f}"])
        found = profile.confint(level).loc[expected.index]
        width = expected["upper"] - expected["lower"]
        assert ((found - expected).abs().max(axis=1) <= SPLINE * width).all()
        direct = fit.confint("profile", level).loc[expected.index]
        assert ((direct - expected).abs().max(axis=1) <= SPLINE * width).all()
    wald = of_lme4(name, GOLDEN[name]["wald_0.95"])
    np.testing.assert_allclose(fit.confint(which=list(wald.index)), wald, rtol=1e-5)  # estimates of two optimisers


def dyestuff():
    table = load_dataset("Dyestuff")
    Z = pd.get_dummies(table.Batch).to_numpy(float)
    return table.Yield.to_numpy(float), np.ones((30, 1)), Z


def least(function, low, high):
    return minimize_scalar(function, bounds=(low, high), method="bounded", options={"xatol": 1e-9}).fun


def constrained(name, value):
    """min -2l with one parameter of the one-way layout held, by Brent's method over the other variance."""
    y, X, Z = dyestuff()
    V = lambda tau, sigma: tau**2 * Z @ Z.T + sigma**2 * np.eye(30)  # noqa: E731
    if name == "sigma":
        return least(lambda tau: naive.deviance(y, X, V(tau, value), False), 0.0, 500.0)
    if name == "sd_Intercept|Batch":
        return least(lambda sigma: naive.deviance(y, X, V(value, sigma), False), 10.0, 500.0)
    none = np.zeros((30, 0))
    return least(lambda ratio: naive.profile_deviance(y - value, none, V(ratio, 1.0), False), 0.0, 50.0)


@pytest.mark.parametrize("name", ["sd_Intercept|Batch", "sigma", "Intercept"])
def test_zeta_is_the_root_of_the_increase_of_the_deviance(fits, name):
    y, X, Z = dyestuff()
    lowest = least(lambda r: naive.profile_deviance(y, X, r**2 * Z @ Z.T + np.eye(30), False), 0.0, 5.0)
    curve = fits["Dyestuff"].profile(name).curves[name]
    for value, zeta in zip(curve.value, curve.zeta, strict=True):
        expected = np.sqrt(max(constrained(name, value) - lowest, 0.0))
        assert abs(zeta) == pytest.approx(expected, abs=EXACT if abs(zeta) > 0.1 else 1e-3)
    assert (np.diff(curve.zeta) > 0).all() and curve.zeta[-1] > 2.5758
    assert curve.zeta[0] < -2.5758 or curve.value[0] == 0.0
    for value in 0.5 * (curve.value[:-1] + curve.value[1:]):
        expected = np.sqrt(max(constrained(name, value) - lowest, 0.0))
        assert abs(curve.at(value)) == pytest.approx(expected, abs=BETWEEN)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95])
def test_the_ends_that_are_asked_for_are_exact(fits, level):
    y, X, Z = dyestuff()
    lowest = least(lambda r: naive.profile_deviance(y, X, r**2 * Z @ Z.T + np.eye(30), False), 0.0, 5.0)
    z = norm.isf(0.5 - 0.5 * level)
    for name, ends in fits["Dyestuff"].confint("profile", level).iterrows():
        for value in ends:
            assert np.sqrt(constrained(name, value) - lowest) == pytest.approx(z, abs=EXACT)


def test_a_variance_of_zero(fits):
    """Dyestuff2's estimate is zero: zeta begins there, and the interval does."""
    curve = fits["Dyestuff2"].profile().curves["sd_Intercept|Batch"]
    assert curve.value[0] == 0.0 and curve.zeta[0] == 0.0 and (np.diff(curve.zeta) > 0).all()
    assert fits["Dyestuff2"].confint("profile").loc["sd_Intercept|Batch", "lower"] == 0.0
    assert fits["Dyestuff2"].confint("wald").loc["sd_Intercept|Batch"].isna().all()
    pastes = fits["Pastes"].profile("sd_Intercept|batch").curves["sd_Intercept|batch"]
    assert pastes.value[0] == 0.0 and -1.96 < pastes.zeta[0] < 0.0


def test_a_parameter_that_nothing_depends_on():
    """The correlation of a series whose variance is zero, held there: every value is as good."""
    data, _ = structured()
    fit = slm.lmm("y ~ x + ar1(0 + t | g)", data, fixed={"sd_ar1(t)|g": 0.0})
    assert fit.confint("profile", which="rho_ar1(t)|g").loc["rho_ar1(t)|g"].tolist() == [-1.0, 1.0]


def test_the_nearest_crossing_counts():
    """zeta of a curve that turns back: 0, 1, 0.5, 2 at 0, 1, 2, 3."""
    zeta = np.array([0.0, 1.0, 0.5, 2.0])
    u = np.arange(4.0)
    curve = Curve(u, zeta, u, np.zeros(4), scale_of("any"), (False, False))
    assert 0.0 < curve.solve(0.75) < 1.0 < 2.0 < curve.solve(1.5) < 3.0 and np.isnan(curve.solve(-1.0))


def test_a_correlation_is_bounded():
    """Few subjects: the interval of a correlation reaches 1; where a variance is zero there is none."""
    table = load_dataset("sleepstudy")
    few = table[table.Subject.isin(sorted(table.Subject.unique())[:4])]
    fit = slm.lmm("Reaction ~ Days + (Days | Subject)", few)
    name = "cor_Intercept.Days|Subject"
    ends = fit.confint("profile", which="varpar").loc[name]
    assert ends["lower"] >= -1.0 and ends["upper"] == 1.0
    held = slm.lmm("Reaction ~ Days + (Days | Subject)", few, fixed={"sd_Days|Subject": 0.0})
    assert np.isnan(held.varpar[name]) and held.confint("profile", which=name).loc[name].isna().all()


@pytest.mark.parametrize("factor", [1e-9, 1e9])
def test_the_unit_of_the_response_does_not_matter(factor):
    data, _ = structured()
    formula, options = "y ~ x + (1 | g)", {"residual": "varident(half)"}
    fits = [slm.lmm(formula, data.assign(y=f * data.y), **options) for f in (1.0, factor)]
    assert_in_units(*(fit.confint("profile") for fit in fits), factor)
    assert_in_units(*(fit.confint("wald") for fit in fits), factor)


def assert_in_units(expected, found, factor):
    unit = np.where(expected.index.str.startswith("ratio"), 1.0, factor)
    width = expected["upper"] - expected["lower"]
    assert ((found.div(unit, axis=0) - expected).abs().max(axis=1) <= EXACT * 10 * width).all()


def test_reml_or_ml_gives_the_same(fits):
    ml = slm.lmm(GOLDEN["Pastes"]["formula"], load_dataset("Pastes"), reml=False)
    pd.testing.assert_frame_equal(ml.confint("profile"), fits["Pastes"].confint("profile"), rtol=1e-5)


def structured(**options):
    rng = np.random.default_rng(4)
    t, g = np.tile(np.arange(8.0), 8), np.repeat(np.arange(8), 8)
    e = rng.normal(size=(8, 8))
    for j in range(1, 8):
        e[:, j] += 0.5 * e[:, j - 1]
    x = rng.normal(size=64)
    data = pd.DataFrame({"y": x + rng.normal(size=8)[g] + e.ravel() * np.where(t > 3, 2, 1), "x": x, "t": t, "g": g})
    return data.assign(half=(t > 3).astype(int), w=1.0 + t % 2, x2=2 * x), options


@pytest.mark.parametrize(
    "options",
    [
        {"residual": "ar1(t | g)", "weights": "w"},
        {"residual": "varident(half)"},
        {"residual": "ou(t | g)", "offset": "w"},
        {"formula": "y ~ x + x2 + ou(0 + t | g)", "fixed": {"sigma": 0.9}},
        {"fixed": {"sigma": 1.5}},
    ],
)
def test_structures_and_engines(options):
    """The dense engine shares no line of the criterion or its score."""
    data, _ = structured()
    formula = options.pop("formula", "y ~ x + x2 + (1 | g)")
    ends = [slm.lmm(formula, data, engine=e, **options).confint("profile") for e in ("cholmod", "dense")]
    width = np.maximum(ends[0]["upper"] - ends[0]["lower"], 1e-3)
    finite = np.isfinite(width)
    assert "x2" not in ends[0].index and finite.sum() >= 3
    assert ((ends[0] - ends[1])[finite].abs().max(axis=1) <= ENGINES * width[finite]).all()
    assert not set(options.get("fixed", {})) & set(ends[0].index)


def test_a_held_profile_is_that_of_the_remaining_parameters():
    """sigma held: Brent over the other variance is left out."""
    y, X, Z = dyestuff()
    fit = slm.lmm("Yield ~ 1 + (1 | Batch)", load_dataset("Dyestuff"), fixed={"sigma": 50.0})
    deviance = lambda tau: naive.deviance(y, X, tau**2 * Z @ Z.T + 2500.0 * np.eye(30), False)  # noqa: E731
    lowest = least(deviance, 0.0, 300.0)
    for value in fit.confint("profile").loc["sd_Intercept|Batch"]:
        assert np.sqrt(deviance(value) - lowest) == pytest.approx(norm.isf(0.025), abs=EXACT)


def test_a_slope_with_two_variances():
    """beta of x held, both variances searched by Nelder and Mead."""
    data, _ = structured()
    fit = slm.lmm("y ~ x + (1 | g)", data)
    y, x, Z = data.y.to_numpy(), data.x.to_numpy(), pd.get_dummies(data.g).to_numpy(float)

    def deviance(beta):
        f = lambda r: naive.profile_deviance(y - beta * x, np.ones((64, 1)), r[0] ** 2 * Z @ Z.T + np.eye(64), False)  # noqa: E731
        return minimize(f, [0.5], method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-12}).fun

    X = np.column_stack([np.ones(64), x])
    f = lambda r: naive.profile_deviance(y, X, r[0] ** 2 * Z @ Z.T + np.eye(64), False)  # noqa: E731
    lowest = minimize(f, [0.5], method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-12}).fun
    for value in fit.confint("profile", which="x").loc["x"]:
        assert np.sqrt(deviance(value) - lowest) == pytest.approx(norm.isf(0.025), abs=EXACT)


def test_the_fit_is_left_as_it_was(fits):
    fit = fits["Penicillin"]
    before = fit.ranef(se=True)["plate"].copy()
    fit.profile("Intercept")
    pd.testing.assert_frame_equal(fit.ranef(se=True)["plate"], before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"which": "sd_x"}, "no free parameter 'sd_x'.*This fit has Intercept, x, sd_Intercept"),
        ({"level": 95}, "a number between 0 and 1"),
        ({"method": "exact"}, "one of 'wald', 'profile', 'boot'"),
        ({"method": "wald", "n": 3}, "has no option 'n'; it has none"),
        ({"method": "profile", "n": 3}, "has no option 'n'; it has reml"),
        ({"method": "boot", "kind": "best"}, "kind='best': one of"),
        ({"method": "boot", "m": 3}, "has no option 'm'; it has n, seed"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    fit = PROBLEMS["one_factor"].model().fit()
    with pytest.raises(slm.ModelError, match=message):
        fit.confint(**arguments)


def test_levels_beyond_the_profile_are_refused(fits):
    with pytest.raises(slm.ModelError, match="this profile goes to 0.9"):
        fits["Dyestuff"].profile("sigma", level=0.9).confint(0.95)


def test_wald_intervals_of_variances(fits):
    """exp(log sd -+ z se/sd), tanh(arctanh cor -+ z se/(1 - cor^2))."""
    fit = fits["sleepstudy"]
    ends, z = fit.confint(level=0.9), norm.isf(0.05)
    sd, se = fit.varpar["sd_Days|Subject"], fit.varpar_se["sd_Days|Subject"]
    np.testing.assert_allclose(ends.loc["sd_Days|Subject"], sd * np.exp(np.array([-z, z]) * se / sd), rtol=1e-6)
    cor, se = fit.varpar["cor_Intercept.Days|Subject"], fit.varpar_se["cor_Intercept.Days|Subject"]
    expected = np.tanh(np.arctanh(cor) + np.array([-z, z]) * se / (1 - cor**2))
    np.testing.assert_allclose(ends.loc["cor_Intercept.Days|Subject"], expected, rtol=1e-6)


def test_bootstrap_intervals(fits):
    fit = fits["Dyestuff2"]
    ends = fit.confint("boot", which=["sd_Intercept|Batch", "Intercept"], n=60, seed=3)
    pd.testing.assert_frame_equal(ends, fit.bootstrap(60, seed=3).confint().loc[["sd_Intercept|Batch", "Intercept"]])
    assert ends.loc["sd_Intercept|Batch", "lower"] == 0.0


def without_residual(sd, table):
    """min over rho and beta of -2l of y = beta + series of standard deviation sd, sigma = 0, by a dense V."""
    y, g, t = (table[name].to_numpy() for name in ("y", "g", "t"))
    apart, same = np.abs(t[:, None] - t), g[:, None] == g

    def deviance(rho):
        V = sd**2 * np.where(same, rho**apart, 0.0)
        X = np.ones((len(y), 1))
        half = np.linalg.cholesky(V)
        Xh, yh = np.linalg.solve(half, X), np.linalg.solve(half, y)
        rest = yh - Xh @ np.linalg.lstsq(Xh, yh, rcond=None)[0]
        return 2 * np.log(np.diag(half)).sum() + len(y) * np.log(2 * np.pi) + rest @ rest

    return minimize_scalar(deviance, bounds=(0.0, 0.95), method="bounded", options={"xatol": 1e-9}).fun


def test_a_series_may_take_all_of_the_variance():
    """Beyond some sd of an AR(1) the best sigma is zero: the profile goes on there, and that of sigma ends at zero."""
    rng = np.random.default_rng(3)
    chain = np.empty((20, 6))
    chain[:, 0] = rng.normal(size=20)
    for k in range(1, 6):
        chain[:, k] = 0.5 * chain[:, k - 1] + np.sqrt(0.75) * rng.normal(size=20)
    y = (chain + 0.5 * rng.normal(size=chain.shape)).ravel()
    table = pd.DataFrame({"y": y, "t": np.tile(np.arange(6), 20), "g": np.repeat(np.arange(20), 6)})
    fit = slm.lmm("y ~ 1 + ar1(0 + t | g)", table, reml=False)
    profile = fit.profile("varpar")
    upper = profile.confint(0.99).loc["sd_ar1(t)|g", "upper"]
    rise = without_residual(upper, table) - fit.deviance
    assert np.sqrt(rise) == pytest.approx(norm.ppf(0.995), abs=1e-3)  # sigma^2 is 1e-6 of the variance, not 0
    assert profile.confint(0.99).loc["sigma", "lower"] == 0.0
    assert len(profile.curves["sigma"].u) < 20  # no nodes in the rounding of a deviance that is level


@pytest.mark.parametrize("method", ["wald", "profile", "boot"])
def test_a_coefficient_named_like_a_variance_parameter(method):
    """Intervals go by name: one of the two would be lost."""
    fit = slm.lmm("Reaction ~ sigma + (1 | Subject)", load_dataset("sleepstudy").rename(columns={"Days": "sigma"}))
    with pytest.raises(slm.ModelError, match="'sigma' is a coefficient and a variance parameter: rename the column"):
        fit.confint(method)


def test_sparse_fixed_effects_have_the_profiles_of_dense_ones():
    rng = np.random.default_rng(5)
    h, g = rng.permutation(np.repeat(np.arange(120), 4)), rng.integers(0, 20, 480)
    table = pd.DataFrame({"x": rng.normal(size=480), "h": h.astype(str), "g": g})
    table["y"] = 0.3 * table.x + rng.normal(size=120)[h] + rng.normal(size=20)[g] + rng.normal(size=480)
    fit = slm.lmm("y ~ x + h + (1 | g)", table)
    assert fit.spec.S is not None
    X = fit.spec.design.toarray()
    dense = slm.LinearMixedModel.from_arrays(table.y, X, [slm.RandomTerm(g)], fixed_names=fit.spec.fixed_names).fit()
    for name in ("x", "h[T.77]"):
        found, expected = (f.confint("profile", which=name).loc[name] for f in (fit, dense))
        np.testing.assert_allclose(found, expected, rtol=ENGINES, atol=ENGINES)


def test_a_coefficient_within_the_null_space_of_a_walk_has_no_profile():
    """Whatever the intercept is put at, the walk takes up the rest."""
    rng = np.random.default_rng(1)
    table = pd.DataFrame({"y": rng.normal(size=60), "x": rng.normal(size=60), "t": np.arange(60) % 12})
    fit = slm.lmm("y ~ x + rw1(0 + t)", table)
    found = fit.confint("profile", which="fixef")
    assert found.loc["Intercept"].isna().all() and found.loc["x"].notna().all()
    moved = slm.lmm("y ~ 0 + x + rw1(0 + t)", table, offset=np.full(60, 7.0), reml=False)
    assert moved.deviance == pytest.approx(slm.lmm("y ~ x + rw1(0 + t)", table, reml=False).deviance, abs=1e-6)


def test_a_correlation_whose_deviance_cannot_rise_that_far():
    """Of three effects; with the slope's variance at zero, 0.75 above the minimum, it can be anything."""
    fit = PROBLEMS["three_effects"].model().fit(reml=False)
    without = PROBLEMS["three_effects"].model().fit(reml=False, fixed={"sd_x|g": 0.0})
    assert without.deviance - fit.deviance < norm.ppf(0.95) ** 2
    found = fit.confint("profile", 0.9, which="cor_Intercept.x|g")
    assert found.loc["cor_Intercept.x|g"].tolist() == [-1.0, 1.0]


def test_a_correlation_of_a_series_is_never_worse_than_no_series():
    """Negative correlations would be, at a local minimum where the series takes all of the variance."""
    rng = np.random.default_rng(3)
    level, noise = rng.normal(size=20), rng.normal(size=(20, 6))
    table = pd.DataFrame({"t": np.tile(np.arange(6), 20), "g": np.repeat(np.arange(20), 6)})
    table["y"] = 0.5 * level[table.g] + noise.ravel()
    fit = slm.lmm("y ~ 1 + ar1(0 + t | g)", table, reml=False)
    curve = fit.profile("rho_ar1(t)|g", level=0.9999).curves["rho_ar1(t)|g"]
    without = -2 * norm.logpdf(table.y, table.y.mean(), table.y.std(ddof=0)).sum()
    assert (curve.zeta**2 <= without - fit.deviance + 1e-6).all() and curve.value[0] < -0.5
    assert fit.confint("profile", 0.9999).loc["rho_ar1(t)|g", "lower"] == -1.0


def test_a_wald_interval_close_to_the_end_of_its_scale():
    """A correlation of 1 - 5e-7: arctanh has slope 1/(1 - rho^2) there, and no value 1e-6 further on."""
    low, high = _ends(1 - 5e-7, 1e-7, 1.96, wald_scale("rho_ar1(t)|g"))
    slope = 1 / (1 - (1 - 5e-7) ** 2)
    assert (low, high) == pytest.approx(tuple(np.tanh(np.arctanh(1 - 5e-7) + np.array([-1, 1]) * 1.96e-7 * slope)))


def test_where_nothing_is_free_there_are_no_curves():
    held = {"sd_Intercept|Subject": 30.0, "sigma": 25.0}
    profile = slm.lmm("Reaction ~ Days + (1 | Subject)", load_dataset("sleepstudy"), fixed=held).profile("varpar")
    assert list(profile.table) == ["parameter", "value", "zeta"] and profile.table.empty and profile.confint().empty


@pytest.mark.filterwarnings("ignore:the fit did not converge")
@pytest.mark.parametrize("seed", [0, 3, 8])
def test_a_path_along_which_a_stratum_loses_its_variance(seed):
    """The criterion cancels without end there: it seemed 1 to 122 below that of the fit, which was an error.

    With the correlation held at the end of its interval the dense deviance is 3.84 above the lowest one; its own search
    stops short on the same way, by 1e-4 of it.
    """
    rng = np.random.default_rng(seed)
    t, g = np.tile(np.arange(5), 14), np.repeat(np.arange(14), 5)
    y = 0.3 * t + rng.normal(size=14)[g] + 0.5 * np.cumsum(rng.normal(size=70)) + 0.5 * rng.normal(size=70)
    table, formula = pd.DataFrame({"y": y, "t": t, "g": g, "arm": g % 3}), "y ~ t + ar1(0 + t | g)"
    fit = slm.lmm(formula, table, reml=False, residual="varident(arm)")
    ends = fit.confint("profile", which=["rho_ar1(t)|g", "sigma"])
    assert ends.loc["sigma", "lower"] == 0.0
    held = {"rho_ar1(t)|g": ends.loc["rho_ar1(t)|g", "lower"]}
    dense = slm.lmm(formula, table, reml=False, residual="varident(arm)", fixed=held, engine="dense")
    assert dense.deviance - fit.deviance == pytest.approx(norm.ppf(0.975) ** 2, rel=1e-4)
