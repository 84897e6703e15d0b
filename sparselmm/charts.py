"""Coordinates x for the optimiser: where theta and sigma are free, and where a user holds some of them."""

import difflib
from collections.abc import Callable, Iterator, Mapping
from numbers import Real
from typing import Any, Protocol

import numpy as np

from ._errors import ModelError
from ._typing import BoolArray, FloatArray
from .likelihood import Derivatives
from .parameters import Parameters
from .structures.limits import Bounds, at_bounds

SIGMA = "sigma"
LOUD, QUIET = 4.0, 0.3  # T of a rival where its loudness is looked at, and from which loudness on it is the unit
LOUDEST, LARGEST = 1e3, 3e4  # loudness where sigma is zero; T there: X'V^-1X rounds by 2e-5 of it with 100 rows
ROUGHEST = 1e12  # entry of a Q of two correlations: the criterion is off by 1e-3 with 108 levels
STEEP = 0.4  # d log(roughness) by a coordinate; it goes to 1 (arctanh of a correlation) and -1/2 (log of a rate)
STEP = 1e-4  # of the central differences through the small maps of HeldChart; they are smooth, of order one


class Chart(Protocol):
    """x -> (theta, sigma), sigma None where it is profiled out; and derivatives back to x. size: the length of x."""

    size: int

    def model(self, x: FloatArray) -> tuple[FloatArray, float | None]:
        """theta (k,) and sigma at x."""

    def coordinates(self, theta: FloatArray, sigma: float) -> FloatArray:
        """x of a starting point."""

    def pull_back(self, x: FloatArray, d: Derivatives) -> tuple[FloatArray, FloatArray]:
        """Gradient and Hessian of the criterion by x."""

    def edges(self, x: FloatArray, size: float) -> list[FloatArray]:
        """x with near-zero scale parameters put to exactly zero, the candidate with most zeros first."""

    def bounds(self) -> Bounds:
        """Where coordinates have come to an end, (size,) each: those of `Parameters.bounds`."""

    def middle(self) -> FloatArray:
        """Where a coordinate with bounds starts, (size,); NaN elsewhere."""

    def same_steps(self, x: FloatArray, moved: FloatArray) -> FloatArray:
        """`moved`, which is x with other parameters of precisions, at the scale that keeps the variance of a step."""

    def walks(self, x: FloatArray, far: float) -> Iterator[FloatArray]:
        """x with 1 - a and 1 - b of a product exp(-2 far) times as large, those that are no limits, and s exp(far).

        s^2 (1 - a) and s^2 (1 - b) stay as they are: at the end of this way a field is two random walks, one each way.
        """

    def idle(self, x: FloatArray) -> BoolArray:
        """Parameters of precisions whose term has a variance of zero: nothing depends on them, (size,)."""

    def terms(self) -> list[tuple[slice, slice]]:
        """Places of T and of the parameters of Q of each scalar term that has both."""

    def scalars(self) -> list[int]:
        """Coordinates that are T of a scalar term."""

    def scales(self) -> BoolArray:
        """Which coordinates are multiplied where a relative covariance factor T is, (size,)."""

    def rivals(self) -> list[int]:
        """Coordinates that are T of terms which could stand for the residuals: every row has a level of its own."""

    def loudness(self, x: FloatArray) -> FloatArray:
        """The standard deviation of the steps of each rival over sigma, (size,); 0 elsewhere."""

    def noise(self) -> BoolArray:
        """Which coordinate is sigma over the loudness of a rival, (size,)."""

    def jacobian(self, x: FloatArray) -> FloatArray:
        """Of theta by x, (k, size)."""


