"""Formula and table -> ModelSpec, against arrays made by hand."""

import pickle

import numpy as np
import pandas as pd
import pytest

from sparselmm import _errors
from sparselmm.formula import build_spec

EXACT = 1e-14  # the same arithmetic on a dozen numbers, at most reordered


@pytest.fixture
def table() -> pd.DataFrame:
    n = 12
    rng = np.random.default_rng(1)
    return pd.DataFrame(
        {
            "y": rng.normal(size=n),
            "x": np.tile([1, 2, 3, 4], 3),
            "z": rng.normal(size=n),
            "f": pd.Categorical(np.tile(["b", "a", "c"], 4), categories=["c", "b", "unused", "a"]),
            "s": np.tile(["v", "u"], 6),
            "flag": np.tile([True, False, False], 4),
            "g": np.repeat([30, 4, 100], 4),
            "h": np.tile(["n", "m"], 6),
            "Sepal.Length": np.linspace(1, 2, n),
            "yield": np.linspace(3, 4, n),
            "my g": np.repeat(["q", "p"], 6),
            "neg": np.r_[-1.0, np.ones(n - 1)],
        }
    )


def dummies(values, levels) -> np.ndarray:
    return (np.asarray(values)[:, None] == np.asarray(levels)).astype(float)


def test_fixed_part(table):
    spec = build_spec("y ~ x + f + (1 | g)", table)
    assert spec.fixed_names == ("Intercept", "x", "f[T.b]", "f[T.a]")
    expected = np.column_stack([np.ones(12), table.x, dummies(table.f, ["b", "a"])])
    np.testing.assert_array_equal(spec.X, expected)
    np.testing.assert_array_equal(spec.y, table.y)
    assert (spec.response, spec.formula, spec.n_dropped) == ("y", "y ~ x + f + (1 | g)", 0)
    assert spec.X.dtype == spec.y.dtype == np.float64


@pytest.mark.parametrize(
    ("fixed", "names", "column"),
    [
        ("0 + x", ("x",), lambda d: d.x),
        ("x - 1", ("x",), lambda d: d.x),
        ("0 + s", ("s[u]", "s[v]"), lambda d: d.s == "u"),
        ("0 + flag", ("flag",), lambda d: d.flag),
        ("0 + I(x^2)", ("I(x ** 2)",), lambda d: d.x**2),
        ("0 + {x^2}", ("x ** 2",), lambda d: d.x**2),
        ("0 + sqrt(x)", ("sqrt(x)",), lambda d: np.sqrt(d.x)),
        ("0 + sin(2*pi*x)", ("sin(2 * pi * x)",), lambda d: np.sin(2 * np.pi * d.x)),
        ("0 + factor(x)", tuple(f"factor(x)[{i}]" for i in (1, 2, 3, 4)), lambda d: d.x == 1),
        ("0 + C(x)", tuple(f"C(x)[{i}]" for i in (1, 2, 3, 4)), lambda d: d.x == 1),
        ("0 + log(Sepal.Length)", ("log(`Sepal.Length`)",), lambda d: np.log(d["Sepal.Length"])),
        ("0 + Sepal.Length", ("Sepal.Length",), lambda d: d["Sepal.Length"]),
        ("0 + yield", ("yield",), lambda d: d["yield"]),
        ("0 + log(yield)", ("log(Q('yield'))",), lambda d: np.log(d["yield"])),
        ("0 + x.clip(2)", ("x.clip(2)",), lambda d: d.x.clip(2)),
    ],
)
def test_first_column_of_fixed_part(table, fixed, names, column):
    spec = build_spec(f"y ~ {fixed} + (1 | g)", table)
    assert spec.fixed_names == names
    np.testing.assert_allclose(spec.X[:, 0], np.asarray(column(table), dtype=float), rtol=EXACT)


def test_no_fixed_effect_at_all(table):
    spec = build_spec("y ~ 0 + (1 | g)", table)
    assert (spec.X.shape, spec.fixed_names) == ((12, 0), ())
    assert spec.encoding.fixed(table).shape == (12, 0)


def test_integer_powers_do_not_overflow():
    data = pd.DataFrame({"y": [1.0, 2.0, 3.0], "x": np.array([3_000_000, 2, 1])})
    np.testing.assert_allclose(build_spec("y ~ I(x^3)", data).X[0, 1], 2.7e19, rtol=EXACT)
    small = data.assign(x=np.array([100, 2, 1], dtype=np.int8))
    assert build_spec("y ~ I(x^2)", small).X[0, 1] == 10_000


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("log(x)", lambda d: np.log(d.x)),
        ("I(z^2)", lambda d: d.z**2),
        ("z / 2 + 1", lambda d: d.z / 2 + 1),
        ("`Sepal.Length`", lambda d: d["Sepal.Length"]),
        ("Sepal.Length", lambda d: d["Sepal.Length"]),
        ("yield", lambda d: d["yield"]),
        ("log(yield)", lambda d: np.log(d["yield"])),
        ("x", lambda d: d.x),
    ],
)
def test_response_expressions(table, response, expected):
    spec = build_spec(f"{response} ~ 1 + (1 | g)", table)
    np.testing.assert_allclose(spec.y, expected(table), rtol=EXACT)
    assert spec.response == response.strip("`")


