"""The selected inverse against a dense inverse: narrow, wide and merged supernodes, by loops and by BLAS."""

import numpy as np
import pytest

from sparselmm.kernels.blas import blas
from sparselmm.kernels.selinv import LOOPS, Columns, front_positions, selected_inverse, supernodes
from tests.kernels.test_symbolic import PATTERNS, eliminate

RTOL = 1e-12  # of the largest entry of the inverse; condition numbers are below 100


def banded(q, width):
    return np.abs(np.subtract.outer(np.arange(q), np.arange(q))) <= width


def blocks(*sizes):
    label = np.repeat(np.arange(len(sizes)), sizes)
    return label[:, None] == label


def with_dense_tail(A, width):
    """A and `width` more columns that meet everything."""
    q = len(A) + width
    out = np.ones((q, q), bool)
    out[: len(A), : len(A)] = A
    return out


WIDE = {
    "tridiagonal": banded(50, 1),
    "band": banded(70, 9),
    "one dense block": np.ones((193, 193), bool),
    "one dense block, by loops": np.ones((9, 9), bool),
    "dense blocks of a forest": blocks(3, 1, 101, 7),
    "diagonal with a wide tail": with_dense_tail(np.eye(60, dtype=bool), 116),
    "blocks with a wide tail": with_dense_tail(blocks(2, 30, 5, 40), 50),
    "band with a tail": with_dense_tail(banded(40, 2), 10),
}
ALL = PATTERNS | WIDE


def factor(A, seed):
    """A positive definite matrix on the pattern of A and its L in CSC, with every structural entry stored."""
    q, rng = len(A), np.random.default_rng(seed)
    values = np.where(A | np.eye(q, dtype=bool), rng.normal(size=(q, q)), 0.0)
    M = values + values.T
    M += np.diag(1.0 + np.abs(M).sum(axis=1))
    L, pattern = np.linalg.cholesky(M), eliminate(A)
    rows, cols = np.nonzero(pattern.T)[::-1]
    indptr = np.concatenate([[0], np.cumsum(pattern.sum(axis=0))])
    return M, L[rows, cols], rows.astype(np.int64), indptr.astype(np.int64)


def columns(indptr, indices):
    return Columns(indptr[:-1], indptr[:-1], np.diff(indptr), indices)


def inverse_at(S, where, data, rows, cols):
    """Entries (rows, cols) of the inverse, and where each lies."""
    place, owner = np.empty(len(rows), np.int64), S.tree.owner[cols]
    front_positions(S, rows, cols, place)
    order = np.argsort(owner, kind="stable")
    ends = np.searchsorted(owner[order], np.arange(len(S.tree.size) + 1))
    stack, other, panel = (np.full(n, np.nan) for n in S.tree.lengths)
    out = np.full(len(rows), np.nan)
    selected_inverse(S, where, data, blas(), (stack, other), panel, ends, order, place, out)
    return out


@pytest.mark.parametrize("name", ALL)
def test_equals_the_dense_inverse_on_the_pattern_of_L(name):
    M, data, indices, indptr = factor(ALL[name], len(name))
    where = columns(indptr, indices)
    cols = np.repeat(np.arange(len(M)), np.diff(indptr))
    found = inverse_at(supernodes(where), where, data, indices, cols)
    expected = np.linalg.inv(M)
    np.testing.assert_allclose(found, expected[indices, cols], rtol=0, atol=RTOL * np.abs(expected).max())


def test_both_ways_of_a_front_are_taken():
    """So that the test above covers loops and BLAS, with and without rows below."""
    kinds = set()
    for A in ALL.values():
        tree = supernodes(columns(*factor(A, 1)[:1:-1])).tree
        width = np.diff(tree.first)
        kinds |= set(zip((width * tree.size**2 < LOOPS).tolist(), (tree.size > width).tolist(), strict=True))
    assert len(kinds) == 4


@pytest.mark.parametrize("name", ALL)
def test_positions_of_absent_entries(name):
    _, _, indices, indptr = factor(ALL[name], 1)
    S = supernodes(columns(indptr, indices))
    rows, cols = np.nonzero(np.tril(~eliminate(ALL[name])))
    place = np.full(len(rows), 77)
    front_positions(S, rows, cols, place)
    fronts = [set(S.rows[S.start[s] : S.start[s + 1]].tolist()) for s in range(len(S.tree.size))]
    held = [row in fronts[S.tree.owner[col]] for row, col in zip(rows, cols, strict=True)]
    np.testing.assert_array_equal(place >= 0, held)


@pytest.mark.parametrize("name", ALL)
def test_fronts_hold_the_rows_of_their_columns(name):
    """And what lies below is held by the parent's, at the places given."""
    _, _, indices, indptr = factor(ALL[name], 1)
    S = supernodes(columns(indptr, indices))
    first = S.tree.first
    assert first[0] == 0 and first[-1] == len(indptr) - 1 and (np.diff(first) > 0).all()
    for s, p in enumerate(S.tree.parent):
        rows, width = S.rows[S.start[s] : S.start[s + 1]], first[s + 1] - first[s]
        np.testing.assert_array_equal(rows[:width], np.arange(first[s], first[s + 1]))
        for j in rows[:width]:
            assert set(indices[indptr[j] : indptr[j + 1]].tolist()) <= set(rows[rows >= j].tolist())
        if len(rows) > width:
            above = S.rows[S.start[p] : S.start[p + 1]]
            np.testing.assert_array_equal(above[S.relative[S.start[s] + width : S.start[s + 1]]], rows[width:])


@pytest.mark.parametrize("name", ALL)
def test_no_front_is_written_over_while_a_child_may_read_it(name):
    _, _, indices, indptr = factor(ALL[name], 1)
    tree = supernodes(columns(indptr, indices)).tree
    owner = [np.full(n, -1) for n in tree.lengths[:2]]
    np.testing.assert_array_equal(np.sort(tree.walk), np.arange(len(tree.size)))
    for s in tree.walk:
        p = tree.parent[s]
        if p >= 0:
            assert (owner[tree.side[p]][tree.top[p] : tree.top[p] + tree.size[p] ** 2] == p).all()
            assert tree.side[s] != tree.side[p]
        owner[tree.side[s]][tree.top[s] : tree.top[s] + tree.size[s] ** 2] = s


@pytest.mark.parametrize(
    ("name", "expected"),
    [("diagonal", list(range(21))), ("one dense block", [0, 193]), ("arrow, no fill", [*range(24), 25])],
)
def test_supernodes_by_hand(name, expected):
    """The columns of an arrow are leaves of its last one: only the last two are parent and child in a row."""
    _, _, indices, indptr = factor(ALL[name], 1)
    first = supernodes(columns(indptr, indices)).tree.first
    np.testing.assert_array_equal(first, expected)
