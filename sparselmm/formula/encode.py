"""Formula and table -> ModelSpec, and the encoding that gives new rows the same columns."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import ArrayLike
from pandas.api.types import is_numeric_dtype

from .._errors import DataError
from .._typing import FloatArray, IntArray
from ..structures.base import Residual
from ..structures.latent import SeriesWord, latent_words
from ..terms import GroupingFactor, ModelSpec, RandomTerm
from .design import Design, SimpleFormula, evaluate, make_design, make_fixed_design, read_terms, split_terms
from .groups import GroupCoder, code_new_column, code_new_rows
from .latent import LatentBuilder, LatentEncoding, time_values
from .names import columns_of, evaluation_context, known_names, quote_columns, unknown_column
from .parse import Bar, ParsedFormula, parse
from .residual import ParsedResidual, parse_residual
from .table import Rows, as_vector, check_index, check_not_index, kind_of, numeric_column, open_table, read_rows
from .tokens import Expr


@dataclass(frozen=True, slots=True)
class OffsetEncoding:
    """An offset() of the formula: its expression, the columns it reads, what its transforms keep."""

    expr: Expr
    text: str
    columns: tuple[str, ...]
    state: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TermEncoding:
    """A random term: its group columns and levels; `design` of the left side, None where that is just 1."""

    group: tuple[str, ...]
    levels: GroupingFactor
    design: Design | None


@dataclass(frozen=True, slots=True, eq=False)
class Encoding:
    """How a table became a ModelSpec: the same for new rows.

    categories: levels of each column, None for one of numbers. offset_column: offset= where it was a column;
    offset_given: whether it was an array, which new rows do not have. weights_column: weights= where it was a column.
    strata: of residual variances that differ. typical: of each column of numbers in the fixed part its two values where
    it has no more, else its mean, over the rows used.
    """

    fixed_design: Design
    terms: tuple[TermEncoding | LatentEncoding, ...]
    offsets: tuple[OffsetEncoding, ...]
    categories: Mapping[str, pd.Index | None]
    context: Mapping[str, Any]
    offset_column: str | None = None
    offset_given: bool = False
    weights_column: str | None = None
    strata: TermEncoding | None = None
    typical: Mapping[str, tuple[float | bool, ...]] = field(default_factory=dict)

    def fixed(self, newdata: Any) -> Any:
        """All fixed effects of the rows of `newdata`, (n, p), sparse where the fit's are; NaN where a value is missing.

        Errors: DataError for a column that is not there, or a level that the fit has not seen.
        """
        return self._encode(self.fixed_design, newdata)

    def random(
        self, newdata: Any, wanted: Iterable[int] | None = None
    ) -> dict[int, tuple[IntArray, FloatArray | None]]:
        """Place of each term -> levels of the rows, -1 where unknown or missing, and the columns (n, r) or None.

        Levels are (n,), or (n, r) where each effect has a level of its own, as in `ped(1 | animal + dam, P)`. wanted:
        places of the terms that are read, None for all; columns of other terms need not be there.
        """
        table = open_table(newdata)
        terms = {k: self.terms[k] for k in (range(len(self.terms)) if wanted is None else wanted)}
        # two terms of one group may number its levels differently: all animals of a pedigree, those with records
        tables = {(id(t.levels), j): t for t in terms.values() for j in range(len(t.group))}
        coded = {(levels, j): self._part(table, t, j) for (levels, j), t in tables.items()}
        return {k: self._random(table, t, coded) for k, t in terms.items()}

    def _random(
        self, table: Any, term: TermEncoding | LatentEncoding, coded: Mapping[tuple[int, int], IntArray]
    ) -> tuple[IntArray, FloatArray | None]:
        parts = [coded[id(term.levels), j] for j in range(len(term.group))]
        if isinstance(term, LatentEncoding):
            rows = self._rows(table, term.columns)
            found = term.codes(rows.frame, [part[rows.keep] for part in parts], self.context)
            codes = np.full((len(rows.keep), *found.shape[1:]), -1, dtype=np.int64)
            codes[rows.keep] = found
        else:
            codes = code_new_rows(term.levels, parts)
        return codes, None if term.design is None else self._encode(term.design, table)

    def series(self, newdata: Any, k: int) -> tuple[IntArray, FloatArray]:
        """Of a term k of series or fields those of the rows (n,), -1 where unknown; times (n, d), NaN where missing."""
        term, table = self.terms[k], open_table(newdata)
        assert isinstance(term, LatentEncoding)
        rows = self._rows(table, term.columns)
        parts = [self._part(table, term, j)[rows.keep] for j in range(len(term.group))]
        series, times = np.full(len(rows.keep), -1, dtype=np.int64), np.full((len(rows.keep), len(term.times)), np.nan)
        series[rows.keep], times[rows.keep] = term.series(rows.frame, parts, self.context)
        return series, times

    def new_groups(self, newdata: Any, k: int) -> IntArray:
        """Which rows have the same label in the group of term k, known or not: codes (n,), -1 where it is missing."""
        group = list(self.terms[k].group)
        rows = read_rows(open_table(newdata), group, group_columns=group)
        out = np.full(len(rows.keep), -1, dtype=np.int64)
        if rows.keep.any():
            out[rows.keep] = GroupCoder(rows.frame).factor(group).codes
        return out

    def stratum(self, newdata: Any) -> IntArray:
        """Stratum of the residual variance of each row (n,), -1 where unknown."""
        assert self.strata is not None
        table = open_table(newdata)
        parts = [self._part(table, self.strata, j) for j in range(len(self.strata.group))]
        return code_new_rows(self.strata.levels, parts)

    def weights(self, newdata: Any) -> FloatArray:
        """Weights of the rows (n,). DataError where they were given as an array, or are not positive."""
        if self.weights_column is None:
            raise DataError("weights= was an array, which new rows do not have: fit with weights= the name of a column")
        out = numeric_column(open_table(newdata), self.weights_column, "weights")
        if (out <= 0.0).any():
            bad, least = int((out <= 0.0).sum()), np.nanmin(out)
            raise DataError(f"weights must be positive: {bad} of {len(out)} new rows have others, as {least:g}")
        return out

    def offset(self, newdata: Any) -> FloatArray:
        """Sum of the offsets of the rows of `newdata`, shape (n,); NaN in a row that lacks a value."""
        if self.offset_given:
            raise DataError("offset= was an array, which new rows do not have: fit with a column, or offset(column)")
        table = open_table(newdata)
        total = np.zeros(len(table))
        if self.offset_column is not None:
            total += numeric_column(table, self.offset_column, "offset")
        for offset in self.offsets:
            rows = self._rows(table, offset.columns)
            values = evaluate(offset.text, offset.expr, rows.frame, self.context, offset.state)
            total += _spread(values, rows)
        return total

    def _encode(self, design: Design, newdata: Any) -> Any:
        rows = self._rows(open_table(newdata), design.columns)
        return _spread(design.matrix(rows.frame, self.context), rows)

    def _rows(self, table: Any, columns: Sequence[str]) -> Rows:
        rows = read_rows(table, columns)
        for column in columns:
            rows.frame[column] = _same_kind(rows.frame[column], self.categories[column])
        return rows

    def _part(self, table: Any, term: TermEncoding | LatentEncoding, j: int) -> IntArray:
        column = term.group[j]
        if column not in table.columns:
            check_not_index(column, table)
            raise DataError(f"{unknown_column(column, table.columns)}; re=False predicts without random effects")
        rows = read_rows(table, [column], group_columns=[column])
        assert term.levels is not None
        out = np.full(len(rows.keep), -1, dtype=np.int64)
        out[rows.keep] = code_new_column(term.levels.parts[j], rows.frame[column])
        return out


def build_spec(
    formula: str,
    data: Any,
    *,
    weights: str | ArrayLike | None = None,
    offset: str | ArrayLike | None = None,
    residual: str | None = None,
    context: Mapping[str, Any] | None = None,
) -> ModelSpec:
    """The model that `formula` describes for the rows of `data`.

    data: a table that narwhals reads (pandas, polars, pyarrow). weights, offset: a column name or an array of
    len(data). residual: `ar1(t | g)`, `ou(t | g)`, `varident(f)`, the last times one of the others, or
    `us(trait | record)`; None for independent residuals of one variance. context: further names for the formula. Rows
    with a missing value in anything that is used are dropped and counted.
    Errors: FormulaError (the place underlined), DataError (the column named), ModelError.
    """
    return _Builder(formula, data, evaluation_context(context), residual).build(weights, offset)


@dataclass(frozen=True, slots=True)
class _LeftSide:
    """The left side of a bar; design and columns (n, r) are None where it is just 1. text: up to the group."""

    terms: SimpleFormula
    structure: str
    label: str
    text: str
    design: Design | None
    columns: FloatArray | None

    def random_term(self, levels: GroupingFactor) -> RandomTerm:
        effects = self.design.names if self.design else ()
        text = f"{self.text}{levels.name})"
        return RandomTerm(
            levels.codes, self.structure, self.columns, effects, levels.name, levels, label=self.label, text=text
        )


class _Builder:
    """The steps from text and table to ModelSpec. Left sides with the terms of the fixed part share its columns."""

    def __init__(self, formula: str, data: Any, context: dict[str, Any], residual: str | None):
        self.context, self.known = context, known_names(context)
        self.residual: ParsedResidual | None = None if residual is None else parse_residual(residual)
        self.parsed: ParsedFormula = parse(formula, self.known)
        self.table = open_table(data)
        self.columns = self.table.columns
        self._made: dict[tuple[str, ...], tuple[Design, FloatArray]] = {}
        if len(self.table) == 0:
            raise DataError("the table has no rows")

    def build(self, weights: str | ArrayLike | None, offset: str | ArrayLike | None) -> ModelSpec:
        given = {"weights": weights, "offset": offset}
        arrays = {what: self._array(values, what) for what, values in given.items() if values is not None}
        rows = self._read(arrays)
        fixed, X, S = self._fixed(rows.frame)
        pairs = list(self._terms(rows.frame))
        offsets = tuple(self._offset(expr) for expr in self.parsed.offsets)
        response = self.parsed.response
        return ModelSpec(
            y=evaluate(self._text(response), response, rows.frame, self.context, {}),
            X=X,
            fixed_names=fixed.names,
            terms=tuple(term for term, _ in pairs),
            weights=rows.arrays.get("weights"),
            offset=self._total_offset(offsets, rows),
            response=response.single or self.parsed.text[response.start : response.end],
            formula=self.parsed.text,
            n_dropped=rows.n_dropped,
            encoding=Encoding(
                fixed,
                tuple(encoding for _, encoding in pairs),
                offsets,
                {c: _categories(rows.frame[c]) for c in rows.frame},
                self.context,
                offset if isinstance(offset, str) else None,
                offset is not None and not isinstance(offset, str),
                weights if isinstance(weights, str) else None,
                self._strata(rows.frame),
                {c: _typical(rows.frame[c]) for c in fixed.columns if is_numeric_dtype(rows.frame[c])},
            ),
            residual=self._residual(rows.frame),
            S=S,
        )

    def _array(self, values: str | ArrayLike, what: str) -> FloatArray:
        if isinstance(values, str):
            out, name = numeric_column(self.table, values, what), f"column '{values}'"
        else:
            out, name = as_vector(values, len(self.table), what), "the array"
            check_index(values, self.table, what)
        missing = int(np.isnan(out).sum())
        if what == "weights" and missing:
            raise DataError(
                f"weights: {missing} of {len(out)} values of {name} are missing; give every row one, or drop these rows"
            )
        return out

    def _read(self, arrays: Mapping[str, FloatArray]) -> Rows:
        parsed = self.parsed
        parts = [b for bar in parsed.bars for b in (bar.factors or (bar,))]
        is_series = [isinstance(latent_words().get(b.word), SeriesWord) for b in parts]
        series = [b.left for b, yes in zip(parts, is_series, strict=True) if yes]
        lefts = [b.left for b, yes in zip(parts, is_series, strict=True) if not yes]
        groups = [column for bar in parsed.bars for group in bar.groups for column in group]
        if self.residual is not None:
            series += [self.residual.serial.time] if self.residual.serial else []
            groups += self.residual.groups
        model = self._all_columns([parsed.response, parsed.fixed, *parsed.offsets, *lefts])
        times = self._all_columns(series)
        used = list(dict.fromkeys(model + times + groups))
        rows = read_rows(
            self.table, used, arrays, set(groups).difference(model, times), set(times).difference(model, groups)
        )
        rows.need_some()
        return rows

    def _all_columns(self, expressions: Sequence[Expr]) -> list[str]:
        return [column for expr in expressions for column in self._columns(expr)]

    def _columns(self, expr: Expr) -> list[str]:
        for name in expr.names:
            if name.text not in self.known and name.text not in self.columns:
                check_not_index(name.text, self.table)
        return columns_of(expr, self.columns, self.known)

    def _text(self, expr: Expr) -> str:
        return quote_columns(expr, self.columns)

    def _fixed(self, frame: pd.DataFrame) -> tuple[Design, FloatArray, Any]:
        expr = self.parsed.fixed
        terms = read_terms(self._text(expr), expr)
        design, X, S = make_fixed_design(terms, self._columns(expr), frame, self.context)
        _check_distinct(design.names)
        if S is None:
            self._made[_texts(terms)] = design, X
        return design, X, S

    def _terms(self, frame: pd.DataFrame) -> Iterator[tuple[RandomTerm, TermEncoding | LatentEncoding]]:
        coder = GroupCoder(frame)
        latent = LatentBuilder(frame, coder, self.context, self.known)
        seen = set()
        for bar in self.parsed.bars:
            if bar.word in latent_words():
                yield from latent.terms(bar)
                continue
            for side in self._left_sides(bar, frame):
                for group in bar.groups:
                    if (key := (frozenset(side.terms), frozenset(group))) in seen:
                        raise bar.error(f"the random term {side.text}{':'.join(group)}) is there twice")
                    seen.add(key)
                    levels = coder.factor(group)
                    yield side.random_term(levels), TermEncoding(group, levels, side.design)

    def _residual(self, frame: pd.DataFrame) -> Residual | None:
        if self.residual is None:
            return None
        values = lambda expr: time_values(expr, self._text(expr), frame, self.context)  # noqa: E731
        coder = GroupCoder(frame)
        return self.residual.build(values, lambda names: _wide(coder.factor(names)), self.parsed.response)

    def _strata(self, frame: pd.DataFrame) -> TermEncoding | None:
        """Of varident() alone; no codes of rows are kept."""
        parsed = self.residual
        if parsed is None or parsed.strata is None:
            return None
        levels = GroupCoder(frame).factor(parsed.strata.strata)
        return TermEncoding(parsed.strata.strata, replace(levels, codes=np.zeros(0, np.int64)), None)

    def _left_sides(self, bar: Bar, frame: pd.DataFrame) -> Iterator[_LeftSide]:
        """One left side; several where `||` parts a factor from the rest, as in lme4."""
        terms = read_terms(self._text(bar.left), bar.left)
        if len(terms) == 0:
            raise bar.left.error("no effect is left before the bar")
        side = self._left_side(terms, "diag" if bar.uncorrelated else bar.word or "us", bar, frame)
        if bar.uncorrelated and side.design and not side.design.is_scalar():
            for term in split_terms(terms):
                yield self._left_side(term, "us", bar, frame)
        else:
            yield side

    def _left_side(self, terms: SimpleFormula, structure: str, bar: Bar, frame: pd.DataFrame) -> _LeftSide:
        texts = list(_texts(terms))
        left = " + ".join(texts if "1" in texts else ["0", *texts])
        text = f"{bar.word}({left} {'||' if bar.uncorrelated and structure == 'diag' else '|'} "
        label = left if bar.word in ("", "us") else left.removeprefix("0 + ")
        if texts == ["1"]:
            return _LeftSide(terms, structure, label, text, None, None)
        if _texts(terms) not in self._made:
            self._made[_texts(terms)] = make_design(terms, self._columns(bar.left), frame, self.context)
        return _LeftSide(terms, structure, label, text, *self._made[_texts(terms)])

    def _offset(self, expr: Expr) -> OffsetEncoding:
        return OffsetEncoding(expr, self._text(expr), tuple(self._columns(expr)))

    def _total_offset(self, offsets: Sequence[OffsetEncoding], rows: Rows) -> FloatArray | None:
        parts = [evaluate(o.text, o.expr, rows.frame, self.context, o.state) for o in offsets]
        if "offset" in rows.arrays:
            parts.append(rows.arrays["offset"])
        return sum(parts[1:], start=parts[0]) if parts else None


def _wide(factor: GroupingFactor) -> GroupingFactor:
    """The same with codes as int64, which structures of residuals calculate with."""
    return replace(factor, codes=factor.codes.astype(np.int64))


def _check_distinct(names: Sequence[str]) -> None:
    """DataError where a column of the table is called like another coefficient."""
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise DataError(f"two coefficients would have the name '{twice}': rename the column of the table")


def _texts(terms: SimpleFormula) -> tuple[str, ...]:
    return tuple(map(str, terms))


def _categories(values: pd.Series) -> pd.Index | None:
    return values.cat.categories if isinstance(values.dtype, pd.CategoricalDtype) else None


def _typical(values: pd.Series) -> tuple[float | bool, ...]:
    """The values of a column of numbers, or of true and false, where it has two at most, else its mean."""
    array = values.to_numpy()
    low, high = array.min().item(), array.max().item()
    if ((array == low) | (array == high)).all():
        return (low,) if low == high else (low, high)
    return (float(array.mean()),)


def _same_kind(values: pd.Series, categories: pd.Index | None) -> pd.Series:
    """`values` with the categories of the fit; DataError where that cannot be."""
    if categories is None:
        if isinstance(values.dtype, pd.CategoricalDtype) and len(values):
            raise DataError(f"column '{values.name}' held numbers in the fit and holds {kind_of(values)} now")
        return values
    unseen = [level for level in values.unique().tolist() if level not in categories]
    if unseen:
        raise DataError(
            f"column '{values.name}': level {unseen[0]!r} was not in the data of the fit, which had "
            f"{', '.join(map(repr, categories[:10]))}{', ...' if len(categories) > 10 else ''}"
        )
    return pd.Series(pd.Categorical(values, categories=categories), name=values.name)


def _spread(values: Any, rows: Rows) -> Any:
    """`values` of the complete rows at their places among all rows, NaN elsewhere (in one column where sparse)."""
    if sp.issparse(values):
        there, lacking = np.flatnonzero(rows.keep), np.flatnonzero(~rows.keep)
        shape = len(rows.keep), values.shape[0]
        spread = sp.csr_array((np.ones(len(there)), (there, np.arange(len(there)))), shape=shape) @ values
        empty = np.full(len(lacking), np.nan), (lacking, np.zeros(len(lacking), dtype=np.int64))
        return sp.csr_array(spread + sp.csr_array(empty, shape=spread.shape))
    out = np.full((len(rows.keep), *values.shape[1:]), np.nan)
    out[rows.keep] = values
    return out
