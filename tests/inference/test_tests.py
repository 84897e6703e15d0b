"""F tests of terms and contrasts, against lmerTest and pbkrtest (tests/golden/make_inference.R, and the collection)."""

import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import sparselmm as slm
from sparselmm.datasets import load_dataset
from sparselmm.formula import build_spec
from sparselmm.formula.coding import read_coding
from sparselmm.inference.hypotheses import term_hypotheses
from tests import golden
from tests.test_golden import FITS, fitted, r_name

RTOL = 1e-3  # degrees of freedom, as agreed for the collection; lmerTest takes numerical derivatives
F_RTOL = 1e-4  # lme4's theta, known to 1e-5
DEVIANCE_RTOL = 1e-9  # both searches end where the criterion is flat
P_RTOL = 1e-2  # follows F and the degrees of freedom
EXACT = 1e-10  # linear algebra on numbers of order one

MODELS = {m["id"]: m for m in golden.inference()["models"]}
ANOVA = {"anova1_satterthwaite": 1, "anova3_satterthwaite": 3, "anova3_kr": 3}


def obk(dropped):
    """The rows of make_inference.R."""
    table = golden.load("afex_obk.long")
    table = table.assign(hr=table.hour.astype(float), w=1.0 + np.arange(len(table)) % 3)
    return table.drop(index=[i - 1 for i in dropped]).reset_index(drop=True)


def fit_of(model):
    return slm.lmm(model.get("python", model["formula"]), obk(model["dropped"]), weights=model.get("weights"))


def term(name):
    """`C(treatment, contr.sum):phase` -> {"treatment", "phase"}: R and formulaic order interactions differently."""
    return frozenset(re.sub(r"C\((\w+), contr\.sum\)", r"\1", name).replace(" ** ", "^").replace("**", "^").split(":"))


@pytest.mark.parametrize(("model", "which"), [(m, i) for m in MODELS for i in range(len(MODELS[m]["anova"]))])
def test_anova_is_that_of_lmertest(model, which):
    ref = MODELS[model]["anova"][which]
    fit = fit_of(MODELS[model])
    assert fit.deviance == pytest.approx(MODELS[model]["deviance"], rel=DEVIANCE_RTOL)
    table = fit.anova(ref["type"], ddf=ref["ddf"])
    rows = {term(r["term"]): r for r in ref["rows"]}
    rows = [rows.pop(term(str(n))) for n in table.index]
    for column, tolerance in {
        "sum_sq": F_RTOL,
        "mean_sq": F_RTOL,
        "den_df": RTOL,
        "F": F_RTOL,
        "p_value": P_RTOL,
    }.items():
        np.testing.assert_allclose(table[column], [r[column] for r in rows], rtol=tolerance, err_msg=column)
    assert list(table.num_df) == [r["num_df"] for r in rows] and len(rows) == len(ref["rows"])


@pytest.mark.parametrize(("fit_id", "key"), [(i, k) for i, ref in FITS.items() for k in ANOVA if ref.get(k)])
def test_anova_of_the_collection(fit_id, key):
    ref, ddf = FITS[fit_id][key], "kenward-roger" if key == "anova3_kr" else "satterthwaite"
    table = fitted(fit_id).anova(ANOVA[key], ddf=ddf)
    rows = [ref[r_name(str(n))] for n in table.index]
    assert len(rows) == len(ref)
    columns = {"sum_sq": "SS", "mean_sq": "MS", "num_df": "NumDF", "den_df": "DenDF", "F": "F"}
    for column, name in columns.items():
        np.testing.assert_allclose(table[column], [r[name] for r in rows], rtol=RTOL if column == "den_df" else F_RTOL)


@pytest.fixture(scope="module")
def contrasts():
    ref = golden.inference()["contrasts"]
    return ref, fit_of(ref)


@pytest.mark.parametrize("which", [0, 1])
def test_contrasts_are_those_of_lmertest(contrasts, which):
    ref, fit = contrasts
    L, expected = np.array(ref["L"]), ref["tests"][which]
    for rhs, key in ((0.0, "zero"), (expected["rhs"], "shifted")):
        row = fit.test(L, rhs, ddf=expected["ddf"]).iloc[0]
        other = expected[key][0]
        np.testing.assert_allclose([row.F, row.num_df], [other["F"], other["num_df"]], rtol=F_RTOL)
        np.testing.assert_allclose(row.den_df, other["den_df"], rtol=RTOL)
        np.testing.assert_allclose(row.p_value, other["p_value"], rtol=P_RTOL)
    table = fit.test(L, joint=False, ddf=expected["ddf"])
    tolerances = {"estimate": F_RTOL, "std_error": F_RTOL, "df": RTOL, "t": RTOL, "lower": RTOL, "upper": RTOL}
    for column, tolerance in tolerances.items():
        np.testing.assert_allclose(table[column], [r[column] for r in expected["one"]], rtol=tolerance)


