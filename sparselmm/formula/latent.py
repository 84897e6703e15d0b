"""Bars whose levels are correlated: times -> latent states, labels -> the levels of a pedigree or a given matrix."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp

from .._errors import DataError, ModelError
from .._typing import AnyArray, FloatArray, IntArray
from ..structures import Fields, Kronecker, Precision
from ..structures.latent import LevelWord, SeriesWord, latent_words, states_with_knots
from ..terms import GroupingFactor, RandomTerm
from .design import Design, evaluate, make_design, read_terms
from .groups import GroupCoder, code_new_rows
from .names import columns_of, quote_columns
from .parse import Bar
from .tokens import Expr


class Axis(NamedTuple):
    """Times at which series have states, series by series, in order; (m,) each."""

    owners: IntArray
    at: FloatArray

    def neighbours(self, series: IntArray, times: FloatArray) -> tuple[IntArray, IntArray]:
        """Places of a series before times (n,), and at or after them, -1 where there is none."""
        different = np.unique(self.at)
        place = lambda s, t: s * (len(different) + 1) + np.searchsorted(different, t)  # noqa: E731
        after = np.searchsorted(place(self.owners, self.at), place(series, times))
        edged = np.concatenate([self.owners, [-1]])  # the last is beyond both ends
        before = np.where(edged[after - 1] == series, after - 1, -1)
        return before, np.where(edged[after] == series, after, -1)


@dataclass(frozen=True, slots=True, eq=False)
class LatentEncoding:
    """How rows find their state: labels of the states in order, and the expressions that make a row's label.

    times: the expressions of the times of a series word, () for a level word. levels: the coded group, None for
    one series; of a level word that reads columns as they are, every label there is. design: the left side of a level
    word, None where it is just 1. joint: the columns of the group are one effect each, `ped(1 | animal + dam, P)`.
    """

    labels: pd.Index
    times: tuple[tuple[Expr, str], ...]
    group: tuple[str, ...]
    levels: GroupingFactor | None
    design: Design | None
    columns: tuple[str, ...]
    joint: bool = False

    def codes(self, frame: pd.DataFrame, parts: Sequence[IntArray], context: Mapping[str, Any]) -> IntArray:
        """State of each row of new data (n,), -1 where the fit has none; (n, effects) where `joint`.

        parts: codes of the group's components.
        """
        if self.joint:
            return np.column_stack(parts)
        if not self.times:
            assert self.levels is not None
            place = self.labels.get_indexer(pd.Index(self.levels.labels()))
            return np.append(place, -1)[code_new_rows(self.levels, parts)]
        keys: list[AnyArray] = [time_values(expr, text, frame, context, new=True) for expr, text in self.times]
        if self.levels is not None:
            keys.insert(0, np.array([*self.levels.labels(), None], dtype=object)[code_new_rows(self.levels, parts)])
        wanted = pd.MultiIndex.from_arrays(keys) if len(keys) > 1 else pd.Index(keys[0])
        return np.asarray(self.labels.get_indexer(wanted), dtype=np.int64)

    @property
    def is_series(self) -> bool:
        """Whether levels are states at times of one series word."""
        return len(self.times) == 1

    def series(
        self, frame: pd.DataFrame, parts: Sequence[IntArray], context: Mapping[str, Any]
    ) -> tuple[IntArray, FloatArray]:
        """Series of each row of new data (n,), -1 where the fit has none, and times (n, 1), of a product (n, 2)."""
        times = [time_values(expr, text, frame, context, new=True) for expr, text in self.times]
        series = np.zeros(len(frame), np.int64) if self.levels is None else code_new_rows(self.levels, parts)
        return series, np.column_stack(times).astype(np.float64)

    def state_series(self) -> IntArray:
        """Series (or field) of each state, (m,)."""
        owners = np.zeros(len(self.labels), np.int64)
        if self.levels is not None:
            codes = np.asarray(self.labels.codes[0])
            owners[1:] = np.cumsum(codes[1:] != codes[:-1])
        return owners

    def axes(self) -> list["Axis"]:
        """The states of a series; of a product the rows and the columns of its fields."""
        owners, d = self.state_series(), len(self.times)
        at = [self.labels.get_level_values(k - d).to_numpy(dtype=np.float64) for k in range(d)]
        if d == 1:
            return [Axis(owners, at[0])]
        first = np.searchsorted(owners, owners)  # the corner of the state's field
        firsts = [np.flatnonzero(t == t[first]) for t in reversed(at)]
        return [Axis(owners[i], t[i]) for i, t in zip(firsts, at, strict=True)]


class LatentBuilder:
    """Bars of words with correlated levels -> RandomTerm, for the rows of one frame."""

    def __init__(self, frame: pd.DataFrame, coder: GroupCoder, context: Mapping[str, Any], known: frozenset[str]):
        self.frame, self.coder, self.context, self.known = frame, coder, context, known

    def terms(self, bar: Bar) -> Iterator[tuple[RandomTerm, LatentEncoding]]:
        """The terms of a bar: one for each of its groups, but a single one for `ped(1 | animal + dam, P)`."""
        how = latent_words()[bar.word]
        if isinstance(how, LevelWord) and len(bar.groups) > 1 and not bar.factors:
            yield self._joint(bar, how)
        else:
            yield from (self.build(bar, group) for group in bar.groups or ((),))

    def build(self, bar: Bar, group: tuple[str, ...]) -> tuple[RandomTerm, LatentEncoding]:
        """One term of a bar, for one of its groups (() where it has none)."""
        how = latent_words()[bar.word]
        if bar.factors:
            return self._product(bar, group)
        return self._series(bar, group, how) if isinstance(how, SeriesWord) else self._levels(bar, group, how)

    def _series(self, bar: Bar, group: tuple[str, ...], how: SeriesWord) -> tuple[RandomTerm, LatentEncoding]:
        levels = self.coder.factor(group) if group else None
        series = np.zeros(len(self.frame), dtype=np.int64) if levels is None else levels.codes.astype(np.int64)
        label, key, precision, codes, times, state_series = self._states(bar, how, series, levels)
        owners = None if levels is None else np.array(levels.labels(), dtype=object)[state_series]
        name = label if levels is None else levels.name
        labels, shown = (
            pd.Index(t, name=label) if owners is None else pd.MultiIndex.from_arrays([owners, t], names=[name, label])
            for t in (times, self._shown(label, times))
        )
        effect = f"{bar.word}({label})"
        text = f"{bar.word}(0 + {label})" if levels is None else f"{bar.word}(0 + {label} | {name})"
        term = RandomTerm(codes, effects=(effect,), name=name, levels=shown, Q=precision, label=label, text=text)
        columns = tuple(columns_of(bar.left, list(self.frame), self.known))
        return term, LatentEncoding(labels, (key,), group, levels, None, columns)

    def _states(
        self, bar: Bar, how: SeriesWord, series: IntArray, levels: GroupingFactor | None
    ) -> tuple[str, tuple[Expr, str], Precision, IntArray, AnyArray, IntArray]:
        label, key = self._time(bar)
        unknown = [name for name, _ in bar.options if name not in how.options]
        if unknown:
            known = f"it has {', '.join(how.options)}" if how.options else "it has none"
            raise bar.error(f"{bar.word}() has no option '{unknown[0]}'; {known}")
        options = {name: self._object(expr, option=True) for name, expr in bar.options}
        values = time_values(*key, self.frame, self.context)
        n_series = 1 if levels is None else levels.n_levels
        states = states_with_knots(how, values, series, n_series, label, options.pop("knots", None))
        return label, key, how.make(states, options), states.codes, states.times, states.series

    def _shown(self, text: str, times: AnyArray) -> AnyArray:
        """Times for people: what the codes of ordered categories stand for, unless knots lie beside them."""
        dtype = self.frame[text].dtype if text in self.frame else None
        if not isinstance(dtype, pd.CategoricalDtype) or not np.isin(times, np.arange(len(dtype.categories))).all():
            return times
        return dtype.categories.to_numpy()[times.astype(np.int64)]

    def _time(self, bar: Bar) -> tuple[str, tuple[Expr, str]]:
        """The one column of times on the left side, `0 + t`."""
        text = quote_columns(bar.left, list(self.frame))
        terms = [str(t) for t in read_terms(text, bar.left)]
        if len(terms) != 1 or terms == ["1"]:
            raise bar.error(f"{bar.word}(...) reads one column of times: {bar.word}(0 + t | g)")
        return terms[0], (bar.left, terms[0])

    def _product(self, bar: Bar, group: tuple[str, ...]) -> tuple[RandomTerm, LatentEncoding]:
        """`ar1(0 + row):ar1(0 + col)`: the Kronecker product of two precisions, one field; or one for each level of g.

        The latter is `ar1(0 + row | g):ar1(0 + col | g)`.
        """
        words = [how for b in bar.factors if isinstance(how := latent_words()[b.word], SeriesWord)]
        if len(words) != 2 or len(bar.factors) != 2:
            raise bar.error("a product is of two series, ar1() or ou(): ar1(0 + row):ar1(0 + col)")
        if any(b.groups != bar.groups for b in bar.factors):
            raise bar.error(
                "a product is of two series with the same group, one field for each of its levels, or of two without: "
                "ar1(0 + row | trial):ar1(0 + col | trial)"
            )
        levels = self.coder.factor(group) if group else None
        series = np.zeros(len(self.frame), dtype=np.int64) if levels is None else levels.codes.astype(np.int64)
        parts = [self._states(b, how, series, levels) for b, how in zip(bar.factors, words, strict=True)]
        (one, key1, Q1, codes1, times1, owners), (two, key2, Q2, codes2, times2, _) = parts
        if Q1.null_dim or Q2.null_dim:
            raise bar.error("a product needs two proper series, ar1() or ou(): the level of a random walk has no prior")
        first, second = (b.word for b in bar.factors)
        effects = f"{first}({one})", f"{second}({two})"
        Q = Kronecker(Q1, Q2, effects) if levels is None else Fields(Q1, Q2, effects)
        i, j = Q.parts()
        field, names, name, end = [], [one, two], f"{one}:{two}", ""
        if levels is not None:
            field = [np.array(levels.labels(), dtype=object)[owners[i]]]
            names, name, end = [levels.name, *names], levels.name, f" | {levels.name}"
        labels, shown = (
            pd.MultiIndex.from_arrays([*field, rows[i], cols[j]], names=names)
            for rows, cols in ((times1, times2), (self._shown(one, times1), self._shown(two, times2)))
        )
        text = f"{first}(0 + {one}{end}):{second}(0 + {two}{end})"
        term = RandomTerm(
            Q.level(codes1, codes2), effects=(":".join(effects),), name=name, levels=shown, Q=Q,
            label=f"{one}:{two}", text=text,
        )  # fmt: skip
        columns = [c for b in bar.factors for c in columns_of(b.left, list(self.frame), self.known)]
        return term, LatentEncoding(labels, (key1, key2), group, levels, None, tuple(dict.fromkeys(columns)))

    def _levels(self, bar: Bar, group: tuple[str, ...], how: LevelWord) -> tuple[RandomTerm, LatentEncoding]:
        given, factor = self._given(bar, how), self.coder.factor(group)
        place, precision, labels = how.make(self._object(given), factor.labels(), factor.name)
        terms = read_terms(quote_columns(bar.left, list(self.frame)), bar.left)
        texts = [str(t) for t in terms]
        if not texts:
            raise bar.left.error("no effect is left before the bar")
        columns_read = columns_of(bar.left, list(self.frame), self.known)
        design, columns = None, None
        effects: tuple[str, ...] = ("Intercept",)
        if texts != ["1"]:
            design, columns = make_design(terms, columns_read, self.frame, self.context)
            effects = design.names
        left = " + ".join(texts if "1" in texts else ["0", *texts])
        index = pd.Index(labels, name=factor.name)
        term = RandomTerm(
            np.asarray(place, dtype=np.int64)[factor.codes], "us", columns, tuple(f"{bar.word}({e})" for e in effects),
            factor.name, index, precision, left, f"{bar.word}({left} | {factor.name}, {given.text})",
        )  # fmt: skip
        known = factor if len(group) > 1 else _all_levels(index, 1)
        return term, LatentEncoding(index, (), group, known, design, tuple(columns_read))

    def _joint(self, bar: Bar, how: LevelWord) -> tuple[RandomTerm, LatentEncoding]:
        """`ped(1 | animal + dam, P)`: every animal has an effect on its own rows and one on its offspring's.

        Z (n, 2m) has two ones in a row: at (animal, first effect) and (dam, second effect); T is unstructured.
        """
        given, names = self._given(bar, how), tuple(":".join(group) for group in bar.groups)
        texts = [str(t) for t in read_terms(quote_columns(bar.left, list(self.frame)), bar.left)]
        if texts != ["1"] or len(set(names)) < len(names) or any(len(group) > 1 for group in bar.groups):
            raise bar.error(
                f"{bar.word}() with several groups is written {bar.word}(1 | {names[0]} + other, {given.text}): "
                "an intercept for each of different columns"
            )
        factors = [self.coder.factor(group) for group in bar.groups]
        labels = [label for factor in factors for label in factor.labels()]
        name = "+".join(names)
        place, precision, levels = how.make(self._object(given), labels, name)
        places = np.split(place, np.cumsum([factor.n_levels for factor in factors])[:-1])
        codes = np.column_stack([p[factor.codes] for p, factor in zip(places, factors, strict=True)])
        index, effects = pd.Index(levels, name=name), tuple(f"{bar.word}({column})" for column in names)
        text = f"{bar.word}(1 | {' + '.join(names)}, {given.text})"
        Z = _indicators(codes, len(index))
        term = RandomTerm(Z, "us", None, effects, name, index, precision, "1", text)
        return term, LatentEncoding(index, (), names, _all_levels(index, len(names)), None, (), joint=True)

    def _given(self, bar: Bar, how: LevelWord) -> Expr:
        """What stands after the comma of a level word."""
        if bar.given is None or bar.options or not bar.groups:
            word = bar.word
            raise bar.error(f"{word}() is written {word}(1 | id, name), with {how.needs} in context={{'name': ...}}")
        return bar.given

    def _object(self, expr: Expr, option: bool = False) -> Any:
        """What a name or a literal after the comma stands for; option: the value of a keyword."""
        names = dict(self.context)
        try:
            return eval(expr.text, {"__builtins__": {}}, names)  # noqa: S307 - the user's own formula, as formulaic does
        except NameError as error:
            quoted = f", or in quotes, '{expr.text}', if it is a word" if option else ""
            raise ModelError(
                f"'{expr.text}' is not known: give it in context={{'{expr.text}': ...}}{quoted}"
            ) from error
        except (SyntaxError, TypeError, AttributeError) as error:
            raise expr.error(f"'{expr.text}' cannot be read: {error}") from error


def _indicators(codes: IntArray, m: int) -> sp.csr_array:
    """Z (n, m r) with a one at column codes[i, a] r + a for each effect a of row i; codes (n, r)."""
    n, r = codes.shape
    places = (codes.astype(np.int64) * r + np.arange(r)).ravel()
    return sp.csr_array((np.ones(n * r), places, np.arange(n + 1, dtype=np.int64) * r), shape=(n, m * r))


def _all_levels(index: pd.Index, n_columns: int) -> GroupingFactor:
    """The levels of a precision, for `n_columns` columns that each hold labels of it."""
    every = np.arange(len(index))
    return GroupingFactor(str(index.name), every, (index,) * n_columns, np.column_stack([every] * n_columns))


def time_values(expr: Expr, text: str, frame: pd.DataFrame, context: Mapping[str, Any], new: bool = False) -> AnyArray:
    """Times of the rows: numbers, or the codes of an ordered categorical; new rows have the categories of the fit."""
    if text in frame and isinstance(frame[text].dtype, pd.CategoricalDtype):
        if not (new or frame[text].cat.ordered):
            raise DataError(
                f"time '{text}' holds text or unordered categories: make numbers of it, or "
                "pandas.Categorical(values, categories=[first, ..., last], ordered=True)"
            )
        return frame[text].cat.codes.to_numpy(dtype=np.int64)
    if text in frame and frame[text].dtype.kind in "iu":
        return frame[text].to_numpy(dtype=np.int64)
    values: FloatArray = evaluate(text, Expr(text, expr.formula, expr.start, expr.end, expr.names), frame, context, {})
    return values
