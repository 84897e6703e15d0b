"""An unstructured covariance in the coordinates of a search: the direction of the largest variance first."""

import numpy as np

from .._typing import FloatArray
from .us import Unstructured


class Turned(Unstructured):
    """T = basis^-1 U L, with theta the columns of the lower triangle of L.

    Where T is lower triangular and the first effect hardly varies, the criterion hardly depends on how the others are
    spread over its columns: a valley along a circle, which takes a search hundreds of straight steps. There is none
    where the first column of L has the largest variance.

    basis: (r, r), turns the effects into ones of unit size, as in `Covariance.scaling`. U: (r, r) orthogonal.
    """

    def __init__(self, n_effects: int, basis: FloatArray, U: FloatArray):
        super().__init__(n_effects)
        self._U: FloatArray = U
        self._directions: FloatArray = np.asarray(np.linalg.solve(basis, U), dtype=np.float64)

    def factor(self, theta: FloatArray) -> FloatArray:
        return self._directions @ self._lower(theta)

    def gradient(self, theta: FloatArray) -> FloatArray:
        return self._directions @ super().gradient(theta) @ self._directions.T

    def hessian(self, theta: FloatArray) -> FloatArray:
        return self._directions @ super().hessian(theta) @ self._directions.T

    def scaling(self, basis: FloatArray) -> FloatArray:
        return np.eye(self.n_params)

    def in_unit_sizes(self, theta: FloatArray, basis: FloatArray) -> FloatArray:
        return self._lower(theta)

    def nearest(self, root: FloatArray) -> FloatArray:
        return super().nearest(np.asarray(np.linalg.solve(self._directions, root), dtype=np.float64))

    def from_natural(self, natural: FloatArray) -> FloatArray:
        return self.nearest(self._lower(super().from_natural(natural)))

    def edges(self, theta: FloatArray, size: float) -> list[FloatArray]:
        L = self._lower(theta)
        singular = np.where(np.diag(np.abs(np.diag(L)) < size), 0.0, L)
        effects: FloatArray = self._U @ singular
        gone = np.linalg.norm(effects, axis=1) < size
        without = [super().nearest(self._U.T @ np.where(gone[:, None], 0.0, effects))] if effects[gone].any() else []
        return without if np.array_equal(singular, L) else [*without, singular[self._rows, self._cols]]
