"""Reference fits with correlated residuals or several residual variances, from nlme (see tests/golden/PROVENANCE.md).

nlme's corAR1() counts rows within the group, so that each data set gets its column of occasions here.
"""

from functools import cache

import numpy as np
import pandas as pd
import pytest

import sparselmm as slm
from sparselmm.optimize import Options
from tests import golden
from tests.test_golden import COR_ATOL, FIXEF_RTOL, LOGLIK_LOSS, SD_RTOL, close, r_name

MOST_ITERATIONS = 12  # a singular fit with correlated residuals takes more than an ordinary one
INFORMATION_RTOL = 1e-4  # second differences of the criterion, error 1e-6 each way
HELD_RTOL = 1e-9  # the criterion at the optimum: with every variance parameter held at its estimate, or of others

FITS = {f["id"]: f for f in golden.fits() if any(n.startswith("residual-") for n in f["needs"])}
RESIDUALS = {
    "bodyweight_car1": "ou(Time | Rat)",
    "orth_hetar1": "ar1((age - 8) / 2 | Subject) * varident(age)",
    "orth_varident": "varident(Sex)",
    "ovary_diag_ar1": "ar1(occasion | Mare)",
    "ovary_gls_ar1": "ar1(occasion | Mare)",
    "ovary_int_ar1": "ar1(occasion | Mare)",
    "oxide_varident": "varident(Source)",
    "sleep_us_ar1": "ar1(Days | Subject)",
}
every = pytest.mark.parametrize("fit_id", FITS)


def residual(fit_id):
    return RESIDUALS[fit_id.rsplit("_", 1)[0]]


@cache
def data(dataset):
    table = golden.load(dataset)
    if dataset == "nlme_Ovary":
        table = table.assign(occasion=table.groupby("Mare", observed=True).cumcount())
    return table.sample(frac=1.0, random_state=1)


@cache
def fitted(fit_id):
    ref = FITS[fit_id]
    model = slm.LinearMixedModel(ref["formula"], data(ref["dataset"]), residual=residual(fit_id))
    return model.fit(reml=ref["REML"], options=Options(fallback=False))


def test_all_are_here():
    assert {fit_id.rsplit("_", 1)[0] for fit_id in FITS} == set(RESIDUALS)
    assert len(FITS) == 2 * len(RESIDUALS)


@every
def test_loglik_and_facts(fit_id):
    ref, fit = FITS[fit_id], fitted(fit_id)
    assert fit.loglik >= ref["loglik"] - LOGLIK_LOSS * abs(ref["loglik"])
    close([fit.loglik, fit.aic, fit.bic], [ref["loglik"], ref["AIC"], ref["BIC"]], LOGLIK_LOSS)
    assert fit.converged
    assert fit.n_iter <= MOST_ITERATIONS
    assert (fit.nobs, fit.n_params) == (ref["n"], ref["npar"])
    assert fit.is_singular == fit_id.startswith("sleep_us_ar1")


@every
def test_fixed_effects_and_sigma(fit_id):
    ref, fit = FITS[fit_id], fitted(fit_id)
    names = [r_name(name) for name in fit.fixef.index]
    se = np.array([ref["se"][name] for name in names])
    close(fit.fixef, [ref["fixef"][name] for name in names], FIXEF_RTOL, scale=se)
    close(fit.fixef_se, se, FIXEF_RTOL)
    close(fit.sigma, ref["sigma"], FIXEF_RTOL)


@every
def test_random_effects(fit_id):
    ref, fit = FITS[fit_id]["params"], fitted(fit_id)
    sds = [ref[key] for key in ("wafer_sd", "lot_sd") if key in ref]
    sds = sds or ref.get("re_sd", []) or ref.get("re", {}).get("sd", [])
    cors = [ref["re"]["corr"]] if "re" in ref else []
    varpar = fit.varpar
    ours = varpar[varpar.index.str.startswith("sd_")]
    close(ours if "lot_sd" not in ref else ours[::-1], sds, SD_RTOL)
    np.testing.assert_allclose(varpar[varpar.index.str.startswith("cor_")], cors, rtol=0, atol=COR_ATOL)


@every
def test_residual_parameters(fit_id):
    ref, fit = FITS[fit_id]["params"], fitted(fit_id)
    varpar = fit.varpar
    if "ar1_phi" in ref:
        assert varpar["rho_residual"] == pytest.approx(ref["ar1_phi"], abs=COR_ATOL)
    if "car1_phi" in ref:
        assert np.exp(-varpar["kappa_residual"]) == pytest.approx(ref["car1_phi"], abs=COR_ATOL)
    sds = ref.get("sd") or [value for key, value in ref.items() if key.startswith("resid_sd_")]
    ratios = varpar[varpar.index.str.startswith("ratio_")]
    if sds:
        close(fit.sigma * np.append(1.0, ratios), sds, SD_RTOL)
    assert len(ratios) == max(0, len(sds) - 1)