def test_the_same_contrast_in_three_ways(contrasts):
    _, fit = contrasts
    names = list(fit.fixef.index)
    weights = {names[1]: 1.0, names[2]: -1.0}
    vector = [weights.get(n, 0.0) for n in names]
    table = pd.DataFrame([weights], index=["A - B"])
    first, second, third = (fit.test(L, joint=False).to_numpy() for L in (weights, vector, table))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, third)
    assert fit.test(weights, joint=False).index[0] == "treatment[T.A] - treatment[T.B]"
    assert fit.test(table, joint=False).index[0] == "A - B"
    t, F = fit.test(weights, joint=False).iloc[0], fit.test(weights).iloc[0]
    np.testing.assert_allclose([t.t**2, t.df, t.p_value], [F.F, F.den_df, F.p_value], rtol=EXACT)


def test_a_right_side_and_its_interval(contrasts):
    _, fit = contrasts
    row = fit.test({"gender[T.M]": 1.0}, 0.5, joint=False, level=0.9).iloc[0]
    assert row.estimate == fit.fixef["gender[T.M]"] and row.t == pytest.approx((row.estimate - 0.5) / row.std_error)
    half = stats.t.ppf(0.95, row.df) * row.std_error
    assert row.lower == pytest.approx(row.estimate - half) and row.upper == pytest.approx(row.estimate + half)


def test_wald_is_chi_squared(contrasts):
    _, fit = contrasts
    L = np.eye(len(fit.fixef))[1:4]
    row, beta = fit.test(L, ddf="wald").iloc[0], L @ fit.fixef.to_numpy()
    chi2 = beta @ np.linalg.solve(L @ fit.vcov.to_numpy() @ L.T, beta)
    np.testing.assert_allclose([row.F * 3, row.p_value], [chi2, stats.chi2.sf(chi2, 3)], rtol=EXACT)


def test_type_three_does_not_depend_on_the_contrasts():
    """lmerTest's own promise, for codings that its numbers above do not have."""
    table = obk(MODELS["three factors"]["dropped"])
    codes = ["{}", "C({}, contr.helmert)", "C({}, contr.poly)", 'C({}, contr.treatment("{}"))']
    last = {"treatment": "B", "phase": "pre"}
    found = []
    for code in codes:
        a, b = (code.format(n, last[n]) for n in ("treatment", "phase"))
        found.append(slm.lmm(f"value ~ {a} * {b} + age + (1 | id)", table).anova(3, ddf="kenward-roger"))
    for other in found[1:]:
        np.testing.assert_allclose(other.to_numpy(), found[0].to_numpy(), rtol=1e-6)  # four searches for one optimum


def test_type_three_is_the_marginal_test_of_sum_contrasts():
    """Where every cell occurs: Yates's hypotheses are that the sum-contrast coefficients are zero."""
    table = obk(MODELS["three factors"]["dropped"])
    a, b = "C(treatment, contr.sum)", "C(phase, contr.sum)"
    fit = slm.lmm(f"value ~ {a} * {b} + (1 | id)", table)
    for name, L in term_hypotheses(fit, 3).items():
        own = np.array(
            [
                n.count(":") == name.count(":") and n != "Intercept" and n.startswith(name.split(":")[0])
                for n in fit.fixef.index
            ]
        )
        assert np.linalg.matrix_rank(np.vstack([L, np.eye(len(own))[own]]), tol=1e-8) == own.sum() == len(L)


