"""Moderated statistics: residual variances drawn to a scaled inverse chi-squared prior, as in limma.

Smyth (2004), "Linear models and empirical Bayes methods", Stat. Appl. Genet. Mol. Biol. 3(1), sections 3 to 6.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtr, polygamma, psi, stdtr

from .._errors import DataError, ModelError
from .._typing import AnyArray, BoolArray, FloatArray
from .design import Design
from .estimates import Estimates
from .joint import f_tail, joint_tests
from .robust import fit_robustly

OFFSET = 1e-5  # of the median: a variance of zero would have a logarithm of minus infinity (limma does the same)
FEW = (1, 3, 6, 30)  # responses from which on a trend has 1, 2, 3 and 4 degrees of freedom (limma)
NEWTON_STEPS, NEWTON_TOLERANCE = 50, 1e-12


def fit_prior(
    variances: FloatArray, df: FloatArray, covariate: FloatArray | None = None
) -> tuple[float | FloatArray, float]:
    """s0^2 and d0 of s^2 ~ s0^2 F(df, d0), by the moments of log s^2 (Smyth 2004, section 6.2); d0 may be infinite.

    covariate: (v,), of which log s0^2, then (v,), is a natural cubic spline with up to four degrees of freedom, fitted
    by least squares (limma's `trend`).
    """
    ok = np.isfinite(variances) & np.isfinite(df) & (df > 0.0) & (variances >= 0.0)
    x, half = variances[ok], 0.5 * df[ok]
    if len(x) < 2:
        return (float(x[0]) if len(x) else np.nan), 0.0
    x = np.maximum(x, OFFSET * np.median(x))
    e = np.log(x) - psi(half) + np.log(half)
    basis = np.ones((len(ok), 1)) if covariate is None else natural_splines(covariate, ok)
    fitted = basis @ np.linalg.lstsq(basis[ok], e)[0]
    excess = ((e - fitted[ok]) ** 2).sum() / (len(x) - basis.shape[1]) - polygamma(1, half).mean()
    d0 = 2.0 * trigamma_inverse(float(excess)) if excess > 0.0 else np.inf
    shift = psi(d0 / 2) - np.log(d0 / 2) if excess > 0.0 else 0.0
    if basis.shape[1] > 1:
        return np.exp(fitted + shift), d0
    return float(np.exp(fitted[ok][0] + shift) if excess > 0.0 else x.mean()), d0


def natural_splines(x: FloatArray, ok: BoolArray) -> FloatArray:
    """Basis (v, K) of natural cubic splines with knots at quantiles of x[ok], K = 4, less where there are few.

    Hastie, Tibshirani & Friedman (2009), (5.4) and (5.5): 1, t and d_k - d_K-1, linear beyond the outer knots.
    """
    size = sum(ok.sum() >= least for least in FEW)
    knots = np.unique(np.quantile(x[ok], np.linspace(0.0, 1.0, size))) if size > 1 else np.zeros(1)
    if len(knots) < 2:
        return np.ones((len(x), 1))
    t, knots = (x - knots[0]) / np.ptp(knots), (knots - knots[0]) / np.ptp(knots)
    cubes = np.maximum(t[:, None] - knots, 0.0) ** 3
    d = (cubes[:, :-1] - cubes[:, -1:]) / (1.0 - knots[:-1])
    return np.column_stack([np.ones(len(t)), t, d[:, :-1] - d[:, -1:]])


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


def squeeze(variances: FloatArray, df: FloatArray, s02: float | FloatArray, d0: float | FloatArray) -> FloatArray:
    """Posterior variances (d0 s0^2 + df s^2)/(d0 + df)."""
    with np.errstate(invalid="ignore"):
        posterior = np.where(np.isinf(d0), s02, (d0 * s02 + df * variances) / (d0 + df))
    return np.where(np.isfinite(variances), posterior, np.nan)


@dataclass(frozen=True, slots=True, eq=False)
class Moderation:
    """ratio: (v,) of posterior variances to the estimates. d0: what the prior adds to degrees of freedom, (v,) or one.

    pooled: of all responses together; no test has more.
    """

    ratio: FloatArray
    d0: float | FloatArray
    pooled: float

    def degrees(self, df: FloatArray) -> FloatArray:
        """Of a moderated test, df (v,) those of the plain one."""
        return np.minimum(df + self.d0, self.pooled)


def moderation(e: Estimates, covariate: FloatArray | None = None, robust: bool = False) -> Moderation:
    """Errors: ModelError where there are no degrees of freedom to moderate with."""
    variances = e.sigma**2
    if np.isfinite(variances).any() and not np.isfinite(e.df_residual).any():
        raise ModelError(
            "moderated=True needs degrees of freedom: fit with ddf='satterthwaite', or use moderated=False"
        )
    s02: float | FloatArray
    d0: float | FloatArray
    if robust:
        s02, d0 = fit_robustly(variances, e.df_residual, fit_prior)
    else:
        s02, d0 = fit_prior(variances, e.df_residual, covariate)
    return Moderation(squeeze(variances, e.df_residual, s02, d0) / variances, d0, float(np.nansum(e.df_residual)))


def trend_covariate(trend: Any, e: Estimates) -> FloatArray | None:
    """What the prior variance depends on, (v,), or None. Errors: DataError for what is no finite number a response."""
    if isinstance(trend, (bool, np.bool_)):
        return e.mean if trend else None
    v = len(e.sigma)
    try:
        values = np.asarray(trend, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.zeros(0)
    if values.shape != (v,) or not np.isfinite(values[np.isfinite(e.sigma)]).all():
        raise DataError(f"trend: True, or a finite number for each of {v} responses")
    return values


def t_table(e: Estimates, place: int, responses: pd.Index, by: Moderation | None) -> pd.DataFrame:
    """estimate, std_error, statistic, df, p_value, adj_p_value of one coefficient, sorted by p value."""
    beta, se = e.beta[:, place], e.se[:, place]
    df = np.where(np.isfinite(e.df[:, place]), e.df[:, place], e.df_residual)
    if by is not None:
        se, df = se * np.sqrt(by.ratio), by.degrees(df)
    statistic = beta / se
    columns = {"estimate": beta, "std_error": se, "statistic": statistic, "df": df}
    return _sorted(columns, p_values(statistic, df), responses)


def f_table(
    design: Design, e: Estimates, places: Mapping[str, int], responses: pd.Index, by: Moderation | None
) -> pd.DataFrame:
    """An estimate a coefficient, F, num_df, den_df, p_value, adj_p_value of all of them together, sorted by p value.

    Errors: ModelError for a coefficient with the name of such a column.
    """
    F, num_df, den_df = joint_tests(design, e, list(places.values()))
    if by is not None:
        F, den_df = F / by.ratio, by.degrees(np.where(np.isfinite(den_df), den_df, e.df_residual))
    tests = {"F": F, "num_df": num_df, "den_df": den_df}
    taken = [name for name in (*tests, "p_value", "adj_p_value") if name in places]
    if taken:
        raise ModelError(f"'{taken[0]}' is a coefficient, and a column of this table: rename it, or test it alone")
    columns = {name: e.beta[:, place] for name, place in places.items()} | tests
    return _sorted(columns, f_tail(F, num_df, den_df), responses)


def _sorted(columns: Mapping[str, AnyArray], p: FloatArray, responses: pd.Index) -> pd.DataFrame:
    table = pd.DataFrame(columns, index=responses).assign(p_value=p, adj_p_value=benjamini_hochberg(p))
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
