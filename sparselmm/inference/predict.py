"""Predicted means of new rows, with standard errors and intervals, of a fit or of what was saved of one."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.special import ndtri

from .._errors import DataError, ModelError, SparselmmWarning
from .._typing import FloatArray
from ..engines.threads import blas_threads
from ..fixed import design_matrix
from ..formula.encode import Encoding
from .arguments import check_flag, check_level, generator
from .contrasts import undetermined
from .new_rows import TermFacts, TermRows, check_policy, term_rows
from .posterior import Posterior, error_variances
from .residual_scales import new_residual_scales

if TYPE_CHECKING:
    from ..results import Fit

INTERVALS = (None, "confidence", "prediction")


def predict(fit: "Fit", newdata: Any = None, *, re: bool | str | Sequence[str] = True, **options: Any) -> Any:
    """X beta + offset (+ Z b) of the rows of newdata, (n,); a table with `se` or `interval`: see `Fit.predict`.

    options: those of `Predictor.predict`.
    """
    return Predictor.of(fit).predict(newdata, re=re, **options)


@dataclass(frozen=True, slots=True, eq=False)
class Predictor:
    """What predictions need.

    encoding: None where the model came from arrays. facts, factors (T, G = T T'), b: of each term. fit: with the rows
    that were used, None where nobody has them. scales: standard deviations of the residuals of rows, over sigma.
    """

    encoding: Encoding | None
    facts: Sequence[TermFacts]
    factors: Sequence[FloatArray]
    beta: FloatArray
    b: Sequence[FloatArray]
    sigma: float
    fit: "Fit | None"
    scales: Callable[[Any], FloatArray]
    posterior: Callable[[], Posterior]
    flops: float = 0.0

    @classmethod
    def of(cls, fit: "Fit") -> "Predictor":
        """Of a fit."""
        return cls(
            fit.spec.encoding, term_facts(fit), factors(fit), np.nan_to_num(fit.fixef.to_numpy()),
            fit.estimate.evaluation.b, fit.sigma, fit, partial(new_residual_scales, fit),
            partial(Posterior.of, fit), fit.likelihood.flops,
        )  # fmt: skip

    def predict(
        self,
        newdata: Any,
        *,
        re: bool | str | Sequence[str] = True,
        new_levels: str = "population",
        se: bool = False,
        interval: str | None = None,
        level: float = 0.95,
        seed: Any = None,
    ) -> FloatArray | pd.DataFrame:
        """The rows of newdata, or those of the fit where it is None.

        With K a row of [Z X] and z the loadings of effects that the fit does not have, at known variance parameters

            se^2 = sigma^2 (K'C^-1 K + z G z'),     "prediction": se^2 + sigma^2 R_ii,     normal quantiles.
        """
        check_policy(new_levels)
        check_level(level)
        check_flag(se, "se")
        if interval not in INTERVALS:
            raise ModelError(f"interval={interval!r}: one of {', '.join(map(repr, INTERVALS))}")
        uncertain = se or interval is not None
        if uncertain and new_levels == "sample":
            raise ModelError("new_levels='sample' gives draws, which have no standard error: use 'population'")
        wanted = self._wanted(re)
        if newdata is None and self.fit is not None and all(wanted) and not uncertain:
            return self.fit.fitted
        rows = self._rows(newdata, wanted, new_levels)
        mean = rows.mean(self.beta, self.b)
        if new_levels == "sample":
            return mean if newdata is None else mean + self._drawn(newdata, rows, generator(seed))
        if not uncertain:
            return mean
        residual = self.scales(newdata) ** 2 if interval == "prediction" else 0.0
        variance, there = np.full(len(mean), np.nan), np.isfinite(mean)
        variance[there] = (rows if there.all() else rows.at(np.flatnonzero(there))).variances(self)
        table = {"fit": mean, "se": self.sigma * np.sqrt(variance)}
        if interval is not None:
            half = -ndtri(0.5 - 0.5 * level) * self.sigma * np.sqrt(variance + residual)
            table |= {"lower": mean - half, "upper": mean + half}
        return pd.DataFrame(table, index=newdata.index if isinstance(newdata, pd.DataFrame) else None)

    def _wanted(self, re: bool | str | Sequence[str]) -> list[bool]:
        """Which terms count: by text or by the name of their group."""
        if isinstance(re, (bool, np.bool_)):
            return [bool(re)] * len(self.facts)
        if not isinstance(re, Iterable):
            raise ModelError(f"re={re!r}: True, False, or random terms or groups by name")
        names = [re] if isinstance(re, str) else list(re)
        for name in names:
            if not any(name in (f.name, f.text) for f in self.facts):
                known = ", ".join(repr(f.text) for f in self.facts) or "none"
                raise ModelError(f"re={re!r}: no random term or group {name!r}; this model has {known}")
        return [f.name in names or f.text in names for f in self.facts]

    def _rows(self, newdata: Any, wanted: list[bool], policy: str) -> "PredictionRows":
        encoding = self.encoding
        if newdata is None:
            if self.fit is None:
                raise ModelError("predict: the data of the fit are not here; give newdata")
            return _rows_used(self.fit, wanted)
        if encoding is None:
            raise ModelError(
                "a model from arrays cannot encode new rows: multiply your new X and Z with fixef and ranef"
            )
        coded = encoding.random(newdata, np.flatnonzero(wanted).tolist())
        terms = (
            term_rows(encoding, newdata, k, coded[k], facts, policy) if k in coded else None
            for k, facts in enumerate(self.facts)
        )  # fmt: skip
        X = encoding.fixed(newdata)
        if self.fit is not None:
            _warn_undetermined(self.fit, X)
        return PredictionRows(X, encoding.offset(newdata), tuple(terms))

    def _drawn(self, newdata: Any, rows: "PredictionRows", rng: np.random.Generator) -> FloatArray:
        """z b of the unknown levels, b ~ N(0, sigma^2 G) once for all rows of a level, (n,)."""
        assert self.encoding is not None
        out = np.zeros(len(rows.offset))
        for k, (T, part) in enumerate(zip(self.factors, rows.terms, strict=True)):
            if part is not None and part.unknown.any():
                new = np.flatnonzero(part.unknown)
                check_known(self.facts[k].text, part.fresh[new])
                labels, level = np.unique(self.encoding.new_groups(newdata, k)[new], return_inverse=True)
                b = self.sigma * rng.standard_normal((len(labels), len(T))) @ T.T
                out[new] += (part.fresh[new] * b[level]).sum(axis=1)
        return out


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

    def variances(self, source: Predictor) -> FloatArray:
        """Of the mean, over sigma^2; DataError where a term does not say how an unknown level varies."""
        with blas_threads(source.flops):
            out = error_variances(source.posterior(), self.X, [None if t is None else t.A for t in self.terms])
        for facts, T, rows in zip(source.facts, source.factors, self.terms, strict=True):
            if rows is not None and rows.fresh.any():
                check_known(facts.text, rows.fresh)
                out = out + ((rows.fresh @ T) ** 2).sum(axis=1)
        return out


def _rows_used(fit: "Fit", wanted: list[bool]) -> PredictionRows:
    spec = fit.spec
    zeros = [(np.zeros((spec.n, t.n_effects)), np.zeros(spec.n, dtype=np.bool_)) for t in spec.terms]
    made = (TermRows(design_matrix(t), *z) if w else None for t, z, w in zip(spec.terms, zeros, wanted, strict=True))
    return PredictionRows(spec.design, np.zeros(spec.n) if spec.offset is None else spec.offset, tuple(made))


def _warn_undetermined(fit: "Fit", X: Any) -> None:
    """SparselmmWarning where a dropped coefficient of dense fixed effects matters in new rows."""
    if fit.spec.S is not None or not fit.dropped_columns or fit.likelihood.n_fixed != len(fit.likelihood.kept):
        return
    count = int(undetermined(fit, X).sum())
    if count:
        warnings.warn(
            f"{count} of {len(X)} rows have a fixed part that the data of the fit do not determine: predictions take "
            f"the coefficients that were dropped ({', '.join(fit.dropped_columns)}) as zero",
            SparselmmWarning,
            stacklevel=6,  # whoever calls Fit.predict
        )


def term_facts(fit: "Fit") -> list[TermFacts]:
    """What predictions need to know of each term besides its effects."""
    parameters, theta = fit.likelihood.parameters, fit.estimate.evaluation.theta
    out = []
    for term, part in zip(fit.spec.terms, parameters.rho_slices, strict=True):
        bridge, null = getattr(term.Q, "bridge", ""), getattr(term.Q, "null_dim", 0)
        rho = tuple(theta[part].tolist())
        out.append(TermFacts(term.describe(), term.name, term.n_levels, term.n_effects, bridge, rho, bool(null)))
    return out


def factors(fit: "Fit") -> list[FloatArray]:
    """T of each term, G = T T'."""
    parameters = fit.likelihood.parameters
    parts = parameters.parts(fit.estimate.evaluation.theta)
    return [s.factor(part) for s, part in zip(parameters.structures, parts, strict=True)]


def check_known(text: str, fresh: FloatArray) -> None:
    """DataError where new rows of a term with correlated levels have one that the fit does not have (NaN in fresh)."""
    lost = int(np.isnan(fresh).any(axis=1).sum())
    if lost:
        raise DataError(
            f"{text}: {lost} of {len(fresh)} rows have a level that the fit does not have, and how it varies with the "
            "others is not known. Add it to the levels when fitting (an animal to the pedigree, without records), or "
            "leave the term out with re=[...]"
        )
