"""The table of fixed effects, against lmerTest and pbkrtest (golden), closed forms, and what the summary says."""

import numpy as np
import pytest
from scipy import stats

import sparselmm as slm
from sparselmm.datasets import load_dataset
from sparselmm.inference import ddf
from tests.test_golden import FITS, fitted, r_name

RTOL = {"estimate": 1e-5, "std_error": 1e-5, "df": 1e-3, "t": 1e-4}  # agreed for the collection; t is a ratio of two
P_RTOL = 2e-2  # a p value of 1e-17 changes by this where df changes by 1e-3
R_NAMES = {"estimate": "est", "std_error": "se", "df": "df", "t": "t"}


@pytest.mark.parametrize("fit_id", ["sleep_us_REML", "beets_REML", "cake_ord_REML", "grouse_ML", "orth_us_REML"])
@pytest.mark.parametrize("key", ["satterthwaite", "kenward_roger"])
def test_the_table_is_that_of_lmertest(fit_id, key):
    ref = FITS[fit_id].get(key)
    if ref is None:
        assert key == "kenward_roger" and not FITS[fit_id]["REML"]
        return
    table = fitted(fit_id).coef_table(key.replace("_", "-"))
    rows = [ref[r_name(name)] for name in table.index]
    for column, name in R_NAMES.items():
        np.testing.assert_allclose(table[column], [r[name] for r in rows], rtol=RTOL[column])
    np.testing.assert_allclose(table.p_value, [r["p"] for r in rows], rtol=P_RTOL)


def test_wald_is_the_normal_distribution():
    fit = fitted("sleep_us_REML")
    table = fit.coef_table("wald")
    assert list(table.columns) == ["estimate", "std_error", "df", "z", "p_value"] and np.isinf(table.df).all()
    np.testing.assert_array_equal(table.z, fit.fixef / fit.fixef_se)
    np.testing.assert_allclose(table.p_value, 2 * stats.norm.sf(np.abs(table.z)), rtol=1e-12)  # one function twice


def test_a_dropped_column_has_a_row_without_numbers():
    table = load_dataset("sleepstudy").assign(twice=lambda t: 2 * t.Days)
    out = slm.lmm("Reaction ~ Days + twice + (1 | Subject)", table).coef_table()
    assert list(out.index) == ["Intercept", "Days", "twice"]
    assert out.loc["twice"].isna().all() and out.loc["Days"].notna().all()


def test_the_summary_says_which_method(monkeypatch):
    sleep, formula = load_dataset("sleepstudy"), "Reaction ~ Days + (Days | Subject)"
    fit = slm.lmm(formula, sleep)
    assert "\nFixed effects (Satterthwaite's degrees of freedom):\n" in fit.summary()
    monkeypatch.setattr(ddf, "AFFORDABLE", 0.0)
    text = fit.summary()
    assert "\nFixed effects (Wald tests, normal distribution):\n" in text
    assert "z value" in text and "t value" not in text and " df " not in text


def test_known_variances_are_tested_by_the_normal_distribution():
    sleep, formula = load_dataset("sleepstudy"), "Reaction ~ Days + (1 | Subject)"
    held = slm.lmm(formula, sleep, fixed={"sd_Intercept|Subject": 30.0, "sigma": 30.0})
    assert "z" in held.coef_table() and "Wald tests" in held.summary()
    partly = slm.lmm(formula, sleep, fixed={"sigma": 30.0})
    assert "t" in partly.coef_table() and "Satterthwaite" in partly.summary()


def test_a_search_that_did_not_end_has_no_information_to_take():
    from sparselmm.optimize import Options

    model = slm.LinearMixedModel("Reaction ~ Days + (Days | Subject)", load_dataset("sleepstudy"))
    with pytest.warns(slm.SparselmmWarning):
        fit = model.fit(start=np.array([9.0, 9.0, 9.0]), options=Options(max_iter=1, fallback=False))
    assert not fit.converged and "Wald tests" in fit.summary()
