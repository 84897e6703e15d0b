"""Unstructured covariance: T is any lower triangular matrix (lme4's theta, Bates et al. 2015, eq. 4)."""

import numpy as np

from .._typing import FloatArray, IntArray
from .base import correlations, register_covariance, semidefinite_cholesky


class Unstructured:
    """G = T T' with T lower triangular; theta is T column by column, as in lme4."""

    def __init__(self, n_effects: int, label: str = ""):
        self.n_effects = n_effects
        self.n_params = n_effects * (n_effects + 1) // 2
        cols, rows = np.triu_indices(n_effects)
        self._rows: IntArray = rows.astype(np.int64)
        self._cols: IntArray = cols.astype(np.int64)
        off = rows != cols
        self._pairs: tuple[IntArray, IntArray] = self._cols[off], self._rows[off]

    def names(self, effects: tuple[str, ...], group: str) -> tuple[str, ...]:
        pairs = zip(self._rows, self._cols, strict=True)
        return tuple(f"{effects[i]}|{group}" if i == j else f"{effects[i]}.{effects[j]}|{group}" for i, j in pairs)

    def factor(self, theta: FloatArray) -> FloatArray:
        return self._lower(theta)

    def _lower(self, theta: FloatArray) -> FloatArray:
        T = np.zeros((self.n_effects, self.n_effects))
        T[self._rows, self._cols] = theta
        return T

    def gradient(self, theta: FloatArray) -> FloatArray:
        half = np.einsum("kab,cb->kac", self._units(), self._lower(theta))
        return half + half.transpose(0, 2, 1)

    def hessian(self, theta: FloatArray) -> FloatArray:
        units = self._units()
        half = np.einsum("kab,lcb->klac", units, units)
        return half + half.transpose(0, 1, 3, 2)

    def scaling(self, basis: FloatArray) -> FloatArray:
        return (basis @ self._units())[:, self._rows, self._cols].T

    def in_unit_sizes(self, theta: FloatArray, basis: FloatArray) -> FloatArray:
        """T (r, r) lower triangular of the optimiser's coordinates x = S theta."""
        return basis @ self._lower(theta)

    def nearest(self, root: FloatArray) -> FloatArray:
        tall = np.vstack([root.T, np.zeros((self.n_effects, self.n_effects))])
        return self.canonical(np.asarray(np.linalg.qr(tall, mode="r")).T[self._rows, self._cols])

    def natural_names(self, effects: tuple[str, ...], group: str) -> tuple[str, ...]:
        sds = [f"sd_{e}|{group}" for e in effects]
        return tuple(sds + [f"cor_{effects[i]}.{effects[j]}|{group}" for i, j in zip(*self._pairs, strict=True)])

    def to_natural(self, theta: FloatArray) -> FloatArray:
        T = self.factor(theta)
        cov = T @ T.T
        return np.concatenate([np.sqrt(np.diag(cov)), correlations(cov)[self._pairs]])

    def from_natural(self, natural: FloatArray) -> FloatArray:
        r = self.n_effects
        cor = np.eye(r)
        cor[self._pairs] = natural[r:]
        cor = np.maximum(cor, cor.T) + np.minimum(cor, cor.T) - np.eye(r)
        return (natural[:r, None] * semidefinite_cholesky(cor))[self._rows, self._cols]

    def edges(self, theta: FloatArray, size: float) -> list[FloatArray]:
        T = self.factor(theta)
        no_effect = np.linalg.norm(T, axis=1) < size
        no_rest = np.abs(np.diag(T)) < size
        singular = np.where(np.diag(no_rest), 0.0, T)
        candidates = [np.where(no_effect[:, None], 0.0, singular), singular]
        return [c[self._rows, self._cols] for c in candidates if not np.array_equal(c, T)]

    def canonical(self, theta: FloatArray) -> FloatArray:
        T = self._lower(theta)
        return (T * np.where(np.diag(T) < 0, -1.0, 1.0))[self._rows, self._cols]

    def _units(self) -> FloatArray:
        units = np.zeros((self.n_params, self.n_effects, self.n_effects))
        units[np.arange(self.n_params), self._rows, self._cols] = 1.0
        return units


register_covariance("us", Unstructured)
