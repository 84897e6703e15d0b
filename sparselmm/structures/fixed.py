"""The base of precisions that have no parameters: random walks, pedigrees, given matrices."""

import numpy as np

from .._typing import FloatArray, IntArray


class FixedPrecision:
    """A Q that no parameter changes: pattern (rows, cols), values (nnz,), log|Q| and the null space's dimension."""

    n_params = 0

    def __init__(self, pattern: tuple[IntArray, IntArray], values: FloatArray, logdet: float, null_dim: int = 0):
        self._pattern, self._values, self._logdet = pattern, values, float(logdet)
        self.n_levels = int(pattern[0].max()) + 1
        self.null_dim = null_dim

    def names(self, effect: str, group: str) -> tuple[str, ...]:
        return ()

    def start(self) -> FloatArray:
        return np.empty(0)

    def pattern(self) -> tuple[IntArray, IntArray]:
        return self._pattern

    def values(self, rho: FloatArray) -> FloatArray:
        return self._values

    def gradient(self, rho: FloatArray) -> FloatArray:
        return np.empty((0, len(self._values)))

    def logdet(self, rho: FloatArray) -> float:
        return self._logdet

    def logdet_gradient(self, rho: FloatArray) -> FloatArray:
        return np.empty(0)

    def natural_names(self, effect: str, group: str) -> tuple[str, ...]:
        return ()

    def to_natural(self, rho: FloatArray) -> FloatArray:
        return np.empty(0)

    def from_natural(self, natural: FloatArray) -> FloatArray:
        return np.empty(0)
