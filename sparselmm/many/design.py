"""What all responses share: rows, fixed design, random terms; and a block of responses with X taken out."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import scipy.linalg as sla
import scipy.sparse as sp

from .._errors import DataError, ModelError
from .._typing import AnyArray, BoolArray, FloatArray, IntArray
from ..engines.threads import blas_threads
from ..equations import CrossProducts, cross_products
from ..parameters import Parameters
from ..structures import Precision
from ..terms import ModelSpec, RandomTerm

SEED = 5  # of the stand-in for the response, which no result depends on
TILE, SMALL_TILE, MANY_ROWS = 64, 8, 100_000  # columns of a product: 50 MB at most
TOGETHER = 20  # coefficients whose covariances are kept: 1.7 kB a response, and once more for each parameter
CONSTANT_ATOL = 1e-12  # a combination of columns of X this close to one in every row is a constant


class Design:
    """A model without its response.

    spec: whose y is a stand-in. basis: (n, p), W-orthonormal, X = basis R on the p kept columns. L: (c, p) combinations
    of the kept coefficients that are wanted: each coefficient of the formula, then contrasts; NaN where one needs a
    column that was dropped.
    """

    def __init__(self, spec: ModelSpec, contrasts: FloatArray | None = None):
        if any(t.Q is not None and t.Q.null_dim for t in spec.terms):
            raise ModelError(
                "lmm_many: a term with an intrinsic precision (rw1, rw2, groups of unknown parents) is for lmm"
            )
        if spec.S is not None:
            spec = replace(spec, X=np.hstack([spec.X, spec.S.toarray()]), S=None)
        y = np.random.default_rng(SEED).normal(size=spec.n)
        self.spec = replace(spec, y=y, offset=None)
        self.offset = spec.offset
        self.products: CrossProducts = cross_products(self.spec)
        self.fixed, self.n = self.products.fixed, spec.n
        self.p = len(self.fixed.kept)
        self.weights = np.ones(self.n) if spec.weights is None else spec.weights
        self.basis = sla.solve_triangular(self.fixed.R, spec.X[:, self.fixed.kept].T, trans="T").T
        self.parameters = Parameters(self.spec)
        self.contrasts = np.zeros((0, spec.X.shape[1])) if contrasts is None else contrasts
        wanted = np.vstack([np.eye(spec.X.shape[1]), self.contrasts])
        lost = (wanted[:, self.fixed.dropped] != 0.0).any(axis=1)
        self.L = np.where(lost[:, None], np.nan, wanted[:, self.fixed.kept])

    def degrees(self, reml: bool) -> int:
        """nu: n - p for REML, n for ML."""
        return self.n - (self.p if reml else 0)

    @cached_property
    def loadings(self) -> FloatArray:
        """L R^-1, (c, p): the combinations in terms of the basis."""
        if not self.p:
            return self.L
        solved = sla.solve_triangular(self.fixed.R, np.nan_to_num(self.L).T, trans="T").T
        solved[np.isnan(self.L).any(axis=1)] = np.nan
        return np.asarray(solved)

    @cached_property
    def constant(self) -> FloatArray | None:
        """Coefficients (p,) of the columns of the basis that make a constant, None where X spans none."""
        at = self.basis.T @ self.weights
        return at if self.p and np.abs(self.basis @ at - 1.0).max() < CONSTANT_ATOL * self.n else None

    @cached_property
    def pairs(self) -> tuple[IntArray, IntArray]:
        """Pairs of the formula's coefficients whose covariances are kept, (P,) and (P,); none beyond `TOGETHER`."""
        p = self.spec.X.shape[1]
        first, second = np.triu_indices(p if p <= TOGETHER else 0)
        return first.astype(np.int64), second.astype(np.int64)

    def packed(self, A: FloatArray) -> FloatArray:
        """Those pairs of L A L', (..., P), of matrices A (..., p, p) in the basis."""
        (first, second), L = self.pairs, self.loadings[: self.spec.X.shape[1]]
        return (L @ A @ L.T)[..., first, second] if len(first) else np.zeros((*A.shape[:-2], 0))

    def rows(self, keep: IntArray) -> "Design":
        """The same model on some of the rows; levels without rows are gone."""
        spec, pick = self.spec, lambda a: None if a is None else a[keep]
        terms = tuple(_term_rows(t, keep) for t in spec.terms)
        new = replace(
            spec, y=spec.y[keep], X=spec.X[keep], terms=terms, weights=pick(spec.weights), offset=pick(self.offset),
            residual=None if spec.residual is None else spec.residual.rows(keep),
        )  # fmt: skip
        return Design(new, self.contrasts)


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Responses with X taken out: residual (n, v), ss (v,) = sum w residual^2, beta (p, v) in the basis.

    weights: (v, n), each response's own, None where they are the design's.
    """

    residual: FloatArray
    ss: FloatArray
    beta: FloatArray
    weights: FloatArray | None = None

    def only(self, keep: BoolArray) -> "Block":
        """Some of the responses, whose weights are the design's."""
        return Block(np.ascontiguousarray(self.residual[:, keep]), self.ss[keep], self.beta[:, keep])


