"""What the names in a formula mean: columns of the table, the user's context, or functions known here."""

import builtins
import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from formulaic.transforms import TRANSFORMS, C

from .._errors import DataError
from ..structures.latent import latent_words
from .tokens import PYTHON_WORDS, Expr, Name

_NUMPY = (
    "abs exp expm1 log log1p log2 log10 sqrt cbrt sin cos tan arcsin arccos arctan arctan2 sinh cosh tanh "
    "floor ceil round sign minimum maximum where clip pi"
)

R_VALUES = {"TRUE": "True", "FALSE": "False", "NULL": "None"}
FROM_R = {  # functions that people know, and what does the same here
    "ns": "R's ns(x, df=4) is cr(x, df=4, constraints='center')",
    "s": "a smooth of x is rw2(0 + x), splines are bs(x, df=5) and cr(x, df=5)",
    "cbind": "for several responses there are lmm_multi and lmm_many",
    "ifelse": "take where(condition, a, b)",
    "as.factor": "take factor(x)",
    "as.numeric": "numbers are numbers; make a column of text numeric first",
    "relevel": "the first level is chosen by C(f, contr.treatment('level'))",
    "weights": "weights are an argument beside the formula, weights='column'",
}


def factor(data: Any, *args: Any, **kwargs: Any) -> Any:
    """formulaic's C(), with whole numbers as integers: levels `2`, not `2.0`."""
    if isinstance(data, pd.Series) and data.dtype.kind == "f" and (data == np.floor(data)).all():
        data = data.astype(np.int64)
    return C(data, *args, **kwargs)


FUNCTIONS: Mapping[str, Any] = {name: getattr(np, name) for name in _NUMPY.split()} | {"C": factor, "factor": factor}


def evaluation_context(context: Mapping[str, Any] | None) -> dict[str, Any]:
    """Names for formulaic: the functions known here, and above them the user's own."""
    return {**FUNCTIONS, **(context or {})}


def known_names(context: Mapping[str, Any]) -> frozenset[str]:
    """Every name that is no column: of the context, of formulaic, of Python."""
    return frozenset([*context, *TRANSFORMS, *dir(builtins)])


def columns_of(expr: Expr, columns: Collection[str], known: Collection[str]) -> list[str]:
    """The columns that an expression reads.

    A column comes before a name of the context, as in R. Errors: DataError for a column that the table does not
    have, FormulaError for an unknown function or a name that is both a column and a function here.
    """
    if word := _reserved(expr, columns):
        raise expr.error(f"'{word}' is a word of Python: write the column in backticks, `{word}`")
    read = {column: None for name in expr.names if (column := _column(expr, name, columns, known))}
    for name in expr.names:
        if name.is_call and name.text in read:
            raise expr.error(f"'{name.text}' is a column and a function here: rename the column", name)
    return list(read)


def _reserved(expr: Expr, columns: Collection[str]) -> str | None:
    """The first column that stands in the expression as a bare word of Python, such as `lambda`."""
    words = PYTHON_WORDS.intersection(columns)
    bare = (w for w in words if re.search(rf"(?<![\w.`'\"]){w}(?![\w`'\"])", expr.text))
    return next(bare, None)


def quote_columns(expr: Expr, columns: Collection[str]) -> str:
    """The text of `expr` with backticks around columns such as `Sepal.Length`, which Python reads as an attribute."""
    text = expr.text
    for name in {n.text for n in expr.names if "." in n.text and not n.quoted}.intersection(columns):
        text = re.sub(rf"(?<![\w.`]){re.escape(name)}(?![\w.`])", f"`{name}`", text)
    return text


def _column(expr: Expr, name: Name, columns: Collection[str], known: Collection[str]) -> str | None:
    root = name.text if name.quoted else name.text.split(".")[0]
    if name.is_call and root == name.text:
        if root in latent_words() and root not in known:
            raise expr.error(
                f"'{root}(...)' is a random term: it is added, y ~ x + {root}(...), and a product of two series is "
                "written ar1(0 + row):ar1(0 + col), for each level of a group ar1(0 + row | g):ar1(0 + col | g)",
                name,
            )
        if root not in known:
            named = set(known).difference(dir(builtins))
            hint = FROM_R.get(root)
            way_out = f"; {hint}" if hint else suggest(root, named)
            raise expr.error(f"unknown function '{root}' (give your own in context=){way_out}", name)
        return None
    if name.text in columns:
        return name.text
    if root in columns:
        return root
    if root in known and not name.quoted:
        return None
    if name.is_call:
        hint = FROM_R.get(name.text, f"make a column of it first, or give context={{'{root}': {root}}}")
        raise expr.error(f"unknown function '{name.text}'; {hint}", name)
    raise unknown_column(name.text, columns)


def unknown_column(name: str, columns: Iterable[str]) -> DataError:
    """The error for a column that is not there, with close matches."""
    names = list(columns)
    dotted = [c for c in names if c.startswith(f"{name}.")]
    if name in R_VALUES:
        return DataError(f"column '{name}' is not in the table; for R's {name} write {R_VALUES[name]}")
    shown = ", ".join(map(str, names[:12])) + (", ..." if len(names) > 12 else "")
    return DataError(f"column '{name}' is not in the table (columns: {shown}){suggest(name, names, dotted)}")


def suggest(name: str, candidates: Iterable[str], first: Sequence[str] = ()) -> str:
    """`; did you mean 'a' or 'b'?`, or nothing."""
    close = first or _close(name, sorted(candidates))
    return f"; did you mean {' or '.join(repr(c) for c in close)}?" if close else ""


def _close(name: str, candidates: Sequence[str]) -> list[str]:
    lower = {c.lower(): c for c in candidates if not c.startswith("_")}
    return [lower[c] for c in difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.6)]
