"""Absorption: the largest block-diagonal term is eliminated, level by level, then what it leaves (Henderson 1984).

    M = [ D , B ; B' , A ],   log|M| = log|D| + log|S|,   S = A - B' D^-1 B

Nested families leave a tail that is absorbed again. The algebra is in `kernels.absorb` and `kernels.absorb_inverse`.
"""

from dataclasses import dataclass

import numpy as np

from .._errors import EngineError
from .._typing import FloatArray, IntArray
from ..kernels import absorb as kernels
from ..kernels import absorb_inverse as inverses
from ..kernels.blocks import locate
from .base import NOT_POSITIVE, Blocks, Forecast, Pattern
from .memory import available_memory
from .supernodal import Supernodal
from .tails import GRAIN, DenseTail, Meetings, SparseTail, Tail, density, schur_pattern
from .threads import parallel, pieces

SMALL_TAIL = 600  # a dense tail of this order takes 6 ms with its inverse: a sparse one is not worth its analysis
FILLED = 0.3  # S this full fills up when it is factorised
SAMPLE = 100  # columns from which that is judged

# Seconds of a factorisation with its selected inverse, one thread. Measured: 125,066 scalars 5.2 ms,
# 99,996 levels of 2 effects 7.1 ms; 1.5e8 updates of 22,000 crossed effects 105 ms beside the dense tail.
PER_EFFECT, PER_UPDATE = 3e-8, 7e-10


