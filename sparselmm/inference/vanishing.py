"""What runs off in a search: a residual variance to zero, and sigma or a ratio has no end; a field's to infinity."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from .._typing import BoolArray, FloatArray
from ..fixed import design_matrix
from ..search import RUNS_OFF
from ..structures.residual_unstructured import UnstructuredResidual
from .predict import factors
from .residual_scales import residual_scales

if TYPE_CHECKING:
    from ..results import Fit

SHARE = 5e-3  # of the random terms' variance: where a search has no end, a residual of 7 % of their sd is on its way
LOST = 1e-9  # of the same: the criterion cancels to nothing
FAR = 300.0  # standard deviations: of the 16 digits of y'y five are the mean's
EXAMPLE = 0.1  # of the random terms' standard deviation: a value to hold


def vanishing(fit: "Fit") -> str:
    """What runs off, and the ways out; empty where nothing does, or where R has covariances of its own.

    Or that random effects, and no fixed ones, hold the mean of a response far from zero, so that sigma seems small.
    """
    if fit.estimate.optimum is not None and fit.estimate.optimum.message == RUNS_OFF:
        return _walks(fit)
    left = fit.residuals("marginal")
    if abs(left.mean()) > FAR * left.std():
        return (
            f"the response is about {left.mean():.3g} where fixed effects are zero, varies by {left.std():.2g}, and "
            "so costs the criterion digits: add an intercept, or subtract a constant from the response"
        )
    if isinstance(fit.spec.residual, UnstructuredResidual):
        return ""
    noise, random = residual_scales(fit) ** 2, random_variances(fit)
    for name, rows in _strata(fit):
        share = noise[rows].mean() / max(random[rows].mean(), np.finfo(np.float64).tiny)
        if share < SHARE and name not in fit.estimate.held:
            hold = f"fixed={{'{name}': {fit.varpar[name] * EXAMPLE / np.sqrt(share):.2g}}}"
            lost = ", and the deviance has lost its digits" if share < LOST else ""
            return f"{name} seems to run to zero{lost}: {_ways_out(bool(rows.all()), hold)}"
    return ""


def _walks(fit: "Fit") -> str:
    """A field whose correlations run to 1 is a sum of two random walks at the end, which have a model of their own."""
    theta, parameters = fit.estimate.evaluation.theta, fit.likelihood.parameters
    sizes = [
        np.abs(Q.values(theta[rho])).max() if Q is not None and Q.n_params > 1 else 0.0
        for Q, rho in zip(parameters.precisions, parameters.rho_slices, strict=True)
    ]
    field = fit.spec.terms[int(np.argmax(sizes))].describe()
    series = re.findall(r"(?:ar1|ou)\((.*?)\)", field)
    walks = " + ".join(f"rw1({one})" for one in series) or "two random walks, rw1"
    covariates = " and ".join(one.split("|")[0].replace("0 +", "").strip() for one in series) or "it"
    return (
        f"{field} is left with a trend, and the criterion falls on towards that of {walks} in its place. Fit these "
        f"instead, or put the trend in {covariates} (a line, a curve) into the fixed part"
    )


def random_variances(fit: "Fit") -> FloatArray:
    """Variance of each row by the random terms over sigma^2, (n,), for levels of variance one."""
    out = np.zeros(fit.nobs)
    for term, T, scale in zip(fit.spec.terms, factors(fit), fit.likelihood.parameters.scales, strict=True):
        A = sp.csr_array(design_matrix(term) @ sp.kron(sp.eye_array(term.n_levels), scale * T, format="csr"))
        out += A.multiply(A).sum(axis=1)
    return out


def _strata(fit: "Fit") -> Iterator[tuple[str, BoolArray]]:
    """Each ratio of residual variances with its rows (n,); `sigma` with all others."""
    residual = fit.spec.residual
    others = np.ones(fit.nobs, dtype=np.bool_)
    if residual is not None:
        rho = fit.estimate.evaluation.theta[fit.likelihood.parameters.residual_slice]
        scales = residual.scales(rho)
        for name, value in zip(residual.natural_names(), residual.to_natural(rho), strict=True):
            if name.startswith("ratio_"):
                rows = np.isclose(scales, value, rtol=1e-12, atol=0.0)
                others &= ~rows
                yield name, rows
    yield "sigma", others


def _ways_out(whole: bool, hold: str) -> str:
    if whole:
        return (
            "the random terms fit every row. Drop one, hold a value that you know, such as "
            f"{hold}, or, for series without an error beside them, give residual='ar1(t | g)' or 'ou(t | g)' instead"
        )
    return (
        "the random terms fit every row of this stratum. Drop one, hold a value that you know, such as "
        f"{hold}, or join the stratum with another one"
    )
