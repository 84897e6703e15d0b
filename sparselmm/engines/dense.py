"""The oracle: the marginal likelihood from the n x n covariance matrix, as in a textbook.

V = sigma^2 W, W = R + sum_k Z_k Psi_k Z_k'. Nothing here is shared with the mixed-model equations, so
agreement of the two is evidence. Cost O(n^2 (n + q)) time and O(n (n + q)) memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cholesky, solve_triangular

from .._errors import DataError, EngineError, ModelError
from .._typing import FloatArray
from .memory import available_memory

MEMORY_SHARE = 0.5
"""Largest part of the available memory that one evaluation may ask for."""

SYMMETRY_RTOL = 1e-10
"""Largest |Psi - Psi'| relative to the largest |Psi|: sums of products round, a wrong matrix does not come close."""


@dataclass(frozen=True, slots=True, eq=False)
class DenseEvaluation:
    """Everything about the model at one psi. k: parameters in `dpsi`; q_k: columns of Z_k.

    deviance: -2 log-likelihood (ML) or REML criterion, lme4's constants. sigma: profiled, or as given.
    beta: (p,). vcov_beta: (p, p) = sigma^2 (X'W^-1X)^-1. r2 = y'Py. nu: n (ML) or n - p (REML).
    gradient: (k,) d(-2l)/dtheta_i = tr(H dW_i) - y'P dW_i P y / sigma^2, H = P (REML) or W^-1 (ML).
    gradient_logsigma2 = nu - r2/sigma^2: zero where sigma is profiled.
    ai: (k, k) f_i'P f_j / sigma^2 with f_i = dW_i P y, and ai_sigma: (k,) f_i'P y / sigma^2, its cross term
    with log sigma^2 (Gilmour, Thompson & Cullis 1995, on the scale of -2l). ai_profiled: (k, k) with
    sigma eliminated, ai - ai_sigma ai_sigma' / nu.
    b: list of (q_k,) BLUPs Psi_k Z_k'P y. b_cov: list of (q_k, q_k) var(b_hat - b) = sigma^2 (Psi - Psi Z'PZ Psi).
    """

    deviance: float
    sigma: float
    beta: FloatArray
    vcov_beta: FloatArray
    r2: float
    nu: int
    gradient: FloatArray
    gradient_logsigma2: float
    ai: FloatArray
    ai_sigma: FloatArray
    ai_profiled: FloatArray
    b: list[FloatArray]
    b_cov: list[FloatArray]


@dataclass(frozen=True, slots=True, eq=False)
class _Whitened:
    """The data times L^-1, where W = L L'.

    logdet: log|W|. logdet_gls: log|X'W^-1X|. Rb: (p, p) upper triangular, Rb'Rb = X'W^-1X.
    fit: (p,) coefficients in the basis of Rb. e: (n,) L^-1 (y - X beta) = L'Py.
    F: list of L^-1 Z_k. FP: the same with X projected out, so F'F = Z'W^-1Z and FP'FP = Z'PZ.
    """

    logdet: float
    logdet_gls: float
    Rb: FloatArray
    fit: FloatArray
    e: FloatArray
    F: list[FloatArray]
    FP: list[FloatArray]


