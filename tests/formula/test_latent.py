"""Words with correlated levels in formulas: what they mean, errors with their place, new rows."""

import numpy as np
import pandas as pd
import polars as pl
import pytest

import sparselmm as slm
from sparselmm import DataError, FormulaError, ModelError
from sparselmm.formula import build_spec

PEDIGREE = slm.Pedigree(range(1, 7), [None, None, 1, 1, 4, 5], [None, None, 2, None, 3, 2], monoecious=True)


@pytest.fixture(scope="module")
def frame():
    """Two series with a gap (no time 3) and a shared time; six animals of which two have no row."""
    return pd.DataFrame({
        "y": np.random.default_rng(0).normal(size=12),
        "g": list("aaaabbbbbbaa"),
        "t": [1, 2, 4, 5, 2, 4, 5, 6, 7, 7, 6, 7],
        "x": np.linspace(0, 1, 12),
        "id": [1, 2, 3, 4] * 3,
        "row": [1, 2, 3] * 4,
        "col": [1, 1, 1, 2, 2, 2, 4, 4, 4, 5, 5, 5],
    })  # fmt: skip


def term(formula, frame, **context):
    return build_spec(formula, frame, context={"P": PEDIGREE, "Q": slm.Known(np.eye(3)), **context}).terms[0]


def test_gaps_are_states_and_equal_times_share_one(frame):
    ar1 = term("y ~ ar1(0 + t | g)", frame)
    labels = list(ar1.levels)
    assert labels == [("a", t) for t in range(1, 8)] + [("b", t) for t in range(2, 8)]
    assert [labels[c] for c in ar1.Z] == list(zip(frame.g, frame.t, strict=True))
    ou = term("y ~ ou(0 + t | g)", frame)
    assert list(ou.levels) == sorted(set(zip(frame.g, frame.t.astype(float), strict=True)))
    assert ou.describe() == "ou(0 + t | g)" and ou.effects == ("ou(t)",)


def test_one_series_and_products(frame):
    assert term("y ~ ar1(0 + t)", frame).n_levels == 7
    product = term("y ~ ar1(0 + row):ar1(0 + col)", frame)
    assert product.n_levels == 3 * 5 and product.describe() == "ar1(0 + row):ar1(0 + col)"
    assert [product.levels[c] for c in product.Z] == list(zip(frame.row, frame.col, strict=True))


def test_a_field_for_each_level_of_a_group(frame):
    fields = term("y ~ ar1(0 + row | g):ou(0 + col | g)", frame)
    assert fields.describe() == "ar1(0 + row | g):ou(0 + col | g)" and fields.name == "g"
    assert [fields.levels[c] for c in fields.Z] == list(zip(frame.g, frame.row, frame.col, strict=True))
    seen = frame.groupby("g")
    cells = [(g, r, c) for g, part in seen for r in range(1, 4) for c in sorted(set(part.col.astype(float)))]
    assert list(fields.levels) == cells
    nested = build_spec("y ~ ar1(0 + row | g/x):ar1(0 + col | g/x)", frame.assign(x=frame.x > 0.5)).terms
    assert [t.name for t in nested] == ["g", "g:x"]


def test_animals_without_rows_are_levels(frame):
    ped = term("y ~ ped(1 + x | id, P)", frame)
    assert list(ped.levels) == list(PEDIGREE.ids) and ped.effects == ("ped(Intercept)", "ped(x)")
    assert [ped.levels[c] for c in ped.Z] == frame.id.tolist()


def test_ordered_categories_are_times(frame):
    names = ["one", "two", "three", "four", "five", "six", "seven"]
    named = frame.assign(t=pd.Categorical.from_codes(frame.t - 1, names, ordered=True))
    left, right = term("y ~ ar1(0 + t | g)", named), term("y ~ ar1(0 + t | g)", frame)
    assert left.n_levels == right.n_levels == 13  # no row has the third time: a gap, in both
    np.testing.assert_array_equal(left.Z, right.Z)
    assert list(left.levels) == [(g, names[t - 1]) for g, t in right.levels]  # as people know them
    field = term("y ~ ar1(0 + t):ar1(0 + col)", named)
    assert list(field.levels)[:2] == [("one", 1), ("one", 2)]
    fit = slm.lmm("y ~ ou(0 + t | g)", named, fixed={"sd_ou(t)|g": 0.7, "kappa_ou(t)|g": 0.5, "sigma": 1.0})
    numbers = slm.lmm("y ~ ou(0 + t | g)", frame, fixed={"sd_ou(t)|g": 0.7, "kappa_ou(t)|g": 0.5, "sigma": 1.0})
    np.testing.assert_allclose(fit.predict(named), numbers.predict(frame), rtol=1e-12)
    assert fit.ranef()["g"].loc[("a", "one")].item() == pytest.approx(numbers.ranef()["g"].loc[("a", 1)].item())
    knots = term("y ~ ou(0 + t, knots=[0.5])", named)
    assert list(knots.levels)[:3] == [0.0, 0.5, 1.0]  # between two categories
    with pytest.raises(DataError, match="unordered categories"):
        term("y ~ ar1(0 + t | g)", frame.assign(t=frame.t.astype(str)))


