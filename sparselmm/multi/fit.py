"""`lmm_multi`: traits, formula and table -> the covariances among traits."""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from .._errors import EngineError, ModelError, SparselmmWarning
from .._typing import FloatArray
from ..engines import ENGINES
from ..engines.threads import blas_threads
from ..equations import cross_products
from ..fitting import Estimate, estimate
from ..likelihood import Likelihood
from ..optimize import Iteration, Options
from ..report import not_converged, progress
from ..results import Fit
from ..structures import UnstructuredResidual
from ..terms import RandomTerm
from .covariances import RESIDUAL
from .held import held_parameters
from .result import MultiFit
from .stack import Stacked, stack

SHARES = (1.0, 0.3)  # of each G over R at the start
NEAR = 5.0  # z of a partial correlation of 0.9999
ROUNDING = 1e-5  # of deviances where R is nearly singular
STEEP = 1.0  # slope of the deviance by a log ratio at its end: near zero where there is a limit, else a row or more


def lmm_multi(
    traits: Sequence[str],
    formula: str,
    data: Any,
    *,
    reml: bool = True,
    weights: Any = None,
    context: Mapping[str, Any] | None = None,
    fixed: Mapping[str, Any] | None = None,
    engine: str = "auto",
    start: Any = None,
    verbose: int = 0,
) -> MultiFit:
    """Fit 2 to 10 traits together: `lmm_multi(["tarsus", "back"], "~ sex + (1 | nest) + ped(1 | animal, P)", birds)`.

    traits: columns of the responses. formula: the fixed and random effects, the same for every trait; nothing stands
    before '~'. Every trait has its own coefficients; G of each random term and R among the residuals of one row are
    unstructured. `(1 + x | g)` is unstructured among the effects of all traits, `(1 + x || g)` for each effect.
    data: a table, one row a record. A missing value of a trait leaves out that cell only; a row without any trait, or
    with a missing value elsewhere, is left out. weights: one a record, a column's name or an array.
    fixed: covariance matrices that are held, in units of the traits: text or group of a term, or "Residual", with a
    table or an array like `G()` and `R`; NaN stands for what is estimated, beside which a covariance can be held at 0
    only. With all of them held, the mixed-model equations are solved once: BLUE and BLUP. start: theta of
    `MultiFit.fit`. The rest is as in `lmm`. Traits are divided by their standard deviations for the search; all that
    `MultiFit` gives is in their own units.
    Errors: SparselmmError and its children.
    """
    if engine not in ENGINES or engine == "dense":
        known = ", ".join(e for e in ENGINES if e != "dense")
        raise EngineError(f"engine={engine!r}: lmm_multi() has {known}")
    began = time.perf_counter()
    stacked = stack(traits, formula, data, weights, context)
    timings = {"formula": time.perf_counter() - began}
    held = held_parameters(stacked, fixed)
    fit = _fit(stacked, reml, engine, start, verbose, timings, held)
    if RESIDUAL not in (fixed or {}):
        _check_bounded(stacked, fit)
    if not fit.converged:
        warnings.warn(f"the fit did not converge: {not_converged(fit)}", SparselmmWarning, stacklevel=2)
    return MultiFit(stacked, fit)


def _fit(
    stacked: Stacked,
    reml: bool,
    engine: str,
    start: Any,
    verbose: int,
    timings: dict[str, float],
    held: Mapping[str, float],
) -> Fit:
    """The ordinary fit of the stacked model."""
    spec, began = stacked.spec, time.perf_counter()
    with blas_threads(4.0 * spec.X.size * spec.X.shape[1]):
        products = cross_products(spec)
    middle = time.perf_counter()
    likelihood = Likelihood(spec, engine, products)
    end = time.perf_counter()
    with progress(verbose) as report, blas_threads(likelihood.flops):
        theta = starting_theta(stacked, likelihood, reml) if start is None else start
        found = _search(likelihood, theta, len(stacked.traits), reml, report, held)
    timings |= {"cross-products": middle - began, "analysis": end - middle, "optimisation": time.perf_counter() - end}
    return Fit(spec, likelihood, found, timings | {"total": sum(timings.values())})


