"""The tokens of a formula, with their places in the text, and the pieces of it that others evaluate."""

import keyword
import re
from collections.abc import Iterator
from dataclasses import dataclass

from .._errors import FormulaError

_TOKEN = re.compile(
    r"(?P<space>\s+)"
    r"|(?P<string>'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\")"
    r"|(?P<quoted>`[^`]*`)"
    r"|(?P<name>[^\W\d][\w.]*)"
    r"|(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"
    r"|(?P<op>\|\||\*\*|//|==|<=|>=|!=|%in%|.)",
    re.DOTALL,
)
_PAIRS = {")": "(", "]": "[", "}": "{"}
PYTHON_WORDS = frozenset("and or not if else for in is lambda True False None".split())


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of the formula: kind is string, quoted (backticks), name, number or op."""

    kind: str
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Name:
    """A name that an expression uses: a value (`x`, `np.pi`), or a function (`log(`, `x.abs(`)."""

    text: str
    start: int
    end: int
    is_call: bool = False
    quoted: bool = False


@dataclass(frozen=True, slots=True)
class Expr:
    """Text for formulaic or Python (`^` is `**`), its place in the formula, and the names in it.

    single: the column where the expression is nothing but one name.
    """

    text: str
    formula: str
    start: int
    end: int
    names: tuple[Name, ...] = ()
    single: str | None = None

    def error(self, message: str, name: Name | None = None) -> FormulaError:
        """A FormulaError that underlines the expression, or a name in it."""
        place = name or self
        return FormulaError(message, self.formula, place.start, place.end)


@dataclass(frozen=True, slots=True)
class Source:
    """The tokens of a formula; partner[i] is the index of the bracket that belongs to bracket i."""

    text: str
    tokens: tuple[Token, ...]
    partner: dict[int, int]

    @property
    def shown(self) -> str:
        """The text on one line, for messages."""
        return _one_line(self.text)

    def error(self, message: str, lo: int, hi: int) -> FormulaError:
        """A FormulaError that underlines tokens lo ... hi-1."""
        return FormulaError(message, self.shown, self.tokens[lo].start, self.tokens[hi - 1].end)

    def top(self, lo: int, hi: int) -> Iterator[int]:
        """Indices lo ... hi-1 outside any bracket that opens in this range."""
        i = lo
        while i < hi:
            yield i
            i = self.partner.get(i, i) + 1

    def is_call(self, i: int) -> bool:
        """Whether token i is a name right before an opening bracket."""
        following = self.tokens[i + 1].text if i + 1 < len(self.tokens) else ""
        return self.tokens[i].kind == "name" and following in ("(", "[")

    def expr(self, lo: int, hi: int, python: bool = False) -> Expr:
        """Tokens lo ... hi-1 as an expression: a sum of terms, or `python`."""
        first, last = self.tokens[lo], self.tokens[hi - 1]
        names = tuple(self._names(lo, hi))
        single = names[0].text if hi - lo == 1 and names else None
        return Expr(self._translate(lo, hi, python), self.shown, first.start, last.end, names, single)

    def _translate(self, lo: int, hi: int, python: bool) -> str:
        """The text of tokens lo ... hi-1 with `^` as a power: Python would read it as XOR, without a word.

        Columns such as `yield` go through formulaic's Q() where Python would take them for its own.
        """
        terms = () if python else set(self.top(lo, hi))
        out, at = [], self.tokens[lo].start
        for i in range(lo, hi):
            token = self.tokens[i]
            name = token.text.strip("`")
            is_column = token.kind == "quoted" or (token.kind == "name" and name not in PYTHON_WORDS)
            new = f"Q('{name}')" if is_column and keyword.iskeyword(name) and i not in terms else token.text
            out += [self.text[at : token.start], "**" if new == "^" else new]
            at = token.end
        return "".join(out)

    def _names(self, lo: int, hi: int) -> Iterator[Name]:
        for i in range(lo, hi):
            token = self.tokens[i]
            if token.kind == "quoted":
                yield Name(token.text[1:-1], token.start, token.end, quoted=True)
            elif token.kind == "name" and not self._is_syntax(i):
                is_call = self.is_call(i) and self.tokens[i + 1].text == "("
                yield Name(token.text, token.start, token.end, is_call)
                if token.text == "Q" and is_call and self.tokens[i + 2].kind == "string":
                    yield Name(self.tokens[i + 2].text[1:-1], token.start, token.end, quoted=True)

    def _is_syntax(self, i: int) -> bool:
        """Whether name i is a word of Python, a keyword argument (`df=3`) or an attribute (`).real`)."""
        attribute = i > 0 and self.tokens[i - 1].text == "."
        argument = i + 1 < len(self.tokens) and self.tokens[i + 1].text == "="
        return self.tokens[i].text in PYTHON_WORDS or attribute or argument


def _one_line(text: str) -> str:
    return re.sub(r"\s", " ", text)


def tokenize(text: str) -> Source:
    """Cut a formula into tokens and match its brackets; FormulaError for an open quote or bracket."""
    tokens = tuple(
        Token(str(m.lastgroup), m.group(), m.start(), m.end()) for m in _TOKEN.finditer(text) if m.lastgroup != "space"
    )
    shown = _one_line(text)
    partner: dict[int, int] = {}
    opened: list[int] = []
    for i, token in enumerate(tokens):
        if token.text in ("'", '"', "`"):
            raise FormulaError(f"the quote {token.text} is never closed", shown, token.start)
        if token.text in _PAIRS.values():
            opened.append(i)
        elif token.text in _PAIRS:
            if not opened or tokens[opened[-1]].text != _PAIRS[token.text]:
                raise FormulaError(f"'{token.text}' closes no bracket", shown, token.start, token.end)
            partner[opened[-1]] = i
            opened.pop()
    if opened:
        token = tokens[opened[-1]]
        raise FormulaError(f"the bracket '{token.text}' is never closed", shown, token.start, token.end)
    return Source(text, tokens, partner)
