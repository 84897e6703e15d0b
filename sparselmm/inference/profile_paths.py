"""What a profile follows: the deviance (ML, or the REML criterion) minimised over all other parameters, and its slope.

With f(u) = min over the rest of -2l, the envelope theorem gives f'(u) as the partial derivative at the minimiser, so
one solve gives value and slope of zeta = +-sqrt(f(u) - min f).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import scipy.sparse as sp

from .._errors import EngineError, ModelError
from .._typing import FloatArray, IntArray
from ..charts import SIGMA, Chart, RelativeChart, make_chart
from ..dense import DenseLikelihood
from ..equations import cross_products
from ..fitting import Estimate, estimate
from ..likelihood import Likelihood
from ..optimize import Options, minimise
from ..parameters import Parameters
from .refit import Responses, of_same_pattern

AnyLikelihood = Likelihood | DenseLikelihood
SEARCH = Options(tolerance=1e-4, fallback=False)  # in standard errors: the deviance is then right to 1e-8
STEP = 1e-5  # of differences through the chart, of a coordinate of order one
FAR = 15.0  # of a logarithm, or an arctanh, from the estimate: beyond that the deviance will not change any more
FAR_DOWN = 7.0  # of log sigma from that without random effects: 1e-6 of the variance is left, as good as none
FARTHEST_RATIO = FAR_DOWN  # of the log ratio of two residual deviations: beyond it the criterion cancels, without end


@dataclass(frozen=True, slots=True)
class Scale:
    """u = to(value): a coordinate in which a profile is close to a straight line.

    low, high: closed ends of u. even: whether the deviance is even about them, so that its slope there is zero.
    limits: values that u = -+infinity stands for.
    """

    to: Callable[[float], float]
    back: Callable[[float], float]
    low: float = -np.inf
    high: float = np.inf
    even: bool = False
    limits: tuple[float, float] = (-np.inf, np.inf)


def _same(x: float) -> float:
    return x


IDENTITY = Scale(_same, _same)
LOG = Scale(lambda v: float(np.log(v)), lambda u: float(np.exp(u)), limits=(0.0, np.inf))
SCALES = {
    "sd": Scale(_same, _same, 0.0, np.inf, even=True, limits=(0.0, np.inf)),
    "cor": Scale(
        lambda v: float(np.arcsin(v)), lambda u: float(np.sin(u)), -np.pi / 2, np.pi / 2, even=True, limits=(-1.0, 1.0)
    ),
    "rho": Scale(lambda v: float(np.arctanh(v)), lambda u: float(np.tanh(u)), limits=(-1.0, 1.0)),
    "kappa": LOG,
    "ratio": LOG,
    "start": LOG,
    SIGMA: LOG,
}  # fmt: skip


def scale_of(name: str) -> Scale:
    """The scale of a parameter of `varpar`, by the first word of its name."""
    return SCALES.get(name.split("_")[0], IDENTITY)


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One solve: the coordinate u, the deviance, its slope by u, and where the other parameters are."""

    u: float
    deviance: float
    slope: float
    x: FloatArray


class Path(Protocol):
    """One parameter. start: u of the estimate. step: a first step, about half a standard error."""

    scale: Scale
    start: float
    step: float

    def begin(self) -> FloatArray:
        """x of the others at the estimate."""

    def solve(self, u: float, x: FloatArray) -> Node | None:
        """The others' best values, searched from x; None where there are none."""


class _Point:
    """The criterion at x of a chart, for the optimiser; infinite where the equations cannot be solved."""

    def __init__(self, likelihood: AnyLikelihood, chart: Chart, x: FloatArray, reml: bool):
        self._at = likelihood, chart, x, reml
        try:
            theta, sigma = chart.model(x)
            value = likelihood(theta, reml=reml, sigma=sigma).deviance
            self.value = value if np.isfinite(value) else np.inf
        except (EngineError, ModelError):
            self.value = np.inf

    def derivatives(self) -> tuple[FloatArray, FloatArray]:
        likelihood, chart, x, reml = self._at
        theta, sigma = chart.model(x)
        return chart.pull_back(x, likelihood.derivatives(theta, reml=reml, sigma=sigma))


def _search(
    likelihood: AnyLikelihood, base: Estimate, held: Mapping[str, float], chart: Chart, x: FloatArray, unit: float
) -> FloatArray:
    """The minimiser from x (size,) by the criterion of `base`, the fit; where the quick search stops short, by a whole
    one, but not beside ratios: it has no end where a random term takes all variance of a stratum.

    Where a series can take all of the variance, sigma goes down to FAR_DOWN of `unit` and no further, and a ratio to
    FARTHEST_RATIO.
    """
    if not chart.size:
        return x
    low, high = chart.bounds()
    if held and SIGMA not in held:
        low[-1] = np.log(unit) - FAR_DOWN
    ratios, *ends = _ratios(likelihood.parameters, held, base.evaluation.theta)
    low[ratios], high[ratios] = ends
    optimum = minimise(
        lambda x: _Point(likelihood, chart, x, base.reml),
        x,
        replace(SEARCH, radius=max(1.0, 0.7 * float(np.linalg.norm(x)))),
        bounds=(low, high),
    )
    if optimum.converged or len(ratios):
        return optimum.x
    whole = estimate(likelihood, reml=base.reml, held=held, start=chart.model(optimum.x)[0])
    found = whole.optimum
    if found is None or found.value > optimum.value:
        return optimum.x
    relative = isinstance(whole.chart, RelativeChart)
    return chart.coordinates(whole.evaluation.theta, whole.evaluation.sigma) if relative else found.x