def _search(
    likelihood: Likelihood,
    theta: FloatArray,
    T: int,
    reml: bool,
    report: Callable[[Iteration], None] | None,
    held: Mapping[str, float],
) -> Estimate:
    """The lowest end of searches: another begins where one stalled, with partial correlations near 1 put at 1.

    There the criterion is flat in their z, and the Hessian by it is rounding. Only the last goes on without
    derivatives, which takes ten times as long.
    """
    ends: list[Estimate] = []
    for fallback in (False, False, False, True):
        options = Options(fallback=fallback)
        end = estimate(likelihood, reml=reml, held=held, start=theta, options=options, report=report)
        ends.append(end)
        if end.converged:
            break
        theta = _ended(likelihood, min(ends, key=_deviance).evaluation.theta, T)
    lowest = min(map(_deviance, ends)) + ROUNDING
    best = min(ends, key=lambda e: (_deviance(e) > lowest, not e.converged, _deviance(e)))
    count, factorisations = sum(e.n_iter for e in ends), sum(e.n_factorisations for e in ends)
    return replace(best, n_iter=count, n_factorisations=factorisations)


def _deviance(end: Estimate) -> float:
    return float(end.evaluation.deviance)


def _ended(likelihood: Likelihood, theta: FloatArray, T: int) -> FloatArray:
    """theta with z of partial correlations beyond NEAR at their bounds."""
    parameters, out = likelihood.parameters, theta.copy()
    z = np.arange(parameters.count)[parameters.residual_slice][T - 1 :]
    low, high = (end[z] for end in parameters.bounds())
    out[z] = np.where(theta[z] > NEAR, high, np.where(theta[z] < -NEAR, low, theta[z]))
    return out


def _check_bounded(stacked: Stacked, fit: Fit) -> None:
    """ModelError where the likelihood has no bound: R ended where it is still steep.

    A ratio of residual variances goes to its end where random effects fit a trait exactly, a partial correlation where
    the residual of a trait is a combination of others.
    """
    parameters, gradient = fit.likelihood.parameters, fit.estimate.derivatives.gradient
    place = np.arange(parameters.count)[parameters.residual_slice]
    low, high = parameters.bounds()
    theta = fit.estimate.evaluation.theta
    steep = np.abs(gradient[place]) > STEEP
    lower, upper = steep & (theta[place] <= low[place]), steep & (theta[place] >= high[place])
    split = len(stacked.traits) - 1
    if (lower | upper)[:split].any():
        first = 0 if upper[:split].any() else 1 + int(np.flatnonzero(lower[:split])[0])
        raise ModelError(
            f"trait '{stacked.traits[stacked.order[first]]}' is fitted exactly by the random effects, and its residual "
            "variance goes to zero: leave it out, or drop a term"
        )
    residual = stacked.spec.residual
    if (lower | upper)[split:].any() and isinstance(residual, UnstructuredResidual):
        ended = residual.pairs[int(np.flatnonzero((lower | upper)[split:])[-1])]
        last = stacked.traits[stacked.order[ended[1]]]
        others = ", ".join(f"'{stacked.traits[t]}'" for t in stacked.order[: ended[1]])
        raise ModelError(
            f"trait '{last}' is a linear combination of {others} but for the fixed and random effects, and the "
            "likelihood has no bound: leave one of them out"
        )


def starting_theta(stacked: Stacked, likelihood: Likelihood, reml: bool) -> FloatArray:
    """Every term with the same multiple of R, which has the correlations of the traits about the fixed effects.

    The multiple is the one of SHARES at which the criterion is lowest.
    """
    root = np.linalg.cholesky(stacked.covariance / stacked.covariance[0, 0])
    sizes = [_sizes(stacked.wide.terms[k], effects) for k, effects in stacked.source]
    roots: list[FloatArray] = [np.kron(root, np.diag(1.0 / size)).astype(np.float64) for size in sizes]
    starts = [likelihood.parameters.start([share**0.5 * T for T in roots]) for share in SHARES]
    return min(starts, key=lambda theta: likelihood(theta, reml=reml).deviance)


def _sizes(term: RandomTerm, effects: Sequence[int]) -> FloatArray:
    """Root mean squares of the columns of some effects of a term, (r,)."""
    if sp.issparse(term.Z) or term.columns is None:
        return np.ones(len(effects))
    return np.sqrt((term.columns[:, list(effects)] ** 2).mean(axis=0))
