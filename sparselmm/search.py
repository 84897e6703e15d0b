"""The stages of a search: inside the parameter space, at its ends, and the comparison with variances of zero.

Parameters of precisions and residuals have their ends at infinity, where a quadratic model of the criterion is wrong
however close one comes: sqrt(g'H^-1 g) tends to a constant there. So a search runs in a smaller box first; what has
come to the wall of it is compared with its limit, and a limit is left again where a point before it is lower.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain

import numpy as np

from ._typing import BoolArray, FloatArray
from .charts import LOUD, QUIET, Chart, FreeChart, RelativeChart
from .optimize import Iteration, Optimum, Options, Point, minimise, no_end, scaled_gradient
from .structures.limits import Bounds, at_bounds

Evaluate = Callable[[FloatArray], Point]
Report = Callable[[Iteration], None]

NEAR_EDGE = 1e-2  # scale parameters (unit-size effects) below this are compared with exactly zero
SAME = 1e-9  # a deviance higher by no more than this, or this times 1e-5 of its size in rounding, is the same
WALL = 0.65  # of the way from a bound to the start of a coordinate: a correlation of 0.9998, of 0.007 by a rate
AFAR = 0.8  # of the same way: a correlation of 0.98
SHORTLY = 0.25  # of the same way: a search that stalls there has a limit for its end
BEFORE = (0.2, 0.4)  # of the same way: where a limit is looked at from inside
ASIDE = 0.12  # of the way from a start to a bound: a correlation of 0.5 becomes -0.58 or 0.93
# Of 1,495 fits with a few rows unlike the others 14 ended 0.04 to 39 above a minimum of larger variances, now two do.
# Of 29,000 random data sets with a few groups of very different size 156 had two minima, and 34 searches ended at the
# higher one, where a parabola to zero rose by 1.7 at most.
DOUBT, BELOW = 3.0, (0.0, 0.25)  # deviance of that parabola; parts of T that are looked at
SMALL, LARGE = 0.1, (1.0, 3.0, 10.0)  # T in units of the effects' size, where a variance of zero is doubted
LENGTHS = (np.inf, 100.0, 30.0, 10.0, 3.0, 1.0)  # of T in units of the effects' size
OUT = 1.0, 2.0  # on the way to random walks: 1 - a is a seventh, and a fiftieth, of what it was
RUNS_OFF = "correlations run to 1 and a standard deviation to infinity"
AT_LIMIT = 1e-4  # scaled gradient that is asked for there; half its square could still be gained
ROUNDING, RELATIVE = 1e-6, 1e-8  # of the criterion at a limit


def search(
    at: Callable[[Chart], Evaluate], chart: Chart, x: FloatArray, options: Options, report: Report | None = None
) -> tuple[Chart, Optimum]:
    """The optimum from x (size,), with its certificate, and the chart of its coordinates.

    Where a rival of the residuals is loud the search goes on relative to its steps: sigma may go to zero there.
    """
    stages = _Stages(at(chart), chart, options, report)
    before = stages.run(x)
    if not (stages.is_loud and isinstance(chart, FreeChart)):
        return chart, before
    relative = RelativeChart(chart, int(chart.loudness(before.x).argmax()))
    stages = _Stages(at(relative), relative, options, numbered(report, before.n_iter))
    return relative, joined(before, stages.run(relative.turned(before.x)))


def shortened(evaluate: Evaluate, chart: Chart, x: FloatArray) -> FloatArray:
    """x, or x with all T cut down to one of LENGTHS, whichever is lowest: from afar the criterion is flat in T."""
    scales, best, value = chart.scales(), x, np.inf
    for length in LENGTHS:
        if length == np.inf or (np.abs(x[scales]) > length).any():
            shorter = np.where(scales, np.clip(x, -length, length), x)
            found = evaluate(shorter).value
            if found < value:
                best, value = shorter, found
    return best


def best_start(evaluate: Evaluate, chart: Chart, x: FloatArray) -> FloatArray:
    """x with each correlation and rate at its start or a little to either side, whichever is lowest, one by one."""
    low, high = chart.bounds()
    value = evaluate(x).value if np.isfinite(low).any() else np.inf
    for i in np.flatnonzero(np.isfinite(low)):
        unit = np.arange(len(x)) == i
        for other in [np.where(unit, x + ASIDE * (end - x), x) for end in (low, high)]:
            found = evaluate(other).value
            if found < value:
                x, value = other, found
    return x


class _Stages:
    """A search whose coordinates may have ends. `optimum` joins the stages so far."""

    optimum: Optimum
    is_loud = False

    def __init__(self, evaluate: Evaluate, chart: Chart, options: Options, report: Report | None):
        self.evaluate, self.chart, self.options, self.report = evaluate, chart, options, report
        self.bounds, self.middle = chart.bounds(), chart.middle()

    def run(self, x: FloatArray) -> Optimum:
        wall = self._box(WALL)
        self._search_box(x, wall)
        if self.is_loud:
            return self.optimum
        self._compare_with_zero()
        stopped = at_bounds(self.optimum.x, wall) & ~self.chart.idle(self.optimum.x)
        if stopped.any():
            quiet = np.where(stopped & self.chart.noise(), 0.0, self.optimum.x)
            limit = self._lowest(self._limits(stopped)) if (quiet == self.optimum.x).all() else quiet
            if self._runs_off(limit):
                return self.optimum
            self._continue(limit)
            self._compare_with_zero()
            if self._has_run_off():
                return self.optimum
        if not self.optimum.converged:
            self._settle()
        self.is_loud = not self.optimum.converged and self._loudest() >= QUIET
        if self.is_loud:
            return self.optimum
        if not self.optimum.converged and self.options.fallback:
            self._continue(self.optimum.x, last_resort=True)
            self._compare_with_zero()
        self._doubt_zero()
        self._look_from_inside()
        self._look_below()
        self._has_run_off()
        return self.optimum

    def _search_box(self, x: FloatArray, wall: Bounds) -> None:
        """Inside the wall, which for T of a rival moves outwards while only its correlation makes it large."""
        rivals = self.chart.rivals()
        wall[0][rivals], wall[1][rivals] = -LOUD, LOUD
        self.optimum = minimise(self.evaluate, x, replace(self.options, fallback=False), self.report, wall)
        while rivals and at_bounds(self.optimum.x, wall)[rivals].any():
            self.is_loud = self._loudest() >= QUIET
            if self.is_loud:
                break
            for end in wall:
                end[rivals] *= 2.0 * LOUD / self._loudest()
            self._extend(self.optimum.x, wall, replace(self.options, fallback=False))

    def _loudest(self) -> float:
        return float(self.chart.loudness(self.optimum.x).max(initial=0.0))

    def _runs_off(self, limit: FloatArray) -> bool:
        """Whether a field is on its way to two random walks: two points further out are lower and lower, than all else.

        No point is lowest then, and still further out the criterion cancels. So the search ends at the second one,
        with the walks optimised, and without a certificate.
        """
        x, margin = self.optimum.x, _margin(self.optimum.value)
        for near, far in zip(*(self.chart.walks(x, way) for way in OUT), strict=True):
            values = [self.evaluate(point).value for point in (limit, near, far)]
            if (np.diff(values) < -margin).all():
                wall, held = self._box(SHORTLY), int(np.flatnonzero((far != x) & np.isfinite(self.middle))[0])
                wall[0][held] = wall[1][held] = far[held]
                self._extend(far, wall, replace(self.options, fallback=False))
                self.optimum = replace(self.optimum, converged=False, message=RUNS_OFF)
                return True
        return False

    def _has_run_off(self) -> bool:
        """The same beside a limit: a point further out is lower, or, without an end, one further in is higher."""
        here, wall = self.optimum, self._box(AFAR)
        for out, back in zip(*(self.chart.walks(here.x, way) for way in (OUT[0], -OUT[0])), strict=True):
            moved = (out != here.x) & np.isfinite(self.middle)
            if moved.any() and at_bounds(here.x, wall)[moved].all():
                margin = _margin(here.value)
                falls = here.value - self.evaluate(out).value > margin
                if falls or (not here.converged and self.evaluate(back).value - here.value > margin):
                    self.optimum = replace(here, converged=False, message=RUNS_OFF)
                    return True
        return False

    def _settle(self) -> None:
        """End at limits, if that is no higher, where a search has stalled shortly before them."""
        here = self.optimum
        near = at_bounds(here.x, self._box(SHORTLY)) & ~self.chart.idle(here.x)
        if near.any():
            self._continue(np.where(near, np.where(here.x < self.middle, *self.bounds), here.x))
            self._compare_with_zero()
            if self.optimum.value > here.value + _margin(here.value):
                self.optimum = here

    def _compare_with_zero(self) -> None:
        self.optimum = _at_edge(self.evaluate, self.chart, self.optimum, self.options)

    def _doubt_zero(self) -> None:
        """A variance of zero at one correlation need not be zero at another, and may be one of two minima."""
        here = self.optimum
        x = self._lowest(chain(self._larger(), self._small()), _margin(here.value))
        if x is not here.x:
            self._continue(x)
            self._compare_with_zero()
            if self.optimum.value > here.value:
                self.optimum = here

    def _larger(self) -> Iterator[FloatArray]:
        """Larger variances, of each scalar term without one, and of all where one has little or none."""
        x, places, scalars = self.optimum.x, np.arange(len(self.optimum.x)), self.chart.scalars()
        changed = [places == i for i in scalars if x[i] == 0.0]
        if len(scalars) > 1 and (changed or self._doubtful()):
            changed.append(np.isin(places, scalars))
        for which in changed:
            yield from (np.where(which, size, x) for size in LARGE)

    def _small(self) -> Iterator[FloatArray]:
        """Each term without variance that has a correlation: at its start, and towards its ends."""
        x = self.optimum.x
        for part, rho in self.chart.terms():
            if part.stop > part.start and self.chart.idle(x)[rho].any():
                for places in (self.middle, *self._box(1 - 2 * ASIDE)):
                    out = x.copy()
                    out[part], out[rho] = SMALL, places[rho]
                    yield out

    def _look_from_inside(self) -> None:
        """Leave a limit where a point before it is lower."""
        here = self.optimum
        x = self._lowest(self._insides(), _margin(here.value))
        if x is not here.x:
            self._continue(x, radius=0.5)
            if self.optimum.value > here.value:
                self.optimum = here

    def _look_below(self) -> None:
        """Leave a variance that the data hardly tell from zero where zero, or a smaller one, is lower."""
        here = self.optimum
        x = self._lowest(self._smaller(), _margin(here.value))
        if x is not here.x:
            self._continue(x, radius=0.5)
            self._compare_with_zero()

    def _smaller(self) -> Iterator[FloatArray]:
        """Points with less of a scalar term: the criterion is even in T, and may have a hump on the way to zero."""
        x = self.optimum.x
        for i in self._doubtful():
            for part in BELOW:
                yield np.where(np.arange(len(x)) == i, part * x[i], x)

    def _doubtful(self) -> list[int]:
        """Scalar terms that the data hardly tell from zero."""
        x, hessian = self.optimum.x, self.optimum.hessian
        open_ = ~(at_bounds(x, self.bounds) | self.chart.idle(x))
        some = [i for i in self.chart.scalars() if open_[i] and x[i] != 0.0]
        spread = np.zeros(len(x))
        spread[open_] = np.diag(np.linalg.pinv(hessian[np.ix_(open_, open_)])) if some else 0.0
        return [i for i in some if 0.5 * x[i] ** 2 < DOUBT * spread[i]]

    def _box(self, part: float) -> Bounds:
        """The bounds moved inwards."""
        low, high = self.bounds
        ends = np.isfinite(low)
        towards = np.where(ends, self.middle, 0.0)
        with np.errstate(invalid="ignore"):
            return tuple(np.where(ends, b + part * (towards - b), b) for b in (low, high))  # type: ignore[return-value]

    def _limits(self, stopped: BoolArray) -> Iterator[FloatArray]:
        """All that have stopped at their bounds, then one by one; at the same variance, and at the same innovations."""
        x = self.optimum.x
        ends = np.where(x < self.middle, *self.bounds)
        singles = np.eye(len(x), dtype=bool)[stopped]
        for which in [stopped, *singles][: None if len(singles) > 1 else 1]:
            yield from self._both_scales(np.where(which, ends, x))

    def _insides(self) -> Iterator[FloatArray]:
        """Points before each limit that was reached."""
        x = self.optimum.x
        for i in np.flatnonzero(at_bounds(x, self.bounds) & ~self.chart.idle(x)):
            end = self.optimum.x[i]
            for part in BEFORE:
                unit = np.arange(len(self.middle)) == i
                yield from self._both_scales(np.where(unit, end + part * (self.middle[i] - end), self.optimum.x))

    def _both_scales(self, moved: FloatArray) -> Iterator[FloatArray]:
        yield moved
        scaled = self.chart.same_steps(self.optimum.x, moved)
        if not np.array_equal(scaled, moved):
            yield scaled

    def _lowest(self, candidates: Iterator[FloatArray], margin: float = 0.0) -> FloatArray:
        """The candidate with the lowest value, the optimum's own x unless it is lower by the margin."""
        best, value = self.optimum.x, self.optimum.value - margin
        for x in candidates:
            found = self.evaluate(x).value
            if found < value:
                best, value = x, found
        return best

    def _continue(self, x: FloatArray, radius: float | None = None, *, last_resort: bool = False) -> None:
        """Go on from x, at its limits where it is at one; `optimum` joins what was and what comes.

        last_resort: without derivatives.
        """
        before, ended = self.optimum, at_bounds(x, self.bounds)
        low, high = self.bounds
        bounds = np.where(ended, x, low), np.where(ended, x, high)
        chosen = replace(
            self.options,
            fallback=last_resort,
            radius=radius or max(1.0, 0.1 * float(np.linalg.norm(x[~np.isfinite(low)]))),
        )
        margin = _margin(before.value)
        if ended.any():
            chosen = replace(chosen, tolerance=max(chosen.tolerance, AT_LIMIT), rounding=margin)
        self._extend(x, bounds, chosen)
        if ended.any() and 0.5 * self.optimum.gradient_norm**2 < margin:
            self.optimum = replace(self.optimum, converged=True, message="converged")

    def _extend(self, x: FloatArray, bounds: Bounds, options: Options) -> None:
        """Go on from x with what is left of the iterations, or where there is a fallback with that alone."""
        before = self.optimum
        left = 0 if options.fallback else self.options.max_iter - before.n_iter
        report = numbered(self.report, before.n_iter)
        self.optimum = joined(before, minimise(self.evaluate, x, replace(options, max_iter=left), report, bounds))


