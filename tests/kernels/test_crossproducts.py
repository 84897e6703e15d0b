"""Cross-products of coded designs against dense designs made row by row."""

import numpy as np
import pytest

from sparselmm.kernels.crossproducts import block_sums, spread

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


@pytest.fixture(params=[1, 2, 3], ids="r={}".format)
def term(request):
    rng = np.random.default_rng(request.param)
    return rng.integers(0, M, N), rng.normal(size=(N, request.param)), rng.uniform(0.5, 2.0, N)


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=RTOL, atol=RTOL)


def test_blocks_of_levels(term):
    codes, columns, weights = term
    r, Z = columns.shape[1], design(codes, columns)
    block_sums(codes, columns, columns, weights, out := np.zeros((M, r, r)))
    dense = (Z.T * weights) @ Z
    for level in range(M):
        close(out[level], dense[level * r : (level + 1) * r, level * r : (level + 1) * r])


def test_blocks_of_pairs(term):
    codes, columns, weights = term
    rng = np.random.default_rng(9)
    other, za, zb = rng.integers(0, 4, N), columns, rng.normal(size=(N, 2))
    pairs = sorted(set(zip(codes.tolist(), other.tolist(), strict=True)))
    pair = np.array([pairs.index(p) for p in zip(codes.tolist(), other.tolist(), strict=True)])
    block_sums(pair, za, zb, weights, out := np.zeros((len(pairs), za.shape[1], 2)))
    dense = (design(codes, za).T * weights) @ design(other, zb, 4)
    blocks = dense.reshape(M, za.shape[1], 4, 2)
    for block, (i, j) in zip(out, pairs, strict=True):
        close(block, blocks[i, :, j, :])
        blocks[i, :, j, :] = 0
    assert not blocks.any()


def test_sums_of_levels(term):
    codes, columns, weights = term
    V = np.random.default_rng(3).normal(size=(N, 4))
    block_sums(codes, columns, V, weights, out := np.zeros((M, columns.shape[1], 4)))
    close(out.reshape(-1, 4), design(codes, columns).T @ (weights[:, None] * V))


def test_spread(term):
    codes, columns, _ = term
    effects, before = np.random.default_rng(4).normal(size=(M, columns.shape[1])), np.arange(N) / 7
    spread(codes, columns, effects, out := before.copy())
    close(out, before + design(codes, columns) @ effects.ravel())
