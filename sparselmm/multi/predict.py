"""Predicted means of all traits in new rows, with standard errors and intervals."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.special import ndtri

from .._errors import ModelError, SparselmmWarning
from .._typing import FloatArray, IntArray
from ..engines.threads import blas_threads
from ..inference.arguments import check_level
from ..inference.contrasts import undetermined
from ..inference.new_rows import TermFacts
from ..inference.posterior import Posterior, error_variances
from ..inference.predict import INTERVALS, PredictionRows, Predictor, check_known, factors, term_facts
from ..inference.residual_scales import new_residual_scales

if TYPE_CHECKING:
    from .result import MultiFit

POLICIES = ("population", "error")


def predict(
    multi: "MultiFit",
    newdata: Any,
    re: bool | str | Sequence[str] = True,
    new_levels: str = "population",
    se: bool = False,
    interval: str | None = None,
    level: float = 0.95,
) -> pd.DataFrame:
    """X beta + Z b, rows by traits. With k a row of [Z X] of the stacked model, at known G and R,

        se^2 = k'C^-1 k + z G z',     "prediction": se^2 + R_tt / weight,     normal quantiles.

    Errors: ModelError for an unknown word; those of `Fit.predict`.
    """
    if new_levels not in POLICIES:
        raise ModelError(f"new_levels={new_levels!r}: one of {', '.join(map(repr, POLICIES))}")
    if interval not in INTERVALS:
        raise ModelError(f"interval={interval!r}: one of {', '.join(map(repr, INTERVALS))}")
    check_level(level)
    rows, out = _rows(multi, newdata, re, new_levels), dict[str, FloatArray]()
    _warn_undetermined(multi, rows)
    B = np.nan_to_num(multi.fixef.to_numpy())
    means = [rows.mean(beta, multi.effects(t)) for t, beta in enumerate(B)]
    if not se and interval is None:
        return _table(newdata, dict(zip(multi.traits, means, strict=True)))
    half, there = -ndtri(0.5 - 0.5 * level), np.flatnonzero(np.isfinite(means[0]))
    variances = _Uncertainty.of(multi).variances(rows, there)
    rest = _residual_variances(multi, newdata) if interval == "prediction" else np.zeros((1, len(B)))
    for t, (trait, mean) in enumerate(zip(multi.traits, means, strict=True)):
        out |= {trait: mean, f"{trait}_se": np.sqrt(variances[:, t])}
        if interval is not None:
            width = half * np.sqrt(variances[:, t] + rest[:, t])
            out |= {f"{trait}_lower": mean - width, f"{trait}_upper": mean + width}
    return _table(newdata, out)


@dataclass(frozen=True, slots=True, eq=False)
class _Uncertainty:
    """What standard errors need, once for all traits: C^-1 of the stacked model, and T of each of its terms."""

    multi: "MultiFit"
    posterior: Posterior
    roots: list[FloatArray]
    facts: list[TermFacts]

    @classmethod
    def of(cls, multi: "MultiFit") -> "_Uncertainty":
        return cls(multi, Posterior.of(multi.fit), factors(multi.fit), _facts(multi))

    def variances(self, rows: PredictionRows, there: IntArray) -> FloatArray:
        """Of the means of all traits in the rows that are there, (n, T), in units squared; NaN elsewhere.

        All traits at once: one selected inverse serves them.
        """
        multi, T = self.multi, len(self.multi.traits)
        seen, out = rows.at(there), np.full((rows.X.shape[0], T), np.nan)
        loads = [[_effects(multi, seen, j, t) for t in range(T)] for j in range(len(multi.stacked.source))]
        Z = [None if each[0] is None else sp.csr_array(sp.vstack(each, format="csr")) for each in loads]
        X = sp.csr_array(sp.vstack([_columns(multi, seen.X, t) for t in range(T)], format="csr"))
        with blas_threads(multi.fit.likelihood.flops):
            out[there] = error_variances(self.posterior, X, Z).reshape(T, len(there)).T
        out[there] += np.column_stack([self._fresh(seen, t) for t in range(T)])
        return np.asarray(out * (multi.fit.sigma * multi.stacked.scale) ** 2)

    def _fresh(self, rows: PredictionRows, t: int) -> FloatArray:
        """z G z' of levels that the fit does not have, over sigma^2, (n,)."""
        stacked, out = self.multi.stacked, np.zeros(rows.X.shape[0])
        for (k, effects), T in zip(stacked.source, self.roots, strict=True):
            part = rows.terms[k]
            if part is not None and part.fresh.any():
                check_known(self.facts[k].text, part.fresh)
                own = stacked.order.index(t) * len(effects) + np.arange(len(effects))
                out += ((part.fresh[:, list(effects)] @ T[own]) ** 2).sum(axis=1)
        return out


