"""Likelihood-ratio tests against lme4's anova (tests/golden/make_inference.R); what is refused; the edge."""

import numpy as np
import pytest
from scipy import stats

import sparselmm as slm
from sparselmm.datasets import load_dataset
from sparselmm.inference.compare import by_ml
from tests import golden
from tests.inference.test_tests import obk

DEVIANCE_RTOL = 1e-9  # both searches end where the criterion is flat
CHISQ_ATOL = 1e-5  # a difference of two deviances of size 1e3, each to 1e-9
EXACT = 1e-12  # the same formula


@pytest.fixture(scope="module")
def sleep():
    return load_dataset("sleepstudy")


@pytest.fixture(scope="module")
def fits(sleep):
    bars = {"one": "(1 | Subject)", "two": "(Days | Subject)", "both": "(Days || Subject)"}
    return {name: slm.lmm(f"Reaction ~ Days + {bar}", sleep) for name, bar in bars.items()}


def test_the_table_is_that_of_lme4():
    """REML fits, refitted by ML. lme4 tests by chi2(df); its p values are those of the reference's last part."""
    ref = golden.inference()["comparison"]
    table = slm.compare(*(slm.lmm(f, obk(ref["dropped"])) for f in reversed(ref["formulas"])))
    assert list(table.index) == ref["formulas"] and list(table.n_params) == ref["n_params"]
    for column in ("loglik", "deviance", "aic", "bic"):
        np.testing.assert_allclose(table[column], ref[column], rtol=DEVIANCE_RTOL)
    np.testing.assert_allclose(table.chisq[1:], ref["chisq"][1:], atol=CHISQ_ATOL)
    assert list(table.df[1:]) == ref["df"][1:]
    np.testing.assert_allclose(stats.chi2.sf(table.chisq[1:], ref["df"][1:]), ref["p_value"][1:], rtol=CHISQ_ATOL)
    assert table.p_value.iloc[1] == pytest.approx(ref["p_value"][1], rel=CHISQ_ATOL)
    assert table.checked.iloc[0] == "same rows and response; fitted again by ML"


def test_a_variance_at_the_edge_has_a_mixture(fits, sleep):
    """Stram & Lee (1994): one more effect beside r others, 0.5 chi2(r) + 0.5 chi2(r+1)."""
    row = slm.compare(fits["one"], fits["two"]).iloc[1]
    assert row.reference == "0.5 chi2(1) + 0.5 chi2(2)" and row.df == 2
    expected = 0.5 * stats.chi2.sf(row.chisq, 1) + 0.5 * stats.chi2.sf(row.chisq, 2)
    assert row.p_value == pytest.approx(expected, rel=EXACT)
    none = slm.lmm("Reaction ~ Days", sleep)
    row = slm.compare(none, fits["one"]).iloc[1]
    assert row.reference == "0.5 chi2(0) + 0.5 chi2(1)"
    assert row.p_value == pytest.approx(0.5 * stats.chi2.sf(row.chisq, 1), rel=EXACT)
    row = slm.compare(slm.lmm("Reaction ~ 1", sleep), fits["one"]).iloc[1]
    assert row.reference == "0.5 chi2(1) + 0.5 chi2(2)"
    assert slm.compare(fits["both"], fits["two"]).reference.iloc[1] == "chi2(1)"  # a correlation is no edge
    assert slm.compare(none, fits["two"]).reference.iloc[1] == "chi2(3), conservative: variances at the edge"


def test_a_variance_of_zero_has_p_one():
    dye = load_dataset("Dyestuff2")  # lme4: the variance of batches is estimated as zero
    row = slm.compare(slm.lmm("Yield ~ 1", dye), slm.lmm("Yield ~ 1 + (1 | Batch)", dye)).iloc[1]
    assert row.chisq == pytest.approx(0.0, abs=1e-10) and row.p_value > 0.5


def test_reml_criteria_of_one_fixed_part_can_be_compared(fits, sleep):
    row = slm.compare(fits["one"], fits["two"], refit=False).iloc[1]
    assert row.chisq == pytest.approx(fits["one"].deviance - fits["two"].deviance, rel=EXACT)
    moved = slm.lmm("Reaction ~ I(Days + 2) + (Days | Subject)", sleep)  # another basis of the same space
    assert slm.compare(fits["one"], moved, refit=False).checked.iloc[1].startswith("same fixed part")
    with pytest.raises(slm.ModelError, match="different fixed effects: their REML criteria"):
        slm.compare(slm.lmm("Reaction ~ 1 + (1 | Subject)", sleep), fits["one"], refit=False)
    with pytest.raises(slm.ModelError, match="some fits are by REML and some by ML"):
        slm.compare(by_ml(fits["one"]), fits["two"], refit=False)


def test_refitting_is_fitting_by_ml(fits, sleep):
    again, fresh = by_ml(fits["two"]), slm.lmm("Reaction ~ Days + (Days | Subject)", sleep, reml=False)
    assert again.deviance == pytest.approx(fresh.deviance, rel=DEVIANCE_RTOL) and not again.reml
    assert by_ml(fresh) is fresh and fits["two"].reml


