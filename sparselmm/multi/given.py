"""Means of traits of a new record of which other traits are known: the record is added to the data, at known G and R.

With eta (T,) what the fit says of a record, its error covariance S and y = eta + e, e ~ N(0, R), those known o,

    E(y | y_o) = eta + (S + R)_.o (S + R)_oo^-1 (y - eta)_o
    the mean's own error: A S* A',  A = I - R_.o R_oo^-1,  S* = S - S_.o (S + R)_oo^-1 S_o.
    of a new value besides: R - R_.o R_oo^-1 R_o.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .._errors import ModelError
from .._typing import FloatArray
from ..formula.names import unknown_column
from ..formula.table import numeric_column, open_table

if TYPE_CHECKING:
    from .result import MultiFit


def known_values(multi: "MultiFit", newdata: Any, given: bool | str | Sequence[str]) -> FloatArray:
    """Values of the given traits in new rows, (n, T), NaN where they are not known.

    given: names of traits, or True for all that newdata has. Errors: ModelError, and DataError for a column that is
    not there or holds no numbers.
    """
    table = open_table(newdata)
    if given is True:
        given = [t for t in multi.traits if t in table.columns]
    names = [given] if isinstance(given, str) else list(given) if isinstance(given, Sequence) else []
    if not names or not all(name in multi.traits for name in names):
        raise ModelError(f"given={given!r}: True, or names of traits that newdata has, of {', '.join(multi.traits)}")
    out = np.full((len(table), len(multi.traits)), np.nan)
    for name in names:
        if name not in table.columns:
            raise unknown_column(name, table.columns)
        out[:, multi.traits.index(name)] = numeric_column(table, name, "trait")
    _check_met(multi, names)
    return out


def _check_met(multi: "MultiFit", names: Sequence[str]) -> None:
    """ModelError where the residual covariance of a given trait with another is not known."""
    R = multi.R.loc[list(names)]
    if R.isna().any(axis=None):
        one, other = next((a, b) for a in R.index for b in R.columns if np.isnan(R.loc[a, b]))
        raise ModelError(
            f"given: no record has both '{one}' and '{other}', so that the covariance of their residuals is unknown; "
            "leave given= out"
        )


def condition(
    mean: FloatArray, S: FloatArray, R: FloatArray, Y: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Means, variances of their errors and of what a new value has besides, (n, T), from mean, Y (n, T) and S, R (n, T,
    T); a known trait is itself, without error.
    """
    R = np.broadcast_to(R, S.shape)
    mean, error, rest = mean.copy(), np.diagonal(S, axis1=1, axis2=2).copy(), np.diagonal(R, axis1=1, axis2=2).copy()
    there = np.isfinite(mean).all(axis=1)
    known = np.isfinite(Y)
    for o in np.unique(known[there], axis=0):
        rows = np.flatnonzero(there & (known == o).all(axis=1))
        if o.any():
            mean[rows], error[rows], rest[rows] = _update(mean[rows], S[rows], R[rows], Y[rows], np.flatnonzero(o))
    return mean, error, rest


def _update(mean: FloatArray, S: FloatArray, R: FloatArray, Y: FloatArray, o: Any) -> tuple[FloatArray, ...]:
    """Of rows that have the traits o."""
    V = (S + R)[:, o[:, None], o]
    shift = np.linalg.solve(V, (Y - mean)[:, o, None])
    later = S - S[:, :, o] @ np.linalg.solve(V, S[:, o])
    B = np.linalg.solve(R[:, o[:, None], o], R[:, o]).transpose(0, 2, 1)
    A = np.eye(S.shape[1]) - _spread(B, o)
    out = mean + ((S + R)[:, :, o] @ shift)[:, :, 0]
    error = np.einsum("nij,njk,nik->ni", A, later, A)
    rest = np.einsum("nii->ni", R) - np.einsum("nij,nji->ni", B, R[:, o])
    out[:, o], error[:, o], rest[:, o] = Y[:, o], 0.0, 0.0
    return out, np.maximum(error, 0.0), np.maximum(rest, 0.0)


def _spread(B: FloatArray, o: Any) -> FloatArray:
    """B (n, T, o) in the columns o of (n, T, T)."""
    out = np.zeros((len(B), B.shape[1], B.shape[1]))
    out[:, :, o] = B
    return out
