"""What an engine for M does: analyse a pattern once, factorise new values on it, and answer."""

from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np

from .._typing import FloatArray, IntArray
from ..kernels.blocks import sort_entries

NOT_POSITIVE = "the mixed-model equations are not positive definite at these parameters"

Blocks: TypeAlias = tuple[tuple[int, int], ...]
"""(levels, effects a level) of each term, in the order of the columns of M: term, level, effect."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """Lower triangle of a symmetric q x q matrix in CSC form, sorted: indptr (q + 1,), indices (nnz,)."""

    indptr: IntArray
    indices: IntArray

    @property
    def q(self) -> int:
        """Order of the matrix."""
        return len(self.indptr) - 1

    @property
    def nnz(self) -> int:
        """Stored entries, the lower triangle."""
        return len(self.indices)


def compressed(rows: IntArray, cols: IntArray, q: int) -> tuple[IntArray, IntArray]:
    """CSC form, indptr (q + 1,) and indices, of a pattern: entries in any order, each once, sorted; rows < 0: none."""
    by_row, indices = np.empty(len(rows), dtype=np.int64), np.empty(len(rows), dtype=np.int64)
    start, indptr = np.zeros(q + 1, dtype=np.int64), np.zeros(q + 1, dtype=np.int64)
    rows, cols = (np.ascontiguousarray(x, dtype=np.int64) for x in (rows, cols))
    nnz = sort_entries(rows, cols, by_row, start, indptr, indices)
    return indptr, indices[:nnz].copy()


def sparse_pattern(rows: IntArray, cols: IntArray, q: int) -> Pattern:
    """The pattern whose lower triangle has these entries."""
    return Pattern(*compressed(rows, cols, q))


class Engine(Protocol):
    """M = L L' for values on one frozen pattern; the analysis of the pattern has happened when an engine exists.

    reason: why this engine and ordering. nnz_factor: predicted nonzeros of L. flops: predicted, of one
    factorisation. memory: forecast bytes at the peak.
    """

    name: str
    reason: str
    nnz_factor: int
    flops: float
    memory: float

    def factorize(self, values: FloatArray) -> None:
        """New values (nnz,) on the pattern; EngineError where M is not positive definite."""

    def solve(self, right: FloatArray) -> FloatArray:
        """M^-1 right, shape (q, k)."""

    def logdet(self) -> float:
        """log|M|."""

    def selected_inverse(self, rows: IntArray, cols: IntArray) -> FloatArray:
        """Entries (rows, cols), rows >= cols, of M^-1; each must lie on the pattern of M."""


class Forecast(Engine, Protocol):
    """An engine that says how long it takes. seconds: a factorisation and a selected inverse with one thread."""

    seconds: float
