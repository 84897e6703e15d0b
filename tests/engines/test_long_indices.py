"""Factors with more than 2^31 entries: the same kernels on the same numbers, which begin behind that many others.

The others take no memory: pages of a mapping that nobody touches do not exist. Nothing is computed at that size, but
every place is.
"""

import mmap
import sys

import numpy as np
import pytest

from sparselmm.engines.supernodal import Supernodal, _diagonal, _locate
from sparselmm.kernels import tiles
from sparselmm.kernels.blas import blas
from sparselmm.kernels.supernodal import factorise, invert, panels, send_to_last, solve_lower, solve_upper
from tests.engines.test_cholmod import lower_pattern, values_on
from tests.kernels.test_symbolic import grid

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs memory that is only promised")
NO_RESERVE = 0x4000  # MAP_NORESERVE of Linux, which Python knows from 3.13 on
FAR = 2**31 + 12_345
RTOL = 1e-12  # products of 200 numbers, by BLAS in tiles or by NumPy


def promised(length):
    """(length,) zeros, of which only those that are touched take memory."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE
    return np.frombuffer(mmap.mmap(-1, 8 * length, flags=flags), np.float64)


def computed(P, at, values, last, length):
    """L, solves and selected inverse, each from the first panel on."""
    first, end, b, count = P.at[0], len(P.size), blas(), 2
    L, Z = promised(length), promised(length)
    L[at] = values
    assert factorise(0, min(last, end), P, last, b, L) == -1
    if last < end:
        send_to_last(0, int(P.size[-1]), P, last, b, L)
        assert factorise(last, end, P, end, b, L) == -1
    x = np.random.default_rng(1).normal(size=len(P.owner) * count)
    piece = np.empty(P.size.max() * count)
    solve_lower(P, b, L, x, count, piece)
    solve_upper(P, b, L, x, count, piece)
    invert(0, end, P, b, L, Z)
    return L[first:].copy(), x, Z[first:].copy(), L[_diagonal(P)]


@pytest.mark.parametrize("apart", [False, True], ids=["whole", "last supernode apart"])
def test_panels_behind_more_than_2_to_the_31_entries(apart):
    pattern = lower_pattern(grid(30))
    engine, (values, _) = Supernodal(pattern), values_on(pattern, 1)
    near = engine._panels
    far = near._replace(at=near.at + FAR)
    last = len(near.size) - apart
    expected = computed(near, engine._at, values, last, int(near.at[-1]))
    cols = np.repeat(np.arange(pattern.q), np.diff(pattern.indptr))
    at = _locate(far, engine._place[pattern.indices], engine._place[cols])
    assert far.at.dtype == at.dtype == np.int64 and at.min() >= FAR
    for found, wanted in zip(computed(far, at, values, last, int(far.at[-1])), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_places_in_a_panel_of_more_than_2_to_the_31_entries():
    """A full matrix of 70,000 columns is one supernode: its panel would take 39 GB."""
    q = 70_000
    parent, counts = np.append(np.arange(1, q), -1), np.arange(q, 0, -1)
    P = panels(parent, counts, np.zeros(q + 1, np.int64), np.empty(0, np.int64))
    assert P.size.tolist() == [q] and P.at.tolist() == [0, q * q] and P.at.dtype == np.int64
    rows, cols = np.array([q - 1, q - 1, 50_000]), np.array([q - 1, 0, 49_999])
    assert _locate(P, rows, cols).tolist() == [q * q - 1, q - 1, 49_999 * q + 50_000]
    assert _diagonal(P)[[0, 1, -1]].tolist() == [0, q + 1, q * q - 1]


def test_tiles_of_a_matrix_of_more_than_2_to_the_31_entries():
    """The last panels of 47,000 columns: column-major, so that column j begins at j n."""
    n, rows, width = 47_000, 150, 192
    lo, hi = n - rows - width, n - rows
    rng, b, flat, out = np.random.default_rng(2), blas(), promised(n * n), promised(n * n)
    A, Z = flat.reshape(n, n), out.reshape(n, n)
    L = np.tril(rng.normal(size=(width, width))) + 20.0 * np.eye(width)
    B, Y = rng.normal(size=(rows, width)), np.zeros(n * width)
    S = rng.normal(size=(rows, rows)) + 30.0 * np.eye(rows)
    A[lo:hi, lo:hi], A[lo:hi, hi:] = L.T, B.T
    tiles.divide(0, 3, b, 64, True, n, lo, hi, flat, lo * n, flat)
    np.testing.assert_allclose(A[lo:hi, hi:].T, np.linalg.solve(L, B.T).T, rtol=RTOL, atol=RTOL)
    Y.reshape(width, n)[:, hi:] = B.T
    Z[hi:, hi:] = np.triu(S)
    tiles.below(0, 3, b, 64, n, lo, hi, Y, out)
    full = np.triu(S) + np.triu(S, 1).T
    np.testing.assert_allclose(Z[lo:hi, hi:].T, -full @ B, rtol=RTOL, atol=RTOL * np.abs(full @ B).max())
    Z[lo:hi, lo:hi] = 0.0
    tiles.on_the_diagonal(0, 3, b, n, lo, hi, Y, out)
    expected = B.T @ full @ B
    found = np.triu(Z[lo:hi, lo:hi]).T
    np.testing.assert_allclose(found, np.tril(expected), rtol=RTOL, atol=RTOL * np.abs(expected).max())
