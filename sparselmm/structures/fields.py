"""A separable field for each level of a group: AR(1) x AR(1) in every trial, with the same parameters."""

from typing import Protocol, runtime_checkable

import numpy as np

from .._errors import ModelError
from .._typing import FloatArray, IntArray
from .base import Precision
from .kronecker import Kronecker


@runtime_checkable
class Series(Precision, Protocol):
    """A Precision of independent series, one after another; lengths: (n_series,) levels of each."""

    lengths: IntArray

    def logdets(self, rho: FloatArray) -> FloatArray:
        """log|Q| of each series, (n_series,)."""

    def logdets_gradient(self, rho: FloatArray) -> FloatArray:
        """Their derivatives, (n_params, n_series)."""


class Fields(Kronecker):
    """Q = blockdiag over g of Q1_g (x) Q2_g, for series g of two factors; fields of any sizes, rho = (rho_1, rho_2).

    With n_g1 and n_g2 levels of the two series: log|Q| = sum_g n_g2 log|Q1_g| + n_g1 log|Q2_g|.
    Errors: ModelError where a factor is none of proper series, or has another number of them than the other one.
    """

    first: Series
    second: Series

    def __init__(self, first: Precision, second: Precision, effects: tuple[str, str] | None = None):
        for Q in (first, second):
            if not isinstance(Q, Series) or Q.null_dim:
                raise ModelError(f"fields need two proper series, AR1 or OU, not {type(Q).__name__}")
        super().__init__(first, second, effects)

    def logdet(self, rho: FloatArray) -> float:
        one, two = self._split(rho)
        return float(self.sizes[1] @ self.first.logdets(one) + self.sizes[0] @ self.second.logdets(two))

    def logdet_gradient(self, rho: FloatArray) -> FloatArray:
        one, two = self._split(rho)
        first, second = self.first.logdets_gradient(one), self.second.logdets_gradient(two)
        return np.concatenate([first @ self.sizes[1], second @ self.sizes[0]])

    def _sizes(self) -> tuple[IntArray, IntArray]:
        one, two = self.first.lengths, self.second.lengths
        if len(one) != len(two):
            raise ModelError(f"fields: {len(one)} series in one factor and {len(two)} in the other; one each a field")
        return one, two

    def _null_dim(self) -> int:
        return 0
