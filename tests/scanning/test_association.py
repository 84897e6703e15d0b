"""p-values that are too small for a number, by their logarithm."""

import matplotlib
import numpy as np
import pytest
from scipy import stats

import sparselmm as slm
from sparselmm.plots import manhattan, qq
from sparselmm.scanning.association import UNDERFLOW, minus_log10
from tests.scanning.simulated import people, study

LOG_RTOL = 1e-12  # logarithms of gamma functions of a million, which nearly cancel, on both sides
matplotlib.use("Agg")
# F, numerator and denominator degrees of freedom, -pf(..., lower.tail = FALSE, log.p = TRUE) / log(10) of R 4.2.2, and
# pchisq(F * c, c, ...) where the denominator's are infinite
BY_R = [
    (2000, 1, 100000, 431.7530809042289),
    (1e5, 1, 1000, 1003.756699050716),
    (1500, 1, 1000000, 327.1628840454272),
    (800, 2, 1000000, 347.1579331772305),
    (2000, 3, 100000, 1263.5148248644),
    (2000, 1, np.inf, 436.0432737160729),
    (800, 2, np.inf, 347.4355855226015),
    (2000, 3, np.inf, 1301.092357658752),
]


@pytest.mark.parametrize(("F", "c", "df", "expected"), BY_R)
def test_logarithms_below_the_smallest_number_are_rs(F, c, df, expected):
    found = minus_log10(np.zeros(1), np.array([float(F)]), c, np.array([float(df)]))
    assert found[0] == pytest.approx(expected, rel=LOG_RTOL)


@pytest.mark.parametrize("c", [1, 2, 3])
@pytest.mark.parametrize("df", [150.0, 1e5, np.inf])
def test_both_ways_agree_where_p_has_its_digits(c, df):
    """SciPy's distributions, at p-values of about 1e-250 and 1e-280."""
    near = np.array([1e-250, 1e-280])
    F = df / c * (near ** (-2.0 / df) - 1.0) if np.isfinite(df) else stats.chi2.isf(near, c) / c
    p = stats.f.sf(F, c, df) if np.isfinite(df) else stats.chi2.sf(c * F, c)
    assert (p > UNDERFLOW).all() and (p < 1e-200).all()
    by_series = minus_log10(np.zeros(2), F, c, np.full(2, df))
    np.testing.assert_allclose(minus_log10(p, F, c, np.full(2, df)), by_series, rtol=LOG_RTOL)


@pytest.mark.parametrize("interact", [None, "x"])
def test_a_marker_whose_p_value_is_zero(interact):
    made = study(families=300, markers=4, gaps=0.0)
    g = made.genotypes[people(made.data), 2]
    fit = slm.lmm(
        "y ~ x + (1 | id)", made.data.assign(y=made.data.y + 20.0 * g), fixed={"sd_Intercept|id": 0.5, "sigma": 0.5}
    )
    scan = slm.scan(fit, made.frame, sample="id", interact=interact)
    table = scan.table
    assert table.p_value[2] == 0.0
    chi2 = table.statistic[2] ** 2 if interact is None else 2.0 * table.statistic[2]
    tail = 0.0 if interact else np.log10(np.pi * chi2 / 2.0) / 2.0  # of the normal: 2 phi(z) / z, to 1 / z^2
    assert table.minus_log10_p[2] == pytest.approx(chi2 / 2.0 / np.log(10.0) + tail, abs=1.0 / chi2)
    others = table.drop(index=2)
    np.testing.assert_array_equal(others.minus_log10_p, -np.log10(others.p_value))
    assert manhattan(scan).collections[0].get_offsets()[2, 1] == table.minus_log10_p[2]
    assert qq(scan).collections[1].get_offsets()[0, 1] == table.minus_log10_p[2]