class FreeChart:
    """x = S theta, sigma profiled out: S makes the effects of each term of order one."""

    def __init__(self, parameters: Parameters, scaling: FloatArray):
        self._parameters, self._scaling, self.size = parameters, scaling, parameters.count
        self._inverse: FloatArray = np.asarray(np.linalg.inv(scaling), dtype=np.float64)

    def jacobian(self, x: FloatArray) -> FloatArray:
        """Of theta by x, (k, size)."""
        return self._inverse

    def model(self, x: FloatArray) -> tuple[FloatArray, float | None]:
        """ModelError where both correlations of a product are so near 1 that the criterion has lost its digits."""
        theta = self._inverse @ x
        for Q, rho in zip(self._parameters.precisions, self._parameters.rho_slices, strict=True):
            if Q is not None and Q.n_params > 1 and np.abs(Q.values(theta[rho])).max() > ROUGHEST:
                raise ModelError("the correlations of a product are 1 to rounding, both of them")
        return theta, None

    def coordinates(self, theta: FloatArray, sigma: float) -> FloatArray:
        return self._scaling @ theta

    def pull_back(self, x: FloatArray, d: Derivatives) -> tuple[FloatArray, FloatArray]:
        return self._inverse.T @ d.gradient, self._inverse.T @ d.hessian @ self._inverse

    def edges(self, x: FloatArray, size: float) -> list[FloatArray]:
        """All terms at their edge first, then one term after another; any size where a correlation is at its limit."""
        single: list[FloatArray] = []
        joint = x.copy()
        ended = at_bounds(x, self.bounds())
        parts = zip(self._parameters.structures, self._parameters.slices, self._parameters.rho_slices, strict=True)
        for structure, part, rho in parts:
            found = structure.edges(x[part], np.inf if ended[rho].any() else size)
            for candidate in found:
                single.append(np.concatenate([x[: part.start], candidate, x[part.stop :]]))
            if found:
                joint[part] = found[0]
        return [joint, *single] if len(single) > 1 else single

    def bounds(self) -> Bounds:
        return self._parameters.bounds()

    def middle(self) -> FloatArray:
        return np.where(np.isfinite(self.bounds()[0]), self._parameters.start(self._unit_roots()), np.nan)

    def _unit_roots(self) -> list[FloatArray]:
        return [np.eye(s.n_effects) for s in self._parameters.structures]

    def same_steps(self, x: FloatArray, moved: FloatArray) -> FloatArray:
        """For scalar terms; then T^2 / max Q, the variance of the innovations near a correlation of 1, is that of x."""
        out = moved.copy()
        parts = zip(self._parameters.precisions, self._parameters.slices, self._parameters.rho_slices, strict=True)
        for Q, part, rho in parts:
            if Q is not None and part.stop == part.start + 1:
                out[part] *= np.sqrt(np.abs(Q.values(moved[rho])).max() / np.abs(Q.values(x[rho])).max())
        return out

    def walks(self, x: FloatArray, far: float) -> Iterator[FloatArray]:
        for part, rho in self.terms():
            m, slope = self.roughness(part.start, x)
            rate = slope[rho] / m
            if len(rate) > 1 and x[part].any() and (np.abs(rate) > STEEP).all():
                out = x.copy()
                out[rho] += np.where(at_bounds(x, self.bounds())[rho], 0.0, far / rate)
                out[part] *= np.exp(far)
                yield np.clip(out, *self.bounds())

    def idle(self, x: FloatArray) -> BoolArray:
        out = np.zeros(len(x), dtype=bool)
        for part, rho in zip(self._parameters.slices, self._parameters.rho_slices, strict=True):
            out[rho] = not x[part].any()
        return out

    def terms(self) -> list[tuple[slice, slice]]:
        pairs = zip(self._parameters.slices, self._parameters.rho_slices, strict=True)
        return [(part, rho) for part, rho in pairs if part.stop == part.start + 1 and rho.stop > rho.start]

    def scalars(self) -> list[int]:
        return [part.start for part in self._parameters.slices if part.stop == part.start + 1]

    def scales(self) -> BoolArray:
        out = np.zeros(self.size, dtype=bool)
        for part in self._parameters.slices:
            out[part] = True
        return out

    def rivals(self) -> list[int]:
        return [self._parameters.slices[k].start for k in self._parameters.rivals]

    def loudness(self, x: FloatArray) -> FloatArray:
        out = np.zeros(self.size)
        for k in self.rivals():
            out[k] = abs(x[k]) / self.roughness(k, x)[0]
        return out

    def roughness(self, place: int, x: FloatArray) -> tuple[float, FloatArray]:
        """m = sqrt(max Q) of the scalar term whose T is at `place`, 1 for a known Q; its derivatives by x, (size,).

        A standard deviation over it is about that of the steps: AR(1) has max Q = (1 + a^2)/(1 - a^2).
        """
        k = next(k for k, part in enumerate(self._parameters.slices) if part.start == place)
        Q, rho, slope = self._parameters.precisions[k], self._parameters.rho_slices[k], np.zeros(self.size)
        if Q is None or not Q.n_params:
            return 1.0, slope
        values = Q.values(x[rho])
        top = int(np.abs(values).argmax())
        m = float(np.sqrt(np.abs(values[top])))
        slope[rho] = 0.5 * m * Q.gradient(x[rho])[:, top] / values[top]
        return m, slope

    def noise(self) -> BoolArray:
        return np.zeros(self.size, dtype=bool)


