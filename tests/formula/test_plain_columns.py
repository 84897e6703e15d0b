"""Columns that are made without formulaic: the same as formulaic makes of all rows."""

import formulaic
import numpy as np
import pandas as pd
import pytest

import sparselmm as slm
from sparselmm.formula import build_spec
from sparselmm.formula.groups import code_column

N = 60


@pytest.fixture
def table():
    rng = np.random.default_rng(4)
    return pd.DataFrame(
        {
            "y": rng.normal(size=N),
            "x": rng.normal(size=N),
            "whole": rng.integers(0, 9, N),
            "f": pd.Categorical(rng.permutation(list("abc") * 20), categories=["c", "a", "b", "unused"]),
            "two words": pd.Categorical(["u"] * 50 + ["v"] * 10),
            "one": pd.Categorical(["only"] * N),
            "yes": rng.random(N) < 0.5,
            "g": np.tile(np.arange(12), 5),
        }
    )


@pytest.mark.parametrize(
    "fixed",
    ["1", "x", "0 + x", "x + f", "0 + f + x", "f + `two words` + whole", "0 + f + `two words`", "x * f", "scale(x)",
     "yes", "one + x", "x + I(x**2)", "poly(x, 2) + f", "C(f, contr.sum) + x"],
)  # fmt: skip
def test_the_same_columns_as_formulaic(table, fixed):
    used = table.assign(f=table.f.cat.remove_unused_categories(), whole=table.whole.astype(float))
    expected = formulaic.model_matrix(fixed, used, na_action="ignore", context={})
    spec = build_spec(f"y ~ {fixed} + (1 | g)", table)
    assert spec.fixed_names == tuple(expected.columns)
    np.testing.assert_array_equal(spec.X, np.asarray(expected, dtype=float))
    np.testing.assert_array_equal(spec.encoding.fixed(table.iloc[::7]), spec.X[::7])


def test_a_left_side_shares_the_columns_of_the_fixed_part(table):
    spec = build_spec("y ~ x + (x | g)", table)
    assert spec.terms[0].columns is spec.X


def test_a_column_named_as_a_function_is_a_column(table):
    spec = build_spec("y ~ log + (1 | g)", table.rename(columns={"x": "log"}))
    np.testing.assert_array_equal(spec.X[:, 1], table.x)


@pytest.mark.parametrize("values", [[5, -2, 5, 9], [2**62, -(2**62), 0, 0], [0, 10**6, 3, 3]])
def test_codes_of_integers_near_and_far(values):
    codes, labels = code_column(pd.Series(values))
    expected = np.unique(values, return_inverse=True)
    assert (list(labels), codes.tolist()) == (expected[0].tolist(), expected[1].tolist())


def test_a_table_changed_later_leaves_the_model_alone(table):
    model = slm.LinearMixedModel("y ~ x + (x | g)", table)
    before = model.spec.X.copy(), model.spec.y.copy()
    table.loc[:, ["x", "y"]] = 0.0
    np.testing.assert_array_equal(model.spec.X, before[0])
    np.testing.assert_array_equal(model.spec.y, before[1])
