"""The reference grid: every combination of the levels of factors, with covariates at their means."""

import re
from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .._errors import ModelError
from .._typing import FloatArray
from ..formula.names import suggest
from .contrasts import need_dense

if TYPE_CHECKING:
    from ..results import Fit

MOST_NUMBERS = 5e7  # rows of the grid times columns of X: 400 MB


def reference_grid(fit: "Fit", at: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Column of the table -> its values in the grid.

    Levels of factors, means of covariates over the rows used (both values of one that has two), or what `at` says.
    Errors: ModelError for a name in `at` that the fixed part does not read, and for no value or a missing one.
    """
    encoding = fit.spec.encoding
    if encoding is None:
        raise ModelError("a model from arrays has no factors: test weights of its coefficients with fit.test(L)")
    need_dense(fit, "emmeans")
    columns = encoding.fixed_design.columns
    if not isinstance(at, Mapping):
        raise ModelError(f"at={at!r}: a mapping column -> value or values, such as {{'x': [0, 1]}}")
    for name in at:
        if name not in columns:
            raise ModelError(f"at: '{name}' is not in the fixed part{suggest(str(name), columns)}")
    return {c: _listed(c, at[c]) if c in at else _values(fit, c) for c in columns}


def _listed(column: str, value: Any) -> list[Any]:
    """A value or several; ModelError for none, and for a missing one."""
    scalar = isinstance(value, str) or not isinstance(value, (Sequence, np.ndarray, pd.Index, pd.Series))
    out = [value] if scalar else list(value)
    if not out or pd.isna(pd.Series(out, dtype=object)).any():
        raise ModelError(f"at: '{column}' needs a value or several, not {value!r}")
    return out


def _values(fit: "Fit", column: str) -> list[Any]:
    encoding = fit.spec.encoding
    if encoding.categories[column] is not None:
        return list(encoding.categories[column])
    levels = _coded_levels(fit, column)
    return list(encoding.typical[column]) if levels is None else levels


def _coded_levels(fit: "Fit", column: str) -> list[Any] | None:
    """Levels of a column that the formula makes a factor: `C(x)`, `factor(x)`, true/false."""
    pattern = re.compile(rf"(?:(?:C|factor)\(\s*)?`?{re.escape(column)}`?\s*(?:,.*|\))?")
    for expr, state in fit.spec.encoding.fixed_design.spec.encoder_state.items():
        if "contrasts" in state[1] and pattern.fullmatch(expr):
            return list(state[1]["contrasts"].levels)
    return None


def average(fit: "Fit", values: Mapping[str, Sequence[Any]], shown: Sequence[str]) -> tuple[pd.DataFrame, FloatArray]:
    """Combinations of the columns `shown` (the first changes fastest) and the mean row of X of each, equal weights."""
    p, rest = len(fit.spec.fixed_names), [name for name in values if name not in shown]
    rows = int(np.prod([len(v) for v in values.values()], dtype=np.float64))
    if rows * p > MOST_NUMBERS:
        sizes = ", ".join(f"{name} {len(v)}" for name, v in values.items() if len(v) > 1)
        raise ModelError(f"the reference grid has {rows:,} rows ({sizes}): fix some columns with at=")
    outer = list(product(*(values[name] for name in reversed(shown))))
    inner = list(product(*(values[name] for name in rest)))
    levels = pd.DataFrame([row[::-1] for row in outer], columns=list(shown))
    grid = levels.loc[levels.index.repeat(len(inner))].reset_index(drop=True)
    for j, name in enumerate(rest):
        grid[name] = [row[j] for row in inner] * len(outer)
    X = fit.spec.encoding.fixed(grid[list(values)])
    return levels, X.reshape(len(outer), len(inner), p).mean(axis=1)
