"""Balanced ANOVA in closed form against published fits and against a numeric search of the textbook likelihood."""

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize

from sparselmm._errors import DataError
from sparselmm.closed_form import nested, one_way
from tests import naive

PUBLISHED_RTOL = 1e-8  # the reference fits have 8 or more digits
CRITERION_RTOL = 1e-10  # one number from strata and from V
SEARCH_ATOL = 1e-7  # what a simplex search leaves of a deviance around 100

# Davies & Goldsmith (1972), data sets Dyestuff, Dyestuff2 and Pastes of lme4 (GPL-2 or later).
# fmt: off
DYESTUFF = [1545, 1440, 1440, 1520, 1580, 1540, 1555, 1490, 1560, 1495, 1595, 1550, 1605, 1510, 1560,
            1445, 1440, 1595, 1465, 1545, 1595, 1630, 1515, 1635, 1625, 1520, 1455, 1450, 1480, 1445]
DYESTUFF2 = [7.298, 3.846, 2.434, 9.566, 7.99, 5.22, 6.556, 0.608, 11.788, -0.892, 0.11, 10.386, 13.434, 5.51, 8.166,
             2.212, 4.852, 7.092, 9.288, 4.98, 0.282, 9.014, 4.458, 9.446, 7.198, 1.722, 4.782, 8.106, 0.758, 3.758]
PASTES = [62.8, 62.6, 60.1, 62.3, 62.7, 63.1, 60, 61.4, 57.5, 56.9, 61.1, 58.9, 58.7, 57.5, 63.9, 63.1, 65.4, 63.7,
          57.1, 56.4, 56.9, 58.6, 64.7, 64.5, 55.1, 55.1, 54.7, 54.2, 58.8, 57.5, 63.4, 64.9, 59.3, 58.1, 60.5, 60,
          62.5, 62.6, 61, 58.7, 56.9, 57.7, 59.2, 59.4, 65.2, 66, 64.8, 64.1, 54.8, 54.8, 64, 64, 57.7, 56.8, 58.3,
          59.3, 59.2, 59.2, 58.9, 56.6]
# fmt: on
BATCH = np.repeat(list("ABCDEF"), 5)
both = pytest.mark.parametrize("reml", [False, True], ids=["ML", "REML"])


# lme4 1.1-31, optima polished by Newton steps; Bates (2010), "lme4: Mixed-effects modeling with R", prints
# 49.51, 37.26, 42.00, 327.3271, 319.6543 for Dyestuff.
@pytest.mark.parametrize(
    "y, reml, sd, sigma, deviance",
    [
        (DYESTUFF, False, 37.2603453195524, 49.5100999797043, 327.327059881135),
        (DYESTUFF, True, 42.0005952338629, 49.5100999797038, 319.654276842258),
        (DYESTUFF2, False, 0.0, 3.65323135137465, 162.873036653826),
        (DYESTUFF2, True, 0.0, 3.71568427447573, 161.828277812288),
    ],
)
def test_dyestuff(y, reml, sd, sigma, deviance):
    fit = one_way(y, BATCH, reml)
    assert fit.mean == pytest.approx(np.mean(y), rel=1e-12)
    assert np.sqrt(fit.variances["group"]) == pytest.approx(sd, rel=PUBLISHED_RTOL)
    assert np.sqrt(fit.sigma2) == pytest.approx(sigma, rel=PUBLISHED_RTOL)
    assert fit.deviance == pytest.approx(deviance, rel=PUBLISHED_RTOL)
    assert fit.is_singular == (sd == 0)


@pytest.mark.parametrize(
    "reml, batch, deviance", [(False, 1.0950596127814, 247.994465862425), (True, 1.28736499951594, 246.990745853486)]
)
def test_pastes(reml, batch, deviance):
    """lme4 1.1-31, `strength ~ 1 + (1 | batch/cask)`; casks a, b, c are used again in every batch."""
    fit = nested(PASTES, np.repeat(list("ABCDEFGHIJ"), 6), np.tile(np.repeat(list("abc"), 2), 10), reml)
    assert list(fit.variances) == ["outer", "inner"]
    assert np.sqrt(fit.variances["outer"]) == pytest.approx(batch, rel=PUBLISHED_RTOL)
    assert np.sqrt(fit.variances["inner"]) == pytest.approx(2.90407759308729, rel=PUBLISHED_RTOL)
    assert np.sqrt(fit.sigma2) == pytest.approx(0.823407554009692, rel=PUBLISHED_RTOL)
    assert fit.deviance == pytest.approx(deviance, rel=PUBLISHED_RTOL)
    assert not fit.is_singular


