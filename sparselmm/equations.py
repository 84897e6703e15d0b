"""ModelSpec -> cross-products -> mixed-model equations on a frozen pattern (Henderson 1984; DESIGN section 2).

After `CrossProducts` no row of data is touched again. Numbers are conditioned once: the response is
replaced by its least-squares residual, X by an orthonormal basis of its columns, and the effects of each
term by combinations of unit size, Z -> Z basis^-1, so that T -> basis T whatever T's structure.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg as sla
import scipy.sparse as sp

from ._typing import FloatArray, IntArray
from .banded import Banded, Entries
from .engines import Pattern
from .kernels.blocks import add_product, add_scaled, locate
from .kernels.codes import pair_codes
from .kernels.crossproducts import block_sums, spread
from .terms import ModelSpec, RandomTerm, check_residual

CONSTANT_DIGITS = 12  # a combination of columns of X that is one to so many decimals is a constant
RANK_TOLERANCE = 1e-7  # as R's lm: a column whose part outside the earlier ones is relatively smaller is dropped


@dataclass(frozen=True, slots=True, eq=False)
class FixedDesign:
    """X = basis R on the kept columns, W-orthonormal: basis' W basis = I (so R'R = X'WX).

    kept: indices of the kept columns of X, p of them. R: (p, p) upper triangular. start: (p,) the
    least-squares coefficients that were taken off the response.
    """

    kept: IntArray
    dropped: IntArray
    R: FloatArray
    start: FloatArray

    @property
    def logdet(self) -> float:
        """log|X'WX|."""
        return 2.0 * float(np.log(np.abs(np.diag(self.R))).sum())


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Blocks of Z_k'WZ_l that are not zero: levels rows (of term k) and cols (of l), values (n, r_k, r_l)."""

    row_term: int
    col_term: int
    rows: IntArray
    cols: IntArray
    values: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class CrossProducts:
    """All that the criterion needs of the data, in the conditioned bases.

    blocks: Z'WZ, one entry for each pair of terms k >= l. Zxy[k]: (m, r, p+1) = Z_k'W[X y].
    xy: (p+1, p+1) = [X y]'W[X y]. bases[k]: (r, r) lower triangular.
    banded: where R has parameters, what makes the same with R^-1 in place of W; else None.
    """

    n: int
    fixed: FixedDesign
    bases: tuple[FloatArray, ...]
    blocks: tuple[Block, ...]
    Zxy: tuple[FloatArray, ...]
    xy: FloatArray
    sum_log_weights: float
    banded: Banded | None = None

    def at(self, d: FloatArray, o: FloatArray) -> "CrossProducts":
        """The same for another K = R^-1, or a derivative of it; d, o by classes as `Residual.values` gives them."""
        assert self.banded is not None
        values, Zxy, xy = self.banded.products(d, o)
        blocks = [replace(b, values=v) for b, v in zip(self.blocks, values, strict=True)]
        return replace(self, blocks=tuple(blocks), Zxy=tuple(Zxy), xy=xy)


def fixed_design(X: FloatArray, weights: FloatArray) -> tuple[IntArray, IntArray, FloatArray]:
    """Kept columns, dropped columns and R with R'R = X'WX: the later of dependent columns is dropped.

    QR of the whole X first; dependence is then judged on its p x p factor, in the order of the columns
    (LINPACK dqrdc2's limited pivoting, which R uses).
    """
    p = X.shape[1]
    size = np.abs(X).max(axis=0, initial=0.0)
    size[size == 0.0] = 1.0
    full = sla.qr((X / size) * np.sqrt(weights)[:, None], mode="r", check_finite=False)[0][:p]
    norms = np.linalg.norm(full, axis=0)
    Q = np.zeros((len(full), 0))
    kept: list[int] = []
    for j in range(p):
        rest = full[:, j]
        for _ in range(2):
            rest = rest - Q @ (Q.T @ rest)
        if np.linalg.norm(rest) > RANK_TOLERANCE * norms[j]:
            kept.append(j)
            Q = np.column_stack([Q, rest / np.linalg.norm(rest)])
    kept_array = np.array(kept, dtype=np.int64)
    R = np.linalg.qr(full[:, kept_array], mode="r") * size[kept_array]
    return kept_array, np.setdiff1d(np.arange(p), kept_array), R


