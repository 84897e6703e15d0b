"""Any table, any column: the same spec; missing, infinite and odd values."""

import datetime
import decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from sparselmm import _errors
from sparselmm.formula import build_spec
from sparselmm.formula.table import open_table, read_rows

COLUMNS = {
    "y": [2.5, 1.0, 4.0, 3.5, 8.0, 7.5, 6.0, 0.5],
    "x": [1, 2, 3, 4, 5, 6, 7, 9],
    "s": ["v", "u", "w", "v", "u", "w", "v", "u"],
    "b": [True, False, True, True, False, False, True, False],
    "g": ["q", "q", "p", "p", "r", "r", "q", "p"],
    "h": [20, 3, 20, 3, 20, 3, 20, 3],
}
FORMULA = "y ~ x + s + b + (1 + b | g) + (1 | h)"


def of_dtype(kind: str):
    frame = pd.DataFrame(COLUMNS)
    if kind == "pandas":
        return frame
    if kind == "pandas-nullable":
        return frame.astype({"y": "Float64", "x": "Int64", "s": "string[python]", "b": "boolean", "h": "Int32"})
    if kind == "pandas-object":
        return frame.astype(object)
    if kind == "pandas-categorical":
        return frame.astype({"s": "category", "g": "category"})
    if kind == "pandas-odd-index":
        return frame.set_axis([5, 5, 1, 2, 2, 0, 9, 9])
    if kind == "pandas-arrow":
        return frame.astype({c: pd.ArrowDtype(pa.array(v).type) for c, v in COLUMNS.items()})
    if kind == "decimal":
        return frame.assign(y=[decimal.Decimal(str(v)) for v in COLUMNS["y"]])
    if kind == "polars":
        return pl.DataFrame(COLUMNS)
    if kind == "polars-categorical":
        return pl.DataFrame(COLUMNS, schema_overrides={"s": pl.Categorical, "g": pl.Enum(["p", "q", "r"])})
    if kind == "polars-decimal":
        return pl.DataFrame(COLUMNS).with_columns(pl.col("y").cast(pl.Decimal(10, 2)))
    return pa.table(COLUMNS)


