"""What is asked of the fixed effects: a matrix L over the coefficients, from an array, a mapping or a table."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .._errors import ModelError
from .._typing import BoolArray, FloatArray
from ..formula.names import suggest

if TYPE_CHECKING:
    from ..results import Fit

ESTIMABLE = 1e-7  # of a contrast's size: as far as it may reach out of the row space of X, whose rank is judged so


@dataclass(frozen=True, slots=True, eq=False)
class Contrasts:
    """Estimable linear functions of the coefficients.

    L: (c, p) over the p coefficients that are in the model. names: of its c rows.
    """

    L: FloatArray
    names: tuple[str, ...]


def read_contrasts(fit: "Fit", L: Any) -> Contrasts:
    """L over the coefficients in the model; a coefficient that was dropped counts as zero.

    L: (p,) or (c, p) over `fit.fixef`, a mapping coefficient -> weight, or a DataFrame with a column a coefficient.
    Errors: ModelError for an unknown coefficient, a wrong shape, or a contrast that cannot be estimated.
    """
    if isinstance(L, pd.DataFrame):
        rows, names = _named(fit, L.columns, L.to_numpy()), tuple(map(str, L.index))
    elif isinstance(L, Mapping):
        rows, names = _named(fit, L, np.array([list(L.values())])), (_sum(L),)
    else:
        rows = _shaped(fit, L)
        names = tuple(_sum(dict(zip(fit.spec.fixed_names, row, strict=True))) for row in rows)
    return Contrasts(estimable(fit, rows, names), names)


def estimable(fit: "Fit", rows: FloatArray, names: tuple[str, ...]) -> FloatArray:
    """rows (c, all columns of X) -> (c, p) over the kept ones; ModelError where the data do not say what a row is."""
    lost = undetermined(fit, rows)
    if lost.any():
        raise ModelError(
            f"'{names[int(np.argmax(lost))]}' cannot be estimated: {', '.join(fit.dropped_columns)} depends "
            "linearly on the other columns and was dropped; ask for a combination that the data determine"
        )
    return rows[:, fit.likelihood.kept]


def undetermined(fit: "Fit", rows: FloatArray) -> BoolArray:
    """Which combinations of all coefficients (c, p) reach out of the row space of X, (c,)."""
    outside = np.abs(rows @ null_space(fit)).max(axis=1, initial=0.0)
    return np.asarray(outside > ESTIMABLE * np.abs(rows).max(axis=1, initial=0.0))


def need_dense(fit: "Fit", what: str) -> None:
    """ModelError where fixed effects are sparse, or a precision has a null space that counts among them."""
    if fit.spec.S is not None or fit.likelihood.n_fixed != len(fit.likelihood.kept):
        raise ModelError(
            f"{what} is not there for sparse fixed effects and for precisions with a null space; fit.test(L) and "
            "fit.coef_table() are"
        )


def null_space(fit: "Fit") -> FloatArray:
    """Directions of the coefficients that X does not see, a column for each dropped one, (columns of X, dropped)."""
    kept, p = fit.likelihood.kept, len(fit.spec.fixed_names)
    dropped = np.setdiff1d(np.arange(p), kept)
    out = np.zeros((p, len(dropped)))
    if len(dropped):
        X = fit.spec.X if fit.spec.S is None else np.linalg.qr((fit.spec.design.T @ fit.spec.design).toarray())[1]
        size = np.abs(X).max(axis=0)
        size[size == 0.0] = 1.0
        scaled = X / size
        out[kept] = -np.linalg.lstsq(scaled[:, kept], scaled[:, dropped])[0] / size[kept, None]
        out[dropped, np.arange(len(dropped))] = 1.0 / size[dropped]
    return out


def _named(fit: "Fit", columns: Any, weights: Any) -> FloatArray:
    """Weights (c, len(columns)) at their places among all columns of X."""
    known = list(fit.spec.fixed_names)
    for name in columns:
        if name not in known:
            shown = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
            raise ModelError(f"no fixed effect '{name}' (there are {shown}){suggest(str(name), known)}")
    given = numbers(weights)
    out = np.zeros((len(given), len(known)))
    out[:, [known.index(name) for name in columns]] = given
    return out


def _shaped(fit: "Fit", L: Any) -> FloatArray:
    rows, p = numbers(L), len(fit.spec.fixed_names)
    rows = rows[None, :] if rows.ndim == 1 else rows
    if rows.ndim != 2 or rows.shape[1] != p or len(rows) == 0:
        raise ModelError(
            f"L has shape {np.shape(L)}; a contrast has a weight for each of the {p} fixed effects "
            f"({', '.join(fit.spec.fixed_names[:12])}{', ...' if p > 12 else ''})"
        )
    return rows


def numbers(values: Any, what: str = "L") -> FloatArray:
    """`values` as finite numbers; ModelError where they are none."""
    try:
        out = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ModelError(f"the values of {what} are numbers, not {values!r}") from error
    if not np.isfinite(out).all():
        raise ModelError(f"a value of {what} is missing or infinite")
    return out


def _sum(weights: Mapping[str, Any]) -> str:
    """`f[T.b] - f[T.c]`, `0.5 x + z`."""
    out = ""
    for name, weight in weights.items():
        if weight:
            size = "" if abs(weight) == 1 else f"{abs(weight):.4g} "
            out += (" - " if weight < 0 else " + ") + size + str(name)
    return (out.removeprefix(" + ") if out[:3] == " + " else out.replace(" - ", "-", 1)) or "0"
