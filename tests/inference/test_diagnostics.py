"""Residuals, leverage, Cook's distances, shares of variance and collinearity, against textbooks, refits and R."""

import warnings

import numpy as np
import pandas as pd
import pytest

import sparselmm as slm
from sparselmm.datasets import load_dataset
from sparselmm.inference import influence, posterior
from sparselmm.inference.caic import conditional_aic
from tests import naive
from tests.inference.test_predict_errors import repeated
from tests.inference.test_ranef import term_matrix

DENSE = 1e-8  # explicit inverses of n x n matrices on the other side
REFIT = 1e-6  # coefficients of two solutions of the equations, differences of them squared
R_DIGITS = 2e-5  # values that R prints at its own optimum, whose theta is right to 1e-5
NESTED = "score ~ Machine + (1 | Worker) + (1 | Worker:Machine)"
CURVED = "Reaction ~ Days + I(Days**2) + (Days | Subject)"
LINEAR = 1e-6  # differences of solutions with a response moved by 1


def orthodont(**columns):
    return load_dataset("Orthodont").assign(**columns)


def machines_with_gaps():
    table = load_dataset("Machines").drop(index=[0, 1, 4, 19, 32, 49]).reset_index(drop=True)
    k = np.tile([1.0, 5, 2, 8, 3, 3], 8) + 2 * (1 + table.Machine.cat.codes)
    return table.assign(k=k, w=np.tile([0.0, 1, 1, 0, 2, 5, 1, 3], 6) + k / 3)


CASES = {
    "slopes": ("Reaction ~ Days + (Days | Subject)", lambda: load_dataset("sleepstudy"), {}),
    "crossed": ("diameter ~ 1 + (1 | plate) + (1 | sample)", lambda: load_dataset("Penicillin"), {}),
    "weights": ("distance ~ age * Sex + (1 | Subject)", orthodont, {"weights": np.tile([1.0, 2.0, 3.0, 4.0], 27)}),
    "strata": ("distance ~ age + (age | Subject)", orthodont, {"residual": "varident(Sex)"}),
    "serial": ("y ~ x + (1 | g)", repeated, {"residual": "ar1(t | g)", "fixed": {"rho_residual": 0.4}}),
    "serial, weights": ("y ~ x + (x | g)", repeated, {"residual": "ou(u | g)", "weights": "w"}),
}


def fitted_case(name):
    formula, table, options = CASES[name]
    table = table()
    if isinstance(options.get("weights"), str):
        table = table.assign(w=1.0 + table.index % 3)
    return slm.lmm(formula, table, **options), table


def textbook(fit):
    """R and P of the fit, written out; sigma = 1."""
    Z = [term_matrix(t) for t in fit.spec.terms]
    parts = fit.likelihood.parameters.parts(fit.theta.to_numpy())
    factors = [t.covariance.factor(p) for t, p in zip(fit.spec.terms, parts, strict=True)]
    psi = [np.kron(np.eye(t.n_levels), T @ T.T) for t, T in zip(fit.spec.terms, factors, strict=True)]
    root = np.ones(fit.nobs) if fit.spec.weights is None else np.sqrt(fit.spec.weights)
    residual = fit.spec.residual
    rho = fit.theta.to_numpy()[fit.likelihood.parameters.residual_slice]
    R = (np.eye(fit.nobs) if residual is None else residual.covariance(rho)) / np.outer(root, root)
    W = R + sum(z @ p @ z.T for z, p in zip(Z, psi, strict=True))
    return R, naive.projection(fit.spec.X, W)


@pytest.mark.parametrize("name", CASES)
def test_leverage_and_standardised_residuals_are_a_textbooks(name):
    """fitted = (I - R P) y and var(e) = sigma^2 R P R."""
    fit, _ = fitted_case(name)
    R, P = textbook(fit)
    np.testing.assert_allclose(fit.leverage(), 1 - np.diag(R @ P), rtol=DENSE)
    e = R @ P @ fit.spec.y
    scale = fit.sigma * np.sqrt(np.diag(R @ P @ R))
    np.testing.assert_allclose(fit.residuals("standardized"), e / scale, rtol=DENSE, atol=DENSE)
    np.testing.assert_allclose(fit.residuals("pearson"), e / (fit.sigma * np.sqrt(np.diag(R))), rtol=DENSE, atol=DENSE)
    np.testing.assert_array_equal(fit.residuals(), fit.resid)
    np.testing.assert_allclose(fit.residuals("marginal"), fit.spec.y - fit.spec.X @ fit.fixef, rtol=DENSE)


