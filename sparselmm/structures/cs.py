"""Compound symmetry within a level: one correlation, one standard deviation (cs) or one an effect (hcs).

Both are written with the projections J/r and I - J/r (J all ones), whose eigenvalues are squares: an
edge of the space (correlation 1 or -1/(r-1), variance 0) is an interior point of theta.
"""

import numpy as np

from .._errors import ModelError
from .._typing import FloatArray
from .base import correlations, register_covariance, zeroed


def _need_two(word: str, n_effects: int) -> None:
    if n_effects < 2:
        raise ModelError(
            f"{word}(...) needs two or more effects per level to have a correlation, not {n_effects}; "
            f"write {word}(0 + f | g) with a factor f, or (1 | g)"
        )


class CompoundSymmetry:
    """G = a^2 (I - J/r) + b^2 J/r, theta = (a, b); sd^2 = (a^2 (r-1) + b^2)/r, cor = (b^2 - a^2)/(r sd^2)."""

    n_params = 2

    def __init__(self, n_effects: int, label: str = ""):
        _need_two("cs", n_effects)
        self.n_effects = n_effects
        self.label = f"cs({label})"
        self.least_correlation = -1.0 / (n_effects - 1)
        mean = np.full((n_effects, n_effects), 1.0 / n_effects)
        self._projections = np.stack([np.eye(n_effects) - mean, mean])

    def names(self, effects: tuple[str, ...], group: str) -> tuple[str, ...]:
        return f"contrast_{self.label}|{group}", f"mean_{self.label}|{group}"

    def factor(self, theta: FloatArray) -> FloatArray:
        return np.tensordot(theta, self._projections, 1)

    def gradient(self, theta: FloatArray) -> FloatArray:
        return 2.0 * theta[:, None, None] * self._projections

    def hessian(self, theta: FloatArray) -> FloatArray:
        return 2.0 * np.eye(2)[:, :, None, None] * self._projections[:, None]

    def scaling(self, basis: FloatArray) -> FloatArray:
        return np.eye(2) * np.linalg.norm(basis) / np.sqrt(self.n_effects)

    def nearest(self, root: FloatArray) -> FloatArray:
        cov = root @ root.T
        total, trace = cov.sum() / self.n_effects, np.trace(cov)
        return np.sqrt(np.maximum([(trace - total) / (self.n_effects - 1), total], 0.0))

    def natural_names(self, effects: tuple[str, ...], group: str) -> tuple[str, ...]:
        return f"sd_{self.label}|{group}", f"cor_{self.label}|{group}"

    def to_natural(self, theta: FloatArray) -> FloatArray:
        T = self.factor(theta)
        cov = T @ T.T
        return np.array([np.sqrt(cov[0, 0]), correlations(cov)[0, 1]])

    def from_natural(self, natural: FloatArray) -> FloatArray:
        (sd, cor), r = natural, self.n_effects
        if not -1.0 / (r - 1) <= cor <= 1.0:
            raise ModelError(f"cor_{self.label} = {cor:g}: with {r} effects it lies between {-1 / (r - 1):.4g} and 1")
        return sd * np.sqrt([1.0 - cor, 1.0 + (r - 1) * cor])

    def edges(self, theta: FloatArray, size: float) -> list[FloatArray]:
        return zeroed(theta, size)

    def canonical(self, theta: FloatArray) -> FloatArray:
        return np.abs(theta)