def residualise(design: Design, Y: FloatArray) -> Block:
    """Least squares of each column of Y (n, v), which is overwritten, on X."""
    v = Y.shape[1]
    ss, beta = np.empty(v), np.empty((design.p, v))
    for part, tile in _tiles(Y, design.p):
        values, coefficients = _take_off(design, tile)
        width = part.stop - part.start
        Y[:, part], ss[part], beta[:, part] = tile[:, :width], values[:width], coefficients[:, :width]
    return Block(Y, ss, beta)


def _take_off(design: Design, Y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """sum w residual^2 (v,) and beta (p, v); Y becomes the residual: twice, for what rounding left.

    The mean goes first where X spans a constant: y = 1e9 + noise loses it exactly.
    """
    if design.offset is not None:
        Y -= design.offset[:, None]
    beta = np.zeros((design.p, Y.shape[1]))
    if design.constant is not None:
        mean = Y.mean(axis=0)
        Y -= mean
        beta += np.outer(design.constant, mean)
    weighted = (design.basis * design.weights[:, None]).T
    for _ in range(2):
        step = weighted @ Y
        Y -= design.basis @ step
        beta += step
    return np.einsum("ij,ij,i->j", Y, Y, design.weights, optimize=False), beta


def by_rows(A: FloatArray, M: AnyArray) -> FloatArray:
    """A @ M, (v, l), each row in a product of its own: its bits do not depend on the others."""
    return np.asarray(np.matmul(A[:, None], M)[:, 0])


def by_tiles(A: FloatArray, Y: FloatArray) -> FloatArray:
    """A @ Y, (a, v), its transpose contiguous; a column's bits do not depend on those beside it."""
    out = np.empty((Y.shape[1], len(A)))
    for part, tile in _tiles(Y, len(A)):
        out[part] = (A @ tile).T[: part.stop - part.start]
    return out.T


def _tiles(Y: FloatArray, rows: int) -> Iterator[tuple[slice, FloatArray]]:
    """`tiles` for products with `rows` rows, whose bits depend on BLAS' threads too: one, unless they are large."""
    size = TILE if len(Y) <= MANY_ROWS else SMALL_TILE
    with blas_threads(2.0 * rows * len(Y) * size):
        yield from tiles(Y, size)


def tiles(Y: FloatArray, size: int) -> Iterator[tuple[slice, FloatArray]]:
    """Copies of columns, all `size` wide, the last filled up: the bits of a product depend on its shape."""
    n, v = Y.shape
    for lo in range(0, v, size):
        part, tile = slice(lo, min(lo + size, v)), np.zeros((n, size))
        tile[:, : part.stop - lo] = Y[:, part]
        yield part, tile


def term_matrix(term: RandomTerm) -> sp.csr_array:
    """Z of a term, n x (m r)."""
    if sp.issparse(term.Z):
        return sp.csr_array(term.Z)
    n, r = term.n_rows, term.n_effects
    columns = np.ones((n, 1)) if term.columns is None else term.columns
    places = (term.Z[:, None] * r + np.arange(r)).ravel()
    return sp.csr_array((columns.ravel(), places, np.arange(n + 1) * r), shape=(n, term.n_random))


def precision_matrix(Q: Precision) -> sp.csc_array:
    """Q without parameters, m x m."""
    (rows, cols), values = Q.pattern(), Q.values(np.zeros(0))
    off = rows != cols
    entries = np.append(values, values[off]), (np.append(rows, cols[off]), np.append(cols, rows[off]))
    return sp.csc_array(entries, shape=(Q.n_levels, Q.n_levels))


def _term_rows(term: RandomTerm, keep: IntArray) -> RandomTerm:
    columns = None if term.columns is None else term.columns[keep]
    if sp.issparse(term.Z) or term.Q is not None:
        return replace(term, Z=sp.csr_array(term.Z)[keep] if sp.issparse(term.Z) else term.Z[keep], columns=columns)
    used, codes = np.unique(term.Z[keep], return_inverse=True)
    return replace(term, Z=codes.astype(np.int64), columns=columns, levels=used.tolist())


def contrast_matrix(contrasts: Mapping[str, Any] | None, names: tuple[str, ...]) -> FloatArray | None:
    """(c, p) from names with {coefficient: weight} or with p numbers. Errors: ModelError, DataError."""
    if contrasts is None:
        return None
    if not isinstance(contrasts, Mapping):
        kind = type(contrasts).__name__
        raise ModelError(f"contrasts: a mapping such as {{'b - a': {{'b': 1, 'a': -1}}}}, not {kind}")
    taken = [name for name in contrasts if name in names]
    if taken:
        raise ModelError(f"contrast '{taken[0]}' has the name of a coefficient; give it another")
    return np.array([_contrast(key, value, names) for key, value in contrasts.items()]) if contrasts else None


def _contrast(key: str, value: Any, names: tuple[str, ...]) -> FloatArray:
    if isinstance(value, Mapping):
        unknown = [name for name in value if name not in names]
        if unknown:
            raise ModelError(f"contrast '{key}': no coefficient '{unknown[0]}'; there are {', '.join(names)}")
        value = [value.get(name, 0.0) for name in names]
    try:
        row = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        row = np.zeros(0)
    if row.shape != (len(names),) or not np.isfinite(row).all():
        raise DataError(
            f"contrast '{key}': {{coefficient: weight}} or {len(names)} finite numbers are needed, one a coefficient, "
            f"not {value!r}"
        )
    return row