def _rows(multi: "MultiFit", newdata: Any, re: bool | str | Sequence[str], new_levels: str) -> PredictionRows:
    """What new rows see of the model of one trait; all traits see the same."""
    fit = multi.fit
    one = Predictor(
        multi.stacked.wide.encoding, _facts(multi), (), np.zeros(0), (), fit.sigma, None,
        lambda rows: new_residual_scales(fit, rows), lambda: Posterior.of(fit),
    )  # fmt: skip
    return one._rows(newdata, one._wanted(re), new_levels)


def _facts(multi: "MultiFit") -> list[TermFacts]:
    """Of the terms as the user wrote them."""
    stacked = term_facts(multi.fit)
    whole = [k for k, _ in multi.stacked.source]
    terms = enumerate(multi.stacked.wide.terms)
    return [replace(stacked[whole.index(k)], n_effects=term.n_effects) for k, term in terms]


def _columns(multi: "MultiFit", X: Any, t: int) -> sp.csr_array:
    """X (n, p) in the columns that trait t has in the stacked model."""
    stacked, part = multi.stacked, sp.coo_array(sp.csr_array(X))
    rows, cols = part.coords
    place, p, p_sparse = stacked.order.index(t), stacked.wide.X.shape[1], X.shape[1] - stacked.wide.X.shape[1]
    T = len(stacked.traits)
    to = np.where(cols < p, place * p + cols, T * p + place * p_sparse + cols - p)
    return sp.csr_array((part.data, (rows, to)), shape=(X.shape[0], T * X.shape[1]))


def _effects(multi: "MultiFit", rows: PredictionRows, j: int, t: int) -> sp.csr_array | None:
    """Loadings of rows on trait t's effects in term j of the stacked model, (n, m r); None where it is left out."""
    stacked, (k, effects) = multi.stacked, multi.stacked.source[j]
    term, part = stacked.wide.terms[k], rows.terms[k]
    if part is None:
        return None
    found, width = sp.coo_array(part.A), len(effects) * len(stacked.traits)
    at: IntArray = np.full(term.n_effects, -1)
    at[list(effects)] = stacked.order.index(t) * len(effects) + np.arange(len(effects))
    n, cols = found.coords
    to = at[cols % term.n_effects]
    places = (cols // term.n_effects).astype(np.int64) * width + to
    keep = to >= 0
    shape = rows.X.shape[0], term.n_levels * width
    return sp.csr_array((found.data[keep], (n[keep], places[keep])), shape=shape)


def _residual_variances(multi: "MultiFit", newdata: Any) -> FloatArray:
    """R_tt over the weights of new records, (n, T) or (1, T)."""
    wide = multi.stacked.wide
    weights = np.ones(1) if wide.weights is None else wide.encoding.weights(newdata)
    return np.asarray(np.diag(multi.R)[None, :] / weights[:, None])


def _warn_undetermined(multi: "MultiFit", rows: PredictionRows) -> None:
    """SparselmmWarning where a dropped coefficient of dense fixed effects matters in new rows."""
    fit = multi.fit
    if fit.spec.S is not None or not fit.dropped_columns or fit.likelihood.n_fixed != len(fit.likelihood.kept):
        return
    for t, trait in enumerate(multi.traits):
        count = int(undetermined(fit, _columns(multi, rows.X, t).toarray()).sum())
        if count:
            warnings.warn(
                f"{count} of {rows.X.shape[0]} rows have a fixed part of '{trait}' that its records do not determine: "
                f"predictions take the coefficients that were dropped ({', '.join(fit.dropped_columns)}) as zero",
                SparselmmWarning,
                stacklevel=4,  # whoever calls MultiFit.predict
            )


def _table(newdata: Any, columns: dict[str, FloatArray]) -> pd.DataFrame:
    return pd.DataFrame(columns, index=newdata.index if isinstance(newdata, pd.DataFrame) else None)
