"""A prior of residual variances that outlying ones do not move, and that does not move them.

Phipson, Lee, Majewski, Alexander & Smyth (2016), "Robust hyperparameter estimation protects against hypervariable genes
and improves power to detect differential expression", Ann. Appl. Stat. 10(2). The numbers are those of limma.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.polynomial.legendre import leggauss
from scipy.optimize import brentq
from scipy.special import betaln, hyp2f1

from .._typing import FloatArray

FitPrior: TypeAlias = Callable[[FloatArray, FloatArray], tuple[Any, float]]

LOWER, UPPER = 0.05, 0.1  # parts of the log variances that are drawn to their quantiles
TINY = 1e-12  # of the median: smaller variances count as this one
NODES, ROOT = 128, 1e-12
UNDERFLOW = 1e-200  # a tail whose logarithm comes from a series


def fit_robustly(variances: FloatArray, df: FloatArray, fit_prior: FitPrior) -> tuple[float, FloatArray]:
    """s0^2, and d0 (v,) of every response: d0 where s^2 is like the others, less where its tail probability is small.

    fit_prior: the moments that are robustified, taken where there are fewer than ten responses.
    """
    ok, out = np.isfinite(variances) & np.isfinite(df) & (df > 0.0), np.full(len(df), np.nan)
    x, n = variances[ok], int(ok.sum())
    x = np.maximum(x, TINY * np.median(x)) if n else x
    s02, d0 = fit_prior(x, df[ok])
    out[ok] = d0
    if n * max(LOWER, UPPER) < 1.0:
        return s02, out
    most = float(df[ok].max())
    z = np.log(_same_degrees(x, df[ok], most, s02, d0))
    cut = int(UPPER * n)
    centre = np.sort(z)[cut : n - cut].mean()
    drawn = np.clip(z - centre, *np.quantile(z - centre, [LOWER, 1.0 - UPPER]))
    spread = float(drawn.var(ddof=1))
    d0 = _degrees(spread, most, d0)
    s02 = float(np.exp(centre + drawn.mean() - _moments(most, d0)[0]))
    out[ok] = _outliers(np.exp(z) / s02, most, d0)
    return s02, out


def _f(df: float | FloatArray, d0: float) -> Any:
    """F(df, d0), chi-squared over df where d0 is infinite."""
    from scipy import stats

    return stats.f(df, d0) if np.isfinite(d0) else stats.chi2(df, scale=1.0 / df)


def _same_degrees(x: FloatArray, df: FloatArray, most: float, s02: float, d0: float) -> FloatArray:
    """Variances (n,) that would have the same tail probability with `most` degrees of freedom."""
    own = _f(df, d0)
    upper, lower = own.sf(x / s02), own.cdf(x / s02)
    same = np.where(upper < lower, _f(most, d0).isf(upper), _f(most, d0).ppf(lower)) * s02
    return np.where((df < most) & np.isfinite(same) & (same > 0.0), same, x)


def _moments(df: float, d0: float) -> tuple[float, float]:
    """Mean and variance of log F(df, d0) with its tails drawn to their quantiles, by quadrature in F/(1 + F)."""
    found = _f(df, d0)
    ends = found.ppf([LOWER, 1.0 - UPPER])
    low, high = ends / (1.0 + ends)
    nodes, weights = leggauss(NODES)
    u = low + (high - low) * 0.5 * (nodes + 1.0)
    f, tails = u / (1.0 - u), np.array([LOWER, UPPER])
    mass = 0.5 * (high - low) * weights * found.pdf(f) / (1.0 - u) ** 2
    mean = mass @ np.log(f) + tails @ np.log(ends)
    return float(mean), float(mass @ (np.log(f) - mean) ** 2 + tails @ (np.log(ends) - mean) ** 2)


def _degrees(spread: float, df: float, least: float) -> float:
    """d0 >= least at which the drawn log variances vary as much as these."""
    if spread <= _moments(df, np.inf)[1] or np.isinf(least):
        return np.inf

    def excess(x: float) -> float:
        return float(np.log(spread / _moments(df, x / (1.0 - x))[1]))

    start, end = least / (1.0 + least), 1.0 - 1e-9
    if excess(start) >= 0.0:
        return least
    if excess(end) <= 0.0:
        return np.inf
    root = float(brentq(excess, start, end, xtol=ROOT))
    return root / (1.0 - root)


def _outliers(F: FloatArray, df: float, d0: float) -> FloatArray:
    """d0 of every response with ratio F (n,) of its variance to the prior: the probability that it is none times d0,
    and what is left of d0 for an outlier, so that no larger F has a larger d0.
    """
    from scipy.stats import rankdata

    n, tail = len(F), _log_tail(F, df, d0)
    log_none = np.minimum(tail - np.log((n - rankdata(F) + 0.5) / n), 0.0)
    if not (log_none < 0.0).any():
        return np.full(n, d0)
    order = np.argsort(tail, kind="stable")
    if np.isinf(d0):
        out = np.where(log_none < 0.0, np.exp(log_none) * n * df, np.inf)
        out[order] = np.maximum.accumulate(out[order])
        return out
    least = np.log(0.5) / tail.min() * d0
    least *= np.log(0.5) / float(_log_tail(F.max(keepdims=True), df, least)[0])
    out = np.exp(log_none) * d0 - np.expm1(log_none) * least
    values = out[order]
    means = np.cumsum(values) / np.arange(1, n + 1)
    values[: means.argmin() + 1] = means.min()
    out[order] = np.maximum.accumulate(values)
    return out


def _log_tail(F: FloatArray, df: float, d0: float) -> FloatArray:
    """log P(F(df, d0) > F); where it underflows by I_w(a, b) = w^a (1-w)^b 2F1(a + b, 1; a + 1; w)/(a B(a, b))."""
    with np.errstate(divide="ignore"):
        p = _f(df, d0).sf(F)
        out = np.log(p)
    if np.isfinite(d0) and (p < UNDERFLOW).any():
        a, b, w = 0.5 * d0, 0.5 * df, d0 / (d0 + df * F[p < UNDERFLOW])
        out[p < UNDERFLOW] = a * np.log(w) + b * np.log1p(-w) - np.log(a) - betaln(a, b)
        out[p < UNDERFLOW] += np.log(hyp2f1(a + b, 1.0, a + 1.0, w))
    return out
