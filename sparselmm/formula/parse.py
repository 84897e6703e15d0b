"""lme4's grammar: `y ~ x*z + (1 | g) + cs(0 + f | h) + offset(o)` -> response, fixed part, offsets and bars.

Bars are split off here, because formulaic reads `|` otherwise; what is left of the text is formulaic's.
Every position refers to the text as the user wrote it, so that an error underlines the right place.
"""

import builtins
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from .._errors import FormulaError
from ..structures import covariance_words, latent_words
from .tokens import Expr, Source, tokenize

_BARS = ("|", "||")


@dataclass(frozen=True, slots=True)
class Bar:
    """`word(left | group)`. groups: interactions that the right side expands to, `a/b` = (a,), (a, b).

    given, options: what follows a comma, `ped(1 | id, P)`, `ar1(0 + t | g, start='free')`. factors: the parts of
    `ar1(0 + row):ar1(0 + col)`, whose own left sides and groups then are the first part's.
    """

    left: Expr
    groups: tuple[tuple[str, ...], ...]
    word: str
    uncorrelated: bool
    start: int
    end: int
    given: Expr | None = None
    options: tuple[tuple[str, Expr], ...] = ()
    factors: tuple["Bar", ...] = ()

    def error(self, message: str) -> FormulaError:
        """A FormulaError that underlines the whole term."""
        return FormulaError(message, self.left.formula, self.start, self.end)


@dataclass(frozen=True, slots=True)
class ParsedFormula:
    """What a formula says, before any table is seen."""

    text: str
    response: Expr
    fixed: Expr
    offsets: tuple[Expr, ...]
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class _Addend:
    """Tokens lo ... hi-1 between two top-level signs; the signs before it are sign ... lo-1."""

    sign: int
    lo: int
    hi: int


def parse(text: str, functions: Collection[str] = ()) -> ParsedFormula:
    """Split a formula into its parts.

    functions: names whose calls are Python, so that a `|` inside (`I(a | b)`) is not a bar.
    Errors: FormulaError that underlines the place.
    """
    if not isinstance(text, str):
        raise FormulaError(f"a formula is a string such as 'y ~ x + (1 | g)', not {type(text).__name__}")
    source = tokenize(text)
    tilde = _find_tilde(source)
    known = {*functions, *dir(builtins)}
    _no_stray_bars(source, 0, tilde, known)
    response = source.expr(0, tilde, python=True)
    parts = _Parts(source, known)
    parts.collect(tilde + 1, len(source.tokens))
    return ParsedFormula(text, response, parts.fixed_part(), tuple(parts.offsets), tuple(parts.bars))


def _find_tilde(source: Source) -> int:
    tildes = [i for i, t in enumerate(source.tokens) if t.text == "~"]
    if not tildes:
        raise FormulaError("a formula needs a '~': y ~ x + (1 | g)", source.shown.strip() or "''")
    if len(tildes) > 1:
        raise source.error("a formula has one '~' only", tildes[1], tildes[1] + 1)
    tilde = tildes[0]
    if tilde not in source.top(0, len(source.tokens)):
        raise source.error("the '~' stands inside brackets", tilde, tilde + 1)
    if tilde == 0:
        raise source.error("the response is missing before '~'", 0, 1)
    if tilde + 1 == len(source.tokens):
        raise source.error("nothing follows '~'; write y ~ 1 + (1 | g)", tilde, tilde + 1)
    return tilde


def _no_stray_bars(source: Source, lo: int, hi: int, functions: Collection[str]) -> None:
    """Refuse a bar that is not a term of its own; calls of `functions` are Python and left alone."""
    i = lo
    while i < hi:
        token = source.tokens[i]
        if token.text in _BARS:
            raise source.error(
                "a random term stands alone between '+' signs and in brackets, as in y ~ x + (1 | g)", i, i + 1
            )
        if source.is_call(i) or token.text == "{":
            close = source.partner[i if token.text == "{" else i + 1]
            _no_stray_word(source, i, close, functions)
            i = close
        i += 1


def _no_stray_word(source: Source, i: int, close: int, functions: Collection[str]) -> None:
    word, words = source.tokens[i].text, {*covariance_words(), *latent_words()}
    if word == "offset":
        raise source.error("offset(...) stands alone between '+' signs", i, close + 1)
    if word.split(".")[0] in functions and word not in words:
        return
    inside = source.top(i + 2, close) if source.tokens[i + 1].text == "(" else ()
    if not any(source.tokens[j].text in _BARS for j in inside):
        return
    if word in words:
        raise source.error(f"{word}(... | ...) stands alone between '+' signs", i, close + 1)
    raise source.error(f"unknown structure '{word}': known are {', '.join(sorted(words))}", i, i + 1)


