"""Residuals of several kinds, and the leverage of each row."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp

from .._errors import ModelError
from .._typing import FloatArray
from ..coefficients import Functionals
from ..engines.threads import blas_threads
from ..fixed import design_matrix
from .genetics import prior_variances
from .posterior import Posterior
from .residual_scales import residual_scales

if TYPE_CHECKING:
    from ..results import Fit

KINDS = ("response", "marginal", "pearson", "standardized")
LOST = 1e-10  # a variance below this part of what it was made from by subtraction is rounding


def residuals(fit: "Fit", kind: str = "response") -> FloatArray:
    """Residuals of the rows used, (n,).

    "response": e = y - X beta - Z b. "marginal": y - X beta. "pearson": e_i / (sigma sqrt(R_ii)). "standardized":
    e_i / sd(e_i), with var(e) = sigma^2 (R - K'C^-1 K), K the columns [Z X]' of the rows: of variance one in every row,
    NaN where a row determines its own fitted value.
    """
    if kind not in KINDS:
        raise ModelError(f"residuals(kind={kind!r}): one of {', '.join(map(repr, KINDS))}")
    if kind == "marginal":
        return np.asarray(fit.spec.y - fit.predict(re=False))
    if kind == "response":
        return fit.resid
    scale = residual_scales(fit)
    if kind == "pearson":
        return fit.resid / (fit.sigma * scale)
    with blas_threads(fit.likelihood.flops):
        posterior = Posterior.of(fit)
        K = rows_used(fit, posterior)
        left = scale**2 - posterior.forms(K, K)
    left[left <= LOST * scale**2] = np.nan
    return fit.resid / (fit.sigma * np.sqrt(left))


def leverage(fit: "Fit") -> FloatArray:
    """Diagonal of H = K'C^-1 K R^-1 in fitted = H y, random effects included, (n,); its sum is `effective_df`.

    As lme4's hatvalues, at the estimated variances.
    """
    with blas_threads(fit.likelihood.flops):
        posterior = Posterior.of(fit)
        K = rows_used(fit, posterior)
        residual = fit.spec.residual
        if residual is None or not len(residual.later):
            return posterior.forms(K, K) / residual_scales(fit) ** 2
        return posterior.forms(K, K.combined(row_precision(fit)))


def standardized_effects(fit: "Fit", group: str, effect: str) -> pd.Series:
    """BLUPs of one effect over their own standard deviations, var(b_hat) = sigma^2 G x Q^-1 - var(b_hat - b); by level.

    NaN where that is zero. Errors: ModelError for a term whose levels have no variance.
    """
    frame = fit.ranef(se="prediction")[group]
    parameters, theta = fit.likelihood.parameters, fit.estimate.evaluation.theta
    k, j = _place(fit, group, effect)
    term, part = fit.spec.terms[k], parameters.rho_slices[k]
    T = fit.sigma * parameters.structures[k].factor(parameters.parts(theta)[k])
    prior = prior_variances(term, theta[part]) * float(T[j] @ T[j])
    variance = prior - frame[f"{effect}_se"].to_numpy() ** 2
    variance[variance <= LOST * prior] = np.nan
    return pd.Series(frame[effect].to_numpy() / np.sqrt(variance), frame.index, name=effect)


def _place(fit: "Fit", group: str, effect: str) -> tuple[int, int]:
    """Term and effect of a column of `ranef()`."""
    for k, term in enumerate(fit.spec.terms):
        if group in (term.name, term.describe()) and effect in term.effects:
            return k, term.effects.index(effect)
    raise ModelError(f"no effect '{effect}' of '{group}' in this model")


def rows_used(fit: "Fit", posterior: Posterior) -> Functionals:
    """[X Z] of the rows of the fit."""
    x = fit.spec.design[:, posterior.kept]
    return posterior.functionals(x, [design_matrix(term) for term in fit.spec.terms])


def row_precision(fit: "Fit") -> sp.csr_array:
    """R^-1, (n, n), with the prior weights: diagonal, or tridiagonal along each series."""
    n, residual = fit.nobs, fit.spec.residual
    root = np.ones(n) if fit.spec.weights is None else np.sqrt(fit.spec.weights)
    if residual is None:
        return sp.csr_array(sp.diags_array(root**2))
    d, o = residual.values(fit.estimate.evaluation.theta[fit.likelihood.parameters.residual_slice])
    every, later, earlier = np.arange(n), residual.later, residual.earlier
    values = np.concatenate([d[residual.row_class], *2 * [o[residual.link_class]]])
    places = np.concatenate([every, later, earlier]), np.concatenate([every, earlier, later])
    K = sp.coo_array((values * root[places[0]] * root[places[1]], places), shape=(n, n))
    return sp.csr_array(K)
