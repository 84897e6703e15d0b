"""Which columns of X belong to which term, and how they are made of indicator columns: X = E C.

E has for each term a column for every combination of levels of its factors (times its numeric columns): the
overparametrised design in which hypotheses are stated. C depends on the levels and their contrasts, not on rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg as sla

from .._errors import ModelError
from .._typing import FloatArray, IntArray
from .design import Design

ROUNDING = 1e-12  # coefficients of order one: what is left of a cell without rows would count as a column


@dataclass(frozen=True, slots=True, eq=False)
class CodedFactor:
    """A factor of a term. full: (n, n) coding of n levels, or the identity of n numeric columns; reduced: (n, c)."""

    name: str
    numeric: bool
    full: FloatArray
    reduced: FloatArray

    @property
    def size(self) -> int:
        """Levels, or numeric columns."""
        return len(self.full)

    @property
    def treatment(self) -> FloatArray:
        """(n, n-1): a column for every level but the first."""
        return np.eye(self.size)[:, 1:]


@dataclass(frozen=True, slots=True, eq=False)
class CodedTerm:
    """A term: its factors, its columns of X, its columns of E (the first factor's levels change fastest)."""

    name: str
    factors: tuple[CodedFactor, ...]
    columns: IntArray
    indicators: IntArray

    @property
    def variables(self) -> frozenset[str]:
        """Names of its factors."""
        return frozenset(f.name for f in self.factors)

    @property
    def numeric(self) -> frozenset[str]:
        """Names of those that are numeric."""
        return frozenset(f.name for f in self.factors if f.numeric)

    def is_in(self, other: "CodedTerm") -> bool:
        """Whether `other` has its variables and more, the others being factors: `a` is in `a:b`, not in `a:x`."""
        return self.variables < other.variables and self.numeric == other.numeric


@dataclass(frozen=True, slots=True, eq=False)
class Coding:
    """The terms of the fixed part, the intercept (name `1`) among them.

    C: (P, p), X = E C. treatment: (P, p), the same with treatment contrasts. indicators: (p, P), E = X indicators
    where every combination of levels occurs.
    """

    terms: tuple[CodedTerm, ...]
    C: FloatArray
    treatment: FloatArray
    indicators: FloatArray


def read_coding(design: Design) -> Coding:
    """The terms behind the columns of `design`. ModelError for a coding that formulaic does not describe."""
    structure = [] if design.spec is None else list(design.spec.structure)
    factors = _factors(design, structure)
    terms: list[CodedTerm] = []
    coded: list[tuple[FloatArray, FloatArray]] = []
    p = P = 0
    for s in structure:
        own = tuple(factors[f.expr] for f in s.term.factors if f.expr in factors)
        size = int(np.prod([f.size for f in own]))
        coded.append((_columns(s, own, False), _columns(s, own, True)))
        terms.append(CodedTerm(str(s.term), own, p + np.arange(len(s.columns)), P + np.arange(size)))
        p, P = p + len(s.columns), P + size
    C, treatment = (_block_diagonal([pair[i] for pair in coded]) for i in (0, 1))
    weighted = C.T @ _gram(terms, P)
    indicators = np.linalg.lstsq(weighted @ C, weighted)[0]
    indicators[np.abs(indicators) < ROUNDING] = 0.0
    return Coding(tuple(terms), C, treatment, indicators)


def _block_diagonal(blocks: Sequence[FloatArray]) -> FloatArray:
    return np.asarray(sla.block_diag(*blocks)) if blocks else np.zeros((0, 0))


def _factors(design: Design, structure: Sequence[Any]) -> dict[str, CodedFactor]:
    """Every factor by its expression; the width of a numeric one follows from the number of columns of a term."""
    state = {} if design.spec is None else design.spec.encoder_state
    out = {expr: _categorical(expr, s[1]["contrasts"]) for expr, s in state.items() if "contrasts" in s[1]}
    waiting = [(scoped, len(s.columns)) for s in structure for scoped in s.scoped_terms if len(s.scoped_terms) == 1]
    waiting.sort(key=lambda pair: len(pair[0].factors))
    for scoped, n_columns in waiting:
        unknown = [f.factor.expr for f in scoped.factors if f.factor.expr not in out]
        known = [_width(out[f.factor.expr], f.reduced) for f in scoped.factors if f.factor.expr in out]
        width = n_columns // int(np.prod(known))
        if len(unknown) == 1 or width == 1:
            out |= {expr: CodedFactor(expr, True, np.eye(width), np.eye(width)) for expr in unknown}
    missing = [expr for expr in state if expr not in out]
    if missing:
        raise ModelError(f"the columns of {', '.join(missing)} cannot be told apart: write it as a term of its own too")
    return out


def _categorical(name: str, state: Any) -> CodedFactor:
    matrices = [state.contrasts.get_coding_matrix(state.levels, reduced_rank=r) for r in (False, True)]
    full, reduced = (np.asarray(m, dtype=np.float64) for m in matrices)
    return CodedFactor(name, False, full, reduced)


def _width(factor: CodedFactor, is_reduced: bool) -> int:
    return (factor.reduced if is_reduced else factor.full).shape[1]


def _columns(structure: Any, factors: Sequence[CodedFactor], treatment: bool) -> FloatArray:
    """The term's block of C, (combinations, columns): Kronecker products, a factor left out adding over its levels."""
    blocks = []
    for scoped in structure.scoped_terms:
        used = {f.factor.expr: f.reduced for f in scoped.factors}
        block: FloatArray = np.full((1, 1), float(scoped.scale))
        for factor in factors:
            block = np.asarray(np.kron(_code(factor, used.get(factor.name), treatment), block), dtype=np.float64)
        blocks.append(block)
    return np.hstack(blocks)


def _code(factor: CodedFactor, is_reduced: bool | None, treatment: bool) -> FloatArray:
    if is_reduced is None:
        return np.ones((factor.size, 1))
    if not is_reduced:
        return np.eye(factor.size) if treatment else factor.full
    return factor.treatment if treatment else factor.reduced


def _gram(terms: Sequence[CodedTerm], P: int) -> FloatArray:
    """Mean of E'E over all combinations of levels, numeric columns orthonormal: full rank wherever terms differ."""
    out = np.zeros((P, P))
    for a in terms:
        for b in terms:
            if a.numeric == b.numeric:
                out[np.ix_(a.indicators, b.indicators)] = _mean_product(a, b)
    return out


def _mean_product(a: CodedTerm, b: CodedTerm) -> FloatArray:
    """E[indicator of a times indicator of b], a Kronecker product over the factors of either."""
    shared, out, axes_a, axes_b = a.variables & b.variables, np.ones(()), [], []
    for factor in (*a.factors, *(f for f in b.factors if f.name not in shared)):
        n = factor.size
        if factor.name in shared:
            axes_a.append((_place(a, factor), out.ndim))
            axes_b.append((_place(b, factor), out.ndim + 1))
            out = np.multiply.outer(out, np.eye(n) / (1 if factor.numeric else n))
        else:
            axes, term = (axes_a, a) if factor.name in a.variables else (axes_b, b)
            axes.append((_place(term, factor), out.ndim))
            out = np.multiply.outer(out, np.full(n, 1.0 / n))
    order = [[axis for _, axis in sorted(axes, reverse=True)] for axes in (axes_a, axes_b)]
    return out.transpose(order[0] + order[1]).reshape(len(a.indicators), len(b.indicators))


def _place(term: CodedTerm, factor: CodedFactor) -> int:
    return [f.name for f in term.factors].index(factor.name)
