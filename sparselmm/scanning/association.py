"""Effects, standard errors and tests of markers from their products with the null's P.

At the null's variance parameters beta = (U'P U)^-1 U'P y is generalised least squares with the marker in the model
(Kang et al. 2010, EMMAX; P3D of Zhang et al. 2010), and what it takes off y'P y is y'P U beta. "score" takes sigma
from the null too: y'P U beta / sigma^2 is chi-squared and at the same time Rao's score statistic. "wald" estimates
sigma anew, at the null's ratios of variances: t with n - p - 1, or F, degrees of freedom.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from scipy import stats

from .._typing import AnyArray, BoolArray, FloatArray
from .projection import Products

DEPENDENT = 1e-10  # of g'V^-1 g that the fixed effects leave: 1e-5 in length, as for columns of X
Numbers: TypeAlias = AnyArray | float
TESTS = ("wald", "score")
NO_VARIATION = "no variation"
NO_GENOTYPE = "no genotype is known"
CONFOUNDED = "depends linearly on the fixed effects"


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """beta, se, p_effect (k, c) of each effect; statistic, p (k,) of all: t or z for one, F or chi^2 / c else."""

    beta: FloatArray
    se: FloatArray
    p_effect: FloatArray
    statistic: FloatArray
    p: FloatArray


def solvable(products: Products) -> BoolArray:
    """Which markers (k,) the fixed effects do not explain."""
    size = np.sqrt(np.maximum(products.size, np.finfo(np.float64).tiny))
    scaled = products.gram / (size[:, :, None] * size[:, None, :])
    ok = np.isfinite(scaled).all(axis=(1, 2))
    ok[ok] = np.linalg.eigvalsh(scaled[ok])[:, 0] > DEPENDENT
    return np.asarray(ok)


def statistics(products: Products, ss: Numbers, df: Numbers, sigma2: float | None) -> Statistics:
    """Tests of a block; ss (k,) or a number: y'P y; df = n - p - c; sigma2: held at this value, None: estimated.

    NaN where a marker depends on the fixed effects.
    """
    k, c = products.score.shape
    ok = solvable(products)
    beta, inverse = np.full((k, c), np.nan), np.full((k, c, c), np.nan)
    inverse[ok] = np.linalg.inv(products.gram[ok])
    beta[ok] = np.einsum("kij,kj->ki", inverse[ok], products.score[ok])
    gain = np.einsum("ki,ki->k", beta, products.score)
    variance = (np.broadcast_to(ss, k) - gain) / df if sigma2 is None else np.full(k, sigma2)
    with np.errstate(invalid="ignore"):
        se = np.sqrt(variance[:, None] * np.einsum("kii->ki", inverse))
    free = np.broadcast_to(df, k) if sigma2 is None else np.full(k, np.inf)
    p_effect = two_sided(beta / se, free[:, None])
    if c == 1:
        return Statistics(beta, se, p_effect, (beta / se)[:, 0], p_effect[:, 0])
    joint = gain / variance / c
    return Statistics(beta, se, p_effect, joint, stats.f.sf(joint, c, np.where(np.isinf(free), 1e300, free)))


def two_sided(t: FloatArray, df: Numbers) -> FloatArray:
    """p-values of t, of the normal distribution where df is infinite."""
    return np.asarray(2.0 * stats.t.sf(np.abs(t), df))
