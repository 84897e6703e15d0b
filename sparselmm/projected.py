"""The response less its projection on the fixed effects, and cross-products with [X y], X in an orthonormal basis.

Where X has an intercept and its columns, centred, are far from dependent, three passes over the rows of X do and no
basis is stored: sums of x_i - shift are turned into those of the basis, level by level, by a small triangular matrix.
Else the basis is stored, (n, p).
"""

from dataclasses import dataclass

import numpy as np
import scipy.linalg as sla

from ._typing import FloatArray
from .designs import Design
from .engines.threads import by_pieces, parallel, row_pieces
from .fixed import RANK_TOLERANCE, FixedDesign, fixed_design
from .kernels import columns as kernels
from .terms import ModelSpec

MANY = 10_000  # rows that are worth threads
SAMPLE = 100  # rows whose means centre the columns: any shift is legal, one of the columns' size loses no digits
LEAST = 1e-3  # eigenvalue of the columns' correlations, centred: below it their Gram matrix loses digits that QR keeps
SURE = 10.0  # times RANK_TOLERANCE: what comes nearer to dependence is judged by QR


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """V = [X y] (n, p+1). fixed: which columns, their basis and coefficients; xy: (p+1, p+1) = [X y]'W[X y]."""

    fixed: FixedDesign
    V: FloatArray
    xy: FloatArray

    @property
    def y(self) -> FloatArray:
        """What the fixed effects leave of the response, (n,)."""
        return self.V[:, -1]

    def sums(self, design: Design) -> FloatArray:
        """Z'W[X y], (m, r, p+1)."""
        return design.sums(self.V)

    def stored(self) -> FloatArray:
        """[X y], (n, p+1)."""
        return self.V


@dataclass(frozen=True, slots=True, eq=False)
class Centred:
    """X - shift = basis R; X (n, p) as it was given, the rest as in `Stored`."""

    fixed: FixedDesign
    X: FloatArray
    shift: FloatArray
    R: FloatArray
    y: FloatArray
    xy: FloatArray

    def sums(self, design: Design) -> FloatArray:
        """Z'W[X y], (m, r, p+1)."""
        out = design.centred_sums(self.X, self.shift, self.y)
        self._turn(out.reshape(-1, len(self.xy)))
        return out

    def stored(self) -> FloatArray:
        """[X y], (n, p+1)."""
        out = np.column_stack([self.X - self.shift, self.y])
        self._turn(out)
        return out

    def _turn(self, rows: FloatArray) -> None:
        """The first p columns of rows (., p+1) times R^-1, in place."""
        if len(rows) < MANY:  # a kernel that is not called need not be loaded
            rows[:, :-1] = sla.solve_triangular(self.R, rows[:, :-1].T, trans="T").T
        else:
            parallel(kernels.divide_rows, row_pieces(len(rows)), np.ascontiguousarray(self.R), rows)


def with_basis(spec: ModelSpec, weights: FloatArray) -> Stored:
    """For any X. weights: as `row_weights` gives them."""
    fixed, V = fixed_design(spec, weights)
    return Stored(fixed, V, np.sum(by_pieces(kernels.gram, row_pieces(spec.n), V, weights), axis=0))


def projected(spec: ModelSpec, weights: FloatArray) -> Centred | Stored:
    """Centred where that is as good, else stored."""
    intrinsic = any(t.Q is not None and t.Q.null_dim for t in spec.terms)
    if spec.S is not None or intrinsic or (found := _constant(spec.X)) is None:
        return with_basis(spec, weights)
    return _centred(spec, weights, *found) or with_basis(spec, weights)


def _constant(X: FloatArray) -> tuple[int, FloatArray] | None:
    """The first column that is constant and not zero, and the shift (p,): means of the columns behind it."""
    sample = X[np.linspace(0, len(X) - 1, SAMPLE).astype(np.int64)]
    same = np.flatnonzero((sample == sample[0]).all(axis=0) & (sample[0] != 0.0))
    for c in same[:1]:
        if (X[:, c] == X[0, c]).all():
            return int(c), np.where(np.arange(X.shape[1]) > c, sample.mean(axis=0), 0.0)
    return None


def _centred(spec: ModelSpec, weights: FloatArray, c: int, shift: FloatArray) -> Centred | None:
    """With the constant column c; None where QR should judge."""
    X, p, rows = spec.X, len(shift), row_pieces(spec.n)
    y = spec.y if spec.offset is None else spec.y - spec.offset
    level = float(y[:: max(1, spec.n // SAMPLE)].mean())  # a constant so near takes no digits of y
    y = y - level
    gram = np.sum(by_pieces(kernels.centred_gram, rows, X, shift, y, weights), axis=0)
    R = _factor(gram[:p, :p], shift / X[0, c], c)
    if R is None:
        return None
    coefficients, cross = np.zeros(p), gram[p]
    for _ in range(2):  # what rounding leaves of the first projection is less after the second
        step = sla.cho_solve((R, False), cross[:p])
        coefficients += step
        cross = np.sum(by_pieces(kernels.take_centred_away, rows, X, shift, step, y, weights), axis=0)
    coefficients[c] += (level - shift @ coefficients) / X[0, c]
    xy = np.empty((p + 1, p + 1))
    half = sla.solve_triangular(R, gram[:p, :p], trans="T")
    xy[:p, :p] = sla.solve_triangular(R, half.T, trans="T")
    xy[p, :p] = xy[:p, p] = sla.solve_triangular(R, cross[:p], trans="T")
    xy[p, p] = cross[p]
    fixed = _all_columns(R + np.outer(R[:, c], shift / X[0, c]), coefficients)
    return Centred(fixed, X, shift, R, y, xy)


def _factor(gram: FloatArray, moved: FloatArray, c: int) -> FloatArray | None:
    """Upper R with R'R = gram of X - x_c moved'; None where columns of X are, or may be, too near to dependence."""
    size = np.sqrt(np.diag(gram))
    if not (np.isfinite(gram).all() and (size > 0.0).all()):
        return None
    scaled = gram / np.outer(size, size)
    if np.linalg.eigvalsh(scaled)[0] < LEAST:
        return None
    R = np.linalg.cholesky(scaled).T * size
    whole = np.sqrt(np.diag(gram) + 2.0 * moved * gram[c] + moved**2 * gram[c, c])
    return R if (np.diag(R) > SURE * RANK_TOLERANCE * whole).all() else None


def _all_columns(R: FloatArray, coefficients: FloatArray) -> FixedDesign:
    """Every column of X is in the model, and nothing else."""
    every, none = np.arange(len(R)), np.zeros(0, dtype=np.int64)
    B, C = np.zeros((0, 0)), np.zeros((len(R), 0))
    return FixedDesign(every, none, every, none, R, B, C, coefficients, np.zeros(0))
