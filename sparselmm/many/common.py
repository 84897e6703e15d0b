"""One V for all responses: Y = X B + E, E ~ MN(0, V(theta), Sigma), with B and Sigma in closed form given V.

-2l = v log|V| [+ v log|X'V^-1X|] + nu log|Sigma| + nu v (1 + log 2 pi), Sigma = Y'PY/nu, the bracket REML's (the Book
of Statistical Proofs, P7). Sigma is full where v < n - p and diagonal else. With Sigma = K^-1 K'^-1 the score is the
sum of those of the responses Y K' at sigma = 1: v tr(P dV) - tr(Sigma^-1 Y'P dV PY).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import pandas as pd
import scipy.linalg as sla

from .._errors import ModelError
from .._typing import FloatArray
from ..optimize import Optimum, minimise
from .design import Block, Design
from .estimates import Estimates
from .general import Chunk, General, edges, is_general
from .spectral import Spectral, is_decomposable

STEP = 1e-4  # of central differences of the exact score by x of order one: errors of 1e-8 both ways
STARTS = (0.05, 0.3, 1.0, 3.0)  # standard deviations of effects of unit size, relative to sigma
SAME, NEAR_EDGE = 1e-9, 1e-2  # as `fitting`
DEPENDENT = 1e-7  # of a response's length, what others leave of it: the Cholesky factor of Sigma has its square


class CommonModel(Protocol):
    """The criterion of all responses together at x (k,)."""

    def at(self, x: FloatArray) -> tuple[float, FloatArray]:
        """-2l up to a constant, and its gradient by x."""

    def starts(self) -> list[FloatArray]:
        """Points to begin from."""

    def edges(self, x: FloatArray) -> list[FloatArray]:
        """x with near-zero parameters at exactly zero."""

    def estimates(self, x: FloatArray, norm: float) -> Estimates:
        """Every response at x."""

    def cross(self, x: FloatArray) -> FloatArray:
        """Y'PY, (v, v), or its diagonal (v,)."""


def fit_common(design: Design, block: Block, reml: bool, names: pd.Index) -> tuple[Estimates, Mapping[str, Any]]:
    """Estimates of each response at the common V; and loglik, Sigma and the certificate of all together.

    Errors: ModelError for a model with structured levels or residuals.
    """
    v, nu = block.residual.shape[1], design.degrees(reml)
    full = v < design.n - design.p
    if full:
        _check_independent(design, block, names)
    model = _model(design, block, reml, full)
    optimum = _minimise(model)
    out = model.estimates(optimum.x, optimum.gradient_norm)
    out.df[:], out.df_residual[:], out.spread[:] = nu, nu, 0.0
    out.df[np.isnan(out.se)] = np.nan
    constant = nu * v * (1.0 + np.log(2.0 * np.pi)) - v * design.products.sum_log_weights
    constant += v * design.fixed.logdet if reml else 0.0
    R = model.cross(optimum.x) / nu
    extra = {
        "loglik": -0.5 * (optimum.value + constant), "converged": optimum.converged,
        "gradient_norm": optimum.gradient_norm, "Sigma": pd.DataFrame(R, index=names, columns=names) if full else None,
    }  # fmt: skip
    return out, extra


def _check_independent(design: Design, block: Block, names: pd.Index) -> None:
    """Errors: ModelError naming a response that others determine: Sigma is then singular."""
    scaled = np.sqrt(design.weights)[:, None] * block.residual / np.sqrt(block.ss)
    R, order = sla.qr(scaled, mode="r", pivoting=True)
    lost = order[np.abs(np.diag(R)) < DEPENDENT]
    if len(lost):
        raise ModelError(
            f"mode='common': response {names[lost[0]]!r} is, beside X, a linear combination of others ({len(lost)} "
            "such), so that Sigma is singular; leave it out"
        )


def _model(design: Design, block: Block, reml: bool, full: bool) -> CommonModel:
    if is_decomposable(design):
        return _OneRatio(Spectral(design, reml), block, full)
    if is_general(design):
        return _Several(General(design, reml), block, full)
    raise ModelError("mode='common' needs terms over independent levels, such as (1 | g), or one term over a precision")


def _minimise(model: CommonModel) -> Optimum:
    start = min(model.starts(), key=lambda x: model.at(x)[0])
    optimum = minimise(lambda x: _Point(model, x), start)
    for x in model.edges(optimum.x):
        if model.at(x)[0] <= optimum.value + SAME + 1e-14 * abs(optimum.value):
            return minimise(lambda x: _Point(model, x), x)
    return optimum


class _Point:
    """For the optimiser: the exact score, and its central differences as the Hessian."""

    def __init__(self, model: CommonModel, x: FloatArray):
        self.model, self.x = model, x
        self.value, self.gradient = model.at(x)

    def derivatives(self) -> tuple[FloatArray, FloatArray]:
        units = np.eye(len(self.x)) * STEP
        rows = [self.model.at(self.x + e)[1] - self.model.at(self.x - e)[1] for e in units]
        hessian = np.array(rows).reshape(len(units), len(units)) / (2.0 * STEP)
        return self.gradient, 0.5 * (hessian + hessian.T)


