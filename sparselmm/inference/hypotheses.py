"""Hypotheses of the terms of the fixed part: the L of type I, II and III tests (SAS; as lmerTest builds them)."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .._errors import ModelError
from .._typing import FloatArray, IntArray
from ..formula.coding import CodedTerm, Coding, read_coding
from .contrasts import need_dense

if TYPE_CHECKING:
    from ..results import Fit

RANK = 1e-7  # as R's lm: a column whose part outside the earlier ones is relatively smaller depends on them
NONE = 1e-8  # rows of an L below this are no hypothesis (lmerTest)
INTERCEPT = "1"


def term_hypotheses(fit: "Fit", type: int = 3) -> dict[str, FloatArray]:
    """Term -> L (rows, p) over the coefficients in the model; no row where nothing of a term can be tested.

    type: 1 sequential, each term given those before it; 2 marginal, given all terms that do not contain it; 3 the
    same hypotheses whatever the contrasts and, where every cell occurs, whatever the numbers of rows.
    Errors: ModelError for another type, and for a model from arrays.
    """
    if type not in TYPES:
        raise ModelError(f"anova(type={type!r}): one of {', '.join(map(str, TYPES))}")
    if fit.spec.encoding is None:
        raise ModelError("a model from arrays has no terms: test columns of X with fit.test(L)")
    need_dense(fit, "anova")
    coding = read_coding(fit.spec.encoding.fixed_design)
    return TYPES[type](fit, coding)


def _sequential(fit: "Fit", coding: Coding) -> dict[str, FloatArray]:
    """Rows of the unit upper triangular U in X'X = U'DU."""
    kept = fit.likelihood.kept
    U = _unit_triangle(fit.spec.X[:, kept])
    return {t.name: U[np.isin(kept, t.columns)] for t in _tested(coding)}


def _marginal(fit: "Fit", coding: Coding) -> dict[str, FloatArray]:
    """The same with the term and what contains it moved to the end; of a term in nothing, its own coefficients."""
    kept, out = fit.likelihood.kept, {}
    for term in _tested(coding):
        above = [t for t in coding.terms if term.is_in(t)]
        own = np.isin(kept, term.columns)
        if not above:
            out[term.name] = np.eye(len(kept))[own]
            continue
        last = own | np.isin(kept, np.concatenate([t.columns for t in above]))
        order = np.concatenate([np.flatnonzero(~last), np.flatnonzero(own), np.flatnonzero(last & ~own)])
        L = np.zeros((len(kept), len(kept)))
        L[:, order] = _unit_triangle(fit.spec.X[:, kept[order]])
        out[term.name] = L[int((~last).sum()) :][: int(own.sum())]
    return out


def _type_three(fit: "Fit", coding: Coding) -> dict[str, FloatArray]:
    """Estimable functions of the indicators' coefficients, each term's made orthogonal to those that contain it.

    With X = E C, X_t = E C_t the treatment coding and A'A = X'X, the general form is G = (X_t^- E)', (P, p); a term's
    functions are its columns of G, less their projection on the columns of the terms that contain it.
    """
    kept, size = fit.likelihood.kept, _covariate_sizes(fit.spec.X, coding)
    A = _triangle(fit.spec.X / size)
    E = A @ coding.indicators
    E[np.abs(E) < NONE * (np.abs(A) @ np.abs(coding.indicators))] = 0.0  # of a cell without rows rounding is left
    chosen = _independent(E @ coding.treatment)
    X_t = E @ coding.treatment[:, chosen]
    G = np.linalg.lstsq(X_t, E)[0].T
    back = np.linalg.lstsq(X_t, A[:, kept])[0]
    places = {t.name: np.flatnonzero(np.isin(chosen, t.columns)) for t in coding.terms}
    for term in sorted(coding.terms, key=lambda t: -len(t.factors)):
        above = _join([places[t.name] for t in coding.terms if term.is_in(t)])
        own = places[term.name]
        if len(above) and len(own):
            G[:, own] -= G[:, above] @ np.linalg.lstsq(G[:, above], G[:, own])[0]
    L = G.T @ coding.treatment[:, chosen]
    L[np.abs(L) < NONE * np.abs(L).max(initial=0.0)] = 0.0
    return {t.name: _rows(L[places[t.name]] @ back) * size[kept] for t in _tested(coding)}


def _covariate_sizes(X: FloatArray, coding: Coding) -> FloatArray:
    """The largest value of the columns of X with the same covariates, (p,): the coding is the same in these units."""
    out = np.ones(X.shape[1])
    for numeric in {t.numeric for t in coding.terms}:
        own = _join([t.columns for t in coding.terms if t.numeric == numeric])
        out[own] = np.abs(X[:, own]).max(initial=0.0) or 1.0
    return out


TYPES: dict[int, Callable[["Fit", Coding], dict[str, FloatArray]]] = {1: _sequential, 2: _marginal, 3: _type_three}


def _tested(coding: Coding) -> list[CodedTerm]:
    return [t for t in coding.terms if t.name != INTERCEPT]


def _rows(L: FloatArray) -> FloatArray:
    return L[np.abs(L).sum(axis=1) > NONE]


def _join(parts: Sequence[IntArray]) -> IntArray:
    return np.concatenate([np.zeros(0, np.int64), *parts])


def _triangle(X: FloatArray) -> FloatArray:
    """A with A'A = X'X, columns scaled on the way."""
    size = np.abs(X).max(axis=0, initial=0.0)
    size[size == 0.0] = 1.0
    return np.linalg.qr(X / size, mode="r") * size


def _unit_triangle(X: FloatArray) -> FloatArray:
    A = _triangle(X)
    return A / np.diag(A)[:, None]


def _independent(A: FloatArray) -> IntArray:
    """Columns that do not depend on earlier ones."""
    chosen: list[int] = []
    Q = np.zeros((len(A), 0))
    for j, column in enumerate(A.T):
        rest = column - Q @ (Q.T @ column)
        rest = rest - Q @ (Q.T @ rest)
        if np.linalg.norm(rest) > RANK * np.linalg.norm(column):
            chosen.append(j)
            Q = np.column_stack([Q, rest / np.linalg.norm(rest)])
    return np.array(chosen, dtype=np.int64)
