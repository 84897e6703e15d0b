"""`Pedigree`: what it reads and refuses, textbook numbers, groups of unknown parents, and its precision."""

import pickle

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from sparselmm._errors import DataError
from sparselmm.structures.conformance import check_precision
from sparselmm.structures.pedigree import Pedigree

from ..kernels.naive_pedigree import any_pedigree, ignoring_inbreeding, tabular
from .precisions import check, dense

NONE = np.empty(0)
EXACT = 1e-12  # sums of a few hundred positive terms of size one
INVERSE = 1e-9  # against numpy's inverse of A, whose condition number reaches 1e4
PRINTED = 1e-3  # three decimals, cut rather than rounded: 4.3585 is 4.358 in the book

# Mrode (2014), Linear Models for the Prediction of Animal Breeding Values, 3rd ed., table 2.1
MRODE = {"id": [3, 4, 5, 6], "sire": [1, 1, 4, 5], "dam": [2, None, 3, 2]}
MRODE_PARENTS = np.array([(-1, -1), (-1, -1), (0, 1), (0, -1), (3, 2), (4, 1)])
# ... and table 3.1, with animals 1-3 without records
CALVES = {"id": [4, 5, 6, 7, 8], "sire": [1, 3, 1, 4, 3], "dam": [None, 2, 2, 5, 6]}


def numbered(parents, shuffle=None):
    """A Pedigree with ids 0 ... n-1, its rows shuffled."""
    order = np.arange(len(parents)) if shuffle is None else shuffle.permutation(len(parents))
    sire, dam = np.where(parents >= 0, parents, np.nan)[order].T
    return Pedigree(order, sire, dam, monoecious=True)


# ---------------------------------------------------------------------------------------- textbook numbers


def test_mrode_table_2_1():
    """A as in the book's example 2.1, where the last two rows have 0.688 for 11/16 and so on."""
    A = np.array(
        [
            [16, 0, 8, 8, 8, 4],
            [0, 16, 8, 0, 4, 10],
            [8, 8, 16, 4, 10, 9],
            [8, 0, 4, 16, 10, 5],
            [8, 4, 10, 10, 18, 11],
            [4, 10, 9, 5, 11, 18],
        ]
    )
    P = Pedigree(**MRODE)
    np.testing.assert_array_equal(P.relationship(range(1, 7)), A / 16)
    np.testing.assert_array_equal(tabular(MRODE_PARENTS), A / 16)
    assert P.inbreeding[[1, 2, 3, 4, 5, 6]].tolist() == [0, 0, 0, 0, 0.125, 0.125]
    np.testing.assert_allclose(P.inverse().toarray(), np.linalg.inv(A / 16), atol=EXACT)


def test_mrode_animal_model_of_example_3_1():
    """Pre-weaning gain of calves 4-8, sex fixed, sigma2_a = 20, sigma2_e = 40: the solutions printed in the book."""
    P = Pedigree(**CALVES)
    y = np.array([4.5, 2.9, 3.9, 3.5, 5.0])
    male = np.array([1, 0, 0, 1, 1])
    X = np.column_stack([male, 1 - male])
    Z = np.eye(len(P))[P.index([4, 5, 6, 7, 8])]
    C = np.block([[X.T @ X, X.T @ Z], [Z.T @ X, Z.T @ Z + 40 / 20 * P.inverse().toarray()]])
    solution = np.linalg.solve(C, np.append(X.T @ y, Z.T @ y))
    np.testing.assert_allclose(solution[:2], [4.358, 3.404], atol=PRINTED)
    printed = [0.098, -0.019, -0.041, -0.009, -0.186, 0.177, -0.249, 0.183]
    np.testing.assert_allclose(solution[2:][P.index(range(1, 9))], printed, atol=PRINTED)


def test_parent_and_own_offspring_brother_and_sister():
    """F = 1/4 in both matings (Wright 1922)."""
    P = Pedigree(["o", "p", "fs", "po"], ["a", "a", "o", "a"], ["b", "b", "p", "p"])
    assert P.inbreeding["fs"] == P.inbreeding["po"] == 0.25


