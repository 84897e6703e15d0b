"""What must not matter to a fit, and what must matter in a known way, on random tables (hypothesis)."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sparselmm as slm

EXAMPLES = 8  # each fits two models, about 30 ms
CRITERION_RTOL = 1e-9  # the criterion at one theta, computed twice from rearranged numbers
BLUP_RTOL = 1e-7  # effects, in which small differences of large sums remain
SAME_RTOL = 1e-12  # the same numbers added in another order
SHIFT_ATOL = 1e-7  # a + c y with |a| a thousand times the spread: seven digits of the spread are left over
FITTED_DEVIANCE = 1e-8  # of two searches that end within 1e-5 standard errors: quadratic in that, and rounding
ESTIMATE_ERRORS = 5e-5  # the same in standard errors
THETA = (0.8, -0.3, 0.5, 0.6)  # away from any optimum: there criteria are compared to rounding
FORMULA = "y ~ x + f + (1 + x | g) + (1 | h)"
examples = settings(max_examples=EXAMPLES)


@st.composite
def tables(draw) -> pd.DataFrame:
    """40 to 80 rows: five to nine groups g, four h crossed with them, three levels f, weights w."""
    n, m = draw(st.integers(40, 80)), draw(st.integers(5, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    table = pd.DataFrame({"x": rng.normal(size=n), "w": rng.uniform(0.5, 2.0, n)})
    for name, size in (("g", m), ("h", 4), ("f", 3)):
        table[name] = rng.permutation(np.r_[np.arange(size), rng.integers(0, size, n - size)])
    b, c = rng.normal(size=(2, m)), rng.normal(size=4)
    mean = 3 + table.x + b[0][table.g] + b[1][table.g] * table.x + c[table.h]
    return table.assign(y=mean + 0.7 * rng.normal(size=n), f=table.f.map({0: "a", 1: "b", 2: "c"}))


def criteria(model):
    """ML and REML log-likelihoods at one theta."""
    return np.array([model.loglik(THETA, reml=reml) for reml in (False, True)])


def model(table, formula=FORMULA, **options):
    return slm.LinearMixedModel(formula, table, **options)


def same_fit(left, right, factor=1.0):
    """Deviance and estimates of two searches; `factor` scales the right side's estimates."""
    assert left.deviance == pytest.approx(right.deviance, abs=FITTED_DEVIANCE * max(1.0, abs(right.deviance)))
    distance = (left.fixef - factor * right.fixef) / left.fixef_se
    assert distance.abs().max() < ESTIMATE_ERRORS


@examples
@given(tables(), st.randoms(use_true_random=False))
def test_order_of_the_rows(table, random):
    order = random.sample(range(len(table)), len(table))
    np.testing.assert_allclose(criteria(model(table.iloc[order])), criteria(model(table)), rtol=CRITERION_RTOL)
    left, right = slm.lmm(FORMULA, table.iloc[order]), slm.lmm(FORMULA, table)
    same_fit(left, right)
    np.testing.assert_allclose(left.fitted, right.fitted[order], atol=ESTIMATE_ERRORS * right.sigma)


@examples
@given(tables(), st.permutations("uvwxyzabc"))
def test_names_and_order_of_levels_only_relabel(table, names):
    renamed = table.assign(g=[names[code] for code in table.g])
    ordered = table.assign(g=pd.Categorical(renamed.g, categories=list(names)))
    plain = model(table)
    for other in (renamed, ordered):
        np.testing.assert_allclose(criteria(model(other)), criteria(plain), rtol=CRITERION_RTOL)
    b = plain.likelihood(THETA).b[0]
    relabelled = model(renamed)
    labels = relabelled.spec.terms[0].labels()
    expected = [b[names.index(label)] for label in labels]
    np.testing.assert_allclose(relabelled.likelihood(THETA).b[0], expected, rtol=BLUP_RTOL, atol=BLUP_RTOL)


@examples
@given(tables())
def test_order_of_a_fixed_factors_levels_only_changes_the_reference(table):
    turned = table.assign(f=pd.Categorical(table.f, categories=["c", "b", "a"]))
    left, right = (slm.lmm(FORMULA, t, reml=False) for t in (turned, table))
    assert left.deviance == pytest.approx(right.deviance, abs=FITTED_DEVIANCE * abs(right.deviance))
    np.testing.assert_allclose(left.fitted, right.fitted, atol=ESTIMATE_ERRORS * right.sigma)
    assert left.fixef["f[T.b]"] == pytest.approx(
        right.fixef["f[T.b]"] - right.fixef["f[T.c]"], abs=ESTIMATE_ERRORS * left.fixef_se["f[T.b]"]
    )


@examples
@given(tables(), st.floats(-1e3, 1e3), st.sampled_from([-1.0, 1e-6, 0.03, 7.0, 1e6]))
def test_units_of_the_response(table, a, c):
    """y -> a + c y: beta and sds go with c, -2l grows by 2 nu log|c|, correlations stay."""
    moved = table.assign(y=a * abs(c) + c * table.y)
    left, right = model(moved), model(table)
    for reml, nu in ((False, len(table)), (True, len(table) - 4)):
        shift = nu * np.log(abs(c))
        expected = right.loglik(THETA, reml=reml) - shift
        assert left.loglik(THETA, reml=reml) == pytest.approx(expected, rel=CRITERION_RTOL, abs=SHIFT_ATOL)
    left, right = left.fit(), right.fit()
    scale = np.array([1.0 if name.startswith("cor_") else abs(c) for name in right.varpar.index])
    distance = (left.varpar - scale * right.varpar).abs() / (scale * right.varpar_se)
    assert distance.dropna().max() < ESTIMATE_ERRORS
    assert left.fixef["x"] == pytest.approx(c * right.fixef["x"], abs=ESTIMATE_ERRORS * left.fixef_se["x"])