def test_a_row_with_a_coefficient_of_its_own_has_no_standardised_residual():
    """X'e = 0: such a residual is zero, and all that is computed of it and its variance is rounding."""
    table = load_dataset("sleepstudy").assign(own=lambda t: [f"{i}" if i % 7 == 0 else "-" for i in t.index])
    fit = slm.lmm("Reaction + 1e7 ~ Days + own + (Days | Subject)", table)
    r = fit.residuals("standardized")
    np.testing.assert_array_equal(np.isnan(r), table.own != "-")
    np.testing.assert_array_equal(np.isnan(fit.cooks_distance()), table.own != "-")


@pytest.mark.parametrize("name", ["slopes", "crossed", "weights"])
def test_the_sum_of_leverages_is_the_effective_degrees_of_freedom(name):
    fit, _ = fitted_case(name)
    assert fit.leverage().sum() == pytest.approx(conditional_aic(fit).effective_df, rel=DENSE)


def test_leverage_is_that_of_lme4():
    """hatvalues of lme4 1.1-31."""
    fit = slm.lmm("distance ~ age * Sex + (1 | Subject)", orthodont())
    np.testing.assert_allclose(fit.leverage()[:3], [0.248324525418, 0.223324525418, 0.223324525418], rtol=R_DIGITS)
    assert fit.leverage().sum() == pytest.approx(25.82128, rel=R_DIGITS)
    fit = slm.lmm("distance ~ age + Sex + (1 | Subject)", orthodont(), weights=np.tile([1.0, 2.0, 3.0, 4.0], 27))
    expected = [0.104458634865, 0.186695047508, 0.268931460151, 0.373390095016]
    np.testing.assert_allclose(fit.leverage()[:4], expected, rtol=R_DIGITS)


@pytest.mark.parametrize("formula", ["y ~ x + rw2(0 + u)", "y ~ 1 + x + rw1(0 + u | g)", "y ~ x + ar1(0 + t | g)"])
def test_leverage_of_structured_terms_is_how_a_fitted_value_follows_its_row(formula):
    table = repeated(m=3, steps=6)
    fit = slm.lmm(formula, table)
    held = fit.varpar.to_dict()
    h = fit.leverage()
    for i in range(0, len(table), 3):
        moved = slm.lmm(formula, table.assign(y=table.y + (table.index == i)), fixed=held)
        assert moved.fitted[i] - fit.fitted[i] == pytest.approx(h[i], rel=LINEAR, abs=LINEAR)


def refitted(formula, table, fit, left, **options):
    """Cook's distance without some rows by a real fit at the same variance parameters."""
    some = {k: v[~left] if isinstance(v, np.ndarray) else v for k, v in options.items() if k != "fixed"}
    other = slm.lmm(formula, table[~left], fixed=fit.varpar.to_dict(), **some)
    change = (fit.fixef - other.fixef).to_numpy()
    return change @ np.linalg.solve(fit.vcov.to_numpy(), change) / len(change)


@pytest.mark.parametrize("name", CASES)
def test_cooks_distances_are_those_of_refits(name):
    fit, table = fitted_case(name)
    formula, _, options = CASES[name]
    group = {"crossed": "plate", "serial": "g", "serial, weights": "g"}.get(name, "Subject")
    found = fit.cooks_distance(group)
    assert found.index.name == group and (len(found) == table[group].nunique())
    for level in found.index[::5]:
        left = (table[group] == level).to_numpy()
        assert found[level] == pytest.approx(refitted(formula, table, fit, left, **options), rel=REFIT)
    by_row = fit.cooks_distance()
    for i in range(0, len(table), 23):
        assert by_row[i] == pytest.approx(refitted(formula, table, fit, table.index == i, **options), rel=REFIT)
    one_each = fit.cooks_distance(np.arange(fit.nobs))
    np.testing.assert_allclose(one_each, by_row, rtol=REFIT, atol=1e-12)


@pytest.mark.parametrize("formula", ["y ~ 1 + x + rw1(0 + u)", "y ~ x + u + rw2(0 + u)", "y ~ x + ou(0 + u | g)"])
def test_cooks_distances_of_structured_terms(formula):
    table = repeated()
    fit = slm.lmm(formula, table)
    knots = np.sort(table.u.unique())
    whole = formula.replace("rw1(0 + u", "rw1(0 + u, knots=k").replace("rw2(0 + u", "rw2(0 + u, knots=k")
    found = fit.cooks_distance(table.g)
    for level in ("s1", "s4"):
        left = (table.g == level).to_numpy()
        expected = refitted(whole, table, fit, left, context={"k": list(knots)})
        assert found[level] == pytest.approx(expected, rel=REFIT)


