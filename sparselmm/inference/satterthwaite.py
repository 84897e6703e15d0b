"""Satterthwaite's degrees of freedom, through the exact score (Satterthwaite 1946; Fai & Cornelius 1996; lmerTest).

With A the covariance of the variance parameters, 2 (observed information of -2l)^-1, and g the gradient of l'Vl,

    df = 2 (l'Vl)^2 / g'A g.

The information comes from central differences of the score, the gradient from the same points: two evaluations a
parameter, none of which touches the rows of the data.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .._errors import ModelError, SparselmmWarning
from .._typing import BoolArray, FloatArray
from ..coefficients import degrees_of_mean
from ..engines.threads import blas_threads
from ..structures.limits import at_bounds
from .wald import FTest, orthogonal_contrasts

if TYPE_CHECKING:
    from ..results import Fit

STEP = 1e-4  # in coordinates of order one: the error of a central difference and its rounding are both near 1e-8
WIDE_STEP = 3e-3  # beside a correlation of 1 - 1e-8 the score is only known to 1e-6: 1e-4 gave 3e-3 in the degrees
FLAT = 1e-7  # eigenvalues of the information, scaled to a unit diagonal, below this: parameters without meaning


@dataclass(frozen=True, slots=True, eq=False)
class Satterthwaite:
    """vcov: (p, p). slopes: (k, p, p), its derivatives by k variance parameters. cov: (k, k), their covariance."""

    vcov: FloatArray
    slopes: FloatArray
    cov: FloatArray
    name: str = "satterthwaite"

    def degrees(self, L: FloatArray) -> FloatArray:
        """2 (l'Vl)^2 / g'A g for each row l of L (c, p); infinite where the variances are known."""
        variance = np.einsum("cp,pq,cq->c", L, self.vcov, L, optimize=True)
        g = np.einsum("cp,kpq,cq->ck", L, self.slopes, L, optimize=True)
        g = np.divide(g, variance[:, None], out=np.zeros_like(g), where=variance[:, None] > 0.0)  # in any unit
        spread = np.einsum("ck,kl,cl->c", g, self.cov, g, optimize=True)
        return np.divide(2.0, spread, out=np.full(len(L), np.inf), where=spread > 0.0)

    def f_test(self, L: FloatArray, difference: FloatArray) -> FTest:
        """F of uncorrelated contrasts; its degrees of freedom match their means (Fai & Cornelius 1996)."""
        rows, squares = orthogonal_contrasts(L, difference, self.vcov)
        df = degrees_of_mean(self.degrees(rows), np.ones(len(rows), dtype=bool))
        return FTest(float(squares.mean()), len(squares), float(df))


def satterthwaite(fit: "Fit") -> Satterthwaite:
    """Satterthwaite's method: the information of the variance parameters that were not held."""
    with blas_threads(fit.likelihood.flops):
        information, slopes = _held(fit) if fit.estimate.held else _free(fit)
    inside = inside_limits(fit, len(information))
    information, slopes = information[np.ix_(inside, inside)], slopes[inside]
    if not (np.isfinite(information).all() and np.isfinite(slopes).all()):
        raise ModelError(
            "Satterthwaite: the criterion has no curvature to be computed at these estimates, too near the edge of the "
            "parameter space; ddf='wald' takes the variances as known"
        )
    return Satterthwaite(fit.vcov.to_numpy(), slopes, 2.0 * inverse(information))


def inside_limits(fit: "Fit", k: int) -> BoolArray:
    """Which of k coordinates are not at a limit of a correlation or a rate, where nothing is known of their errors."""
    out, optimum = np.ones(k, dtype=bool), fit.estimate.optimum
    if optimum is not None:
        out[: len(optimum.x)] = ~at_bounds(optimum.x, fit.estimate.chart.bounds())
    return out


def step_of(fit: "Fit") -> float:
    """Of central differences in coordinates of order one."""
    return STEP if inside_limits(fit, fit.estimate.chart.size).all() else WIDE_STEP


def n_evaluations(fit: "Fit") -> int:
    """Evaluations of the score that `satterthwaite` takes."""
    return 2 * fit.estimate.chart.size


def _free(fit: "Fit") -> tuple[FloatArray, FloatArray]:
    """Information (k, k) of (x, log sigma^2), x of order one, and derivatives of vcov (k, p, p).

    -2l = f(theta) + nu log sigma^2 + r^2/sigma^2, so that the last row of the information is exact.
    """
    chart, estimate, sigma = fit.estimate.chart, fit.estimate, fit.sigma
    x = chart.coordinates(estimate.evaluation.theta, sigma)

    def at(x: FloatArray) -> tuple[FloatArray, FloatArray]:
        theta, _ = chart.model(x)
        d = fit.likelihood.derivatives(theta, reml=fit.reml, sigma=sigma)
        return chart.jacobian(x).T @ d.gradient, fit.likelihood.vcov(theta, sigma)

    hessian, slopes = differences(at, x, step_of(fit))
    k = len(x)
    d, information = estimate.derivatives, np.empty((k + 1, k + 1))
    information[:k, :k] = 0.5 * (hessian + hessian.T)
    information[k, :k] = information[:k, k] = chart.jacobian(x).T @ d.cross_log_sigma2
    information[k, k] = d.information_log_sigma2
    vcov = fit.vcov.to_numpy()[None]
    return information, np.concatenate([slopes, vcov]) if k else vcov


def _held(fit: "Fit") -> tuple[FloatArray, FloatArray]:
    """The same for the coordinates of what was not held, (0, 0) where all was."""
    optimum, chart = fit.estimate.optimum, fit.estimate.chart
    if optimum is None:
        return np.zeros((0, 0)), np.zeros((0, *fit.vcov.shape))

    def at(x: FloatArray) -> tuple[FloatArray, FloatArray]:
        theta, sigma = chart.model(x)
        assert sigma is not None
        d = fit.likelihood.derivatives(theta, reml=fit.reml, sigma=sigma)
        return chart.pull_back(x, d)[0], fit.likelihood.vcov(theta, sigma)

    hessian, slopes = differences(at, optimum.x, step_of(fit))
    return 0.5 * (hessian + hessian.T), slopes


def differences(
    at: Callable[[FloatArray], tuple[FloatArray, FloatArray]], x: FloatArray, step: float
) -> tuple[FloatArray, FloatArray]:
    """Central differences of both values of at(x) by each x, (k, ...)."""
    steps = step * np.maximum(1.0, np.abs(x))
    pairs = [(at(x + unit), at(x - unit)) for unit in np.diag(steps)]
    first, second = (
        np.array([(a[i] - b[i]) / (2 * h) for h, (a, b) in zip(steps, pairs, strict=True)]) for i in (0, 1)
    )
    return first.reshape(len(x), len(x)), second


def inverse(information: FloatArray) -> FloatArray:
    """Inverse on the directions in which the criterion curves upwards; the others are left out, as in lmerTest."""
    size = np.sqrt(np.clip(np.diag(information), 0.0, None))
    size[size == 0.0] = 1.0
    d, P = np.linalg.eigh(information / np.outer(size, size))
    if (d < -FLAT).any():
        warnings.warn(
            f"the information of the variance parameters has a negative eigenvalue ({d.min():.1e} where 1 is usual): "
            "the fit is not at a minimum, and degrees of freedom leave this direction out",
            SparselmmWarning,
            stacklevel=2,
        )
    P = P[:, d > FLAT] / size[:, None]
    return (P / d[d > FLAT]) @ P.T
