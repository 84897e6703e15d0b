"""T and the derivatives of G of every term for many theta at once, in the conditioned bases, padded to one size."""

from collections.abc import Sequence

import numpy as np

from .._typing import FloatArray, IntArray
from ..structures import Covariance
from .design import Design, by_rows


class Factors:
    """Batches of the structures of a model. R: largest r. owner: (k,) term of each parameter, in `order` of the terms.

    order: terms with the absorbed one first.
    """

    def __init__(self, design: Design, order: Sequence[int]):
        self.parameters, self.order = design.parameters, tuple(order)
        self.count = self.parameters.count
        self.structures = [self.parameters.structures[k] for k in order]
        self.slices = [self.parameters.slices[k] for k in order]
        self.bases = [design.products.bases[k] for k in order]
        self.R = max(s.n_effects for s in self.structures)
        self.owner: IntArray = np.zeros(self.count, dtype=np.int64)
        self.scaling: FloatArray = np.eye(self.count)
        for place, (structure, part, basis) in enumerate(zip(self.structures, self.slices, self.bases, strict=True)):
            self.owner[part] = place
            self.scaling[part, part] = structure.scaling(basis)
        self.inverse = np.linalg.inv(self.scaling)
        self._units = [linear_units(s) for s in self.structures]

    def theta(self, x: FloatArray) -> FloatArray:
        """theta (v, k) from the search's coordinates."""
        return by_rows(x, self.inverse.T)

    def coordinates(self, theta: FloatArray) -> FloatArray:
        """And back."""
        return by_rows(theta, self.scaling.T)

    def factors(self, theta: FloatArray) -> FloatArray:
        """basis T, (v, K, R, R)."""
        out = np.zeros((len(theta), len(self.structures), self.R, self.R))
        for place, (basis, part) in enumerate(zip(self.bases, self.slices, strict=True)):
            r = len(basis)
            out[:, place, :r, :r] = basis @ self._own(place, theta[:, part])
        return out

    def gradients(self, theta: FloatArray) -> FloatArray:
        """dG/dtheta_i in the conditioned bases, (v, k, R, R)."""
        out = np.zeros((len(theta), self.count, self.R, self.R))
        for place, (basis, part) in enumerate(zip(self.bases, self.slices, strict=True)):
            r, units = len(basis), self._units[place]
            if units is None:
                own = np.array([self.structures[place].gradient(row) for row in theta[:, part]])
            else:
                half = np.einsum("iab,vcb->viac", units, self._own(place, theta[:, part]))
                own = half + half.transpose(0, 1, 3, 2)
            out[:, part, :r, :r] = basis @ own @ basis.T
        return out

    def curvature(self, theta: FloatArray, W: FloatArray) -> FloatArray:
        """<W_term, d2G/dtheta_i dtheta_j>, (v, k, k), of parameters of one term."""
        out = np.zeros((len(theta), self.count, self.count))
        for place, (basis, part) in enumerate(zip(self.bases, self.slices, strict=True)):
            r, structure = len(basis), self.structures[place]
            own = basis.T @ W[:, place, :r, :r] @ basis
            if self._units[place] is None:
                second = np.array([structure.hessian(row) for row in theta[:, part]])
                out[:, part, part] = np.einsum("vijab,vab->vij", second, own)
            else:
                out[:, part, part] = np.einsum("ijab,vab->vij", structure.hessian(theta[0, part]), own)
        return out

    def lower_rank(self, x: FloatArray) -> FloatArray:
        """x (v, k) with the smallest singular value of each T of several effects taken away."""
        theta = self.theta(x)
        for place, (structure, part, basis) in enumerate(zip(self.structures, self.slices, self.bases, strict=True)):
            if len(basis) > 1:
                U, s, _ = np.linalg.svd(basis @ self._own(place, theta[:, part]))
                roots = np.linalg.solve(basis, U[:, :, :-1] * s[:, None, :-1])
                theta[:, part] = [structure.nearest(root) for root in roots]
        return self.coordinates(theta)

    def start(self, sizes: FloatArray) -> FloatArray:
        """theta (k,) whose effects have these standard deviations in the conditioned bases, uncorrelated."""
        out, done = np.empty(self.count), 0
        for structure, part, basis in zip(self.structures, self.slices, self.bases, strict=True):
            root = np.linalg.solve(basis, np.diag(sizes[done : done + len(basis)]))
            out[part], done = structure.nearest(root.astype(np.float64)), done + len(basis)
        return out

    def natural(self, theta: FloatArray) -> FloatArray:
        """Relative standard deviations and correlations, (v, k)."""
        if all(s.n_params == 1 and units is not None for s, units in zip(self.structures, self._units, strict=True)):
            return np.abs(theta)
        return np.array([self.parameters.to_natural(row) for row in theta]).reshape(theta.shape)

    def canonical(self, theta: FloatArray) -> FloatArray:
        """theta as it is reported."""
        return np.array([self.parameters.canonical(row) for row in theta]).reshape(theta.shape)

    def singular(self, theta: FloatArray) -> FloatArray:
        """Whether some T is singular to 1e-5 of its size, (v,)."""
        out = np.zeros(len(theta), dtype=bool)
        for place, part in enumerate(self.slices):
            T = self._own(place, theta[:, part])
            size = np.linalg.norm(T, axis=2)
            none = (size == 0.0).any(axis=1)
            s = np.linalg.svd(T / np.where(size == 0.0, 1.0, size)[:, :, None], compute_uv=False)
            out |= none | (s[:, -1] < SINGULAR)
        return out

    def _own(self, place: int, theta: FloatArray) -> FloatArray:
        """T of one term in the effects' own units, (v, r, r)."""
        units = self._units[place]
        if units is None:
            return np.array([self.structures[place].factor(row) for row in theta])
        return np.tensordot(theta, units, axes=1)


SINGULAR = 1e-5  # as `fitting`


def linear_units(structure: Covariance) -> FloatArray | None:
    """E (k, r, r) with T = sum theta_i E_i; None where T is not linear in theta."""
    points = np.random.default_rng(1).normal(size=(2, structure.n_params))
    units = np.array([structure.factor(row) for row in np.eye(structure.n_params)])
    same = all(np.allclose(np.tensordot(row, units, axes=1), structure.factor(row), rtol=1e-14) for row in points)
    return units if same else None
