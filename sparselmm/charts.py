"""Coordinates x for the optimiser: where theta and sigma are free, and where a user holds some of them."""

import difflib
from collections.abc import Mapping
from numbers import Real
from typing import Protocol

import numpy as np

from ._errors import ModelError
from ._typing import FloatArray
from .likelihood import Derivatives, Parameters

SIGMA = "sigma"
STEP = 1e-5  # of the central differences through the small maps of HeldChart; they are smooth, of order one


class Chart(Protocol):
    """x -> (theta, sigma), sigma None where it is profiled out; and derivatives back to x."""

    def model(self, x: FloatArray) -> tuple[FloatArray, float | None]:
        """theta (k,) and sigma at x."""

    def coordinates(self, theta: FloatArray, sigma: float) -> FloatArray:
        """x of a starting point."""

    def pull_back(self, x: FloatArray, d: Derivatives) -> tuple[FloatArray, FloatArray]:
        """Gradient and Hessian of the criterion by x."""

    def edges(self, x: FloatArray, size: float) -> list[FloatArray]:
        """x with near-zero scale parameters put to exactly zero, the candidate with most zeros first."""


class FreeChart:
    """x = S theta, sigma profiled out: S makes the effects of each term of order one."""

    def __init__(self, parameters: Parameters, scaling: FloatArray):
        self._parameters, self._scaling = parameters, scaling
        self._inverse = np.linalg.inv(scaling)

    def model(self, x: FloatArray) -> tuple[FloatArray, float | None]:
        return self._inverse @ x, None

    def coordinates(self, theta: FloatArray, sigma: float) -> FloatArray:
        return self._scaling @ theta

    def pull_back(self, x: FloatArray, d: Derivatives) -> tuple[FloatArray, FloatArray]:
        return self._inverse.T @ d.gradient, self._inverse.T @ d.hessian @ self._inverse

    def edges(self, x: FloatArray, size: float) -> list[FloatArray]:
        """All terms at their edge first, then one term after another."""
        single: list[FloatArray] = []
        joint = x.copy()
        for structure, part in zip(self._parameters.structures, self._parameters.slices, strict=True):
            found = structure.edges(x[part], size)
            for candidate in found:
                single.append(np.concatenate([x[: part.start], candidate, x[part.stop :]]))
            if found:
                joint[part] = found[0]
        return [joint, *single] if len(single) > 1 else single


class HeldChart:
    """Some of `varpar` held: x are the free standard deviations, arcsin of correlations, and log sigma.

    Terms of which nothing is held keep theta, relative to sigma, as in FreeChart (scaled by `scaling`).
    """

    def __init__(self, parameters: Parameters, scaling: FloatArray, held: Mapping[str, float]):
        self._parameters = parameters
        self._free = FreeChart(parameters, scaling)
        names = parameters.natural_names
        self._held = np.array([held.get(n, np.nan) for n in names])
        self._sigma = held.get(SIGMA)
        self._is_cor = np.array([n.startswith("cor_") for n in names], dtype=bool)
        self._is_sd = np.array([n.startswith("sd_") for n in names], dtype=bool)
        natural = np.zeros(len(names), dtype=bool)
        for _, part in parameters.blocks():
            natural[part] = not np.isnan(self._held[part]).all()
        self._natural = natural
        self._open = ~natural | np.isnan(self._held)

    def model(self, x: FloatArray) -> tuple[FloatArray, float | None]:
        sigma = float(np.exp(x[-1])) if self._sigma is None else self._sigma
        full = np.where(np.isnan(self._held), 0.0, self._held)
        full[self._open] = x[: int(self._open.sum())]
        theta, _ = self._free.model(np.where(self._natural, 0.0, full))
        for structure, part in self._parameters.blocks():
            if self._natural[part].any():
                theta[part] = structure.from_natural(self._relative(full[part], part, sigma))
        return theta, sigma

    def _relative(self, values: FloatArray, part: slice, sigma: float) -> FloatArray:
        """Standard deviations over sigma; free correlations from their arcsin."""
        out = np.where(self._is_sd[part], values / sigma, values)
        return np.where(self._is_cor[part] & self._open[part], np.sin(values), out)

    def coordinates(self, theta: FloatArray, sigma: float) -> FloatArray:
        natural = self._parameters.to_natural(theta)
        x = np.where(self._is_sd, natural * sigma, natural)
        x = np.where(self._is_cor, np.arcsin(np.clip(np.nan_to_num(natural), -0.9, 0.9)), x)
        x = np.where(self._natural, x, self._free.coordinates(theta, sigma))[self._open]
        return np.append(x, np.log(sigma)) if self._sigma is None else x

    def pull_back(self, x: FloatArray, d: Derivatives) -> tuple[FloatArray, FloatArray]:
        gradient = np.append(d.gradient, d.by_log_sigma2)
        hessian = np.block([
            [d.hessian, d.cross_log_sigma2[:, None]],
            [d.cross_log_sigma2[None, :], np.array([[d.information_log_sigma2]])],
        ])  # fmt: skip
        units = np.eye(len(x)) * STEP
        J = np.array([(self._point(x + e) - self._point(x - e)) / (2 * STEP) for e in units]).reshape(len(x), -1).T
        return J.T @ gradient, J.T @ hessian @ J

    def _point(self, x: FloatArray) -> FloatArray:
        """(theta, log sigma^2) at x."""
        theta, sigma = self.model(x)
        assert sigma is not None
        return np.append(theta, 2.0 * np.log(sigma))

    def edges(self, x: FloatArray, size: float) -> list[FloatArray]:
        return []


def make_chart(parameters: Parameters, scaling: FloatArray, held: Mapping[str, float] | None) -> Chart:
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
    return HeldChart(parameters, scaling, {k: float(v) for k, v in held.items()})


def _check_value(name: str, value: object) -> None:
    number = float(value) if isinstance(value, Real) else np.nan
    is_cor, is_sd = name.startswith(("cor_", "rho_")), name.startswith("sd_") or name == SIGMA
    fits = abs(number) <= 1.0 if is_cor else np.isfinite(number) and (number >= 0.0 or not is_sd)
    if not fits or (name == SIGMA and number == 0.0):
        rule = "a correlation lies between -1 and 1" if is_cor else "a standard deviation is at least 0, sigma above 0"
        raise ModelError(f"fixed: {name} cannot be {value!r}; {rule}")
