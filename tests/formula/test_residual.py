"""The grammar of residual=, and what it says about what it cannot read."""

import numpy as np
import pandas as pd
import pytest

from sparselmm import DataError, FormulaError, ModelError
from sparselmm.formula import build_spec
from sparselmm.formula.residual import parse_residual

COLUMNS = {
    "y": [1.0, 2.0, 1.5, 3.0, 2.0, 2.5],
    "t": [1, 2, 3, 1, 2, 4],
    "hour": [0.1, 0.7, 1.9, 0.0, 0.5, 2.2],
    "g": ["b", "b", "b", "a", "a", "a"],
    "f": [1.0, 2.0, 1.0, 2.0, 1.0, 2.0],
    "my day": [3, 2, 1, 1, 2, 3],
    "word": list("uvwuvw"),
}
TABLE = pd.DataFrame(COLUMNS)


def residual(text):
    return build_spec("y ~ 1", TABLE, residual=text).residual


def test_parts():
    parsed = parse_residual("car1(log(t) | a:b) * varident( f )")
    assert (parsed.serial.word, parsed.serial.time.text, parsed.serial.series) == ("car1", "log(t)", ("a", "b"))
    assert parsed.strata.strata == ("f",)
    assert parsed.groups == ["a", "b", "f"]


def test_none():
    assert residual(None) is None


def test_series_and_times():
    r = residual("ar1(t | g)")
    np.testing.assert_array_equal(r.series, [1, 1, 1, 0, 0, 0])
    assert r.natural_names() == ("rho_residual",)
    assert residual("ou(hour)").series.tolist() == [0] * 6
    assert residual("ou(2 * hour | g)").time.tolist() == (2 * TABLE.hour).tolist()
    assert residual("ar1(`my day` | g)").time.tolist() == [3, 2, 1, 1, 2, 3]


def test_strata():
    assert residual("varident(f)").natural_names() == ("ratio_2|residual",)
    assert residual("varident(f:g)").natural_names() == (
        "ratio_1.0:b|residual",
        "ratio_2.0:a|residual",
        "ratio_2.0:b|residual",
    )


@pytest.mark.parametrize("text", ["ar1(t | g) * varident(f)", "varident(f) * ar1(t | g)"])
def test_product_in_either_order(text):
    r = residual(text)
    assert r.natural_names() == ("rho_residual", "ratio_2|residual")
    assert r.label == "ar1(t | g) * varident(f)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "residual= is empty"),
        ("ar(t | g)", "unknown residual structure 'ar': known are ar1, ou, car1, varident, us; did you mean 'ar1'"),
        ("varIdnt(f)", "did you mean 'varident'"),
        ("ar1", "is not understood"),
        ("ar1(t | g) + varident(f)", "is not understood"),
        ("ar1()", r"ar1\(\) is empty"),
        ("ar1(| g)", r"is written ar1\(t \| g\)"),
        ("ar1(t || g)", r"is written ar1\(t \| g\)"),
        ("ar1(t | g | f)", r"is written ar1\(t \| g\)"),
        ("ar1(1 | g)", "needs the times"),
        ("ar1(t | g) * ou(t | g)", "a product has one of ar1, ou, car1"),
        ("varident(f) * varident(g)", r"varident\(f:g\)"),
        ("ar1(t | g) *", r"a factor is missing beside '\*'"),
        ("ar1(t | g/f)", "one grouping factor"),
        ("varident(f + g)", "one grouping factor"),
        ("ar1(t | g", "is never closed"),
        ("us(f)", r"us\(trait \| record\): the traits"),
        ("us(f || g)", r"us\(trait \| record\): the traits"),
        ("us(| g)", r"us\(trait \| record\): the traits"),
        ("us(f | g) * varident(f)", "it stands alone"),
        ("ar1(t | g) * us(f | g)", "it stands alone"),
        ("us(f + t | g)", "one grouping factor"),
    ],
)
def test_unreadable(text, message):
    with pytest.raises(FormulaError, match=message):
        parse_residual(text)


