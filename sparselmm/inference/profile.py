"""Profile likelihood of variance parameters and fixed effects (Bates et al. 2015, J. Stat. Softw. 67, section 5.1).

zeta(value) = sign(value - estimate) sqrt(f(value) - min f), f the ML deviance (or the REML criterion) minimised over
all other parameters; -1.96 < zeta < 1.96 is the 95 % interval.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.interpolate import CubicHermiteSpline
from scipy.special import ndtri

from .._errors import ModelError
from .._typing import FloatArray
from ..engines.threads import blas_threads
from ..fitting import Estimate, estimate
from .arguments import check_level
from .profile_paths import CoefficientPath, Node, Path, Scale, VariancePath, unit_of

if TYPE_CHECKING:
    from ..results import Fit

STEP = 0.5  # of zeta between nodes: the spline is then right to about 1e-4 of a standard error
LONGEST = 1.25  # of zeta; a longer step is made again, shorter
MOST_NODES = 30  # on one side: fewer than ten where the deviance does not level off
MOST_FAILURES = 12  # on one side: a path that breaks off is followed to a hundredth of a step
TRIES, AT_END = 3, 1e-5  # nodes at each end that is asked for, and how close the last of them is in zeta
BEYOND = 0.1  # how far nodes go past the level that was asked for
SMALL = 1e-6  # part of a curve over which its scale is straight
LEVEL_GROUND = 1e-4  # of zeta: the root of the deviance's own rounding
LOWER = 1e-6  # a deviance lower than the fit's by more than this: the fit was not at the optimum
GROUPS = ("fixef", "varpar")


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """zeta of one parameter at its nodes, in order; (k,) each. slope: dzeta/du, u the coordinate of `scale`.

    ended: whether each side came to the end of the parameter space, or to where the deviance is level, before the
    level that was asked for.
    """

    value: FloatArray
    zeta: FloatArray
    u: FloatArray
    slope: FloatArray
    scale: Scale
    ended: tuple[bool, bool]

    def at(self, value: float) -> float:
        """zeta at a value between the outermost nodes, by cubic Hermite interpolation; NaN outside."""
        if len(self.u) < 2 or not self.value[0] <= value <= self.value[-1]:
            return np.nan
        return float(CubicHermiteSpline(self.u, self.zeta, self.slope)(self.scale.to(value)))

    def line(self, count: int = 101) -> tuple[FloatArray, FloatArray]:
        """Values (count,) from the first node to the last, evenly along `scale`, and their zeta; none for no nodes."""
        if len(self.u) < 2:
            return np.zeros(0), np.zeros(0)
        u = np.linspace(self.u[0], self.u[-1], count)
        return np.array([self.scale.back(x) for x in u]), CubicHermiteSpline(self.u, self.zeta, self.slope)(u)

    def tangent(self) -> tuple[float, float]:
        """The estimate and dzeta/dvalue there; NaN at an end of `scale` that is flat, and for no nodes."""
        if len(self.u) < 2:
            return np.nan, np.nan
        middle, h = int(np.flatnonzero(self.zeta == 0.0)[0]), SMALL * (self.u[-1] - self.u[0])
        u = self.u[middle]
        change = (self.scale.back(u + h) - self.scale.back(u - h)) / (2 * h)
        return float(self.value[middle]), float(self.slope[middle] / change) if abs(change) > SMALL else np.nan

    def solve(self, zeta: float) -> float:
        """The value with this zeta; the end of the parameter space where the profile does not get so far."""
        u, side = self.coordinate(zeta), int(zeta > 0)
        if np.isfinite(u):
            return self.scale.back(u)
        return self.scale.limits[side] if self.ended[side] else np.nan

    def coordinate(self, zeta: float) -> float:
        """u with this zeta, not 0, the nearest one to the estimate; NaN beyond the outermost nodes."""
        beyond = np.flatnonzero(self.zeta >= zeta) if zeta > 0 else np.flatnonzero(self.zeta <= zeta)[::-1]
        if len(self.u) < 2 or not len(beyond):
            return np.nan
        outer = int(beyond[0])
        inner = outer - 1 if zeta > 0 else outer + 1
        spline = CubicHermiteSpline(self.u, self.zeta, self.slope)
        from scipy.optimize import brentq

        return float(brentq(lambda u: spline(u) - zeta, *sorted((self.u[inner], self.u[outer])), xtol=1e-14))


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """Curves by parameter. level: the widest interval they give. reml: by which criterion, whatever the fit's was."""

    curves: Mapping[str, Curve]
    level: float
    reml: bool = False

    def __repr__(self) -> str:
        kind = "REML" if self.reml else "ML"
        return f"<sparselmm profile by {kind}, to {100 * self.level:g} %, of {', '.join(self.curves) or 'nothing'}>"

    @property
    def table(self) -> pd.DataFrame:
        """parameter, value, zeta: a row each node."""
        names = np.repeat(np.array(list(self.curves), dtype=object), [len(c.value) for c in self.curves.values()])
        columns = ((k, np.concatenate([[], *(getattr(c, k) for c in self.curves.values())])) for k in ("value", "zeta"))
        return pd.DataFrame({"parameter": names, **dict(columns)})

    def confint(self, level: float = 0.95) -> pd.DataFrame:
        """lower, upper by parameter. At the end of the parameter space an interval ends there: 0 for a variance."""
        check_level(level)
        if level > self.level:
            raise ModelError(f"level={level}: this profile goes to {self.level}; make it with profile(level={level})")
        z = float(-ndtri(0.5 - 0.5 * level))
        rows = {name: (curve.solve(-z), curve.solve(z)) for name, curve in self.curves.items()}
        return pd.DataFrame.from_dict(rows, orient="index", columns=["lower", "upper"])