def test_slide_formulas_of_seed_3():
    """tau^2 = (SSB/k - s^2)/m with ML (M&T theorem 5.4) and (SSB/(k-1) - s^2)/m with REML (the moment equations)."""
    y = np.reshape(DYESTUFF, (6, 5))
    k, m = y.shape
    s2 = np.sum((y - y.mean(axis=1, keepdims=True)) ** 2) / (k * (m - 1))
    SSB = m * np.sum((y.mean(axis=1) - y.mean()) ** 2)
    for reml, divisor in [(False, k), (True, k - 1)]:
        fit = one_way(y.ravel(), BATCH, reml)
        assert fit.sigma2 == pytest.approx(s2, rel=1e-12)
        assert fit.variances["group"] == pytest.approx((SSB / divisor - s2) / m, rel=1e-12)


# --- the constrained optimum ----------------------------------------------------------------------------

K, B, M = 4, 3, 2
OUTER, INNER = np.repeat(np.arange(K), B * M), np.repeat(np.arange(K * B), M)


def indicator(codes):
    return np.eye(codes.max() + 1)[codes]


def response(*mean_squares):
    """y with the given mean squares (residual, inner, outer; df kb(m-1), k(b-1), k-1), mean 3."""
    noise = np.random.default_rng(17).normal(size=K * B * M)
    spaces = [np.eye(len(noise)), indicator(INNER), indicator(OUTER), np.ones((len(noise), 1))]
    projections = [S @ np.linalg.pinv(S) for S in spaces]
    y = np.full(len(noise), 3.0)
    for upper, lower, ms in zip(projections, projections[1:], mean_squares, strict=False):
        part = (upper - lower) @ noise
        y += part * np.sqrt(ms * np.trace(upper - lower) / (part @ part))
    return y


def check_optimum(fit, y, Z, variances, reml):
    """`fit` has the deviance of its own V, and no other V >= 0 has a lower one."""
    X, n = np.ones((len(y), 1)), len(y)
    V = naive.marginal_cov(Z, [v / fit.sigma2 * np.eye(Zk.shape[1]) for v, Zk in zip(variances, Z, strict=True)], n)
    assert fit.deviance == pytest.approx(naive.deviance(y, X, fit.sigma2 * V, reml), rel=CRITERION_RTOL)

    def criterion(phi):
        W = naive.marginal_cov(Z, [f * np.eye(Zk.shape[1]) for f, Zk in zip(phi, Z, strict=True)], n)
        return naive.profile_deviance(y, X, W, reml)

    options = {"xatol": 1e-7, "fatol": 1e-10}
    starts = np.array([[0.05, 2.0], [2.0, 0.05], [0.7, 0.7]])[:, : len(Z)]
    found = [minimize(criterion, s, method="Nelder-Mead", bounds=[(0, None)] * len(Z), options=options) for s in starts]
    best = min(found, key=lambda result: result.fun)
    assert fit.deviance == pytest.approx(best.fun, abs=SEARCH_ATOL)
    # the deviance is flat at its minimum: an error of 1e-7 in it is one of about its root in phi
    np.testing.assert_allclose(np.array(variances) / fit.sigma2, best.x, atol=1e-3 * (1 + max(best.x)))


# mean squares of residual, inner, outer -> which variances (outer, inner) are zero with ML and with REML.
# ML divides the outer sum of squares by k = 4 instead of 3.
STRATA = {
    "interior": ((1, 4, 30), (False, False), (False, False)),
    "outer zero": ((1, 6, 3), (True, False), (True, False)),
    "inner zero": ((3, 1, 20), (False, True), (False, True)),
    "both zero in order": ((5, 3, 1), (True, True), (True, True)),
    "outer pulls inner down": ((3, 3.5, 0.1), (True, True), (True, True)),
    "inner pulls residual below outer": ((4, 0.2, 3.9), (False, True), (False, True)),
    "REML inside, ML outside": ((1, 4, 4.8), (True, False), (False, False)),
}


