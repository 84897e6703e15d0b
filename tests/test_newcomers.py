"""What people try in their first hour, and what they are told."""

import html
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import sparselmm as slm

SEARCH = 1e-5  # a search ends this near to the optimum, in standard errors


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    g = rng.integers(0, 12, 120)
    x, z = rng.normal(size=120), rng.uniform(1, 5, 120)
    y = 1 + 2 * x + rng.normal(size=12)[g] + rng.normal(size=120)
    return pd.DataFrame({"y": y, "x": x, "z": z, "g": g, "h": rng.choice(list("abcde"), 120)})


@pytest.mark.parametrize(
    ("formula", "term"),
    [
        ("y ~ C(g) + (1 | g)", r"\(1 \| g\): the fixed effects contain it"),
        ("y ~ h + x + (1 | h) + (1 | g)", r"\(1 \| h\): the fixed effects contain it"),
        ("y ~ 0 + C(g):h + (1 | g:h)", r"\(1 \| g:h\): the fixed effects contain it"),
        ("y ~ h * x + (x | h)", r"\(1 \+ x \| h\): the fixed effects contain effects of it"),
        ("y ~ h + (x | h)", r"\(1 \+ x \| h\): the fixed effects contain effects of it"),
    ],
)
@pytest.mark.parametrize("engine", ["auto", "dense"])
def test_a_variance_that_reml_cannot_see_is_refused(table, formula, term, engine):
    """The criterion does not depend on it; the search ran to 1e7, where rounding made 96 of an intercept of 0.96."""
    with pytest.raises(slm.ModelError, match=term):
        slm.lmm(formula, table, engine=engine)


def test_such_a_variance_is_zero_by_ml_and_may_be_held(table):
    means = table.groupby("g")["y"].mean()
    by_ml = slm.lmm("y ~ 0 + C(g) + (1 | g)", table, reml=False)
    held = slm.lmm("y ~ 0 + C(g) + (1 | g)", table, fixed={"sd_Intercept|g": 2.0})
    assert by_ml.varpar["sd_Intercept|g"] == 0.0
    np.testing.assert_allclose(by_ml.fixef, means, rtol=1e-10)  # V only adds what X takes up
    np.testing.assert_allclose(held.fixef, means, rtol=1e-10)


def test_slopes_beside_fixed_intercepts_are_seen(table):
    fit = slm.lmm("y ~ C(g) + x + (0 + x | g)", table)
    assert fit.converged
    assert slm.lmm("y ~ x + (x | g)", table.assign(x=1.6e9 + 1e5 * table.x)).converged


TABLES = [
    ({"y": [1.0, 2.0]}, r"pandas.DataFrame\(data\)"),
    ({"y": 1.0, "x": 2.0}, r"pandas.DataFrame\(\[data\]\)"),
    ([{"y": 1.0}], r"pandas.DataFrame\(data\)"),
    (np.ones((3, 2)), r"pandas.DataFrame\(data\)"),
    (pd.Series([1.0, 2.0]), r"to_frame\(\)"),
    ("data.csv", "pandas.read_csv"),
]


@pytest.mark.parametrize(("data", "message"), TABLES, ids=lambda x: type(x).__name__)
def test_what_is_no_table_has_a_way_to_one(data, message):
    with pytest.raises(slm.DataError, match=message):
        slm.lmm("y ~ x + (1 | g)", data)


MESSAGES = [
    ("y ~ lambda * z + (1 | g)", "`lambda`"),
    ("lambda ~ z + (1 | g)", "`lambda`"),
    ("y ~ is + (1 | g)", "`is`"),
    ("y ~ ns(x, df=4) + (1 | g)", r"cr\(x, df=4, constraints='center'\)"),
    ("y ~ s(x) + (1 | g)", r"rw2\(0 \+ x\)"),
    ("cbind(y, x) ~ z + (1 | g)", "lmm_multi"),
    ("y ~ as.factor(h) + (1 | g)", r"factor\(x\)"),
    ("y ~ pd.cut(x, 3) + (1 | g)", r"context=\{'pd': pd\}"),
    ("y ~ poly(x, 2, raw=TRUE) + (1 | g)", "for R's TRUE write True"),
    ("y ~ . + (1 | g)", "write the names of the columns"),
    ("y ~ (x > 0) + (1 | g)", r"I\(x > 0\)"),
    ("y ~ x + row + (1 | g)", "'row' is the index of the table"),
    ("y ~ x + `Intercept` + (1 | g)", "two coefficients would have the name 'Intercept'"),
]