class _Parts:
    """Sorts the addends of the right side into fixed part, offsets and bars."""

    def __init__(self, source: Source, functions: set[str]):
        self.source, self.functions = source, functions
        self.fixed: list[_Addend] = []
        self.offsets: list[Expr] = []
        self.bars: list[Bar] = []

    def collect(self, lo: int, hi: int) -> None:
        """Sort the addends of tokens lo ... hi-1."""
        for addend in _addends(self.source, lo, hi):
            self._sort(addend)

    def fixed_part(self) -> Expr:
        """What is left for formulaic; `1` where nothing is."""
        if not self.fixed:
            return Expr("1", self.source.shown, 0, len(self.source.text))
        pieces = [self.source.expr(a.sign, a.hi) for a in self.fixed]
        texts = [p.text if a.sign < a.lo else f"+ {p.text}" for a, p in zip(self.fixed, pieces, strict=True)]
        text = " ".join(texts).lstrip("+ \t\r\n")
        names = tuple(name for p in pieces for name in p.names)
        return Expr(text, self.source.shown, min(p.start for p in pieces), max(p.end for p in pieces), names)

    def _sort(self, addend: _Addend) -> None:
        source, lo, hi = self.source, addend.lo, addend.hi
        word = source.tokens[lo].text if source.is_call(lo) else ""
        opening = lo + bool(word)
        enclosed = source.partner.get(opening) == hi - 1 and source.tokens[opening].text == "("
        bars = [i for i in source.top(opening + 1, hi - 1) if source.tokens[i].text in _BARS] if enclosed else []
        pieces = self._latent_calls(lo, hi)
        if pieces:
            self._no_minus(addend, "a random term")
            self.bars.append(_read_latent(source, pieces, self.functions))
        elif word == "offset" and enclosed:
            self._no_minus(addend, "an offset")
            self._add_offset(lo, hi)
        elif bars and (not word or word in covariance_words()):
            self._no_minus(addend, "a random term")
            self.bars.append(_read_bar(source, addend, word, bars, self.functions))
        elif enclosed and not word and self._holds_bar(lo + 1, hi - 1):
            self._no_minus(addend, "a random term")
            self.collect(lo + 1, hi - 1)
        else:
            _no_stray_bars(source, lo, hi, self.functions)
            self.fixed.append(addend)

    def _latent_calls(self, lo: int, hi: int) -> list[tuple[int, int]]:
        """The addend as calls of words with correlated levels joined by ':', or nothing where it is not."""
        source = self.source
        cuts = [i for i in source.top(lo, hi) if source.tokens[i].text == ":"]
        pieces = list(zip([lo, *(i + 1 for i in cuts)], [*cuts, hi], strict=True))
        words = latent_words()
        is_latent = [
            a < b and source.is_call(a) and source.tokens[a].text in words and source.partner[a + 1] == b - 1
            for a, b in pieces
        ]
        return pieces if all(is_latent) else []

    def _add_offset(self, lo: int, hi: int) -> None:
        if hi - lo == 3:
            raise self.source.error("offset() is empty", lo, hi)
        self.offsets.append(self.source.expr(lo + 2, hi - 1, python=True))

    def _holds_bar(self, lo: int, hi: int) -> bool:
        """Whether an addend of lo ... hi-1 is itself a bracket with a bar in it: `(x + (1 | g))`."""
        tokens, top = self.source.tokens, list(self.source.top(lo, hi))
        brackets = [i for i in top if tokens[i].text == "("]
        plain = [i for i in brackets if i == lo or tokens[i - 1].kind == "op"]
        worded = [i for i in brackets if i > lo and tokens[i - 1].text in covariance_words()]
        return any(t.text in _BARS for i in plain + worded for t in tokens[i : self.source.partner[i]])

    def _no_minus(self, addend: _Addend, what: str) -> None:
        for i in range(addend.sign, addend.lo):
            if self.source.tokens[i].text == "-":
                raise self.source.error(f"{what} cannot be taken away: leave it out", i, addend.hi)


def _addends(source: Source, lo: int, hi: int) -> Iterator[_Addend]:
    """Split at top-level `+` and `-`; signs in a row belong to the addend after them."""
    sign = start = lo
    for i in source.top(lo, hi):
        if source.tokens[i].text not in ("+", "-"):
            continue
        if i > start:
            yield _Addend(sign, start, i)
            sign = i
        start = i + 1
    if start == hi:
        raise source.error(f"nothing follows '{source.tokens[hi - 1].text}'", hi - 1, hi)
    yield _Addend(sign, start, hi)


def _read_bar(source: Source, addend: _Addend, word: str, bars: list[int], functions: Collection[str]) -> Bar:
    bar, lo, hi = bars[0], addend.lo + 1 + bool(word), addend.hi - 1
    if len(bars) > 1:
        raise source.error("a random term has one bar only", bars[1], bars[1] + 1)
    if bar == lo:
        raise source.error("the left side of the bar is empty; write (1 | g)", bar, bar + 1)
    if bar + 1 == hi:
        raise source.error("the grouping factor is missing after the bar", bar, bar + 1)
    uncorrelated = source.tokens[bar].text == "||"
    if uncorrelated and word:
        raise source.error(f"'||' inside {word}(): write (x || g) or {word}(x | g)", bar, bar + 1)
    _no_stray_bars(source, lo, bar, functions)
    groups = _Groups(source, hi).read(bar + 1)
    start, end = source.tokens[addend.lo].start, source.tokens[hi].end
    return Bar(source.expr(lo, bar), groups, word, uncorrelated, start, end)