def test_not_text():
    with pytest.raises(FormulaError, match="not int"):
        parse_residual(3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ar1(tt | g)", "column 'tt' is not in the table"),
        ("ar1(t | gg)", "column 'gg' is not in the table.*did you mean 'g'"),
        ("varident(ff)", "column 'ff' is not in the table"),
        ("ar1(word | g)", "time 'word' holds text"),
        ("ar1(hour | g)", r"time 0.1 in row 0 is not an integer.*ou\(hour \| g\)"),
        ("ar1(f | g)", "two rows of series 'a' have the time 2"),
        ("ar1(t)", r"two rows have the time \S+ .*name the series by a finer group, ar1\(t \| g\)"),
        ("us(f | g)", "record 'a' has '2' twice"),
        ("us(ff | g)", "column 'ff' is not in the table"),
    ],
)
def test_columns_that_do_not_fit(text, message):
    with pytest.raises(DataError, match=message):
        residual(text)


def test_us_of_a_record():
    """Traits in the order of their levels, correlations of all pairs; missing traits and records drop the row."""
    r = residual("us(word | g)")
    assert r.natural_names()[:2] == ("ratio_v|residual", "ratio_w|residual")
    assert r.natural_names()[2:] == ("cor_u.v|residual", "cor_u.w|residual", "cor_v.w|residual")
    assert (r.label, len(r.later)) == ("us(word | g)", 6)
    spec = build_spec("y ~ 1", TABLE.assign(word=["u", None, "w", "u", "v", "w"]), residual="us(word | g)")
    assert (spec.n, len(spec.residual.later)) == (5, 4)


def test_us_starts_from_the_variances_of_the_response():
    """Ratios of 4 and 1/2 by construction, whatever the units."""
    table = pd.DataFrame({"t": [*"abcabc"], "g": [1, 1, 1, 2, 2, 2], "y": [1e6, 4e6, 5e5, -1e6, -4e6, -5e5]})
    start = build_spec("y ~ 1", table, residual="us(t | g)").residual.start()
    np.testing.assert_allclose(np.exp(start[:2]), [4.0, 0.5])


def test_us_where_no_record_has_two_traits():
    with pytest.raises(ModelError, match=r"no record has two traits.*varident\(trait\)"):
        build_spec("y ~ 1", TABLE.assign(own=range(6)), residual="us(g | own)")


def test_rows_with_missing_times_are_dropped():
    table = TABLE.assign(t=[1, 2, None, 1, 2, 4], f=[1, None, 1, 2, 1, 2])
    spec = build_spec("y ~ 1", table, residual="ar1(t | g) * varident(f)")
    assert (spec.n, spec.n_dropped) == (4, 2)
    lag_two = spec.residual.covariance(np.array([np.arctanh(0.5), 0.0]))[2, 3]
    assert lag_two == pytest.approx(0.25)  # times 2 and 4 of series a


def test_ordered_categories_are_times():
    """Their order counts, not their letters, and one that no row has is a step: as in a random series."""
    visit = pd.Categorical(["in", "w2", "out", "out", "in", "w2"], categories=["in", "w1", "w2", "out"], ordered=True)
    r = build_spec("y ~ 1", TABLE.assign(visit=visit), residual="ar1(visit | g)").residual
    np.testing.assert_array_equal(r.time, [0, 2, 3, 3, 0, 2])
    with pytest.raises(DataError, match="time 'visit' holds text or unordered categories"):
        build_spec("y ~ 1", TABLE.assign(visit=[*visit]), residual="ar1(visit | g)")


def test_a_stratum_a_row_is_refused():
    with pytest.raises(ModelError, match=r"residual varident\(own\): 6 strata of one row each"):
        build_spec("y ~ 1", TABLE.assign(own=np.arange(6) / 7), residual="varident(own)")


def test_names_of_strata_that_are_large_numbers():
    table = TABLE.assign(id=np.repeat([1234567.0, 1234568.0, 1234569.0], 2))
    names = build_spec("y ~ 1", table, residual="varident(id)").residual.natural_names()
    assert names == ("ratio_1234568|residual", "ratio_1234569|residual")