def test_groups_on_the_pattern_and_by_solving(monkeypatch):
    fit, table = fitted_case("crossed")
    whole = fit.cooks_distance("sample")
    monkeypatch.setattr(influence, "BLOCK", 60.0)
    monkeypatch.setattr(posterior, "BLOCK", 60.0)
    pd.testing.assert_series_equal(fit.cooks_distance("sample"), whole, rtol=DENSE)
    pd.testing.assert_series_equal(
        fit.cooks_distance(table["sample"]).reset_index(drop=True), whole.reset_index(drop=True)
    )


def test_a_coefficient_that_goes_with_a_group():
    table = repeated().assign(f=lambda d: np.where(d.g == "s2", "a", "b"))
    found = slm.lmm("y ~ x + f + (1 | g)", table).cooks_distance("g")
    assert np.isnan(found["s2"]) and found.drop("s2").notna().all()


def test_r_squared_and_icc_are_those_of_r():
    """performance 0.10.2 of R: r2_nakagawa and icc."""
    for formula, table, *expected in [
        ("distance ~ age * Sex + (1 | Subject)", "Orthodont", 0.409841576342, 0.782726600041, 0.631838856738),
        (NESTED, "Machines", 0.467700117243, 0.986942234269, 0.975469155350),
        (CURVED, "sleepstudy", 0.280186853733, 0.800352807805, 0.722640252917),
    ]:
        fit = slm.lmm(formula, load_dataset(table))
        assert list(fit.r_squared().index) == ["marginal", "conditional"]
        np.testing.assert_allclose([*fit.r_squared(), fit.icc().sum()], expected, rtol=R_DIGITS)


def test_shares_of_correlated_levels():
    """A stationary series has variance sd^2 in every row, a pedigree sd^2 (1 + F)."""
    fit = slm.lmm("y ~ x + ar1(0 + t | g)", repeated())
    sd, sigma = fit.varpar["sd_ar1(t)|g"], fit.sigma
    assert fit.icc().iloc[0] == pytest.approx(sd**2 / (sd**2 + sigma**2), rel=DENSE)
    P = slm.Pedigree(range(5), [None, None, 0, 0, 2], [None, None, 1, 1, 3])  # 4 is of full sibs, F = 1/4
    table = pd.DataFrame({"id": np.repeat(np.arange(5), 3), "y": np.arange(15.0) % 4})
    fit = slm.lmm("y ~ 1 + ped(1 | id, P)", table, context={"P": P}, fixed={"sd_ped(Intercept)|id": 0.7})
    genetic = 0.49 * (1 + P.inbreeding).mean()
    assert fit.icc().iloc[0] == pytest.approx(genetic / (genetic + fit.sigma**2), rel=DENSE)
    walk = slm.lmm("y ~ x + rw1(0 + u)", repeated())
    with pytest.raises(slm.ModelError, match="intrinsic precision have no variance"):
        walk.r_squared()


def test_variance_inflation_is_that_of_car():
    """car 3.1-1 of R on lme4's fits."""
    fit = slm.lmm(CURVED, load_dataset("sleepstudy"))
    np.testing.assert_allclose(fit.vif()["vif"], [3.325451134] * 2, rtol=R_DIGITS)
    table = orthodont(z=lambda d: np.tile([1.5, 0.2, 2.2, 0.9], 27) * d.age)
    found = slm.lmm("distance ~ age + z + Sex + (1 | Subject)", table).vif()
    np.testing.assert_allclose(found["gvif"], [1.128475602, 1.128475602, 1.0], rtol=R_DIGITS)
    assert list(found.index) == ["age", "z", "Sex"]
    found = slm.lmm("score ~ Machine + k + w + (1 | Worker)", machines_with_gaps()).vif()
    assert found["df"].tolist() == [2, 1, 1]
    np.testing.assert_allclose(found["gvif"], [1.717389019, 3.011526518, 2.080356948], rtol=R_DIGITS)
    np.testing.assert_allclose(found["vif"], found["gvif"] ** (1 / found["df"]), rtol=DENSE)


def test_principal_components_are_those_of_lme4():
    """summary(rePCA(fit)) of lme4 1.1-31."""
    table = load_dataset("Machines").assign(k=np.tile(np.arange(1, 7), 9))
    found = slm.lmm("score ~ Machine + k + (0 + Machine | Worker)", table).re_pca()
    np.testing.assert_allclose(found["sd"], [10.21306809, 2.744083318, 2.285185629], rtol=1e-4)  # theta's error
    np.testing.assert_allclose(found["share"], [0.89106, 0.06433, 0.04461], atol=1e-5)
    assert list(found.index) == [("Worker", 1), ("Worker", 2), ("Worker", 3)]
    parted = slm.lmm("Reaction ~ Days + (Days || Subject)", load_dataset("sleepstudy")).re_pca()
    assert parted["cumulative"].iloc[-1] == pytest.approx(1.0)


