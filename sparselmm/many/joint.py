"""F tests of several coefficients or contrasts of each response, with Satterthwaite's degrees of freedom.

With K'VK = I for the covariance V of the contrasts, F = |K'b|^2/r on r degrees of freedom; each of the r t values has
1/df = 1/nu + |s|^2, s what `Estimates.spread` makes of its variance of 1 (Fai & Cornelius 1996).
"""

from collections.abc import Sequence

import numpy as np
from scipy.special import chdtrc, fdtrc

from .._errors import ModelError
from .._typing import FloatArray, IntArray
from ..coefficients import degrees_of_mean, uncorrelated
from .design import TOGETHER, Design
from .estimates import Estimates


def joint_tests(design: Design, e: Estimates, places: Sequence[int]) -> tuple[FloatArray, IntArray, FloatArray]:
    """F, num_df and den_df (v,) of what stands at these places among coefficients and contrasts.

    num_df: the rank of the contrasts. den_df: NaN without degrees of freedom. Errors: ModelError where the covariances
    of so many coefficients are not kept.
    """
    p = design.spec.X.shape[1]
    if p > TOGETHER:
        raise ModelError(
            f"F tests need covariances of the coefficients, which are kept of up to {TOGETHER}, not of {p}: test them "
            "one by one, or by fit.test() of lmm()"
        )
    W, b = np.vstack([np.eye(p), design.contrasts])[list(places)], e.beta[:, list(places)]
    missing = ~np.isfinite(b).all(axis=1)
    V = W @ _square(design, e.vcov) @ W.T
    V[missing] = np.eye(len(W))
    K, keep = uncorrelated(V)
    turned, rank = K.transpose(0, 2, 1), keep.sum(axis=1)
    F = (np.matmul(turned, b[:, :, None]) ** 2).sum(axis=(1, 2)) / rank
    slopes = turned[:, None] @ (W @ _square(design, e.spread) @ W.T) @ K[:, None]
    spread = (np.diagonal(slopes, axis1=2, axis2=3) ** 2).sum(axis=1)
    den = degrees_of_mean(1.0 / (1.0 / e.nu[:, None] + spread), keep)
    den[missing | np.isnan(e.df).all(axis=1)] = np.nan
    return F, rank, den


def f_tail(F: FloatArray, num_df: IntArray, den_df: FloatArray) -> FloatArray:
    """P values; of chi-squared where den_df is infinite or unknown."""
    finite = np.isfinite(den_df)
    return np.where(finite, fdtrc(num_df, np.where(finite, den_df, 1.0), F), chdtrc(num_df, num_df * F))


def _square(design: Design, packed: FloatArray) -> FloatArray:
    """Symmetric matrices (..., p, p) of their `Design.pairs` (..., P); 0 beside coefficients that were dropped."""
    p, (first, second) = design.spec.X.shape[1], design.pairs
    out = np.zeros((*packed.shape[:-1], p, p))
    out[..., first, second] = out[..., second, first] = np.nan_to_num(packed)
    return out
