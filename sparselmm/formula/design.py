"""Model matrices by formulaic, for the fixed part and the left sides of bars, with the encoding kept for new rows."""

import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import formulaic
import numpy as np
import pandas as pd
import scipy.sparse as sp
from formulaic.errors import DataMismatchWarning, FormulaicError
from formulaic.formula import SimpleFormula
from formulaic.parser.types import Factor, Term
from formulaic.transforms import TRANSFORMS
from formulaic.utils.layered_mapping import LayeredMapping
from formulaic.utils.stateful_transforms import stateful_eval

from .._errors import DataError, SparselmmError, SparselmmWarning
from .._typing import FloatArray, IntArray
from ..engines.threads import parallel, row_pieces
from ..terms import split_columns
from .table import kind_of
from .tokens import Expr

HEAD = 2  # rows that show formulaic the kinds of plain columns; their levels are in their dtype
SLAB = 4096  # rows of X written at a time: they stay in cache from one term to the next
FEW_LEVELS = 10  # a factor with no more may well have levels such as "0.5"
MANY_LEVELS = 100  # a factor with more makes sparse columns: beside a dense block of 1e6 rows, 0.8 GB
UNREADABLE = {  # what formulaic says, and the way out
    "`.` operator": "; write the names of the columns",
    "Unknown operator '>'": "; a comparison stands in I(...), as I(x > 0)",
    "Unknown operator '<'": "; a comparison stands in I(...), as I(x < 0)",
    "Unknown operator '='": "; a comparison stands in I(...), as I(f == 'a')",
}
_EVALUATION_ERRORS = (FormulaicError, SyntaxError, TypeError, ValueError, LookupError, NameError, AttributeError)


@dataclass(frozen=True, slots=True)
class Design:
    """Columns that formulaic makes of a formula, and how it made them.

    columns: what it reads of a table. spec: formulaic's, None where there is no term. names: (p,) of the columns.
    order: (p,) formulaic's columns in the order of `names`, the dense ones first, where the matrix is sparse.
    """

    columns: tuple[str, ...]
    spec: formulaic.ModelSpec | None
    names: tuple[str, ...]
    order: IntArray | None = None

    def matrix(self, frame: pd.DataFrame, context: Mapping[str, Any]) -> Any:
        """The same columns for the rows of `frame`, (n, p): an array, or a sparse matrix where the fit's was."""
        if self.spec is None or len(frame) == 0:
            return np.empty((len(frame), len(self.names)))
        with _clear_errors(" + ".join(self.term_names())):
            made = self.spec.get_model_matrix(_numbers(frame, self.columns), context=context)
        if self.order is not None:
            return sp.csr_array(_unwrapped(made)[:, self.order])
        return _checked(np.asarray(made), self.names)

    def reading_only(self, columns: Sequence[str]) -> "Design":
        """The terms that read no other columns of the table, the intercept among them, with some of `names`."""
        others = set(self.columns).difference(columns)
        variables = {} if self.spec is None else self.spec.term_variables
        terms = [term for term, names in variables.items() if not others.intersection(map(str, names))]
        if self.spec is None or not terms:
            return Design((), None, ())
        spec = self.spec.subset(terms)
        names = tuple(spec.column_names)
        order = None if self.order is None else np.arange(len(names))
        return Design(tuple(c for c in self.columns if c not in others), spec, names, order)

    def term_names(self) -> tuple[str, ...]:
        """Terms of the formula, the intercept as `1`."""
        return () if self.spec is None else tuple(str(s.term) for s in self.spec.structure)

    def is_scalar(self) -> bool:
        """Whether every term is one numeric column."""
        return self.spec is None or all(
            len(s.columns) == 1 and not _has_factor(self.spec, s.term) for s in self.spec.structure
        )


def make_design(
    terms: SimpleFormula, columns: Sequence[str], frame: pd.DataFrame, context: Mapping[str, Any]
) -> tuple[Design, FloatArray]:
    """Encode `terms` for the rows of `frame`: the design and its matrix (n, p).

    Errors: DataError where the columns cannot be evaluated or come out infinite or missing.
    """
    if len(terms) == 0:
        return Design((), None, ()), np.empty((len(frame), 0))
    plain = len(frame) > HEAD and all(_is_plain(term, frame) for term in terms)
    seen = frame.iloc[:HEAD] if plain else frame
    with _clear_errors(" + ".join(map(str, terms))):
        made = terms.get_model_matrix(_numbers(seen, columns), context=context, na_action="ignore", output="numpy")
    spec = made.model_spec
    design = Design(tuple(columns), spec, tuple(spec.column_names))
    return design, _checked(_plain_columns(spec, frame) if plain else np.asarray(made), design.names)


