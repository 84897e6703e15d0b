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
from .given import condition, known_values

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
    given: bool | str | Sequence[str] = False,
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
    if given is not False and re is not True:
        raise ModelError("given= says what is known of a record by all random effects: leave re= out")
    rows, out = _rows(multi, newdata, re, new_levels), dict[str, FloatArray]()
    _warn_undetermined(multi, rows)
    B = np.nan_to_num(multi.fixef.to_numpy())
    means = np.column_stack([rows.mean(beta, multi.effects(t)) for t, beta in enumerate(B)])
    if not se and interval is None and given is False:
        return _table(newdata, dict(zip(multi.traits, means.T, strict=True)))
    half, there = -ndtri(0.5 - 0.5 * level), np.flatnonzero(np.isfinite(means[:, 0]))
    if given is not False:
        Y, S = known_values(multi, newdata, given), _Uncertainty.of(multi).covariances(rows, there)
        means, variances, rest = condition(means, S, _residual_covariances(multi, newdata), Y)
    else:
        variances = _Uncertainty.of(multi).variances(rows, there)
        none = np.zeros((1, len(B)))
        rest = _residual_covariances(multi, newdata).diagonal(0, 1, 2) if interval == "prediction" else none
    for t, trait in enumerate(multi.traits):
        out[trait] = means[:, t]
        if se or interval is not None:
            out[f"{trait}_se"] = np.sqrt(variances[:, t])
        if interval is not None:
            width = half * np.sqrt(variances[:, t] + (rest[:, t] if interval == "prediction" else 0.0))
            out |= {f"{trait}_lower": means[:, t] - width, f"{trait}_upper": means[:, t] + width}
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
        """Of the means of all traits in the rows that are there, (n, T), in units squared; NaN elsewhere."""
        multi, T = self.multi, len(self.multi.traits)
        out = np.full((rows.X.shape[0], T), np.nan)
        out[there] = self._of_sums(rows.at(there), [(t,) for t in range(T)])
        return np.asarray(out * (multi.fit.sigma * multi.stacked.scale) ** 2)

    def covariances(self, rows: PredictionRows, there: IntArray) -> FloatArray:
        """The same of all pairs of traits, (n, T, T): 2 cov(a, b) = var(a + b) - var(a) - var(b)."""
        multi, T = self.multi, len(self.multi.traits)
        one, other = np.triu_indices(T, 1)
        pairs = list(zip(one.tolist(), other.tolist(), strict=True))
        found = self._of_sums(rows.at(there), [*((t,) for t in range(T)), *pairs])
        out, own = np.full((rows.X.shape[0], T, T), np.nan), np.zeros((len(there), T, T))
        own[:, range(T), range(T)] = found[:, :T]
        own[:, one, other] = own[:, other, one] = 0.5 * (found[:, T:] - found[:, one] - found[:, other])
        out[there] = own
        return np.asarray(out * multi.fit.sigma**2 * np.outer(multi.stacked.scale, multi.stacked.scale))

    def _of_sums(self, rows: PredictionRows, sums: Sequence[tuple[int, ...]]) -> FloatArray:
        """Variances of sums of the means of standardised traits over sigma^2, (n, sums).

        All at once: one selected inverse serves them.
        """
        multi, n = self.multi, rows.X.shape[0]
        places = range(len(multi.stacked.source))
        loads = [[_sum([_effects(multi, rows, j, t) for t in each]) for each in sums] for j in places]
        Z = [None if each[0] is None else sp.csr_array(sp.vstack(each, format="csr")) for each in loads]
        columns = [_sum([_columns(multi, rows.X, t) for t in each]) for each in sums]
        X = sp.csr_array(sp.vstack(columns, format="csr"))
        with blas_threads(multi.fit.likelihood.flops):
            known = error_variances(self.posterior, X, Z).reshape(len(sums), n).T
        return np.asarray(known + np.column_stack([self._fresh(rows, each) for each in sums]))

    def _fresh(self, rows: PredictionRows, traits: tuple[int, ...]) -> FloatArray:
        """z G z' of levels that the fit does not have, over sigma^2, (n,)."""
        stacked, out = self.multi.stacked, np.zeros(rows.X.shape[0])
        for (k, effects), T in zip(stacked.source, self.roots, strict=True):
            part = rows.terms[k]
            if part is not None and part.fresh.any():
                check_known(self.facts[k].text, part.fresh)
                first = [stacked.order.index(t) * len(effects) for t in traits]
                own = sum(T[at : at + len(effects)] for at in first)
                out += ((part.fresh[:, list(effects)] @ own) ** 2).sum(axis=1)
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


def _sum(parts: Sequence[sp.csr_array | None]) -> sp.csr_array | None:
    """Their sum; None where they are none."""
    there = [part for part in parts if part is not None]
    return sp.csr_array(sum(there[1:], start=there[0])) if there else None


def _residual_covariances(multi: "MultiFit", newdata: Any) -> FloatArray:
    """R over the weights of new records, (n, T, T) or (1, T, T); 0 between traits that never met."""
    wide = multi.stacked.wide
    weights = np.ones(1) if wide.weights is None else wide.encoding.weights(newdata)
    return np.asarray(np.nan_to_num(multi.R.to_numpy()) / weights[:, None, None])


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
