"""engine="auto": absorption or a sparse factor of the whole, by forecast."""

import numpy as np

from .._errors import EngineError
from .absorb import Absorb, Plan, make_plan
from .base import Blocks, Forecast, Pattern
from .supernodal import RATES, Supernodal

ANALYSIS = 1e-6  # seconds an entry of M that the two orderings of the whole take: InstEval 92 ms
SAVED = 2.5  # of eight or so evaluations after absorption is what the whole saves, at best
FULL, REPEATS, HUB = 0.5, 4.0, 0.5  # S this full, so many times over without levels that meet HUB of it
GROWTH = 3.0  # a sparse S with so many times the nonzeros of M is not looked at any further: it is a bad first step


def by_forecast(pattern: Pattern, blocks: Blocks) -> Forecast:
    """The engine with the smaller forecast of seconds; `reason` gives both where both were made."""
    absorbed = _absorbed(pattern, blocks)
    if absorbed is None:
        return Supernodal(pattern)
    if absorbed.seconds < least_gain(pattern) or _fills(absorbed.plan):
        return absorbed
    try:
        whole = Supernodal(pattern)
    except EngineError:  # not installed, or its factor does not fit
        return absorbed
    engines: list[Forecast] = [absorbed, whole]
    best, other = sorted(engines, key=lambda engine: engine.seconds)
    best.reason += f"; forecast {1e3 * best.seconds:.3g} ms, {other.name} {1e3 * other.seconds:.3g} ms"
    return best


def _absorbed(pattern: Pattern, blocks: Blocks) -> Absorb | None:
    """None where nothing can be absorbed, or should be."""
    try:
        plan = make_plan(pattern, blocks)
        return None if _grows(plan, pattern) else Absorb(pattern, blocks, plan)
    except EngineError:
        return None


def least_gain(pattern: Pattern) -> float:
    """Seconds of an evaluation below which a look at the whole does not pay.

    It takes longer than it could save, or more than this even where nothing fills.
    """
    return max(ANALYSIS * pattern.nnz / SAVED, RATES[0] * pattern.q + RATES[1] * pattern.nnz)


def _fills(plan: Plan) -> bool:
    """Any order of elimination fills: S is full, and not because of a few levels that had better come last."""
    m, q2 = plan.meetings, float(plan.meetings.q2)
    sizes = np.diff(m.start).astype(np.float64)
    typical = sizes[sizes <= HUB * q2]
    return plan.density >= FULL and float(typical @ typical) >= REPEATS * q2 * q2


def _grows(plan: Plan, pattern: Pattern) -> bool:
    q2 = plan.meetings.q2
    return not plan.is_dense and plan.density * q2 * (q2 + 1) / 2 > GROWTH * pattern.nnz
