"""Records with several traits -> one response: a row for each value that is there, effects of each trait its own."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg as sla
import scipy.sparse as sp

from .._errors import DataError, FormulaError, ModelError
from .._typing import BoolArray, FloatArray, IntArray
from ..formula import build_spec
from ..formula.names import unknown_column
from ..formula.table import as_vector, numeric_column, open_table
from ..structures import UnstructuredResidual, VarIdentResidual
from ..structures.base import Residual
from ..terms import ModelSpec, RandomTerm

FEWEST, MOST = 2, 10
LABEL = "us(trait | record)"
FLOOR = 1e-6  # of a variance about the fixed effects: that they fit a trait exactly is said by what checks it
TIGHT = 0.95  # correlations to start from are no closer to +-1


@dataclass(frozen=True, slots=True, eq=False)
class Stacked:
    """A model of T traits as one of all their values.

    traits: in the order of the user. order: (T,) places of the traits in the stacked model, whose first trait is the
    reference of the residual; scale: (T,) what each was divided by; both in the user's order. wide: the model of one
    row a record; rows: (records,) which of the table they are. present: (records, T) cells with a value. empty: records
    without any trait, left out. spec: the stacked model of traits over their scale. source: the term of `wide` that
    each of its terms comes from, and which effects of it. covariance: (T, T) of the standardised traits about the fixed
    effects, in the order of the stacked model.
    """

    traits: tuple[str, ...]
    order: tuple[int, ...]
    scale: FloatArray
    wide: ModelSpec
    rows: IntArray
    present: BoolArray
    empty: int
    spec: ModelSpec
    source: tuple[tuple[int, tuple[int, ...]], ...]
    covariance: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class _Cells:
    """The cells with a value: record and trait of each (N,), record by record. names: of the T traits."""

    record: IntArray
    trait: IntArray
    names: tuple[str, ...]

    def term(self, term: RandomTerm, effects: Sequence[int]) -> RandomTerm:
        """The term with these of its effects, each once for every trait: trait by trait, `us` among all of them."""
        names = tuple(_effect_name(trait, term.effects[a]) for trait in self.names for a in effects)
        Z, columns = self._sparse(term, effects) if sp.issparse(term.Z) else self._coded(term, effects)
        return RandomTerm(
            Z, "us", columns, names, term.name, term.levels, term.Q, label=term.label, text=term.describe()
        )  # fmt: skip

    def _coded(self, term: RandomTerm, effects: Sequence[int]) -> tuple[IntArray, FloatArray]:
        r, N = len(effects), len(self.record)
        columns = np.zeros((N, r * len(self.names)))
        for place, a in enumerate(effects):
            values = 1.0 if term.columns is None else term.columns[self.record, a]
            columns[np.arange(N), self.trait * r + place] = values
        return term.Z[self.record], columns

    def _sparse(self, term: RandomTerm, effects: Sequence[int]) -> tuple[sp.csc_array, None]:
        r, width = len(effects), len(effects) * len(self.names)
        place = np.full(term.n_effects, -1)
        place[list(effects)] = np.arange(r)
        Z = sp.coo_array(sp.csr_array(term.Z)[self.record])
        rows, cols = Z.coords
        at = place[cols % term.n_effects]
        keep = at >= 0
        cols = (cols // term.n_effects) * width + self.trait[rows] * r + at
        shape = len(self.record), term.n_levels * width
        return sp.csc_array((Z.data[keep], (rows[keep], cols[keep])), shape=shape), None

    def dense(self, X: FloatArray) -> FloatArray:
        """X (records, p) as (N, pT), each trait its own columns."""
        p = X.shape[1]
        out = np.zeros((len(self.record), p * len(self.names)))
        for t in range(len(self.names)):
            rows = np.flatnonzero(self.trait == t)
            out[rows, t * p : (t + 1) * p] = X[self.record[rows]]
        return out

    def sparse(self, S: Any) -> sp.csc_array:
        """The same of a sparse S."""
        part = sp.coo_array(sp.csr_array(S)[self.record])
        rows, cols = part.coords
        shape = len(self.record), S.shape[1] * len(self.names)
        return sp.csc_array((part.data, (rows, self.trait[rows] * S.shape[1] + cols)), shape=shape)


def stack(
    traits: Sequence[str], formula: str, data: Any, weights: Any = None, context: Mapping[str, Any] | None = None
) -> Stacked:
    """The stacked model of `traits` (names of columns) with the fixed and random effects of `formula`.

    Errors: DataError for a trait that is not there, has no numbers or is constant; ModelError for fewer than two or
    more than ten; FormulaError.
    """
    names = check_traits(traits)
    table = open_table(data)
    Y = np.column_stack([_column(table, name) for name in names])
    some = ~np.isnan(Y).all(axis=1)
    if not some.any():
        raise DataError(f"no record has a value of {', '.join(names)}")
    if not isinstance(weights, (str, type(None))):
        weights = as_vector(weights, len(table), "weights")[some]
    rows = np.flatnonzero(some)
    table = table if some.all() else table[rows]
    index = _free_name(table.columns)
    text = f"{index} ~ {_right_side(formula)}"
    wide = build_spec(text, table.with_row_index(index), weights=weights, context=context)
    for name in set(names) & set(wide.fixed_names):
        raise FormulaError(f"trait '{name}' is a covariate too, and would explain itself: take it out of the formula")
    if wide.offset is not None:
        raise FormulaError("offset() would be taken off every trait: take it off the traits that it belongs to")
    rows = rows[wide.y.astype(np.int64)]
    return _stacked(names, wide, rows, Y[rows], int((~some).sum()))


def check_traits(traits: Any) -> tuple[str, ...]:
    """Names of 2 to 10 different columns. Errors: ModelError."""
    if isinstance(traits, str) or not isinstance(traits, Sequence) or not all(isinstance(t, str) for t in traits):
        raise ModelError(f'the traits are names of columns, as in ["t1", "t2"], not {traits!r}')
    if not FEWEST <= len(traits) <= MOST:
        way = "lmm() fits one response" if len(traits) < FEWEST else "fit them in pairs, or lmm_many() one by one"
        raise ModelError(f"{len(traits)} traits: lmm_multi() takes {FEWEST} to {MOST}; {way}")
    if len(set(traits)) < len(traits):
        twice = next(t for t in traits if list(traits).count(t) > 1)
        raise ModelError(f"trait '{twice}' is there twice")
    return tuple(traits)


def _column(table: Any, name: str) -> FloatArray:
    if name not in table.columns:
        raise unknown_column(name, table.columns)
    return numeric_column(table, name, "trait")


def _free_name(columns: Sequence[str]) -> str:
    name = "record"
    while name in columns:
        name += "_"
    return name


def _right_side(formula: Any) -> str:
    if not isinstance(formula, str):
        raise FormulaError(f"a formula is a string such as '~ x + (1 | g)', not {type(formula).__name__}")
    left, tilde, right = formula.partition("~")
    if tilde and left.strip():
        raise FormulaError(f"the responses are the traits, not '{left.strip()}': write '~{right}'")
    return right if tilde else formula


def _stacked(names: tuple[str, ...], wide: ModelSpec, rows: IntArray, Y: FloatArray, empty: int) -> Stacked:
    present = ~np.isnan(Y)
    for name, column, there in zip(names, Y.T, present.T, strict=True):
        _check_trait(name, column[there], wide.X[there])
    order = _reference_order(present)
    scale = np.nanstd(Y, axis=0)
    Y = Y / scale
    record, trait = np.nonzero(present[:, order])
    cells = _Cells(record, trait, tuple(names[t] for t in order))
    covariance = _residual_covariance(Y[:, order], present[:, order], wide.X)
    parts = [(k, effects) for k, term in enumerate(wide.terms) for effects in _blocks(term)]
    p, coefficients = wide.X.shape[1], wide.fixed_names
    every = [(*coefficients[:p],), (*coefficients[p:],)]
    spec = ModelSpec(
        y=Y[cells.record, np.asarray(order)[cells.trait]],
        X=cells.dense(wide.X),
        fixed_names=tuple(coefficient_name(t, c) for part in every for t in cells.names for c in part),
        terms=tuple(cells.term(wide.terms[k], effects) for k, effects in parts),
        weights=None if wide.weights is None else wide.weights[cells.record],
        response=", ".join(names),
        formula=f"{', '.join(names)} ~ {wide.formula.partition('~')[2].strip()}",
        n_dropped=wide.n_dropped,
        residual=_residual(cells, covariance),
        S=None if wide.S is None else cells.sparse(wide.S),
    )
    return Stacked(names, tuple(order), scale, wide, rows, present, empty, spec, tuple(parts), covariance)


def _check_trait(name: str, values: FloatArray, X: FloatArray) -> None:
    if not len(values):
        raise DataError(f"trait '{name}' has no value in the records that are used")
    if np.ptp(values) == 0.0:
        raise DataError(f"trait '{name}' is constant ({values[0]:g}): there is nothing to model")
    if len(values) <= X.shape[1] and len(values) == np.linalg.matrix_rank(X):
        raise DataError(
            f"trait '{name}' has {len(values)} values for {X.shape[1]} coefficients: nothing is left for its "
            "variances. Leave it out, or drop fixed effects"
        )


def _blocks(term: RandomTerm) -> Iterator[tuple[int, ...]]:
    """Effects that are correlated, traits apart: all of them for `us`, one by one for `diag`."""
    if term.n_effects == 1 or term.structure == "us":
        yield tuple(range(term.n_effects))
    elif term.structure == "diag":
        yield from ((a,) for a in range(term.n_effects))
    else:
        raise ModelError(
            f"{term.describe()}: with several traits the effects of a level are unstructured, or independent of each "
            "other: write (1 + x | g) or (1 + x || g)"
        )


def _reference_order(present: BoolArray) -> list[int]:
    """Traits that are measured with most others first: what never meets a trait comes behind what meets both."""
    met = (present.T.astype(np.int64) @ present) > 0
    return sorted(range(present.shape[1]), key=lambda t: -int(met[t].sum()))


def _residual_covariance(Y: FloatArray, present: BoolArray, X: FloatArray) -> FloatArray:
    """Covariance (T, T) of what least squares leaves of the traits, shrunk until it is one; 0 for a pair never met."""
    rest = np.zeros(Y.shape)
    for t in range(Y.shape[1]):
        at = present[:, t]
        y, x = Y[at, t], X[at]
        rest[at, t] = y - x @ sla.lstsq(x, y, lapack_driver="gelsy")[0] if x.shape[1] else y
    count = present.T.astype(float) @ present
    C = rest.T @ rest / np.maximum(count, 1.0)
    sd = np.sqrt(np.maximum(np.diag(C), FLOOR))
    cor = np.clip(C / np.outer(sd, sd), -TIGHT, TIGHT)
    np.fill_diagonal(cor, 1.0)
    lowest = float(np.linalg.eigvalsh(cor)[0])
    shrink = min(1.0, TIGHT / (1.0 - lowest)) if lowest < 1.0 else 1.0
    cor = shrink * cor + (1.0 - shrink) * np.eye(len(cor))
    return np.outer(sd, sd) * cor


def _residual(cells: _Cells, covariance: FloatArray) -> Residual:
    if (np.diff(cells.record) == 0).any():
        return UnstructuredResidual(
            cells.trait, cells.record, cells.names, label=LABEL, guess=covariance
        )  # fmt: skip
    return VarIdentResidual(cells.trait, cells.names, "varident(trait)")


def coefficient_name(trait: str, coefficient: str) -> str:
    """Of one trait's coefficient in the stacked model."""
    return f"{trait}:{coefficient}"


def _effect_name(trait: str, effect: str) -> str:
    return effect.replace("Intercept", trait) if "Intercept" in effect else f"{trait}:{effect}"