def _ratios(
    parameters: Parameters, held: Mapping[str, float], theta: FloatArray
) -> tuple[IntArray, FloatArray, FloatArray]:
    """Coordinates of `make_chart` that are ratios of residual deviations, (c,), and their ends around those of theta.

    They are logarithms, but where another parameter of the residual is held.
    """
    free = [i for i, name in enumerate(parameters.natural_names) if name not in held]
    at = np.array([k for k, i in enumerate(free) if parameters.names[i].startswith("log_ratio_")], dtype=np.int64)
    own = theta[np.array(free, dtype=np.int64)[at]]
    low, high = np.minimum(own, -FARTHEST_RATIO), np.maximum(own, FARTHEST_RATIO)
    if any(name in held for name in parameters.natural_names[parameters.residual_slice]):
        return at, np.exp(low), np.exp(high)
    return at, low, high


class VariancePath:
    """A parameter of `varpar`, on its own scale, by the criterion of `base`; what that held stays.

    x: coordinates of `charts.HeldChart`, which mean the same at every value that is held.
    """

    def __init__(
        self, likelihood: AnyLikelihood, base: Estimate, name: str, value: float, error: float, unit: float
    ) -> None:
        self.scale = _bounded(likelihood, name, value, unit)
        self._likelihood, self._base, self._name, self._unit = likelihood, base, name, unit
        self._scaling, self._highest = likelihood.scaling(), _without_term(likelihood, base, name)
        self.start = float(np.clip(_coordinate(self.scale, value), self.scale.low, self.scale.high))
        self.step = 0.5 * abs(self._derivative(error)) if np.isfinite(error) else 0.1 * max(abs(self.start), 0.1 * unit)

    def _derivative(self, error: float) -> float:
        """A standard error on the scale of u."""
        h = 1e-6 * max(abs(self.start), 1e-3)
        return error * 2 * h / (self.scale.back(self.start + h) - self.scale.back(self.start - h))

    def begin(self) -> FloatArray:
        evaluation = self._base.evaluation
        return self._chart(self.start).coordinates(evaluation.theta, evaluation.sigma)

    def solve(self, u: float, x: FloatArray) -> Node | None:
        try:
            chart = self._chart(u)
            best = _search(self._likelihood, self._base, self._held(u), chart, x, self._unit)
            value = _Point(self._likelihood, chart, best, self._base.reml).value
            if value > self._highest:
                return Node(u, self._highest, 0.0, best)
            return Node(u, value, self._slope(u, best), best)
        except (EngineError, ModelError):
            return None

    def _held(self, u: float) -> dict[str, float]:
        return {**self._base.held, self._name: self.scale.back(u)}

    def _chart(self, u: float) -> Chart:
        return make_chart(self._likelihood.parameters, self._scaling, self._held(u), self._unit)

    def _slope(self, u: float, x: FloatArray) -> float:
        """Partial derivative by u: the score times d(theta, log sigma^2)/du at fixed x."""
        if self.scale.even and u in (self.scale.low, self.scale.high):
            return 0.0
        theta, sigma = self._chart(u).model(x)
        d = self._likelihood.derivatives(theta, reml=self._base.reml, sigma=sigma)
        h = STEP * (max(abs(u), self.step) if self.scale.to is _same else 1.0)
        low, high = max(u - h, self.scale.low), min(u + h, self.scale.high)
        change = (self._model(high, x) - self._model(low, x)) / (high - low)
        return float(np.append(d.gradient, d.by_log_sigma2) @ change)

    def _model(self, u: float, x: FloatArray) -> FloatArray:
        """(theta, log sigma^2)."""
        theta, sigma = self._chart(u).model(x)
        assert sigma is not None
        return np.append(theta, 2.0 * np.log(sigma))


def _without_term(likelihood: AnyLikelihood, base: Estimate, name: str) -> float:
    """The deviance where the term of a precision's parameter has no variance: no value of it has a higher one.

    Infinite for other parameters. A search from the last node can end at a local minimum above that.
    """
    parameters = likelihood.parameters
    at = parameters.natural_names.index(name) if name in parameters.natural_names else -1
    for part, rho in zip(parameters.slices, parameters.rho_slices, strict=True):
        sds = [n for n in parameters.natural_names[part] if n.startswith("sd_")]
        if rho.start <= at < rho.stop and not any(sd in base.held for sd in sds):
            held = {**base.held, **dict.fromkeys(sds, 0.0), name: parameters.to_natural(base.evaluation.theta)[at]}
            return estimate(likelihood, reml=base.reml, held=held).evaluation.deviance
    return np.inf


