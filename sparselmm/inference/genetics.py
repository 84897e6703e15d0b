"""Shares of the phenotypic variance, heritability and what goes with it, reliabilities of breeding values."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp

from .._errors import ModelError
from .._typing import FloatArray
from ..engines import make_engine, sparse_pattern
from ..equations import destinations
from ..structures import Precision
from ..structures.known import Known
from ..structures.pedigree import PedigreePrecision
from ..terms import RandomTerm
from .ranef import effect_table
from .varpar import EDGE, delta_method, term_covariances

if TYPE_CHECKING:
    from ..results import Fit

Names = str | Sequence[str] | Mapping[str, float]
Weights = FloatArray  # of the components in a sum of variances

RESIDUAL = "Residual"
TOTAL = 1.0, 1.5, 0.5  # direct variance, covariance, maternal variance in Willham's (1972) total heritability
ROUNDING = 1e-18  # variances of ratios below this are differences that rounded


@dataclass(frozen=True, slots=True, eq=False)
class Components:
    """Names of all variances and covariances, `effect|group` and `effect1.effect2|group`, the residual variance last.

    places: term, effect and effect of each but the last.
    """

    names: tuple[str, ...]
    places: tuple[tuple[int, int, int], ...]

    def values(self, fit: "Fit", theta: FloatArray, sigma: float) -> FloatArray:
        """sigma^2 G_ij of each, and sigma^2."""
        parameters = fit.likelihood.parameters
        T = [s.factor(part) for s, part in zip(parameters.structures, parameters.parts(theta), strict=True)]
        return sigma**2 * np.array([*(T[k][i] @ T[k][j] for k, i, j in self.places), 1.0])

    def weights(self, wanted: Names) -> Weights:
        """Coefficients of the components; ModelError for one that is not there."""
        given = {wanted: 1.0} if isinstance(wanted, str) else wanted
        if not isinstance(given, Iterable):
            raise ModelError(f"{given!r} names no variance components; this model has {', '.join(self.names)}")
        coefficients = given if isinstance(given, Mapping) else dict.fromkeys(given, 1.0)
        out = np.zeros(len(self.names))
        for name, coefficient in coefficients.items():
            if name not in self.names:
                close = difflib.get_close_matches(str(name), self.names, n=1)
                hint = f" Did you mean '{close[0]}'?" if close else ""
                raise ModelError(f"no variance component '{name}'.{hint} This model has {', '.join(self.names)}")
            if not (isinstance(coefficient, Real) and np.isfinite(coefficient)):
                raise ModelError(f"the coefficient of '{name}' is {coefficient!r}: give a number")
            out[self.names.index(name)] = coefficient
        return out

    def of(self, *terms: int) -> Weights:
        """One for every variance and covariance of the terms."""
        return np.array([*(float(k in terms) for k, _, _ in self.places), 0.0])

    def variance(self, k: int, i: int) -> Weights:
        """One for the variance of effect i of term k."""
        return np.array([*(float(place == (k, i, i)) for place in self.places), 0.0])


@dataclass(frozen=True, slots=True, eq=False)
class _Quantity:
    """A row of the table: what, of what, and its value as a function of the components."""

    what: str
    of: str
    value: Callable[[FloatArray], float]


def variance_components(fit: "Fit") -> Components:
    """The components of a fit, in the order of `varcorr`."""
    names: list[str] = []
    places: list[tuple[int, int, int]] = []
    for k, (term, _, correlated) in enumerate(term_covariances(fit)):
        e, r = term.effects, term.n_effects
        places += [(k, i, i) for i in range(r)]
        names += [f"{e[i]}|{term.name}" for i in range(r)]
        if correlated:
            places += [(k, i, j) for i, j in combinations(range(r), 2)]
            names += [f"{e[i]}.{e[j]}|{term.name}" for i, j in combinations(range(r), 2)]
    return Components((*names, RESIDUAL), tuple(places))


def variance_ratio(fit: "Fit", numerator: Names, denominator: Names | None = None) -> pd.Series:
    """estimate and std_error of a ratio of sums of variance components; None: the phenotypic variance."""
    components = variance_components(fit)
    top = components.weights(numerator)
    below = _phenotypic(fit, components, ()) if denominator is None else components.weights(denominator)
    if below @ components.values(fit, fit.estimate.evaluation.theta, fit.sigma) == 0.0:
        raise ModelError("variance_ratio(): the denominator is 0")
    return _table(fit, components, [_ratio("ratio", "", top, below)]).iloc[0].rename(None)


def heritability(fit: "Fit", exclude: str | Sequence[str] = ()) -> pd.DataFrame:
    """Rows (quantity, of) with estimate and std_error: see `Fit.heritability`."""
    components = variance_components(fit)
    left_out = _matching(fit, [exclude] if isinstance(exclude, str) else exclude)
    total = _phenotypic(fit, components, left_out)
    genetic = [k for k, term in enumerate(fit.spec.terms) if _is_genetic(term) and k not in left_out]
    if not genetic:
        raise ModelError(
            "heritability() needs a genetic term, ped(1 | animal, P) or known(1 | id, Q); variance_ratio() takes any"
        )
    shares = [
        _ratio("share", name, np.eye(len(total))[i], total) for i, name in enumerate(components.names) if total[i]
    ]
    by_group = _by_group(fit, components, genetic)
    rows = [_ratio("heritability", group, weights, total) for group, weights in by_group.items()]
    for k in genetic:
        if fit.spec.terms[k].n_effects == 2:
            rows += _maternal(fit.spec.terms[k], components, k, total)
    for k, term in enumerate(fit.spec.terms):
        if term.Q is None and term.name in by_group and k not in left_out:
            rows.append(_ratio("repeatability", term.name, by_group[term.name] + components.of(k), total))
    return _table(fit, components, rows + shares)


def _table(fit: "Fit", components: Components, quantities: Sequence[_Quantity]) -> pd.DataFrame:
    """Estimates, and standard errors by the delta method; NaN where nothing in a quantity was free, or on an edge."""

    def values(theta: FloatArray, sigma: float) -> FloatArray:
        c = components.values(fit, theta, sigma)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.array([q.value(c) for q in quantities])

    estimates = values(fit.estimate.evaluation.theta, fit.sigma)
    variances = np.diag(delta_method(fit, values))
    at_edge = np.array([q.what == "correlation" for q in quantities]) & ~(1.0 - np.abs(estimates) > EDGE)
    errors = np.sqrt(np.where((variances > ROUNDING) & ~at_edge, variances, np.nan))
    index = pd.MultiIndex.from_tuples([(q.what, q.of) for q in quantities], names=["quantity", "of"])
    return pd.DataFrame({"estimate": estimates, "std_error": errors}, index=index)


def _ratio(what: str, of: str, top: Weights, below: Weights) -> _Quantity:
    return _Quantity(what, of, lambda c: float((top @ c) / (below @ c)))


def _maternal(term: RandomTerm, components: Components, k: int, total: Weights) -> list[_Quantity]:
    """Of `ped(1 | animal + dam, P)`: Willham's total heritability, and the correlation of the two effects."""
    direct, maternal = components.variance(k, 0), components.variance(k, 1)
    covariance = components.of(k) - direct - maternal
    a, am, m = TOTAL

    def correlation(c: FloatArray) -> float:
        return float(covariance @ c / np.sqrt((direct @ c) * (maternal @ c)))

    pair = ".".join(_column(e) for e in term.effects)
    willham = a * direct + am * covariance + m * maternal
    return [_ratio("total heritability", term.name, willham, total), _Quantity("correlation", pair, correlation)]


