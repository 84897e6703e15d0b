"""What a model is made of: frozen records that the formula or the user's arrays fill, with their checks.

`RandomTerm` -> `ModelSpec` is all that the equations need; no table, no formula text, no engine.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse as sp

from ._errors import DataError, ModelError
from ._typing import FloatArray, IntArray
from .structures import Covariance, Precision, make_covariance


@dataclass(frozen=True, slots=True, eq=False)
class GroupingFactor:
    """A coded grouping factor, simple (`g`) or an interaction (`a:b`).

    name: `g` or `a:b`. codes: (n,) level of each row, 0 ... m-1, every level used at least once.
    parts: for each component its level labels. part_codes: (m, n_components) which label of each
    component a level combines. Labels are joined only when they are asked for.
    """

    name: str
    codes: IntArray
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

    Z: (n,) integer codes of the m levels, or an n x (m r) scipy sparse matrix whose columns
       l*r ... l*r+r-1 are the effects of level l.
    structure: a word (`"us"`, `"diag"`, `"cs"`, `"hcs"`) or any object that follows `Covariance`.
    columns: (n, r) covariate of each effect where Z is codes; None means r = 1 and all ones.
    effects: names of the r effects. name: the group's name. levels: a `GroupingFactor`, a sequence of m
    labels, or None (0 ... m-1). Q: a `Precision` across levels, None for independent levels.

    Errors: ModelError or DataError, naming the term, when shapes do not agree.
    """

    Z: Any
    structure: str | Covariance = "us"
    columns: FloatArray | None = None
    effects: tuple[str, ...] = ()
    name: str = ""
    levels: Any = None
    Q: Precision | None = None
    label: str = ""
    n_levels: int = field(init=False)
    n_effects: int = field(init=False)
    covariance: Covariance = field(init=False)

    def __post_init__(self) -> None:
        put = lambda key, value: object.__setattr__(self, key, value)  # noqa: E731 - frozen record
        name = self.name or "g"
        put("name", name)
        if sp.issparse(self.Z):
            r = max(1, len(self.effects)) if isinstance(self.structure, str) else self.structure.n_effects
            if self.Z.shape[1] % r or self.Z.shape[1] == 0:
                raise ModelError(f"term '{name}': Z has {self.Z.shape[1]} columns, not a multiple of {r} effects")
            if self.columns is not None:
                raise ModelError(f"term '{name}': give columns= with integer codes, not with a sparse Z")
            if not np.isfinite(self.Z.data).all():
                raise DataError(f"term '{name}': Z has infinite or missing values")
            put("Z", sp.csc_array(self.Z, dtype=np.float64))
            m = self.Z.shape[1] // r
        else:
            codes, m = _check_codes(self.Z, name, self.Q)
            put("Z", codes)
            if self.columns is not None:
                put("columns", _check_columns(self.columns, len(codes), name))
            r = 1 if self.columns is None else self.columns.shape[1]
        effects = self.effects or (("Intercept",) if r == 1 else tuple(f"x{j}" for j in range(r)))
        if len(effects) != r:
            raise ModelError(f"term '{name}': {len(effects)} effect names for {r} effects")
        put("effects", tuple(effects))
        if self.Q is not None and sp.issparse(self.Z) and m != self.Q.n_levels:
            raise ModelError(f"term '{name}': Z is for {m} levels, its precision for {self.Q.n_levels}")
        put("n_levels", m)
        put("n_effects", r)
        structure = self.structure
        covariance = make_covariance(structure, r, self.label) if isinstance(structure, str) else structure
        if covariance.n_effects != r:
            raise ModelError(f"term '{name}': the structure is for {covariance.n_effects} effects, Z has {r}")
        put("covariance", covariance)

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
        """`(1 + x | g)`, as in a formula."""
        left = self.label or " + ".join("1" if e == "Intercept" else e for e in self.effects)
        return f"({left} | {self.name})"