@pytest.mark.parametrize("formula", ["y ~ x + ar1(0 + t | g)", "y ~ ou(0 + t | g)", "y ~ ped(1 | id, P)"])
def test_order_of_rows_kind_of_table_and_new_rows(frame, formula):
    given = {"reml": True, "context": {"P": PEDIGREE}, "fixed": None}
    held = {name: 0.5 for name in slm.lmm(formula, frame, **given).varpar.index}
    given["fixed"] = held
    fit = slm.lmm(formula, frame, **given)
    for other in (frame.sample(frac=1, random_state=1), pl.from_pandas(frame)):
        assert slm.lmm(formula, other, **given).deviance == pytest.approx(fit.deviance, rel=1e-12)
    np.testing.assert_allclose(fit.predict(frame), fit.fitted, rtol=0, atol=1e-12)
    unknown = frame.assign(t=99, id=2)
    expected = fit.predict(unknown, re="ped" in formula)
    np.testing.assert_allclose(fit.predict(unknown), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("formula", "place", "message"),
    [
        ("y ~ ar1(t | g)", "ar1(t | g)", "one column of times"),
        ("y ~ ar1(0 + t + x | g)", "ar1(0 + t + x | g)", "one column of times"),
        ("y ~ ar1(0 + t || g)", "||", "inside ar1"),
        ("y ~ ar1(0 + t | g, begin='free')", "ar1(0 + t | g, begin='free')", "no option 'begin'"),
        ("y ~ x - ar1(0 + t | g)", "- ar1(0 + t | g)", "cannot be taken away"),
        ("y ~ x*ar1(0 + t | g)", "ar1(0 + t | g)", "stands alone"),
        ("y ~ ar1()", "ar1()", "is empty"),
        ("y ~ ped(1 | id)", "ped(1 | id)", "is written ped"),
        ("y ~ ar1(0 + row):ped(1 | id, P)", "ar1(0 + row):ped(1 | id, P)", "a product is of two series"),
        ("y ~ ar1(0 + row)*ar1(0 + col)", "ar1", "a product of two series is written ar1"),
        ("y ~ ar1(0 + row) x ar1(0 + col)", "ar1", "a product of two series is written ar1"),
        ("y ~ ped(1 | id + x, P):ar1(0 + t)", "ped(1 | id + x, P):ar1(0 + t)", "a product is of two series"),
        ("y ~ ar1(0 + row | g):ar1(0 + col)", "ar1(0 + row | g):ar1(0 + col)", "with the same group"),
        ("y ~ ar1(0 + row | g):ar1(0 + col | id)", "ar1(0 + row | g):ar1(0 + col | id)", "with the same group"),
        ("y ~ (ar1(0 + row):ar1(0 + col) | g)", "ar1", "for each level of a group ar1"),
        ("y ~ rw1(0 + row):ar1(0 + col)", "rw1(0 + row):ar1(0 + col)", "two proper series"),
    ],
)
def test_errors_underline_the_place(frame, formula, place, message):
    with pytest.raises(FormulaError, match=message) as caught:
        term(formula, frame)
    assert formula[caught.value.start : caught.value.end] == place


@pytest.mark.parametrize(
    ("formula", "error", "message"),
    [
        ("y ~ ar1(0 + x | g)", DataError, "ar1\\(\\) counts integer steps"),
        ("y ~ ped(1 | id, R)", ModelError, "'R' is not known"),
        ("y ~ ar1(0 + t | g, start=free)", ModelError, "'free' is not known: .* or in quotes, 'free'"),
        ("y ~ ar1(0 + g)", DataError, "time 'g' holds text or unordered categories: .*ordered=True"),
        ("y ~ ped(1 | id, Q)", ModelError, "P is a Pedigree"),
        ("y ~ ped(1 | col, P)", None, ""),
        ("y ~ ped(1 | t, P)", DataError, "7"),
        ("y ~ known(1 | id, Q)", DataError, "not in the matrix"),
    ],
)
def test_errors_of_data_and_objects(frame, formula, error, message):
    if error is None:
        assert term(formula, frame).n_levels == len(PEDIGREE)
        return
    with pytest.raises(error, match=message):
        term(formula, frame)


def test_a_null_space_that_is_not_told_is_refused():
    """A product of intrinsic precisions has one, of eight directions here, and does not say which."""
    from sparselmm.structures import Kronecker
    from sparselmm.structures.rw import RW1

    walk = RW1(np.arange(5.0), [5])
    term = slm.RandomTerm(np.arange(25), Q=Kronecker(walk, walk))
    with pytest.raises(ModelError, match="null space of dimension 9 and lacks null_space"):
        slm.LinearMixedModel.from_arrays(np.arange(25.0) ** 2, np.ones((25, 1)), [term]).fit()