@pytest.mark.parametrize("mean_squares, ml_zero, reml_zero", STRATA.values(), ids=STRATA)
@both
def test_nested_is_the_constrained_optimum(mean_squares, ml_zero, reml_zero, reml):
    y = response(*mean_squares)
    fit = nested(y, OUTER, INNER, reml)
    variances = [fit.variances["outer"], fit.variances["inner"]]
    assert tuple(v == 0 for v in variances) == (reml_zero if reml else ml_zero)
    assert min(variances) >= 0
    assert fit.is_singular == (0 in variances)
    check_optimum(fit, y, [indicator(OUTER), indicator(INNER)], variances, reml)


@pytest.mark.parametrize("between", [0.05, 0.9, 1.2, 6.0])
@both
def test_one_way_is_the_constrained_optimum(between, reml):
    y = response(1.0, 1.0, between)
    fit = one_way(y, OUTER, reml)
    assert fit.is_singular == (between <= (1 if reml else 4 / 3))
    check_optimum(fit, y, [indicator(OUTER)], [fit.variances["group"]], reml)


@both
def test_order_labels_and_origin_do_not_matter(reml):
    y = np.round(response(1, 4, 30) * 2**12) / 2**12
    fit = nested(y, OUTER, INNER, reml)
    order = np.random.default_rng(1).permutation(len(y))
    words = [f"site {i}" for i in OUTER[order]]
    other = nested(y[order] + 2.0**40, words, list(INNER[order] % B), reml)
    assert other.deviance == pytest.approx(fit.deviance, rel=CRITERION_RTOL)
    assert other.variances == pytest.approx(fit.variances, rel=1e-9)
    assert other.mean == pytest.approx(fit.mean + 2.0**40, rel=1e-15)


# --- errors ---------------------------------------------------------------------------------------------


def test_unbalanced_designs_are_refused():
    y = np.arange(7.0) ** 2
    with pytest.raises(DataError, match="'group' have 3 to 4 members"):
        one_way(y, list("aaabbbb"))
    with pytest.raises(DataError, match="'outer:inner' have 1 to 2 members"):
        nested(y, list("aaaabbb"), list("xxyyxxy"))
    with pytest.raises(DataError, match="'outer' have 1 to 2 members"):
        nested(y[:6], list("aaaabb"), list("xxyyxx"))


def test_designs_without_replicates_are_refused():
    y = np.array([1.0, 2.0, 4.0, 7.0])
    with pytest.raises(DataError, match="'group' has 4 levels of 1 members"):
        one_way(y, list("abcd"))
    with pytest.raises(DataError, match="'group' has 1 levels of 4 members"):
        one_way(y, list("aaaa"))
    with pytest.raises(DataError, match="'outer' has 2 levels of 1 members"):
        nested(y, list("aabb"), list("xxyy"))
    with pytest.raises(DataError, match="'outer:inner' has 4 levels of 1 members"):
        nested(y, list("aabb"), list("xyxy"))


def test_bad_values_are_refused():
    with pytest.raises(DataError, match="1 of 4 values are infinite or missing"):
        one_way([1.0, np.nan, 2.0, 3.0], list("aabb"))
    with pytest.raises(DataError, match="'group' has missing labels"):
        one_way([1.0, 4.0, 2.0, 3.0], ["a", "a", None, "b"])
    with pytest.raises(DataError, match="'inner' has 3 labels, y has 4"):
        nested([1.0, 4.0, 2.0, 3.0], list("aabb"), list("xyx"))
    with pytest.raises(DataError, match="y has shape"):
        one_way(np.ones((2, 2)), list("aabb"))
    for constant in (0.1, 1e9 / 3):
        with pytest.raises(DataError, match="does not vary within its groups"):
            one_way(np.repeat([constant, 2 * constant], 3), list("aaabbb"))


def test_values_that_pandas_brings():
    """Its NA compares with nothing, which was a TypeError; text in place of numbers was a ValueError of numpy."""
    y = [1.0, 3.0, 2.0, 5.0]
    with pytest.raises(DataError, match="'group' has missing labels"):
        one_way(y, pd.array([1, 1, 2, None], dtype="Int64"))
    with pytest.raises(DataError, match="y is a vector of numbers"):
        one_way(["x", "y", "z", "w"], list("aabb"))
    assert one_way(pd.Series(y, dtype="Float64"), pd.array([1, 1, 2, 2], dtype="Int64")).mean == 2.75
