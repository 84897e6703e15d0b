"""Kernels of absorption, one by one, against blocks of dense matrices."""

import numpy as np
import pytest

from sparselmm.engines.absorb import make_plan
from sparselmm.engines.tails import schur_pattern
from sparselmm.kernels import absorb, absorb_inverse
from tests.engines.test_absorb import CASES
from tests.engines.test_cholmod import lower_pattern, values_on

RTOL = 1e-12  # the same sums in another order, matrices of condition below 100


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=RTOL * max(1.0, np.abs(expected).max(initial=0.0)))


class Split:
    """M with the absorbed columns apart: D, B (absorbed x tail), A and the naive results."""

    def __init__(self, name):
        blocks, pattern = CASES[name]
        self.pattern = lower_pattern(pattern)
        self.m = m = make_plan(self.pattern, tuple(blocks)).meetings
        self.values, self.M = values_on(self.pattern, 3)
        own = np.arange(m.lo, m.hi)
        rest = np.delete(np.arange(self.pattern.q), own)
        self.own, self.rest = own, rest
        self.D, self.B, self.A = (self.M[np.ix_(i, j)] for i, j in ((own, own), (own, rest), (rest, rest)))
        self.root = np.linalg.cholesky(self.D)
        self.W = np.linalg.solve(self.root, self.B)
        self.S = self.A - self.W.T @ self.W
        self.H = np.linalg.inv(self.S)

    def eliminated(self):
        """L and W by the kernel, over all levels."""
        m, L = self.m, np.zeros((self.m.m, self.m.r, self.m.r))
        W = np.empty((len(m.tail), m.r))
        p = self.pattern
        assert absorb.eliminate(0, m.m, self.values, p.indptr, m.lo, m.start, m.before, m.place, L, W)
        return L, W


@pytest.fixture(params=CASES)
def split(request):
    return Split(request.param)


def test_meetings_are_the_blocks_that_are_not_zero(split):
    m = split.m
    meets = split.B.reshape(m.m, m.r, -1).any(axis=1)
    np.testing.assert_array_equal(np.diff(m.start), meets.sum(axis=1))
    np.testing.assert_array_equal(m.tail, np.nonzero(meets)[1])
    np.testing.assert_array_equal(np.diff(m.columns), meets.sum(axis=0))
    np.testing.assert_array_equal(m.level, np.nonzero(meets.T)[1])
    np.testing.assert_array_equal(m.tail[m.at], np.nonzero(meets.T)[0])
    np.testing.assert_array_equal(np.diff(m.before), meets[:, : m.lo].sum(axis=1))
    pairs = meets.T.astype(int) @ meets  # of columns that one level meets
    np.testing.assert_array_equal(np.diff(m.work), 1 + m.r * (np.triu(pairs) + pairs).sum(axis=1))


def test_eliminate(split):
    L, W = split.eliminated()
    m = split.m
    for i in range(m.m):
        block = slice(i * m.r, (i + 1) * m.r)
        close(np.tril(L[i]), split.root[block, block])
        close(W[m.start[i] : m.start[i + 1]].T, split.W[block, m.tail[m.start[i] : m.start[i + 1]]])


def test_schur_complement_dense_and_sparse(split):
    (_, W), m, p = split.eliminated(), split.m, split.pattern
    arguments = (split.values, p.indptr, p.indices, m.lo, m.hi, m.start, m.tail, m.columns, m.at, m.level, W)
    S = np.full((m.q2, m.q2), np.nan)
    absorb.schur_dense(0, m.q2, *arguments, S)
    close(S[np.triu_indices(m.q2)], split.S[np.triu_indices(m.q2)])
    inner = schur_pattern(m)
    values = np.full(inner.nnz, np.nan)
    absorb.schur_sparse(0, m.q2, *arguments, inner.indptr, inner.indices, values)
    close(values, split.S[inner.indices, np.repeat(np.arange(m.q2), np.diff(inner.indptr))])


def test_pattern_of_the_schur_complement(split):
    """Of |A| + |B|'|B|, where nothing cancels."""
    inner = schur_pattern(split.m)
    full = np.tril(np.abs(split.A) + np.abs(split.B).T @ np.abs(split.D) @ np.abs(split.B)) > 0
    rows, cols = np.nonzero(full.T)[::-1]
    np.testing.assert_array_equal(inner.indices, rows)
    np.testing.assert_array_equal(np.repeat(np.arange(split.m.q2), np.diff(inner.indptr)), cols)


def test_solves(split):
    (L, W), m = split.eliminated(), split.m
    right, y = np.random.default_rng(1).normal(size=(2, split.pattern.q, 3))
    Z = np.empty((m.hi - m.lo, 3))
    absorb.forward(0, m.m, m.lo, L, right, Z)
    expected = np.linalg.solve(split.root, right[split.own])
    close(Z, expected)
    out = np.empty((m.q2, 3))
    absorb.reduce(0, m.q2, m.lo, m.hi, m.columns, m.at, m.level, W, right, Z, out)
    close(out, right[split.rest] - split.W.T @ expected)
    y = np.ascontiguousarray(y[: m.q2])
    absorb.backward(0, m.m, m.start, m.tail, L, W, y, Z)
    close(Z, np.linalg.solve(split.root.T, expected - split.W @ y))


@pytest.mark.parametrize("half", [False, True])
def test_inverse(split, half):
    """All entries on the pattern; half: those within the absorbed columns and within the tail."""
    (L, W), m, p = split.eliminated(), split.m, split.pattern
    G, out, H = np.full_like(W, np.nan), np.full(p.nnz, np.nan), np.triu(split.H)
    if not half:
        absorb_inverse.symmetrise(0, -(-m.q2 // absorb_inverse.TILE), H)
        close(H, split.H)
    places = (p.indptr, p.indices, m.lo, m.hi, m.start, m.tail, m.columns, m.at, m.level, W)
    absorb_inverse.inverse_dense(0, m.q2, *places, H, half, G, out)
    absorb_inverse.absorbed_entries(0, m.m, p.indptr, m.lo, m.start, m.before, m.place, L, W, G, half, out)
    rows, cols = p.indices, np.repeat(np.arange(p.q), np.diff(p.indptr))
    inside = np.isin(rows, split.own) == np.isin(cols, split.own)
    known = inside if half else np.ones_like(inside)
    close(out[known], np.linalg.inv(split.M)[rows, cols][known])


def test_symmetrise_in_tiles():
    rng = np.random.default_rng(2)
    H = rng.normal(size=(2 * absorb_inverse.TILE + 7,) * 2)
    expected = np.triu(H) + np.triu(H, 1).T
    absorb_inverse.symmetrise(0, 2, H)
    absorb_inverse.symmetrise(2, 3, H)
    np.testing.assert_array_equal(H, expected)