def joined(before: Optimum, after: Optimum) -> Optimum:
    """The end of a search that went on from `before`, with the log of both."""
    log = (*before.log, *(replace(line, number=line.number + before.n_iter) for line in after.log[1:]))
    n_iter, n_evaluations = before.n_iter + after.n_iter, before.n_evaluations + after.n_evaluations
    message = no_end(n_iter) if after.message == no_end(after.n_iter) else after.message
    return replace(after, n_iter=n_iter, n_evaluations=n_evaluations, log=log, message=message)


def numbered(report: Report | None, first: int) -> Report | None:
    """The report with the iterations counted on."""
    if report is None:
        return None
    return lambda line: report(replace(line, number=line.number + first)) if line.number else None


def _margin(value: float) -> float:
    """Rounding of the criterion at a limit."""
    return ROUNDING + RELATIVE * abs(value)


def _at_edge(evaluate: Evaluate, chart: Chart, optimum: Optimum, options: Options) -> Optimum:
    """The first candidate at the edge whose deviance is no higher, with the certificate there; else `optimum`."""
    same, tolerance = SAME + 1e-14 * abs(optimum.value), options.tolerance
    if at_bounds(optimum.x, chart.bounds()).any():
        same, tolerance = _margin(optimum.value), max(tolerance, AT_LIMIT)
    for x in chart.edges(optimum.x, NEAR_EDGE):
        point = evaluate(x)
        if point.value <= optimum.value + same:
            gradient, hessian = point.derivatives()
            free = ~(at_bounds(x, chart.bounds()) | chart.idle(x))
            norm = scaled_gradient(gradient[free], hessian[np.ix_(free, free)])
            if norm <= max(tolerance, optimum.gradient_norm):
                converged = optimum.converged or norm <= tolerance
                return replace(
                    optimum, x=x, value=point.value, gradient=gradient, hessian=hessian, gradient_norm=norm,
                    converged=converged, message="converged" if converged else optimum.message,
                )  # fmt: skip
    return optimum
