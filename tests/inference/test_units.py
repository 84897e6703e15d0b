"""Errors of variance parameters whatever the units of the covariates."""

import numpy as np
import pandas as pd
import pytest

import sparselmm as slm


@pytest.mark.parametrize("extra", ["", " + ar1(0 + t | h)"])
@pytest.mark.parametrize("unit", [1e-9, 1e9])
def test_errors_do_not_depend_on_the_units_of_a_slope(unit, extra):
    """Seconds since 1970, or parts per billion: theta of such a slope is far from order one."""
    rng = np.random.default_rng(1)
    g = np.repeat(np.arange(30), 8)
    x, t, h = rng.normal(size=240), np.tile(np.arange(24), 10), np.repeat(np.arange(10), 24)
    y = 1 + x + rng.normal(size=30)[g] * (1 + 0.7 * x) + np.cumsum(rng.normal(size=240)) * 0.3 + rng.normal(size=240)
    fits = [
        slm.lmm("y ~ x + (x | g)" + extra, pd.DataFrame({"y": y, "x": x * c, "g": g, "t": t, "h": h}))
        for c in (1.0, unit)
    ]
    expected, found = (fit.varpar_se for fit in fits)
    found["sd_x|g"] *= unit
    pd.testing.assert_series_equal(found, expected, rtol=1e-5)  # two searches; curved ones by differences


@pytest.mark.parametrize(("unit", "origin"), [(1e9, 0.0), (1e-9, 0.0), (1e6, 1.6e9)])
def test_kenward_roger_does_not_depend_on_the_units_of_a_slope(unit, origin):
    """Degrees of freedom were 85 for 11 with x times 1e9. The last: seconds since 1970, and random slopes of them."""
    rng = np.random.default_rng(1)
    g, x = np.repeat(np.arange(12), 8), rng.normal(size=96)
    y = 1 + x + rng.normal(size=12)[g] * (1 + 0.7 * x) + rng.normal(size=96)
    tables = [pd.DataFrame({"y": y, "x": c, "g": g}) for c in (x, origin + unit * x)]
    rows, columns = ["x"] if origin else ["Intercept", "x"], ["df", "t", "p_value"]
    fits = [slm.lmm("y ~ x + (x | g)", table) for table in tables]
    expected, found = (fit.coef_table("kenward-roger").loc[rows, columns] for fit in fits)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("unit", [1e-100, 1e100])
def test_tests_of_a_coefficient_whose_square_is_near_the_end_of_the_range(unit):
    """The square of its variance overflowed in Satterthwaite's degrees of freedom: a warning, and none of them."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"x": rng.normal(size=60), "g": rng.integers(0, 8, 60)})
    table["y"] = table["x"] + rng.normal(size=60)
    plain, scaled = (slm.lmm("y ~ x + (1 | g)", table.assign(x=table["x"] * c)) for c in (1.0, unit))
    columns = ["df", "t", "p_value"]
    np.testing.assert_allclose(scaled.coef_table()[columns], plain.coef_table()[columns], rtol=1e-5)  # two searches
    np.testing.assert_allclose(scaled.test(np.eye(2)).F, plain.test(np.eye(2)).F, rtol=1e-5)