def test_models_that_are_not_nested(fits, sleep):
    table = sleep.assign(z=np.sin(np.arange(180.0)), other=np.roll(sleep.Subject.to_numpy(), 7))
    x, z = (slm.lmm(f"Reaction ~ {v} + (1 | Subject)", table) for v in ("Days", "z"))
    wide = slm.lmm("Reaction ~ z + I(z**2) + (1 | Subject)", table)
    with pytest.raises(slm.ModelError, match="have 4 parameters each"):
        slm.compare(x, z)
    with pytest.raises(slm.ModelError, match="is not nested in .* its fixed effects span columns"):
        slm.compare(x, wide)
    out = slm.compare(x, wide, test=False)
    assert list(out.columns) == ["n_params", "loglik", "deviance", "aic", "bic"] and len(out) == 2
    other = slm.lmm("Reaction ~ Days + (Days | other)", table)
    with pytest.raises(slm.ModelError, match=r"the larger model has no sd_Intercept\|Subject"):
        slm.compare(x, other)
    regrouped = slm.lmm("Reaction ~ Days + (Days | Subject)", table.assign(Subject=table.other))
    with pytest.raises(slm.ModelError, match=r"has other groups, covariates or precisions in \(1 \| Subject\)"):
        slm.compare(x, regrouped)


def test_values_that_are_held(sleep):
    """A standard deviation held above zero is inside its space: chi-squared, no mixture."""
    free, formula = (
        slm.lmm("Reaction ~ Days + (Days | Subject)", sleep, reml=False),
        "Reaction ~ Days {}+ (Days | Subject)",
    )

    def held(value, more=""):
        return slm.lmm(formula.format(more), sleep, reml=False, fixed={"sd_Intercept|Subject": value})

    row = slm.compare(held(20.0), free).iloc[1]
    assert row.reference == "chi2(1)"
    assert row.p_value == pytest.approx(stats.chi2.sf(held(20.0).deviance - free.deviance, 1), rel=EXACT)
    assert slm.compare(held(20.0), held(20.0, "+ I(Days**2) ")).checked.iloc[1].endswith("same random part")
    with pytest.raises(slm.ModelError, match=r"the larger model holds sd_Intercept\|Subject = 30"):
        slm.compare(held(20.0), held(30.0, "+ I(Days**2) "))
    absent = slm.lmm("Reaction ~ 1 + (0 + Days | Subject)", sleep, reml=False)
    with pytest.raises(slm.ModelError, match=r"the larger model holds sd_Intercept\|Subject = 30"):
        slm.compare(absent, held(30.0))
    line, at_zero = "Reaction ~ Days + (1 | Subject)", {"sd_Intercept|Subject": 0.0}
    row = slm.compare(*(slm.lmm(line, sleep, reml=False, fixed=held) for held in (at_zero, None))).iloc[1]
    assert row.reference == "0.5 chi2(0) + 0.5 chi2(1)"


def test_terms_of_one_name_that_differ(sleep):
    """Other precisions, covariates and series behind the same names of parameters are no nested models."""
    levels = list(sleep.Subject.unique())
    one, two = (slm.Known(np.eye(18) + c, kind="covariance", levels=levels) for c in (0.3, 0.6))
    related = [
        slm.lmm(f"Reaction ~ {x} + known(1 | Subject, Q)", sleep, context={"Q": Q})
        for x, Q in (("1", one), ("Days", two))
    ]
    with pytest.raises(slm.ModelError, match="has other groups, covariates or precisions in known"):
        slm.compare(*related)
    sloped = [slm.lmm(f"Reaction ~ {x} + (0 + z | Subject)", sleep.assign(z=z)) for x, z in
              (("1", sleep.Days + 1.0), ("Days", np.sqrt(sleep.Days + 1.0)))]  # fmt: skip
    with pytest.raises(slm.ModelError, match=r"has other groups, covariates or precisions in \(0 \+ z \| Subject\)"):
        slm.compare(*sloped)
    table = sleep.assign(half=sleep.Days % 5, block=sleep.Subject.astype(str) + "-" + (sleep.Days // 5).astype(str))
    serial = [
        slm.lmm(f"Reaction ~ {x} + (1 | Subject)", table, residual=r)
        for x, r in (("1", "ar1(Days | Subject)"), ("Days", "ar1(half | block)"))
    ]
    with pytest.raises(slm.ModelError, match=r"has no residual ar1\(Days \| Subject\)"):
        slm.compare(*serial)


def test_weights_of_one_are_none(fits, sleep):
    one = slm.lmm("Reaction ~ Days + (1 | Subject)", sleep, weights=np.ones(180), offset=np.zeros(180))
    plain = slm.compare(fits["one"], fits["two"]).iloc[1]
    assert slm.compare(one, fits["two"]).chisq.iloc[1] == pytest.approx(plain.chisq, abs=CHISQ_ATOL)


def test_other_rows_and_responses(fits, sleep):
    short = sleep.copy()
    short.loc[[3, 9], "Days"] = np.nan
    with pytest.raises(slm.ModelError, match=r"differ in their rows \(180 and 178, 0 and 2 dropped"):
        slm.compare(fits["one"], slm.lmm("Reaction ~ Days + (Days | Subject)", short))
    with pytest.raises(slm.ModelError, match="differ in their response"):
        slm.compare(fits["one"], slm.lmm("log(Reaction) ~ Days + (Days | Subject)", sleep))
    weighted = slm.lmm("Reaction ~ Days + (Days | Subject)", sleep, weights=1.0 + np.arange(180) % 2)
    with pytest.raises(slm.ModelError, match="differ in their weights"):
        slm.compare(fits["one"], weighted)
    with pytest.raises(slm.ModelError, match="two fits or more"):
        slm.compare(fits["one"])


def test_equal_formulas_are_numbered(fits, sleep):
    free = fits["two"]
    held = slm.lmm("Reaction ~ Days + (Days | Subject)", sleep, fixed={"cor_Intercept.Days|Subject": 0.0})
    table = slm.compare(free, held)
    assert [name[-3:] for name in table.index] == ["[1]", "[2]"]
    assert table.chisq.iloc[1] == pytest.approx(by_ml(held).deviance - by_ml(free).deviance, rel=EXACT)
