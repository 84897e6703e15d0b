"""Estimated marginal means against R's emmeans (tests/golden/make_inference.R) and means worked out by hand."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import sparselmm as slm
from sparselmm.datasets import load_dataset
from sparselmm.optimize import Options
from tests import golden
from tests.inference.test_tests import MODELS, obk

RTOL = 1e-5  # estimates of two searches, and degrees of freedom by two numerical derivatives
P_ATOL = 1e-9  # R's ptukey and SciPy's integrate the studentised range to about this
EXACT = 1e-10
CASES = golden.inference()["means"]
COVARIATES = json.loads((Path(golden.__file__).parent / "covariates.json").read_text())["cases"]


def means_of(case):
    """At the optimum itself: what is left to the search by default shows in the fifth digit of a p-value of 0.002."""
    model = slm.LinearMixedModel(case["formula"], obk(case["dropped"]), weights=case.get("weights"))
    fit = model.fit(options=Options(tolerance=1e-8))
    left, _, by = case["specs"].removeprefix("~ ").partition(" | ")
    ddf = "wald" if case["ddf"] == "asymptotic" else case["ddf"]
    return fit.emmeans(left.split(" * "), by or None, at=case.get("at"), ddf=ddf, level=case["level"])


@pytest.fixture(scope="module", params=range(len(CASES)), ids=[f"{c['specs']} {c['ddf']}" for c in CASES])
def case(request):
    return CASES[request.param], means_of(CASES[request.param])


def test_means_are_those_of_r(case):
    ref, means = case
    table = means.table
    levels = [[str(row[name]) for name in means.levels] for row in ref["rows"]]
    assert table[list(means.levels)].astype(str).to_numpy().tolist() == levels
    for column in ("emmean", "std_error", "lower", "upper"):
        np.testing.assert_allclose(table[column], [row[column] for row in ref["rows"]], rtol=RTOL)
    expected = [np.inf if row["df"] is None else row["df"] for row in ref["rows"]]
    np.testing.assert_allclose(table.df, expected, rtol=RTOL)


@pytest.mark.parametrize("which", range(4))
def test_comparisons_are_those_of_r(case, which):
    ref, means = case
    adjust, rows = ref["pairs"][which]["adjust"], ref["pairs"][which]["rows"]
    table = means.pairs(adjust)
    assert list(table.contrast) == [row["contrast"] for row in rows]
    for name in means.by:
        assert [str(x) for x in table[name]] == [str(row[name]) for row in rows]
    for column in ("estimate", "std_error"):
        np.testing.assert_allclose(table[column], [row[column] for row in rows], rtol=RTOL)
    statistic = "z" if ref["ddf"] == "asymptotic" else "t"
    np.testing.assert_allclose(table[statistic], [row["t"] for row in rows], rtol=RTOL)
    np.testing.assert_allclose(table.p_value, [row["p_value"] for row in rows], rtol=RTOL, atol=P_ATOL)


def test_means_of_a_balanced_table_are_its_means():
    """Machines: six workers, three machines, three replicates each."""
    table = load_dataset("Machines")
    means = slm.lmm("score ~ Machine + (1 | Worker)", table).emmeans("Machine")
    np.testing.assert_allclose(means.table.emmean, table.groupby("Machine", observed=True).score.mean(), rtol=EXACT)
    assert str(means) == means.table.to_string(index=False)


def test_a_combination_is_a_contrast_of_the_means():
    means = slm.lmm("score ~ Machine + (1 | Worker)", load_dataset("Machines")).emmeans("Machine")
    out = means.contrast({"A against the others": [1, -0.5, -0.5], "B against C": [0, 1, -1]})
    first, b, c = means.table.emmean
    np.testing.assert_allclose(out.estimate, [first - (b + c) / 2, b - c], rtol=EXACT)
    assert list(out.contrast) == ["A against the others", "B against C"]
    row, pair = out.iloc[1, 1:].astype(float), means.pairs("none").iloc[2, 1:].astype(float)
    np.testing.assert_allclose(row.iloc[:2], pair.iloc[:2], rtol=EXACT)
    np.testing.assert_allclose(row, pair, rtol=RTOL)


def test_adjustments_by_hand():
    """Holm's steps for three p values; Tukey of two means is no adjustment."""
    means = slm.lmm("score ~ Machine + (1 | Worker)", load_dataset("Machines").iloc[:40]).emmeans("Machine")
    plain, holm, bonferroni = (means.pairs(a).p_value.to_numpy() for a in ("none", "holm", "bonferroni"))
    order = np.argsort(plain)
    steps = np.maximum.accumulate(np.array([3, 2, 1]) * plain[order])
    np.testing.assert_allclose(holm[order], np.minimum(1, steps), rtol=EXACT)
    np.testing.assert_allclose(bonferroni, np.minimum(1, 3 * plain), rtol=EXACT)
    two = slm.lmm("Reaction ~ C(Days > 4) + (1 | Subject)", load_dataset("sleepstudy"))
    out = two.emmeans("Days", at={"Days": [0, 9]})
    np.testing.assert_array_equal(out.pairs("tukey").p_value, out.pairs("none").p_value)


