"""Tables: against limma, R's p.adjust, and sums by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import sparselmm as slm
from sparselmm.many.moderated import benjamini_hochberg, fit_prior, squeeze, trigamma_inverse
from tests.many.references import ONE, golden, responses, samples

LIMMA_RTOL = 1e-8  # limma's own Newton stops at 1e-8
ROUNDING = 1e-12


@pytest.fixture(scope="module")
def fits():
    return slm.lmm_many(ONE, samples(), pd.DataFrame(responses()).add_prefix("gene"))


def test_moderated_variances_are_limmas():
    expected = golden()["limma"]
    s2, df = np.array(expected["s2"]), np.array(expected["df"])
    s02, d0 = fit_prior(s2, df)
    np.testing.assert_allclose([s02, d0], [expected["var_prior"], expected["df_prior"]], rtol=LIMMA_RTOL)
    np.testing.assert_allclose(squeeze(s2, df, s02, d0), expected["var_post"], rtol=LIMMA_RTOL)
    equal = np.array(expected["equal"])
    s02, d0 = fit_prior(equal, np.full(len(equal), 25.0))
    assert d0 == pytest.approx(float(expected["equal_df_prior"]), rel=LIMMA_RTOL)
    posterior = squeeze(equal, np.full(len(equal), 25.0), s02, d0)
    np.testing.assert_allclose(posterior, expected["equal_var_post"], rtol=LIMMA_RTOL)


def test_variances_that_vary_too_little_have_an_infinite_prior():
    s2, df = np.array([1.0, 1.01, 0.99]), np.full(3, 5.0)
    s02, d0 = fit_prior(s2, df)
    assert d0 == np.inf and s02 == pytest.approx(1.0)
    np.testing.assert_array_equal(squeeze(s2, df, s02, d0), s02)


@pytest.mark.parametrize("x", [1e-6, 0.1, 1.0, 30.0])
def test_trigamma_inverse(x):
    from scipy.special import polygamma

    assert polygamma(1, trigamma_inverse(x)) == pytest.approx(x, rel=1e-9)


def test_false_discovery_rates_are_rs():
    p, expected = (np.array(golden()["limma"][key], dtype=float) for key in ("p", "bh"))
    np.testing.assert_allclose(benjamini_hochberg(p), expected, rtol=ROUNDING)


def test_top_table_without_moderation_is_the_t_test(fits):
    table = fits.top_table("age", moderated=False)
    assert table["p_value"].is_monotonic_increasing and list(fits.top_table("age", n=3).index) == list(
        fits.top_table("age").index[:3]
    )
    frame = fits.to_frame().query("coefficient == 'age'").set_index("response").loc[table.index]
    for column in ("estimate", "std_error", "df", "statistic", "p_value"):
        np.testing.assert_allclose(table[column], frame[column], rtol=ROUNDING)
    expected = 2.0 * stats.t.sf(np.abs(frame["estimate"] / frame["std_error"]), frame["df"])
    np.testing.assert_allclose(table["p_value"], expected, rtol=ROUNDING)


def test_moderation_scales_standard_errors_by_the_posterior(fits):
    s02, d0 = fit_prior(fits.sigma**2, fits.df_residual)
    posterior = (d0 * s02 + fits.df_residual * fits.sigma**2) / (d0 + fits.df_residual) if np.isfinite(d0) else s02
    table = fits.top_table("trt").loc[fits.responses]
    np.testing.assert_allclose(table["std_error"], fits.fixef_se[:, 3] * np.sqrt(posterior) / fits.sigma, rtol=ROUNDING)


def test_frames(fits):
    frame = fits.to_frame()
    assert list(frame.columns) == [
        "response", "coefficient", "estimate", "std_error", "df", "statistic", "p_value"
    ]  # fmt: skip
    assert len(frame) == 12 * 4 and frame["response"].iloc[4] == "gene1"
    assert list(fits.variances().columns[:2]) == ["sd_Intercept|donor", "sigma"]
    assert "12 responses, 12 fitted" in repr(fits)
    with pytest.raises(slm.ModelError, match="no coefficient or contrast 'agee'"):
        fits.top_table("agee")


def test_variance_partition_adds_up(fits):
    parts = fits.variance_partition()
    np.testing.assert_allclose(parts.sum(axis=1), 1.0, rtol=ROUNDING)
    assert list(parts.columns) == ["donor", "fixed", "residual"]
    ratio = parts["donor"] / parts["residual"]
    np.testing.assert_allclose(ratio, (fits.varpar[:, 0] / fits.sigma) ** 2, rtol=ROUNDING)
    slope = slm.lmm_many("~ age + (1 + age | donor)", samples(), responses()[:, :2]).variance_partition()
    np.testing.assert_allclose(slope.sum(axis=1), 1.0, rtol=ROUNDING)


def test_contrasts_are_checked():
    for contrasts, message in (({"c": {"agee": 1}}, "no coefficient 'agee'"), ({"c": [1, 2]}, "4 finite numbers")):
        with pytest.raises(slm.SparselmmError, match=message):
            slm.lmm_many(ONE, samples(), responses(), contrasts=contrasts)


@pytest.mark.parametrize(
    ("contrasts", "message"),
    [
        ([{"age": 1.0}], "a mapping such as .* not list"),
        ({"c": "age - trt"}, "finite numbers are needed, one a coefficient, not 'age - trt'"),
        ({"c": {"age": "b"}}, "finite numbers"),
        ({"c": {"age": np.nan}}, "finite numbers"),
        ({"age": {"age": 2.0}}, "contrast 'age' has the name of a coefficient"),
    ],
)
def test_contrasts_that_are_none(contrasts, message):
    with pytest.raises(slm.SparselmmError, match=message):
        slm.lmm_many(ONE, samples(), responses(), contrasts=contrasts)


@pytest.mark.parametrize("n", [-1, 2.5, True])
def test_rows_of_a_top_table_are_counted(fits, n):
    with pytest.raises(slm.ModelError, match="whole number of rows"):
        fits.top_table("age", n=n)


def test_a_top_table_of_responses_without_fits_is_empty_of_numbers():
    constant = slm.lmm_many(ONE, samples(), np.ones((500, 2))).top_table("age")
    assert constant.isna().all(axis=None) and len(constant) == 2


def test_shares_do_not_read_weights_of_missing_cells():
    """As `lmm` with the rows left out; a weight of zero or NaN may stand in such a cell."""
    Y, W = responses()[:, :2].copy(), np.random.default_rng(3).uniform(0.2, 2.0, (2, 500))
    Y[:3, 0], W[0, :3] = np.nan, [0.0, np.nan, -1.0]
    shares = slm.lmm_many(ONE, samples(), Y, weights=W).variance_partition()
    fit = slm.lmm("y" + ONE, samples().assign(y=Y[:, 0])[3:], weights=W[0, 3:])
    expected = fit.varpar["sd_Intercept|donor"] ** 2 / (fit.sigma**2 * np.mean(1.0 / W[0, 3:]))
    np.testing.assert_allclose(shares["donor"][0] / shares["residual"][0], expected, rtol=1e-5)


def test_a_factor_called_residual_has_a_share_of_its_own():
    data = samples().assign(residual=samples()["donor"])
    named = slm.lmm_many("~ age + (1 | residual)", data, responses()).variance_partition()
    plain = slm.lmm_many("~ age + (1 | donor)", data, responses()).variance_partition()
    np.testing.assert_allclose(named.to_numpy(), plain.to_numpy(), rtol=ROUNDING)