def test_orthogonal_polynomials_have_their_closed_form():
    data = pd.DataFrame({"y": [3.0, 1, 4, 1, 5], "x": [1.0, 2, 3, 4, 5]})
    X = build_spec("y ~ 0 + poly(x, 2)", data).X
    expected = np.array([[-2, -1, 0, 1, 2] / np.sqrt(10), [2, -1, -2, -1, 2] / np.sqrt(14)]).T
    np.testing.assert_allclose(X, expected, atol=EXACT)


def test_random_intercept_and_slope(table):
    spec = build_spec("y ~ 1 + (x | g) + (1 | h)", table)
    slope, intercept = spec.terms
    np.testing.assert_array_equal(slope.Z, [1] * 4 + [0] * 4 + [2] * 4)
    np.testing.assert_array_equal(slope.columns, np.column_stack([np.ones(12), table.x]))
    assert slope.labels() == [4, 30, 100]
    assert (slope.effects, slope.name, slope.label) == (("Intercept", "x"), "g", "1 + x")
    assert intercept.columns is None
    assert (intercept.labels(), intercept.label) == (["m", "n"], "1")
    np.testing.assert_array_equal(intercept.Z, [1, 0] * 6)


def test_left_side_with_a_factor_in_full_and_in_contrasts(table):
    full, contrasts = build_spec("y ~ 1 + (0 + f | g) + (f | h)", table.iloc[[*range(12)] * 2]).terms
    assert full.effects == ("f[c]", "f[b]", "f[a]")
    np.testing.assert_array_equal(full.columns[:12], dummies(table.f, ["c", "b", "a"]))
    assert contrasts.effects == ("Intercept", "f[T.b]", "f[T.a]")


def test_interaction_has_the_combinations_that_occur(table):
    rows = table.iloc[[0, 1, 2, 4, 8]]
    term = build_spec("y ~ 1 + (1 | g:h)", rows, weights=np.arange(1.0, 6.0)).terms[0]
    assert term.name == "g:h"
    assert term.labels() == ["4:n", "30:m", "30:n", "100:n"]
    np.testing.assert_array_equal(term.Z, [2, 1, 2, 0, 3])


def same_terms(a, b) -> None:
    assert len(a) == len(b)
    for left, right in zip(a, b, strict=True):
        np.testing.assert_array_equal(left.Z, right.Z)
        assert (left.columns is None) == (right.columns is None)
        if left.columns is not None:
            np.testing.assert_array_equal(left.columns, right.columns)
        assert (left.name, left.effects, left.labels()) == (right.name, right.effects, right.labels())
        assert type(left.covariance) is type(right.covariance)


def same_spec(a, b) -> None:
    np.testing.assert_array_equal(a.y, b.y)
    np.testing.assert_array_equal(a.X, b.X)
    assert (a.fixed_names, a.n_dropped) == (b.fixed_names, b.n_dropped)
    same_terms(a.terms, b.terms)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("(1 | g/h)", "(1 | g) + (1 | g:h)"),
        ("(1 | g/(h + s))", "(1 | g) + (1 | g:h) + (1 | g:s)"),
        ("(x | g)", "us(1 + x | g)"),
        ("(1 + x || g)", "diag(1 + x | g)"),
        ("(1 + f || g)", "(1 | g) + (0 + f | g)"),
        ("(x * flag || g)", "diag(1 + x + flag + x:flag | g)"),
        ("(z + f:z || h)", "(1 | h) + (0 + z | h) + (0 + f:z | h)"),
        ("(poly(z, 2) || g)", "(1 | g) + (0 + poly(z, 2) | g)"),
        ("(I(x^2) | g)", "(I(x**2) | g)"),
        ("(1 | factor(g))", "(1 | g)"),
        ("(1 | h + s)", "(1 | h) + (1 | s)"),
    ],
)
def test_two_ways_to_write_the_same(table, one, other):
    rows = table.iloc[[*range(12)] * 2]
    same_spec(build_spec(f"y ~ x + {one}", rows), build_spec(f"y ~ x + {other}", rows))


