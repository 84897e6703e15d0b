"""What sparselmm has to reach on a problem: so many times faster than another, or within so much time and memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

OURS = "sparselmm"


class Timed(Protocol):
    """What a bar reads of a contender: seconds of its best fit (None without one) and bytes at its peak."""

    @property
    def seconds(self) -> float | None: ...

    @property
    def peak(self) -> int: ...


class Bar(Protocol):
    """A goal. `verdict` begins with "met", "missed" or "open" (where nothing was measured)."""

    def verdict(self, found: Mapping[str, Timed]) -> str: ...


@dataclass(frozen=True, slots=True)
class Faster:
    """`factor` times as fast as `than`; 1: not slower."""

    than: str
    factor: float

    def verdict(self, found: Mapping[str, Timed]) -> str:
        """Compare the best times."""
        ours, theirs = (found[name].seconds if name in found else None for name in (OURS, self.than))
        goal = f"bar {self.factor:g} x" if self.factor != 1 else "bar: not slower"
        if ours is None or theirs is None:
            return f"open: no time of {OURS if ours is None else self.than} ({goal})"
        return f"{'met' if theirs >= self.factor * ours else 'missed'}: {theirs / ours:.3g} x {self.than} ({goal})"


@dataclass(frozen=True, slots=True)
class Within:
    """Below so many seconds and gigabytes (10^9 bytes)."""

    limit: float
    gigabytes: float

    def verdict(self, found: Mapping[str, Timed]) -> str:
        """Compare time and peak memory."""
        goal = f"bar {self.limit:g} s, {self.gigabytes:g} GB"
        seconds = found[OURS].seconds if OURS in found else None
        if seconds is None:
            return f"missed: no fit ({goal})" if OURS in found else f"open: {OURS} was not there ({goal})"
        met = seconds < self.limit and found[OURS].peak < 1e9 * self.gigabytes
        return f"{'met' if met else 'missed'}: {seconds:.3g} s, {found[OURS].peak / 1e9:.2g} GB ({goal})"