@pytest.mark.parametrize("fit_id", ["ovary_int_ar1_REML", "orth_hetar1_ML", "bodyweight_car1_REML", "orth_varident_ML"])
def test_held_at_the_estimates(fit_id):
    """All of varpar held solves the equations once; one of them held leaves the rest where they were."""
    ref, fit = FITS[fit_id], fitted(fit_id)
    given = {"data": data(ref["dataset"]), "reml": ref["REML"], "residual": residual(fit_id)}
    all_held = slm.lmm(ref["formula"], **given, fixed=dict(fit.varpar))
    assert all_held.method == "held"
    assert all_held.deviance == pytest.approx(fit.deviance, rel=HELD_RTOL)
    last = fit.varpar.index[-2]
    one_held = slm.lmm(ref["formula"], **given, fixed={last: fit.varpar[last]})
    assert one_held.deviance == pytest.approx(fit.deviance, rel=HELD_RTOL)
    close(one_held.varpar, fit.varpar, SD_RTOL)
    assert np.isnan(one_held.varpar_se[last])


@pytest.mark.parametrize(("reml", "loglik"), [(True, -212.273400097208), (False, -209.73852405497)])
def test_unstructured_visits_of_orthodont(reml, loglik):
    """nlme 3.1-162, gls with corSymm(form = ~ 1 | Subject) and varIdent(form = ~ 1 | age), polished by Newton steps."""
    fit = slm.lmm("distance ~ I(age - 11) * Sex", data("nlme_Orthodont"), residual="us(age | Subject)", reml=reml)
    assert fit.converged and fit.loglik == pytest.approx(loglik, rel=HELD_RTOL)


def test_dense_engine_finds_the_same():
    ref = FITS["orth_hetar1_REML"]
    fit = slm.lmm(ref["formula"], data(ref["dataset"]), residual=residual("orth_hetar1_REML"), engine="dense")
    close([fit.loglik], [ref["loglik"]], LOGLIK_LOSS)


def test_standard_errors_of_parameters():
    """Of rho from the second difference of the profile deviance, as nlme's intervals()."""
    fit = fitted("ovary_gls_ar1_ML")
    rho, se = fit.varpar["rho_residual"], fit.varpar_se["rho_residual"]
    low, here, high = (fit.likelihood(np.arctanh([rho + h]), reml=False).deviance for h in (-1e-3, 0.0, 1e-3))
    assert se == pytest.approx(np.sqrt(2 / ((high - 2 * here + low) / 1e-6)), rel=INFORMATION_RTOL)


def test_report():
    fit = fitted("orth_hetar1_REML")
    text = fit.summary()
    assert "Residuals ar1((age - 8) / 2 | Subject) * varident(age): rho_residual 0.63326, ratio_10|residual" in text
    described = slm.LinearMixedModel("distance ~ age", data("nlme_Orthodont"), residual="varident(Sex)").describe()
    assert "residuals varident(Sex): 1 parameter" in described
    rows = fit.tidy().query("effect == 'ran_pars'")
    assert set(rows.group) == {"Residual"}
    assert list(rows.term) == ["rho_residual", "ratio_10", "ratio_12", "ratio_14", "sigma"]
    assert fit.varcorr.group.tolist() == ["Residual"]
    np.testing.assert_array_equal(fit.resid, fit.spec.y - fit.fitted)


def test_scaled_residuals_are_of_the_stratum():
    fit = fitted("orth_varident_REML")
    scale = np.where(data("nlme_Orthodont").Sex == "Male", 1.0, fit.varpar["ratio_Female|residual"])
    lowest = (fit.resid / (fit.sigma * scale)).min()
    assert f"Min {lowest:.4g}" in fit.summary()


def test_rows_that_lack_a_time_or_a_stratum_are_dropped():
    table = data("nlme_Orthodont").assign(occasion=lambda d: (d.age - 8) / 2).reset_index(drop=True)
    table.loc[3, "occasion"] = np.nan
    table["sex"] = table.Sex.astype(object).where(table.index != 7, None)
    fit = slm.lmm("distance ~ age", table, residual="ar1(occasion | Subject) * varident(sex)")
    assert (fit.nobs, fit.spec.n_dropped) == (106, 2)
    complete = table.drop(index=[3, 7])
    assert isinstance(complete, pd.DataFrame)
    same = slm.lmm("distance ~ age", complete, residual="ar1(occasion | Subject) * varident(sex)")
    assert fit.deviance == same.deviance


@pytest.mark.parametrize("unit", [2, 1440, 86_400])
def test_steps_that_are_far_apart(unit):
    """Days counted in minutes or seconds: rho = 0.5 is no correlation there, where the search stayed, 21 above.

    The criterion is that of steps of one, and the correlation its root. An even number of steps hides the sign.
    """
    rng = np.random.default_rng(4)
    g, t = np.repeat(np.arange(12), 10), np.tile(np.arange(10), 12)
    e = rng.normal(size=120)
    for k in np.flatnonzero(t):
        e[k] = 0.8 * e[k - 1] + 0.6 * e[k]
    table = pd.DataFrame({"y": e, "g": g, "t": t})
    plain, apart = (slm.lmm("y ~ 1", table.assign(t=t * c), residual="ar1(t | g)") for c in (1, unit))
    assert apart.deviance == pytest.approx(plain.deviance, abs=1e-6)  # 1 - rho = 1e-6 cancels
    assert apart.varpar["rho_residual"] == pytest.approx(plain.varpar["rho_residual"] ** (1 / unit), rel=1e-6)