def test_structure_words(table):
    cs, diag = build_spec("y ~ 1 + cs(0 + f | g) + diag(0 + f | h)", table.iloc[[*range(12)] * 2]).terms
    assert (cs.label, cs.covariance.label) == ("f", "cs(f)")
    assert cs.effects == diag.effects == ("f[c]", "f[b]", "f[a]")
    assert [type(t.covariance).__name__ for t in (cs, diag)] == ["CompoundSymmetry", "Diagonal"]


def test_offsets_add_up(table):
    spec = build_spec("y ~ offset(log(x)) + z + offset(z)", table, offset="neg")
    np.testing.assert_allclose(spec.offset, np.log(table.x) + table.z + table.neg, rtol=EXACT)
    np.testing.assert_allclose(spec.encoding.offset(table), spec.offset, rtol=EXACT)
    assert spec.fixed_names == ("Intercept", "z")
    assert build_spec("y ~ z", table).offset is None


def test_weights_by_name_and_by_array(table):
    for weights in ("x", table.x, table.x.tolist()):
        np.testing.assert_array_equal(build_spec("y ~ 1 + (1 | g)", table, weights=weights).weights, table.x)


def test_context_gives_names_and_wins_over_known_functions(table):
    spec = build_spec("y ~ 0 + I(k*x) + sqrt(x)", table, context={"k": 3.0, "sqrt": lambda v: v + 1})
    np.testing.assert_array_equal(spec.X, np.column_stack([3.0 * table.x, table.x + 1]))


def test_columns_win_over_the_context(table):
    assert build_spec("y ~ 0 + x", table, context={"x": 1.0}).X[3, 0] == 4.0


def test_spec_does_not_share_memory_with_the_users_array(table):
    weights = np.ones(12)
    spec = build_spec("y ~ 1 + (1 | g)", table, weights=weights)
    weights[:] = 7
    assert (spec.weights == 1).all()


NEW_DATA = [
    "poly(z, 2)",
    "scale(z)",
    "x * f",
    "C(x)",
    "bs(z, df=4)",
    "factor(g)",
    "s:z",
    "C(f, contr.sum)",
    "log(yield)",
]


@pytest.mark.parametrize("fixed", NEW_DATA)
def test_new_rows_are_encoded_as_the_old(table, fixed):
    encoding = build_spec(f"y ~ {fixed} + ({fixed} | h)", table, weights=np.arange(1.0, 13.0)).encoding
    X = encoding.fixed(table)
    rows = [7, 2]
    np.testing.assert_allclose(encoding.fixed(table.iloc[rows]), X[rows], rtol=EXACT, atol=EXACT)
    codes, columns = encoding.random(table.iloc[rows])[0]
    np.testing.assert_allclose(columns, X[rows], rtol=EXACT, atol=EXACT)
    np.testing.assert_array_equal(codes, [0, 1])


def test_new_rows_do_not_need_the_response_or_other_terms(table):
    spec = build_spec("y ~ x + (z | g)", table)
    np.testing.assert_array_equal(spec.encoding.fixed(table[["x"]]), spec.X)
    assert len(spec.encoding.random(table[["z", "g"]])) == 1


def test_unknown_levels_and_combinations_get_minus_one(table):
    encoding = build_spec("y ~ 1 + (1 | g) + (1 | g:h)", table).encoding
    new = pd.DataFrame({"g": [30.0, 5.0, np.nan, 100.0], "h": ["m", "m", "n", "unheard"]})
    (g, none), (gh, _) = encoding.random(new).values()
    assert none is None
    np.testing.assert_array_equal(g, [1, -1, -1, 2])
    np.testing.assert_array_equal(gh, [2, -1, -1, -1])


def test_new_rows_with_missing_values_are_nan(table):
    spec = build_spec("y ~ z + f + (z | g) + offset(x)", table)
    new = table.astype({"x": float})
    new.loc[0, "z"], new.loc[1, "f"], new.loc[2, "x"] = np.nan, None, np.nan
    X = spec.encoding.fixed(new)
    assert np.isnan(X[:2]).all()
    np.testing.assert_array_equal(X[2:], spec.X[2:])
    codes, columns = spec.encoding.random(new)[0]
    assert np.isnan(columns[0]).all() and not np.isnan(columns[1:]).any()
    np.testing.assert_array_equal(codes, spec.terms[0].Z)
    assert np.flatnonzero(np.isnan(spec.encoding.offset(new))).tolist() == [2]


def test_every_new_row_missing(table):
    encoding = build_spec("y ~ poly(z, 2)", table).encoding
    assert np.isnan(encoding.fixed(pd.DataFrame({"z": [np.nan, np.nan]}))).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"f": "q"}, "column 'f': level 'q' was not in the data of the fit, which had 'c', 'b', 'a'"),
        ({"x": 9}, r"levels that were not in the data of the fit: \{9\}"),
        ({"z": "text"}, "column 'z' held numbers in the fit and holds text or categories now"),
    ],
)
def test_new_rows_that_cannot_be_encoded(table, change, message):
    encoding = build_spec("y ~ f + C(x) + z + (1 | g)", table).encoding
    with pytest.raises(_errors.DataError, match=message):
        encoding.fixed(table.assign(**change))