class HeterogeneousCompoundSymmetry:
    """G = D C D, D = diag(d^2), C = sin^2(w) r/(r-1) (I - J/r) + cos^2(w) J, theta = (d, w).

    The common correlation is cos^2(w) - sin^2(w)/(r-1), for w from 0 to pi/2: 1 down to -1/(r-1). The relative
    standard deviations are squares: a search in their signs finds covariances whose correlations differ in sign.
    """

    def __init__(self, n_effects: int, label: str = ""):
        _need_two("hcs", n_effects)
        self.n_effects = n_effects
        self.n_params = n_effects + 1
        self.label = f"hcs({label})"
        self.least_correlation = -1.0 / (n_effects - 1)

    def names(self, effects: tuple[str, ...], group: str) -> tuple[str, ...]:
        return (*(f"root_sd_{e}|{group}" for e in effects), f"angle_{self.label}|{group}")

    def factor(self, theta: FloatArray) -> FloatArray:
        r, w = self.n_effects, theta[-1]
        mean = np.full((r, r), 1.0 / r)
        root = np.sin(w) * np.sqrt(r / (r - 1)) * (np.eye(r) - mean) + np.cos(w) * np.sqrt(r) * mean
        return theta[:-1, None] ** 2 * root

    def gradient(self, theta: FloatArray) -> FloatArray:
        d, C = theta[:-1], self._correlation(theta[-1])
        by_sd = self._by_sd(d**2, C[0])
        return np.concatenate([2.0 * d[:, None, None] * by_sd, np.outer(d**2, d**2)[None] * C[1]])

    def hessian(self, theta: FloatArray) -> FloatArray:
        r, d, C = self.n_effects, theta[:-1], self._correlation(theta[-1])
        out = np.zeros((r + 1, r + 1, r, r))
        for i in range(r):
            for j in range(r):
                out[i, j, i, j] += 4.0 * d[i] * d[j] * C[0][i, j]
                out[i, j, j, i] += 4.0 * d[i] * d[j] * C[0][i, j]
        out[np.arange(r), np.arange(r)] += 2.0 * self._by_sd(d**2, C[0])
        out[:r, r] = out[r, :r] = 2.0 * d[:, None, None] * self._by_sd(d**2, C[1])
        out[r, r] = np.outer(d**2, d**2) * C[2]
        return out

    def scaling(self, basis: FloatArray) -> FloatArray:
        return np.diag(np.append(np.sqrt(np.linalg.norm(basis, axis=0)), 1.0))

    def nearest(self, root: FloatArray) -> FloatArray:
        cov = root @ root.T
        sd = np.sqrt(np.maximum(np.diag(cov), 0.0))
        r = self.n_effects
        off = np.nan_to_num(correlations(cov))[np.triu_indices(r, 1)]
        both = np.outer(sd, sd)[np.triu_indices(r, 1)] > 0
        cor = off[both].mean() if both.any() else 0.0
        return self.from_natural(np.append(sd, np.clip(cor, -1.0 / (r - 1), 1.0)))

    def natural_names(self, effects: tuple[str, ...], group: str) -> tuple[str, ...]:
        return (*(f"sd_{e}|{group}" for e in effects), f"cor_{self.label}|{group}")

    def to_natural(self, theta: FloatArray) -> FloatArray:
        return np.append(theta[:-1] ** 2, self._correlation(theta[-1])[0][0, 1])

    def from_natural(self, natural: FloatArray) -> FloatArray:
        r, cor = self.n_effects, natural[-1]
        if not -1.0 / (r - 1) <= cor <= 1.0:
            raise ModelError(f"cor_{self.label} = {cor:g}: with {r} effects it lies between {-1 / (r - 1):.4g} and 1")
        return np.append(np.sqrt(natural[:-1]), np.arcsin(np.sqrt((1.0 - cor) * (r - 1) / r)))

    def edges(self, theta: FloatArray, size: float) -> list[FloatArray]:
        """Standard deviations of zero, correlations of 1 (w = 0) and of -1/(r-1) (w = pi/2)."""
        out = theta.copy()
        out[:-1][theta[:-1] ** 2 < size] = 0.0
        if abs(np.sin(theta[-1])) < size:
            out[-1] = 0.0
        if abs(np.cos(theta[-1])) < size:
            out[-1] = 0.5 * np.pi
        return [] if np.array_equal(out, theta) else [out]

    def canonical(self, theta: FloatArray) -> FloatArray:
        return np.append(np.abs(theta[:-1]), np.arccos(np.abs(np.cos(theta[-1]))))

    def _by_sd(self, sd: FloatArray, C: FloatArray) -> FloatArray:
        """d(diag(sd) C diag(sd))/dsd_i, (r, r, r)."""
        out = np.zeros((len(sd), len(sd), len(sd)))
        for i in range(len(sd)):
            out[i, i] += C[i] * sd
            out[i, :, i] += C[i] * sd
        return out

    def _correlation(self, w: float) -> tuple[FloatArray, FloatArray, FloatArray]:
        """C(w) and its first two derivatives, each (r, r)."""
        r = self.n_effects
        contrast, ones = r / (r - 1) * (np.eye(r) - 1.0 / r), np.ones((r, r))
        C = np.sin(w) ** 2 * contrast + np.cos(w) ** 2 * ones
        return C, np.sin(2 * w) * (contrast - ones), 2 * np.cos(2 * w) * (contrast - ones)


register_covariance("cs", CompoundSymmetry)
register_covariance("hcs", HeterogeneousCompoundSymmetry)