# ---------------------------------------------------------------------------------------- against the tabular method


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 60), unknown=st.sampled_from([0.0, 0.2, 0.7]))
def test_rows_in_any_order_give_the_tabular_matrix(seed, n, unknown):
    rng = np.random.default_rng(seed)
    parents = any_pedigree(rng, n, unknown, selfing=True)
    A, P = tabular(parents), numbered(parents, rng)
    np.testing.assert_allclose(P.inbreeding[np.arange(n)], np.diag(A) - 1, atol=EXACT)
    some = rng.integers(n, size=9)
    np.testing.assert_allclose(P.relationship(some), A[np.ix_(some, some)], atol=EXACT)
    np.testing.assert_allclose(P.inverse() @ A[np.ix_(P.ids, P.ids)], np.eye(n), atol=INVERSE)
    check(P.precision())


def test_inbreeding_can_be_ignored():
    parents = any_pedigree(np.random.default_rng(1), 80, 0.1)
    known = np.where(parents >= 0, parents, np.nan)
    P = Pedigree(np.arange(80), *known.T, inbreeding=False)
    assert not P.inbreeding.any() and "inbreeding ignored" in repr(P)
    A = ignoring_inbreeding(parents)[np.ix_(P.ids, P.ids)]
    np.testing.assert_allclose(P.inverse() @ A, np.eye(80), atol=INVERSE)
    np.testing.assert_allclose(P.relationship(P.ids), A, atol=EXACT)
    x = np.random.default_rng(1).normal(size=(len(P), 3))
    np.testing.assert_allclose(P.precision().covariance_times(x), A @ x, atol=1e-12)


def test_precision_is_the_inverse_and_keeps_the_contract():
    P = numbered(any_pedigree(np.random.default_rng(2), 50, 0.2))
    Q = P.precision()
    assert (Q.n_levels, Q.n_params, Q.null_dim) == (50, 0, 0)
    np.testing.assert_array_equal(dense(Q, NONE), P.inverse().toarray())
    assert Q.null_space().shape == (50, 0)
    check_precision(Q)


# ---------------------------------------------------------------------------------------- groups of unknown parents


def groups_of(rng, parents, n_groups):
    codes = rng.integers(n_groups, size=parents.shape)
    codes[np.nonzero(parents < 0)[0][:n_groups], np.nonzero(parents < 0)[1][:n_groups]] = np.arange(n_groups)
    return codes


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(3, 40))
def test_groups_are_phantom_parents(seed, n):
    """[I, -Q]' A^-1 [I, -Q] of Quaas (1988) from the dense A, with Q averaged from parents one row at a time."""
    rng = np.random.default_rng(seed)
    parents = any_pedigree(rng, n, 0.3, selfing=True)
    codes = groups_of(rng, parents, 3)
    known = np.where(parents >= 0, parents, np.nan)
    P = Pedigree(np.arange(n), *known.T, groups=(codes[:, 0], codes[:, 1]), monoecious=True)
    Q = np.zeros((n, 3))
    for j in range(n):
        for c in range(2):
            Q[j] += 0.5 * (Q[parents[j, c]] if parents[j, c] >= 0 else np.eye(3)[codes[j, c]])
    Q = Q[P.ids][:, list(P.group_labels)]
    B = np.hstack([np.eye(n), -Q])
    expected = B.T @ np.linalg.inv(tabular(parents)[np.ix_(P.ids, P.ids)]) @ B
    np.testing.assert_allclose(P.group_contributions(), Q, atol=EXACT)
    np.testing.assert_allclose(P.inverse_with_groups().toarray(), expected, atol=INVERSE)
    precision = P.precision()
    assert precision.null_dim == 3 and precision.n_levels == n + 3 == len(P.levels)
    np.testing.assert_allclose(dense(precision, NONE) @ precision.null_space(), 0, atol=INVERSE)
    N = precision.null_space().toarray()
    np.testing.assert_allclose(N.T @ N, np.eye(3), atol=EXACT)
    check_precision(precision)