def test_covariates_in_functions_and_in_factors():
    sleep = load_dataset("sleepstudy")
    fit = slm.lmm("Reaction ~ poly(Days, 2) + (1 | Subject)", sleep)
    means = fit.emmeans("Days", at={"Days": [0, 5, 9]})
    expected = fit.predict(pd.DataFrame({"Days": [0.0, 5.0, 9.0], "Subject": "none"}), re=False)
    np.testing.assert_allclose(means.table.emmean, expected, rtol=EXACT)
    coded = slm.lmm("Reaction ~ C(Days) + (1 | Subject)", sleep).emmeans("Days").table
    assert coded.Days.tolist() == list(range(10))
    np.testing.assert_allclose(coded.emmean, sleep.groupby("Days").Reaction.mean(), rtol=EXACT)  # balanced
    sloped = slm.lmm("score ~ Machine:x + (1 | Worker)", load_dataset("Machines").assign(x=np.arange(54.0) % 7))
    at_mean = sloped.emmeans("Machine").table.emmean
    x = (np.arange(54.0) % 7).mean()
    np.testing.assert_allclose(at_mean, sloped.fixef.iloc[0] + sloped.fixef.iloc[1:].to_numpy() * x, rtol=EXACT)


@pytest.mark.parametrize("case", COVARIATES, ids=[c["python"] for c in COVARIATES])
def test_covariates_that_are_read_through_functions_as_in_r(case):
    """The raw column is averaged over the rows used, and both values of one with two are in the grid."""
    i = np.arange(180)
    table = load_dataset("sleepstudy").assign(x=1 + i % 9 + 0.5 * (i % 4), two=2.0 * (i % 5 == 0))
    table["f"] = np.array(["a", "b", "c"])[i // 2 % 3]
    table.loc[[2, 49], "x"] = np.nan
    fit = slm.lmm(case["python"], table)
    for name, rows in zip(case["specs"], case["means"], strict=True):
        means = fit.emmeans(name, ddf="satterthwaite").table
        found, expected = means[name].tolist(), [row["level"] for row in rows]
        assert found == (expected if name == "f" else pytest.approx(expected))
        for column in ("emmean", "std_error", "df"):
            np.testing.assert_allclose(means[column], [row[column] for row in rows], rtol=RTOL)


def test_true_and_false_are_levels():
    sleep = load_dataset("sleepstudy").assign(late=lambda t: t.Days > 4)
    table = slm.lmm("Reaction ~ C(late) + (1 | Subject)", sleep).emmeans("late").table
    assert table.late.tolist() == [False, True]
    np.testing.assert_allclose(table.emmean, sleep.groupby("late").Reaction.mean(), rtol=EXACT)


def test_a_mean_that_the_data_do_not_determine_has_no_numbers():
    """No woman has treatment A; emmeans prints nonEst for that mean, and numbers for the others."""
    model = MODELS["empty cell"]
    fit = slm.lmm(model["formula"], obk(model["dropped"]))
    table = fit.emmeans(["treatment", "gender"]).table
    missing = (table.treatment == "A") & (table.gender == "F")
    assert table.emmean.isna().tolist() == missing.tolist()
    assert fit.emmeans("treatment").table.emmean.isna().tolist() == [False, True, False]
    pairs = fit.emmeans("treatment").pairs("holm").set_index("contrast")
    assert pairs.estimate.isna().tolist() == [True, False, True] and pairs.loc["control - B", "p_value"] < 0.5
    marginal = fit.emmeans("gender", by="treatment").pairs("none")
    assert marginal.estimate.isna().tolist() == [False, True, False]


def test_intervals_have_their_level():
    means = slm.lmm("score ~ Machine + (1 | Worker)", load_dataset("Machines")).emmeans("Machine", level=0.8)
    table = means.table
    np.testing.assert_allclose((table.upper - table.emmean) / table.std_error, stats.t.ppf(0.9, table.df), rtol=EXACT)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (
            lambda f: f.emmeans("Machin"),
            "'Machin' is not in the fixed part, which reads Machine; did you mean 'Machine'",
        ),
        (lambda f: f.emmeans("Machine", by="Worker"), "'Worker' is not in the fixed part"),
        (lambda f: f.emmeans("Machine", at={"x": 1}), "at: 'x' is not in the fixed part"),
        (lambda f: f.emmeans("Machine").pairs("scheffe"), "adjust='scheffe': one of 'tukey', 'holm'"),
        (lambda f: f.emmeans("Machine").contrast({"a": [1, -1, 0]}, "tukey"), "adjust='tukey': one of 'holm'"),
        (lambda f: f.emmeans("Machine").contrast({"a": [1, -1]}), "contrast 'a': 3 weights, for A, B, C"),
        (lambda f: f.emmeans("Machine", at={"Machine": ["Z"]}), "level 'Z' was not in the data"),
    ],
)
def test_bad_requests(request_, message):
    fit = slm.lmm("score ~ Machine + (1 | Worker)", load_dataset("Machines"))
    with pytest.raises(slm.SparselmmError, match=message):
        request_(fit)


