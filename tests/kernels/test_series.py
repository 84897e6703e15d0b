"""States of series against a plain-Python oracle, in any row order, and every refusal."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparselmm._errors import DataError
from sparselmm.kernels.series import band_pattern, distinct_states, latent_states, series_gaps


@st.composite
def rows(draw):
    """Unsorted rows with gaps and duplicates: (times, series codes, n_series), every series used."""
    n_series = draw(st.integers(1, 5))
    extra = draw(st.lists(st.integers(0, n_series - 1), max_size=30))
    series = draw(st.permutations([*range(n_series), *extra]))
    times = draw(st.lists(st.integers(-15, 15), min_size=len(series), max_size=len(series)))
    return np.array(times), np.array(series), n_series


def oracle(times, series, n_series, grid):
    """[(series, time)] of all states, in order."""
    states = []
    for s in range(n_series):
        seen = sorted({t for t, r in zip(times.tolist(), series.tolist(), strict=True) if r == s})
        states += [(s, t) for t in (range(seen[0], seen[-1] + 1) if grid else seen)]
    return states


@given(rows(), st.booleans())
def test_states_are_those_of_the_oracle(problem, grid):
    times, series, n_series = problem
    got = (latent_states if grid else distinct_states)(times, series, n_series)
    expected = oracle(times, series, n_series, grid)
    assert list(zip(got.series.tolist(), got.times.tolist(), strict=True)) == expected
    assert got.codes.tolist() == [expected.index(pair) for pair in zip(series.tolist(), times.tolist(), strict=True)]
    assert got.lengths.tolist() == [sum(s == i for s, _ in expected) for i in range(n_series)]
    assert got.codes.dtype == got.lengths.dtype == got.series.dtype == np.int64


def test_order_of_the_rows_does_not_matter(rng=np.random.default_rng(1)):  # noqa: B008
    times, series = np.round(rng.normal(size=200), 1), np.append(rng.integers(0, 7, 193), np.arange(7))
    shuffle = rng.permutation(200)
    one, two = distinct_states(times, series, 7), distinct_states(times[shuffle], series[shuffle], 7)
    np.testing.assert_array_equal(one.codes[shuffle], two.codes)
    np.testing.assert_array_equal(one.times, two.times)


def test_floats_with_integer_values_and_small_integer_types_are_times():
    series = np.array([0, 0, 1])
    for dtype in (np.float32, np.int8, np.uint16):
        got = latent_states(np.array([5, 2, 9], dtype), series, 2)
        assert got.codes.tolist() == [3, 0, 4] and got.times.tolist() == [2, 3, 4, 5, 9]


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([1.0, 2.5, 3.0], r"'day' is 2.5 in row 1.*ou\(0 \+ day \| g\)"),
        ([1.0, np.nan, 3.0], "1 of 3 are infinite or missing, the first in row 1"),
        ([1.0, np.inf, 3.0], "infinite"),
        ([1.0, 1e300, 3.0], "1e.300.*2.53"),
        (["a", "b", "c"], "type <U1; give numbers"),
        (
            [1, 20240101, 3],
            r"between 1 and 20240101 in one series make 20,240,101 states.*20,240,102 in all for 3 rows",
        ),
        ([1, 2], r"\(2,\) times for \(3,\) codes"),
    ],
)
def test_times_that_are_refused(times, message):
    with pytest.raises(DataError, match=message):
        latent_states(times, np.array([0, 0, 1]), 2, "day")


def test_a_long_gap_is_kept_where_the_states_are_few():
    assert latent_states(np.array([0, 999_999]), np.array([0, 0]), 1).lengths.tolist() == [1_000_000]


@pytest.mark.parametrize("codes", [[0, 0, 3], [0, 0, 0]])
def test_series_that_are_not_codes_are_refused(codes):
    with pytest.raises(DataError, match="codes of series must be 0 ... 1"):
        distinct_states(np.arange(3.0), np.array(codes), 2)


@pytest.mark.parametrize("times", [[np.nan, 1.0], [-np.inf, 1.0]])
def test_real_times_must_be_finite(times):
    with pytest.raises(DataError, match="infinite or missing"):
        distinct_states(np.array(times), np.array([0, 0]), 1)


def test_bands_stay_inside_a_series():
    rows, cols = band_pattern(np.array([3, 1, 2]), 2)
    got = sorted(zip(rows.tolist(), cols.tolist(), strict=True))
    assert got == [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2), (3, 3), (4, 4), (5, 4), (5, 5)]


def test_gaps_are_inside_a_series():
    later, gaps = series_gaps(np.array([1.0, 3.0, 0.0, 5.0, 5.5]), np.array([2, 1, 2]))
    assert later.tolist() == [1, 4] and gaps.tolist() == [2.0, 0.5]


@pytest.mark.parametrize("times", [[1.0, 1.0], [2.0, 1.0], [0.0, np.inf]])
def test_times_of_states_increase(times):
    with pytest.raises(DataError, match="increase within every series"):
        series_gaps(np.array(times), np.array([2]))


def test_times_and_lengths_agree():
    with pytest.raises(DataError, match="3 times for series of 2 states"):
        series_gaps(np.arange(3.0), np.array([2]))