@pytest.mark.parametrize(("formula", "message"), MESSAGES)
def test_what_is_not_understood_has_a_way_out(table, formula, message):
    more = table.assign(**{"lambda": table.x, "is": table.x, "Intercept": table.z}).rename_axis("row")
    with pytest.raises(slm.SparselmmError, match=message):
        slm.lmm(formula, more)


def test_columns_with_words_of_python_for_names_in_backticks(table):
    fit = slm.lmm("y ~ `lambda` + log(`is`) + (1 | g)", table.assign(**{"lambda": table.x, "is": table.z}))
    plain = slm.lmm("y ~ x + log(z) + (1 | g)", table)
    np.testing.assert_allclose(fit.fixef.to_numpy(), plain.fixef.to_numpy(), rtol=1e-12)


@pytest.mark.parametrize("reml", ["ML", "False", None, 2])
def test_reml_is_true_or_false(table, reml):
    with pytest.raises(slm.ModelError, match="reml=.*False for maximum likelihood"):
        slm.lmm("y ~ x + (1 | g)", table, reml=reml)


@pytest.mark.parametrize("what", ["weights", "offset"])
def test_a_series_whose_labels_stand_in_another_order_is_refused(table, what):
    """By position or by label? The numbers differ, and nobody would notice."""
    turned = table.z.sort_values()
    with pytest.raises(slm.DataError, match=f"{what}: the Series has another index"):
        slm.lmm("y ~ x + (1 | g)", table, **{what: turned})
    by_name = slm.lmm("y ~ x + (1 | g)", table, **{what: "z"})
    assert slm.lmm("y ~ x + (1 | g)", table, **{what: turned.reindex(table.index)}).deviance == by_name.deviance
    assert slm.lmm("y ~ x + (1 | g)", table, **{what: table.z.to_numpy()}).deviance == by_name.deviance


@pytest.mark.parametrize("factor", [1e200, 1e-170])
def test_a_response_whose_squares_are_no_numbers_is_refused(table, factor):
    with pytest.raises(slm.DataError, match="give it in other units"):
        slm.lmm("y ~ x + (1 | g)", table.assign(y=factor * table.y))


@pytest.mark.parametrize("factor", [1e130, 1e-130])
def test_a_response_of_any_other_size_is_fitted(table, factor):
    fit, unit = (slm.lmm("y ~ x + (1 | g)", table.assign(y=f * table.y)) for f in (factor, 1.0))
    np.testing.assert_allclose(fit.fixef / factor, unit.fixef, rtol=1e-9)
    np.testing.assert_allclose(fit.varpar / factor, unit.varpar, rtol=1e-6)


def test_natural_splines_are_those_of_r(table):
    """The span of R's ns(x, df=4): cubic between quartiles, linear beyond the ends (its definition)."""
    knots = table.x.quantile([0, 0.25, 0.5, 0.75, 1]).to_numpy()
    cubes = np.maximum(table.x.to_numpy()[:, None] - knots, 0.0) ** 3
    d = (cubes[:, :-1] - cubes[:, -1:]) / (knots[-1] - knots[:-1])
    basis = d[:, :-1] - d[:, -1:]  # Hastie, Tibshirani & Friedman (2009), equation 5.4
    by_hand = slm.lmm(
        "y ~ x + a + b + c + (1 | g)", table.assign(a=basis[:, 0], b=basis[:, 1], c=basis[:, 2]), reml=False
    )
    fit = slm.lmm("y ~ cr(x, df=4, constraints='center') + (1 | g)", table, reml=False)
    np.testing.assert_allclose(fit.deviance, by_hand.deviance, rtol=1e-9)


def test_shares_of_variance_count_the_weights_of_each_response(table):
    """voom's weights are 2 or 20: sigma^2 is the variance of a row of weight one, and a row has sigma^2/w."""
    w = np.random.default_rng(1).uniform(3, 6, len(table))
    fit = slm.lmm("y ~ x + (1 | g)", table, weights=w)
    between, residual = fit.varpar["sd_Intercept|g"] ** 2, fit.sigma**2 * np.mean(1 / w)
    fixed = np.var(fit.spec.X @ fit.fixef.to_numpy())
    expected = np.array([between, fixed, residual]) / (between + fixed + residual)
    for weights in (w, w[None, :]):
        shares = slm.lmm_many("~ x + (1 | g)", table, table[["y"]], weights=weights).variance_partition()
        np.testing.assert_allclose(shares[["g", "fixed", "residual"]].to_numpy()[0], expected, rtol=SEARCH)