def test_group_solutions_are_those_of_fixed_group_effects():
    """u* = Q g + a of the model y = Z(Q g + a) + e with g fixed (Quaas & Pollak 1981)."""
    rng = np.random.default_rng(5)
    parents = any_pedigree(rng, 60, 0.3)
    known, line = np.where(parents >= 0, parents, np.nan), np.where(np.arange(60) % 3, "old", "new")
    P = Pedigree(np.arange(60), *known.T, groups=line)
    y, ratio, Q = rng.normal(size=60) + 3, 2.0, P.group_contributions().to_numpy()
    A_inverse = P.inverse().toarray()
    fixed = np.linalg.solve(np.block([[Q.T @ Q, Q.T], [Q, np.eye(60) + ratio * A_inverse]]), np.append(Q.T @ y, y))
    Z = sp.hstack([sp.eye_array(60), sp.csc_array((60, 2))])
    merged = np.linalg.solve((Z.T @ Z + ratio * P.inverse_with_groups()).toarray(), Z.T @ y)
    np.testing.assert_allclose(merged[60:], fixed[:2], rtol=INVERSE)
    np.testing.assert_allclose(merged[:60], Q @ fixed[:2] + fixed[2:], rtol=INVERSE)


def test_groups_by_mapping_column_and_pair_are_the_same():
    ids, sire, dam = ["a", "b", "c"], [None, None, "a"], [None, None, "b"]
    by_column = Pedigree(ids, sire, dam, groups=["x", "y", None])
    by_pair = Pedigree(ids, sire, dam, groups=(["x", "y", "-"], pd.Series(["x", "y", None])))
    by_map = Pedigree(ids, sire, dam, groups={"a": "x", "b": ("y", "y")})
    pair = pd.DataFrame({"of_sire": ["x", "y", "-"], "of_dam": ["x", "y", None]})
    tables = [Pedigree(ids, sire, dam, groups=t) for t in (pair, pl.from_pandas(pair), pair.to_numpy())]
    for P in (by_column, by_pair, by_map, *tables):
        assert P.levels == ["a", "b", "c", "x", "y"]
        np.testing.assert_array_equal(P.inverse_with_groups().toarray(), by_map.inverse_with_groups().toarray())
    assert "2 groups of unknown parents" in repr(by_map)
    added = Pedigree(["c"], ["a"], [None], groups={"a": "x", "c": "y"})
    np.testing.assert_array_equal(added.group_contributions().loc["c"], [0.5, 0.5])


def test_every_unknown_parent_needs_a_group():
    with pytest.raises(DataError, match="1 animals have an unknown parent without a group: 'a'. .*mapping"):
        Pedigree(["c"], ["a"], [None], groups=["y"])
    with pytest.raises(DataError, match="groups has 1 rows, the pedigree 2"):
        Pedigree([1, 2], [None, None], [None, None], groups=["x"])
    with pytest.raises(DataError, match="groups has 3 columns"):
        Pedigree([1, 2], [None, None], [None, None], groups=np.full((2, 3), "x"))


# ---------------------------------------------------------------------------------------- reading


FRAME = pd.DataFrame({"id": [3, 4, 5, 6], "sire": [1, 1, 4, 5], "dam": [2, None, 3, 2]})
TEXT = {"id": list("cdef"), "sire": list("aade"), "dam": ["b", None, "c", "b"]}