class RelativeChart:
    """FreeChart's z relative to T of a rival of the residuals, z_k, so that sigma may go to zero beside it.

        s = (u^2 + 1/LOUDEST^2)^(-1/2),    z_k = (1/(s m(rho))^2 + 1/LARGEST^2)^(-1/2),    z_j = x_j s for the other T:

    u = x_k, and m is the roughness of the rival's Q, so that u is sigma over the standard deviation of its steps, not
    of its levels, which goes to infinity as a series becomes a random walk. The criterion is even in u. At u = 0 sigma
    is zero, but computed at s = LOUDEST: what is left of sigma^2 moves the criterion by a millionth of its slope there,
    and rounding by as much, which grows with z_k^2. Hence LARGEST.
    """

    def __init__(self, free: FreeChart, rival: int):
        self._free, self.rival, self.size = free, rival, free.size
        self._others = free.scales() & (np.arange(free.size) != rival)

    def model(self, x: FloatArray) -> tuple[FloatArray, float | None]:
        return self._free.model(self._z(x))

    def _loudness(self, x: FloatArray) -> float:
        return float(1.0 / np.hypot(x[self.rival], 1.0 / LOUDEST))

    def _z(self, x: FloatArray) -> FloatArray:
        s = self._loudness(x)
        out = np.where(self._others, x * s, x)
        out[self.rival] = 1.0 / np.hypot(1.0 / (s * self._free.roughness(self.rival, x)[0]), 1.0 / LARGEST)
        return out

    def coordinates(self, theta: FloatArray, sigma: float) -> FloatArray:
        return self.turned(self._free.coordinates(theta, sigma))

    def turned(self, z: FloatArray) -> FloatArray:
        """x of coordinates of FreeChart."""
        z_k, m = min(abs(float(z[self.rival])), (1.0 - 1e-9) * LARGEST), self._free.roughness(self.rival, z)[0]
        s = min(1.0 / (m * np.sqrt(1.0 / z_k**2 - 1.0 / LARGEST**2)), LOUDEST)
        out = np.where(self._others, z / s, z)
        out[self.rival] = 0.0 if s > (1.0 - 1e-9) * LOUDEST else np.sqrt(1.0 / s**2 - 1.0 / LOUDEST**2)
        return out

    def jacobian(self, x: FloatArray) -> FloatArray:
        return self._free.jacobian(x) @ self._slopes(x)

    def pull_back(self, x: FloatArray, d: Derivatives) -> tuple[FloatArray, FloatArray]:
        gradient, hessian = self._free.pull_back(x, d)
        J = self._slopes(x)
        return J.T @ gradient, J.T @ hessian @ J + self._curvature(x, gradient)

    def _slopes(self, x: FloatArray) -> FloatArray:
        """dz/dx, (k, k)."""
        k, s, (m, slope) = self.rival, self._loudness(x), self._free.roughness(self.rival, x)
        once = -x[k] * s**3
        J = np.diag(np.where(self._others, s, 1.0))
        bent = np.hypot(1.0, s * m / LARGEST) ** -3
        J[k] = bent * s * slope
        J[:, k] = np.where(self._others, x * once, 0.0)
        J[k, k] = bent * m * once
        return J

    def _curvature(self, x: FloatArray, g: FloatArray) -> FloatArray:
        """sum_j g_j d2z_j/dxdx', without the curvature of m and that towards LARGEST, (k, k)."""
        k, s, (m, slope) = self.rival, self._loudness(x), self._free.roughness(self.rival, x)
        once, twice = -x[k] * s**3, (3.0 * x[k] ** 2 * s**2 - 1.0) * s**3
        out, g_k = np.zeros((self.size, self.size)), g[k] * np.hypot(1.0, s * m / LARGEST) ** -3
        out[k] = out[:, k] = once * np.where(self._others, g, g_k * slope)
        out[k, k] = twice * (g[self._others] @ x[self._others] + g_k * m)
        return out

    def edges(self, x: FloatArray, size: float) -> list[FloatArray]:
        """sigma, and FreeChart's where the rest is relative to one standard deviation."""
        small = np.where(np.arange(self.size) == self.rival, 0.0, x)
        quiet = [small] if 0.0 < abs(x[self.rival]) < size else []
        found = [np.where(self._others, z, x) for z in self._free.edges(np.where(self._others, x, 1.0), size)]
        both = [np.where(self._others, found[0], small)] if found and quiet else []
        return [*both, *found, *quiet]

    def bounds(self) -> Bounds:
        """u from 0 on: to the other side the criterion is the same."""
        low, high = self._free.bounds()
        low[self.rival], high[self.rival] = 0.0, LOUDEST
        return low, high

    def middle(self) -> FloatArray:
        out = self._free.middle()
        out[self.rival] = 1.0 / LOUD
        return out

    def same_steps(self, x: FloatArray, moved: FloatArray) -> FloatArray:
        """That is `moved` here; this one keeps the variance of the levels."""
        return self.turned(np.where(self._free.scales(), self._z(x), self._z(moved)))

    def walks(self, x: FloatArray, far: float) -> Iterator[FloatArray]:
        return iter(())

    def idle(self, x: FloatArray) -> BoolArray:
        return self._free.idle(self._z(x))

    def terms(self) -> list[tuple[slice, slice]]:
        return [(part, rho) for part, rho in self._free.terms() if part.start != self.rival]

    def scalars(self) -> list[int]:
        return self._free.scalars()

    def scales(self) -> BoolArray:
        return self._free.scales()

    def rivals(self) -> list[int]:
        return []

    def loudness(self, x: FloatArray) -> FloatArray:
        return np.zeros(self.size)

    def noise(self) -> BoolArray:
        return np.arange(self.size) == self.rival


