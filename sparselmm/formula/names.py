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
from .tokens import Expr, Name

_NUMPY = (
    "abs exp expm1 log log1p log2 log10 sqrt cbrt sin cos tan arcsin arccos arctan arctan2 sinh cosh tanh "
    "floor ceil round sign minimum maximum where clip pi"
)


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
    read = {column: None for name in expr.names if (column := _column(expr, name, columns, known))}
    for name in expr.names:
        if name.is_call and name.text in read:
            raise expr.error(f"'{name.text}' is a column and a function here: rename the column", name)
    return list(read)


def quote_columns(expr: Expr, columns: Collection[str]) -> str:
    """The text of `expr` with backticks around columns such as `Sepal.Length`, which Python reads as an attribute."""
    text = expr.text
    for name in {n.text for n in expr.names if "." in n.text and not n.quoted}.intersection(columns):
        text = re.sub(rf"(?<![\w.`]){re.escape(name)}(?![\w.`])", f"`{name}`", text)
    return text


def _column(expr: Expr, name: Name, columns: Collection[str], known: Collection[str]) -> str | None:
    root = name.text if name.quoted else name.text.split(".")[0]
    if name.is_call and root == name.text:
        if root not in known:
            named = set(known).difference(dir(builtins))
            raise expr.error(f"unknown function '{root}' (give your own in context=){suggest(root, named)}", name)
        return None
    if name.text in columns:
        return name.text
    if root in columns:
        return root
    if root in known and not name.quoted:
        return None
    raise unknown_column(name.text, columns)


def unknown_column(name: str, columns: Iterable[str]) -> DataError:
    """The error for a column that is not there, with close matches."""
    names = list(columns)
    dotted = [c for c in names if c.startswith(f"{name}.")]
    shown = ", ".join(map(str, names[:12])) + (", ..." if len(names) > 12 else "")
    return DataError(f"column '{name}' is not in the table (columns: {shown}){suggest(name, names, dotted)}")


def suggest(name: str, candidates: Iterable[str], first: Sequence[str] = ()) -> str:
    """`; did you mean 'a' or 'b'?`, or nothing."""
    close = first or _close(name, sorted(candidates))
    return f"; did you mean {' or '.join(repr(c) for c in close)}?" if close else ""


def _close(name: str, candidates: Sequence[str]) -> list[str]:
    lower = {c.lower(): c for c in candidates if not c.startswith("_")}
    return [lower[c] for c in difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.6)]
