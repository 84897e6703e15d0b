"""Missing cells, weights of each response, responses that cannot be fitted, models that take the sparse equations."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

import sparselmm as slm
from tests.many.references import ONE, golden, reference, responses, samples
from tests.many.test_general import CROSSED, SLOPE, ZERO
from tests.many.test_spectral import SD_RTOL, assert_agrees

LOGLIK_ATOL = 1e-7  # two searches for one optimum
DF_RTOL = 1e-3  # both by differences of exact scores, at two ends of a search
SE_RTOL = 1e-4  # standard errors follow the variances, which a flat criterion leaves this loose


def test_gaps_are_the_fit_of_the_rows_that_are_there():
    expected = reference("gap_fits")
    v = len(expected["loglik"])
    Y = responses()[:, :v].copy()
    for j, pattern in enumerate(golden()["pattern"]):
        Y[golden()["gaps"][pattern], j] = np.nan
    fits = slm.lmm_many(ONE, samples(), Y)
    assert_agrees(fits, expected)
    assert (fits.nobs == np.isfinite(Y).sum(axis=0)).all()


@pytest.mark.parametrize(("name", "formula"), [("weighted", ONE), ("slope_weighted", SLOPE)])
def test_weights_of_each_response_are_lme4s(name, formula):
    expected = reference(name)
    weights = np.array(golden()["weights"])
    fits = slm.lmm_many(formula, samples(), responses()[:, : len(weights)], weights=weights)
    assert_agrees(fits, expected)
    np.testing.assert_allclose(fits.varpar, expected["sdcor"][:, :-1], rtol=SD_RTOL, atol=ZERO)


def test_weights_and_gaps_together_are_the_single_fit():
    weights, Y = np.array(golden()["weights"])[:2], responses()[:, :2].copy()
    Y[[3, 100, 101], 1] = np.nan
    fits = slm.lmm_many(ONE, samples(), Y, weights=weights)
    single = slm.lmm("y" + ONE, samples().assign(y=Y[:, 1]), weights=weights[1])
    np.testing.assert_allclose(fits.loglik[1], single.loglik, atol=LOGLIK_ATOL)
    np.testing.assert_allclose(fits.fixef_se[1], single.fixef_se, rtol=SE_RTOL)


def test_weights_of_missing_cells_are_not_read():
    """The error about a weight of zero says to make its cell missing: then there is none."""
    weights, Y = np.array(golden()["weights"])[:2].copy(), responses()[:, :2].copy()
    Y[[3, 100], 1] = np.nan
    expected = slm.lmm_many(ONE, samples(), Y, weights=weights)
    weights[1, 3], weights[1, 100] = 0.0, np.nan
    found = slm.lmm_many(ONE, samples(), Y, weights=weights)
    for what in ("fixef", "fixef_se", "fixef_df", "varpar", "loglik"):
        np.testing.assert_array_equal(getattr(found, what), getattr(expected, what))
    weights[0, 3] = 0.0
    with pytest.raises(slm.DataError, match="drop such cells by a missing value in Y"):
        slm.lmm_many(ONE, samples(), Y, weights=weights)


def spoilt(Y):
    """Responses of which seven cannot be fitted, or not as they are, and why."""
    Y = Y.copy()
    Y[:, 1], Y[:, 2], Y[3, 3], Y[9, 4] = 7.0, np.nan, np.inf, np.nan
    Y[:, 5] = 2.0 * samples()["age"] - 1.0
    Y[4:, 6] = np.nan
    Y[:, 7] *= 1e200
    Y[:, 8] *= 1e-200
    reasons = {1: "constant", 2: "missing", 3: "infinite", 5: "exactly", 6: "one level", 7: "unit", 8: "unit"}
    return Y, reasons


@pytest.mark.parametrize("formula", [ONE, CROSSED])
def test_a_bad_response_has_a_reason_and_changes_no_other_by_a_bit(formula):
    Y, reasons = spoilt(responses())
    good, fits = slm.lmm_many(formula, samples(), responses()), slm.lmm_many(formula, samples(), Y)
    for j, reason in reasons.items():
        assert reason in fits.reason[j]
        assert np.isnan(fits.fixef[j]).all() and np.isnan(fits.loglik[j]) and not fits.converged[j]
    others = [j for j in range(Y.shape[1]) if j not in reasons and j != 4]
    for what in ("fixef", "fixef_se", "fixef_df", "varpar", "sigma", "loglik", "gradient_norm"):
        np.testing.assert_array_equal(getattr(fits, what)[others], getattr(good, what)[others])
    assert (fits.reason[others] == "").all() and fits.reason[4] == "" and fits.nobs[4] == len(Y) - 1


def test_a_level_that_a_gap_empties_leaves_its_coefficient_out():
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"g": np.repeat(np.arange(20), 5), "f": np.tile(list("abcab"), 20)})
    Y = rng.normal(size=(100, 3))
    Y[data["f"] == "c", 1] = np.nan
    fits = slm.lmm_many("~ f + (1 | g)", data, Y, contrasts={"c - b": {"f[T.c]": 1, "f[T.b]": -1}})
    assert np.isnan(fits.fixef[1, 2]) and np.isfinite(fits.fixef[1, :2]).all() and np.isfinite(fits.fixef[2]).all()
    contrast = fits.to_frame().query("coefficient == 'c - b'")["estimate"].to_numpy()
    assert np.isnan(contrast[1])
    np.testing.assert_allclose(contrast[[0, 2]], fits.fixef[[0, 2], 2] - fits.fixef[[0, 2], 1])


@pytest.mark.parametrize(
    ("formula", "options"),
    [
        ("~ x + ar1(0 + t | g)", {}),
        ("~ x + (1 | g) + (1 | h)", {"residual": "ar1(t | g)"}),
        ("~ x + known(1 | h, Q) + (1 | g)", {}),
    ],
)
def test_structured_models_are_their_single_fits(formula, options):
    rng = np.random.default_rng(8)
    data = pd.DataFrame({"g": np.repeat(np.arange(20), 6), "t": np.tile(np.arange(6), 20), "x": rng.normal(size=120)})
    data["h"] = np.arange(120) % 9
    half = rng.normal(size=(9, 20))
    context = {"Q": slm.Known(half @ half.T / 20, levels=list(range(9)))}
    Y = rng.normal(size=(120, 3)) + rng.normal(size=(20, 3))[data["g"]] + 4.0
    fits = slm.lmm_many(formula, data, Y, context=context, **options)
    for j in range(3):
        single = slm.lmm("y" + formula, data.assign(y=Y[:, j]), context=context, **options)
        np.testing.assert_allclose(fits.loglik[j], single.loglik, atol=LOGLIK_ATOL)
        np.testing.assert_allclose(fits.fixef_se[j], single.fixef_se, rtol=SE_RTOL)
        np.testing.assert_allclose(fits.fixef[j], single.fixef, atol=SE_RTOL)
        np.testing.assert_allclose(fits.fixef_df[j], single.coef_table("satterthwaite")["df"], rtol=DF_RTOL)
    assert (fits.df_residual > 0.0).all() and np.isfinite(fits.top_table("x")["p_value"]).all()


MODELS = ["~ age + (1 | donor)", "~ age + (1 | donor) + (1 | batch)", "~ age + (1 | donor) + known(1 | batch, Q)"]


@pytest.mark.parametrize("formula", MODELS)
def test_without_degrees_of_freedom_all_else_is_the_same(formula):
    context = {"Q": slm.Known(np.eye(20), levels=sorted(samples()["batch"].unique()))}
    with_them = slm.lmm_many(formula, samples(), responses()[:, :3], context=context, ddf="satterthwaite")
    fits = slm.lmm_many(formula, samples(), responses()[:, :3], context=context, ddf="wald")
    assert np.isfinite(with_them.fixef_df).all() and np.isnan(fits.fixef_df).all() and np.isnan(fits.df_residual).all()
    for what in ("fixef", "fixef_se", "varpar", "loglik", "gradient_norm"):
        np.testing.assert_array_equal(getattr(fits, what), getattr(with_them, what))
    table = fits.top_table("age", moderated=False)
    np.testing.assert_allclose(table["p_value"], 2.0 * norm.sf(np.abs(table["estimate"] / table["std_error"])))
    with pytest.raises(slm.ModelError, match="moderated=False"):
        fits.top_table("age")


def test_what_degrees_of_freedom_there_are():
    with pytest.raises(slm.ModelError, match="ddf='kenward': 'satterthwaite', 'wald' or None"):
        slm.lmm_many(ONE, samples(), responses(), ddf="kenward")


@pytest.mark.parametrize("residual", ["varident(sex)", "ar1(visit | donor)", "ar1(visit | donor) * varident(sex)"])
def test_gaps_of_a_model_with_structured_residuals(residual):
    """As `lmm` without these rows; such responses had no fit, and lengths that differ for a reason."""
    data = samples().assign(visit=samples().groupby("donor").cumcount())
    Y = responses()[:, :2].copy()
    Y[::7, 0] = np.nan
    fits = slm.lmm_many("~ age + (1 | donor)", data, Y, residual=residual)
    for j in range(2):
        rows = np.isfinite(Y[:, j])
        single = slm.lmm("y ~ age + (1 | donor)", data.assign(y=Y[:, j])[rows], residual=residual)
        np.testing.assert_allclose(fits.loglik[j], single.loglik, atol=LOGLIK_ATOL)
        np.testing.assert_allclose(fits.fixef_se[j], single.fixef_se, rtol=SE_RTOL)
    assert (fits.reason == "").all() and fits.nobs.tolist() == [428, 500]


def test_a_stratum_without_a_value_is_the_reason():
    data, Y = samples(), responses()[:, :2].copy()
    Y[data["sex"] == "1", 0] = np.nan
    fits = slm.lmm_many("~ age + (1 | donor)", data, Y, residual="varident(sex)")
    assert fits.reason[0] == "residual varident(sex): no row of stratum '1' is left, so it has no variance"
    assert fits.reason[1] == "" and np.isfinite(fits.loglik[1])


def test_gaps_of_records():
    """Two rows of a donor are one record; a record may lose one of them."""
    data = samples().assign(row=samples().groupby("donor").cumcount())
    data = data.assign(
        part=np.where(data.row % 2, "b", "a"), record=data.donor.astype(str) + ":" + (data.row // 2).astype(str)
    )
    Y = responses()[:, :1].copy()
    Y[::9, 0] = np.nan
    formula, residual = "~ age + (1 | donor)", "us(part | record)"
    single = slm.lmm("y" + formula, data.assign(y=Y[:, 0])[np.isfinite(Y[:, 0])], residual=residual)
    fits = slm.lmm_many(formula, data, Y, residual=residual)
    np.testing.assert_allclose(fits.loglik[0], single.loglik, atol=LOGLIK_ATOL)


@pytest.mark.parametrize("seed", [12, 13, 35])
def test_rates_are_searched_for_as_by_the_single_fit(seed):
    """From the best point of a grid of standard deviations alone these ended at lower maxima, by 0.16 to 0.26."""
    rng, formula = np.random.default_rng(seed), "~ x + (1 | g) + ou(0 + time | g)"
    g, _, time, x = rng.integers(0, 25, 200), rng.integers(0, 12, 200), rng.uniform(0, 5, 200), rng.normal(size=200)
    data = pd.DataFrame({"g": g, "time": time, "x": x})
    y = rng.normal(size=200) + 0.5 * rng.normal(size=25)[g]
    fits, single = slm.lmm_many(formula, data, y[:, None], ddf="wald"), slm.lmm("y" + formula, data.assign(y=y))
    assert fits.loglik[0] >= single.loglik - 1e-5 and fits.converged[0] == single.converged
