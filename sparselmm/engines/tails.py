"""What absorption leaves: the Schur complement S, dense or sparse by another engine."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.linalg import lapack

from .._typing import AnyArray, FloatArray, IntArray
from ..kernels import absorb as kernels
from ..kernels import absorb_inverse as inverses
from ..kernels.tiles import WIDTH
from . import tiles
from .base import Forecast, Pattern
from .threads import parallel, pieces

PER_FLOP, PER_ENTRY = 2.2e-11, 4e-9  # seconds, one thread: 45 Gflop/s, twice as many for the inverse; the rest
GRAIN = 50_000.0  # updates in one piece: about 20 microseconds, the price of handing it to a thread


@dataclass(frozen=True, slots=True, eq=False)
class Meetings:
    """Levels of the absorbed term, columns lo ... hi-1 of M in blocks of r, and the columns of the tail they meet.

    start: (m+1,) meetings of a level. before: (m+1,) those with columns left of lo, counted alone; place: where they
    stand in M's values. tail: (meetings,) columns of the tail. columns: (q2+1,), at, level: the same by tail column.
    work: (q2+1,) cumulative by tail column, updates of S and products with its inverse.
    """

    pattern: Pattern
    lo: int
    hi: int
    r: int
    start: IntArray
    before: IntArray
    place: AnyArray
    tail: AnyArray
    columns: IntArray
    at: AnyArray
    level: AnyArray
    work: IntArray

    @property
    def m(self) -> int:
        """Levels."""
        return len(self.start) - 1

    @property
    def q2(self) -> int:
        """Columns of the tail."""
        return len(self.columns) - 1

    def levels_work(self) -> IntArray:
        """Cumulative work by level, (m+1,)."""
        return self.r * (self.start + self.r * np.arange(self.m + 1))


class Tail(Protocol):
    """S, from the values of M and W of the absorbed levels.

    inverse: G (meetings, r) = H22 W', or half of it (`kernels.absorb_inverse`), and the tail's entries of out on M's
    pattern. bounds: pieces of its columns.
    """

    bounds: IntArray
    reason: str
    nnz_factor: int
    flops: float
    memory: float
    seconds: float

    def factorize(self, values: FloatArray, W: FloatArray) -> None: ...
    def solve(self, right: FloatArray) -> FloatArray: ...
    def logdet(self) -> float: ...
    def inverse(self, W: FloatArray, half: bool, G: FloatArray, out: FloatArray) -> None: ...


class DenseTail:
    """S = L L' in place; S^-1 beside it when it is asked for, and a panel."""

    def __init__(self, meetings: Meetings):
        self.meetings, q2 = meetings, meetings.q2
        self.bounds = pieces(meetings.work, GRAIN)
        self.nnz_factor, self.flops = q2 * (q2 + 1) // 2, q2**3 / 3.0
        self.memory = (16.0 * q2 + 8.0 * WIDTH) * q2
        self.seconds = PER_FLOP * 3.0 * self.flops + PER_ENTRY * q2 * q2
        self.reason = f"{q2:,} x {q2:,} left, dense" if q2 else "nothing is left"
        self._S, self._H = np.empty((0, 0)), np.empty((0, 0))

    def factorize(self, values: FloatArray, W: FloatArray) -> None:
        m, p = self.meetings, self.meetings.pattern
        if not m.q2:
            return
        if not len(self._S):
            self._S = np.empty((m.q2, m.q2))
        parallel(
            kernels.schur_dense, self.bounds, values, p.indptr, p.indices, m.lo, m.hi, m.start, m.tail, m.columns,
            m.at, m.level, W, self._S,
        )  # fmt: skip
        tiles.factorise(self._S)

    def solve(self, right: FloatArray) -> FloatArray:
        if right.size == 0:
            return right
        return np.ascontiguousarray(lapack.dpotrs(self._S.T, right, lower=1)[0])

    def logdet(self) -> float:
        return 2.0 * float(np.log(np.diag(self._S)).sum())

    def inverse(self, W: FloatArray, half: bool, G: FloatArray, out: FloatArray) -> None:
        m, p = self.meetings, self.meetings.pattern
        if not m.q2:
            return
        if not len(self._H):
            self._H = np.empty((m.q2, m.q2))
        tiles.invert(self._S, self._H)
        if not half:
            parallel(inverses.symmetrise, np.arange(-(-m.q2 // inverses.TILE) + 1), self._H)
        parallel(
            inverses.inverse_dense, self.bounds, p.indptr, p.indices, m.lo, m.hi, m.start, m.tail, m.columns, m.at,
            m.level, W, self._H, half, G, out,
        )  # fmt: skip


class SparseTail:
    """S on its own frozen pattern, for the engine that `make` gives."""

    def __init__(self, meetings: Meetings, pattern: Pattern, make: Callable[[Pattern], Forecast]):
        self.meetings, self.pattern, self.engine = meetings, pattern, make(pattern)
        self.bounds = pieces(meetings.work, GRAIN)
        self.reason = f"{pattern.q:,} columns with {pattern.nnz:,} nonzeros left for {self.engine.name}: "
        self.reason += self.engine.reason
        self.nnz_factor, self.flops = self.engine.nnz_factor, self.engine.flops
        self.memory, self.seconds = self.engine.memory + 40.0 * pattern.nnz, self.engine.seconds
        self._values, self._rows = np.empty(pattern.nnz), _by_row(pattern)
        self._places = pattern.indices, np.repeat(np.arange(pattern.q), np.diff(pattern.indptr))

    def factorize(self, values: FloatArray, W: FloatArray) -> None:
        m, p = self.meetings, self.meetings.pattern
        parallel(
            kernels.schur_sparse, self.bounds, values, p.indptr, p.indices, m.lo, m.hi, m.start, m.tail, m.columns,
            m.at, m.level, W, self.pattern.indptr, self.pattern.indices, self._values,
        )  # fmt: skip
        self.engine.factorize(self._values)

    def solve(self, right: FloatArray) -> FloatArray:
        return np.ascontiguousarray(self.engine.solve(right))

    def logdet(self) -> float:
        return self.engine.logdet()

    def inverse(self, W: FloatArray, half: bool, G: FloatArray, out: FloatArray) -> None:
        m, p = self.meetings, self.meetings.pattern
        H = self.engine.selected_inverse(*self._places)
        parallel(
            inverses.inverse_sparse, self.bounds, p.indptr, p.indices, m.lo, m.hi, m.start, m.tail, m.columns, m.at,
            m.level, W, self.pattern.indptr, self.pattern.indices, *self._rows, H, half, G, out,
        )  # fmt: skip


def _by_row(pattern: Pattern) -> tuple[IntArray, IntArray, IntArray]:
    """Rows of a lower triangle: indptr, columns, and positions in its values."""
    counts = np.bincount(pattern.indices, minlength=pattern.q)
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    cols, place = np.empty(pattern.nnz, np.int64), np.empty(pattern.nnz, np.int64)
    kernels.transpose(pattern.indptr, pattern.indices, indptr, cols, place)
    return indptr, cols, place


def schur_pattern(m: Meetings) -> Pattern:
    """The pattern of S: A's, and all pairs of columns that meet in one level."""
    every, bounds = np.arange(m.q2), pieces(m.work, GRAIN)
    first = np.append(0, np.cumsum(_rows(m, every, bounds, every, np.empty(0, np.int64))))
    indices = np.empty(first[-1], np.int64)
    _rows(m, every, bounds, first, indices)
    return Pattern(first, indices)


def density(m: Meetings, sample: int) -> float:
    """Nonzeros of S relative to a full triangle, from about `sample` columns spread evenly."""
    wanted = np.arange(m.q2)[:: max(1, m.q2 // sample)]
    counts = _rows(m, wanted, np.arange(len(wanted) + 1), wanted, np.empty(0, np.int64))
    return float(counts.sum() / max(1, (m.q2 - wanted).sum()))


def _rows(m: Meetings, wanted: IntArray, bounds: IntArray, first: IntArray, out: IntArray) -> IntArray:
    """How many rows of S each column has; see `kernels.schur_rows`."""
    p, counts = m.pattern, np.empty(len(wanted), np.int64)
    parallel(
        kernels.schur_rows, bounds, wanted, p.indptr, p.indices, m.lo, m.hi, m.start, m.tail, m.columns, m.at, m.level,
        counts, first, out,
    )  # fmt: skip
    return counts
