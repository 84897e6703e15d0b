"""Effects, standard errors and tests of markers from their products with the null's P.

At the null's variance parameters beta = (U'P U)^-1 U'P y is generalised least squares with the marker in the model
(Kang et al. 2010, EMMAX; P3D of Zhang et al. 2010), and what it takes off y'P y is y'P U beta. "score" takes sigma
from the null too: y'P U beta / sigma^2 is chi-squared and at the same time Rao's score statistic. "wald" estimates
sigma anew, at the null's ratios of variances: t with n - p - 1, or F, degrees of freedom.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from scipy import special, stats

from .._typing import AnyArray, BoolArray, FloatArray
from .projection import Products

DEPENDENT = 1e-10  # of g'V^-1 g that the fixed effects leave: 1e-5 in length, as for columns of X
Numbers: TypeAlias = AnyArray | float
TESTS = ("wald", "score")
UNDERFLOW = 1e-290  # p-values below lose digits, and are zero below 1e-308
DIGITS = 40.0  # a term e^-40 of the first ends a series
TERMS = 12  # of the series of log P(chi^2 > 1000), whose terms fall by a hundredth at least
NO_VARIATION = "no variation"
NO_GENOTYPE = "no genotype is known"
TOO_FEW = "too few people with a genotype to estimate sigma"
CONFOUNDED = "depends linearly on the fixed effects"
PERFECT = "explains the response but for rounding"
ROUNDING = 1e-12  # of y'P y: no more is left


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """beta, se, p_effect (k, c) of each effect; statistic, p (k,) of all: t or z for one, F or chi^2 / c else.

    minus_log10_p: (k,), where p is zero for being too small too.
    """

    beta: FloatArray
    se: FloatArray
    p_effect: FloatArray
    statistic: FloatArray
    p: FloatArray
    minus_log10_p: FloatArray


def solvable(products: Products) -> BoolArray:
    """Which markers (k,) the fixed effects do not explain."""
    size = np.sqrt(np.maximum(products.size, np.finfo(np.float64).tiny))
    scaled = products.gram / (size[:, :, None] * size[:, None, :])
    ok = np.isfinite(scaled).all(axis=(1, 2))
    ok[ok] = np.linalg.eigvalsh(scaled[ok])[:, 0] > DEPENDENT
    return np.asarray(ok)


def statistics(products: Products, ss: Numbers, df: Numbers, sigma2: float | None) -> Statistics:
    """Tests of a block; ss (k,) or a number: y'P y; df = n - p - c; sigma2: held at this value, None: estimated.

    NaN where a marker depends on the fixed effects; all but beta where it leaves nothing for sigma.
    """
    k, c = products.score.shape
    ok = solvable(products)
    beta, inverse = np.full((k, c), np.nan), np.full((k, c, c), np.nan)
    inverse[ok] = np.linalg.inv(products.gram[ok])
    beta[ok] = np.einsum("kij,kj->ki", inverse[ok], products.score[ok])
    gain = np.einsum("ki,ki->k", beta, products.score)
    left = np.broadcast_to(ss, k) - gain
    variance = np.where(left > ROUNDING * ss, left, np.nan) / df if sigma2 is None else np.full(k, sigma2)
    with np.errstate(invalid="ignore"):
        se = np.sqrt(variance[:, None] * np.einsum("kii->ki", inverse))
    free = np.broadcast_to(df, k) if sigma2 is None else np.full(k, np.inf)
    p_effect = two_sided(beta / se, free[:, None])
    joint = gain / variance / c
    statistic = (beta / se)[:, 0] if c == 1 else joint
    p = p_effect[:, 0] if c == 1 else stats.f.sf(joint, c, np.where(np.isinf(free), 1e300, free))
    return Statistics(beta, se, p_effect, statistic, p, minus_log10(p, joint, c, free))


def two_sided(t: FloatArray, df: Numbers) -> FloatArray:
    """p-values of t, of the normal distribution where df is infinite."""
    return np.asarray(2.0 * stats.t.sf(np.abs(t), df))


def minus_log10(p: FloatArray, F: FloatArray, c: int, df: FloatArray) -> FloatArray:
    """-log10 of P(F(c, df) > F), (k,), from p where it has its digits."""
    with np.errstate(divide="ignore"):
        out = -np.log10(p)
        for k in np.flatnonzero((p < UNDERFLOW) & np.isfinite(F)):
            log = _log_chi2(F[k] * c, c) if np.isinf(df[k]) else _log_f(F[k], c, df[k])
            out[k] = -log / np.log(10.0)
    return np.asarray(out)


def _log_f(F: float, c: int, df: float) -> float:
    """log P(F(c, df) > F) = log I_x(a, b), x = df / (df + c F), a = df/2 and b = c/2, by DLMF 8.17.8:

    I_x(a, b) = x^a (1-x)^b / (a B(a, b)) (1 + (a+b)/(a+1) x + (a+b)(a+b+1)/((a+1)(a+2)) x^2 + ...). SciPy's 2F1 has no
    value near x = 1.
    """
    a, b, x = df / 2.0, c / 2.0, df / (df + c * F)
    i = np.arange(10 + DIGITS / -np.log(x))
    series = 1.0 + np.cumprod(x * (a + b + i) / (a + 1.0 + i)).sum()
    return float(a * np.log(x) + b * np.log1p(-x) - np.log(a) - special.betaln(a, b) + np.log(series))


def _log_chi2(x: float, c: int) -> float:
    """log P(chi^2_c > x) of a large x: with h = x/2, s = c/2, h^(s-1) e^-h / Gamma(s) (1 + (s-1)/h + ...) (8.11.2)."""
    h, s = x / 2.0, c / 2.0
    terms = np.cumprod((s - np.arange(1.0, TERMS)) / h)
    return float((s - 1.0) * np.log(h) - h - special.gammaln(s) + np.log1p(terms.sum()))
