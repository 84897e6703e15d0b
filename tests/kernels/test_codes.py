"""Interaction codes against numpy.unique over rows, and sizes whose product leaves int64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparselmm.kernels.codes import code_integers, counting_sort, interaction_codes, pair_codes


@st.composite
def factors(draw):
    n = draw(st.integers(1, 60))
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return [rng.integers(0, size, n) for size in sizes], sizes


@settings(max_examples=60)
@given(factors())
def test_combinations_are_those_of_unique_rows(problem):
    codes, sizes = problem
    got, parts = interaction_codes(codes, sizes)
    expected = np.stack(codes, axis=1)
    if len(codes) > 1:
        unique, inverse = np.unique(expected, axis=0, return_inverse=True)
        np.testing.assert_array_equal(got, inverse.ravel())
        np.testing.assert_array_equal(parts, unique)
    np.testing.assert_array_equal(parts[got], expected)
    assert got.dtype == parts.dtype == np.int64


def test_one_factor_keeps_its_codes():
    codes = np.array([2, 0, 1, 2])
    got, parts = interaction_codes([codes], [3])
    np.testing.assert_array_equal(got, codes)
    np.testing.assert_array_equal(parts, [[0], [1], [2]])


def test_counting_sort_is_stable():
    codes = np.array([1, 0, 1, 0, 2])
    out = np.empty(5, dtype=np.int64)
    counting_sort(np.array([4, 3, 2, 1, 0]), codes, np.zeros(4, dtype=np.int64), out)
    np.testing.assert_array_equal(out, [3, 1, 2, 0, 4])


def test_pair_codes_give_a_row_of_each_pair():
    a, b = np.array([1, 0, 1, 1]), np.array([0, 2, 0, 1])
    codes, first = pair_codes(a, 2, b, 3)
    np.testing.assert_array_equal(codes, [1, 0, 1, 2])
    assert [(a[i], b[i]) for i in first] == [(0, 2), (1, 0), (1, 1)]


@pytest.mark.parametrize("n_factors", [2, 3])
def test_product_of_sizes_beyond_int64_does_not_overflow(n_factors):
    n = 2_200_000  # n^3 > 2^63 and n^2 > 2^31
    down = np.arange(n)[::-1].copy()
    others = [np.arange(n)] * (n_factors - 1)
    codes, parts = interaction_codes([down, *others], [n] * n_factors)
    np.testing.assert_array_equal(codes, down)
    np.testing.assert_array_equal(parts[:, 0], np.arange(n))
    np.testing.assert_array_equal(parts[:, -1], down)


def test_code_integers():
    values = np.array([7, -3, 7, 0, 4, -3])
    code_of, codes = np.full(11, -1), np.empty(6, np.int64)
    code_integers(values, -3, code_of, codes)
    levels, expected = np.unique(values, return_inverse=True)
    assert codes.tolist() == expected.tolist()
    assert (np.flatnonzero(code_of >= 0) - 3).tolist() == levels.tolist()