def profile(
    fit: "Fit", which: str | Iterable[str] | None = None, *, level: float = 0.99, reml: bool = False
) -> Profile:
    """Profiles of parameters by name, "fixef", "varpar", or all of them (None), out to intervals of `level`.

    By ML: a REML fit is fitted again by ML first, as lme4 does. reml=True: of variance parameters by the REML
    criterion, which has no coefficients. What the fit held stays held. A curve without nodes, whose interval is NaN: of
    an intercept beside a random walk, of which only the sum is determined.
    Errors: ModelError for a name that is not there, and for a coefficient with reml=True.
    """
    check_level(level)
    names = free_names(fit, "varpar" if reml and which is None else which)
    if reml:
        _check_variances(fit, names)
    with blas_threads(fit.likelihood.flops):
        best = _by(fit, reml)
        unit = unit_of(fit.likelihood, fit.estimate.held)
        z = float(-ndtri(0.5 - 0.5 * level))
        curves = {
            name: _whole(best, name, follow(_path(best, name, unit), best.deviance, z, name), z) for name in names
        }
    return Profile(curves, level, reml)


def _check_variances(fit: "Fit", names: list[str]) -> None:
    """ModelError where one of them is a coefficient."""
    coefficients = [name for name in names if name in fit.fixef.index]
    if coefficients:
        raise ModelError(
            f"profile of '{coefficients[0]}' with reml=True: the REML criterion has no coefficients. "
            "Leave reml out, which profiles by ML, or ask for which='varpar'"
        )


def _whole(best: "Fit", name: str, curve: Curve, z: float) -> Curve:
    """A correlation's curve that broke off below z, ended on that side where it cannot rise to z.

    With one of its standard deviations at zero a correlation can be anything: its deviance is never above that.
    """
    broken = [not ended and np.isnan(curve.solve(x)) for ended, x in zip(curve.ended, (-z, z), strict=True)]
    if not name.startswith("cor_") or not any(broken) or len(curve.u) < 2:
        return curve
    held, searched = best.estimate.held, best.likelihood
    rise = min(
        estimate(searched, reml=best.reml, held={**held, sd: 0.0}).evaluation.deviance - best.deviance
        for sd in _deviations(best, name)
    )
    below, above = (bool(a or (b and rise < z**2)) for a, b in zip(curve.ended, broken, strict=True))
    return replace(curve, ended=(below, above))


