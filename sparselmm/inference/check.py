"""What a careful analyst would look at after a fit, in one small record."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy import stats

from .._typing import FloatArray
from ..terms import RandomTerm
from .explained import relative_factors, vif
from .influence import LARGEST_GROUP, cooks_distance
from .residuals import leverage, residuals
from .varpar import at_edge

if TYPE_CHECKING:
    from ..results import Fit

CHANCE = 0.05  # an extreme value is worth a look where n standard normal ones would have it with this probability
FEW_LEVELS = 5  # a variance from fewer says little
INFLATED = 10.0  # a coefficient's variance times this
SKEWED, HEAVY, SPREAD = 1.0, 3.0, 0.3  # skewness, excess kurtosis, rank correlation of |residual| with fitted
AFFORDABLE = 50_000  # rows up to which groups are left out in turn


@dataclass(frozen=True, slots=True)
class Finding:
    """topic: what was looked at. fine: whether nothing is to be done. text: what was found."""

    topic: str
    fine: bool
    text: str


@dataclass(frozen=True, slots=True)
class Check:
    """Findings of `Fit.check`; its text has a line for each, `!` before those worth a look."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is worth a look."""
        return all(f.fine for f in self.findings)

    @property
    def table(self) -> pd.DataFrame:
        """topic, fine, text."""
        return pd.DataFrame([(f.topic, f.fine, f.text) for f in self.findings], columns=["topic", "fine", "text"])

    def __str__(self) -> str:
        width = max(len(f.topic) for f in self.findings)
        return "\n".join(f"{' ' if f.fine else '!'} {f.topic:<{width}}  {f.text}" for f in self.findings)

    def __repr__(self) -> str:
        return str(self)


def check(fit: "Fit") -> Check:
    """Search, edges, data left out, residuals, random effects, leverage, influential groups, collinearity.

    Thresholds are rules of thumb for where to look, no tests: an extreme value is one that n normal ones have with
    a probability of 5 %; a group is influential beyond the median of F(p, n - p) (Cook 1977).
    """
    return Check(tuple(f for look in LOOKS for f in look(fit)))


def _search(fit: "Fit") -> Iterator[Finding]:
    text = f"{'converged' if fit.converged else 'NOT converged'}, scaled gradient {fit.gradient_norm:.1e}"
    yield Finding("search", fit.converged, text)


def _edges(fit: "Fit") -> Iterator[Finding]:
    edge = at_edge(fit)
    names = ", ".join(edge.index[edge])
    text = f"on the boundary: {names}" if names else "singular: see re_pca()" if fit.is_singular else "inside"
    yield Finding("variance parameters", not fit.is_singular, text)


def _data(fit: "Fit") -> Iterator[Finding]:
    dropped = fit.dropped_columns
    parts = [f"{fit.nobs:,} rows used"]
    parts += [f"{fit.spec.n_dropped:,} with missing values left out"] if fit.spec.n_dropped else []
    parts += [f"columns that depend on others: {', '.join(dropped)}"] if dropped else []
    yield Finding("data", not dropped, "; ".join(parts))
    for term in fit.spec.terms:
        if term.Q is None and term.n_levels < FEW_LEVELS:
            yield Finding("levels", False, f"{term.describe()}: a variance from {term.n_levels} levels says little")


def _residuals(fit: "Fit") -> Iterator[Finding]:
    r = residuals(fit, "standardized")
    known = r[np.isfinite(r)]
    many, limit = int((np.abs(known) > _extreme(len(known))).sum()), _extreme(len(known))
    worst = int(np.nanargmax(np.abs(r)))
    text = f"largest {r[worst]:.2f} in row {worst}; {many} of {len(known):,} beyond {limit:.2f}"
    yield Finding("residuals", not many, f"{text}, the limit for so many normal ones")
    skew, tails = float(stats.skew(known)), float(stats.kurtosis(known))
    fine = abs(skew) < SKEWED and tails < HEAVY
    yield Finding("their shape", fine, f"skewness {skew:.2f}, excess kurtosis {tails:.2f}")
    if np.ptp(fit.fitted) > 1e-9 * fit.sigma:
        spread = float(stats.spearmanr(np.abs(r), fit.fitted, nan_policy="omit").statistic)
        text = f"rank correlation of size with fitted value {spread:.2f}"
        yield Finding("their spread", not abs(spread) > SPREAD, text)


