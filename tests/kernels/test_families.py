"""Kernels over families against plain loops."""

import numpy as np
import pytest

from sparselmm.kernels.families import TILE, family_products, fill_markers, mark_missing, marker_moments

KERNEL_RTOL = 1e-12  # sums of a few thousand terms in another order


def problem(kind):
    """Families of 1, 2 and 4 (more than a tile of singles), symmetric blocks, markers with gaps."""
    rng = np.random.default_rng(5)
    sizes, counts = np.array([1, 2, 4]), np.array([TILE + 9, 3, 5])
    m = int(sizes @ counts)
    raw = rng.integers(0, 3, (6, m + 4)).astype(kind)
    raw[rng.random(raw.shape) < 0.1] = -127 if kind is np.int8 else np.nan
    people = rng.permutation(m + 4)[:m]
    blocks = [
        [(lambda a: a + a.T)(rng.normal(size=(s, s))) for _ in range(n)] for s, n in zip(sizes, counts, strict=True)
    ]
    return raw, people, sizes, counts, blocks, rng.normal(size=(3, m)), *rng.uniform(size=(2, 6))


def packed(blocks):
    parts = []
    for group in blocks:
        stack = np.array(group)
        for a in range(stack.shape[1]):
            parts += [(1.0 if a == b else 2.0) * stack[:, a, b] for b in range(a + 1)]
    return np.concatenate(parts)[None]


def filled(raw, people, centre, value):
    G = raw[:, people].astype(float)
    missing = np.isnan(G) | (G == -127)
    return np.where(missing, value[:, None], G - centre[:, None]), missing


@pytest.mark.parametrize("kind", [np.int8, np.float64])
def test_products_are_those_of_plain_loops(kind):
    raw, people, sizes, counts, blocks, h, centre, value = problem(kind)
    quadratic, linear = np.zeros((6, 1)), np.zeros((6, 3))
    for begin, end in ((0, 2), (2, 6)):
        family_products(begin, end, raw, centre, value, people, sizes, counts, packed(blocks), h, quadratic, linear)
    G, _ = filled(raw, people, centre, value)
    expected, base = np.zeros(6), 0
    for s, n, group in zip(sizes, counts, blocks, strict=True):
        for f, B in enumerate(group):
            x = G[:, base + np.arange(s) * n + f]
            expected += np.einsum("ka,ab,kb->k", x, B, x)
        base += s * n
    np.testing.assert_allclose(quadratic[:, 0], expected, rtol=KERNEL_RTOL)
    np.testing.assert_allclose(linear, G @ h.T, rtol=KERNEL_RTOL, atol=KERNEL_RTOL)


@pytest.mark.parametrize("kind", [np.int8, np.float64])
def test_moments_and_gaps(kind):
    raw, people, *_, centre, value = problem(kind)
    raw[2, people] = -127 if kind is np.int8 else np.nan
    count, (first, total, low, high) = np.empty(6, np.int64), np.empty((4, 6))
    marker_moments(0, 6, raw, people, count, first, total, low, high)
    G, missing = filled(raw, people, centre, value)
    out = np.empty(G.shape)
    fill_markers(raw, people, centre, value, out)
    np.testing.assert_array_equal(out, G)
    G = raw[:, people].astype(float)
    for k in range(6):
        known = G[k, ~missing[k]]
        assert (count[k], first[k]) == (len(known), known[0] if len(known) else 0.0)
        assert total[k] == (known - first[k]).sum()
        assert (low[k], high[k]) == (known.min(initial=np.inf), known.max(initial=-np.inf))
        gone = np.empty(len(people), bool)
        mark_missing(raw[k], people, gone)
        np.testing.assert_array_equal(gone, missing[k])
