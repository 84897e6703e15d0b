"""What a model is made of: frozen records that the formula or the user's arrays fill, with their checks.

`RandomTerm` -> `ModelSpec` is all that the equations need; no table, no formula text, no engine.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field
from typing import Any

import numpy as np
import scipy.sparse as sp

from ._errors import DataError, ModelError
from ._typing import AnyArray, FloatArray, IntArray
from .structures import Covariance, Diagonal, Precision, make_covariance
from .structures.base import Residual

SPARSE_PART = 0.2  # a column of fixed effects with more nonzeros than this part of the rows is dense
ROUNDING = 4.0 * float(np.finfo(np.float64).eps)  # residuals of this size relative to the response are none
LARGEST = 1e140  # range of a response whose squares, and sums of millions of them, are numbers
LARGEST_FACTOR = 1e60  # of weights and covariates of random effects, which are squared and multiplied by each other
MOST_PARAMETERS = 2_000  # of a term: the information matrix of all of them is dense


@dataclass(frozen=True, slots=True, eq=False)
class GroupingFactor:
    """A coded grouping factor, simple (`g`) or an interaction (`a:b`).

    name: `g` or `a:b`. codes: (n,) level of each row, 0 ... m-1, every level used at least once.
    parts: for each component its level labels. part_codes: (m, n_components) which label of each
    component a level combines. Labels are joined only when they are asked for.
    """

    name: str
    codes: AnyArray
    parts: tuple[Sequence[Any], ...]
    part_codes: IntArray

    @property
    def n_levels(self) -> int:
        """m."""
        return len(self.part_codes)

    def labels(self) -> list[Any]:
        """One label a level; components of an interaction are joined with ':'."""
        if len(self.parts) == 1:
            return [self.parts[0][i] for i in self.part_codes[:, 0]]
        return [":".join(str(p[i]) for p, i in zip(self.parts, row, strict=True)) for row in self.part_codes]


@dataclass(frozen=True, slots=True, eq=False)
class RandomTerm:
    """One random term: its design and its structure.

    Z: (n,) integer codes of the m levels (kept as int32), or an n x (m r) scipy sparse matrix whose columns
       `l*r ... l*r+r-1` are the effects of level l.
    structure: a word (`"us"`, `"diag"`, `"cs"`, `"hcs"`) or any object that follows `Covariance`.
    columns: (n, r) covariate of each effect where Z is codes; None means r = 1 and all ones.
    effects: names of the r effects; they say what r is where Z is sparse. name: the group's name.
    levels: a `GroupingFactor`, a sequence of m labels, or None (0 ... m-1). Q: a `Precision` across levels,
    None for independent levels. label: of the effects in names of parameters. text: the term as a formula has it.
    T: another name for `structure`, beside Q.

    Errors: ModelError or DataError, naming the term, when shapes do not agree.
    """

    Z: Any
    structure: str | Covariance = "us"
    columns: FloatArray | None = None
    effects: tuple[str, ...] = ()
    name: str = "g"
    levels: Any = None
    Q: Precision | None = None
    label: str = ""
    text: str = ""
    T: InitVar[str | Covariance | None] = None
    n_levels: int = field(init=False)
    n_effects: int = field(init=False)
    covariance: Covariance = field(init=False)

    def __post_init__(self, T: str | Covariance | None) -> None:
        if T is not None:
            if self.structure != "us":
                raise ModelError(f"term '{self.name}': T= and structure= are two names for one thing; give one")
            self._put("structure", T)
        if not isinstance(self.structure, (str, Covariance)):
            kind = type(self.structure).__name__
            raise ModelError(f"term '{self.name}': structure is a word such as 'us' or a Covariance, not {kind}")
        if self.Q is not None and not isinstance(self.Q, Precision):
            raise ModelError(
                f"term '{self.name}': Q is a Precision such as Known(matrix), a pedigree's precision() or "
                f"structures.AR1(lengths), not {type(self.Q).__name__}"
            )
        m, r = self._read_sparse() if sp.issparse(self.Z) else self._read_codes()
        effects = tuple(self.effects) or (("Intercept",) if r == 1 else tuple(f"x{j}" for j in range(r)))
        if len(effects) != r:
            raise ModelError(f"term '{self.name}': {len(effects)} names in effects=, but columns= has {r} effects")
        self._put("effects", effects)
        if self.Q is not None and m != self.Q.n_levels:
            raise ModelError(f"term '{self.name}': Z is for {m} levels, its precision for {self.Q.n_levels}")
        self._put("n_levels", m)
        self._put("n_effects", r)
        covariance = self.structure
        if isinstance(covariance, str):
            covariance = make_covariance(covariance, r, self.label or " + ".join(effects))
        self._put("covariance", covariance)
        _check_term(self)

    def _put(self, key: str, value: Any) -> None:
        object.__setattr__(self, key, value)

    def _read_sparse(self) -> tuple[int, int]:
        """m and r of a sparse Z, which becomes CSC."""
        r = max(1, len(self.effects)) if isinstance(self.structure, str) else self.structure.n_effects
        if self.Z.shape[1] % r or self.Z.shape[1] == 0:
            raise ModelError(f"term '{self.name}': Z has {self.Z.shape[1]} columns, not a multiple of {r} effects")
        if self.columns is not None:
            raise ModelError(f"term '{self.name}': give columns= with integer codes, not with a sparse Z")
        if self.Z.dtype.kind not in "biuf" or not np.isfinite(self.Z.data).all():
            raise DataError(f"term '{self.name}': Z has infinite, missing or complex values")
        self._put("Z", sp.csc_array(self.Z, dtype=np.float64))
        return self.Z.shape[1] // r, r

    def _read_codes(self) -> tuple[int, int]:
        """m and r of integer codes with their columns."""
        codes, m = _check_codes(self.Z, self.name, self.Q)
        self._put("Z", codes)
        if self.columns is None:
            return m, 1
        self._put("columns", _check_columns(self.columns, len(codes), self.name))
        return m, self.columns.shape[1]

    @property
    def n_random(self) -> int:
        """m r."""
        return self.n_levels * self.n_effects

    @property
    def n_rows(self) -> int:
        """n."""
        return self.Z.shape[0]

    def labels(self) -> list[Any]:
        """One label a level."""
        if isinstance(self.levels, GroupingFactor):
            return self.levels.labels()
        return list(range(self.n_levels)) if self.levels is None else list(self.levels)

    def describe(self) -> str:
        """`(1 + x | g)`, `cs(0 + f | g)`: as in a formula."""
        if self.text:
            return self.text
        effects = ["1" if e == "Intercept" else e for e in self.effects]
        word = self.structure if isinstance(self.structure, str) and self.structure != "us" else ""
        return f"{word}({' + '.join(effects if '1' in effects else ['0', *effects])} | {self.name})"


def split_columns(matrix: Any) -> tuple[IntArray, IntArray]:
    """Places of the dense and of the sparse columns of a scipy sparse matrix (n, p)."""
    filled = np.diff(sp.csc_array(matrix).indptr) > SPARSE_PART * matrix.shape[0]
    return np.flatnonzero(filled), np.flatnonzero(~filled)


@dataclass(frozen=True, slots=True, eq=False)
class ModelSpec:
    """Everything that defines a model; the only thing that the equations see.

    y: (n,) response, before the offset is taken off. X: (n, p). weights, offset: (n,) or None.
    S: (n, s) sparse matrix of further fixed effects, named behind those of X; None where all are dense.
    residual: R beside the weights, None for independent residuals of one variance.
    encoding: what the formula layer needs to encode new rows the same way (None from arrays).
    """

    y: FloatArray
    X: FloatArray
    fixed_names: tuple[str, ...]
    terms: tuple[RandomTerm, ...]
    weights: FloatArray | None = None
    offset: FloatArray | None = None
    response: str = "y"
    formula: str = ""
    n_dropped: int = 0
    encoding: Any = None
    residual: Residual | None = None
    S: Any = None

    def __post_init__(self) -> None:
        if self.S is not None:
            object.__setattr__(self, "S", sp.csc_array(self.S, dtype=np.float64))
        _check_spec(self)

    def __repr__(self) -> str:
        sizes = f"{self.n:,} rows, {len(self.fixed_names):,} fixed effects, {self.q:,} random effects"
        return f"<sparselmm model spec: {self.formula or 'from arrays'}; {sizes}>"

    @property
    def design(self) -> Any:
        """All fixed effects side by side: X, or sparse [X S]."""
        return self.X if self.S is None else sp.csr_array(sp.hstack([sp.csr_array(self.X), self.S]))

    @property
    def n(self) -> int:
        """Rows."""
        return len(self.y)

    @property
    def q(self) -> int:
        """Random effects of all terms."""
        return sum(t.n_random for t in self.terms)


def check_residual(residual: FloatArray, p: int, spec: ModelSpec) -> None:
    """ModelError where p fixed effects leave nothing but rounding of the response (n,)."""
    if p >= spec.n:
        s = "" if p == 1 else "s"
        sizes = f"{p} fixed effect{s} for {spec.n} observation{s}"
        raise ModelError(f"{sizes}: nothing is left to estimate sigma; drop some columns{_most_columns(spec)}")
    if np.sqrt(residual @ residual / spec.n) <= ROUNDING * max(spec.y.max(), -spec.y.min()):
        raise ModelError(
            f"the fixed effects fit the response '{spec.response}' exactly: nothing is left to estimate variances from"
        )


def _most_columns(spec: ModelSpec) -> str:
    """Which factor has more than half of the fixed effects: often a column of numbers that was read as text."""
    factors = Counter(name.partition("[")[0] for name in spec.fixed_names if "[" in name)
    name, count = factors.most_common(1)[0] if factors else ("", 0)
    if 2 * count <= len(spec.fixed_names):
        return ""
    return f" ({count} of them are levels of '{name}': if it is text that holds numbers, convert it)"


def _check_codes(Z: Any, name: str, Q: Precision | None) -> tuple[AnyArray, int]:
    codes = np.asarray(Z)
    if codes.ndim != 1 or codes.dtype.kind not in "iu":
        raise DataError(
            f"term '{name}': Z must be a vector of integer codes or a scipy sparse matrix, not {codes.dtype} of shape "
            f"{codes.shape}; numpy.unique(labels, return_inverse=True) makes codes of labels"
        )
    if codes.size and codes.min() < 0:
        raise DataError(f"term '{name}': codes must be 0 ... m-1, the smallest is {codes.min()}")
    m = int(codes.max()) + 1 if codes.size else 0
    if m > np.iinfo(np.int32).max:
        raise DataError(f"term '{name}': code {m - 1} is too large, there is room for 2,147,483,647 levels")
    if Q is not None:
        if m > Q.n_levels:
            raise DataError(f"term '{name}': code {m - 1} is beyond the {Q.n_levels} levels of its precision")
        return codes.astype(np.int32, copy=False), Q.n_levels
    used = np.zeros(m, dtype=bool)
    used[codes] = True
    if not used.all():
        gaps = np.flatnonzero(~used)
        raise DataError(
            f"term '{name}': {len(gaps)} of the codes 0 ... {m - 1} do not occur, the first is {gaps[0]}; "
            "recode with numpy.unique(codes, return_inverse=True)"
        )
    return codes.astype(np.int32, copy=False), m


def _check_columns(columns: Any, n: int, name: str) -> FloatArray:
    try:
        out = np.asarray(columns, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"term '{name}': columns are not numeric: {error}") from error
    out = out[:, None] if out.ndim == 1 else out
    if out.ndim != 2 or len(out) != n:
        raise DataError(f"term '{name}': columns have shape {out.shape} for {n} codes")
    if not np.isfinite(out).all():
        raise DataError(f"term '{name}': the columns have infinite or missing values")
    return np.ascontiguousarray(out)


def _check_term(term: RandomTerm) -> None:
    r = term.n_effects
    if term.covariance.n_effects != r:
        raise ModelError(f"{term.describe()}: the structure is for {term.covariance.n_effects} effects, Z has {r}")
    if term.levels is not None and not isinstance(term.levels, GroupingFactor) and len(term.levels) != term.n_levels:
        raise DataError(f"{term.describe()}: {len(term.levels)} labels in levels= for {term.n_levels} levels")
    if sp.issparse(term.Z):
        sizes = [term.Z[:, a::r].count_nonzero() for a in range(r)]
    else:
        sizes = [1] if term.columns is None else [int(term.columns[:, a].any()) for a in range(r)]
    if term.n_rows and 0 in sizes:
        raise DataError(f"{term.describe()}: '{term.effects[sizes.index(0)]}' is zero in every row; drop it")
    for effect, values in zip(term.effects, () if term.columns is None else term.columns.T, strict=False):
        _check_size(values, f"{term.describe()}: '{effect}'")
    if term.covariance.n_params > MOST_PARAMETERS:
        raise ModelError(
            f"{term.describe()}: {r} effects of each level have {term.covariance.n_params:,} variance parameters. "
            f"diag(...) has {r}; or take a factor with fewer levels (is it text that holds numbers?)"
        )


def _check_size(values: FloatArray, what: str) -> None:
    """DataError where the largest of `values` (n,) is no number any more when it is squared and multiplied."""
    largest = max(values.max(initial=0.0), -values.min(initial=0.0))
    if not (largest == 0.0 or 1.0 / LARGEST_FACTOR < largest < LARGEST_FACTOR):
        raise DataError(
            f"{what}: the largest value is {largest:.2g}, of which no squares can be summed: take other units"
        )


def _check_spec(spec: ModelSpec) -> None:
    n = len(spec.y)
    if n == 0:
        raise DataError("there are no rows to fit")
    lengths = (
        {"X": len(spec.X)}
        | ({} if spec.S is None else {"S": spec.S.shape[0]})
        | {f"term '{t.name}'": t.n_rows for t in spec.terms}
    )
    if spec.residual is not None:
        if isinstance(spec.residual, str):
            raise ModelError(
                f"residual='{spec.residual}' is for formulas: arrays take an object, as structures.AR1Residual(t, g)"
            )
        lengths[f"residual {spec.residual.label}"] = spec.residual.n_rows
    lengths |= {k: len(v) for k, v in (("weights", spec.weights), ("offset", spec.offset)) if v is not None}
    for what, length in lengths.items():
        if length != n:
            raise DataError(f"unequal lengths: the response has {n} rows, {what} has {length}")
    _check_finite(spec)
    if spec.weights is not None and (spec.weights <= 0).any():
        bad = int((spec.weights <= 0).sum())
        raise DataError(f"weights must be positive: {bad} of {n} are not, the smallest is {spec.weights.min():g}")
    if spec.weights is not None:
        _check_size(spec.weights, "weights")
    y = spec.y if spec.offset is None else spec.y - spec.offset
    spread = np.ptp(y) if n > 1 else 1.0
    if spread == 0.0:
        raise DataError(f"the response '{spec.response}' is constant ({y[0]:g}): there is nothing to model")
    if not 1.0 / LARGEST < spread < LARGEST:
        raise DataError(
            f"the response '{spec.response}' has a range of {spread:g}, of which no squares can be summed: "
            "give it in other units"
        )
    known = spec.weights is not None and bool(np.ptp(spec.weights) > 0.0)
    for term in spec.terms:
        _check_identified(term, n, known or spec.residual is not None)
    _check_distinct(spec.terms)


def _check_finite(spec: ModelSpec) -> None:
    for what, values in (("response", spec.y), ("weights", spec.weights), ("offset", spec.offset)):
        if values is not None and not np.isfinite(values).all():
            bad = int((~np.isfinite(values)).sum())
            label = f"response '{spec.response}'" if what == "response" else what
            raise DataError(f"{label}: {bad} of {len(values)} values are infinite or missing; drop or mend these rows")
    if spec.S is not None and not np.isfinite(spec.S.data).all():
        raise DataError("the sparse fixed effects have infinite or missing values; drop or mend these rows")
    if not np.isfinite(spec.X).all():
        j = int(np.argmin(np.isfinite(spec.X).all(axis=0)))
        raise DataError(f"fixed effect '{spec.fixed_names[j]}' has infinite or missing values; drop or mend these rows")


def _check_identified(term: RandomTerm, n: int, weighted: bool) -> None:
    if term.n_levels < 2 and term.Q is None:
        raise ModelError(
            f"{term.describe()}: '{term.name}' has one level, so its variance cannot be estimated; drop the term"
        )
    if _effects_together(term) >= n and term.Q is None and not weighted:
        raise ModelError(
            f"{term.describe()} has {term.n_random} random effects for {n} observations: sigma cannot be told "
            "apart from them. Drop a term or give weights that differ (to lmm_many: one a sample, for all responses)."
        )


def is_rival(term: RandomTerm) -> bool:
    """Whether a term of correlated levels, one a row, could stand for the residuals: sigma may then be zero."""
    if term.Q is None or term.Q.null_dim > 0 or term.columns is not None or sp.issparse(term.Z):
        return False
    return bool((np.bincount(term.Z, minlength=1) <= 1).all())


def _effects_together(term: RandomTerm) -> int:
    """Random effects that could stand for the residuals: of `(x || g)` those of `(1 | g)`, or of `(0 + x | g)`.

    Where every row has one of them only, as in `diag(0 + f | g)`, they are one set.
    """
    if term.columns is None or not isinstance(term.covariance, Diagonal):
        return term.n_random
    return term.n_levels if (np.count_nonzero(term.columns, axis=1) > 1).any() else term.n_random


def _check_distinct(terms: Sequence[RandomTerm]) -> None:
    """No parameter twice: such variances could not be told apart, and a name could not be held."""
    owner: dict[str, RandomTerm] = {}
    for term in terms:
        for name in term.covariance.natural_names(term.effects, term.name):
            if name in owner:
                raise ModelError(
                    f"{owner[name].describe()} and {term.describe()} both have {name}: their variances cannot be told "
                    "apart. Drop one (a/b stands for a and a:b); in arrays give each factor its own name"
                )
            owner[name] = term