@pytest.mark.parametrize(
    "columns",
    [
        MRODE,
        {name: np.array(values, dtype=object) for name, values in MRODE.items()},
        {name: FRAME[name] for name in FRAME},
        {name: FRAME[name].astype("Int64") for name in FRAME},
        {name: FRAME[name].astype("category") for name in FRAME},
        {name: FRAME[name].set_axis([9, 7, 5, 3]) for name in FRAME},
        {name: pl.Series(values) for name, values in MRODE.items()},
        {"id": MRODE["id"], "sire": MRODE["sire"], "dam": np.array([2, np.nan, 3, 2])},
        {"id": MRODE["id"], "sire": MRODE["sire"], "dam": [2, 0, 3, 2]},
        TEXT,
        {name: pd.Series(values) for name, values in TEXT.items()},
        {name: pd.Series(values, dtype="category") for name, values in TEXT.items()},
        {name: pl.Series(values) for name, values in TEXT.items()},
        {name: pl.Series(values, dtype=pl.Categorical) for name, values in TEXT.items()},
        TEXT | {"dam": ["b", "0", "c", "b"]},
        TEXT | {"dam": ["b", "", "c", "b"]},
        TEXT | {"dam": np.array(["b", ".", "c", "b"])},
    ],
)
def test_columns_of_any_kind(columns):
    P = Pedigree(**columns)
    names = [1, 2, 3, 4, 5, 6] if P.ids.dtype.kind == "i" else list("abcdef")
    np.testing.assert_array_equal(P.relationship(names), tabular(MRODE_PARENTS))
    assert P.n_added == 2 and P.n_founders == 2 and P.n_generations == 4 and len(P) == 6
    assert sorted(P.ids.tolist()) == names
    assert repr(P) == "Pedigree(6 animals, 2 founders (2 added), 4 generations, F mean 0.04167, max 0.125)"


def test_zero_and_the_like_are_unknown_only_where_no_animal_has_that_id():
    assert Pedigree([1, 2], [0, 1], [0, 0]).unknown_codes == (0,)
    assert Pedigree(["a", "b"], ["", "a"], [".", "0"]).unknown_codes == ("0", "", ".")
    P = Pedigree([0, 1], [None, 0], [None, None])
    assert P.unknown_codes == () and P.parents.tolist() == [[-1, -1], [0, -1]]


def test_all_parents_unknown_is_independence():
    P = Pedigree(["b", "a"], [None, None], [np.nan, np.nan])
    assert P.ids.tolist() == ["b", "a"] and repr(P).startswith("Pedigree(2 animals, 2 founders, 1 generations")
    np.testing.assert_array_equal(P.inverse().toarray(), np.eye(2))


def test_the_order_of_a_generation_is_that_of_the_rows():
    assert Pedigree([9, 4, 7, 2], [None, 9, None, 7], [None] * 4).ids.tolist() == [9, 7, 4, 2]


def test_large_whole_numbers_stay_apart():
    big = 840_003_123_456_789
    P = Pedigree([big, big + 1, 7], [None, None, big], [None, None, big + 1])
    assert P.parents.tolist() == [[-1, -1], [-1, -1], [0, 1]] and P.ids[0] == big


def test_rows_that_say_the_same_count_once():
    P = Pedigree([3, 3, 1, 3], [1, 1, None, 1], [2, 2, None, 2])
    assert (len(P), P.n_merged, P.n_added) == (3, 2, 1)


def test_it_is_frozen_and_pickles():
    P = Pedigree(**MRODE)
    with pytest.raises(AttributeError):
        P.F = np.zeros(6)
    with pytest.raises(ValueError, match="read-only"):
        P.F[0] = 1.0
    again = pickle.loads(pickle.dumps(P))
    assert repr(again) == repr(P)
    np.testing.assert_array_equal(again.inverse().toarray(), P.inverse().toarray())


