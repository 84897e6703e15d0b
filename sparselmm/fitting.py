"""Likelihood + optimiser -> estimates: the start, the search, the comparison with the edge."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ._errors import EngineError, ModelError
from ._typing import FloatArray
from .charts import Chart, HeldChart, RelativeChart, make_chart
from .dense import DenseLikelihood
from .equations import CrossProducts
from .fixed import beside_diffuse, design_matrix
from .likelihood import Derivatives, Evaluation, Likelihood
from .optimize import Iteration, Optimum, Options
from .parameters import Parameters
from .search import best_start, shortened
from .start import starting_theta
from .structures.limits import at_bounds
from .terms import RandomTerm
from .turning import search_in_order

EXACT = 1e-10  # sums of squares below this part of those without random effects, and still falling, are none
ROOM = 3e-4  # beyond two of `charts.STEP`
COLLINEAR = 1e-6  # eigenvalue of the correlations of a term's effects: below it rounding would look like WITHIN
WITHIN = 1e-12  # of an effect's sum of squares: what rounding leaves of it beside fixed effects that contain it


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """Where the search ended. optimum is None where every parameter was held. n_iter counts the start's steps too.

    n_factorisations: of the equations, for the start, the search, the certificate and the answer. sigma_is_zero: a term
    has taken the place of the residuals, and sigma is computed at 1/`charts.LOUDEST` of the sd of its steps.
    """

    evaluation: Evaluation
    derivatives: Derivatives
    chart: Chart
    optimum: Optimum | None
    reml: bool
    held: Mapping[str, float]
    gradient_norm: float
    n_iter: int
    n_factorisations: int
    is_singular: bool
    sigma_is_zero: bool = False

    @property
    def converged(self) -> bool:
        """The scaled gradient is below the tolerance; true where nothing was free."""
        return self.optimum is None or self.optimum.converged


class _Point:
    """The criterion at x, for the optimiser; infinite where the equations cannot be solved.

    So it is too close to the end of a space of correlations for the differences that a HeldChart takes.
    """

    def __init__(self, likelihood: Likelihood | DenseLikelihood, reml: bool, chart: Chart, x: FloatArray):
        self._at = (likelihood, chart, x, reml)
        try:
            theta, sigma = chart.model(x)
            for step in ROOM * np.eye(len(x)) if isinstance(chart, HeldChart) else ():
                chart.model(x + step), chart.model(x - step)
            self.value = likelihood(theta, reml=reml, sigma=sigma).deviance
        except (EngineError, ModelError):
            self.value = np.inf

    def derivatives(self) -> tuple[FloatArray, FloatArray]:
        likelihood, chart, x, reml = self._at
        theta, sigma = chart.model(x)
        return chart.pull_back(x, likelihood.derivatives(theta, reml=reml, sigma=sigma))


def _points(reml: bool, likelihood: Likelihood | DenseLikelihood, chart: Chart) -> Callable[[FloatArray], _Point]:
    return partial(_Point, likelihood, reml, chart)


def estimate(
    likelihood: Likelihood | DenseLikelihood,
    *,
    reml: bool = True,
    held: Mapping[str, float] | None = None,
    start: FloatArray | None = None,
    options: Options = Options(),  # noqa: B008 - frozen
    report: Callable[[Iteration], None] | None = None,
) -> Estimate:
    """Minimise the criterion. held: `varpar` names with values. start: theta (k,), by moments and a step if None."""
    if reml not in (True, False):
        raise ModelError(f"reml={reml!r}: True for REML, False for maximum likelihood")
    _check_apart(likelihood, held or {}, reml)
    before = likelihood.n_evaluations
    unit = likelihood(np.zeros(likelihood.parameters.count)).sigma if held else 1.0
    chart = make_chart(likelihood.parameters, likelihood.scaling(), held, unit)
    x, n_em, optimum = np.zeros(0), 0, None
    if chart.size:
        theta, n_em = _start(likelihood, start, reml)
        sigma = (held.get("sigma") or likelihood(theta, reml=reml).sigma) if held else 1.0
        x = chart.coordinates(theta, sigma)
        evaluate = partial(_Point, likelihood, reml, chart)
        _check_start(chart, x, evaluate(x))
        if start is not None or np.isfinite(chart.bounds()[0]).any():
            x = shortened(evaluate, chart, x)
        if start is None:
            x = best_start(evaluate, chart, x)
        radius = max(options.radius, 0.7 * float(np.linalg.norm(x)))
        options = replace(options, radius=radius, rounding=max(options.rounding, likelihood.rounding))
        chart, optimum = search_in_order(partial(_points, reml), likelihood, chart, x, options, report)
        x = optimum.x
        _check_bounded(likelihood, chart, optimum, reml)
    theta, sigma_at = chart.model(x)
    theta = likelihood.parameters.canonical(theta)
    evaluation = likelihood(theta, reml=reml, sigma=sigma_at)
    derivatives = likelihood.derivatives(theta, reml=reml, sigma=sigma_at)
    n_iter = n_em + (optimum.n_iter if optimum else 0)
    norm = optimum.gradient_norm if optimum else 0.0
    ended = at_bounds(theta, likelihood.parameters.bounds())
    quiet = isinstance(chart, RelativeChart) and bool(x[chart.rival] == 0.0)
    singular = quiet or bool(ended.any()) or _is_singular(likelihood, theta)
    count = likelihood.n_evaluations - before
    return Estimate(
        evaluation, derivatives, chart, optimum, reml, dict(held or {}), norm, n_iter, count, singular, quiet
    )


def _check_apart(likelihood: Likelihood | DenseLikelihood, held: Mapping[str, float], reml: bool) -> None:
    """`check_apart` for any likelihood. Null spaces, as the level of a random walk, have no prior by ML either."""
    spec, parameters = likelihood.spec, likelihood.parameters
    if isinstance(likelihood, DenseLikelihood):
        p, n_null, beside = likelihood.n_fixed if reml else 0, 0, likelihood.beside_fixed
    elif (fixed := likelihood.products.fixed).diffuse is not None:
        p, n_null = fixed.n_columns if reml else fixed.n_null, fixed.n_null
        beside = partial(beside_diffuse, spec, fixed, reml)
    else:
        return check_apart(likelihood.products, spec.terms, parameters, held) if reml else None
    weights = np.ones(spec.n) if spec.weights is None else spec.weights
    for term, where in zip(spec.terms, parameters.slices, strict=True):
        if set(parameters.natural_names[where]).isdisjoint(held) and _is_within(term, p, beside, weights):
            raise _not_apart(term, null=n_null > 0)


def _is_within(term: RandomTerm, p: int, beside: Callable[[FloatArray], FloatArray], weights: FloatArray) -> bool:
    """Whether nothing is left of an effect: of Z z for r draws of z, so that nothing is left of Z.

    beside: V (n, r) -> V less its projection on p columns.
    """
    if term.Q is None and term.n_levels > p:
        return False
    Z, r, rng = design_matrix(term), term.n_effects, np.random.default_rng(0)
    if len(np.unique(Z.indices // r)) > p:
        return False
    draws = [Z @ np.kron(rng.standard_normal((term.n_levels, 1)), np.eye(r)) for _ in range(r)]
    size, left = (np.einsum("n,dna,dnb->ab", weights, V, V) for V in (draws, [beside(V) for V in draws]))
    return _least_left(size, left) < WITHIN


def _not_apart(term: RandomTerm, null: bool = False) -> ModelError:
    """null: whether a null space may be what contains it."""
    what, who = "the fixed effects", "REML"
    out = ", or these fixed effects (by ML, reml=False, such a variance is zero)"
    if null:
        what, who, out = "the fixed effects, or levels without a prior,", "the likelihood", ""
    return ModelError(
        f"{term.describe()}: {what} contain {'it' if term.n_effects == 1 else 'effects of it'} in every level, so that "
        f"{who} says nothing of its variance. Drop it{out}, or hold its parameters with fixed="
    )


def check_apart(
    products: CrossProducts, terms: Sequence[RandomTerm], parameters: Parameters, held: Mapping[str, float]
) -> None:
    """ModelError where the fixed effects contain an effect in every level: REML then says nothing of its variance.

    What is left of a term beside X, sum_l Z_l'W(I - P)Z_l (r, r), P the projection on X, has less than full rank.
    """
    p = products.fixed.p
    own = {b.row_term: b.values[b.rows == b.cols] for b in products.blocks if b.row_term == b.col_term}
    for k, (term, where) in enumerate(zip(terms, parameters.slices, strict=True)):
        levels = np.flatnonzero(own[k].any(axis=(1, 2)))
        if len(levels) > p or not set(parameters.natural_names[where]).isdisjoint(held):
            continue
        size, along = own[k].sum(axis=0), products.Zxy[k][levels, :, :p]
        part = np.einsum("lrp,pq,lsq->rs", along, np.linalg.inv(products.xy[:p, :p]), along)
        if _least_left(size, size - part) < WITHIN:
            raise _not_apart(term)


def _least_left(size: FloatArray, left: FloatArray) -> float:
    """Least eigenvalue of left relative to size (r, r), over directions in which effects are not collinear."""
    scale = 1.0 / np.sqrt(np.diag(size))
    d, V = np.linalg.eigh(scale[:, None] * size * scale)
    root = scale[:, None] * V[:, d > COLLINEAR] / np.sqrt(d[d > COLLINEAR])
    return float(np.linalg.eigvalsh(root.T @ left @ root)[0])


def _start(likelihood: Likelihood | DenseLikelihood, start: FloatArray | None, reml: bool) -> tuple[FloatArray, int]:
    if start is not None:
        return likelihood.parameters.check(start), 0
    if isinstance(likelihood, Likelihood):
        return starting_theta(likelihood, reml=reml)
    theta = likelihood.parameters.start([np.eye(s.n_effects) for s in likelihood.parameters.structures])
    size = np.diag(likelihood.scaling())
    return theta / np.where(size > 0, size, 1.0), 0


def _check_start(chart: Chart, x: FloatArray, point: _Point) -> None:
    chart.model(x)  # says itself which values no covariance has
    if not np.isfinite(point.value):
        raise ModelError("the criterion cannot be computed at the start: give another start=, or hold other values")


def _check_bounded(likelihood: Likelihood | DenseLikelihood, chart: Chart, optimum: Optimum, reml: bool) -> None:
    """ModelError where the search ran away because the criterion has no minimum: sigma goes to zero."""
    if optimum.converged or not likelihood.parameters.count:
        return
    found = likelihood(chart.model(optimum.x)[0], reml=reml).r2
    if found < EXACT * likelihood(np.zeros(likelihood.parameters.count), reml=reml).r2:
        spec = likelihood.spec
        if not spec.terms and spec.residual is not None:
            raise ModelError(
                f"residual {spec.residual.label}: some rows are fitted exactly, and their variance goes to zero. Drop "
                "fixed effects, join strata, or hold parameters with fixed="
            )
        terms = " + ".join(term.describe() for term in spec.terms)
        raise ModelError(
            f"{terms}: with these random effects the response is fitted exactly, and sigma goes to zero. "
            "Drop a term, or hold sigma with fixed="
        )


def _is_singular(likelihood: Likelihood | DenseLikelihood, theta: FloatArray) -> bool:
    """A variance of zero or a correlation of +-1: some T is singular to 1e-5 of its size or of unit effects."""
    parameters = likelihood.parameters
    for structure, part in zip(parameters.structures, parameters.parts(theta), strict=True):
        T = structure.factor(part)
        size = np.linalg.norm(T, axis=1)
        if (size == 0.0).any():
            return True
        s = np.linalg.svd(T / size[:, None], compute_uv=False)
        if s[-1] < 1e-5:
            return True
    return False