class DenseMarginal:
    """The marginal model y ~ N(X beta, sigma^2 W), W = R + sum_k Z_k Psi_k Z_k', R = diag(1/weights) unless given.

    y: (n,). X: (n, p), p = 0 is legal. Z: K arrays (n, q_k). weights: (n,) or None.
    Errors: EngineError where the n x n matrices would not fit; DataError for shapes that do not agree;
    ModelError where X has linearly dependent columns.
    """

    def __init__(
        self, y: FloatArray, X: FloatArray, Z: Sequence[FloatArray], weights: FloatArray | None = None
    ) -> None:
        y, X = np.asarray(y, dtype=np.float64), np.asarray(X, dtype=np.float64)
        self.Z = [np.asarray(Zk, dtype=np.float64) for Zk in Z]
        weights = np.ones(len(y)) if weights is None else np.asarray(weights, dtype=np.float64)
        _check_rows(y, X, self.Z, weights)
        check_memory(len(y), sum(Zk.shape[1] for Zk in self.Z))
        self.noise = 1.0 / weights
        self.n, self.p = X.shape
        self.Q, self.Rx = np.linalg.qr(X)
        _check_rank(X, self.Rx)
        self.offset, self.y = residualise(y, X, self.Q, self.Rx)

    def evaluate(
        self,
        psi: Sequence[FloatArray],
        dpsi: Sequence[tuple[int, FloatArray]] = (),
        *,
        reml: bool,
        sigma: float | None = None,
        R: FloatArray | None = None,
    ) -> DenseEvaluation:
        """The criterion and its derivatives at relative covariances psi.

        psi: K arrays (q_k, q_k), var(b_k) = sigma^2 Psi_k. dpsi: per parameter (k, dPsi_k/dtheta_i); where R (n, n)
        is given, (K, dR/dtheta_i) too, the residuals being a term with Z = I.
        sigma: None profiles it out, -2l = log|W| [+ log|X'W^-1X|] + nu (1 + log(2 pi r2/nu)); else
        -2l = log|W| [+ log|X'W^-1X|] + nu log(2 pi sigma^2) + r2/sigma^2. The bracket is REML's.
        Errors: DataError for shapes or a Psi that is not symmetric; EngineError where W is not positive
        definite; ModelError where sigma cannot be profiled (n <= p for REML, or an exact fit).
        """
        if len(psi) != len(self.Z):
            raise DataError(f"{len(psi)} covariance matrices psi for {len(self.Z)} random terms")
        psi = [_check_covariance(P, self.Z[k].shape[1], f"psi[{k}]") for k, P in enumerate(psi)]
        R, Z = (np.diag(self.noise), self.Z) if R is None else (R, [*self.Z, np.eye(self.n)])
        w = whiten(_marginal_covariance(R, self.Z, psi), self.y, self.Q, self.Rx, Z)
        nu = self.n - self.p if reml else self.n
        r2 = float(w.e @ w.e)
        s = _profile_sigma(r2, nu) if sigma is None else float(sigma)
        deviance = w.logdet + nu * (np.log(2 * np.pi) + 2 * np.log(s)) + r2 / s**2
        gradient, ai, ai_sigma = _derivatives(w, dpsi, s, reml)
        Rb_inv = np.linalg.solve(w.Rb, np.eye(self.p))
        return DenseEvaluation(
            deviance=float(deviance + w.logdet_gls) if reml else float(deviance),
            sigma=s,
            beta=self.offset + np.linalg.solve(w.Rb, w.fit),
            vcov_beta=s**2 * Rb_inv @ Rb_inv.T,
            r2=r2,
            nu=nu,
            gradient=gradient,
            gradient_logsigma2=nu - r2 / s**2,
            ai=ai,
            ai_sigma=ai_sigma,
            ai_profiled=ai - np.outer(ai_sigma, ai_sigma) / nu,
            b=[P @ (Fk.T @ w.e) for P, Fk in zip(psi, w.F, strict=False)],
            b_cov=[s**2 * (P - (Fk @ P).T @ (Fk @ P)) for P, Fk in zip(psi, w.FP, strict=False)],
        )


