"""The table of fixed effects, against lmerTest and pbkrtest (golden), closed forms, and what the summary says."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import sparselmm as slm
from sparselmm.datasets import load_dataset
from sparselmm.inference import ddf
from tests.test_golden import FITS, fitted, r_name

RTOL = {"estimate": 1e-5, "std_error": 1e-5, "df": 1e-3, "t": 1e-4}  # agreed for the collection; t is a ratio of two
SPARSE_RTOL = 1e-5  # two searches
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


def test_sparse_fixed_effects_are_tested_alike_and_refuse_what_needs_dense_ones():
    """A factor of 120 levels makes sparse columns; the same X given dense is the same model."""
    rng = np.random.default_rng(0)
    n, f = 1200, np.arange(1200) % 120
    table = pd.DataFrame({"g": rng.integers(0, 30, n), "f": f.astype(str), "x": rng.normal(size=n)})
    table["y"] = table.x + 0.1 * f + rng.normal(size=30)[table.g] + rng.normal(size=n)
    fit = slm.lmm("y ~ x + f + (1 | g)", table)
    assert fit.spec.S is not None
    arrays = slm.LinearMixedModel.from_arrays(
        fit.spec.y, fit.spec.design.toarray(), [slm.RandomTerm(fit.spec.terms[0].Z)]
    )
    dense = arrays.fit()
    np.testing.assert_allclose(fit.coef_table(), dense.coef_table(), rtol=SPARSE_RTOL, atol=SPARSE_RTOL)
    L = np.eye(121)[2:5]
    np.testing.assert_allclose(fit.test(L), dense.test(L), rtol=SPARSE_RTOL)
    smaller = slm.lmm("y ~ x + (1 | g)", table)
    requests = [fit.anova, lambda: fit.emmeans("f"), lambda: slm.compare(smaller, fit)]
    for request in [*requests, lambda: fit.coef_table("kenward-roger")]:
        with pytest.raises(slm.ModelError, match="dense fixed effects|sparse fixed effects"):
            request()
    assert len(slm.compare(smaller, fit, test=False)) == 2
    assert fit.caic == pytest.approx(dense.caic, rel=SPARSE_RTOL)