def _is_plain(term: Term, frame: pd.DataFrame) -> bool:
    """Whether a term is the intercept, a column of numbers or a factor: its columns follow from those of few rows."""
    if len(term.factors) != 1 or term.factors[0].expr not in frame:
        return str(term) == "1"
    dtype = frame[term.factors[0].expr].dtype
    return term.factors[0].eval_method is Factor.EvalMethod.LOOKUP and (
        isinstance(dtype, pd.CategoricalDtype) or dtype.kind in "iuf"
    )


def _plain_columns(spec: formulaic.ModelSpec, frame: pd.DataFrame) -> FloatArray:
    """The columns (n, p) of plain terms, straight into their place: formulaic would make each one several times."""
    out, parts, place = np.empty((len(frame), len(spec.column_names))), [], 0
    for part in spec.structure:
        if part.columns:
            parts.append((slice(place, place + len(part.columns)), _plain_values(part, spec, frame)))
        place += len(part.columns)

    def fill(begin: int, end: int) -> None:
        for first in range(begin, end, SLAB):
            rows = slice(first, min(first + SLAB, end))
            for columns, values in parts:
                out[rows, columns] = values(rows)

    parallel(fill, row_pieces(len(out)))
    return out


def _plain_values(part: Any, spec: formulaic.ModelSpec, frame: pd.DataFrame) -> Callable[[slice], Any]:
    """rows -> the columns of a plain term, (rows, columns)."""
    if str(part.term) == "1":
        return lambda rows: 1.0
    (scoped,) = part.scoped_terms[0].factors
    kind, state = spec.encoder_state[scoped.factor.expr]
    values = frame[scoped.factor.expr]
    if kind is Factor.Kind.CATEGORICAL:
        coding = state["contrasts"].get_coding_matrix(reduced_rank=scoped.reduced, sparse=False)
        codes, table = values.cat.codes.to_numpy(), np.asarray(coding, dtype=np.float64)
        return lambda rows: table.take(codes[rows], axis=0)  # a third of the time of table[codes]
    numbers = values.to_numpy()
    return lambda rows: numbers[rows, None]


def make_fixed_design(
    terms: SimpleFormula, columns: Sequence[str], frame: pd.DataFrame, context: Mapping[str, Any]
) -> tuple[Design, FloatArray, sp.csc_array | None]:
    """As `make_design`, with X (n, p) and S (n, s): a factor of many levels is never a dense matrix.

    Names are those of X, then of S. Errors: as `make_design`.
    """
    for column in columns:
        _warn_of_numbers_in_text(frame[column])
    if not any(_levels(frame[c]) > MANY_LEVELS for c in columns):
        return *make_design(terms, columns, frame, context), None
    with _clear_errors(" + ".join(map(str, terms))):
        made = terms.get_model_matrix(_numbers(frame, columns), context=context, na_action="ignore", output="sparse")
    matrix = _unwrapped(made)
    dense, sparse = split_columns(matrix)
    if not len(sparse):
        return *make_design(terms, columns, frame, context), None
    spec, order = made.model_spec, np.concatenate([dense, sparse])
    names = tuple(spec.column_names[j] for j in order)
    X = _checked(matrix[:, dense].toarray(), names[: len(dense)])
    return Design(tuple(columns), spec, names, order), X, sp.csc_array(matrix[:, sparse])


def _warn_of_numbers_in_text(column: pd.Series) -> None:
    """A column of measurements that came as text makes a coefficient of every value, without a word."""
    levels = column.cat.categories.tolist() if _levels(column) > FEW_LEVELS else []
    try:
        numbers = [float(level) if isinstance(level, str) else 0.0 for level in levels]
    except ValueError:
        return
    if not all(map(float.is_integer, numbers)):
        warnings.warn(
            f"column '{column.name}' is text, and all of its {len(levels)} levels are numbers: it is taken as a "
            "factor. Convert it where a slope is meant",
            SparselmmWarning,
            stacklevel=2,
        )


def _unwrapped(made: Any) -> sp.csc_array:
    """The sparse matrix within formulaic's wrapper."""
    return sp.csc_array(getattr(made, "__wrapped__", made))