def _extreme(n: int) -> float:
    """What the largest of n standard normal values exceeds with probability CHANCE."""
    return float(stats.norm.isf(0.5 * CHANCE / max(1, n)))


def _random_effects(fit: "Fit") -> Iterator[Finding]:
    """b over their standard deviations, levels of independent terms."""
    triples = zip(fit.spec.terms, fit.estimate.evaluation.b, relative_factors(fit), strict=True)
    for term, b, T in triples:
        sd = fit.sigma * np.sqrt((T**2).sum(axis=1))
        if term.Q is None and (sd > 0.0).any():
            effects = [e for e, s in zip(term.effects, sd, strict=True) if s]
            yield _effects_of(term, b[:, sd > 0.0] / sd[sd > 0.0], effects)


def _effects_of(term: RandomTerm, scaled: FloatArray, effects: list[str]) -> Finding:
    level, effect = np.unravel_index(int(np.abs(scaled).argmax()), scaled.shape)
    value, limit = float(scaled[level, effect]), _extreme(scaled.size)
    text = f"{term.describe()}: largest {value:.2f} sd, {effects[int(effect)]} of {term.labels()[int(level)]}"
    return Finding("random effects", abs(value) <= limit, f"{text} (limit {limit:.2f})")


def _leverage(fit: "Fit") -> Iterator[Finding]:
    h = leverage(fit)
    own = int((h > 0.99).sum())
    text = f"{h.sum():,.1f} effective parameters for {len(h):,} rows, largest {h.max():.2f} in row {int(h.argmax())}"
    yield Finding("leverage", not own, text + (f"; {own} rows determine their own fitted value" if own else ""))


def _influence(fit: "Fit") -> Iterator[Finding]:
    p = len(fit.likelihood.kept)
    if not p:
        return
    limit = float(stats.f.median(p, max(1, fit.nobs - p)))
    groups = {t.name: t.Z for t in fit.spec.terms if t.Q is None and not sp.issparse(t.Z)}
    for name, codes in groups.items():
        if fit.nobs > AFFORDABLE or np.bincount(codes).max() > LARGEST_GROUP:
            yield Finding("influence", True, f"{name}: not computed for so many rows; cooks_distance(by='{name}') does")
            continue
        d = cooks_distance(fit, name)
        known = d.dropna()
        lost, many, found = len(d) - len(known), int((known > limit).sum()), []
        if len(known):
            found = [f"largest Cook's distance {known.max():.2f}, {known.idxmax()}"]
            found += [f"{many} of {len(d):,} beyond {limit:.2f}"]
        if lost:
            found += [f"without {lost} of {len(d):,} a coefficient cannot be estimated"]
        yield Finding("influence", not (many or lost), f"{name}: {'; '.join(found)}")


def _collinearity(fit: "Fit") -> Iterator[Finding]:
    if fit.spec.S is not None or len(fit.likelihood.kept) < 2:
        return
    table = vif(fit)
    if len(table) > 1:
        worst = table["vif"].idxmax()
        text = f"largest variance inflation {table['vif'].max():.1f}, {worst}"
        yield Finding("collinearity", bool(table["vif"].max() < INFLATED), text)


LOOKS: tuple[Callable[["Fit"], Iterator[Finding]], ...] = (
    _search, _edges, _data, _residuals, _random_effects, _leverage, _influence, _collinearity,
)  # fmt: skip
