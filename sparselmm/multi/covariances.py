"""G of every random term and R among traits, in units of the traits, and what is made of them, with standard errors."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp

from .._errors import ModelError
from .._typing import BoolArray, FloatArray
from ..inference.varpar import EDGE, delta_method
from ..structures import UnstructuredResidual
from ..structures.known import Known
from ..structures.pedigree import PedigreePrecision

if TYPE_CHECKING:
    from ..results import Fit
    from ..terms import RandomTerm
    from .stack import Stacked

RESIDUAL, PHENOTYPIC = "Residual", "Phenotypic"
KNOWN = 1e-18  # variances of ratios below this are differences that rounded


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """The covariance matrix of one term (its place k in the stacked model) or of the residual (None).

    label: the term's text. name: its group. effects: (d,) names of its rows, the traits where each has one effect;
    trait: (d,) trait of each row. scale: (d,) its unit. start: where its upper triangle begins among all components.
    unknown: (d, d) entries that no row of data says anything about.
    """

    label: str
    name: str
    k: int | None
    effects: tuple[str, ...]
    trait: tuple[str, ...]
    scale: FloatArray
    start: int
    unknown: BoolArray

    @property
    def size(self) -> int:
        """d."""
        return len(self.effects)

    def matrix(self, components: FloatArray) -> FloatArray:
        """(d, d) of all components."""
        upper, out = np.triu_indices(self.size), np.empty((self.size, self.size))
        out[upper] = out.T[upper] = components[self.start : self.start + len(upper[0])]
        return out

    def place(self, i: int, j: int) -> int:
        """Where entry (i, j) stands among all components."""
        i, j = min(i, j), max(i, j)
        return self.start + i * self.size - i * (i - 1) // 2 + j - i

    def frame(self, values: FloatArray) -> pd.DataFrame:
        """values (d, d) with names, NaN at what is unknown."""
        names = list(self.effects)
        return pd.DataFrame(np.where(self.unknown, np.nan, values), index=names, columns=names)


class Quantity(NamedTuple):
    """A function of the components: its value, and its gradient (c,)."""

    value: float
    gradient: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Components:
    """Upper triangles of all covariance matrices of standardised traits, block by block, (c,), and their covariance."""

    blocks: tuple[Block, ...]
    values: FloatArray
    cov: FloatArray

    def block(self, term: str | None) -> Block:
        """That of a term, by its text or its group; the only one for None. Errors: ModelError."""
        random = [b for b in self.blocks if b.k is not None]
        found = [b for b in random if term in (b.label, None)] or [b for b in random if term == b.name]
        if len(found) == 1:
            return found[0]
        texts = ", ".join(repr(b.label) for b in random) or "none in this model"
        what = f"{len(found) or 'no'} random terms fit"
        raise ModelError(f"G({'' if term is None else repr(term)}): {what}; name one of {texts}")

    def table(self, block: Block) -> pd.DataFrame:
        """The matrix in units of the traits."""
        return block.frame(np.outer(block.scale, block.scale) * block.matrix(self.values))

    def errors(self, block: Block) -> pd.DataFrame:
        """Standard errors of its entries; NaN where one lies on the boundary."""
        variances = block.matrix(np.diag(self.cov))
        errors = np.sqrt(np.where(variances > KNOWN, variances, np.nan))
        return block.frame(np.outer(block.scale, block.scale) * errors)

    def unit(self, places: Sequence[int]) -> FloatArray:
        """Ones at these components."""
        out = np.zeros(len(self.values))
        out[list(places)] = 1.0
        return out

    def ratio(self, top: FloatArray, below: FloatArray) -> Quantity:
        """top'c / below'c."""
        total = below @ self.values
        value = top @ self.values / total
        return Quantity(float(value), (top - value * below) / total)

    @np.errstate(invalid="ignore", divide="ignore")
    def correlation(self, covariance: FloatArray, one: FloatArray, other: FloatArray) -> Quantity:
        """Of sums of components; NaN beside a variance of zero."""
        a, b = one @ self.values, other @ self.values
        value = covariance @ self.values / np.sqrt(a * b)
        return Quantity(float(value), covariance / np.sqrt(a * b) - value / 2 * (one / a + other / b))

    def with_errors(self, quantities: Sequence[Quantity]) -> pd.DataFrame:
        """estimate and std_error by the delta method; NaN where nothing in a quantity was free."""
        J = np.array([q.gradient for q in quantities]).reshape(len(quantities), len(self.values))
        variances = np.einsum("fc,cd,fd->f", np.nan_to_num(J), self.cov, np.nan_to_num(J))
        known = (variances > KNOWN) & np.isfinite(J).all(axis=1)
        errors = np.sqrt(np.where(known, variances, np.nan))
        return pd.DataFrame({"estimate": [q.value for q in quantities], "std_error": errors})


def components(stacked: "Stacked", fit: "Fit") -> Components:
    """Of a fit of the stacked model."""
    blocks = _blocks(stacked, fit)

    def values(theta: FloatArray, sigma: float) -> FloatArray:
        matrices = [sigma**2 * _relative(b, stacked, fit, theta) for b in blocks]
        return np.concatenate([V[np.triu_indices(len(V))] for V in matrices])

    return Components(blocks, values(fit.estimate.evaluation.theta, fit.sigma), delta_method(fit, values))


def _relative(block: Block, stacked: "Stacked", fit: "Fit", theta: FloatArray) -> FloatArray:
    """The matrix of the standardised traits over sigma^2, in the user's order."""
    parameters = fit.likelihood.parameters
    if block.k is None:
        back, R = np.argsort(stacked.order), _residual(stacked, theta[parameters.residual_slice])
        return R[np.ix_(back, back)]
    T = parameters.structures[block.k].factor(parameters.parts(theta)[block.k])
    at = user_order(stacked, fit.spec.terms[block.k])
    return np.asarray((T @ T.T)[np.ix_(at, at)])