def _read_latent(source: Source, pieces: list[tuple[int, int]], functions: Collection[str]) -> Bar:
    """`ar1(0 + t | g)`, `ar1(0 + t)`, `ped(1 + x | id, P)`, or several joined by ':'."""
    bars = tuple(_read_latent_call(source, lo, hi, functions) for lo, hi in pieces)
    if len(bars) == 1:
        return bars[0]
    return replace(bars[0], end=bars[-1].end, factors=bars)


def _read_latent_call(source: Source, lo: int, hi: int, functions: Collection[str]) -> Bar:
    word, first, last = source.tokens[lo].text, lo + 2, hi - 1
    commas = [i for i in source.top(first, last) if source.tokens[i].text == ","]
    end = commas[0] if commas else last
    if first == end:
        raise source.error(f"{word}() is empty", lo, hi)
    bars = [i for i in source.top(first, end) if source.tokens[i].text in _BARS]
    if len(bars) > 1 or (bars and bars[0] in (first, end - 1)):
        raise source.error(f"{word}(...) is written {word}(effects | group)", first, end)
    if bars and source.tokens[bars[0]].text == "||":
        raise source.error(f"'||' inside {word}(): write {word}(... | g)", bars[0], bars[0] + 1)
    stop = bars[0] if bars else end
    _no_stray_bars(source, first, stop, functions)
    groups = _Groups(source, end).read(stop + 1) if bars else ()
    given, options = _arguments(source, [*commas, last] if commas else [])
    span = source.tokens[lo].start, source.tokens[hi - 1].end
    return Bar(source.expr(first, stop), groups, word, False, *span, given, options)


def _arguments(source: Source, cuts: list[int]) -> tuple[Expr | None, tuple[tuple[str, Expr], ...]]:
    """The object after the first comma, and the `name=value` options."""
    given, options = None, []
    for a, b in zip(cuts, cuts[1:], strict=False):
        if b - a < 2:
            raise source.error("an argument is missing here", a, b)
        if b - a > 3 and source.tokens[a + 2].text == "=":
            options.append((source.tokens[a + 1].text, source.expr(a + 3, b, python=True)))
        elif given is None:
            given = source.expr(a + 1, b, python=True)
        else:
            raise source.error("one object only goes with a term", a + 1, b)
    return given, tuple(options)


def read_groups(source: Source, lo: int, hi: int) -> tuple[tuple[str, ...], ...]:
    """The interactions that a right side of tokens lo ... hi-1 stands for; `a/b` is (a,), (a, b)."""
    return _Groups(source, hi).read(lo)


class _Groups:
    """The right side of a bar, by recursive descent: `+` (several terms), then `/`, then `:`."""

    def __init__(self, source: Source, end: int):
        self.source, self.end, self.at = source, end, 0

    def read(self, at: int) -> tuple[tuple[str, ...], ...]:
        """Interactions of the tokens from `at` to the end."""
        self.at = at
        out = self._sum()
        if self.at < self.end:
            raise self._unexpected()
        return tuple(tuple(dict.fromkeys(g)) for g in out)

    def _sum(self) -> list[tuple[str, ...]]:
        out = self._nested()
        while self._take("+"):
            out = out + self._nested()
        return out

    def _nested(self) -> list[tuple[str, ...]]:
        out = self._crossed()
        while self._take("/"):
            outer = tuple(name for group in out for name in group)
            out = out + [outer + inner for inner in self._crossed()]
        return out

    def _crossed(self) -> list[tuple[str, ...]]:
        out = self._atom()
        while self._take(":"):
            right = self._atom()
            out = [a + b for a in out for b in right]
        return out

    def _atom(self) -> list[tuple[str, ...]]:
        if self._take("("):
            return self._bracket()
        if self.at >= self.end:
            raise self.source.error("a grouping factor is missing here", self.at - 1, self.at)
        token = self.source.tokens[self.at]
        if token.kind not in ("name", "quoted"):
            raise self._unexpected()
        if self.source.is_call(self.at):
            return self._call()
        self.at += 1
        return [(token.text.strip("`"),)]

    def _call(self) -> list[tuple[str, ...]]:
        start, word = self.at, self.source.tokens[self.at].text
        if word not in ("factor", "C"):
            close = self.source.partner[start + 1] + 1
            raise self.source.error(f"'{word}(...)' as a grouping factor: make it a column first", start, close)
        self.at += 2
        return self._bracket()

    def _bracket(self) -> list[tuple[str, ...]]:
        out = self._sum()
        if not self._take(")"):
            raise self._unexpected()
        return out

    def _take(self, text: str) -> bool:
        found = self.at < self.end and self.source.tokens[self.at].text == text
        self.at += found
        return found

    def _unexpected(self) -> FormulaError:
        at = min(self.at, self.end)
        hint = "; for a*b write (1 | a) + (1 | b) + (1 | a:b)" if self.source.tokens[at].text == "*" else ""
        message = f"a grouping factor is a column, a:b or a/b: '{self.source.tokens[at].text}' is not understood{hint}"
        return self.source.error(message, at, at + 1)
