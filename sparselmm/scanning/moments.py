"""Means of a block's markers, from where their digits count, and why some cannot be tested."""

from dataclasses import dataclass

import numpy as np

from .._typing import AnyArray, FloatArray, IntArray
from ..engines.threads import get_threads, parallel
from ..kernels.families import marker_moments
from .association import NO_GENOTYPE, NO_VARIATION
from .markers import check_codes, check_floats, check_gap

INFINITE = "infinite values"
SMALLEST, LARGEST = 1e-100, 1e100  # whose squares are numbers
EXTREME = f"values beyond {LARGEST:g}, or that differ by less than {SMALLEST:g}: give other units"
SPREAD = 1e-12  # of a marker's largest value: what varies by less is a constant and rounding


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Of k markers. known (k,): people with a genotype, mean (k,) theirs; reason (k,): why not to test it, or "".

    centre (k,), the mean to rounding or zero, is taken off a marker; fill (k,), the mean less it, is a missing
    genotype then.
    """

    known: AnyArray
    mean: FloatArray
    centre: FloatArray
    fill: FloatArray
    reason: AnyArray


def moments(raw: AnyArray, people: IntArray, centred: bool) -> Moments:
    """Of raw (k, samples) over `people`. Errors: DataError where a genotype is a code for missing."""
    k = len(raw)
    known, (first, total, low, high) = np.empty(k, np.int64), np.empty((4, k))
    bounds = np.linspace(0, k, min(k, get_threads()) + 1).astype(np.int64)
    with np.errstate(invalid="ignore", over="ignore"):
        parallel(marker_moments, bounds, raw, people, known, first, total, low, high)
        shift = total / np.maximum(known, 1)
        mean, constant = first + shift, high - low <= SPREAD * np.maximum(np.abs(low), np.abs(high))
        extreme = (high - low < SMALLEST) | (np.maximum(-low, high) > LARGEST)
    (check_codes if raw.dtype == np.int8 else check_floats)(low, high)
    check_gap(raw, people, low, high)
    reason = np.where(constant, NO_VARIATION, np.where(extreme, EXTREME, "")).astype(object)
    reason[known == 0] = NO_GENOTYPE
    reason[(known > 0) & (np.isinf(low) | np.isinf(high))] = INFINITE
    tested = reason == ""
    centre = np.where(tested & centred, mean, 0.0)
    return Moments(known, mean, centre, np.where(tested, (first - centre) + shift, 0.0), reason)
