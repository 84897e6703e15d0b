"""The selected inverse against a dense inverse, over patterns with narrow, wide and cut supernodes."""

import numpy as np
import pytest

from sparselmm.kernels.selinv import MAX_WIDTH, panel_positions, selected_inverse, supernodes
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
    "one dense block, cut once": np.ones((MAX_WIDTH + 30,) * 2, bool),
    "one dense block, cut twice": np.ones((2 * MAX_WIDTH + 1,) * 2, bool),
    "exactly the widest": np.ones((MAX_WIDTH,) * 2, bool),
    "dense blocks of a forest": blocks(3, 1, MAX_WIDTH + 5, 7),
    "diagonal with a wide tail": with_dense_tail(np.eye(60, dtype=bool), MAX_WIDTH + 20),
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


def panels(indptr, indices):
    """First columns, places of the panels and owners of the columns."""
    first = np.empty(len(indptr), np.int64)
    first = first[: supernodes(indptr, indices, first) + 1]
    width, rows = np.diff(first), np.diff(indptr)[first[:-1]]
    return first, np.concatenate([[0], np.cumsum(width * rows)]), np.repeat(np.arange(len(width)), width)


@pytest.mark.parametrize("name", ALL)
def test_equals_the_dense_inverse_on_the_pattern_of_L(name):
    M, data, indices, indptr = factor(ALL[name], len(name))
    first, start, owner = panels(indptr, indices)
    Z = np.full(start[-1], np.nan)
    selected_inverse(first, start, owner, indptr, indices, data, Z)
    cols = np.repeat(np.arange(len(M)), np.diff(indptr))
    place = np.empty(len(cols), np.int64)
    panel_positions(first, start, indptr, indices, indices, cols, place)
    assert (place >= 0).all()
    expected = np.linalg.inv(M)
    np.testing.assert_allclose(Z[place], expected[indices, cols], rtol=0, atol=RTOL * np.abs(expected).max())


@pytest.mark.parametrize("name", ALL)
def test_positions_of_absent_entries(name):
    _, _, indices, indptr = factor(ALL[name], 1)
    first, start, _ = panels(indptr, indices)
    rows, cols = np.nonzero(np.tril(~eliminate(ALL[name])))
    place = np.full(len(rows), 77)
    panel_positions(first, start, indptr, indices, rows, cols, place)
    assert (place == -1).all()


@pytest.mark.parametrize("name", ALL)
def test_supernodes_share_their_rows(name):
    """Columns of a supernode have the same rows below it; the widest has MAX_WIDTH columns."""
    _, _, indices, indptr = factor(ALL[name], 1)
    first, _, _ = panels(indptr, indices)
    rows = [set(indices[indptr[j] : indptr[j + 1]].tolist()) for j in range(len(indptr) - 1)]
    assert first[0] == 0 and first[-1] == len(rows)
    for lo, hi in zip(first, first[1:], strict=False):
        assert 1 <= hi - lo <= MAX_WIDTH
        for j in range(lo + 1, hi):
            assert rows[j] == rows[lo] - set(range(lo, j))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("diagonal", list(range(21))),
        ("one dense block, cut twice", [0, MAX_WIDTH, 2 * MAX_WIDTH, 2 * MAX_WIDTH + 1]),
        ("tridiagonal", [*range(49), 50]),
    ],
)
def test_supernodes_by_hand(name, expected):
    """A tridiagonal L has two rows a column, so that only the last two columns belong together."""
    _, _, indices, indptr = factor(ALL[name], 1)
    np.testing.assert_array_equal(panels(indptr, indices)[0], expected)