def _coordinate(scale: Scale, value: float) -> float:
    with np.errstate(divide="ignore"):  # a rate of zero, a correlation of one
        return scale.to(value)


def _bounded(likelihood: AnyLikelihood, name: str, value: float, unit: float) -> Scale:
    """The scale of a parameter.

    Those of precisions and residuals end where their own coordinate, which is u, does; sigma at FAR_DOWN of `unit`.
    """
    scale, parameters = scale_of(name), likelihood.parameters
    if scale.even:
        return scale
    u, low, high = _coordinate(scale, value), -np.inf, np.inf
    if name == SIGMA:
        low = np.log(unit) - FAR_DOWN
    else:
        i = parameters.natural_names.index(name)
        low, high = (float(ends[i]) for ends in parameters.bounds())
        if parameters.names[i].startswith("log_ratio_"):
            low, high = min(-FARTHEST_RATIO, u), max(FARTHEST_RATIO, u)
    if np.isfinite(u):
        low, high = max(low, u - FAR), min(high, u + FAR)
    return replace(scale, low=low, high=high)


class CoefficientPath:
    """A fixed effect beta_j: its column times u becomes an offset of the model without it.

    At the minimiser theta, with b and c = (X'V^-1X)^-1_jj/sigma^2 of the full model there, the quadratic part is
    r^2(u) = r^2 + (u - b)^2/c, which gives the slope without another search. By ML. A column within the null space of a
    random walk has no profile of its own (start: NaN): the walk would take up whatever it is put at.
    """

    scale = IDENTITY

    def __init__(self, likelihood: AnyLikelihood, base: Estimate, name: str, unit: float) -> None:
        spec, j = likelihood.spec, likelihood.spec.fixed_names.index(name)
        self._full, self._base, self._unit = likelihood, base, unit
        self._at = likelihood.kept.tolist().index(j)
        self._column = np.asarray(sp.csr_array(spec.design[:, [j]]).toarray())[:, 0]
        self._offset = np.zeros(spec.n) if spec.offset is None else spec.offset
        self._chart = make_chart(likelihood.parameters, likelihood.scaling(), base.held, unit)
        self.start, self.step = np.nan, np.nan
        if isinstance(likelihood, DenseLikelihood) or j not in likelihood.products.fixed.confounded:
            self._rest = Responses(_without(likelihood, j))
            self.start = float(base.evaluation.beta[self._at])
            self.step = 0.5 * float(np.sqrt(self._unscaled(base.evaluation.theta))) * base.evaluation.sigma

    def _unscaled(self, theta: FloatArray) -> float:
        """c, the variance of the coefficient over sigma^2."""
        full, x = self._full, np.zeros((1, len(self._full.kept)))
        if isinstance(full, DenseLikelihood):
            return float(full.vcov(theta, 1.0)[self._at, self._at])
        x[0, self._at] = 1.0
        full.solution(theta)
        K = full.coefficients.functionals(x, (), full._own_factors(theta))
        return float(full.inverse(theta).variances(*K)[0])

    def begin(self) -> FloatArray:
        evaluation = self._base.evaluation
        return self._chart.coordinates(evaluation.theta, evaluation.sigma)[: self._chart.size]

    def solve(self, u: float, x: FloatArray) -> Node | None:
        try:
            offset = self._offset + u * self._column
            rest = self._rest.likelihood(self._full.spec.y, offset)
            best = _search(rest, self._base, self._base.held, self._chart, x, self._unit)
            theta, sigma = self._chart.model(best)
            found = rest(theta, reml=False, sigma=sigma)
            b, c = self._full(theta, reml=False).beta[self._at], self._unscaled(theta)
            return Node(u, found.deviance, 2 * (u - b) / c / found.sigma**2, best)
        except (EngineError, ModelError):
            return None


def _without(likelihood: AnyLikelihood, j: int) -> AnyLikelihood:
    """The model without column j of X (and without dropped ones); the equations of the random effects are shared."""
    spec, p = likelihood.spec, likelihood.spec.X.shape[1]
    rest = [k for k in likelihood.kept.tolist() if k != j]
    dense, S = [k for k in rest if k < p], spec.S
    names = tuple(spec.fixed_names[k] for k in rest)
    if S is not None:
        S = S[:, [k - p for k in rest if k >= p]]
    spec = replace(spec, X=spec.X[:, dense], S=S, fixed_names=names, encoding=None)
    if isinstance(likelihood, DenseLikelihood):
        return DenseLikelihood(spec)
    return Likelihood(spec) if S is not None else of_same_pattern(likelihood, spec, cross_products(spec))


def unit_of(likelihood: AnyLikelihood, held: Mapping[str, float]) -> float:
    """sigma without random effects: the size of the response's spread."""
    return likelihood(np.zeros(likelihood.parameters.count), reml=False).sigma