def _deviations(fit: "Fit", correlation: str) -> list[str]:
    """Names of the standard deviations that a correlation is of: two, or all of a structure with one correlation."""
    parameters = fit.likelihood.parameters
    at = parameters.natural_names.index(correlation)
    part = next(part for part in parameters.slices if part.start <= at < part.stop)
    names = parameters.natural_names[part]
    sds = [n for n in names if n.startswith("sd_")]
    pairs = list(combinations(sds, 2))
    return list(pairs[at - part.start - len(sds)]) if len(pairs) == len(names) - len(sds) else sds


def free_names(fit: "Fit", which: str | Iterable[str] | None) -> list[str]:
    """Parameters that were estimated, of those that `which` stands for.

    ModelError for one that is not there, and where a coefficient has the name of a variance parameter.
    """
    twice = [n for n in fit.fixef.index if n in fit.varpar.index]
    if twice:
        raise ModelError(f"'{twice[0]}' is a coefficient and a variance parameter: rename the column")
    held = fit.estimate.held
    groups = {
        "fixef": [n for n in fit.fixef.index if n not in fit.dropped_columns],
        "varpar": [n for n in fit.varpar.index if n not in held],
    }
    known = groups["fixef"] + groups["varpar"]
    if which is None:
        return known
    if not isinstance(which, Iterable):
        raise ModelError(f"which={which!r}: names of parameters, 'fixef', 'varpar', or None for all")
    wanted = [which] if isinstance(which, str) else list(which)
    out = [name for w in wanted for name in groups.get(w, [w])]
    unknown = [name for name in out if name not in known]
    if unknown:
        raise ModelError(
            f"which: no free parameter '{unknown[0]}'. This fit has {', '.join(known)}; 'fixef' and 'varpar' stand for "
            "groups of them"
        )
    return list(dict.fromkeys(out))


def _by(fit: "Fit", reml: bool) -> "Fit":
    """The fit by this criterion."""
    if fit.reml == reml:
        return fit
    start = None if fit.is_singular else fit.estimate.evaluation.theta
    found: Estimate = estimate(fit.likelihood, reml=reml, held=fit.estimate.held, start=start)
    return replace(fit, estimate=found)


def _path(best: "Fit", name: str, unit: float) -> Path:
    if name not in best.varpar.index:
        return CoefficientPath(best.likelihood, best.estimate, name, unit)
    errors = best.varpar_se
    return VariancePath(best.likelihood, best.estimate, name, best.varpar[name], errors[name], unit)


def follow(path: Path, lowest: float, z: float, name: str) -> Curve:
    """Nodes on both sides of the estimate until |zeta| passes z or the parameter space ends, and one at each +-z.

    lowest: the deviance of the fit. Errors: ModelError where a node has a lower one.
    """
    if not np.isfinite(path.start):
        none = np.array([])
        return Curve(none, none, none, none, path.scale, (False, False))
    below, ended_below = _side(path, -1, lowest, z + BEYOND, name)
    above, ended_above = _side(path, 1, lowest, z + BEYOND, name)
    ended, nodes = (ended_below, ended_above), [*below, *above]
    for _ in range(TRIES):
        curve = _curve(path, nodes, lowest, ended)
        found = [(zeta, _node_at(path, curve.coordinate(zeta), nodes)) for zeta in (-z, z)]
        ends = [(zeta, node) for zeta, node in found if node is not None]
        nodes += [node for _, node in ends]
        if all(abs(_zeta(node, path, lowest) - zeta) < AT_END for zeta, node in ends):
            break
    return _curve(path, nodes, lowest, ended)


def _node_at(path: Path, u: float, nodes: list[Node]) -> Node | None:
    """A node at u, from the nearest one; None where u is none, or one of theirs."""
    if not np.isfinite(u):
        return None
    nearest = min(nodes, key=lambda node: abs(node.u - u))
    same = abs(nearest.u - u) <= 1e-9 * abs(u - path.start)
    return None if same else path.solve(u, nearest.x)


