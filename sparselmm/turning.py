"""A search among unstructured covariances, in coordinates with what varies most first (`structures.turned`)."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np

from ._typing import FloatArray
from .charts import Chart, FreeChart, RelativeChart
from .dense import DenseLikelihood
from .likelihood import Likelihood
from .optimize import Optimum, Options
from .search import Evaluate, Report, joined, numbered, search
from .structures import Covariance, Unstructured
from .structures.turned import Turned

PIVOT = 0.3  # a diagonal element of T, of what varies most among the effects left, below which they are out of order
SMALL = 1e-3  # what is left, in units of the effects' size, that has an order
SOON = 12  # iterations after which a search looks at the order again
Criterion = TypeVar("Criterion", bound=Likelihood | DenseLikelihood)
At = Callable[[Criterion, Chart], Evaluate]


def search_in_order(
    at: At[Criterion],
    likelihood: Criterion,
    chart: Chart,
    x: FloatArray,
    options: Options,
    report: Report | None = None,
) -> tuple[Chart, Optimum]:
    """`search` from x (size,), with terms put in order before it, and again where it has not ended SOON."""
    several = any(isinstance(s, Unstructured) and s.n_effects > 1 for s in likelihood.parameters.structures)
    if not (several and isinstance(chart, FreeChart)):
        return search(partial(at, likelihood), chart, x, options, report)
    short = replace(options, max_iter=min(SOON, options.max_iter), fallback=False)
    at_once = chart.rivals() or np.isfinite(chart.bounds()[0]).any()  # `search` has stages of its own for these
    searched, own, end = likelihood, chart, None
    for stage in (options,) if at_once else (short, options):
        searched, inner, x = _in_order(searched, chart, x)
        done = end.n_iter if end else 0
        stage = replace(stage, max_iter=stage.max_iter - done)
        chart, found = search(partial(at, searched), inner, x, stage, numbered(report, done) if done else report)
        end = joined(end, found) if end else found
        if end.converged or not isinstance(chart, FreeChart):
            break
        x = end.x
    assert end is not None
    return (chart, end) if searched is likelihood else _returned(at, searched, likelihood, own, chart, end)


def _in_order(likelihood: Criterion, chart: FreeChart, x: FloatArray) -> tuple[Criterion, FreeChart, FloatArray]:
    """The criterion, chart and x in which every term is in order; the same objects where all are."""
    searched, theta = turned(likelihood, chart.model(x)[0])
    if searched is likelihood:
        return likelihood, chart, x
    chart = FreeChart(searched.parameters, searched.scaling())
    return searched, chart, chart.coordinates(theta, 1.0)


def _returned(
    at: At[Criterion], searched: Criterion, likelihood: Criterion, own: FreeChart, chart: Chart, end: Optimum
) -> tuple[Chart, Optimum]:
    """The end of a search in the coordinates of `likelihood`."""
    likelihood.n_evaluations = searched.n_evaluations
    theta = likelihood.parameters.canonical(turned_back(searched, chart.model(end.x)[0], likelihood))
    chart = RelativeChart(own, chart.rival) if isinstance(chart, RelativeChart) else own
    x = chart.coordinates(theta, 1.0)
    gradient, hessian = at(likelihood, chart)(x).derivatives()
    return chart, replace(end, x=x, gradient=gradient, hessian=hessian)


def turned(likelihood: Criterion, theta: FloatArray) -> tuple[Criterion, FloatArray]:
    """The same criterion where an unstructured term that is out of order at theta (k,) is in order, and theta there.

    The same object if there is none. Both share one engine, so that only one of them may be in use.
    """
    parameters, moved = likelihood.parameters, theta.copy()
    structures = list(parameters.structures)
    for k, (basis, part) in enumerate(zip(likelihood.bases, parameters.slices, strict=True)):
        structure = structures[k]
        if isinstance(structure, Unstructured) and not _is_in_order(structure.in_unit_sizes(theta[part], basis)):
            root = structure.factor(theta[part])
            structures[k] = Turned(structure.n_effects, basis, np.linalg.svd(basis @ root)[0])
            moved[part] = structures[k].nearest(root)
    if structures == parameters.structures:
        return likelihood, theta
    return _with_structures(likelihood, structures), moved


def turned_back(searched: Criterion, theta: FloatArray, likelihood: Criterion) -> FloatArray:
    """theta (k,) of `searched` in the coordinates of `likelihood`."""
    out = theta.copy()
    before, after = searched.parameters.structures, likelihood.parameters.structures
    for old, new, part in zip(before, after, likelihood.parameters.slices, strict=True):
        if old is not new:
            out[part] = new.nearest(old.factor(theta[part]))
    return out


def _is_in_order(L: FloatArray) -> bool:
    """Whether no diagonal element of L (r, r) is small beside the effects that its column is the first to explain."""
    for i in range(len(L) - 1):
        left = np.linalg.norm(L[i:, i:], axis=1)
        if left.max() > SMALL and left[0] < PIVOT * left.max():
            return False
    return True


def _with_structures(likelihood: Criterion, structures: list[Covariance]) -> Criterion:
    out = copy.copy(likelihood)
    out.parameters = likelihood.parameters.with_structures(structures)
    if isinstance(likelihood, Likelihood) and isinstance(out, Likelihood):
        likelihood._held = out._held = out._solved = out._derived = None
    return out