def _by_group(fit: "Fit", components: Components, genetic: Sequence[int]) -> dict[str, Weights]:
    """The genetic variances of each group: of the animal, of the dam."""
    out: dict[str, Weights] = {}
    for k in genetic:
        term = fit.spec.terms[k]
        for i, effect in enumerate(term.effects):
            group = term.name if term.n_effects == 1 else _column(effect)
            out[group] = out.get(group, 0.0) + components.variance(k, i)
    return out


def _column(effect: str) -> str:
    """`dam` of the effect `ped(dam)`."""
    found = re.fullmatch(r"\w+\((.*)\)", effect)
    return found[1] if found else effect


def _is_genetic(term: RandomTerm) -> bool:
    return isinstance(term.Q, (PedigreePrecision, Known))


def _phenotypic(fit: "Fit", components: Components, left_out: Sequence[int]) -> Weights:
    """Ones for all components of the terms that count; ModelError where rows differ in variance."""
    counted = [k for k in range(len(fit.spec.terms)) if k not in left_out]
    for k in counted:
        if not _is_constant(fit.spec.terms[k]):
            term = fit.spec.terms[k]
            raise ModelError(
                f"{term.describe()}: with it the phenotypic variance differs between rows, so that there is no one "
                f"heritability. Give both sums to variance_ratio(), or leave the term out: exclude='{term.name}'"
            )
    residual = np.array([*np.zeros(len(components.places)), 1.0])
    return components.of(*counted) + residual