class _OneRatio:
    """From the eigenvalues of one kernel: R = Y'PY = rest + S diag(1/(1 + phi lam)) S'; x = sqrt(phi scale)."""

    def __init__(self, fitter: Spectral, block: Block, full: bool):
        self.fitter, self.block, self.full = fitter, block, full
        self.scores, self.rest = fitter.sums(block)
        Y = block.residual
        if full:
            cross = Y.T @ (fitter.design.weights[:, None] * Y)
            self.outside = np.zeros_like(cross) if fitter.full else cross - self.scores @ self.scores.T

    def _parts(self, phi: float) -> tuple[FloatArray, FloatArray]:
        """R and dR/dphi."""
        lam = self.fitter.spectrum.lam
        w = 1.0 / (1.0 + phi * lam)
        if self.full:
            return self.outside + (self.scores * w) @ self.scores.T, -(self.scores * (lam * w**2)) @ self.scores.T
        s2 = self.scores**2
        return self.rest + s2 @ w, -s2 @ (lam * w**2)

    def at(self, x: FloatArray) -> tuple[float, FloatArray]:
        phi, d, nu, v = x[0] ** 2 / self.fitter.scale, self.fitter.d, self.fitter.nu, len(self.rest)
        R, change = self._parts(phi)
        logdet, trace = _logdet_and_trace(R / nu, change / nu)
        value = v * np.log1p(phi * d).sum() + nu * logdet
        slope = v * (d / (1.0 + phi * d)).sum() + nu * trace
        return float(value), np.array([slope * 2.0 * x[0] / self.fitter.scale])

    def starts(self) -> list[FloatArray]:
        return [np.array([size]) for size in STARTS]

    def edges(self, x: FloatArray) -> list[FloatArray]:
        return [np.zeros(1)] if abs(x[0]) < NEAR_EDGE else []

    def estimates(self, x: FloatArray, norm: float) -> Estimates:
        v = len(self.rest)
        phi, end = np.full(v, x[0] ** 2 / self.fitter.scale), np.full(v, int(x[0] == 0.0))
        return self.fitter.estimates(self.block, self.scores, self.rest, phi, np.full(v, norm), end)

    def cross(self, x: FloatArray) -> FloatArray:
        return self._parts(x[0] ** 2 / self.fitter.scale)[0]


class _Several:
    """By absorption: R = Y'WY - h h' - half half'."""

    def __init__(self, model: General, block: Block, full: bool):
        self.model, self.block, self.full, self.nu = model, block, full, model.nu
        self.chunk = Chunk(model, block.residual.T)
        self.products, Y = self.chunk.products, block.residual
        self.YY = Y.T @ (model.design.weights[:, None] * Y) if full else block.ss

    def _reduced(self, x: FloatArray) -> tuple[float, FloatArray]:
        logdet, h, half = self.model.reductions(self.model.factors.theta(x[None])[0], self.products)
        if self.full:
            return logdet, self.YY - h @ h.T - half @ half.T
        return logdet, self.YY - (h**2).sum(axis=1) - (half**2).sum(axis=1)

    def at(self, x: FloatArray) -> tuple[float, FloatArray]:
        logdet, R = self._reduced(x)
        if not np.isfinite(logdet):
            return np.inf, np.full(len(x), np.nan)
        sigma, _ = _logdet_and_trace(R / self.nu, R)
        return len(R) * logdet + self.nu * sigma, self._gradient(x, R)

    def _gradient(self, x: FloatArray, R: FloatArray) -> FloatArray:
        """Sum of the scores of the whitened responses at sigma = 1."""
        v, p = len(R), self.products
        K = np.linalg.inv(np.linalg.cholesky(R / self.nu)) if self.full else np.diag(np.sqrt(self.nu / R))
        if self.full:
            c, s = np.tensordot(K, p.c, axes=1), K @ p.s
        else:
            k = np.diag(K)
            c, s = p.c * k[:, None, None], p.s * k[:, None]
        self.chunk.products = replace(p, c=np.ascontiguousarray(c), s=np.ascontiguousarray(s))
        total = self.chunk.unit_score(np.broadcast_to(x, (v, len(x))))
        self.chunk.products = p
        return total

    def starts(self) -> list[FloatArray]:
        return list(self.model.factors.coordinates(self.model.starts))

    def edges(self, x: FloatArray) -> list[FloatArray]:
        return edges(self.model.factors, x)

    def estimates(self, x: FloatArray, norm: float) -> Estimates:
        v = len(self.block.ss)
        base = (self.model.design.loadings @ self.block.beta).T
        return self.chunk.estimates(np.repeat(x[None], v, axis=0), np.full(v, norm), base, False)

    def cross(self, x: FloatArray) -> FloatArray:
        return self._reduced(x)[1]


def _logdet_and_trace(R: FloatArray, change: FloatArray) -> tuple[float, float]:
    """log|R| and tr(R^-1 change); R (v, v), or (v,) of its diagonal."""
    if R.ndim == 1:
        return float(np.log(R).sum()), float((change / R).sum())
    factor = sla.cho_factor(R, lower=True)
    return 2.0 * float(np.log(np.diag(factor[0])).sum()), float(np.trace(sla.cho_solve(factor, change)))
