"""Shares of variance (R^2, ICC), collinearity of the fixed part, principal components of the random effects."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp

from .._errors import ModelError
from .._typing import FloatArray
from ..formula.coding import read_coding
from ..terms import RandomTerm
from .genetics import prior_variances
from .residual_scales import residual_scales

if TYPE_CHECKING:
    from ..results import Fit


def r_squared(fit: "Fit") -> pd.Series:
    """marginal = f/(f + r + e) and conditional = (f + r)/(f + r + e) (Nakagawa & Schielzeth 2013, Johnson 2014).

    f: variance of X beta over the rows. r: mean over the rows of z'Gz of all terms. e: mean residual variance.
    Errors: ModelError for a term without a variance, such as a random walk.
    """
    f = float(np.var(fit.spec.design @ np.nan_to_num(fit.fixef.to_numpy()), ddof=1))
    r, e = sum(_mean_variances(fit)), _residual_variance(fit)
    return pd.Series({"marginal": f / (f + r + e), "conditional": (f + r) / (f + r + e)}, name="r_squared")


def icc(fit: "Fit") -> pd.Series:
    """Each term's share r_k/(r + e) of the variance that the fixed part leaves: r_k, r, e as in `r_squared`.

    Of a random intercept alone the correlation of two rows of one level; the sum over terms is the adjusted ICC.
    """
    r, e = np.array(_mean_variances(fit)), _residual_variance(fit)
    return pd.Series(r / (r.sum() + e), index=[term.describe() for term in fit.spec.terms], name="icc", dtype=float)


def _residual_variance(fit: "Fit") -> float:
    return fit.sigma**2 * float(np.mean(residual_scales(fit) ** 2))


def _mean_variances(fit: "Fit") -> list[float]:
    """Mean over the rows of sigma^2 z'(Q^-1 x G)z of each term."""
    parameters, theta = fit.likelihood.parameters, fit.estimate.evaluation.theta
    out = []
    for term, part, T in zip(fit.spec.terms, parameters.rho_slices, relative_factors(fit), strict=True):
        across = np.ones(1) if term.Q is None else prior_variances(term, theta[part])
        out.append(fit.sigma**2 * _mean_square(term, T, across))
    return out


def _mean_square(term: RandomTerm, T: FloatArray, across: FloatArray) -> float:
    if sp.issparse(term.Z):
        if term.Q is not None:
            raise ModelError(
                f"{term.describe()}: a row has correlated levels; heritability() has the shares of variance"
            )
        loadings = term.Z @ sp.kron(sp.eye_array(term.n_levels), T, format="csc")
        return float(loadings.power(2).sum() / term.n_rows)
    columns = np.ones((term.n_rows, 1)) if term.columns is None else term.columns
    squares = ((columns @ T) ** 2).sum(axis=1)
    return float(np.mean(squares * (1.0 if term.Q is None else across[term.Z])))


def relative_factors(fit: "Fit") -> list[FloatArray]:
    """T of each term, (r, r), with sigma^2 T T' the covariance of a level's effects."""
    parameters = fit.likelihood.parameters
    parts = parameters.parts(fit.estimate.evaluation.theta)
    return [s.factor(part) for s, part in zip(parameters.structures, parts, strict=True)]


def vif(fit: "Fit") -> pd.DataFrame:
    """Variance inflation of each term of the fixed part but constants: df, gvif, vif = gvif^(1/df).

    gvif = |R_tt| |R_oo| / |R|, R the correlations of the coefficients, t of the term and o of the others (Fox & Monette
    1992; R's car). Of one column it is 1/(1 - R_j^2). Errors: ModelError for sparse fixed effects.
    """
    if fit.spec.S is not None:
        raise ModelError(
            "vif is not there for sparse fixed effects: each level of a large factor is a column of its own"
        )
    kept, X = fit.likelihood.kept, fit.spec.X
    moving = np.array([np.ptp(X[:, j]) > 0.0 for j in kept], dtype=np.bool_)
    cov = fit.vcov.to_numpy()[np.ix_(moving, moving)]
    size = np.sqrt(np.diag(cov))
    R, columns = cov / np.outer(size, size), kept[moving]
    rows = {}
    for name, own in _fixed_terms(fit).items():
        t = np.isin(columns, own)
        if t.any():
            logs = [np.linalg.slogdet(M)[1] for M in (R[np.ix_(t, t)], R[np.ix_(~t, ~t)], R)]
            gvif = float(np.exp(logs[0] + logs[1] - logs[2]))
            rows[name] = {"df": int(t.sum()), "gvif": gvif, "vif": gvif ** (1 / int(t.sum()))}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["df", "gvif", "vif"]).astype({"df": int})


def _fixed_terms(fit: "Fit") -> dict[str, list[int]]:
    """Columns of X of each term; each column by itself where the model came from arrays."""
    if fit.spec.encoding is None:
        return {name: [j] for j, name in enumerate(fit.spec.fixed_names)}
    return {term.name: list(term.columns) for term in read_coding(fit.spec.encoding.fixed_design).terms}


def re_pca(fit: "Fit") -> pd.DataFrame:
    """Principal components of each group's random effects: sd (over sigma), share of the variance, cumulative.

    As lme4's rePCA: singular values of the relative factors, terms of one group together. A component of (nearly)
    zero says that the covariance is (nearly) singular: the data do not support all of its effects.
    """
    groups: dict[str, list[FloatArray]] = {}
    for term, T in zip(fit.spec.terms, relative_factors(fit), strict=True):
        groups.setdefault(term.name, []).append(T)
    rows, index = [], []
    for name, factors in groups.items():
        sd = np.sort(np.concatenate([np.linalg.svd(T, compute_uv=False) for T in factors]))[::-1]
        with np.errstate(invalid="ignore"):
            share = sd**2 / (sd**2).sum()
        rows.append(np.column_stack([sd, share, np.cumsum(share)]))
        index += [(name, i + 1) for i in range(len(sd))]
    table = np.vstack(rows) if rows else np.zeros((0, 3))
    names = ["group", "component"]
    return pd.DataFrame(table, pd.MultiIndex.from_tuples(index, names=names), ["sd", "share", "cumulative"])
