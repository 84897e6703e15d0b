"""How much of each response's variance every term explains."""

import numpy as np

from .._typing import FloatArray
from ..terms import RandomTerm
from .design import Design, term_matrix
from .estimates import Estimates


def fractions(design: Design, e: Estimates) -> dict[str, FloatArray]:
    """Shares (v,) of a row's variance: each term's mean of z'Gz sigma^2, `fixed` the variance of X beta, `residual`.

    Terms over a precision count with the mean diagonal of its inverse taken as one.
    """
    parts: dict[str, FloatArray] = {}
    for term, part in zip(design.spec.terms, design.parameters.slices, strict=True):
        key = term.describe() if term.name in (*parts, "fixed", "residual") else term.name
        parts[key] = _term_variance(term, e.theta[:, part]) * e.sigma**2
    p = design.spec.X.shape[1]
    cov = np.atleast_2d(np.cov(design.spec.X, rowvar=False, ddof=0)) if p else np.zeros((0, 0))
    beta = np.nan_to_num(e.beta[:, :p])
    parts["fixed"] = np.einsum("va,ab,vb->v", beta, cov, beta)
    parts["residual"] = e.sigma**2 * e.inverse_weight
    total = sum(parts.values())
    return {name: value / total for name, value in parts.items()}


def _term_variance(term: RandomTerm, theta: FloatArray) -> FloatArray:
    """Mean of z'Gz over the rows, relative to sigma^2, (v,)."""
    Z, r = term_matrix(term), term.n_effects
    moments = np.array([[(Z[:, a::r].multiply(Z[:, b::r])).sum() for b in range(r)] for a in range(r)]) / term.n_rows
    G = [T @ T.T for T in (term.covariance.factor(row) for row in theta)]
    return np.einsum("vab,ab->v", np.array(G).reshape(len(theta), r, r), moments)
