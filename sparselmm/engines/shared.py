"""One engine that several likelihoods of one pattern use in turn: the analysis and the memory of L are had once."""

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
