"""Predicted means of new rows, with standard errors and intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.special import ndtri

from .._errors import DataError, ModelError
from .._typing import FloatArray
from ..fixed import design_matrix
from .bootstrap import check_level
from .new_rows import TermFacts, TermRows, check_policy, term_rows
from .posterior import error_variances
from .residual_scales import new_residual_scales

if TYPE_CHECKING:
    from ..results import Fit

INTERVALS = (None, "confidence", "prediction")


def predict(
    fit: "Fit",
    newdata: Any = None,
    *,
    re: bool | str | Sequence[str] = True,
    new_levels: str = "population",
    se: bool = False,
    interval: str | None = None,
    level: float = 0.95,
    seed: Any = None,
) -> FloatArray | pd.DataFrame:
    """X beta + offset (+ Z b) of the rows of newdata, (n,); a table with `se` or `interval`: see `Fit.predict`.

    With K a row of [Z X] and z the loadings of effects that the fit does not have, at known variance parameters

        se^2 = sigma^2 (K'C^-1 K + z G z'),     "prediction": se^2 + sigma^2 R_ii,     normal quantiles.
    """
    check_policy(new_levels)
    if interval not in INTERVALS:
        raise ModelError(f"interval={interval!r}: one of {', '.join(map(repr, INTERVALS))}")
    wanted = _terms(fit, re)
    uncertain = bool(se) or interval is not None
    if newdata is None and all(wanted) and not uncertain:
        return fit.fitted
    rows = _rows_used(fit, wanted) if newdata is None else _new_rows(fit, newdata, wanted, new_levels)
    mean = rows.mean(np.nan_to_num(fit.fixef.to_numpy()), fit.estimate.evaluation.b)
    if new_levels == "sample":
        if uncertain:
            raise ModelError("new_levels='sample' gives draws, which have no standard error: use 'population'")
        return mean + _drawn(fit, newdata, rows, np.random.default_rng(seed))
    if not uncertain:
        return mean
    check_level(level)
    residual = new_residual_scales(fit, newdata) ** 2 if interval == "prediction" else 0.0
    variance, there = np.full(len(mean), np.nan), np.isfinite(mean)
    variance[there] = (rows if there.all() else rows.at(np.flatnonzero(there))).variances(fit)
    table = {"fit": mean, "se": fit.sigma * np.sqrt(variance)}
    if interval is not None:
        half = -ndtri(0.5 - 0.5 * level) * fit.sigma * np.sqrt(variance + residual)
        table |= {"lower": mean - half, "upper": mean + half}
    return pd.DataFrame(table, index=newdata.index if isinstance(newdata, pd.DataFrame) else None)


@dataclass(frozen=True, slots=True, eq=False)
class PredictionRows:
    """X (n, p), offset (n,), and what the rows see of each term, None for a term that is left out."""

    X: Any
    offset: FloatArray
    terms: tuple[TermRows | None, ...]

    def mean(self, beta: FloatArray, b: Sequence[FloatArray]) -> FloatArray:
        """(n,)"""
        random = (t.A @ bk.ravel() for t, bk in zip(self.terms, b, strict=True) if t is not None)
        return np.asarray(self.X @ beta + self.offset + sum(random, start=0.0))

    def at(self, rows: Any) -> "PredictionRows":
        """Some of the rows."""
        terms = (t and TermRows(t.A[rows], t.fresh[rows], t.unknown[rows]) for t in self.terms)
        return PredictionRows(self.X[rows], self.offset[rows], tuple(terms))

    def variances(self, fit: "Fit") -> FloatArray:
        """Of the mean, over sigma^2; ModelError where a term does not say how an unknown level varies."""
        out = error_variances(fit, self.X, [None if t is None else t.A for t in self.terms])
        for term, T, rows in zip(fit.spec.terms, _factors(fit), self.terms, strict=True):
            if rows is not None and rows.fresh.any():
                _check_known(term.describe(), rows.fresh)
                out = out + ((rows.fresh @ T) ** 2).sum(axis=1)
        return out


def _terms(fit: "Fit", re: bool | str | Sequence[str]) -> list[bool]:
    """Which terms count: by text or by the name of their group."""
    terms = fit.spec.terms
    if isinstance(re, (bool, np.bool_)):
        return [bool(re)] * len(terms)
    names = [re] if isinstance(re, str) else list(re)
    for name in names:
        if not any(name in (t.name, t.describe()) for t in terms):
            known = ", ".join(repr(t.describe()) for t in terms) or "none"
            raise ModelError(f"re={re!r}: no random term or group {name!r}; this model has {known}")
    return [t.name in names or t.describe() in names for t in terms]


def _rows_used(fit: "Fit", wanted: list[bool]) -> PredictionRows:
    spec = fit.spec
    zeros = [(np.zeros((spec.n, t.n_effects)), np.zeros(spec.n, dtype=np.bool_)) for t in spec.terms]
    made = (TermRows(design_matrix(t), *z) if w else None for t, z, w in zip(spec.terms, zeros, wanted, strict=True))
    return PredictionRows(spec.design, np.zeros(spec.n) if spec.offset is None else spec.offset, tuple(made))


def _new_rows(fit: "Fit", newdata: Any, wanted: list[bool], policy: str) -> PredictionRows:
    encoding = fit.spec.encoding
    if encoding is None:
        raise ModelError("a model from arrays cannot encode new rows: multiply your new X and Z with fixef and ranef")
    coded = encoding.random(newdata) if any(wanted) else [None] * len(wanted)
    facts = zip(coded, wanted, term_facts(fit), strict=True)
    terms = (term_rows(encoding, newdata, k, c, f, policy) if w else None for k, (c, w, f) in enumerate(facts))
    return PredictionRows(encoding.fixed(newdata), encoding.offset(newdata), tuple(terms))


def term_facts(fit: "Fit") -> list[TermFacts]:
    """What predictions need to know of each term besides its effects."""
    parameters, theta = fit.likelihood.parameters, fit.estimate.evaluation.theta
    out = []
    for term, part in zip(fit.spec.terms, parameters.rho_slices, strict=True):
        bridge, null = getattr(term.Q, "bridge", ""), getattr(term.Q, "null_dim", 0)
        rho = tuple(theta[part].tolist())
        out.append(TermFacts(term.describe(), term.name, term.n_levels, term.n_effects, bridge, rho, bool(null)))
    return out


def _factors(fit: "Fit") -> list[FloatArray]:
    """T of each term, G = T T'."""
    parameters = fit.likelihood.parameters
    parts = parameters.parts(fit.estimate.evaluation.theta)
    return [s.factor(part) for s, part in zip(parameters.structures, parts, strict=True)]


def _drawn(fit: "Fit", newdata: Any, rows: PredictionRows, rng: np.random.Generator) -> FloatArray:
    """z b of the unknown levels, b ~ N(0, sigma^2 G) once for all rows of a level, (n,)."""
    out = np.zeros(len(rows.offset))
    for k, (T, part) in enumerate(zip(_factors(fit), rows.terms, strict=True)):
        if part is not None and part.unknown.any():
            new = np.flatnonzero(part.unknown)
            _check_known(fit.spec.terms[k].describe(), part.fresh[new])
            labels, level = np.unique(fit.spec.encoding.new_groups(newdata, k)[new], return_inverse=True)
            b = fit.sigma * rng.standard_normal((len(labels), len(T))) @ T.T
            out[new] += (part.fresh[new] * b[level]).sum(axis=1)
    return out


def _check_known(text: str, fresh: FloatArray) -> None:
    lost = int(np.isnan(fresh).any(axis=1).sum())
    if lost:
        raise DataError(
            f"{text}: {lost} of {len(fresh)} rows have a level that the fit does not have, and how it varies with the "
            "others is not known. Add it to the levels when fitting (an animal to the pedigree, without records), or "
            "leave the term out with re=[...]"
        )