def _residualise(
    y: FloatArray, X: FloatArray, basis: FloatArray, R: FloatArray, weights: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """y less its projection on X = basis R, twice (the second pass takes what rounding left), and the coefficients.

    Where X spans a constant, the mean goes first: y = 1e9 + noise loses it exactly, where a product with the
    basis would round every row differently.
    """
    size = np.abs(X).max(axis=0)
    one = np.round(sla.solve_triangular(R, basis.T @ weights) * size, CONSTANT_DIGITS) / size
    spanned = np.abs(X @ one - 1.0).max() < 10.0**-CONSTANT_DIGITS
    shift = float(y.mean()) if spanned else 0.0
    y, coefficients = y - shift, shift * one
    for _ in range(2):
        step = basis.T @ (weights * y)
        y = y - basis @ step
        coefficients = coefficients + sla.solve_triangular(R, step)
    return y, coefficients


def effect_basis(gram: FloatArray) -> FloatArray:
    """Lower triangular A with A'A = gram (r x r), so that Z A^-1 has orthonormal columns."""
    flip = gram[::-1, ::-1]
    size = np.sqrt(np.diag(flip))
    try:
        U = np.linalg.cholesky(flip / np.outer(size, size)).T * size
    except np.linalg.LinAlgError:
        U = np.diag(size)
    return np.ascontiguousarray(U[::-1, ::-1])


def cross_products(spec: ModelSpec) -> CrossProducts:
    """One pass over the rows of `spec` for each pair of terms. ModelError where X leaves nothing over."""
    weights = np.ones(spec.n) if spec.weights is None else spec.weights
    kept, dropped, R = fixed_design(spec.X, weights)
    basis = sla.solve_triangular(R, spec.X[:, kept].T, trans="T").T
    y = spec.y if spec.offset is None else spec.y - spec.offset
    y, start = _residualise(y, spec.X[:, kept], basis, R, weights)
    check_residual(y, len(kept), spec)
    V = np.column_stack([basis, y])
    designs = [_Design(term, weights) for term in spec.terms]
    fixed = FixedDesign(kept, dropped, R, start)
    bases, sum_log_weights = tuple(d.basis for d in designs), float(np.log(weights).sum())
    if spec.residual is not None:
        root = np.sqrt(weights)
        banded = Banded(spec.residual, [d.entries(root) for d in designs], root[:, None] * V)
        blocks, Zxy, xy = _banded_products(banded)
        return CrossProducts(spec.n, fixed, bases, blocks, Zxy, xy, sum_log_weights, banded)
    return CrossProducts(
        n=spec.n,
        fixed=fixed,
        bases=bases,
        blocks=tuple(a.cross(b, k, j) for k, a in enumerate(designs) for j, b in enumerate(designs[: k + 1])),
        Zxy=tuple(d.sums(V) for d in designs),
        xy=V.T @ (weights[:, None] * V),
        sum_log_weights=sum_log_weights,
    )


def _banded_products(banded: Banded) -> tuple[tuple[Block, ...], tuple[FloatArray, ...], FloatArray]:
    """Cross-products with K = I: uncorrelated rows."""
    residual = banded.residual
    sizes = int(residual.row_class.max()) + 1, int(residual.link_class.max(initial=-1)) + 1
    values, Zxy, xy = banded.products(np.ones(sizes[0]), np.zeros(sizes[1]))
    blocks = [Block(*terms, rows, cols, v) for (terms, rows, cols), v in zip(banded.places, values, strict=True)]
    return tuple(blocks), tuple(Zxy), xy


class _Design:
    """Z of one term in its conditioned basis: codes with columns, or a sparse matrix."""

    def __init__(self, term: RandomTerm, weights: FloatArray):
        self.term, self.weights, r = term, weights, term.n_effects
        self.coded = not sp.issparse(term.Z)
        if self.coded:
            columns = np.ones((len(term.Z), 1)) if term.columns is None else term.columns
            self.basis = effect_basis((columns.T * weights) @ columns / len(weights))
            self.columns = _times_inverse(columns, self.basis)
        else:
            gram = np.zeros((r, r))
            for a in range(r):
                for b in range(r):
                    gram[a, b] = (term.Z[:, a::r].multiply(term.Z[:, b::r]).T @ weights).sum()
            self.basis = effect_basis(gram / len(weights))
            inverse = sp.kron(sp.eye_array(term.n_levels), np.linalg.inv(self.basis))
            self.sparse = sp.csr_array(term.Z @ inverse)

    def matrix(self) -> sp.csr_array:
        """n x (m r)."""
        if not self.coded:
            return self.sparse
        n, r = self.columns.shape
        cols = self.term.Z[:, None] * r + np.arange(r)
        indptr = np.arange(n + 1) * r
        return sp.csr_array((self.columns.ravel(), cols.ravel(), indptr), shape=(n, self.term.n_random))

    def entries(self, scale: FloatArray) -> Entries:
        """Rows of Z times scale (n,)."""
        if not self.coded:
            return Entries.of_matrix(self.sparse, self.term.n_levels, scale)
        n = len(scale)
        return Entries(
            self.term.n_levels, np.arange(n + 1), np.arange(n), self.term.Z, self.columns * scale[:, None]
        )  # fmt: skip

    def sums(self, V: FloatArray) -> FloatArray:
        """Z'WV, (m, r, c)."""
        m, r = self.term.n_levels, self.term.n_effects
        if self.coded:
            out = np.zeros((m, r, V.shape[1]))
            block_sums(self.term.Z, self.columns, V, self.weights, out)
            return out
        return (self.sparse.T @ (self.weights[:, None] * V)).reshape(m, r, V.shape[1])

    def cross(self, other: "_Design", k: int, j: int) -> Block:
        """Z'W Z_other, as blocks; within a term all blocks of the symmetric matrix with row >= col."""
        if not (self.coded and other.coded):
            return self._cross_sparse(other, k, j)
        ra, rb = self.term.n_effects, other.term.n_effects
        if other is self:
            levels = np.arange(self.term.n_levels)
            values = np.zeros((len(levels), ra, ra))
            block_sums(self.term.Z, self.columns, self.columns, self.weights, values)
            return Block(k, j, levels, levels, values)
        pair, row = pair_codes(self.term.Z, self.term.n_levels, other.term.Z, other.term.n_levels)
        values = np.zeros((len(row), ra, rb))
        block_sums(pair, self.columns, other.columns, self.weights, values)
        return Block(k, j, self.term.Z[row], other.term.Z[row], values)

    def _cross_sparse(self, other: "_Design", k: int, j: int) -> Block:
        ra, rb = self.term.n_effects, other.term.n_effects
        right = other.matrix()
        scaled = sp.csr_array(right.multiply(self.weights[:, None]))
        product = (self.matrix().T @ scaled).tobsr((ra, rb))
        rows = np.repeat(np.arange(product.shape[0] // ra), np.diff(product.indptr))
        cols, values = product.indices.astype(np.int64), product.data
        if other is self:
            lower = rows >= cols
            rows, cols, values = rows[lower], cols[lower], values[lower]
            rows, cols, values = _with_diagonal(rows, cols, values, self.term.n_levels)
        return Block(k, j, rows.astype(np.int64), cols, np.ascontiguousarray(values))


def _times_inverse(columns: FloatArray, basis: FloatArray) -> FloatArray:
    return np.ascontiguousarray(sla.solve_triangular(basis, columns.T, trans="T", lower=True).T)


def _with_diagonal(rows: IntArray, cols: IntArray, values: FloatArray, m: int) -> tuple[IntArray, IntArray, FloatArray]:
    """The same blocks plus zero ones for levels without any data."""
    missing = np.setdiff1d(np.arange(m), rows[rows == cols])
    zeros = np.zeros((len(missing), *values.shape[1:]))
    return np.append(rows, missing), np.append(cols, missing), np.concatenate([values, zeros])


class Equations:
    """M(T) = Lambda'Z'WZ Lambda + Q on one frozen pattern, filled in place for any T and any products of one shape.

    offsets: (K+1,) first column of each term in v; v is ordered by term, level, effect. pairs: for each term
    the levels (rows, cols), rows >= cols, on the pattern of its Q: all that the score needs of M^-1.
    """

    def __init__(self, spec: ModelSpec, products: CrossProducts | None = None):
        self.products = cross_products(spec) if products is None else products
        self.terms = spec.terms
        self.offsets = np.concatenate([[0], np.cumsum([t.n_random for t in spec.terms])]).astype(np.int64)
        self.pairs = [_level_pairs(t) for t in spec.terms]
        places = [self._entries(b) for b in self.products.blocks]
        self._wanted = [self._between(k, *pairs) for k, pairs in enumerate(self.pairs)]
        self.pattern = _pattern([*places, *self._wanted], self.q)
        self._dest = [destinations(self.pattern, rows, cols) for rows, cols in places]
        inner = [np.arange(t.n_effects) for t in spec.terms]
        self._unit = [
            destinations(self.pattern, rows[:, i, i], cols[:, i, i])
            for (rows, cols), i in zip(self._wanted, inner, strict=True)
        ]

    @property
    def q(self) -> int:
        """Random effects."""
        return int(self.offsets[-1])

    def fill(self, products: CrossProducts, T: list[FloatArray], Q: list[FloatArray]) -> FloatArray:
        """Values (nnz,) of M; T[k] in the conditioned basis, Q[k] the precision's values on `pairs[k]`."""
        values = self.scaled_gram(products, T)
        for dest, Qk in zip(self._unit, Q, strict=True):
            values[dest] += Qk[:, None]
        return values

    def scaled_gram(self, products: CrossProducts, T: list[FloatArray]) -> FloatArray:
        """Values (nnz,) of Lambda'Z'WZ Lambda."""
        values = np.zeros(self.pattern.nnz)
        for block, dest in zip(products.blocks, self._dest, strict=True):
            add_scaled(block.values, T[block.row_term], T[block.col_term], dest, values)
        return values

    def right_side(self, products: CrossProducts, T: list[FloatArray]) -> FloatArray:
        """Lambda'Z'W[X y], (q, p+1)."""
        parts = [np.matmul(Tk.T, Zxy).reshape(-1, Zxy.shape[2]) for Tk, Zxy in zip(T, products.Zxy, strict=True)]
        return np.concatenate(parts) if parts else np.zeros((0, products.xy.shape[0]))

    def gram_times(self, products: CrossProducts, C: list[FloatArray]) -> list[FloatArray]:
        """Z'WZ C for C in blocks (m_k, r_k, c), without Lambda: (m_k, r_k, c) each."""
        out = [np.zeros_like(c) for c in C]
        for b in products.blocks:
            add_product(b.values, b.rows, b.cols, C[b.col_term], out[b.row_term], False)
            if b.row_term != b.col_term:
                add_product(b.values, b.rows, b.cols, C[b.row_term], out[b.col_term], True)
            elif not np.array_equal(b.rows, b.cols):
                off = b.rows != b.cols
                add_product(b.values[off], b.rows[off], b.cols[off], C[b.row_term], out[b.row_term], True)
        return out

    def split(self, v: FloatArray) -> list[FloatArray]:
        """(q, c) -> (m_k, r_k, c) for each term."""
        v = v[:, None] if v.ndim == 1 else v
        shapes = [(t.n_levels, t.n_effects, v.shape[1]) for t in self.terms]
        return [v[self.offsets[k] : self.offsets[k + 1]].reshape(s) for k, s in enumerate(shapes)]

    def places(self) -> tuple[IntArray, IntArray]:
        """Rows and columns (nnz,) of the whole pattern."""
        return self.pattern.indices, np.repeat(np.arange(self.q), np.diff(self.pattern.indptr))

    def find(self, values: FloatArray) -> Callable[[IntArray, IntArray], FloatArray]:
        """(rows, cols) on the pattern -> their entries of `values` (nnz,)."""
        return lambda rows, cols: values[destinations(self.pattern, rows, cols)]

    def _entries(self, block: Block) -> tuple[IntArray, IntArray]:
        """Rows and columns in M of every entry of the blocks, (n, ra, rb); upper ones are moved to -1."""
        _, ra, rb = block.values.shape
        rows = self.offsets[block.row_term] + block.rows[:, None, None] * ra + np.arange(ra)[:, None]
        cols = self.offsets[block.col_term] + block.cols[:, None, None] * rb + np.arange(rb)
        rows, cols = np.broadcast_arrays(rows, cols)
        lower = rows >= cols
        return np.where(lower, rows, -1), np.where(lower, cols, -1)

    def _between(self, k: int, first: IntArray, second: IntArray) -> tuple[IntArray, IntArray]:
        """Rows and columns in M (row >= column) of the r x r blocks between levels first >= second, (n, r, r)."""
        r = self.terms[k].n_effects
        rows = self.offsets[k] + first[:, None, None] * r + np.arange(r)[:, None]
        cols = self.offsets[k] + second[:, None, None] * r + np.arange(r)
        return np.maximum(rows, cols), np.minimum(rows, cols)

    def level_blocks(self, selected: Callable[[IntArray, IntArray], FloatArray]) -> list[FloatArray]:
        """Blocks of M^-1 on `pairs`, (n, r, r) for each term, by one call of selected(rows, cols)."""
        if not self.terms:
            return []
        rows, cols = (np.concatenate([w[side].ravel() for w in self._wanted]) for side in (0, 1))
        values = selected(rows, cols)
        ends = np.cumsum([w[0].size for w in self._wanted])[:-1]
        return [v.reshape(w[0].shape) for v, w in zip(np.split(values, ends), self._wanted, strict=True)]


def _level_pairs(term: RandomTerm) -> tuple[IntArray, IntArray]:
    """Pairs of levels, first >= second, that Q joins: each level with itself where levels are independent."""
    if term.Q is None:
        levels = np.arange(term.n_levels)
        return levels, levels
    return term.Q.pattern()


def _pattern(places: list[tuple[IntArray, IntArray]], q: int) -> Pattern:
    """Union of all entries and the diagonal, sorted; independent of every parameter."""
    diagonal = np.arange(q)
    rows = np.concatenate([r[r >= 0] for r, _ in places] + [diagonal])
    cols = np.concatenate([c[c >= 0] for _, c in places] + [diagonal])
    return sparse_pattern(rows, cols, q)


def sparse_pattern(rows: IntArray, cols: IntArray, q: int) -> Pattern:
    """CSC pattern, sorted and each entry once, of a lower triangle's entries in any order."""
    csc = sp.csc_matrix((np.ones(len(rows)), (rows, cols)), shape=(q, q))
    csc.sort_indices()
    return Pattern(csc.indptr.astype(np.int64), csc.indices.astype(np.int64))


def destinations(pattern: Pattern, rows: IntArray, cols: IntArray) -> IntArray:
    """Place of each entry in the pattern's values; -1 where rows is negative."""
    out = np.full(rows.shape, -1, np.int64)
    inside = rows >= 0
    found = np.empty(int(inside.sum()), np.int64)
    locate(pattern.indptr, pattern.indices, rows[inside], cols[inside], found)
    out[inside] = found
    return out


def fitted_values(spec: ModelSpec, beta: FloatArray, b: list[FloatArray]) -> FloatArray:
    """X beta + offset + Z b, (n,); NaN coefficients (dropped columns) count as zero; b[k] is (m, r)."""
    out = spec.X @ np.nan_to_num(beta)
    if spec.offset is not None:
        out = out + spec.offset
    for term, effects in zip(spec.terms, b, strict=True):
        if sp.issparse(term.Z):
            out = out + term.Z @ effects.ravel()
        else:
            columns = np.ones((len(term.Z), 1)) if term.columns is None else term.columns
            spread(term.Z, columns, np.ascontiguousarray(effects), out)
    return out