@pytest.mark.parametrize(
    "formula",
    [
        "score ~ C(Machine, contr.sum) * b + C(Worker, contr.poly) + (1 | Worker)",
        "score ~ x:Machine:b + Machine:x + poly(x, 2):Machine:b + poly(x, 2) + (1 | Worker)",
        "score ~ bs(x, df=4) * Machine + I(x**2):Machine + (1 | Worker)",
        "score ~ 0 + C(c, contr.helmert) + C(b, contr.diff):Machine + (1 | Worker)",
        "score ~ Machine * b * c + c:b:x + (1 | Worker)",
        "score ~ b:Machine + c:Machine + (1 | Worker)",
    ],
)
def test_columns_are_combinations_of_indicators(formula):
    """X = E C and E = X indicators, E made of the table by hand."""
    table = load_dataset("Machines").assign(x=np.sqrt(np.arange(54.0)), b=np.tile(["u", "v"], 27))
    table["c"] = np.repeat(["p", "q", "r"], 18)[np.random.default_rng(0).permutation(54)]
    spec = build_spec(formula, table)
    coding = read_coding(spec.encoding.fixed_design)
    E = np.hstack([indicators(term, table, spec) for term in coding.terms])
    np.testing.assert_allclose(E @ coding.C, spec.X, atol=1e-12)
    np.testing.assert_allclose(spec.X @ coding.indicators, E, atol=1e-12)
    assert np.concatenate([t.columns for t in coding.terms]).tolist() == list(range(spec.X.shape[1]))


def indicators(term, table, spec):
    """Products of indicators and numeric columns of a term, the first factor's levels fastest."""
    out = np.ones((len(table), 1))
    state = spec.encoding.fixed_design.spec.encoder_state
    for factor in term.factors:
        if factor.numeric:
            columns = build_spec(f"score ~ 0 + {factor.name} + (1 | Worker)", table).X
        else:
            column = next(c for c in ("Machine", "Worker", "b", "c") if c in factor.name.replace("contr", ""))
            columns = np.array([[x == level for level in state[factor.name][1]["categories"]] for x in table[column]])
        out = (columns[:, :, None] * out[:, None, :]).reshape(len(table), -1)
    return out


def test_what_cannot_be_tested_has_no_numbers():
    table = load_dataset("sleepstudy").assign(twice=lambda t: 2 * t.Days)
    out = slm.lmm("Reaction ~ Days + twice + (1 | Subject)", table).anova()
    assert out.loc["twice", "num_df"] == 0 and np.isnan(out.loc["twice", "F"])
    assert slm.lmm("Reaction ~ 1 + (1 | Subject)", table).anova().empty


@pytest.mark.parametrize(
    ("L", "rhs", "message"),
    [
        ({"Dayz": 1.0}, 0.0, "no fixed effect 'Dayz' .* did you mean 'Days'"),
        ([1.0, 2.0, 3.0, 4.0], 0.0, r"L has shape \(4,\); a contrast has a weight for each of the 3 fixed effects"),
        (np.zeros((0, 3)), 0.0, "L has shape"),
        ([0.0, np.nan, 0.0], 0.0, "missing or infinite"),
        (["a", "b", "c"], 0.0, "are numbers"),
        ({"Intercept": 1.0}, [1.0, 2.0], r"rhs has shape \(2,\) for 1 contrasts"),
        ({"Days": 1.0}, 0.0, "'Days' cannot be estimated: twice depends linearly on the other columns"),
        ({"twice": 1.0}, 0.0, "'twice' cannot be estimated"),
        ([0.0, 0.0, 0.0], 0.0, "there is nothing to test"),
        ([[1.0, 0.0, 0.0], [2.0, 0.0, 0.0]], [0.0, 1.0], "right sides contradict"),
    ],
)
def test_bad_contrasts(L, rhs, message):
    table = load_dataset("sleepstudy").assign(twice=lambda t: 2 * t.Days)
    fit = slm.lmm("Reaction ~ Days + twice + (1 | Subject)", table)
    with pytest.raises(slm.ModelError, match=message):
        fit.test(L, rhs)


def test_an_estimable_combination_of_dropped_columns_can_be_tested():
    table = load_dataset("sleepstudy").assign(twice=lambda t: 2 * t.Days)
    fit, plain = (slm.lmm(f"Reaction ~ Days {more} + (1 | Subject)", table) for more in ("+ twice", ""))
    found = fit.test({"Days": 1.0, "twice": 2.0}, joint=False).iloc[0]
    expected = plain.test({"Days": 1.0}, joint=False).iloc[0]
    np.testing.assert_allclose(found, expected, rtol=1e-6)  # two searches