# ---------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": [1, 1], "sire": [2, 3], "dam": [4, 4]}, "1 animals have several rows with different parents.*: 1. "),
        ({"id": list("aab"), "sire": ["x", None, "a"], "dam": [None] * 3}, "several rows .*: 'a'"),
        ({"id": [1, 2], "sire": [1, None], "dam": [None, None]}, "1 animals are their own parent: 1$"),
        ({"id": [1, 2], "sire": [9, 8], "dam": [8, None]}, "1 animals are both sire and dam: 8.*monoecious"),
        ({"id": [1], "sire": [9], "dam": [9]}, "1 animals are both sire and dam: 9"),
        (
            {"id": list("abcd"), "sire": ["c", "a", "b", "a"], "dam": [None] * 4},
            "loop of 3 animals.*: '(a' -> 'b' -> 'c' -> 'a|b' -> 'c' -> 'a' -> 'b|c' -> 'a' -> 'b' -> 'c)'",
        ),
        ({"id": [1, 2], "sire": [1.5, 2], "dam": [None, None]}, "sire has 1 values that are no whole.*1.5"),
        ({"id": [1, 2], "sire": [2.0**60, 2], "dam": [None, None]}, "below 2\\^53"),
        ({"id": [1, 2], "sire": ["1", None], "dam": [None, None]}, "id holds numbers and sire holds text"),
        ({"id": [1, "b"], "sire": [None, None], "dam": [None, None]}, "id holds mixed-integer values"),
        ({"id": [True, False], "sire": [None, None], "dam": [None, None]}, "id holds boolean values"),
        ({"id": [1, None], "sire": [None, 1], "dam": [None, None]}, "1 ids .* missing, the first in row 1"),
        ({"id": [None], "sire": [1], "dam": [None]}, "every id is missing"),
        ({"id": [], "sire": [], "dam": []}, "the pedigree is empty"),
        ({"id": [1, 2], "sire": [None], "dam": [None, None]}, "unequal lengths .*'sire': 1"),
        ({"id": np.ones((2, 2)), "sire": [None], "dam": [None]}, r"id must be a column, it has shape \(2, 2\)"),
    ],
)
def test_bad_pedigrees(columns, message):
    with pytest.raises(DataError, match=message):
        Pedigree(**columns)


def test_a_long_loop_is_shortened():
    with pytest.raises(DataError, match=r"loop of 40 animals.*(\d+ -> ){10}\.\.\."):
        Pedigree(np.arange(40) + 1, np.roll(np.arange(40) + 1, 1), [None] * 40)


def test_plants_may_be_both():
    P = Pedigree([2, 3], [1, 2], [1, 1], monoecious=True)
    np.testing.assert_array_equal(P.relationship([1, 2, 3]), tabular(np.array([(-1, -1), (0, 0), (1, 0)])))


def test_a_line_selfed_for_ever_is_singular():
    lines = np.arange(60)
    P = Pedigree(lines + 1, lines, lines, monoecious=True)
    assert P.inbreeding[60] == pytest.approx(1.0)
    with pytest.raises(DataError, match="A is singular: the parents of .* animals are inbred completely"):
        P.precision()


def test_ids_that_are_not_there():
    P = Pedigree(**TEXT)
    assert P.ids[P.index(["f", "a", "f"])].tolist() == ["f", "a", "f"] and P.index("a").tolist() == [0]
    with pytest.raises(DataError, match="2 of 3 ids are not in the pedigree: 'ff', 'zz' .close to 'ff': 'f'."):
        P.index(["a", "ff", "zz"])
    with pytest.raises(DataError, match="ids hold numbers, those of the pedigree are text"):
        P.index([1, 2])
    with pytest.raises(DataError, match="7 of 7 ids .*: 11, 12, 13, 14, 15 and 2 more"):
        Pedigree(**MRODE).index(np.arange(11, 18))
    assert Pedigree(**MRODE).index([6.0, 1.0]).tolist() == [5, 0]
    with pytest.raises(DataError, match="1 of 2 ids are not in the pedigree: None"):
        P.index(["a", None])


def test_close_matches_among_many():
    names = [f"cow{i}" for i in range(20_001)]
    with pytest.raises(DataError, match="close to 'cow1x': .*'cow1"):
        Pedigree(names, [None] * 20_001, [None] * 20_001).index(["cow1x"])