def _residual(stacked: "Stacked", rho: FloatArray) -> FloatArray:
    """R (T, T) over sigma^2, traits as they are stacked."""
    residual = stacked.spec.residual
    if isinstance(residual, UnstructuredResidual):
        return residual.limit(rho)
    return np.diag(np.exp(2.0 * np.append(0.0, rho)))


def user_order(stacked: "Stacked", term: "RandomTerm") -> list[int]:
    """Places of the effects of a term of the stacked model, traits in the user's order."""
    r = term.n_effects // len(stacked.traits)
    return [t * r + a for t in np.argsort(stacked.order) for a in range(r)]


def _blocks(stacked: "Stacked", fit: "Fit") -> tuple[Block, ...]:
    out, start, labels = [], 0, term_labels(stacked)
    for k, term in enumerate(fit.spec.terms):
        r = term.n_effects // len(stacked.traits)
        trait = tuple(np.repeat(stacked.traits, r).tolist())
        effects = trait if r == 1 else tuple(term.effects[i] for i in user_order(stacked, term))
        none = np.zeros(2 * (len(effects),), dtype=bool)
        out.append(Block(labels[k], term.name, k, effects, trait, np.repeat(stacked.scale, r), start, none))
        start += len(effects) * (len(effects) + 1) // 2
    never = stacked.present.T.astype(np.int64) @ stacked.present == 0
    out.append(Block(RESIDUAL, RESIDUAL, None, stacked.traits, stacked.traits, stacked.scale, start, never))
    return tuple(out)


def term_labels(stacked: "Stacked") -> list[str]:
    """The text of each term; with the effect behind it where `(1 + x || g)` became several."""
    whole = [k for k, _ in stacked.source]
    labels = []
    for k, effects in stacked.source:
        term = stacked.wide.terms[k]
        parts = ", ".join(term.effects[a] for a in effects)
        labels.append(term.describe() if whole.count(k) == 1 else f"{term.describe()}: {parts}")
    return labels


def correlations(stacked: "Stacked", found: Components) -> pd.DataFrame:
    """Index (term, one, other): estimate, std_error, boundary (at +-1); the phenotypic ones last where they exist."""
    index, quantities = [], []
    for b in found.blocks:
        for i, j in combinations(range(b.size), 2):
            if not b.unknown[i, j]:
                units = (found.unit([b.place(*at)]) for at in ((i, j), (i, i), (j, j)))
                quantities.append(found.correlation(*units))
                index.append((b.label, b.effects[i], b.effects[j]))
    for i, j in combinations(range(len(stacked.traits)), 2) if _varying(stacked, found, ()) is None else ():
        if not found.blocks[-1].unknown[i, j]:
            places = [[b.place(*at) for b in found.blocks] for at in ((i, j), (i, i), (j, j))]
            quantities.append(found.correlation(*map(found.unit, places)))
            index.append((PHENOTYPIC, stacked.traits[i], stacked.traits[j]))
    table = found.with_errors(quantities)
    table["boundary"] = 1.0 - table["estimate"].abs() < EDGE
    table.loc[table["boundary"], "std_error"] = np.nan
    return table.set_index(pd.MultiIndex.from_tuples(index, names=["term", "trait1", "trait2"]))


def heritability(stacked: "Stacked", found: Components, exclude: str | Sequence[str] = ()) -> pd.DataFrame:
    """Index (trait, quantity, of): heritability of each group, and the share of every term and the residual.

    Errors: ModelError where no term is genetic, or one that counts has a variance that differs between rows.
    """
    left_out = [found.block(name) for name in ([exclude] if isinstance(exclude, str) else exclude)]
    counted = [b for b in found.blocks if not any(b is other for other in left_out)]
    varying = _varying(stacked, found, left_out)
    if varying is not None:
        raise ModelError(
            f"{varying.label}: with it the phenotypic variance differs between rows, so that there is no one "
            f"heritability. Leave the term out: exclude='{varying.label}'"
        )
    genetic = [b for b in counted if b.k is not None and _is_genetic(stacked.spec.terms[b.k])]
    if not genetic:
        raise ModelError("heritability() needs a genetic term, ped(1 | animal, P) or known(1 | id, Q)")
    index, quantities = [], []
    for i, trait in enumerate(stacked.traits):
        total = found.unit([b.place(i, i) for b in counted])
        for name in dict.fromkeys(b.name for b in genetic):
            own = found.unit([b.place(i, i) for b in genetic if b.name == name])
            quantities.append(found.ratio(own, total))
            index.append((trait, "heritability", name))
        for b in counted:
            quantities.append(found.ratio(found.unit([b.place(i, i)]), total))
            index.append((trait, "share", b.label))
    names = ["trait", "quantity", "of"]
    return found.with_errors(quantities).set_index(pd.MultiIndex.from_tuples(index, names=names))


def _is_genetic(term: "RandomTerm") -> bool:
    return isinstance(term.Q, (PedigreePrecision, Known))


def _varying(stacked: "Stacked", found: Components, left_out: Sequence[Block]) -> Block | None:
    """A block that counts in the phenotypic variance and has another variance in another row.

    With groups of unknown parents it is the variance within groups.
    """
    for b in found.blocks:
        if b.k is not None and not any(b is other for other in left_out):
            term = stacked.wide.terms[stacked.source[b.k][0]]
            walk = term.Q is not None and term.Q.null_dim and not isinstance(term.Q, PedigreePrecision)
            if sp.issparse(term.Z) or term.columns is not None or walk:
                return b
    return None
