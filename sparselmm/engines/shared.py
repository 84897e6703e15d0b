"""One engine that several likelihoods of one pattern use in turn: the analysis and the memory of L are had once."""

import copy

import numpy as np

from .._typing import FloatArray, IntArray
from .base import Engine


class _Slot:
    """The engine, and whose values it holds."""

    def __init__(self, engine: Engine):
        self.engine = engine
        self.owner: SharedEngine | None = None

    def __reduce__(self) -> tuple[type, tuple[Engine]]:
        """Numbers do not travel with the analysis, so nobody's are there."""
        return _Slot, (self.engine,)


class SharedEngine:
    """An `Engine` over another one: values are factorised again where somebody else has used it meanwhile.

    Not for threads that run at the same time. `SharedEngine.of(engine)`, `shared.another()`.
    """

    def __init__(self, slot: _Slot):
        engine = slot.engine
        self._slot = slot
        self._values: FloatArray | None = None
        self.name, self.reason, self.nnz_factor = engine.name, engine.reason, engine.nnz_factor
        self.flops, self.memory = engine.flops, engine.memory

    @classmethod
    def of(cls, engine: Engine) -> "SharedEngine":
        """`engine` itself where it is shared already."""
        return engine if isinstance(engine, cls) else cls(_Slot(engine))

    def another(self) -> "SharedEngine":
        """For another user of the same pattern."""
        return SharedEngine(self._slot)

    def anchored(self) -> "SharedEngine":
        """The same for likelihoods that begin at one theta, whose factor is had once."""
        return SharedEngine(_Slot(AnchoredEngine(self.another(), copy.copy(self._slot.engine))))

    def factorize(self, values: FloatArray) -> None:
        self._slot.owner = None
        self._slot.engine.factorize(values)
        self._slot.owner, self._values = self, values

    def solve(self, right: FloatArray) -> FloatArray:
        return self._own().solve(right)

    def logdet(self) -> float:
        return self._own().logdet()

    def selected_inverse(self, rows: IntArray, cols: IntArray) -> FloatArray:
        return self._own().selected_inverse(rows, cols)

    def _own(self) -> Engine:
        """The engine with this user's values."""
        if self._slot.owner is not self:
            assert self._values is not None
            self.factorize(self._values)
        return self._slot.engine


class AnchoredEngine:
    """An `Engine` in which the values that came first keep their factor and selected inverse.

    others: factorises all other values. first: of the same pattern, nobody else's.
    """

    def __init__(self, others: Engine, first: Engine):
        self._others, self._first, self._now = others, first, others
        self._values: FloatArray | None = None
        self._inverse: tuple[IntArray, IntArray, FloatArray] | None = None
        self.name, self.reason, self.nnz_factor = others.name, others.reason, others.nnz_factor
        self.flops, self.memory = others.flops, others.memory + first.memory

    def factorize(self, values: FloatArray) -> None:
        if self._values is None:
            self._first.factorize(values)
            self._values = values.copy()
        self._now = self._first if np.array_equal(values, self._values) else self._others
        if self._now is self._others:
            self._others.factorize(values)

    def solve(self, right: FloatArray) -> FloatArray:
        return self._now.solve(right)

    def logdet(self) -> float:
        return self._now.logdet()

    def selected_inverse(self, rows: IntArray, cols: IntArray) -> FloatArray:
        if self._now is self._others:
            return self._others.selected_inverse(rows, cols)
        known = self._inverse
        if known is None or not (np.array_equal(rows, known[0]) and np.array_equal(cols, known[1])):
            self._inverse = known = rows, cols, self._first.selected_inverse(rows, cols)
        return known[2].copy()