def _curve(path: Path, nodes: list[Node], lowest: float, ended: tuple[bool, bool]) -> Curve:
    """The nodes in order with the estimate between them; without those where the deviance has not risen."""
    nodes = sorted((n for n in nodes if abs(_zeta(n, path, lowest)) > LEVEL_GROUND), key=lambda node: node.u)
    u = np.array([n.u for n in nodes])
    zeta = np.array([_zeta(n, path, lowest) for n in nodes])
    slope = np.array([n.slope for n in nodes]) / (2 * zeta)
    middle, centre = int((u < path.start).sum()), _at_centre(u - path.start, slope)
    u, zeta, slope = (np.insert(a, middle, v) for a, v in ((u, path.start), (zeta, 0.0), (slope, centre)))
    return Curve(np.array([path.scale.back(x) for x in u]), zeta, u, _rising(u, zeta, slope), path.scale, ended)


def _zeta(node: Node, path: Path, lowest: float) -> float:
    return float(np.sign(node.u - path.start) * np.sqrt(max(node.deviance - lowest, 0.0)))


def _at_centre(distance: FloatArray, slope: FloatArray) -> float:
    """dzeta/du at the estimate, 0/0 there: a polynomial through the two nearest nodes on each side, three on one."""
    near = np.argsort(np.abs(distance))[: 4 if (distance < 0).any() and (distance > 0).any() else 3]
    if not len(near):
        return np.nan
    size = np.abs(distance[near]).max()
    return float(np.polyfit(distance[near] / size, slope[near], len(near) - 1)[-1])


def _rising(u: FloatArray, zeta: FloatArray, slope: FloatArray) -> FloatArray:
    """Slopes within 0 and three times the secants to both neighbours, where a cubic rises.

    Nodes far from each other on a curve that bends, or where zeta is hardly more than rounding, have others (Fritsch &
    Carlson 1980, SIAM J. Numer. Anal. 17).
    """
    if len(u) < 2:
        return slope
    secant = np.diff(zeta) / np.diff(u)
    return np.clip(slope, 0.0, 3.0 * np.maximum(np.minimum(np.append(secant, np.inf), np.append(np.inf, secant)), 0.0))


def _side(path: Path, sign: int, lowest: float, cutoff: float, name: str) -> tuple[list[Node], bool]:
    """Nodes outwards, and whether they ended before the cutoff."""
    nodes: list[Node] = []
    end = path.scale.high if sign > 0 else path.scale.low
    u, zeta, step, last, failures = path.start, 0.0, path.step, path.begin(), 0
    while zeta < cutoff and u != end and len(nodes) < MOST_NODES:
        target = min(u + step, end) if sign > 0 else max(u - step, end)
        node = path.solve(target, _ahead(nodes, path, last, target))
        if node is None or np.sqrt(max(node.deviance - lowest, 0.0)) - zeta > LONGEST:
            failures += 1
            if failures == MOST_FAILURES:
                return nodes, False
            step *= 0.4
            continue
        if node.deviance < lowest - LOWER:
            raise ModelError(
                f"profile of {name}: at {path.scale.back(target):.6g} the deviance is {lowest - node.deviance:.3g} "
                "below that of the fit, which was not at the optimum. Fit again with other start="
            )
        nodes.append(node)
        before, u, zeta = zeta, target, float(np.sqrt(max(node.deviance - lowest, 0.0)))
        step *= float(np.clip(STEP / max(zeta - before, 1e-3), 0.4, 4.0))
    return nodes, zeta < cutoff


def _ahead(nodes: list[Node], path: Path, begin: FloatArray, u: float) -> FloatArray:
    """Where the other parameters will be: the line through the last two nodes."""
    if len(nodes) < 2:
        return nodes[-1].x if nodes else begin
    a, b = nodes[-2], nodes[-1]
    return b.x + (b.x - a.x) * ((u - b.u) / (b.u - a.u))