class Absorb:
    """M = L L' with the absorbed term first. blocks: (levels, effects) of each term in the order of M's columns.

    EngineError where no term is block-diagonal in M, or where the forecast of memory does not fit.
    """

    name = "absorb"

    def __init__(self, pattern: Pattern, blocks: Blocks, plan: "Plan | None" = None):
        self.pattern, self.blocks = pattern, tuple(blocks)
        self.plan = plan = make_plan(pattern, self.blocks) if plan is None else plan
        self.meetings = plan.meetings
        self.tail = make_tail(plan)
        m, r, sizes = plan.meetings.m, plan.meetings.r, np.diff(plan.meetings.start).astype(np.float64)
        self.nnz_factor = int(m * r * (r + 1) // 2 + r * sizes.sum()) + self.tail.nnz_factor
        self.flops = float(m * r**3 / 3.0 + r * (sizes @ sizes)) + self.tail.flops
        self.memory = plan.memory + self.tail.memory
        self.seconds = PER_EFFECT * m * r * r + PER_UPDATE * float(plan.meetings.work[-1]) + self.tail.seconds
        self.reason = f"{m:,} levels of {r} absorbed, {self.tail.reason}"
        self._bounds = pieces(self.meetings.levels_work(), GRAIN)
        self._L, self._W = np.zeros((m, r, r)), np.empty((len(self.meetings.tail), r))
        self._G, self._inverse = np.empty((0, r)), np.empty(0)
        self._asked: tuple[IntArray, IntArray, IntArray, bool] | None = None

    def __reduce__(self) -> tuple[type, tuple[Pattern, Blocks]]:
        return Absorb, (self.pattern, self.blocks)

    def factorize(self, values: FloatArray) -> None:
        m = self.meetings
        positive = parallel(
            kernels.eliminate, self._bounds, values, self.pattern.indptr, m.lo, m.start, m.before, m.place,
            self._L, self._W,
        )  # fmt: skip
        if not all(positive):
            raise EngineError(NOT_POSITIVE)
        self.tail.factorize(values, self._W)

    def solve(self, right: FloatArray) -> FloatArray:
        m = self.meetings
        full = np.ascontiguousarray(right.reshape(len(right), -1), dtype=np.float64)
        Z, reduced = np.empty((m.hi - m.lo, full.shape[1])), np.empty((m.q2, full.shape[1]))
        parallel(kernels.forward, self._bounds, m.lo, self._L, full, Z)
        if m.q2:
            parallel(
                kernels.reduce, self.tail.bounds, m.lo, m.hi, m.columns, m.at, m.level, self._W, full, Z, reduced
            )  # fmt: skip
        y = self.tail.solve(reduced)
        parallel(kernels.backward, self._bounds, m.start, m.tail, self._L, self._W, y, Z)
        if not m.q2:
            return Z.reshape(right.shape)
        return np.concatenate([y[: m.lo], Z, y[m.lo :]]).reshape(right.shape)

    def logdet(self) -> float:
        own = 2.0 * float(np.log(np.diagonal(self._L, axis1=1, axis2=2)).sum())
        return own + (self.tail.logdet() if self.meetings.q2 else 0.0)

    def selected_inverse(self, rows: IntArray, cols: IntArray) -> FloatArray:
        m = self.meetings
        if not len(self._inverse):
            self._G, self._inverse = np.empty_like(self._W), np.empty(self.pattern.nnz)
        places, half = self._places(rows, cols)
        self.tail.inverse(self._W, half, self._G, self._inverse)
        parallel(
            inverses.absorbed_entries, self._bounds, self.pattern.indptr, m.lo, m.start, m.before, m.place, self._L,
            self._W, self._G, half, self._inverse,
        )  # fmt: skip
        return self._inverse[places]

    def _places(self, rows: IntArray, cols: IntArray) -> tuple[IntArray, bool]:
        """Positions of entries in the pattern, and whether none lies in H21; kept, as the next call asks the same.

        rows and cols are kept too: whoever asks does not write to them afterwards.
        """
        held, m = self._asked, self.meetings
        if held is None or not (_same(held[0], rows) and _same(held[1], cols)):
            place = np.empty(len(rows), np.int64)
            locate(self.pattern.indptr, self.pattern.indices, rows, cols, place)
            within = [(m.lo <= side) & (side < m.hi) for side in (rows, cols)]
            half = bool((within[0] == within[1]).all())
            self._asked = held = rows, cols, place, half
        return held[2:]


def _same(held: IntArray, asked: IntArray) -> bool:
    return held is asked or np.array_equal(held, asked)


def largest_absorbable(pattern: Pattern, blocks: Blocks) -> tuple[int, IntArray]:
    """The term with most effects that is block-diagonal in M, and (2, m) meetings of its levels, left and right."""
    first = np.concatenate([[0], np.cumsum([m * r for m, r in blocks])])
    for k in sorted(range(len(blocks)), key=lambda k: -blocks[k][0] * blocks[k][1]):
        m, r = blocks[k]
        counts = np.zeros((2, m), np.int64)
        if kernels.count_meetings(pattern.indptr, pattern.indices, first[k], first[k + 1], r, counts[0], counts[1]):
            return k, counts
    raise EngineError(
        'engine="absorb" needs a term with independent levels, block-diagonal in the mixed-model equations; there is '
        'none among these. Use engine="cholmod"'
    )


def list_meetings(pattern: Pattern, blocks: Blocks, term: int, counts: IntArray) -> Meetings:
    """Who meets whom, by level and by column of the tail."""
    lo, r = sum(m * r for m, r in blocks[:term]), blocks[term][1]
    hi = lo + blocks[term][0] * r
    start, before = (np.concatenate([[0], np.cumsum(c)]) for c in (counts.sum(axis=0), counts[0]))
    narrow = np.uint32 if start[-1] < 2**32 else np.uint64
    tail, place = np.empty(start[-1], np.uint32), np.empty(before[-1], np.int64)
    if len(tail):  # a kernel that is not called need not be loaded: 7 ms of the first fit
        kernels.list_meetings(pattern.indptr, pattern.indices, lo, hi, r, start, before, tail, place)
    q2 = pattern.q - (hi - lo)
    columns = np.concatenate([[0], np.cumsum(np.bincount(tail, minlength=q2))]).astype(np.int64)
    at, level = np.empty(start[-1], narrow), np.empty(start[-1], np.uint32)
    work = np.zeros(q2, np.int64)
    if len(tail):
        kernels.transpose(start, tail, columns, level, at)
        kernels.column_work(start, columns, at, level, work)
    work = np.append(0, np.cumsum(r * work + 1))
    return Meetings(pattern, lo, hi, r, start, before, place, tail, columns, at, level, work)


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What absorption would leave. rest: blocks of the tail. memory: bytes without the tail's.

    density: nonzeros of S relative to a full triangle, judged from a sample of its columns.
    """

    meetings: Meetings
    rest: Blocks
    memory: float
    density: float

    @property
    def is_dense(self) -> bool:
        """No sparse factor of S is looked at."""
        return self.meetings.q2 <= SMALL_TAIL or self.density >= FILLED


def make_plan(pattern: Pattern, blocks: Blocks) -> Plan:
    """The largest term that can be absorbed; EngineError where there is none or the forecast of memory does not fit."""
    term, counts = largest_absorbable(pattern, blocks)
    m, r = blocks[term]
    memory = forecast_bytes(counts, r, pattern)
    check_memory(memory, f"{m:,} absorbed levels with {int(counts.sum()):,} meetings")
    meetings = list_meetings(pattern, blocks, term, counts)
    full = density(meetings, SAMPLE) if meetings.q2 else 1.0
    return Plan(meetings, blocks[:term] + blocks[term + 1 :], memory, full)


def make_tail(plan: Plan) -> Tail:
    """Dense where S is small or filled; else S is absorbed again or gets a sparse factor, unless that takes longer.

    EngineError where neither fits, or where the sparse one is not installed and the dense one does not fit.
    """
    dense, m = DenseTail(plan.meetings), plan.meetings
    if not plan.is_dense:
        fits = dense.memory <= available_memory()
        try:
            sparse = SparseTail(m, schur_pattern(m), lambda pattern: _engine(pattern, plan.rest))
        except EngineError:
            if fits:
                return dense
            raise
        if sparse.seconds <= dense.seconds or not fits:
            return sparse
    check_memory(dense.memory, f"the Schur complement, {dense.reason},")
    return dense


def _engine(pattern: Pattern, blocks: Blocks) -> Forecast:
    try:
        return Absorb(pattern, blocks)
    except EngineError:
        return Supernodal(pattern)


def forecast_bytes(counts: IntArray, r: int, pattern: Pattern) -> float:
    """W and G, meetings by level and by column, places in M, L of the blocks, the inverse on M's pattern."""
    meetings, before = float(counts.sum()), float(counts[0].sum())
    return (16.0 * r + 12.0) * meetings + 8.0 * before + 8.0 * r * r * counts.shape[1] + 8.0 * pattern.nnz


def check_memory(need: float, what: str) -> None:
    """EngineError where so many bytes cannot be had."""
    if need > available_memory():
        raise EngineError(
            f'engine="absorb": {what} need about {need / 1e9:.3g} GB; {available_memory() / 1e9:.3g} GB are free. '
            'Drop a crossed term, try engine="cholmod", or use a machine with more memory'
        )