def test_new_group_of_another_kind(table):
    encoding = build_spec("y ~ 1 + (1 | g)", table).encoding
    with pytest.raises(_errors.DataError, match="column 'g': its levels were like 4 in the fit and are like '30' now"):
        encoding.random(table.assign(g=table.g.astype(str).to_numpy()[0]))


def test_an_array_offset_has_no_new_rows(table):
    encoding = build_spec("y ~ x", table, offset=np.ones(12)).encoding
    with pytest.raises(_errors.DataError, match="offset= was an array"):
        encoding.offset(table)


def test_spec_pickles(table):
    spec = build_spec("y ~ poly(z, 2) + f + (1 + x | g) + offset(scale(z))", table)
    copy = pickle.loads(pickle.dumps(spec))
    np.testing.assert_array_equal(copy.encoding.fixed(table), spec.X)
    np.testing.assert_array_equal(copy.encoding.offset(table), spec.offset)


FORMULA_ERRORS = [  # formula, the part that is underlined, what the message says
    ("y ~ sqr(x)", "sqr", "unknown function 'sqr' (give your own in context=); did you mean 'sqrt'?"),
    ("y ~ (sqr(x) | g)", "sqr", "unknown function 'sqr'"),
    ("y ~ x x", "x x", "Missing operator"),
    ("y y ~ x", "y y", "cannot be read"),
    ("y ~ x + offset(z z)", "z z", "cannot be read"),
    ("y ~ .", ".", "cannot be read"),
    ("y ~ x + 5", "x + 5", "cannot be read"),
    ("y ~ x + (x x | g)", "x x", "cannot be read"),
    ("y ~ (0 | g)", "0", "no effect is left"),
    ("y ~ (1 | g) + (1 | g)", "(1 | g)", "there twice"),
    ("y ~ (1 | g/h) + (1 | h:g)", "(1 | h:g)", "there twice"),
    ("y ~ (x | g) + cs(1 + x | g)", "cs(1 + x | g)", "there twice"),
    ("y ~ (z + 1 | g) + (z | g)", "(z | g)", "there twice"),
]


@pytest.mark.parametrize(("formula", "place", "message"), FORMULA_ERRORS)
def test_formula_errors_underline_the_place(table, formula, place, message):
    with pytest.raises(_errors.FormulaError) as caught:
        build_spec(formula, table)
    *_, shown, marks = str(caught.value).splitlines()
    assert message in str(caught.value)
    assert shown.strip() == formula
    assert shown[marks.index("^") : len(marks)] == place


def test_a_name_cannot_be_column_and_function(table):
    with pytest.raises(_errors.FormulaError, match="'log' is a column and a function here"):
        build_spec("y ~ log + log(x)", table.assign(log=1.0))
    assert build_spec("y ~ 0 + log(x)", table.assign(log=1.0)).X[0, 0] == 0.0


DATA_ERRORS = [
    ("y ~ Z", "column 'Z' is not in the table .*; did you mean 'z'"),
    ("y ~ Sepal", "did you mean 'Sepal.Length'"),
    ("y ~ log(xx)", "column 'xx' is not in the table"),
    ("y ~ (1 | gg)", "column 'gg' is not in the table"),
    ("y ~ (xx | g)", "column 'xx' is not in the table"),
    ("f ~ x", "'f' is not numeric, it holds text or categories"),
    ("s ~ x", "'s' is not numeric, it holds text or categories"),
    ("flag ~ x", "'flag' is not numeric, it holds true/false"),
    ("I(x > 2) ~ z", r"'I\(x > 2\)' is not numeric, it holds true/false"),
    ("poly(y, 2) ~ x", "has shape"),
    ("y ~ offset(f)", "'f' is not numeric"),
    ("y ~ log(neg)", r"'log\(neg\)': 1 of 12 values are infinite or missing after the transformation"),
    ("y ~ x + (log(neg) | g)", r"'log\(neg\)': 1 of 12 values"),
    ("log(neg) ~ x", r"response 'log\(neg\)': 1 of 12 values"),
    ("y ~ poly(x)(2)", r"'1 \+ poly\(x\)\(2\)' cannot be evaluated"),
    ("y ~ (I(0*x) | g)", "zero in every row"),
]


@pytest.mark.parametrize(("formula", "message"), DATA_ERRORS)
def test_data_errors_name_the_column(table, formula, message):
    with pytest.raises(_errors.DataError, match=message):
        build_spec(formula, table)
