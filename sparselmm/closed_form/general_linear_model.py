"""The general linear model with matrix-normal errors: Y = X B + E, E ~ MN(0, V, Sigma), V known.

Source: the Book of Statistical Proofs, P7 ("glm-mle", Soch 2019) and, for X = 1 and V = I, P504 ("mvn-mle").
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.linalg import cholesky, solve_triangular
from scipy.sparse.linalg import splu

from .._errors import DataError, ModelError
from .._typing import FloatArray

SYMMETRY_RTOL = 1e-10
"""Largest asymmetry of V or its precision relative to its largest entry: rounding of products, no more."""

_EPS = float(np.finfo(np.float64).eps)
_Whitener = Callable[[FloatArray], FloatArray]


@dataclass(frozen=True, slots=True, eq=False)
class GeneralLinearModel:
    """Maximum likelihood estimates of Y = X B + E, E ~ MN(0, V, Sigma): n rows, v responses, p columns of X.

    B: (p, v). Sigma: (v, v), divisor n. loglik: log p(Y | B, Sigma); infinity where Sigma is singular,
    because the likelihood has no bound there. fitted, residuals: (n, v). XtPX_inv: (p, p) (X'V^-1X)^-1,
    so that the covariance of vec(B) is Sigma (x) XtPX_inv.
    """

    B: FloatArray
    Sigma: FloatArray
    loglik: float
    fitted: FloatArray
    residuals: FloatArray
    XtPX_inv: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class MultivariateNormal:
    """Maximum likelihood estimates of y_i ~ N(mu, Sigma). mu: (v,). Sigma: (v, v), divisor n. loglik as above."""

    mu: FloatArray
    Sigma: FloatArray
    loglik: float


def general_linear_model(Y: FloatArray, X: FloatArray, V: Any = None, precision: Any = None) -> GeneralLinearModel:
    """B = (X'V^-1X)^-1 X'V^-1Y and Sigma = (Y - XB)'V^-1(Y - XB)/n (P7, eq. glm-mle).

    Y: (n, v) or (n,). X: (n, p). V: (n, n) covariance across rows, or its inverse as `precision`: (n, n),
    dense or scipy sparse, factorised as such; neither: V = I. Sigma is singular where n - p < v or where
    the residuals of some responses are linearly dependent; loglik is infinity then.
    Errors: DataError for shapes, values that are not finite, both V and precision, or one that is not
    symmetric positive definite; ModelError where the columns of X are linearly dependent.
    """
    Y, X = _as_columns(Y, "Y"), _as_columns(X, "X")
    n, v = Y.shape
    if len(X) != n or n == 0 or v == 0:
        raise DataError(f"Y has shape {Y.shape}, X has shape {X.shape}: rows must agree and Y must not be empty")
    whiten, logdet_V = _whitener(n, V, precision)
    B, residuals, R = _least_squares(Y, X, whiten)
    E = whiten(residuals)
    R_inv = np.linalg.solve(R, np.eye(X.shape[1]))
    logdet_Sigma = _logdet_crossproduct(E, n - X.shape[1])
    return GeneralLinearModel(
        B=B,
        Sigma=E.T @ E / n,
        loglik=float(-(n * v * np.log(2 * np.pi) + n * logdet_Sigma + v * logdet_V + n * v) / 2),
        fitted=Y - residuals,
        residuals=residuals,
        XtPX_inv=R_inv @ R_inv.T,
    )


def multivariate_normal(Y: FloatArray) -> MultivariateNormal:
    """mu = mean of the rows, Sigma = sum (y_i - mu)(y_i - mu)'/n (P504, eq. mvn-mle): X = 1, V = I. Y: (n, v)."""
    fit = general_linear_model(Y, np.ones((len(Y), 1)))
    return MultivariateNormal(mu=fit.B[0], Sigma=fit.Sigma, loglik=fit.loglik)


def _least_squares(Y: FloatArray, X: FloatArray, whiten: _Whitener) -> tuple[FloatArray, FloatArray, FloatArray]:
    """B (p, v), Y - XB (n, v) and R (p, p) with R'R = X'V^-1X, by QR of the whitened X.

    Refined once, and taken off column by column, the largest first: an intercept of 1e12 then leaves a Y of
    spread 1 exactly, where the product X B would round at 1e-4.
    """
    Xw = whiten(X)
    Q, R = np.linalg.qr(Xw)
    _check_rank(Xw, R)
    B, residuals = np.zeros((X.shape[1], Y.shape[1])), Y.copy()
    for _ in range(2):
        step = np.linalg.solve(R, Q.T @ whiten(residuals))
        for j in np.argsort(-np.abs(step).max(axis=1) * np.linalg.norm(X, axis=0)):
            residuals -= np.outer(X[:, j], step[j])
        B += step
    return B, residuals, R


def _logdet_crossproduct(E: FloatArray, df: int) -> float:
    """log|E'E/n| of E (n, v) with `df` degrees of freedom; minus infinity where it is singular."""
    n, v = E.shape
    scale = np.sqrt(np.sum(E**2, axis=0))
    if df < v or not scale.all():
        return -np.inf
    s = np.linalg.svd(E / scale, compute_uv=False)
    if s[-1] <= _EPS * n * s[0]:
        return -np.inf
    return float(2 * (np.log(s).sum() + np.log(scale).sum()) - v * np.log(n))


def _whitener(n: int, V: Any, precision: Any) -> tuple[_Whitener, float]:
    """A map w with w(A)'w(A) = A'V^-1A, and log|V|."""
    if V is not None and precision is not None:
        raise DataError("V and precision were both given; give one of them")
    if sp.issparse(V):
        raise DataError("V must be a dense array; a sparse matrix is taken as precision=, the inverse of V")
    if V is None and precision is None:
        return lambda A: A, 0.0
    if V is not None:
        L = _cholesky(_check_symmetric(np.asarray(V, dtype=np.float64), n, "V"), "V")
        return lambda A: solve_triangular(L, A, lower=True) if A.size else A, _logdet(L)
    if sp.issparse(precision):
        return _sparse_whitener(_check_symmetric(sp.csc_array(precision, dtype=np.float64), n, "precision"))
    L = _cholesky(_check_symmetric(np.asarray(precision, dtype=np.float64), n, "precision"), "precision")
    return lambda A: L.T @ A, -_logdet(L)


def _sparse_whitener(P: sp.csc_array) -> tuple[_Whitener, float]:
    """From P = L D L' after a symmetric permutation: A -> D^1/2 L' A, and log|V| = -log|D|.

    SuperLU without pivoting off the diagonal gives L and U = D L' for a symmetric P; D > 0 exactly where
    P is positive definite.
    """
    try:
        lu = splu(P, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    except RuntimeError as error:
        raise DataError("precision is singular; it must be positive definite") from error
    D = lu.U.diagonal()
    if not (np.array_equal(lu.perm_r, lu.perm_c) and (D > 0).all()):
        raise DataError("precision is not positive definite")
    half, rows = sp.diags_array(np.sqrt(D)) @ lu.L.T, np.argsort(lu.perm_c)
    return lambda A: half @ A[rows], -float(np.log(D).sum())


def _cholesky(A: FloatArray, name: str) -> FloatArray:
    try:
        return np.asarray(cholesky(A, lower=True))
    except np.linalg.LinAlgError as error:
        raise DataError(f"{name} is not positive definite") from error


def _logdet(L: FloatArray) -> float:
    """log|LL'|."""
    return 2.0 * float(np.log(np.diag(L)).sum())


def _as_columns(A: FloatArray, name: str) -> FloatArray:
    out = np.asarray(A, dtype=np.float64)
    out = out[:, None] if out.ndim == 1 else out
    if out.ndim != 2:
        raise DataError(f"{name} has shape {out.shape}, expected a matrix")
    if not np.isfinite(out).all():
        raise DataError(f"{name} has infinite or missing values")
    return out


def _check_symmetric(A: Any, n: int, name: str) -> Any:
    if A.shape != (n, n):
        raise DataError(f"{name} has shape {A.shape}, Y has {n} rows")
    values = A.data if sp.issparse(A) else A
    if not np.isfinite(values).all():
        raise DataError(f"{name} has infinite or missing values")
    if abs(A - A.T).max() > SYMMETRY_RTOL * abs(A).max():
        raise DataError(f"{name} is not symmetric")
    return A


def _check_rank(Xw: FloatArray, R: FloatArray) -> None:
    n, p = Xw.shape
    diagonal = np.zeros(p)
    diagonal[: len(R)] = np.abs(np.diag(R))
    dependent = np.flatnonzero(diagonal <= _EPS * max(n, p) * np.linalg.norm(Xw, axis=0))
    if len(dependent):
        raise ModelError(f"column {dependent[0]} of X ({n} x {p}) depends on the columns before it; drop it")
