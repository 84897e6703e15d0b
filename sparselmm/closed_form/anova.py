"""Balanced one-way and nested analysis of variance with random effects: ML and REML in closed form.

In a balanced design V has one eigenvalue lambda_s for each stratum of the ANOVA table, and

    -2 l = c + sum_s (d_s log lambda_s + SS_s / lambda_s),   lambda_1 <= lambda_2 <= ...,

so lambda_s = SS_s/d_s where that respects the order (variances are not negative); where it does not, the
strata out of order are pooled: isotonic regression with weights d_s is the constrained optimum of this
criterion (Robertson, Wright & Dykstra 1988, section 1.5). d_s are the degrees of freedom, except that ML
gives the top stratum, which the mean belongs to, one more: SSB/k where REML has SSB/(k-1) (Searle, Casella
& McCulloch 1992, chapter 3; Madsen & Thyregod 2011, theorem 5.4).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from .._errors import DataError
from .._typing import FloatArray, IntArray


@dataclass(frozen=True, slots=True, eq=False)
class BalancedAnova:
    """Estimates of a balanced random-effects ANOVA.

    mean: the grand mean. variances: by name of the factor, zero on the boundary. sigma2: residual variance.
    loglik: the log-likelihood, or for `reml` the restricted one with lme4's constants.
    """

    mean: float
    variances: dict[str, float]
    sigma2: float
    loglik: float
    reml: bool

    @property
    def deviance(self) -> float:
        """-2 loglik; the REML criterion if `reml`."""
        return -2 * self.loglik

    @property
    def is_singular(self) -> bool:
        """Whether a variance is on its boundary, zero."""
        return 0.0 in self.variances.values()


def one_way(y: FloatArray, group: Sequence[Any], reml: bool = True) -> BalancedAnova:
    """y_ij = mu + a_i + e_ij, i = 1 ... k, j = 1 ... m: variances `group` and sigma2.

    y: (n,). group: (n,) labels. lambda = (sigma2, sigma2 + m tau2), SS = (SSE, SSB), d = (k(m-1), k or k-1).
    Errors: DataError where the design is not balanced, has fewer than two groups or replicates, or where y
    does not vary within the groups (the likelihood has no bound).
    """
    y, codes = _as_response(y), _codes(group, "group", len(y))
    z = y - y[0]
    cells = _balanced_means(z, codes, "group")
    k, m = len(cells), len(y) // len(cells)
    ss = [_ss(z - cells[codes]), m * _ss(cells - cells.mean())]
    return _fit(y, ["group"], [m], ss, [k * (m - 1), k - 1], reml)


def nested(y: FloatArray, outer: Sequence[Any], inner: Sequence[Any], reml: bool = True) -> BalancedAnova:
    """y_ijl = mu + a_i + b_ij + e_ijl, i = 1 ... k, j = 1 ... b, l = 1 ... m: variances `outer`, `inner` and sigma2.

    y: (n,). outer, inner: (n,) labels; those of `inner` may be used again in another outer group.
    lambda = (sigma2, sigma2 + m tau_b^2, sigma2 + m tau_b^2 + m b tau_a^2), d = (kb(m-1), k(b-1), k or k-1).
    Errors: as `one_way`, and DataError where an outer group has one inner group.
    """
    y, a = _as_response(y), _codes(outer, "outer", len(y))
    ab = _codes(list(zip(a.tolist(), _codes(inner, "inner", len(y)).tolist(), strict=True)), "outer:inner", len(y))
    z = y - y[0]
    cells = _balanced_means(z, ab, "outer:inner")
    outer_of_cell = np.zeros(len(cells), dtype=np.int64)
    outer_of_cell[ab] = a
    groups = _balanced_means(cells, outer_of_cell, "outer")
    k, b, m = len(groups), len(cells) // len(groups), len(y) // len(cells)
    ss = [_ss(z - cells[ab]), m * _ss(cells - groups[outer_of_cell]), m * b * _ss(groups - groups.mean())]
    return _fit(y, ["inner", "outer"], [m, m * b], ss, [k * b * (m - 1), k * (b - 1), k - 1], reml)


def _fit(
    y: FloatArray, names: list[str], sizes: list[int], ss: list[float], df: list[int], reml: bool
) -> BalancedAnova:
    """From strata to estimates. sizes: rows of a level of each factor. ss, df: of residual and each factor."""
    n = len(y)
    if ss[0] <= n * (4 * np.finfo(np.float64).eps * np.abs(y).max()) ** 2:
        raise DataError("y does not vary within its groups: sigma is zero and the likelihood has no bound")
    d = np.array(df, dtype=np.float64)
    d[-1] += not reml
    lam = pool_adjacent_violators(np.array(ss) / d, d)
    variances = {name: float(v) for name, v in zip(names, np.diff(lam) / sizes, strict=True)}
    # log|X'V^-1X| = log(n/lambda_top) takes the mean's lambda out of log|V| and leaves log n
    deviance = d.sum() * np.log(2 * np.pi) + np.sum(d * np.log(lam) + ss / lam) + (np.log(n) if reml else 0.0)
    return BalancedAnova(
        mean=float(y[0] + (y - y[0]).mean()),
        variances=dict(reversed(variances.items())),
        sigma2=float(lam[0]),
        loglik=float(-deviance / 2),
        reml=reml,
    )


def pool_adjacent_violators(x: FloatArray, weights: FloatArray) -> FloatArray:
    """Isotonic regression: the non-decreasing sequence that is closest to x, adjacent violators averaged by weight."""
    blocks: list[tuple[float, float, int]] = []
    for value, weight in zip(x.tolist(), weights.tolist(), strict=True):
        block = (value, weight, 1)
        while blocks and blocks[-1][0] >= block[0]:
            (u, wu, nu), (v, wv, nv) = blocks.pop(), block
            block = ((wu * u + wv * v) / (wu + wv), wu + wv, nu + nv)
        blocks.append(block)
    return np.repeat([b[0] for b in blocks], [b[2] for b in blocks])


def _ss(x: FloatArray) -> float:
    return float(x @ x)


def _balanced_means(z: FloatArray, codes: IntArray, name: str) -> FloatArray:
    """Mean of each level; DataError where the levels differ in size or are too few or too small."""
    sizes = np.bincount(codes)
    if np.ptp(sizes):
        raise DataError(
            f"the design is not balanced: levels of '{name}' have {sizes.min()} to {sizes.max()} members; "
            "fit it with sparselmm.lmm"
        )
    if len(sizes) < 2 or sizes[0] < 2:
        raise DataError(
            f"'{name}' has {len(sizes)} levels of {sizes[0]} members; its variance needs two levels and two members"
        )
    return np.bincount(codes, z) / sizes


def _as_response(y: FloatArray) -> FloatArray:
    try:
        y = np.asarray(y, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"y is a vector of numbers: {error}") from error
    if y.ndim != 1 or len(y) == 0:
        raise DataError(f"y has shape {y.shape}, expected a vector of observations")
    if not np.isfinite(y).all():
        bad = int((~np.isfinite(y)).sum())
        raise DataError(f"y: {bad} of {len(y)} values are infinite or missing; drop these rows")
    return y


def _codes(labels: Sequence[Any], name: str, n: int) -> IntArray:
    """Labels -> 0 ... k-1 in order of appearance."""
    values = labels.tolist() if isinstance(labels, np.ndarray) else list(labels)
    if len(values) != n:
        raise DataError(f"'{name}' has {len(values)} labels, y has {n} values")
    if pd.isna(pd.Series(values, dtype=object)).any():
        raise DataError(f"'{name}' has missing labels; drop these rows")
    seen: dict[Any, int] = {}
    return np.array([seen.setdefault(v, len(seen)) for v in values], dtype=np.int64)