class HeldChart:
    """Some of `varpar` held: x are the free standard deviations, arcsin of correlations, and log sigma.

    Standard deviations are measured in `unit` (of the response) over the size of their effects. Those beside a
    held correlation go in as x^2: with a sign they would turn the correlation round. Terms of which nothing is
    held keep theta, relative to sigma, as in FreeChart.
    """

    def __init__(self, parameters: Parameters, scaling: FloatArray, held: Mapping[str, float], unit: float):
        self._parameters, self._free = parameters, FreeChart(parameters, scaling)
        names = parameters.natural_names
        self._held = np.array([held.get(n, np.nan) for n in names])
        self._sigma = held.get(SIGMA)
        self._is_cor = np.array([n.startswith("cor_") for n in names], dtype=bool)
        self._is_sd = np.array([n.startswith("sd_") for n in names], dtype=bool)
        self._natural, self._squared = np.zeros((2, len(names)), dtype=bool)
        self._size = np.ones(len(names))
        for structure, part in parameters.blocks():
            self._natural[part] = not np.isnan(self._held[part]).all()
            turned, is_sd = self._is_cor[part] & (np.nan_to_num(self._held[part]) != 0.0), self._is_sd[part]
            self._squared[part] = turned.any() & is_sd & (is_sd.sum() > 1)
            self._size[part] = np.where(is_sd, _sizes(structure, is_sd, scaling[part, part]) / unit, 1.0)
        self._open = ~self._natural | np.isnan(self._held)
        self.size = int(self._open.sum()) + (self._sigma is None)

    def model(self, x: FloatArray) -> tuple[FloatArray, float | None]:
        """ModelError where a standard deviation over sigma is no number any more: a search that ran away."""
        with np.errstate(over="ignore"):
            sigma = float(np.exp(x[-1])) if self._sigma is None else self._sigma
        full = np.zeros(len(self._held))
        full[self._open] = x[: int(self._open.sum())]
        theta, _ = self._free.model(np.where(self._natural, 0.0, full))
        sds = np.where(self._squared, full**2, full) / self._size
        free = np.where(self._is_cor, np.sin(full), np.where(self._is_sd, sds, full))
        values = np.where(np.isnan(self._held), free, self._held)
        with np.errstate(all="ignore"):
            relative = np.where(self._is_sd, values / sigma, values)
        if not (0.0 < sigma < np.inf and np.isfinite(relative[self._is_sd]).all()):
            raise ModelError(f"sigma = {sigma:g} is out of range beside standard deviations of {values[self._is_sd]}")
        for structure, part in self._parameters.blocks():
            if self._natural[part].any():
                theta[part] = structure.from_natural(relative[part])
        return theta, sigma

    def coordinates(self, theta: FloatArray, sigma: float) -> FloatArray:
        natural = self._parameters.to_natural(theta)
        sds = natural * sigma * self._size
        angles = np.arcsin(np.clip(np.nan_to_num(natural), -0.9, 0.9))
        scales = np.where(self._squared, np.sqrt(np.abs(sds)), sds)
        x = np.where(self._is_cor, angles, np.where(self._is_sd, scales, natural))
        x = np.where(self._natural, x, self._free.coordinates(theta, sigma))[self._open]
        return np.append(x, np.log(sigma)) if self._sigma is None else x

    def pull_back(self, x: FloatArray, d: Derivatives) -> tuple[FloatArray, FloatArray]:
        gradient = np.append(d.gradient, d.by_log_sigma2)
        hessian = np.block([
            [d.hessian, d.cross_log_sigma2[:, None]],
            [d.cross_log_sigma2[None, :], np.array([[d.information_log_sigma2]])],
        ])  # fmt: skip
        J = _differences(self._point, x).reshape(len(x), len(gradient)).T
        curvature = _differences(lambda x: _differences(lambda x: self._point(x) @ gradient, x), x)
        return J.T @ gradient, J.T @ hessian @ J + curvature.reshape(len(x), len(x))

    def _point(self, x: FloatArray) -> FloatArray:
        """(theta, log sigma^2) at x."""
        theta, sigma = self.model(x)
        assert sigma is not None
        return np.append(theta, 2.0 * np.log(sigma))

    def edges(self, x: FloatArray, size: float) -> list[FloatArray]:
        """All small standard deviations at zero, then one after another."""
        is_sd = np.zeros(len(x), dtype=bool)
        is_sd[: int(self._open.sum())] = ~self._is_cor[self._open]
        small = is_sd & (np.abs(x) < size) & (x != 0.0)
        single = [np.where(np.arange(len(x)) == i, 0.0, x) for i in np.flatnonzero(small)]
        return [np.where(small, 0.0, x), *single] if len(single) > 1 else single

    def bounds(self) -> Bounds:
        """None of what is on its natural scale here."""
        low, high = self._free.bounds()
        rest = np.full(int(self._sigma is None), np.inf)
        free = ~self._natural[self._open]
        low, high = np.where(free, low[self._open], -np.inf), np.where(free, high[self._open], np.inf)
        return np.append(low, -rest), np.append(high, rest)

    def middle(self) -> FloatArray:
        middle = np.append(self._free.middle()[self._open], np.full(int(self._sigma is None), np.nan))
        return np.where(np.isfinite(self.bounds()[0]), middle, np.nan)

    def same_steps(self, x: FloatArray, moved: FloatArray) -> FloatArray:
        return moved

    def walks(self, x: FloatArray, far: float) -> Iterator[FloatArray]:
        return iter(())

    def idle(self, x: FloatArray) -> BoolArray:
        return np.zeros(len(x), dtype=bool)

    def terms(self) -> list[tuple[slice, slice]]:
        return []

    def scalars(self) -> list[int]:
        place = np.cumsum(self._open) - 1
        return [int(place[i]) for i in self._free.scalars() if self._open[i]]

    def scales(self) -> BoolArray:
        T = (self._free.scales() & ~self._natural)[self._open]
        return T if self._sigma is not None else np.append(T, False).astype(np.bool_)

    def rivals(self) -> list[int]:
        return []

    def loudness(self, x: FloatArray) -> FloatArray:
        return np.zeros(self.size)

    def noise(self) -> BoolArray:
        return np.zeros(self.size, dtype=bool)

    def jacobian(self, x: FloatArray) -> FloatArray:
        return _differences(lambda x: self.model(x)[0], x).T


