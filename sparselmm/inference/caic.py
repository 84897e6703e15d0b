"""Conditional AIC and the effective degrees of freedom of a mixed model (Vaida & Blanchard 2005).

cAIC = -2 log f(y | beta_hat, b_hat, sigma_hat) + 2 (rho + 1),     rho = tr(H), y_hat = H y
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .._typing import FloatArray
from ..engines.threads import blas_threads
from .contrasts import need_dense
from .factorised import Factorised, factorise

if TYPE_CHECKING:
    from ..results import Fit


@dataclass(frozen=True, slots=True)
class ConditionalAIC:
    """caic = -2 loglik + 2 (effective_df + 1), where sigma was estimated; + 2 effective_df where it was held.

    loglik: conditional on the random effects. effective_df: trace of the matrix that makes fitted values of y.
    """

    caic: float
    loglik: float
    effective_df: float


def conditional_aic(fit: "Fit") -> ConditionalAIC:
    """Conditional AIC at the estimated variances; their own uncertainty is not counted (Greven & Kneib 2010 do)."""
    need_dense(fit, "the conditional AIC")
    with blas_threads(fit.likelihood.flops):
        at = factorise(fit)
        rho = effective_df(at)
    loglik = -0.5 * _conditional_deviance(fit, at)
    count = 0 if "sigma" in fit.estimate.held else 1
    return ConditionalAIC(-2.0 * loglik + 2.0 * (rho + count), loglik, rho)


def effective_df(at: Factorised) -> float:
    """tr(H) = p + q - tr((C^-1)_vv Q~) = p + sum over terms of (m r - tr(Q~_k (M^-1 + N N')))."""
    equations = at.equations
    inverses = equations.level_blocks(at.engine.selected_inverse)
    N, precisions = equations.split(at.fixed_part), at.likelihood.precisions(at.solution.theta)
    out = float(len(at.solution.beta) + equations.q)
    for Q, block, Nk, (first, second) in zip(precisions, inverses, N, equations.pairs, strict=True):
        weight = np.where(first == second, 1.0, 2.0) * Q
        out -= float(weight @ np.einsum("taa->t", block))
        out -= float(weight @ np.einsum("tac,tac->t", Nk[first], Nk[second]))
    return out


def _conditional_deviance(fit: "Fit", at: Factorised) -> float:
    """-2 log f(y | beta, b) = n log(2 pi sigma^2) + log|R| + e'R^-1e/sigma^2, with e'R^-1e = r^2 - v'Q~v."""
    likelihood, theta = at.likelihood, at.solution.theta
    logdet = -likelihood.products.sum_log_weights
    if fit.spec.residual is not None:
        logdet += fit.spec.residual.logdet(theta[likelihood.parameters.residual_slice])
    rest = at.solution.r2 - _penalty(at, at.equations.split(at.solution.v))
    return fit.nobs * float(np.log(2 * np.pi * fit.sigma**2)) + logdet + rest / fit.sigma**2


def _penalty(at: Factorised, v: list[FloatArray]) -> float:
    """v'Q~v."""
    out = 0.0
    precisions = at.likelihood.precisions(at.solution.theta)
    for Q, vk, (first, second) in zip(precisions, v, at.equations.pairs, strict=True):
        weight = np.where(first == second, 1.0, 2.0) * Q
        out += float(weight @ np.einsum("tac,tac->t", vk[first], vk[second]))
    return out
