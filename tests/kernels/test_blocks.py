"""Blocks of a sparse symmetric matrix against loops over dense ones."""

import numpy as np
import pytest
import scipy.sparse as sp

from sparselmm.kernels.blocks import (
    add_product,
    add_scaled,
    add_to_diagonals,
    half_moment,
    locate,
    sort_entries,
    times_transposed,
)

RTOL = 1e-12  # the same sums in another order


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def test_locate_finds_every_entry_and_no_other(rng):
    A = sp.random_array((30, 20), density=0.2, rng=rng, format="csc")
    A.sort_indices()
    rows, cols = (x.ravel().astype(np.int64) for x in np.indices(A.shape))
    out = np.empty(len(rows), np.int64)
    locate(A.indptr.astype(np.int64), A.indices.astype(np.int64), rows, cols, out)
    for i, j, place in zip(rows, cols, out, strict=True):
        if A[i, j] == 0:
            assert place == -1
        else:
            assert A.data[place] == A[i, j] and A.indices[place] == i


@pytest.mark.parametrize(("ra", "rb"), [(1, 1), (2, 2), (3, 1), (1, 3), (2, 3)])
def test_add_scaled(rng, ra, rb):
    """Entries that share a destination add up, -1 is skipped, and what was there stays."""
    blocks, Ta, Tb = rng.normal(size=(7, ra, rb)), rng.normal(size=(ra, ra)), rng.normal(size=(rb, rb))
    dest = rng.integers(-1, 10, size=blocks.shape)
    before = rng.normal(size=10)
    expected = before.copy()
    for block, places in zip(blocks, dest, strict=True):
        scaled = Ta.T @ block @ Tb
        for a in range(ra):
            for b in range(rb):
                if places[a, b] >= 0:
                    expected[places[a, b]] += scaled[a, b]
    add_scaled(blocks, Ta, Tb, dest, out := before.copy())
    np.testing.assert_allclose(out, expected, rtol=RTOL, atol=RTOL)


@pytest.mark.parametrize(("ra", "rb"), [(1, 1), (2, 2), (3, 1), (1, 3)])
@pytest.mark.parametrize("transpose", [False, True])
def test_add_product(rng, ra, rb, transpose):
    rows, cols, blocks = rng.integers(0, 4, 9), rng.integers(0, 6, 9), rng.normal(size=(9, ra, rb))
    dense = np.zeros((4 * ra, 6 * rb))
    for i, j, block in zip(rows, cols, blocks, strict=True):
        dense[i * ra : (i + 1) * ra, j * rb : (j + 1) * rb] += block
    matrix = dense.T if transpose else dense
    shape_in, shape_out = ((4, ra, 3), (6, rb, 3)) if transpose else ((6, rb, 3), (4, ra, 3))
    right, before = rng.normal(size=shape_in), rng.normal(size=shape_out)
    add_product(blocks, rows, cols, right, out := before.copy(), transpose)
    expected = before + (matrix @ right.reshape(-1, 3)).reshape(shape_out)
    np.testing.assert_allclose(out, expected, rtol=RTOL, atol=RTOL)


def test_times_transposed(rng):
    T, blocks, out = rng.normal(size=(2, 2)), rng.normal(size=(7, 2, 3)), np.empty((7, 2, 3))
    times_transposed(0, 4, T, blocks, out)
    times_transposed(4, 7, T, blocks, out)
    np.testing.assert_allclose(out, T.T @ blocks, rtol=RTOL, atol=RTOL)


def test_add_to_diagonals(rng):
    dest, values = np.array([[0, 2], [3, 5]]), rng.normal(size=2)
    add_to_diagonals(dest, values, out := np.ones(6))
    np.testing.assert_array_equal(out, 1 + np.array([values[0], 0, values[0], values[1], 0, values[1]]))


@pytest.mark.parametrize("with_blocks", [True, False])
def test_half_moment(rng, with_blocks):
    """sum over l, m of K_lm (H_lm + f_l f_m') of symmetric K and H, from their lower triangles."""
    m, r = 5, 2
    rows, cols = np.tril_indices(m)
    K, H, f = rng.normal(size=(m, m)), rng.normal(size=(m, r, m, r)), rng.normal(size=(m, r, 3))
    K, H = K + K.T, H + H.transpose(2, 3, 0, 1)
    args = rows, cols, K[rows, cols], H[rows, :, cols, :] if with_blocks else np.empty((0, r, r)), f
    half = half_moment(0, 4, *args) + half_moment(4, len(rows), *args)
    expected = np.einsum("lm,lac,mbc->ab", K, f, f) + with_blocks * np.einsum("lm,lamb->ab", K, H)
    np.testing.assert_allclose(half + half.T, expected, rtol=RTOL, atol=RTOL)


def test_sort_entries_each_once(rng):
    """Entries of a lower triangle in any order, some twice, some left out, against scipy."""
    q, n = 30, 200
    one, two = rng.integers(0, q, n), rng.integers(0, q, n)
    rows, cols = np.maximum(one, two), np.minimum(one, two)
    rows[::9] = -1
    start, indptr, out = np.zeros(q + 1, np.int64), np.zeros(q + 1, np.int64), np.empty(n, np.int64)
    nnz = sort_entries(rows, cols, np.empty(n, np.int64), start, indptr, out)
    there = rows >= 0
    expected = sp.csc_array((np.ones(there.sum()), (rows[there], cols[there])), shape=(q, q))
    expected.sort_indices()
    assert indptr.tolist() == expected.indptr.tolist() and out[:nnz].tolist() == expected.indices.tolist()
