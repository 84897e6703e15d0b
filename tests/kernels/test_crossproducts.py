"""Cross-products of coded designs against dense designs made row by row."""

import numpy as np
import pytest

from sparselmm.kernels.crossproducts import (
    count_pairs,
    is_sorted,
    level_grams,
    level_sums,
    list_pairs,
    nested_in,
    nested_sums,
    pair_sums,
    rows_by_level,
    spread,
    table_sums,
)

RTOL = 1e-12  # the same sums in another order
N, M = 50, 6


def design(codes, columns, m=M):
    """Z, n x (m r)."""
    n, r = columns.shape
    Z = np.zeros((n, m * r))
    for i in range(n):
        for a in range(r):
            Z[i, codes[i] * r + a] = columns[i, a]
    return Z


@pytest.fixture(params=[0, 1, 2, 3], ids=["ones", "r=1", "r=2", "r=3"])
def term(request):
    """codes, columns as the kernels take them, the basis A, and the rows z = x A^-1."""
    rng, r = np.random.default_rng(request.param), max(request.param, 1)
    columns = rng.normal(size=(N, r)) if request.param else np.empty((0, 1))
    basis = np.tril(rng.normal(size=(r, r))) + 3 * np.eye(r)
    return rng.integers(0, M, N), columns, basis, (columns if request.param else np.ones((N, 1))) @ np.linalg.inv(basis)


@pytest.fixture(params=[False, True], ids=["equal", "weighted"])
def weights(request):
    """As the kernels take them, and spelt out."""
    w = np.random.default_rng(5).uniform(0.5, 2.0, N)
    return (w, w) if request.param else (np.empty(0), np.ones(N))


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=RTOL, atol=RTOL)


def in_two(kernel, *args):
    """The rows in two pieces."""
    kernel(0, N // 3, *args)
    kernel(N // 3, N, *args)


def test_blocks_of_levels(term, weights):
    codes, columns, basis, z = term
    r, Z = len(basis), design(codes, z)
    in_two(level_grams, codes, columns, basis, weights[0], out := np.zeros((M, r, r)))
    dense = (Z.T * weights[1]) @ Z
    for level in range(M):
        close(out[level], dense[level * r : (level + 1) * r, level * r : (level + 1) * r])


def test_sums_of_levels(term, weights):
    codes, columns, basis, z = term
    V = np.random.default_rng(3).normal(size=(N, 4))
    in_two(level_sums, codes, columns, basis, V, weights[0], out := np.zeros((M, len(basis), 4)))
    close(out.reshape(-1, 4), design(codes, z).T @ (weights[1][:, None] * V))


@pytest.mark.parametrize("m", [4, 300], ids=["found in order", "sorted"])
@pytest.mark.parametrize("in_order", [False, True])
def test_blocks_of_pairs(term, weights, m, in_order):
    """The partners of each level, sorted, and their blocks; rows by an order, or already level by level."""
    codes, left, left_basis, z = term
    rng = np.random.default_rng(9)
    other = rng.integers(0, m, N)
    codes = np.sort(codes) if in_order else codes
    order = np.empty(0, np.int64) if in_order else np.argsort(codes, kind="stable")
    start = np.searchsorted(np.sort(codes), np.arange(M + 1))
    right, right_basis = rng.normal(size=(N, 2)), np.array([[2.0, 0.0], [0.3, 1.5]])
    by_level = other if in_order else other[order]
    expected = sorted({(int(a), int(b)) for a, b in zip(codes, other, strict=True)})
    for begin, end in ((0, 2), (2, M)):
        count_pairs(begin, end, start, by_level, m, counts := np.zeros(M, np.int64))
        assert counts.tolist() == [len([a for a, _ in expected if a == i and begin <= i < end]) for i in range(M)]
    first = np.searchsorted([a for a, _ in expected], np.arange(M + 1))
    partner, out = np.empty(len(expected), np.int64), np.zeros((len(expected), len(left_basis), 2))
    for begin, end in ((0, 2), (2, M)):
        list_pairs(begin, end, start, by_level, m, first, partner)
        pair_sums(
            begin, end, start, order, by_level, m, first, partner, left, left_basis, right, right_basis, weights[0], out
        )
    assert partner.tolist() == [b for _, b in expected]
    dense = (design(other, z, m).T * weights[1]) @ design(codes, right @ np.linalg.inv(right_basis))
    blocks = dense.reshape(m, len(left_basis), M, 2)
    for block, (level, p) in zip(out, expected, strict=True):
        close(block, blocks[p, :, level, :])


def test_blocks_of_a_nested_term(term, weights):
    codes, left, left_basis, z = term
    parent = np.array([1, 0, 1, 2, 0, 2])
    found = np.full(M, -1)
    assert nested_in(codes, parent[codes], found)
    assert found.tolist() == parent.tolist()
    assert not nested_in(parent[codes], codes, np.full(3, -1))
    right = np.random.default_rng(2).normal(size=(N, 1))
    out = np.zeros((M, len(left_basis), 1))
    in_two(nested_sums, codes, left, left_basis, right, np.array([[2.0]]), weights[0], out)
    dense = (design(codes, z).T * weights[1]) @ design(parent[codes], right / 2, 3)
    blocks = dense.reshape(M, len(left_basis), 3)
    for level in range(M):
        close(out[level, :, 0], blocks[level, :, parent[level]])


def test_table_of_pairs(term, weights):
    codes, left, left_basis, z = term
    rng = np.random.default_rng(8)
    own, right, right_basis = rng.integers(0, 20, N), rng.normal(size=(N, 2)), np.array([[2.0, 0.0], [0.3, 1.5]])
    seen, out = np.zeros((20, M), bool), np.zeros((20, M, len(left_basis), 2))
    in_two(table_sums, own, codes, left, left_basis, right, right_basis, weights[0], seen, out)
    assert set(zip(*seen.nonzero(), strict=True)) == set(zip(own, codes, strict=True))
    dense = (design(codes, z).T * weights[1]) @ design(own, right @ np.linalg.inv(right_basis), 20)
    close(out, dense.reshape(M, len(left_basis), 20, 2).transpose(2, 0, 1, 3))


def test_rows_by_level():
    codes = np.array([2, 0, 2, 1, 0])
    rows_by_level(codes, np.array([0, 2, 3]), out := np.empty(5, np.int64))
    assert out.tolist() == [1, 4, 3, 0, 2]


def test_is_sorted():
    assert is_sorted(np.array([0, 0, 1, 5]))
    assert not is_sorted(np.array([0, 2, 1]))


@pytest.mark.parametrize("r", [0, 1, 3], ids=["ones", "r=1", "r=3"])
def test_spread(r):
    rng = np.random.default_rng(4)
    codes, columns = rng.integers(0, M, N), rng.normal(size=(N, r)) if r else np.empty((0, 1))
    effects, before = rng.normal(size=(M, max(r, 1))), np.arange(N) / 7
    spread(codes, columns, effects, out := before.copy())
    close(out, before + design(codes, columns if r else np.ones((N, 1))) @ effects.ravel())