def test_a_check_of_a_good_fit_and_of_a_bad_one():
    rng = np.random.default_rng(12)
    table = pd.DataFrame({"g": np.repeat(np.arange(30), 8), "x": rng.normal(size=240)})
    table["y"] = table.x + rng.normal(size=30)[table.g] + rng.normal(size=240)
    good = slm.lmm("y ~ x + (1 | g)", table).check()
    assert good.ok and str(good) == repr(good) and "! " not in str(good)
    assert list(good.table) == ["topic", "fine", "text"] and len(good.table) == len(str(good).splitlines())
    bad = table.assign(h=table.g % 3)
    bad.loc[7, "y"] += 12.0
    bad.loc[bad.g == 4, ["y", "x"]] += [40.0, 9.0]
    bad["twice"], bad["z"] = 2 * bad.x, bad.x + 0.01 * rng.normal(size=240)
    found = slm.lmm("y ~ x + z + twice + (1 | g) + (1 | h)", bad).check()
    worst = found.table[~found.table.fine]
    assert not found.ok
    for topic, words in [
        ("data", "depend on others: twice"), ("levels", "from 3 levels"), ("residuals", "in row 7"),
        ("influence", "h: largest Cook's distance"), ("collinearity", "variance inflation"),
        ("random effects", "Intercept of 4"),
    ]:  # fmt: skip
        assert worst.text[worst.topic == topic].str.contains(words, regex=False).any(), (topic, str(found))


def test_a_check_names_a_variance_of_zero():
    table = pd.DataFrame({"g": np.repeat(np.arange(6), 4), "y": np.tile([1.0, -1.0, 2.0, -2.0], 6)})
    found = slm.lmm("y ~ 1 + (1 | g)", table).check().table.set_index("topic")
    assert found.text["variance parameters"] == "on the boundary: sd_Intercept|g"
    assert not found.fine["variance parameters"] and "random effects" not in found.index


@pytest.mark.parametrize(
    "model", ["y ~ x", "y ~ 0 + (1 | g)", "y ~ x + rw2(0 + u)", "y ~ x + g + ar1(0 + t | g)", "y ~ 1 + (1 | g)"]
)
def test_any_model_can_be_checked(model):
    held = {"sigma": 0.3} if "ar1" in model else None  # the series alone explain these rows: sigma would go to zero
    assert "search" in str(slm.lmm(model, repeated(), fixed=held).check())


def test_bad_arguments():
    fit = slm.lmm("y ~ x + (1 | g)", repeated())
    with pytest.raises(slm.ModelError, match="one of 'response', 'marginal', 'pearson', 'standardized'"):
        fit.residuals("deviance")
    with pytest.raises(slm.ModelError, match=r"by='h'\): a group of independent levels \('g'\)"):
        fit.cooks_distance("h")
    with pytest.raises(slm.DataError, match=r"by has shape \(3,\) for"):
        fit.cooks_distance([1, 2, 3])
    with pytest.raises(slm.DataError, match="lacks a label in 1 rows"):
        fit.cooks_distance([None] + [1] * (fit.nobs - 1))
    with pytest.raises(slm.ModelError, match="no coefficients"):
        slm.lmm("y ~ 0 + (1 | g)", repeated()).cooks_distance()


def test_a_check_where_every_group_has_a_coefficient_of_its_own():
    table = load_dataset("Machines").assign(own=lambda t: t.Worker.astype(str))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = slm.lmm("score ~ own + (1 | Worker)", table, fixed={"sd_Intercept|Worker": 1.0}).check().table
    text = found.set_index("topic").text["influence"]
    assert text == "Worker: without 6 of 6 a coefficient cannot be estimated"


def test_a_variance_of_zero_has_effects_without_errors():
    """Of variances that are differences rounding may leave less than nothing."""
    table = repeated().assign(y=lambda t: 5.0 + 1e-3 * np.sin(np.arange(len(t)) ** 2.0))
    for formula in ("y ~ x + rw2(0 + t)", "y ~ 1 + rw1(0 + t | g)", "y ~ x + (1 + x | g)"):
        frames = slm.lmm(formula, table, fixed={"sigma": 1.0}).ranef("prediction")
        assert all(np.isfinite(frame.to_numpy()).all() for frame in frames.values())