def _differences(function: Callable[[FloatArray], Any], x: FloatArray) -> FloatArray:
    """Central differences by each x, shape (len(x), ...)."""
    units = np.eye(len(x)) * STEP
    return np.array([(function(x + e) - function(x - e)) / (2 * STEP) for e in units])


def _sizes(structure: Any, is_sd: BoolArray, scaling: FloatArray) -> FloatArray:
    """How far FreeChart's x goes per unit of each standard deviation of a structure; 1 for what is none."""
    base = is_sd.astype(np.float64)
    out = np.ones(len(base))
    for i in np.flatnonzero(is_sd):
        doubled = structure.from_natural(base + np.eye(len(base))[i])
        out[i] = np.linalg.norm(scaling @ (doubled - structure.from_natural(base)))
    return out


def make_chart(parameters: Parameters, scaling: FloatArray, held: Mapping[str, float] | None, unit: float) -> Chart:
    """FreeChart, or HeldChart where something is held. ModelError for a name or a value that cannot be."""
    if not held:
        return FreeChart(parameters, scaling)
    if not isinstance(held, Mapping):
        raise ModelError(f'fixed: names with values, as in {{"sigma": 1.0}}, not {held!r}')
    known = (*parameters.natural_names, SIGMA)
    for name, value in held.items():
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            hint = f" Did you mean '{close[0]}'?" if close else ""
            raise ModelError(f"fixed: no parameter '{name}'.{hint} This model has {', '.join(known)}")
        _check_value(name, value)
    return HeldChart(parameters, scaling, {k: float(v) for k, v in held.items()}, unit)


def _check_value(name: str, value: object) -> None:
    number = float(value) if isinstance(value, Real) else np.nan
    is_cor, is_sd = name.startswith(("cor_", "rho_")), name.startswith("sd_") or name == SIGMA
    fits = abs(number) <= 1.0 if is_cor else np.isfinite(number) and (number >= 0.0 or not is_sd)
    fits |= number == np.inf and name.startswith(("kappa_", "start_"))
    if not fits or (name == SIGMA and number == 0.0):
        rule = "a correlation lies between -1 and 1" if is_cor else "a standard deviation is at least 0, sigma above 0"
        raise ModelError(f"fixed: {name} cannot be {value!r}; {rule}")