@dataclass(frozen=True, slots=True, eq=False)
class ModelSpec:
    """Everything that defines a model; the only thing that the equations see.

    y: (n,) response, before the offset is taken off. X: (n, p). weights, offset: (n,) or None.
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

    def __post_init__(self) -> None:
        _check_spec(self)

    @property
    def n(self) -> int:
        """Rows."""
        return len(self.y)

    @property
    def q(self) -> int:
        """Random effects of all terms."""
        return sum(t.n_random for t in self.terms)


def _check_codes(Z: Any, name: str, Q: Precision | None) -> tuple[IntArray, int]:
    codes = np.asarray(Z)
    if codes.ndim != 1 or codes.dtype.kind not in "iu":
        raise DataError(
            f"term '{name}': Z must be a vector of integer codes or a scipy sparse matrix, "
            f"not {codes.dtype} of shape {codes.shape}"
        )
    if codes.size and codes.min() < 0:
        raise DataError(f"term '{name}': codes must be 0 ... m-1, the smallest is {codes.min()}")
    m = int(codes.max()) + 1 if codes.size else 0
    if Q is not None:
        if m > Q.n_levels:
            raise DataError(f"term '{name}': code {m - 1} is beyond the {Q.n_levels} levels of its precision")
        return codes.astype(np.int64, copy=False), Q.n_levels
    used = np.zeros(m, dtype=bool)
    used[codes] = True
    if not used.all():
        gaps = np.flatnonzero(~used)
        raise DataError(
            f"term '{name}': {len(gaps)} of the codes 0 ... {m - 1} do not occur, the first is {gaps[0]}; "
            "recode with numpy.unique(codes, return_inverse=True)"
        )
    return codes.astype(np.int64, copy=False), m


def _check_columns(columns: Any, n: int, name: str) -> FloatArray:
    out = np.asarray(columns, dtype=np.float64)
    out = out[:, None] if out.ndim == 1 else out
    if out.ndim != 2 or len(out) != n:
        raise DataError(f"term '{name}': columns have shape {out.shape} for {n} codes")
    if not np.isfinite(out).all():
        raise DataError(f"term '{name}': the columns have infinite or missing values")
    zero = np.flatnonzero(~out.any(axis=0))
    if len(zero):
        raise DataError(f"term '{name}': effect {zero[0]} of its left side is zero in every row; drop it")
    return np.ascontiguousarray(out)


def _check_spec(spec: ModelSpec) -> None:
    n = len(spec.y)
    if n == 0:
        raise DataError(f"no rows to fit: {spec.n_dropped} were dropped for missing values")
    lengths = {"X": len(spec.X)} | {f"term '{t.name}'": t.n_rows for t in spec.terms}
    lengths |= {k: len(v) for k, v in (("weights", spec.weights), ("offset", spec.offset)) if v is not None}
    for what, length in lengths.items():
        if length != n:
            raise DataError(f"unequal lengths: the response has {n} rows, {what} has {length}")
    _check_finite(spec)
    if spec.weights is not None and (spec.weights <= 0).any():
        bad = int((spec.weights <= 0).sum())
        raise DataError(f"weights must be positive: {bad} of {n} are not, the smallest is {spec.weights.min():g}")
    if n > 1 and np.ptp(spec.y) == 0.0:
        raise DataError(f"the response '{spec.response}' is constant ({spec.y[0]:g}): there is nothing to model")
    for term in spec.terms:
        _check_identified(term, n, spec.weights is not None)


def _check_finite(spec: ModelSpec) -> None:
    for what, values in (("response", spec.y), ("weights", spec.weights), ("offset", spec.offset)):
        if values is not None and not np.isfinite(values).all():
            bad = int((~np.isfinite(values)).sum())
            label = f"response '{spec.response}'" if what == "response" else what
            raise DataError(f"{label}: {bad} of {len(values)} values are infinite or missing; drop or mend these rows")
    if not np.isfinite(spec.X).all():
        bad = [c for c, ok in zip(spec.fixed_names, np.isfinite(spec.X).all(axis=0), strict=True) if not ok]
        raise DataError(f"fixed effect '{bad[0]}' has infinite or missing values; drop or mend these rows")


def _check_identified(term: RandomTerm, n: int, weighted: bool) -> None:
    if term.n_levels < 2 and term.Q is None:
        raise ModelError(
            f"{term.describe()}: '{term.name}' has one level, so its variance cannot be estimated; drop the term"
        )
    if term.n_random >= n and term.Q is None and not weighted:
        raise ModelError(
            f"{term.describe()} has {term.n_random} random effects for {n} observations: sigma cannot be told "
            "apart from them. Drop a term or give weights."
        )
