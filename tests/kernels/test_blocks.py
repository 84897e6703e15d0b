"""Blocks of a sparse symmetric matrix against loops over dense ones."""

import numpy as np
import pytest
import scipy.sparse as sp

from sparselmm.kernels.blocks import add_product, add_scaled, locate

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
