"""What new rows see of a random term: Z b of levels that the fit has, and effects that its data know nothing of."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from .._errors import DataError, ModelError
from .._typing import BoolArray, FloatArray, IntArray
from ..formula.encode import Encoding
from ..formula.latent import Axis, LatentEncoding
from ..structures.bridge import conditional_state
from ..structures.kronecker import cells

POLICIES = ("population", "error", "sample")


@dataclass(frozen=True, slots=True, eq=False)
class TermRows:
    """A row's part of one term is A b + fresh T u with u ~ N(0, sigma^2 I) independent of all the data.

    A: (n, m r). fresh: (n, r), zero where the row's levels are known, NaN where the variance is not defined.
    unknown: (n,) rows with a level that the fit does not have.
    """

    A: sp.csr_array
    fresh: FloatArray
    unknown: BoolArray


@dataclass(frozen=True, slots=True)
class TermFacts:
    """Of a random term: its text, its group's name, and for a series the name of its bridge with its parameters."""

    text: str
    name: str
    n_levels: int
    n_effects: int
    bridge: str = ""
    rho: tuple[float, ...] = ()
    intrinsic: bool = False


def check_policy(new_levels: str) -> None:
    """ModelError for an unknown word."""
    if new_levels not in POLICIES:
        raise ModelError(f"new_levels={new_levels!r}: one of {', '.join(map(repr, POLICIES))}")


def term_rows(
    encoding: Encoding, newdata: Any, k: int, coded: tuple[IntArray, FloatArray | None], facts: TermFacts, policy: str
) -> TermRows:
    """Term k of the rows of newdata. coded: its levels and columns, as `Encoding.random` gives them.

    Errors: DataError for unknown levels where they are refused, and wherever the term says nothing about them.
    """
    codes, columns = coded
    levels = codes[:, None] if codes.ndim == 1 else codes
    columns = np.ones((len(levels), facts.n_effects)) if columns is None else columns
    known, how = levels >= 0, encoding.terms[k]
    rows = _Rows(facts, levels, columns, known)
    if known.all():
        return rows.at_levels()
    if isinstance(how, LatentEncoding) and how.times:
        return _series_rows(encoding, newdata, k, rows, policy)
    unknown = np.asarray(~known.all(axis=1), dtype=np.bool_)
    if isinstance(how, LatentEncoding):
        if facts.intrinsic:
            raise _without_prior(facts, unknown)
        out = rows.at_levels()
        out.fresh[unknown] = np.nan  # how it is related to the others is not known
    else:
        out = rows.at_levels()
        out.fresh[unknown] = columns[unknown]
    _refuse(facts, unknown, policy)
    return TermRows(out.A, out.fresh, unknown)


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    facts: TermFacts
    levels: IntArray  # (n, 1) or (n, r)
    columns: FloatArray  # (n, r)
    known: BoolArray  # as levels

    def at_levels(self) -> TermRows:
        """The known levels' effects; nothing where a level is unknown."""
        n, r = self.columns.shape
        places = self.levels * r + np.arange(r)
        known = np.broadcast_to(self.known, places.shape)
        rows = np.broadcast_to(np.arange(n)[:, None], places.shape)
        entries = (self.columns[known], (rows[known], places[known]))
        A = sp.csr_array(sp.coo_array(entries, shape=(n, self.facts.n_levels * r)))
        return TermRows(A, np.zeros((n, r)), np.zeros(n, dtype=np.bool_))


def _series_rows(encoding: Encoding, newdata: Any, k: int, rows: _Rows, policy: str) -> TermRows:
    """Rows at times without a state: the state's distribution given its neighbours; NaN where the time is missing."""
    how, facts = encoding.terms[k], rows.facts
    assert isinstance(how, LatentEncoding)
    series, times = encoding.series(newdata, k)
    there = np.isfinite(times).all(axis=1)
    new = np.flatnonzero(~rows.known[:, 0] & there)
    unknown = np.zeros(len(times), dtype=np.bool_)
    unknown[new] = series[new] < 0
    A, fresh = states_at(how, facts, series[new], times[new])
    _refuse(facts, unknown, policy)
    if policy == "sample" and unknown.any():
        raise DataError(
            f"{facts.text}: {int(unknown.sum())} rows are of a series that was not in the data of the fit, and "
            "new_levels='sample' draws independent levels only; simulate() draws series"
        )
    out, lost = rows.at_levels(), np.flatnonzero(~there)
    out.fresh[new, 0] = fresh
    place = sp.csr_array((np.ones(len(new)), (new, np.arange(len(new)))), shape=(len(times), len(new)))
    missing = _entries(lost, lost * 0, np.full(len(lost), np.nan), out.A.shape)
    return TermRows(sp.csr_array(out.A + place @ A + missing), out.fresh, unknown)