def _levels(column: pd.Series) -> int:
    return len(column.cat.categories) if isinstance(column.dtype, pd.CategoricalDtype) else 0


def read_terms(text: str, expr: Expr) -> SimpleFormula:
    """The terms of a formula's right side; FormulaError that underlines `expr`."""
    try:
        terms = _terms(text)
    except _EVALUATION_ERRORS as error:
        said = str(error).splitlines()[0].split(". ")[0].rstrip(".")
        hint = next((text for sign, text in UNREADABLE.items() if sign in said), "")
        raise expr.error(f"'{expr.text}' cannot be read: {said}{hint}") from error
    if not isinstance(terms, SimpleFormula):
        raise expr.error(f"'{expr.text}' is not a sum of terms")
    return terms


@lru_cache(maxsize=128)
def _terms(text: str) -> formulaic.Formula:
    return formulaic.Formula(text)


def split_terms(terms: SimpleFormula) -> list[SimpleFormula]:
    """One formula for each term, without intercept unless it is the intercept."""
    return [SimpleFormula([term]) for term in terms]


def evaluate(
    text: str, expr: Expr, frame: pd.DataFrame, context: Mapping[str, Any], state: dict[str, Any]
) -> FloatArray:
    """A numeric expression (response, offset) for the rows of `frame`, shape (n,).

    state: what stateful transforms such as `scale` keep from the first call to the next.
    Errors: FormulaError where it is no Python, DataError where it fails, is not numeric, or is no single column.
    """
    values = frame[expr.single] if expr.single in frame else _python(text, expr, frame, context, state)
    array = np.asarray(values)
    if array.dtype.kind not in "iuf":
        raise DataError(
            f"'{expr.text}' is not numeric, it holds {kind_of(values)}: make a column of numbers of it first"
        )
    if array.shape not in ((), (len(frame),)):
        raise DataError(f"unequal lengths: '{expr.text}' has shape {array.shape} for {len(frame)} rows")
    return np.full(len(frame), array, dtype=np.float64)


def _python(text: str, expr: Expr, frame: pd.DataFrame, context: Mapping[str, Any], state: dict[str, Any]) -> Any:
    columns = dict(_numbers(frame, list(frame)).items())
    names = LayeredMapping(LayeredMapping(columns, name="data"), context, TRANSFORMS)
    with _clear_errors(expr.text):
        try:
            values = stateful_eval(text.strip(), names, {}, state, None)
        except SyntaxError as error:
            raise expr.error(f"'{expr.text}' cannot be read: {error.msg}") from error
    return getattr(values, "__wrapped__", values)


@contextmanager
def _clear_errors(what: str) -> Iterator[None]:
    """Turn whatever an evaluation stumbles over into a DataError; values such as log(-1) are checked afterwards."""
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("error", DataMismatchWarning)
            yield
    except SparselmmError:
        raise
    except DataMismatchWarning as error:
        unseen = re.sub(r"np\.\w+\((.*?)\)", r"\1", str(error).partition("dataset): ")[2].partition(". They")[0])
        raise DataError(f"'{what}': levels that were not in the data of the fit: {unseen}") from error
    except _EVALUATION_ERRORS as error:
        raise DataError(f"'{what}' cannot be evaluated: {error}") from error


def _numbers(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """The columns with integers as floats: int64 powers overflow without a word."""
    values = {c: frame[c] for c in columns}
    floats = {c: v.astype(np.float64) if v.dtype.kind in "iu" else v for c, v in values.items()}
    return pd.DataFrame(floats, index=frame.index, copy=False)


def _has_factor(spec: formulaic.ModelSpec, term: Term) -> bool:
    kinds = [spec.encoder_state[f.expr][0] for f in term.factors if f.expr in spec.encoder_state]
    return Factor.Kind.CATEGORICAL in kinds


def _checked(matrix: Any, names: Sequence[str]) -> FloatArray:
    if matrix.dtype.kind not in "biuf":
        raise DataError(f"{', '.join(names)}: not numeric ({matrix.dtype})")
    out = np.ascontiguousarray(matrix, dtype=np.float64)
    if not np.isfinite(out).all():
        bad = (~np.isfinite(out)).sum(axis=0)
        j = int(np.argmax(bad > 0))
        raise DataError(
            f"'{names[j]}': {bad[j]} of {len(out)} values are infinite or missing after the transformation; "
            "drop or mend these rows"
        )
    return out
