"""Moderated statistics: residual variances drawn to a scaled inverse chi-squared prior, as in limma.

Smyth (2004), "Linear models and empirical Bayes methods", Stat. Appl. Genet. Mol. Biol. 3(1), sections 3 to 6.
"""

import numpy as np
import pandas as pd
from scipy.special import ndtr, polygamma, psi, stdtr

from .._errors import ModelError
from .._typing import FloatArray
from .estimates import Estimates

OFFSET = 1e-5  # of the median: a variance of zero would have a logarithm of minus infinity (limma does the same)
NEWTON_STEPS, NEWTON_TOLERANCE = 50, 1e-12


def fit_prior(variances: FloatArray, df: FloatArray) -> tuple[float, float]:
    """s0^2 and d0 of s^2 ~ s0^2 F(df, d0), by the moments of log s^2 (Smyth 2004, section 6.2); d0 may be infinite."""
    ok = np.isfinite(variances) & np.isfinite(df) & (df > 0.0) & (variances >= 0.0)
    x, half = variances[ok], 0.5 * df[ok]
    if len(x) < 2:
        return (float(x[0]) if len(x) else np.nan), 0.0
    x = np.maximum(x, OFFSET * np.median(x))
    e = np.log(x) - psi(half) + np.log(half)
    excess = e.var(ddof=1) - polygamma(1, half).mean()
    if excess <= 0.0:
        return float(x.mean()), np.inf
    d0 = 2.0 * trigamma_inverse(float(excess))
    return float(np.exp(e.mean() + psi(d0 / 2) - np.log(d0 / 2))), d0


def trigamma_inverse(x: float) -> float:
    """y with trigamma(y) = x > 0, by Newton on 1/trigamma, which is convex (Smyth 2004, appendix)."""
    y = 0.5 + 1.0 / x
    for _ in range(NEWTON_STEPS):
        tri = float(polygamma(1, y))
        step = tri * (1.0 - tri / x) / float(polygamma(2, y))
        y += step
        if -step / y < NEWTON_TOLERANCE:
            break
    return y


def squeeze(variances: FloatArray, df: FloatArray, s02: float, d0: float) -> FloatArray:
    """Posterior variances (d0 s0^2 + df s^2)/(d0 + df)."""
    if np.isinf(d0):
        return np.where(np.isfinite(variances), s02, np.nan)
    return (d0 * s02 + df * variances) / (d0 + df)


def moderated_table(e: Estimates, column: int, responses: pd.Index, moderated: bool) -> pd.DataFrame:
    """estimate, std_error, statistic, df, p_value, adj_p_value of one coefficient, sorted by p value.

    Errors: ModelError where there are no degrees of freedom to moderate with.
    """
    beta, se, df, variances = e.beta[:, column], e.se[:, column], e.df[:, column], e.sigma**2
    df = np.where(np.isfinite(df), df, e.df_residual)
    if moderated and np.isfinite(variances).any() and not np.isfinite(e.df_residual).any():
        raise ModelError(
            "moderated=True needs degrees of freedom: fit with ddf='satterthwaite', or use moderated=False"
        )
    if moderated:
        s02, d0 = fit_prior(variances, e.df_residual)
        se = se * np.sqrt(squeeze(variances, e.df_residual, s02, d0) / variances)
        df = np.minimum(df + d0, np.nansum(e.df_residual))
    statistic = beta / se
    p = p_values(statistic, df)
    table = pd.DataFrame(
        {"estimate": beta, "std_error": se, "statistic": statistic, "df": df, "p_value": p,
         "adj_p_value": benjamini_hochberg(p)}, index=responses,
    )  # fmt: skip
    return table.sort_values("p_value", kind="stable")


def p_values(statistic: FloatArray, df: FloatArray) -> FloatArray:
    """Two-sided: Student's t, the normal distribution where df is infinite or unknown."""
    finite = np.isfinite(df)
    return np.asarray(
        2.0 * np.where(finite, stdtr(np.where(finite, df, 1.0), -np.abs(statistic)), ndtr(-np.abs(statistic)))
    )


def benjamini_hochberg(p: FloatArray) -> FloatArray:
    """False discovery rates: the least over larger p of p m/rank; NaN counts for nothing."""
    out = np.full(len(p), np.nan)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(-p[known], kind="stable")]
    ranks = np.arange(len(order), 0, -1)
    out[order] = np.minimum(1.0, np.minimum.accumulate(p[order] * len(order) / ranks))
    return out