@examples
@given(tables(), st.sampled_from([1e-6, 0.03, 7.0, 1e6]))
def test_units_of_a_covariate(table, c):
    """x -> c x: its slopes and their sds go with 1/c; ML's deviance stays, fixed and random parts alike."""
    left, right = (slm.lmm(FORMULA, t, reml=False) for t in (table.assign(x=c * table.x), table))
    assert left.deviance == pytest.approx(right.deviance, abs=FITTED_DEVIANCE * abs(right.deviance))
    assert c * left.fixef["x"] == pytest.approx(right.fixef["x"], abs=ESTIMATE_ERRORS * right.fixef_se["x"])
    np.testing.assert_allclose(left.fitted, right.fitted, atol=ESTIMATE_ERRORS * right.sigma)


@examples
@given(tables(), st.sampled_from([0.01, 3.0, 250.0]))
def test_weights(table, c):
    """Weights of one are none; k times the weights is sigma^2 k times as large, and nothing else."""
    ones = model(table, weights=np.ones(len(table)))
    np.testing.assert_allclose(criteria(ones), criteria(model(table)), rtol=CRITERION_RTOL)
    weighted, scaled = (slm.lmm(FORMULA, table, weights=w) for w in (table.w, c * table.w))
    same_fit(scaled, weighted)
    assert scaled.sigma == pytest.approx(np.sqrt(c) * weighted.sigma, rel=ESTIMATE_ERRORS)
    np.testing.assert_allclose(scaled.fitted, weighted.fitted, atol=ESTIMATE_ERRORS * weighted.sigma)


@examples
@given(tables())
def test_an_integer_weight_is_a_row_repeated(table):
    """For -2l at held parameters: sum of squares and coefficients are those of the longer table."""
    times = 1 + np.arange(len(table)) % 3
    held = {"sd_Intercept|g": 0.9, "sigma": 0.7}
    left = slm.lmm("y ~ x + (1 | g)", table, weights=times, fixed=held)
    right = slm.lmm("y ~ x + (1 | g)", table.loc[table.index.repeat(times)], fixed=held)
    np.testing.assert_allclose(left.fixef, right.fixef, rtol=CRITERION_RTOL)
    np.testing.assert_allclose(left.fixef_se, right.fixef_se, rtol=CRITERION_RTOL)
    np.testing.assert_allclose(left.ranef(se="prediction")["g"], right.ranef(se="prediction")["g"], rtol=BLUP_RTOL)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("(1 | g/h)", "(1 | g) + (1 | g:h)"),
        ("(1 | h/g)", "(1 | h) + (1 | h:g)"),
        ("(x || g)", "(1 | g) + (0 + x | g)"),
        ("(1 + x | g)", "us(1 + x | g)"),
        ("diag(1 + x | g)", "(1 + x || g)"),
        ("(1 | g:h)", "(1 | h:g)"),
        ("(1 | g) + (1 | h)", "(1 | g + h)"),
        ("(0 + f || g)", "(0 + f | g)"),
    ],
)
@settings(max_examples=4)
@given(tables())
def test_two_ways_to_write_a_model(left, right, table):
    a, b = model(table, f"y ~ x + {left}"), model(table, f"y ~ x + {right}")
    theta = np.linspace(0.3, 0.9, a.likelihood.parameters.count)
    for reml in (False, True):
        assert a.loglik(theta, reml=reml) == pytest.approx(b.loglik(theta, reml=reml), rel=CRITERION_RTOL)


@examples
@given(tables())
def test_engines_agree(table):
    sparse, dense = (slm.lmm(FORMULA, table, weights="w", engine=engine) for engine in ("cholmod", "dense"))
    same_fit(sparse, dense)
    np.testing.assert_allclose(sparse.fitted, dense.fitted, atol=ESTIMATE_ERRORS * dense.sigma)
    assert sparse.is_singular == dense.is_singular


@examples
@given(tables())
def test_fitted_is_predicted_from_the_same_table(table):
    fit = slm.lmm(FORMULA, table, offset="w")
    np.testing.assert_array_equal(fit.predict(), fit.fitted)
    np.testing.assert_allclose(fit.predict(table), fit.fitted, rtol=SAME_RTOL, atol=SAME_RTOL)


@examples
@given(tables(), st.permutations(["x", "w", "g", "h", "f", "y"]))
def test_kind_of_table_and_order_of_its_columns(table, columns):
    """The very same numbers, so the very same fit."""
    fit = slm.lmm(FORMULA, table, weights="w")
    turned = table[columns].assign(unused="?")
    for other in (turned, pl.from_pandas(turned), pa.Table.from_pandas(turned)):
        again = slm.lmm(FORMULA, other, weights="w")
        assert again.deviance == fit.deviance
        pd.testing.assert_series_equal(again.fixef, fit.fixef, check_exact=True)
        assert again.ranef()["g"].index.tolist() == fit.ranef()["g"].index.tolist()
