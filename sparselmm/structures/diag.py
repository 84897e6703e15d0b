"""Independent effects within a level: T is diagonal (lme4's `||` for numeric effects)."""

import numpy as np

from .._typing import FloatArray
from .base import register_covariance, zeroed


class Diagonal:
    """G = diag(theta^2); theta are the relative standard deviations."""

    def __init__(self, n_effects: int, label: str = ""):
        self.n_effects = self.n_params = n_effects

    def names(self, effects: tuple[str, ...], group: str) -> tuple[str, ...]:
        return tuple(f"{e}|{group}" for e in effects)

    def factor(self, theta: FloatArray) -> FloatArray:
        return np.diag(theta)

    def gradient(self, theta: FloatArray) -> FloatArray:
        return 2.0 * theta[:, None, None] * self._units()

    def hessian(self, theta: FloatArray) -> FloatArray:
        return 2.0 * np.eye(self.n_params)[:, :, None, None] * self._units()[:, None]

    def scaling(self, basis: FloatArray) -> FloatArray:
        return np.diag(np.linalg.norm(basis, axis=0))

    def nearest(self, root: FloatArray) -> FloatArray:
        return np.linalg.norm(root, axis=1)

    def natural_names(self, effects: tuple[str, ...], group: str) -> tuple[str, ...]:
        return tuple(f"sd_{e}|{group}" for e in effects)

    def to_natural(self, theta: FloatArray) -> FloatArray:
        return np.abs(theta)

    def from_natural(self, natural: FloatArray) -> FloatArray:
        return natural.copy()

    def edges(self, theta: FloatArray, size: float) -> list[FloatArray]:
        return zeroed(theta, size)

    def canonical(self, theta: FloatArray) -> FloatArray:
        return np.abs(theta)

    def _units(self) -> FloatArray:
        r = self.n_effects
        units = np.zeros((r, r, r))
        units[np.arange(r), np.arange(r), np.arange(r)] = 1.0
        return units


register_covariance("diag", Diagonal)