KINDS = [
    "pandas-nullable",
    "pandas-object",
    "pandas-categorical",
    "pandas-odd-index",
    "pandas-arrow",
    "decimal",
    "polars",
    "polars-categorical",
    "polars-decimal",
    "pyarrow",
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_table_gives_the_same_spec(kind):
    weights = np.ones(8)
    got, expected = (build_spec(FORMULA, of_dtype(k), weights=weights) for k in (kind, "pandas"))
    np.testing.assert_array_equal(got.y, expected.y)
    np.testing.assert_array_equal(got.X, expected.X)
    assert got.fixed_names == expected.fixed_names == ("Intercept", "x", "s[T.v]", "s[T.w]", "b")
    for a, b in zip(got.terms, expected.terms, strict=True):
        np.testing.assert_array_equal(a.Z, b.Z)
        assert (a.labels(), a.effects) == (b.labels(), b.effects)
    np.testing.assert_array_equal(got.encoding.fixed(of_dtype("polars")), expected.X)


def with_gaps(kind: str):
    gaps = {c: [None if (i, c) in {(0, "y"), (2, "s"), (3, "g"), (5, "x")} else v for i, v in enumerate(values)]
            for c, values in COLUMNS.items()}  # fmt: skip
    return {"pandas": pd.DataFrame, "polars": pl.DataFrame, "pyarrow": pa.table}[kind](gaps)


@pytest.mark.parametrize("kind", ["pandas", "polars", "pyarrow"])
def test_rows_with_a_missing_value_are_dropped_and_counted(kind):
    weights = np.ones(8)
    complete = pd.DataFrame(COLUMNS).iloc[[1, 4, 6, 7]]
    got = build_spec("y ~ x + s + (1 | g)", with_gaps(kind), weights=weights)
    expected = build_spec("y ~ x + s + (1 | g)", complete, weights=weights[:4])
    assert got.n_dropped == 4
    np.testing.assert_array_equal(got.y, expected.y)
    np.testing.assert_array_equal(got.X, expected.X)
    np.testing.assert_array_equal(got.terms[0].Z, expected.terms[0].Z)
    assert got.terms[0].labels() == ["p", "q", "r"]


def test_a_gap_in_a_column_that_is_not_used_drops_nothing():
    assert build_spec("y ~ h", with_gaps("polars")).n_dropped == 1


def test_gaps_in_offset_drop_their_rows():
    offset = np.zeros(8)
    offset[2] = np.nan
    spec = build_spec("y ~ x", pd.DataFrame(COLUMNS), weights=np.arange(1.0, 9.0), offset=offset)
    assert spec.n_dropped == 1
    np.testing.assert_array_equal(spec.X[:, 1], [1, 2, 4, 5, 6, 7, 9])
    np.testing.assert_array_equal(spec.weights, [1, 2, 4, 5, 6, 7, 8])
    assert len(spec.offset) == 7
    assert build_spec("y ~ x", pd.DataFrame(COLUMNS).assign(o=offset), offset="o").n_dropped == 1


def test_gaps_in_weights_are_refused():
    weights = np.ones(8)
    weights[[1, 3]] = np.nan
    for given, what in ((weights, "the array"), ("w", "column 'w'")):
        with pytest.raises(
            _errors.DataError, match=f"weights: 2 of 8 values of {what} are missing; give every row one"
        ):
            build_spec("y ~ x", pd.DataFrame(COLUMNS).assign(w=weights), weights=given)


def test_nan_and_null_are_both_missing():
    data = pl.DataFrame({"y": [1.0, float("nan"), None, 4.0, 5.0]})
    np.testing.assert_array_equal(build_spec("y ~ 1", data).y, [1, 4, 5])


def test_large_integers_survive_a_missing_neighbour():
    big = 2**60 + 1
    data = pl.DataFrame({"y": [1.0, 2.0, 3.0, 5.0], "g": [big, big + 1, None, big]})
    assert build_spec("y ~ 1 + (1 | g)", data).terms[0].labels() == [big, big + 1]


def test_nothing_left_names_the_emptiest_column():
    data = pd.DataFrame({"y": [1.0, np.nan, 3.0], "x": [np.nan, 2.0, np.nan]})
    with pytest.raises(_errors.DataError, match=r"all 3 rows have missing values; most are in 'x' \(2 of 3\)"):
        build_spec("y ~ x", data)


def test_levels_lost_with_the_missing_rows_are_dropped():
    data = pd.DataFrame({"y": [1.0, 2, 4, np.nan], "f": pd.Categorical(list("abab")), "g": list("uvuw")})
    data["f"] = data.f.cat.set_categories(["c", "b", "a"])
    spec = build_spec("y ~ f + (1 | g)", data)
    assert spec.fixed_names == ("Intercept", "f[T.a]")
    assert spec.terms[0].labels() == ["u", "v"]


def test_category_order_is_kept():
    data = pd.DataFrame({"y": [1.0, 2, 4, 3], "f": pd.Categorical(list("abca"), categories=list("cbax"), ordered=True)})
    assert build_spec("y ~ f + (1 | f)", data).terms[0].labels() == ["c", "b", "a"]
    table = pa.table({"y": data.y, "f": pa.DictionaryArray.from_arrays([2, 1, 0, 2], ["c", "b", "a"])})
    assert build_spec("y ~ (1 | f)", table).terms[0].labels() == ["c", "b", "a"]
    polars = pl.DataFrame({"y": data.y.to_list(), "f": pl.Series(list("abca"), dtype=pl.Enum(list("cbax")))})
    assert build_spec("y ~ (1 | f)", polars).terms[0].labels() == ["c", "b", "a"]


@pytest.mark.parametrize("kind", [pd.DataFrame, pl.DataFrame, pa.table])
def test_dates_group_but_are_no_covariate(kind):
    day = datetime.date(2020, 1, 1)
    data = kind({"y": [1.0, 2.0, 4.0], "d": [day, day + datetime.timedelta(1), day]})
    assert build_spec("y ~ 1 + (1 | d)", data).terms[0].n_levels == 2
    with pytest.raises(_errors.DataError, match="column 'd' holds dates"):
        build_spec("y ~ d", data)


@pytest.mark.parametrize("column", ["y", "x", "w"])
def test_infinite_values_name_the_column(column):
    data = pd.DataFrame(COLUMNS).assign(w=1.0).astype({"x": float})
    data.loc[[1, 2], column] = np.inf
    with pytest.raises(_errors.DataError, match=f"column '{column}' has 2 infinite values"):
        build_spec("y ~ x", data, weights="w")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"y": [1.0]}, "must be a table .*, not builtins.dict"),
        (None, "must be a table"),
        (np.ones((2, 2)), "must be a table"),
        (pl.DataFrame(COLUMNS).lazy(), "collect it first"),
        (pd.DataFrame(COLUMNS).iloc[:0], "the table has no rows"),
        (pl.DataFrame(COLUMNS).clear(), "the table has no rows"),
        (pd.DataFrame([[1.0, 2.0, 3.0]], columns=["y", "x", "x"]), "same name .*'x' 2 times"),
        (pd.DataFrame([[1.0, 2.0]], columns=["y", 7]), "names are not text, the first is 7"),
        (pd.DataFrame({"y": [1.0, 2.0], "x": [[1], [2]]}), "column 'x' holds values that cannot be sorted"),
        (pd.DataFrame({"y": [1.0, 2.0], "x": [1j, 2j]}), "column 'x' holds complex numbers"),
    ],
)
def test_tables_that_cannot_be_used(data, message):
    with pytest.raises(_errors.DataError, match=message):
        build_spec("y ~ x", data)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([1.0, 2.0], r"unequal lengths: weights has shape \(2,\), the table has 8 rows"),
        (np.ones((8, 1)), r"weights has shape \(8, 1\)"),
        (["a"] * 8, "weights must be a column name or 8 numbers"),
        ("weigths", "column 'weigths' is not in the table .*; did you mean 'weights'"),
        ("s", "weights: column 's' holds text or categories, not numbers"),
        (-np.ones(8), "weights must be positive"),
    ],
)
def test_weights_that_cannot_be_used(given, message):
    with pytest.raises(_errors.DataError, match=message):
        build_spec("y ~ x", pd.DataFrame(COLUMNS).assign(weights=1.0), weights=given)


def test_only_the_columns_asked_for_are_read():
    data = pd.DataFrame(COLUMNS).assign(odd=[[1]] * 8)
    assert list(read_rows(open_table(data), ["x", "y"]).frame) == ["x", "y"]
    assert build_spec("y ~ x", data).n == 8
