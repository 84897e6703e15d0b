"""One variance ratio phi, many responses: the profile criterion from the eigenvalues of a projected kernel.

With s the scores of a response on the eigenvectors, lam their eigenvalues, `rest` its sum of squares outside them, d
the eigenvalues in the log-determinant (lam for REML) and nu the degrees of freedom,

    h(phi) = sum log(1 + phi d) + nu log r^2,      r^2(phi) = rest + sum s^2/(1 + phi lam)

is -2l up to a constant: O(q) a value. Searches go along t = log(1 + phi scale), linear near zero, a logarithm far off.
"""

import math

import numpy as np
from numba import njit

from .._typing import FloatArray, IntArray

MAX_STEPS = 60  # of one bracket; Newton takes 3 to 6, and bisection alone would end well before
TOLERANCE = 1e-10  # of a step in t: quadratic convergence makes the error after it negligible
INTERIOR, EDGE, RUNAWAY = 0, 1, 2  # how a search ended
# Sums in vector registers: 3 times as fast, 1e-16 apart. `forceinline`, and for whatever calls them too: a copy of its
# own in each caller would be optimised again, with other bits (tests/kernels/test_same_bits.py).
REORDER = {"reassoc", "contract"}


@njit(cache=True, forceinline=True, fastmath=REORDER)
def profile(
    phi: float, s2: FloatArray, rest: float, lam: FloatArray, d: FloatArray, nu: float
) -> tuple[float, float, float]:
    """h(phi) and its two derivatives by phi; s2 (r,) squared scores."""
    product, value = 1.0, 0.0
    r2, slope, curve, first, second = rest, 0.0, 0.0, 0.0, 0.0
    for i in range(len(lam)):
        w = 1.0 / (1.0 + phi * lam[i])
        part = s2[i] * w
        r2 += part
        part *= lam[i] * w
        slope -= part
        curve += 2.0 * part * lam[i] * w
    for i in range(len(d)):
        factor = 1.0 + phi * d[i]
        product *= factor
        if product > 1e200:
            value += math.log(product)
            product = 1.0
        ratio = d[i] / factor
        first += ratio
        second -= ratio * ratio
    relative = slope / r2
    value += math.log(product) + nu * math.log(r2)
    return value, first + nu * relative, second + nu * (curve / r2 - relative * relative)


@njit(cache=True, forceinline=True)
def penalised(
    t: float, s2: FloatArray, rest: float, lam: FloatArray, d: FloatArray, nu: float, scale: float, prior: FloatArray
) -> tuple[float, float, float, float]:
    """phi, and value and derivatives by t of h + prior[1] (log phi - prior[0])^2, at t = log(1 + phi scale)."""
    phi = math.expm1(t) / scale
    value, first, second = profile(phi, s2, rest, lam, d, nu)
    if prior[1] > 0.0:
        away = math.log(phi) - prior[0]
        value += prior[1] * away * away
        first += 2.0 * prior[1] * away / phi
        second += 2.0 * prior[1] * (1.0 - away) / (phi * phi)
    step = math.exp(t) / scale
    return phi, value, first * step, second * step * step + first * step


@njit(cache=True, forceinline=True)
def bracketed_newton(
    low: float,
    high: float,
    s2: FloatArray,
    rest: float,
    lam: FloatArray,
    d: FloatArray,
    nu: float,
    scale: float,
    prior: FloatArray,
) -> tuple[float, float, float]:
    """phi, value and scaled gradient |h_t|/sqrt(h_tt) of a minimum between low and high, h_t < 0 < h_t there.

    Newton on h_t; bisection where a step leaves the bracket.
    """
    t = 0.5 * (low + high)
    phi, value, first, second = penalised(t, s2, rest, lam, d, nu, scale, prior)
    for _ in range(MAX_STEPS):
        low, high = (low, t) if first > 0.0 else (t, high)
        trial = t - first / second if second > 0.0 else low
        near = second > 0.0 and abs(trial - t) <= TOLERANCE * (1.0 + t)  # at an end of the bracket, but for rounding
        if not (near or low < trial < high):
            trial = 0.5 * (low + high)
        step, t = trial - t, trial
        phi, value, first, second = penalised(t, s2, rest, lam, d, nu, scale, prior)
        if abs(step) <= TOLERANCE * (1.0 + t):
            break
    return phi, value, abs(first) / math.sqrt(second) if second > 0.0 else 1.0