def test_models_without_a_formula_and_grids_without_end():
    spec = slm.LinearMixedModel("score ~ Machine + (1 | Worker)", load_dataset("Machines")).spec
    arrays = slm.LinearMixedModel.from_arrays(spec.y, spec.X, [slm.RandomTerm(spec.terms[0].Z)]).fit()
    with pytest.raises(slm.ModelError, match="from arrays has no factors"):
        arrays.emmeans("Machine")
    rng = np.random.default_rng(1)
    table = pd.DataFrame({f"f{j}": rng.integers(0, 9, 300).astype(str) for j in range(8)})
    table = table.assign(y=rng.normal(size=300), g=rng.integers(0, 9, 300))
    fit = slm.lmm(f"y ~ {' + '.join(f'f{j}' for j in range(8))} + (1 | g)", table)
    with pytest.raises(slm.ModelError, match=r"the reference grid has 43,046,721 rows \(f0 9, f1 9"):
        fit.emmeans("f0")


def test_a_column_of_true_and_false_keeps_its_values():
    sleep = load_dataset("sleepstudy").assign(late=lambda t: t.Days > 4)
    fit = slm.lmm("Reaction ~ late + (1 | Subject)", sleep)
    table = fit.emmeans("late").table
    assert table.late.tolist() == [False, True]
    np.testing.assert_allclose(table.emmean, sleep.groupby("late").Reaction.mean(), rtol=EXACT)
    overall = fit.emmeans([]).table  # the mean of both, as R's ~ 1
    np.testing.assert_allclose(overall.emmean, table.emmean.mean(), rtol=EXACT)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"at": {"Days": []}}, r"'Days' needs a value or several, not \[\]"),
        ({"at": {"Days": [1.0, np.nan]}}, "'Days' needs a value or several"),
        ({"specs": 3}, "names of columns, one or several, not 3"),
        ({"by": [1]}, r"names of columns, one or several, not \[1\]"),
    ],
)
def test_what_is_no_grid_is_refused(arguments, message):
    fit = slm.lmm("Reaction ~ Days + (1 | Subject)", load_dataset("sleepstudy"))
    with pytest.raises(slm.ModelError, match=message):
        fit.emmeans(**({"specs": "Days"} | arguments))


def test_columns_called_as_those_of_the_tables():
    """Times are often `t`, which stood beside the statistic of the differences: an error of pandas."""
    rng = np.random.default_rng(1)
    table = pd.DataFrame(
        {"arm": np.tile(["a", "b"], 60), "t": np.tile(np.arange(6), 20), "g": np.repeat(np.arange(12), 10)}
    )
    table["df"], table["y"] = np.where(table["t"] % 2, "even", "odd"), rng.normal(size=120)
    renamed = table.rename(columns={"t": "time", "df": "kind"})
    fit, plain = slm.lmm("y ~ arm * t + df + (1 | g)", table), slm.lmm("y ~ arm * time + kind + (1 | g)", renamed)
    found, expected = fit.emmeans("arm", by="t", at={"t": [0, 5]}), plain.emmeans("arm", by="time", at={"time": [0, 5]})
    pd.testing.assert_frame_equal(found.pairs().rename(columns={"t_": "time"}), expected.pairs())
    pd.testing.assert_frame_equal(found.table.rename(columns={"t": "time"}), expected.table)
    assert fit.emmeans("df").table.columns.to_list() == ["df_", "emmean", "std_error", "df", "lower", "upper"]