def states_at(
    how: LatentEncoding, facts: TermFacts, series: IntArray, times: FloatArray
) -> tuple[sp.csr_array, FloatArray]:
    """A (c, m) and standard deviations (c,) over sigma T, with A b + them the state of a series at times (c, 1).

    Of a field at times (c, 2): with w_a and s_a along axis a, the weights are w_1 (x) w_2, and the variance is
    1 - (1 - s_1)(1 - s_2), since Q^-1 is a Kronecker product and the field has all cells of its rows and columns.
    DataError where the term says nothing about a time that has no state.
    """
    axes = how.axes()
    parts = zip(axes, _bridges(facts, len(axes)), times.T, strict=True)
    found = [_steps(axis, *bridge, series, t) for axis, bridge, t in parts]
    silent = np.isnan(sum(step.weights.sum(axis=1) for step in found))
    if silent.any():
        if len(axes) > 1:
            raise _without_prior(facts, silent)
        raise _no_state(facts, times[silent, 0], series[silent] < 0)
    rows, shape = np.arange(len(times)), (len(times), facts.n_levels)
    A = sp.csr_array(shape)
    for sides in product((0, 1), repeat=len(axes)):
        places = [step.places[:, side] for step, side in zip(found, sides, strict=True)]
        weights = np.prod([step.weights[:, side] for step, side in zip(found, sides, strict=True)], axis=0)
        A = A + _entries(rows, _cells(axes, places), weights, shape)
    return sp.csr_array(A), np.sqrt(reduce(lambda s, t: s + t - s * t, (step.variance for step in found)))


def _bridges(facts: TermFacts, d: int) -> list[tuple[str, tuple[float, ...]]]:
    """Name and parameters of the bridge along each of d axes."""
    if d == 1 or not facts.bridge:
        return [(facts.bridge, facts.rho)] * d
    return list(zip(facts.bridge.split(":"), ((rho,) for rho in facts.rho), strict=True))


class _Steps(NamedTuple):
    """Places on an axis before and after a time (c, 2), -1 for none, their weights, and what variance is left (c,)."""

    places: IntArray
    weights: FloatArray
    variance: FloatArray


def _steps(axis: Axis, bridge: str, rho: tuple[float, ...], series: IntArray, times: FloatArray) -> _Steps:
    before, after = axis.neighbours(series, times)
    there = (after >= 0) & (axis.at[after] == times)
    places = np.column_stack([np.where(there, -1, before), after])
    weights, variance = np.tile([0.0, 1.0], (len(times), 1)), np.zeros(len(times))
    gaps = np.where(places >= 0, np.abs(times[:, None] - axis.at[places]), np.inf)[~there]
    on_before, on_after, variance[~there] = conditional_state(bridge, np.array(rho), gaps[:, 0], gaps[:, 1])
    weights[~there] = np.column_stack([on_before, on_after])
    return _Steps(places, weights, variance)


def _cells(axes: Sequence[Axis], places: Sequence[IntArray]) -> IntArray:
    """States at places of each axis, -1 where there is none."""
    if len(axes) == 1:
        return places[0]
    states = cells(*(np.bincount(axis.owners) for axis in axes), *places)
    return np.where(np.minimum(*places) < 0, -1, states)


def _entries(rows: IntArray, states: IntArray, weights: FloatArray, shape: tuple[int, ...]) -> sp.csr_array:
    there = states >= 0
    return sp.csr_array(sp.coo_array((weights[there], (rows[there], states[there])), shape=shape))


def _refuse(facts: TermFacts, unknown: BoolArray, policy: str) -> None:
    if policy == "error" and unknown.any():
        raise DataError(
            f"{facts.text}: {int(unknown.sum())} of {len(unknown)} rows have a level of '{facts.name}' that was not in "
            "the data of the fit; new_levels='population' predicts them without this term"
        )


def _without_prior(facts: TermFacts, unknown: BoolArray) -> DataError:
    out = "add its levels when fitting: an animal to the pedigree, a plot by the option knots of its series"
    return DataError(
        f"{facts.text}: {int(unknown.sum())} of {len(unknown)} rows have a level of '{facts.name}' that the fit does "
        f"not have, and the term says nothing about it. Leave the term out with re=[...], or {out}"
    )


def _no_state(facts: TermFacts, times: FloatArray, lone: BoolArray) -> DataError:
    if lone.all():
        return DataError(
            f"{facts.text}: {len(times)} rows are of a series that was not in the data of the fit, and the level of a "
            "new series is not known. Leave the term out with re=[...]"
        )
    word, _, rest = facts.text.rpartition(")")[0].partition("(")
    return DataError(
        f"{facts.text}: the fit has no state at {len(times)} times of the rows, the first is {times[~lone][0]:g}, and "
        f"cannot be continued there. Fit it with states at these times: {word}({rest}, knots=times)"
    )