def test_bad_requests():
    fit = slm.lmm("Reaction ~ Days + (1 | Subject)", load_dataset("sleepstudy"))
    with pytest.raises(slm.ModelError, match=r"anova\(type=4\): one of 1, 2, 3"):
        fit.anova(4)
    with pytest.raises(slm.ModelError, match="level=95"):
        fit.test({"Days": 1.0}, joint=False, level=95)
    arrays = slm.LinearMixedModel.from_arrays(fit.spec.y, fit.spec.X, [slm.RandomTerm(fit.spec.terms[0].Z)]).fit()
    with pytest.raises(slm.ModelError, match="from arrays has no terms"):
        arrays.anova()
    assert arrays.test({"x1": 1.0}).F.iloc[0] == pytest.approx(fit.test({"Days": 1.0}).F.iloc[0], rel=1e-6)


@pytest.mark.parametrize(
    ("formula", "empty", "expected"),
    [
        ("treatment * phase", ["A", "B"], {
            "treatment": [2, 13.1766869, 2.1370497], "phase": [2, 164.94712, 38.608123],
            "treatment:phase": [2, 164.94712, 18.516938],
        }),
        ("age:hour", [], {"age:hour": [1, 151.493689411, 3.584519654]}),
    ],
)  # fmt: skip
def test_cells_without_rows_and_a_product_of_covariates(formula, empty, expected):
    """R: d <- subset(obk.long, !(treatment %in% c("A", "B") & phase == "post"))
    anova(lmerTest::lmer(value ~ treatment * phase + (1 | id), d), type = 3); and, with all rows,
    anova(lmerTest::lmer(value ~ age:hour + treatment + (1 | id), obk.long), type = 3)"""
    table = obk([]).astype({"hour": float})
    table = table[~(table.treatment.isin(empty) & (table.phase == "post"))]
    found = slm.lmm(f"value ~ {formula} + treatment + (1 | id)", table).anova(3).rename(index=str)
    for name, row in expected.items():
        np.testing.assert_allclose(found.loc[name, ["num_df", "den_df", "F"]].astype(float), row, rtol=RTOL)


def test_units_of_covariates_do_not_matter():
    """F is the same whatever the units; numbers of 1e8 and of 1e-8 side by side lost terms of type III."""
    table = obk(MODELS["three factors"]["dropped"])
    scaled = table.assign(age=1e8 * table.age, hr=1e-8 * table.hr)
    for which in (1, 2, 3):
        one, two = (slm.lmm("value ~ treatment * age * hr + (1 | id)", t).anova(which) for t in (table, scaled))
        np.testing.assert_allclose(two.F, one.F, rtol=F_RTOL)
        assert list(two.num_df) == list(one.num_df)


def test_arguments_of_another_kind():
    fit = slm.lmm("Reaction ~ Days + (1 | Subject)", load_dataset("sleepstudy"))
    for ask, message in {
        lambda: fit.coef_table(3): "ddf=3: one of 'satterthwaite'",
        lambda: fit.test({"Days": 1.0}, "a"): "the values of rhs are numbers, not 'a'",
        lambda: fit.test({"Days": 1.0}, joint=False, level="a"): "level='a': a number between 0 and 1",
        lambda: slm.compare(fit, "a"): "compare needs two fits or more",
        lambda: fit.variance_ratio(None): "None names no variance components; this model has Intercept|Subject",
    }.items():
        with pytest.raises(slm.ModelError, match=re.escape(message)):
            ask()


@pytest.mark.parametrize("unit", [1e-6, 99.0, 5e3, 1e6])
def test_an_f_test_does_not_depend_on_units(unit):
    """Variances of 1 and 1e-12: the second contrast was taken for a copy of the first, and F had one degree less."""
    rng = np.random.default_rng(0)
    d = pd.DataFrame({"x": rng.normal(size=100), "z": rng.normal(size=100), "g": np.repeat(np.arange(20), 5)})
    d["y"] = d["x"] + 0.3 * d["z"] + rng.normal(size=20)[d["g"]] + rng.normal(size=100)
    L = np.eye(3)[1:]
    for ddf in ("satterthwaite", "wald"):
        own, other = (slm.lmm("y ~ x + z + (1 | g)", t).test(L, ddf=ddf) for t in (d, d.assign(x=d["x"] * unit)))
        assert other["num_df"].tolist() == [2]
        np.testing.assert_allclose(other["F"], own["F"], rtol=1e-6)
        np.testing.assert_allclose(other["den_df"], own["den_df"], rtol=1e-3)  # of other contrasts, as in lmerTest
