"""Covariance matrices that are held -> parameters of the stacked model, by its names and in its units."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .._errors import DataError, ModelError
from .._typing import FloatArray
from .covariances import RESIDUAL, term_labels, user_order

if TYPE_CHECKING:
    from .stack import Stacked

ASYMMETRY = 1e-9  # relative, as for a given relationship matrix
NEGATIVE = 1e-10  # of the largest eigenvalue: rounding of a singular matrix


def held_parameters(stacked: "Stacked", fixed: Mapping[str, Any] | None) -> dict[str, float]:
    """`fixed` of lmm() for the stacked model.

    fixed: text or group of a term, or "Residual" -> matrix in units of the traits, NaN what is estimated.
    Errors: ModelError, DataError.
    """
    if fixed is None:
        return {}
    if not isinstance(fixed, Mapping):
        raise ModelError(f"fixed: terms with covariance matrices, as in {{'animal': G, 'Residual': R}}, not {fixed!r}")
    out: dict[str, float] = {}
    for key, given in fixed.items():
        out |= _of_residual(stacked, given) if key == RESIDUAL else _of_term(stacked, _place(stacked, key), key, given)
    return out


def _place(stacked: "Stacked", key: str) -> int:
    """Of a term of the stacked model, by its text or else its group."""
    labels, names = term_labels(stacked), [term.name for term in stacked.spec.terms]
    for texts in (labels, names):
        if texts.count(key) == 1:
            return texts.index(key)
    known = ", ".join(map(repr, [*labels, RESIDUAL]))
    raise ModelError(f"fixed: '{key}' is {'several terms' if key in names else 'no term'}; there are {known}")


def _of_term(stacked: "Stacked", k: int, key: str, given: Any) -> dict[str, float]:
    term = stacked.spec.terms[k]
    at = user_order(stacked, term)
    r = len(at) // len(stacked.traits)
    effects = tuple(term.effects[i] for i in at) if r > 1 else stacked.traits
    V = _matrix(key, given, effects) / np.outer(*[np.repeat(stacked.scale, r)] * 2)
    own = np.empty_like(V)
    own[np.ix_(at, at)] = V
    _check_definite(key, own, 0.0)
    names = [f"{e}|{term.name}" for e in term.effects]
    if sum(t.name == term.name and set(t.effects) & set(term.effects) != set() for t in stacked.spec.terms) > 1:
        raise ModelError(
            f"fixed: '{key}' shares its parameters' names with another term of {term.name}; fit with lmm()"
        )
    sd = np.sqrt(np.diag(own))
    out = {f"sd_{name}": float(s) for name, s in zip(names, sd, strict=True) if np.isfinite(s)}
    for i, j, value in _correlations(key, own, effects):
        out[f"cor_{term.effects[i]}.{term.effects[j]}|{term.name}"] = value
    return out


def _of_residual(stacked: "Stacked", given: Any) -> dict[str, float]:
    order, residual = list(stacked.order), stacked.spec.residual
    assert residual is not None
    V = (_matrix(RESIDUAL, given, stacked.traits) / np.outer(stacked.scale, stacked.scale))[np.ix_(order, order)]
    known, names = residual.natural_names(), [stacked.traits[t] for t in order]
    never = stacked.present.T.astype(np.int64) @ stacked.present == 0
    V[never[np.ix_(order, order)]] = 0.0  # no row has both: R says nothing of them
    _check_definite(RESIDUAL, V, NEGATIVE)
    sd, out = np.sqrt(np.diag(V)), dict[str, float]()
    if np.isfinite(sd).any() and not np.isfinite(sd).all():
        raise ModelError("fixed: variances of 'Residual' are held all together, or none of them (NaN)")
    if np.isfinite(sd).all():
        out = {"sigma": float(sd[0])}
        out |= {f"ratio_{t}|residual": float(s / sd[0]) for t, s in zip(names[1:], sd[1:], strict=True)}
    pairs = _correlations(RESIDUAL, V, names)
    out |= {f"cor_{names[i]}.{names[j]}|residual": value for i, j, value in pairs}
    return {name: value for name, value in out.items() if name == "sigma" or name in known}


def _matrix(key: str, given: Any, names: tuple[str, ...]) -> FloatArray:
    """(d, d) in the order of names. Errors: DataError."""
    try:
        if isinstance(given, pd.DataFrame):
            lost = [name for name in names if name not in given.index or name not in given.columns]
            if lost or given.shape != (len(names), len(names)):
                raise DataError(f"fixed: the table of '{key}' needs rows and columns {', '.join(names)}")
            given = given.loc[list(names), list(names)]
        out = np.array(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"fixed: '{key}' needs a matrix of numbers: {error}") from error
    if out.shape != (len(names), len(names)):
        raise DataError(f"fixed: '{key}' needs a matrix of {', '.join(names)}, not one of shape {out.shape}")
    if not np.allclose(out, out.T, rtol=ASYMMETRY, atol=0.0, equal_nan=True) or np.isinf(out).any():
        raise DataError(f"fixed: the matrix of '{key}' is not symmetric, or not finite")
    return out


def _check_definite(key: str, V: FloatArray, least: float) -> None:
    """Errors: ModelError where what is known cannot be of a covariance matrix. least: of eigenvalues, relative."""
    known = np.flatnonzero(np.isfinite(np.diag(V)))
    part = V[np.ix_(known, known)]
    if (np.diag(part) < 0.0).any() or (key == RESIDUAL and (np.diag(part) == 0.0).any()):
        raise ModelError(f"fixed: the variances of '{key}' are not all {'positive' if least else 'at least 0'}")
    if len(part) and np.isfinite(part).all():
        d = np.linalg.eigvalsh(part)
        if d[0] < (least if least else -NEGATIVE) * d[-1]:
            raise ModelError(f"fixed: the matrix of '{key}' is not positive {'' if least else 'semi'}definite")


def _correlations(key: str, V: FloatArray, effects: Any) -> Iterator[tuple[int, int, float]]:
    """Pairs i < j whose correlation is held, and its value."""
    for i, j in zip(*np.triu_indices(len(V), 1), strict=True):
        if V[i, j] == 0.0:
            yield int(i), int(j), 0.0
        elif np.isfinite(V[i, j]):
            scale = np.sqrt(V[i, i] * V[j, j])
            if not scale > 0.0:
                what = "free" if np.isnan(scale) else "zero"
                raise ModelError(
                    f"fixed: '{key}' has a covariance beside a variance that is {what}; give both variances, or a "
                    "covariance of 0"
                )
            yield int(i), int(j), float(np.clip(V[i, j] / scale, -1.0, 1.0))
