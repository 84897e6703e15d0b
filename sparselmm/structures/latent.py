"""Words of a formula whose levels are correlated: what they read, and the precision that they make of it.

A series word reads times, `ar1(0 + t | g)`; a level word reads labels and an object of the user's, `ped(1 | id, P)`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd

from .._errors import ModelError
from .._typing import AnyArray, IntArray
from ..kernels.series import States, distinct_states, latent_states
from .ar1 import AR1
from .base import Precision
from .known import Known
from .ou import OU
from .rw import RW1, RW2

SeriesMaker = Callable[[States, Mapping[str, Any]], Precision]
LevelMaker = Callable[[Any, Sequence[Any], str], tuple[IntArray, Precision, Sequence[Any]]]


@runtime_checkable
class Relatives(Protocol):
    """Levels that are related, as a `Pedigree`: labels of all, the place of some of them, and the precision."""

    levels: Sequence[Any]

    def index(self, ids: Sequence[Any]) -> IntArray:
        """Place of each id; DataError for one that is not there."""

    def precision(self) -> Precision:
        """The precision across all levels."""


@dataclass(frozen=True, slots=True)
class SeriesWord:
    """states: (times, series, n_series, name) -> States. make: states, options -> Precision. options: their names.

    The option `knots` adds states at further times, to be predicted, to every series.
    """

    states: Callable[[AnyArray, IntArray, int, str], States]
    make: SeriesMaker
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LevelWord:
    """make: (the user's object, labels of the data's levels, group) -> code of each label, Precision, its labels."""

    make: LevelMaker
    needs: str


_WORDS: dict[str, SeriesWord | LevelWord] = {}


def register_latent(word: str, how: SeriesWord | LevelWord) -> None:
    """Make a word with correlated levels known to formulas."""
    _WORDS[word] = how


def latent_words() -> Mapping[str, SeriesWord | LevelWord]:
    """Every registered word with correlated levels."""
    return dict(_WORDS)


def _ar1(states: States, options: Mapping[str, Any]) -> Precision:
    return AR1(states.lengths, start=options.get("start", "stationary"))


def _ou(states: States, options: Mapping[str, Any]) -> Precision:
    return OU(states.times, states.lengths)


def _rw1(states: States, options: Mapping[str, Any]) -> Precision:
    return RW1(states.times, states.lengths)


def _rw2(states: States, options: Mapping[str, Any]) -> Precision:
    return RW2(states.times, states.lengths)


def states_with_knots(
    how: SeriesWord, times: AnyArray, series: IntArray, n_series: int, name: str, knots: Any
) -> States:
    """States of the times of the rows (n,), and of the further times `knots` in every series."""
    if knots is None:
        return how.states(times, series, n_series, name)
    try:
        further = np.unique(np.asarray(knots, dtype=np.float64).ravel())
    except (TypeError, ValueError) as error:
        raise ModelError(f"knots of '{name}' are numbers, not {knots!r}") from error
    times = np.concatenate([np.asarray(times, dtype=np.float64), np.tile(further, n_series)])
    series = np.concatenate([series, np.repeat(np.arange(n_series), len(further))])
    states = how.states(times, series, n_series, f"{name}, with its knots")
    return states._replace(codes=states.codes[: len(times) - n_series * len(further)])


def _ped(given: Any, labels: Sequence[Any], group: str) -> tuple[IntArray, Precision, Sequence[Any]]:
    if not isinstance(given, Relatives):
        raise ModelError(f"ped(... | {group}, P): P is a Pedigree(id, sire, dam), not {type(given).__name__}")
    return given.index(labels), given.precision(), given.levels


def _known(given: Any, labels: Sequence[Any], group: str) -> tuple[IntArray, Precision, Sequence[Any]]:
    if isinstance(given, np.ndarray | pd.DataFrame):
        raise ModelError(
            f"known(... | {group}, matrix): is it a covariance, such as a relationship matrix, or a precision, the "
            "inverse of one? Give slm.Known(matrix, kind='covariance') or slm.Known(matrix, kind='precision')"
        )
    known = given if isinstance(given, Known) else Known(given)
    return known.codes(labels), known, known.levels


register_latent("ar1", SeriesWord(latent_states, _ar1, ("start", "knots")))
register_latent("ou", SeriesWord(distinct_states, _ou, ("knots",)))
register_latent("rw1", SeriesWord(distinct_states, _rw1, ("knots",)))
register_latent("rw2", SeriesWord(distinct_states, _rw2, ("knots",)))
register_latent("ped", LevelWord(_ped, "a Pedigree"))
register_latent("known", LevelWord(_known, "a sparse precision, or Known(matrix, kind)"))
