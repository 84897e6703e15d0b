"""Conditional AIC and the effective degrees of freedom of a mixed model (Vaida & Blanchard 2005, Greven & Kneib 2010).

cAIC = -2 log f(y | beta_hat, b_hat, sigma_hat) + 2 (rho + 1),     rho = tr(H), y_hat = H y

With estimated variance parameters x_hat(y) the trace of d y_hat/dy has another part. At the minimum of the deviance

    dx/dy' = -B^-1 ds/dx',   s = d deviance/dy = 2 R^-1 (y - y_hat)/sigma^2,   B = d^2 deviance/dx^2,
    rho = tr(H) - sum_jk (B^-1)_jk (dy_hat/dx_j)'(ds/dx_k).
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from .._typing import FloatArray
from ..engines.threads import blas_threads
from .residuals import leverage, row_precision
from .satterthwaite import differences, inside_limits, inverse, step_of

if TYPE_CHECKING:
    from ..results import Fit


@dataclass(frozen=True, slots=True)
class ConditionalAIC:
    """caic = -2 loglik + 2 (effective_df + 1), where sigma was estimated; + 2 effective_df where it was held.

    loglik: conditional on the random effects. effective_df: trace of the derivative of the fitted values by y, at known
    or at estimated variance parameters.
    """

    caic: float
    loglik: float
    effective_df: float


def conditional_aic(fit: "Fit", *, corrected: bool = False) -> ConditionalAIC:
    """Conditional AIC. corrected: counts that variance parameters were estimated (Greven & Kneib 2010), as R's cAIC4.

    The correction takes two evaluations of the score a parameter, by central differences.
    """
    rho, loglik = float(leverage(fit).sum()), -0.5 * _conditional_deviance(fit)
    if corrected:
        with blas_threads(fit.likelihood.flops):
            rho += _of_estimation(fit)
    count = 0 if "sigma" in fit.estimate.held else 1
    return ConditionalAIC(-2.0 * loglik + 2.0 * (rho + count), loglik, rho)


def _of_estimation(fit: "Fit") -> float:
    """-sum_jk (B^-1)_jk (dy_hat/dx_j)'(ds/dx_k)."""
    if fit.estimate.optimum is None:
        return 0.0
    chart, x = fit.estimate.chart, fit.estimate.optimum.x

    def at(x: FloatArray) -> tuple[FloatArray, FloatArray]:
        theta, sigma = chart.model(x)
        found = fit.likelihood(theta, reml=fit.reml, sigma=sigma)
        there = replace(fit, estimate=replace(fit.estimate, evaluation=found))
        score = chart.pull_back(x, fit.likelihood.derivatives(theta, reml=fit.reml, sigma=sigma))[0]
        fitted = there.fitted
        return score, np.array([fitted, 2.0 * (row_precision(there) @ (fit.spec.y - fitted)) / found.sigma**2])

    hessian, slopes = differences(at, x, step_of(fit))
    inside = inside_limits(fit, len(x))
    mean, slope = np.moveaxis(slopes.reshape(len(x), 2, fit.nobs)[inside], 1, 0)
    B = 0.5 * (hessian + hessian.T)[np.ix_(inside, inside)]
    return -float((inverse(B) * (mean @ slope.T)).sum())


def _conditional_deviance(fit: "Fit") -> float:
    """-2 log f(y | beta, b) = n log(2 pi sigma^2) + log|R| + e'R^-1e/sigma^2."""
    weights, residual, e = fit.spec.weights, fit.spec.residual, fit.resid
    logdet = 0.0 if weights is None else -float(np.log(weights).sum())
    if residual is not None:
        logdet += residual.logdet(fit.estimate.evaluation.theta[fit.likelihood.parameters.residual_slice])
    rest = float(e @ (row_precision(fit) @ e))
    return fit.nobs * float(np.log(2 * np.pi * fit.sigma**2)) + logdet + rest / fit.sigma**2
