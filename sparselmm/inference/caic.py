"""Conditional AIC and the effective degrees of freedom of a mixed model (Vaida & Blanchard 2005).

cAIC = -2 log f(y | beta_hat, b_hat, sigma_hat) + 2 (rho + 1),     rho = tr(H), y_hat = H y
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .residuals import leverage, row_precision

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
    rho, loglik = float(leverage(fit).sum()), -0.5 * _conditional_deviance(fit)
    count = 0 if "sigma" in fit.estimate.held else 1
    return ConditionalAIC(-2.0 * loglik + 2.0 * (rho + count), loglik, rho)


def _conditional_deviance(fit: "Fit") -> float:
    """-2 log f(y | beta, b) = n log(2 pi sigma^2) + log|R| + e'R^-1e/sigma^2."""
    weights, residual, e = fit.spec.weights, fit.spec.residual, fit.resid
    logdet = 0.0 if weights is None else -float(np.log(weights).sum())
    if residual is not None:
        logdet += residual.logdet(fit.estimate.evaluation.theta[fit.likelihood.parameters.residual_slice])
    rest = float(e @ (row_precision(fit) @ e))
    return fit.nobs * float(np.log(2 * np.pi * fit.sigma**2)) + logdet + rest / fit.sigma**2
