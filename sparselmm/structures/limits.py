"""The ends of a parameter space that lie at infinity of its coordinate: a correlation of 1 or -1, a rate of 0 or more.

There the coordinate stops (`bounds`), and the natural scale gives the limit itself. A correlation stops at 1 - 1e-8:
the criterion is a smooth function of the distance and cancels to eps over it, so that both parts of the error, of the
order 1e-6 in 160 rows, meet at the root of eps.
"""

from typing import Any

import numpy as np

from .._typing import BoolArray, FloatArray

CLOSEST = 1e-8
LARGEST_ATANH = float(np.arctanh(1.0 - CLOSEST))
UNCORRELATED = 37.0  # exp(-37) is below the rounding of 1

Bounds = tuple[FloatArray, FloatArray]


def bounds_of(structure: Any) -> Bounds:
    """`structure.bounds()`; a structure without that method has infinite ones, (n_params,) each."""
    if hasattr(structure, "bounds"):
        return structure.bounds()
    return np.full(structure.n_params, -np.inf), np.full(structure.n_params, np.inf)


def at_bounds(rho: FloatArray, bounds: Bounds) -> BoolArray:
    """Which coordinates have come to an end."""
    return (rho <= bounds[0]) | (rho >= bounds[1])


def correlation_bounds() -> Bounds:
    """Of arctanh(a), (1,) each."""
    return np.array([-LARGEST_ATANH]), np.array([LARGEST_ATANH])


def rate_bounds(gaps: FloatArray) -> Bounds:
    """Of log kappa, (1,) each: kappa d = 1e-8 at the geometric mean of the extreme gaps, 37 at the smallest."""
    least = float(gaps.min())
    return np.log([CLOSEST / np.sqrt(least * float(gaps.max()))]), np.log([UNCORRELATED / least])


def tanh_or_limit(x: FloatArray) -> FloatArray:
    """tanh x, and exactly 1 or -1 from the bounds on."""
    return np.where(np.abs(x) >= LARGEST_ATANH, np.sign(x), np.tanh(x))


def arctanh_or_bound(a: FloatArray) -> FloatArray:
    """Inverse of `tanh_or_limit`."""
    inside = np.abs(a) < 1.0
    return np.where(inside, np.arctanh(np.where(inside, a, 0.0)), np.sign(a) * LARGEST_ATANH)


def exp_or_limit(x: FloatArray, bounds: Bounds) -> FloatArray:
    """exp x, and exactly 0 or infinity from the bounds on."""
    return np.where(x <= bounds[0], 0.0, np.where(x >= bounds[1], np.inf, np.exp(x)))


def log_or_bound(value: FloatArray, bounds: Bounds) -> FloatArray:
    """Inverse of `exp_or_limit`."""
    inside = (value > 0.0) & (value < np.inf)
    return np.where(inside, np.log(np.where(inside, value, 1.0)), np.where(value > 0.0, bounds[1], bounds[0]))