def residualise(y: FloatArray, X: FloatArray, Q: FloatArray, Rx: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Take a fit of y on X off y: coefficients (p,) and y - X coefficients (n,), with X = Q Rx.

    Column by column, the largest contribution first: an intercept of 1e9 leaves a y of spread 1 exactly,
    where one product X @ coefficients would round at 1e-7.
    """
    total, rest = np.zeros(X.shape[1]), y.copy()
    for _ in range(2):
        coef = np.linalg.solve(Rx, Q.T @ rest)
        for j in np.argsort(-np.abs(coef) * np.linalg.norm(X, axis=0)):
            rest -= coef[j] * X[:, j]
        total += coef
    return total, rest


def whiten(W: FloatArray, y: FloatArray, Q: FloatArray, Rx: FloatArray, Z: Sequence[FloatArray]) -> _Whitened:
    """Divide by the Cholesky factor of W (n, n), which is overwritten: y (n,), X = Q Rx (n, p) and Z_k (n, q_k).

    X enters as Q Rx, so that units of its columns cannot spoil log|X'W^-1X| = log|Q'W^-1Q| + 2 log|Rx|.
    """
    try:
        L = cholesky(W, lower=True, overwrite_a=True, check_finite=False)
    except np.linalg.LinAlgError as error:
        raise EngineError("W = R + sum Z Psi Z' is not positive definite: give positive semi-definite psi") from error
    G, Rg = np.linalg.qr(_solve_lower(L, Q))
    u = _solve_lower(L, y)
    fit = G.T @ u
    F = [_solve_lower(L, Zk) for Zk in Z]
    return _Whitened(
        logdet=_logdet_triangular(L),
        logdet_gls=_logdet_triangular(Rg) + _logdet_triangular(Rx),
        Rb=Rg @ Rx,
        fit=fit,
        e=u - G @ fit,
        F=F,
        FP=[Fk - G @ (G.T @ Fk) for Fk in F],
    )


def _derivatives(
    w: _Whitened, dpsi: Sequence[tuple[int, FloatArray]], sigma: float, reml: bool
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Gradient (k,), average information (k, k) and its cross term with log sigma^2 (k,)."""
    dpsi = [(k, _check_covariance(D, w.F[k].shape[1], f"dpsi[{i}]")) for i, (k, D) in enumerate(dpsi)]
    H = [half.T @ half for half in (w.FP if reml else w.F)]
    trace = np.array([np.sum(H[k] * D) for k, D in dpsi])
    # columns: L^-1 f_i with X projected out, f_i = dW_i P y
    f = np.column_stack([np.empty((len(w.e), 0))] + [w.FP[k] @ (D @ (w.F[k].T @ w.e)) for k, D in dpsi])
    ai_sigma = f.T @ w.e / sigma**2
    return trace - ai_sigma, f.T @ f / sigma**2, ai_sigma


def _marginal_covariance(R: FloatArray, Z: Sequence[FloatArray], psi: Sequence[FloatArray]) -> FloatArray:
    """W = R + sum_k Z_k Psi_k Z_k', (n, n)."""
    W = R.copy()
    for Zk, P in zip(Z, psi, strict=True):
        W += Zk @ P @ Zk.T
    return W


def _profile_sigma(r2: float, nu: int) -> float:
    if nu <= 0 or r2 <= 0.0:
        raise ModelError(
            f"sigma cannot be estimated: r^2 = {r2:g} on {nu} degrees of freedom (the fixed effects fit y exactly); "
            "drop fixed effects or give sigma"
        )
    return float(np.sqrt(r2 / nu))


def _solve_lower(L: FloatArray, right: FloatArray) -> FloatArray:
    return right.copy() if right.size == 0 else solve_triangular(L, right, lower=True, check_finite=False)


def _logdet_triangular(T: FloatArray) -> float:
    """log|T'T|."""
    return 2.0 * float(np.log(np.abs(np.diag(T))).sum())


def forecast_bytes(n: int, q: int) -> float:
    """Memory of one evaluation: W, a product (n, n); Z, L^-1 Z, its projection (n, q); Psi, Z'PZ, var(b) (q, q)."""
    return 8.0 * (2.0 * n * n + 3.0 * n * q + 3.0 * q * q)


def check_memory(n: int, q: int) -> None:
    """EngineError where one evaluation does not fit; call it before a sparse Z is made dense."""
    need, limit = forecast_bytes(n, q), MEMORY_SHARE * available_memory()
    if need > limit:
        raise EngineError(
            f'engine="dense" needs {need / 1e9:.3g} GB for {n} rows and {q} random effects, '
            f'more than the {limit / 1e9:.3g} GB it may take here; use engine="cholmod"'
        )


def _check_rows(y: FloatArray, X: FloatArray, Z: Sequence[FloatArray], weights: FloatArray) -> None:
    vectors, matrices = {"y": y, "weights": weights}, {"X": X} | {f"Z[{k}]": Zk for k, Zk in enumerate(Z)}
    for name, a in (vectors | matrices).items():
        if a.ndim != (1 if name in vectors else 2) or len(a) != len(y):
            raise DataError(f"{name} has shape {a.shape}, y has {len(y)} rows")
        if not np.isfinite(a).all():
            raise DataError(f"{name} has infinite or missing values")
    if (weights <= 0).any():
        raise DataError(f"weights must be positive, the smallest is {weights.min():g}")


def _check_rank(X: FloatArray, Rx: FloatArray) -> None:
    tolerance = np.finfo(np.float64).eps * max(X.shape, default=0)
    n, p = X.shape
    diagonal = np.zeros(p)
    diagonal[: len(Rx)] = np.abs(np.diag(Rx))
    dependent = np.flatnonzero(diagonal <= tolerance * np.linalg.norm(X, axis=0))
    if len(dependent):
        raise ModelError(f"column {dependent[0]} of X ({n} x {p}) depends on the columns before it; drop it")


def _check_covariance(P: FloatArray, q: int, name: str) -> FloatArray:
    P = np.asarray(P, dtype=np.float64)
    if P.shape != (q, q):
        raise DataError(f"{name} has shape {P.shape}, its term has {q} random effects")
    if np.abs(P - P.T).max(initial=0.0) > SYMMETRY_RTOL * np.abs(P).max(initial=0.0):
        raise DataError(f"{name} is not symmetric")
    return P