def _is_constant(term: RandomTerm) -> bool:
    """Whether the term's variance is that of every row: an intercept, or an animal's and its dam's.

    A Q whose levels differ in variance, an AR(1) with a free start, a random walk or one of the user's, has none. With
    groups of unknown parents it is the variance within groups.
    """
    if term.Q is not None and not (_is_genetic(term) or getattr(term.Q, "unit_variance", False)):
        return False
    if not sp.issparse(term.Z):
        return term.columns is None
    pair = term.n_effects == 2 and _is_genetic(term) and bool((term.Z.data == 1.0).all())
    return pair and all(bool((term.Z[:, i::2].sum(axis=1) == 1.0).all()) for i in range(2))


def _matching(fit: "Fit", names: Sequence[str]) -> list[int]:
    """Terms by group or text; ModelError for a name that none has."""
    out: list[int] = []
    for name in names:
        found = [k for k, term in enumerate(fit.spec.terms) if name in (term.name, term.describe())]
        if not found:
            known = ", ".join(term.describe() for term in fit.spec.terms)
            raise ModelError(f"no random term '{name}': this model has {known}")
        out += found
    return out


def reliability(fit: "Fit", term: str | None = None) -> pd.DataFrame:
    """1 - PEV / (G_jj A_ll) of every level l and effect j: see `Fit.reliability`."""
    k = _one_term(fit, term)
    chosen, parameters, theta = fit.spec.terms[k], fit.likelihood.parameters, fit.estimate.evaluation.theta
    pev = fit.likelihood.random_vcov(theta, fit.sigma, prediction=True)[k]
    T = fit.sigma * parameters.structures[k].factor(parameters.parts(theta)[k])
    prior = np.outer(prior_variances(chosen, theta[parameters.rho_slices[k]]), np.diag(T @ T.T))
    with np.errstate(invalid="ignore", divide="ignore"):
        return effect_table(chosen, np.maximum(1.0 - np.einsum("lii->li", pev) / prior, 0.0))  # less is rounding


def _one_term(fit: "Fit", wanted: str | None) -> int:
    """The term of that group or text, a genetic one first; without a name the genetic one."""
    terms = fit.spec.terms
    found = list(range(len(terms))) if wanted is None else _matching(fit, [wanted])
    genetic = [k for k in found if _is_genetic(terms[k])]
    chosen = genetic if genetic or wanted is None else found
    if len(chosen) == 1:
        return chosen[0]
    texts = ", ".join(repr(t.describe()) for t in terms)
    raise ModelError(f"reliability(term=...): {len(chosen) or 'no'} genetic terms fit; name one of {texts}")


def prior_variances(term: RandomTerm, rho: FloatArray) -> FloatArray:
    """Diagonal of Q^-1 (m,), 1 + F of a pedigree, from its selected inverse."""
    Q = term.Q
    if Q is None:
        return np.ones(term.n_levels)
    if Q.null_dim:
        raise ModelError(f"{term.describe()}: levels of an intrinsic precision have no variance, so no share of one")
    return _inverse_diagonal(Q, rho)


def _inverse_diagonal(Q: Precision, rho: FloatArray) -> FloatArray:
    rows, cols = Q.pattern()
    pattern, levels = sparse_pattern(rows, cols, Q.n_levels), np.arange(Q.n_levels)
    values = np.empty(len(rows))
    values[destinations(pattern, rows, cols)] = Q.values(rho)
    engine = make_engine("auto", pattern)
    engine.factorize(values)
    return engine.selected_inverse(levels, levels)
