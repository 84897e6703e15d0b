"""The grammar of residual=: `us(trait | record)`, or `ar1(t | g)`, `ou(t | g)`, `varident(f)` and their products."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from .._errors import FormulaError
from .._typing import FloatArray
from ..structures.base import Residual
from ..structures.residual_serial import AR1Residual, OUResidual
from ..structures.residual_unstructured import UnstructuredResidual
from ..structures.residual_varident import ProductResidual, VarIdentResidual
from ..terms import GroupingFactor
from .names import suggest
from .parse import read_groups
from .tokens import Expr, Source, tokenize

SERIAL: dict[str, type[AR1Residual] | type[OUResidual]] = {"ar1": AR1Residual, "ou": OUResidual, "car1": OUResidual}
STRATA, RECORDS = "varident", "us"
USAGE = (
    "residual= is ar1(t | g), ou(t | g), varident(f), a product such as ar1(t | g) * varident(f), or us(trait | record)"
)


@dataclass(frozen=True, slots=True)
class SerialPart:
    """`word(time | series)`; series is empty where all rows are one. text: as it was written."""

    word: str
    time: Expr
    series: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class StrataPart:
    """`varident(f)`, f one column or several joined by ':'."""

    strata: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class RecordPart:
    """`us(trait | record)`, each one column or several joined by ':'."""

    trait: tuple[str, ...]
    record: tuple[str, ...]
    text: str

    def build(self, y: FloatArray, factor: Callable[[tuple[str, ...]], GroupingFactor]) -> UnstructuredResidual:
        """Of rows with responses y (n,), whose variances by trait are a guess."""
        trait, record = factor(self.trait), factor(self.record)
        count = np.maximum(np.bincount(trait.codes), 1)
        rest = y - (np.bincount(trait.codes, y) / count)[trait.codes]
        variance = np.bincount(trait.codes, rest**2) / count
        guess = np.diag(np.where(variance > 0.0, variance, 1.0))
        return UnstructuredResidual(
            trait.codes, record.codes, trait.labels(), record.labels(), self.text, guess
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class ParsedResidual:
    """What residual= says, before any table is seen; one of the three at least."""

    serial: SerialPart | None
    strata: StrataPart | None
    records: RecordPart | None = None

    @property
    def groups(self) -> list[str]:
        """Columns that only group."""
        within = (*self.records.trait, *self.records.record) if self.records else ()
        return [*(self.serial.series if self.serial else ()), *(self.strata.strata if self.strata else ()), *within]

    def build(
        self,
        evaluate: Callable[[Expr], FloatArray],
        factor: Callable[[tuple[str, ...]], GroupingFactor],
        response: Expr,
    ) -> Residual:
        """The residual for rows whose expressions and grouping factors the two functions give."""
        if self.records is not None:
            return self.records.build(evaluate(response), factor)
        serial = self._serial(evaluate, factor) if self.serial else None
        if self.strata is None:
            assert serial is not None
            return serial
        levels = factor(self.strata.strata)
        strata = VarIdentResidual(levels.codes, levels.labels(), self.strata.text)
        return strata if serial is None else ProductResidual(serial, strata)

    def _serial(
        self, evaluate: Callable[[Expr], FloatArray], factor: Callable[[tuple[str, ...]], GroupingFactor]
    ) -> AR1Residual | OUResidual:
        assert self.serial is not None
        make, time = SERIAL[self.serial.word], evaluate(self.serial.time)
        if not self.serial.series:
            return make(time, label=self.serial.text)
        series = factor(self.serial.series)
        return make(time, series.codes, series.labels(), self.serial.text)


def parse_residual(text: str) -> ParsedResidual:
    """Read residual=; FormulaError that underlines the place."""
    if not isinstance(text, str):
        raise FormulaError(f"{USAGE}, not {type(text).__name__}")
    source = tokenize(text)
    if not source.tokens:
        raise FormulaError(f"residual= is empty. {USAGE}")
    serial: SerialPart | None = None
    strata: StrataPart | None = None
    factors = list(_factors(source))
    for lo, hi in factors:
        word = _word(source, lo, hi)
        if word == RECORDS:
            if len(factors) > 1:
                raise source.error("us(trait | record) has every variance and correlation: it stands alone", lo, hi)
            return ParsedResidual(None, None, _read_records(source, lo, hi))
        if word == STRATA:
            if strata is not None:
                raise source.error("varident() is there twice: one factor, or varident(f:g) for combinations", lo, hi)
            strata = StrataPart(_group(source, lo + 2, hi - 1), _text(source, lo, hi))
        else:
            if serial is not None:
                raise source.error(f"a product has one of {', '.join(SERIAL)}", lo, hi)
            serial = _read_serial(source, word, lo, hi)
    return ParsedResidual(serial, strata)


def _factors(source: Source) -> Iterator[tuple[int, int]]:
    """Tokens between top-level `*`."""
    start, end = 0, len(source.tokens)
    for i in source.top(0, end):
        if source.tokens[i].text == "*":
            yield start, i
            start = i + 1
    yield start, end


def _word(source: Source, lo: int, hi: int) -> str:
    """The word of a factor `word(...)`."""
    if lo == hi:
        at = min(lo, len(source.tokens) - 1)
        raise source.error("a factor is missing beside '*'", at, at + 1)
    word, words = source.tokens[lo].text, (*SERIAL, STRATA, RECORDS)
    if not source.is_call(lo) or source.partner[lo + 1] != hi - 1:
        raise source.error(f"this is not understood: {USAGE}", lo, hi)
    if word not in words:
        known = f"known are {', '.join(words)}{suggest(word, words)}"
        raise source.error(f"unknown residual structure '{word}': {known}", lo, lo + 1)
    if hi - lo == 3:
        raise source.error(f"{word}() is empty: {USAGE}", lo, hi)
    return word


def _read_serial(source: Source, word: str, lo: int, hi: int) -> SerialPart:
    bars = [i for i in source.top(lo + 2, hi - 1) if source.tokens[i].text in ("|", "||")]
    stop = bars[0] if bars else hi - 1
    if len(bars) > 1 or stop == lo + 2 or (bars and source.tokens[stop].text == "||"):
        raise source.error(f"{word}(...) is written {word}(t | g), t the times and g the series", lo, hi)
    time = source.expr(lo + 2, stop, python=True)
    if not time.names:
        raise time.error(f"{word}() needs the times: number the rows of each series in a column, and name it here")
    series = _group(source, stop + 1, hi - 1) if bars else ()
    return SerialPart(word, time, series, _text(source, lo, hi))


def _read_records(source: Source, lo: int, hi: int) -> RecordPart:
    bars = [i for i in source.top(lo + 2, hi - 1) if source.tokens[i].text in ("|", "||")]
    if len(bars) != 1 or source.tokens[bars[0]].text == "||" or bars[0] in (lo + 2, hi - 2):
        raise source.error("us(trait | record): the traits (or visits) of a row, and what rows belong together", lo, hi)
    bar = bars[0]
    return RecordPart(_group(source, lo + 2, bar), _group(source, bar + 1, hi - 1), _text(source, lo, hi))


def _group(source: Source, lo: int, hi: int) -> tuple[str, ...]:
    groups = read_groups(source, lo, hi)
    if len(groups) != 1:
        raise source.error("one grouping factor: a column, or a:b for the combinations of two", lo, hi)
    return groups[0]


def _text(source: Source, lo: int, hi: int) -> str:
    return source.shown[source.tokens[lo].start : source.tokens[hi - 1].end]
