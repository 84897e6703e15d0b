"""Variance parameters on the natural scale, with their standard errors."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .._typing import FloatArray
from ..charts import SIGMA, make_chart

if TYPE_CHECKING:
    from ..results import Fit

STEP = 1e-6  # of central differences through theta -> sd, cor


def variance_parameters(fit: "Fit") -> pd.Series:
    """`sd_...`, `cor_...` and `sigma`, in units of the response."""
    names = [*fit.likelihood.parameters.natural_names, SIGMA]
    return pd.Series(_natural(fit, fit.estimate.evaluation.theta, fit.sigma), index=names)


def _natural(fit: "Fit", theta: FloatArray, sigma: float) -> FloatArray:
    parameters = fit.likelihood.parameters
    scale = np.array([sigma if n.startswith("sd_") else 1.0 for n in parameters.natural_names])
    return np.append(parameters.to_natural(theta) * scale, sigma)


def variance_parameter_errors(fit: "Fit") -> pd.Series:
    """Standard errors by the delta method from twice the inverse of the information (AI and curvature) of -2l.

    NaN for what was held and for what lies on the boundary, where no such approximation holds.
    """
    names = [*fit.likelihood.parameters.natural_names, SIGMA]
    cov, jacobian = _held_information(fit) if fit.estimate.held else _free_information(fit)
    errors = np.sqrt(np.einsum("ij,jk,ik->i", jacobian, cov, jacobian))
    values = variance_parameters(fit).to_numpy()
    with np.errstate(invalid="ignore"):
        edge = np.array([abs(abs(v) - 1) < 1e-9 if n.startswith("cor_") else v == 0.0 for n, v in zip(names, values)])
    held = np.array([n in fit.estimate.held for n in names])
    return pd.Series(np.where(edge | held | ~np.isfinite(values), np.nan, errors), index=names)


def _free_information(fit: "Fit") -> tuple[FloatArray, FloatArray]:
    """Covariance of (theta, log sigma^2), theta at its edge left out, and the Jacobian of the natural scale."""
    d, theta = fit.estimate.derivatives, fit.estimate.evaluation.theta
    k = len(theta)
    inside = theta != 0.0
    cov = np.zeros((k + 1, k + 1))
    cov[:k, :k][np.ix_(inside, inside)] = 2.0 * np.linalg.pinv(d.hessian[np.ix_(inside, inside)])
    slope = d.cross_log_sigma2 / d.information_log_sigma2
    cov[:k, k] = cov[k, :k] = -cov[:k, :k] @ slope
    cov[k, k] = 2.0 / d.information_log_sigma2 + slope @ cov[:k, :k] @ slope
    x = np.append(theta, 2.0 * np.log(fit.sigma))
    return cov, _jacobian(lambda x: _natural(fit, x[:-1], float(np.exp(0.5 * x[-1]))), x)


def _held_information(fit: "Fit") -> tuple[FloatArray, FloatArray]:
    if fit.estimate.optimum is None:
        k = fit.likelihood.parameters.count + 1
        return np.zeros((0, 0)), np.zeros((k, 0))
    chart = make_chart(fit.likelihood.parameters, fit.likelihood.scaling(), fit.estimate.held)

    def natural(x: FloatArray) -> FloatArray:
        theta, sigma = chart.model(x)
        assert sigma is not None
        return _natural(fit, theta, sigma)

    optimum = fit.estimate.optimum
    return 2.0 * np.linalg.pinv(optimum.hessian), _jacobian(natural, optimum.x)


def _jacobian(function, x: FloatArray) -> FloatArray:  # type: ignore[no-untyped-def]
    units = np.eye(len(x)) * STEP
    with np.errstate(invalid="ignore"):
        columns = [(function(x + e) - function(x - e)) / (2 * STEP) for e in units]
    return np.nan_to_num(np.array(columns).T)


def variances_and_correlations(fit: "Fit") -> pd.DataFrame:
    """group, effect1, effect2, vcov, sdcor: one row a variance, then a covariance; group `Residual` last."""
    rows = []
    likelihood = fit.likelihood
    parts = likelihood.parameters.parts(fit.estimate.evaluation.theta)
    for term, structure, part in zip(fit.spec.terms, likelihood.parameters.structures, parts, strict=True):
        T = structure.factor(part) * fit.sigma
        cov, effects = T @ T.T, term.effects
        sd = np.sqrt(np.diag(cov))
        rows += [(term.name, e, None, v, s) for e, v, s in zip(effects, np.diag(cov), sd, strict=True)]
        if structure.n_params == structure.n_effects and not np.triu(cov, 1).any() and len(effects) > 1:
            continue
        for i in range(len(effects)):
            for j in range(i + 1, len(effects)):
                size = sd[i] * sd[j]
                rows.append((term.name, effects[i], effects[j], cov[i, j], cov[i, j] / size if size else np.nan))
    rows.append(("Residual", None, None, fit.sigma**2, fit.sigma))
    table = pd.DataFrame(rows, columns=["group", "effect1", "effect2", "vcov", "sdcor"], dtype=object)
    return table.astype({"vcov": float, "sdcor": float})