@njit(cache=True, nogil=True)
def variance_ratios(
    begin: int,
    end_at: int,
    scores: FloatArray,
    rest: FloatArray,
    lam: FloatArray,
    d: FloatArray,
    nu: float,
    grid: FloatArray,
    slopes: FloatArray,
    scale: float,
    prior: FloatArray,
    phi: FloatArray,
    gradient: FloatArray,
    end: IntArray,
) -> None:
    """phi (v,) of least h of responses begin ... end_at-1, rows of scores (v, r); its scaled gradient; how it ended.

    grid: (g,) increasing values of t; slopes: (v, g), of which only the signs count, brackets of the minima. Every
    bracket is searched and the least value wins, the first grid point (phi = 0) among them.
    """
    for j in range(begin, end_at):
        s2 = scores[j] * scores[j]
        at, best, _, _ = penalised(grid[0], s2, rest[j], lam, d, nu, scale, prior)
        phi[j], gradient[j], end[j] = at, 0.0, EDGE
        if slopes[j, 0] < 0.0:
            best = np.inf
        for g in range(1, len(grid)):
            if slopes[j, g - 1] < 0.0 <= slopes[j, g]:
                at, value, norm = bracketed_newton(grid[g - 1], grid[g], s2, rest[j], lam, d, nu, scale, prior)
                if value < best:
                    phi[j], gradient[j], end[j], best = at, norm, INTERIOR, value
        if slopes[j, len(grid) - 1] < 0.0:
            at, value, _, _ = penalised(grid[-1], s2, rest[j], lam, d, nu, scale, prior)
            if value < best:
                phi[j], gradient[j], end[j] = at, 1.0, RUNAWAY


@njit(cache=True, forceinline=True, fastmath=REORDER)
def sums_at(
    phi: float, scores: FloatArray, rest: float, lam: FloatArray, d: FloatArray, w: FloatArray, out: FloatArray
) -> None:
    """w (r,) = 1/(1 + phi lam); out (5,) = r^2, its two derivatives, sum log(1 + phi d), sum (d/(1 + phi d))^2."""
    r2, first, second, logdet, curve = rest, 0.0, 0.0, 0.0, 0.0
    for i in range(len(lam)):
        w[i] = 1.0 / (1.0 + phi * lam[i])
        part = scores[i] * scores[i] * w[i]
        r2 += part
        first -= part * lam[i] * w[i]
        second += 2.0 * part * (lam[i] * w[i]) ** 2
    for i in range(len(d)):
        logdet += math.log1p(phi * d[i])
        curve += (d[i] / (1.0 + phi * d[i])) ** 2
    out[0], out[1], out[2], out[3], out[4] = r2, first, second, logdet, curve


@njit(cache=True, forceinline=True, fastmath=REORDER)
def combination(
    phi: float, scores: FloatArray, w: FloatArray, cross: FloatArray, shape: FloatArray
) -> tuple[float, float, float]:
    """For one L beta: what to take off its least-squares value, its variance over sigma^2, that one's derivative."""
    total, seen, change = 0.0, shape[1], shape[1]
    for i in range(len(w)):
        total += cross[i] * scores[i] * w[i]
        seen += shape[i + 2] * w[i]
        change += shape[i + 2] * w[i] * w[i]
    return phi * total, shape[0] + phi * seen, change


@njit(cache=True, nogil=True)
def ratio_estimates(
    begin: int,
    end: int,
    scores: FloatArray,
    rest: FloatArray,
    lam: FloatArray,
    d: FloatArray,
    phi: FloatArray,
    cross: FloatArray,
    shape: FloatArray,
    moments: FloatArray,
    combined: FloatArray,
) -> None:
    """Of responses begin ... end-1 at phi (v,): `sums_at` into moments (v, 5), `combination` into combined (v, c, 3).

    cross (c, r); shape (c, r + 2): variance at phi = 0, weight of what no eigenvector sees, squares of the loadings.
    """
    for j in range(begin, end):
        w = np.empty(len(lam))
        sums_at(phi[j], scores[j], rest[j], lam, d, w, moments[j])
        for c in range(len(cross)):
            shift, unscaled, slope = combination(phi[j], scores[j], w, cross[c], shape[c])
            combined[j, c, 0], combined[j, c, 1], combined[j, c, 2] = shift, unscaled, slope
