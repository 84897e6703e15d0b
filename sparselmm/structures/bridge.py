"""A further state of a Markov series, given the states of its series before and after it.

With gaps c to the state before and d to the one after (infinite where there is none), at unit scale,

    u | before, after ~ N(w_1 u_before + w_2 u_after, s),

and nothing else in the series matters. Where a prior says nothing about such a state, w or s is NaN.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .._typing import FloatArray


class Conditional(NamedTuple):
    """w_1, w_2 and s of each state, (c,)."""

    before: FloatArray
    after: FloatArray
    variance: FloatArray


Bridge = Callable[[FloatArray, FloatArray, FloatArray], Conditional]
_BRIDGES: dict[str, Bridge] = {}


def register_bridge(name: str, how: Bridge) -> None:
    """Make (rho, gaps before, gaps after) -> Conditional known to predictions; `Precision.bridge` is the name."""
    _BRIDGES[name] = how


def conditional_state(name: str, rho: FloatArray, before: FloatArray, after: FloatArray) -> Conditional:
    """That of the bridge `name`, with all NaN for the name "" of none; gaps (c,), infinite where nothing is there."""
    if not name:
        unknown = np.full(len(before), np.nan)
        return Conditional(unknown, unknown, unknown)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return _BRIDGES[name](rho, before, after)


def _stationary(f: FloatArray, g: FloatArray, log_f: FloatArray, log_g: FloatArray) -> Conditional:
    """Correlations f before and g after, with log|f| and log|g|: (f (1-g^2), g (1-f^2), (1-f^2)(1-g^2))/(1-f^2 g^2)."""
    rest_f, rest_g, rest = -np.expm1(2 * log_f), -np.expm1(2 * log_g), -np.expm1(2 * (log_f + log_g))
    return Conditional(f * rest_g / rest, g * rest_f / rest, rest_f * rest_g / rest)


def _ou(rho: FloatArray, before: FloatArray, after: FloatArray) -> Conditional:
    c, d = -np.exp(rho[0]) * before, -np.exp(rho[0]) * after
    return _stationary(np.exp(c), np.exp(d), c, d)


def _ar1(rho: FloatArray, before: FloatArray, after: FloatArray) -> Conditional:
    """Gaps are whole: a^c. log|a| by x = arctanh a: log tanh|x| = log1p(-2/(exp(2|x|) + 1))."""
    size = np.log1p(-2 / (np.exp(2 * abs(rho[0])) + 1))
    sign = np.sign(np.tanh(rho[0]))
    parts = []
    for gap in (before, after):
        odd = np.where(np.isfinite(gap), np.abs(gap) % 2, 0.0)
        parts.append((np.where(odd == 1.0, sign, 1.0) * np.exp(gap * size), gap * size))
    (f, log_f), (g, log_g) = parts
    return _whole(before, after, _stationary(f, g, log_f, log_g))


def _ar1_free(rho: FloatArray, before: FloatArray, after: FloatArray) -> Conditional:
    """Innovations of variance 1, (1-a^2c)/(1-a^2) over c steps; forwards only: nothing precedes the first state."""
    alone = np.isinf(before) & np.isinf(after)
    forwards = _ar1(rho, before, np.full(len(after), np.inf))
    variance = forwards.variance * np.cosh(rho[0]) ** 2
    possible = alone | np.isfinite(before)
    w = np.where(alone, 0.0, np.where(possible, forwards.before, np.nan))
    return Conditional(w, np.where(np.isfinite(after), np.nan, 0.0), np.where(alone, np.nan, variance))


def _whole(before: FloatArray, after: FloatArray, found: Conditional) -> Conditional:
    """NaN where a gap is not a whole number of steps."""
    broken = np.zeros(len(before), dtype=bool)
    for gap in (before, after):
        broken |= np.isfinite(gap) & (gap != np.rint(gap))
    return Conditional(*(np.where(broken, np.nan, x) for x in found))


def _rw1(rho: FloatArray, before: FloatArray, after: FloatArray) -> Conditional:
    """The Brownian bridge: weights and precisions 1/c and 1/d; NaN where the series has no state at all."""
    total = 1 / before + 1 / after
    return Conditional(1 / before / total, 1 / after / total, np.where(total > 0, 1 / total, np.nan))


register_bridge("ou", _ou)
register_bridge("ar1", _ar1)
register_bridge("ar1_free", _ar1_free)
register_bridge("rw1", _rw1)