def test_a_summary_shows_itself_at_the_end_of_a_cell(table, tmp_path):
    """A plain str would show as 'Linear mixed ...\\n...' between quotes."""
    fit = slm.lmm("y ~ x + (1 | g)", table)
    fit.save(tmp_path / "fit.json")
    model = slm.LinearMixedModel("y ~ x + (1 | g)", table)
    for text in (fit.summary(), slm.load(tmp_path / "fit.json").summary(), model.describe()):
        assert repr(text) == str(text) and len(repr(text).splitlines()) > 5
    multi = slm.lmm_multi(["y", "z"], "~ x + (1 | g)", table)
    for shown in (fit, multi, slm.load(tmp_path / "fit.json")):
        assert shown._repr_html_() == f"<pre>{html.escape(str(shown))}</pre>"
    assert "&lt;" not in repr(fit)


def test_what_holds_arrays_shows_as_one_line(table):
    fit = slm.lmm("y ~ x + (1 | g)", table)
    for thing in (fit, fit.spec, fit.profile("x"), fit.bootstrap(2, seed=1)):
        assert repr(thing).startswith("<sparselmm ") and "x" in repr(thing) and len(repr(thing)) < 150


def test_numbers_that_were_read_as_text_are_named(table):
    error = pytest.raises(slm.ModelError, match="119 of them are levels of 'x': if it is text that holds numbers")
    with pytest.warns(slm.SparselmmWarning), error:
        slm.lmm("y ~ x + (1 | g)", table.assign(x=table.x.astype(str)))
    rounded = table.assign(x=table.x.round(1).astype(str))
    with pytest.warns(slm.SparselmmWarning, match="'x' is text, and all of its .* levels are numbers"):
        slm.lmm("y ~ x + (1 | g)", rounded)


@pytest.mark.parametrize(
    "levels", [["0.5", "1.0", "2.0"], [f"{i}" for i in range(30)], [f"plot {i}" for i in range(30)]]
)
def test_factors_with_numbers_for_names_are_factors_without_a_word(table, levels, recwarn):
    data = table.assign(f=[levels[i % len(levels)] for i in range(len(table))])
    slm.lmm("y ~ x + f + (1 | g)", data)
    assert not recwarn.list


def test_whether_a_dense_matrix_is_a_covariance_is_asked(table):
    """Relationship matrices are covariances; taken as a precision they give another heritability without a word."""
    labels = sorted(table.h.unique())
    A = pd.DataFrame(0.5 + 0.5 * np.eye(5), index=labels, columns=labels)
    formula = "y ~ x + known(1 | h, A)"
    for matrix in (A, A.to_numpy()):
        with pytest.raises(slm.ModelError, match="kind='covariance'"):
            slm.lmm(formula, table, context={"A": matrix})
    by_covariance = slm.lmm(formula, table, context={"A": slm.Known(A, kind="covariance")})
    inverse = pd.DataFrame(np.linalg.inv(A), index=labels, columns=labels)
    by_precision = slm.lmm(formula, table, context={"A": slm.Known(inverse)})
    np.testing.assert_allclose(by_covariance.deviance, by_precision.deviance, rtol=1e-12)


def test_new_rows_without_the_group(table):
    fit = slm.lmm("y ~ x + (1 | g)", table)
    new = table[["x"]].head(2)
    with pytest.raises(slm.DataError, match="column 'g' is not in the table.*re=False"):
        fit.predict(new)
    with pytest.raises(slm.DataError, match="'g' is the index of the table"):
        fit.predict(table.set_index("g"))
    np.testing.assert_allclose(fit.predict(new, re=False), fit.fixef["Intercept"] + fit.fixef["x"] * new.x, rtol=1e-12)


def test_many_responses_refuse_what_one_refuses(table):
    for formula in ("~ h + (1 | h) + (1 | g)", "~ h + (x | h)"):
        with pytest.raises(slm.ModelError, match="the fixed effects contain"):
            slm.lmm_many(formula, table, table[["y", "z"]])
    assert slm.lmm_many("~ h + (1 | h) + (1 | g)", table, table[["y", "z"]], reml=False).converged.all()


def test_a_tab_shows_public_names_and_modules():
    shown = [name for name in dir(slm) if not name.startswith("_")]
    assert set(shown) == {*slm.__all__, "closed_form", "inference", "plots", "structures"}
    code = "import sparselmm as slm; assert callable(slm.plots.caterpillar) and callable(slm.closed_form.nested)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_collinear_effects_of_few_levels_beside_many_columns(table):
    """(1 + one | b), one constant: the model of (1 | b), whose variance the two effects share."""
    few = table.assign(one=1.0, b=table.g % 3)
    twice, once = (slm.lmm(f"y ~ h * z + ({left} | b)", few, reml=True) for left in ("one", "1"))
    np.testing.assert_allclose(twice.deviance, once.deviance, rtol=1e-9)
    with pytest.raises(slm.ModelError, match="contain effects of it"):
        slm.lmm("y ~ C(b) + (one | b)", few)
