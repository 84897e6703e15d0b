"""Series over time: which latent state a row sees, and where the states of one series are in the precision.

Rows come in any order. States are numbered series by series, forwards in time, so that a precision of first or
second order is a band inside each series.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from .._errors import DataError
from .._typing import AnyArray, FloatArray, IntArray
from .codes import counting_sort, number_pairs

LARGEST = 2**53  # integers beyond it are not told apart by floats
TOO_CLOSE = 1e-13  # of the span: rounding of the times; a million random times of one series stay apart by more
MANY_STATES, STATES_PER_ROW = 1_000_000, 50  # beyond both, the times are hardly meant as a grid


class States(NamedTuple):
    """codes (n,): the state each row sees. series, times (m,): of each state. lengths (n_series,): its states."""

    codes: IntArray
    series: IntArray
    times: AnyArray
    lengths: IntArray


@njit(cache=True)
def series_ranges(times: IntArray, series: IntArray, first: IntArray, last: IntArray) -> None:
    """First and last time of every series, into `first` (filled with a maximum) and `last` (with a minimum)."""
    for i in range(len(times)):
        s = series[i]
        first[s] = min(first[s], times[i])
        last[s] = max(last[s], times[i])


def latent_states(times: Any, series: IntArray, n_series: int, name: str = "t") -> States:
    """States of every series on the integer grid from its first to its last time: gaps are latent states.

    times: (n,) integers, or floats with integer values. series: (n,) codes 0 ... n_series-1. Rows with the same
    series and time share a state. O(n + m). Errors: DataError for a time that is not an integer, infinite or
    missing, and where the grid would have absurdly more states than there are rows.
    """
    times = _checked_times(times, series, n_series, name)
    _check_integers(times, name)
    times = times.astype(np.int64)
    first, last = np.full(n_series, LARGEST), np.full(n_series, -LARGEST)
    series_ranges(times, series, first, last)
    lengths = last - first + 1
    _check_size(first, lengths, len(times), name)
    start = np.cumsum(lengths) - lengths
    state_series = np.repeat(np.arange(n_series), lengths)
    state_times = np.arange(len(state_series)) + (first - start)[state_series]
    return States(times + (start - first)[series], state_series, state_times, lengths)


def distinct_states(times: Any, series: IntArray, n_series: int, name: str = "t") -> States:
    """States of every series at its distinct real times, sorted; the rest as in `latent_states`. O(n log n)."""
    times = _checked_times(times, series, n_series, name).astype(np.float64)
    order = np.empty(len(times), np.int64)
    counting_sort(np.argsort(times, kind="stable"), series, np.zeros(n_series + 1, np.int64), order)
    codes, first = np.empty(len(times), np.int64), np.empty(len(times), np.int64)
    first = first[: number_pairs(order, series, times, codes, first)]
    return States(codes, series[first], times[first], np.bincount(series[first], minlength=n_series))


def places(lengths: IntArray) -> IntArray:
    """0, 1, ... within each series: place of every state, (m,)."""
    start = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) - np.repeat(start, lengths)


def band_pattern(lengths: IntArray, width: int) -> tuple[IntArray, IntArray]:
    """Rows and columns of the diagonal, then of the `width` bands below it, inside every series."""
    place = places(lengths)
    rows = [np.flatnonzero(place >= k) for k in range(width + 1)]
    return np.concatenate(rows), np.concatenate([row - k for k, row in enumerate(rows)])


def series_gaps(times: FloatArray, lengths: IntArray) -> tuple[IntArray, FloatArray]:
    """States that have one before them (c,), and how far behind it is (c,); DataError unless times increase."""
    if len(times) != lengths.sum():
        raise DataError(f"{len(times)} times for series of {lengths.sum()} states in all")
    later = np.flatnonzero(places(lengths) > 0)
    gaps = times[later] - times[later - 1]
    if not np.isfinite(times).all() or (gaps <= 0).any():
        raise DataError(
            "the times of the states must be finite and increase within every series; "
            "distinct_states(times, series, n_series) sorts them and joins equal ones"
        )
    return later, gaps


def check_close(gaps: FloatArray, span: float, word: str) -> None:
    """DataError where a gap is rounding to the times, or as good as: entries of Q are 1/gap, and cancel."""
    if gaps.min() < TOO_CLOSE * span:
        digits = max(0, int(np.ceil(6 - np.log10(span))))
        raise DataError(
            f"{word}: two times are {gaps.min():.3g} apart where they span {span:.6g}: the same but for rounding. "
            f"Round the times, to {digits} decimals for instance: equal times share a state"
        )


def checked_lengths(lengths: Any, order: int, word: str) -> IntArray:
    """Lengths of the series as int64; DataError unless all are positive and one is longer than `order`."""
    out = np.atleast_1d(np.asarray(lengths))
    if out.ndim != 1 or out.dtype.kind not in "iu" or not len(out) or out.min() < 1:
        raise DataError(f"{word}: lengths of series must be positive integers, not {np.asarray(lengths)!s:.80}")
    if out.max() <= order:
        raise DataError(
            f"{word} needs a series with {order + 1} distinct times or more; the longest has {out.max()}. "
            "Write (1 | g) for independent levels"
        )
    return out.astype(np.int64)


def _checked_times(times: Any, series: IntArray, n_series: int, name: str) -> AnyArray:
    t = np.asarray(times)
    if t.ndim != 1 or t.shape != series.shape or not len(t):
        raise DataError(f"time '{name}': {t.shape} times for {series.shape} codes of series")
    if t.dtype.kind not in "iuf":
        raise DataError(f"time '{name}' has type {t.dtype}; give numbers, or codes of ordered categories")
    bad = np.flatnonzero(~np.isfinite(t))
    if len(bad):
        raise DataError(f"time '{name}': {len(bad)} of {len(t)} are infinite or missing, the first in row {bad[0]}")
    counts = np.bincount(series, minlength=n_series)
    if len(counts) != n_series or not counts.all():
        raise DataError(
            f"time '{name}': codes of series must be 0 ... {n_series - 1}, each of them used; "
            "recode with numpy.unique(codes, return_inverse=True)"
        )
    return t


def _check_integers(times: AnyArray, name: str) -> None:
    bad = np.flatnonzero(times != np.rint(times)) if times.dtype.kind == "f" else np.empty(0, np.int64)
    if len(bad):
        raise DataError(
            f"time '{name}' is {times[bad[0]]} in row {bad[0]}: ar1() counts integer steps. "
            f"Write ou(0 + {name} | g) for real times, or number the occasions 1, 2, ..."
        )
    if times.min() < -LARGEST or times.max() > LARGEST:
        raise DataError(
            f"time '{name}' runs from {times.min():.6g} to {times.max():.6g}; integers beyond 2^53 are not told apart"
        )


def _check_size(first: IntArray, lengths: IntArray, n: int, name: str) -> None:
    m = lengths.sum(dtype=np.float64)
    if m > max(MANY_STATES, STATES_PER_ROW * n):
        s = int(lengths.argmax())
        raise DataError(
            f"time '{name}': the steps between {first[s]} and {first[s] + lengths[s] - 1} in one series make "
            f"{lengths[s]:,} states, {m:,.0f} in all for {n:,} rows. Number the occasions 1, 2, ..., "
            f"or did you mean ou(0 + {name} | g)?"
        )
