"""ModelSpec -> cross-products -> mixed-model equations on a frozen pattern (Henderson 1984).

After `CrossProducts` no row of data is touched again. Numbers are conditioned once: the response is
replaced by its least-squares residual, X by an orthonormal basis of its columns, and the effects of each
term by combinations of unit size, Z -> Z basis^-1, so that T -> basis T whatever T's structure.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy.sparse as sp

from ._typing import BoolArray, FloatArray, IntArray
from .banded import Banded
from .designs import Block, Design, cross_blocks
from .engines import Pattern, sparse_pattern
from .engines.threads import parallel, row_pieces
from .fixed import Diffuse, FixedDesign, row_weights
from .kernels.blocks import add_product, add_scaled, add_to_diagonals, locate, times_transposed
from .kernels.crossproducts import spread
from .projected import projected
from .terms import ModelSpec, RandomTerm, check_residual


@dataclass(frozen=True, slots=True, eq=False)
class CrossProducts:
    """All that the criterion needs of the data, in the conditioned bases.

    blocks: Z'WZ, one entry for each pair of terms k >= l. Zxy[k]: (m, r, p+1) = Z_k'W[X y].
    xy: (p+1, p+1) = [X y]'W[X y]. bases[k]: (r, r) lower triangular. Where the model has sparse fixed effects D, they
    stand behind the terms as one more.
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


def cross_products(spec: ModelSpec) -> CrossProducts:
    """One pass over the rows of `spec` for each pair of terms. ModelError where X leaves nothing over."""
    weights = row_weights(spec)
    rows = projected(spec, weights)
    fixed = rows.fixed
    check_residual(rows.y, fixed.n_columns, spec)
    designs = [Design(term, weights) for term in all_terms(spec, fixed)]
    bases, sum_log_weights = tuple(d.basis for d in designs), float(np.log(weights).sum())
    if spec.residual is not None:
        root = np.sqrt(weights) if len(weights) else np.ones(spec.n)
        banded = Banded(spec.residual, [d.entries(root) for d in designs], root[:, None] * rows.stored())
        blocks, Zxy, xy = _banded_products(banded)
        return CrossProducts(spec.n, fixed, bases, blocks, Zxy, xy, sum_log_weights, banded)
    Zxy, xy = tuple(rows.sums(d) for d in designs), rows.xy
    del rows  # the pairs of levels need room
    return CrossProducts(spec.n, fixed, bases, cross_blocks(designs), Zxy, xy, sum_log_weights)


def _banded_products(banded: Banded) -> tuple[tuple[Block, ...], tuple[FloatArray, ...], FloatArray]:
    """Cross-products with K = I: uncorrelated rows."""
    residual = banded.residual
    sizes = int(residual.row_class.max()) + 1, int(residual.link_class.max(initial=-1)) + 1
    values, Zxy, xy = banded.products(np.ones(sizes[0]), np.zeros(sizes[1]))
    blocks = [Block(*terms, rows, cols, v) for (terms, rows, cols), v in zip(banded.places, values, strict=True)]
    return tuple(blocks), tuple(Zxy), xy


def all_terms(spec: ModelSpec, fixed: FixedDesign) -> tuple[RandomTerm, ...]:
    """The terms of a model; its sparse fixed effects, if any, as one more."""
    return spec.terms if fixed.diffuse is None else (*spec.terms, _as_term(fixed.diffuse))


def _as_term(diffuse: Diffuse) -> RandomTerm:
    return RandomTerm(diffuse.D, name="fixed effects")


class Equations:
    """M(T) = Lambda'Z'WZ Lambda + Q on one frozen pattern, filled in place for any T and any products of one shape.

    offsets: (K+1,) first column of each term in v; v is ordered by term, level, effect. pairs: for each term
    the levels (rows, cols), rows >= cols, on the pattern of its Q: all that the score needs of M^-1.
    """

    def __init__(self, spec: ModelSpec, products: CrossProducts | None = None):
        self.products = cross_products(spec) if products is None else products
        self.terms = all_terms(spec, self.products.fixed)
        self.offsets = np.concatenate([[0], np.cumsum([t.n_random for t in self.terms])]).astype(np.int64)
        self.pairs = [_level_pairs(t) for t in self.terms]
        places = [self._entries(b) for b in self.products.blocks]
        self._wanted = [self._between(k, *pairs) for k, pairs in enumerate(self.pairs)]
        joined = [w for w, t in zip(self._wanted, self.terms, strict=True) if t.Q is not None]  # else M's own blocks
        self.pattern = _pattern([*places, *joined, *self._null_entries()], self.q)
        self._dest = [destinations(self.pattern, rows, cols) for rows, cols in places]
        inner = [np.arange(t.n_effects) for t in self.terms]
        self._unit = [
            destinations(self.pattern, rows[:, i, i], cols[:, i, i])
            for (rows, cols), i in zip(self._wanted, inner, strict=True)
        ]

    @property
    def q(self) -> int:
        """Columns of M: random effects, and sparse fixed ones."""
        return int(self.offsets[-1])

    @property
    def q_marginal(self) -> int:
        """Leading columns of M that the likelihood integrates out: all but the user's sparse fixed effects."""
        return self.q - self.products.fixed.n_sparse

    def null_space(self, k: int) -> sp.csc_array | None:
        """N of term k at D's columns of length one, (m r, d); None where its Q has no null space."""
        diffuse, Q = self.products.fixed.diffuse, self.terms[k].Q
        if diffuse is None or Q is None or not Q.null_dim:
            return None
        return sp.csc_array(diffuse.null_space(k, self.terms[k]) @ sp.diags_array(1.0 / diffuse.size))

    def null_incidence(self, k: int) -> tuple[IntArray, IntArray]:
        """Levels of term k and the directions of its null space that they have a part in."""
        level, direction = self._by_level(k).nonzero()
        return level.astype(np.int64), direction.astype(np.int64)

    def null_meetings(self, k: int) -> sp.csc_array:
        """Which directions of term k's null space share a level, (d, d), the lower triangle."""
        by_level = self._by_level(k)
        return sp.csc_array(sp.tril(by_level.T @ by_level))

    def _by_level(self, k: int) -> sp.csc_array:
        """|N| summed over the effects of each level, (m, d)."""
        N, r = self.null_space(k), self.terms[k].n_effects
        assert N is not None
        return sp.csc_array(sum((abs(N[a::r]) for a in range(1, r)), start=abs(N[0::r])))

    def _null_entries(self) -> list[tuple[IntArray, IntArray]]:
        """Entries of M between a level and the directions of its null space, and among these: for their variances."""
        out = []
        for k, term in enumerate(self.terms):
            if self.null_space(k) is not None:
                level, direction = self.null_incidence(k)
                effects = self.offsets[k] + level[:, None] * term.n_effects + np.arange(term.n_effects)
                out.append((np.repeat(self.offsets[-2] + direction, term.n_effects), effects.ravel()))
                one, two = (x.astype(np.int64) for x in self.null_meetings(k).nonzero())
                out.append((self.offsets[-2] + one, self.offsets[-2] + two))
        return out

    def fill(self, products: CrossProducts, T: list[FloatArray], Q: list[FloatArray]) -> FloatArray:
        """Values (nnz,) of M; T[k] in the conditioned basis, Q[k] the precision's values on `pairs[k]`."""
        values = self.scaled_gram(products, T)
        for dest, Qk in zip(self._unit, Q, strict=True):
            add_to_diagonals(dest, Qk, values)
        return values

    def leading(self, q: int) -> tuple[Pattern, BoolArray]:
        """The pattern of the first q rows and columns, and which of M's values (nnz,) are in it."""
        rows, cols = self.places()
        inside = (rows < q) & (cols < q)
        indptr = np.concatenate([[0], np.cumsum(np.bincount(cols[inside], minlength=q))]).astype(np.int64)
        return Pattern(indptr, rows[inside]), inside

    def scaled_gram(self, products: CrossProducts, T: list[FloatArray]) -> FloatArray:
        """Values (nnz,) of Lambda'Z'WZ Lambda."""
        values = np.zeros(self.pattern.nnz)
        for block, dest in zip(products.blocks, self._dest, strict=True):
            add_scaled(block.values, T[block.row_term], T[block.col_term], dest, values)
        return values

    def informed(self, k: int, products: CrossProducts, T: list[FloatArray], inverse: FloatArray) -> FloatArray:
        """m I - sum_lm Q_lm M^-1_ml of term k as sum_lm (Lambda'Z'WZ Lambda)_lm M^-1_ml, (r, r): free of cancellation.

        The sum goes over all terms beside k; inverse: M^-1 on the pattern (nnz,). Near a variance of zero nearly all of
        m I is taken away, and where Q is ill-conditioned rounding would be left of the rest.
        """
        out = np.zeros((self.terms[k].n_effects,) * 2)
        for b in products.blocks:
            if k not in (b.row_term, b.col_term):
                continue
            A, X = T[b.row_term].T @ b.values @ T[b.col_term], self.block_of(b, inverse)
            if b.row_term == k:
                out += np.einsum("nab,ncb->ac", A, X)
            if b.col_term == k:
                beside = b.rows != b.cols if b.row_term == k else slice(None)
                out += np.einsum("nab,nac->bc", A[beside], X[beside])
        return out

    def block_of(self, b: Block, values: FloatArray) -> FloatArray:
        """The whole blocks (n, ra, rb) of a symmetric matrix on the pattern, at the levels of b."""
        ra, rb = (self.terms[t].n_effects for t in (b.row_term, b.col_term))
        rows = self.offsets[b.row_term] + b.rows[:, None, None] * ra + np.arange(ra)[:, None]
        cols = self.offsets[b.col_term] + b.cols[:, None, None] * rb + np.arange(rb)
        return values[destinations(self.pattern, np.maximum(rows, cols), np.minimum(rows, cols))]

    def right_side(self, products: CrossProducts, T: list[FloatArray]) -> FloatArray:
        """Lambda'Z'W[X y], (q, p+1)."""
        return self.scaled(T, products.Zxy, products.xy.shape[0])

    def scaled(self, T: Sequence[FloatArray], parts: Sequence[FloatArray], columns: int) -> FloatArray:
        """Lambda' of (m_k, r_k, columns) for each term: (q, columns)."""
        out = np.empty((self.q, columns))
        for Tk, part, into in zip(T, parts, self.split(out), strict=True):
            parallel(times_transposed, row_pieces(len(part)), Tk, part, into)
        return out

    def gram_times(self, products: CrossProducts, C: list[FloatArray]) -> list[FloatArray]:
        """Z'WZ C for C in blocks (m_k, r_k, c), without Lambda: (m_k, r_k, c) each."""
        out = [np.zeros_like(c) for c in C]
        for b in products.blocks:
            add_product(b.values, b.rows, b.cols, C[b.col_term], out[b.row_term], False)
            if b.row_term != b.col_term:
                add_product(b.values, b.rows, b.cols, C[b.row_term], out[b.col_term], True)
            elif b.rows is not b.cols and not np.array_equal(b.rows, b.cols):
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
        if block.row_term != block.col_term or ra == 1:  # blocks within a term have row >= col too
            return rows, cols
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
        values = selected(*self._asked)
        ends = np.cumsum([w[0].size for w in self._wanted])[:-1]
        return [v.reshape(w[0].shape) for v, w in zip(np.split(values, ends), self._wanted, strict=True)]

    @cached_property
    def _asked(self) -> tuple[IntArray, IntArray]:
        """Rows and columns of all that is wanted of M^-1, term after term; nobody writes to them."""
        rows, cols = (_end_to_end([w[side] for w in self._wanted]) for side in (0, 1))
        return rows, cols


def _end_to_end(parts: Sequence[IntArray]) -> IntArray:
    """All parts one behind the other; without a copy where there is one."""
    return parts[0].ravel() if len(parts) == 1 else np.concatenate([part.ravel() for part in parts])


def _level_pairs(term: RandomTerm) -> tuple[IntArray, IntArray]:
    """Pairs of levels, first >= second, that Q joins: each level with itself where levels are independent."""
    if term.Q is None:
        levels = np.arange(term.n_levels)
        return levels, levels
    return term.Q.pattern()


def _pattern(places: list[tuple[IntArray, IntArray]], q: int) -> Pattern:
    """Union of all entries and the diagonal, sorted; independent of every parameter."""
    diagonal = np.arange(q)
    rows, cols = (np.concatenate([*(place[side].ravel() for place in places), diagonal]) for side in (0, 1))
    return sparse_pattern(rows, cols, q)


def destinations(pattern: Pattern, rows: IntArray, cols: IntArray) -> IntArray:
    """Place of each entry in the pattern's values; -1 where rows is negative."""
    out = np.empty(rows.shape, dtype=np.int64)
    locate(pattern.indptr, pattern.indices, rows.ravel(), cols.ravel(), out.reshape(-1))
    return out


def fitted_values(spec: ModelSpec, beta: FloatArray, b: list[FloatArray]) -> FloatArray:
    """X beta + offset + Z b, (n,); NaN coefficients (dropped columns) count as zero; b[k] is (m, r)."""
    coefficients, p = np.nan_to_num(beta), spec.X.shape[1]
    out = spec.X @ coefficients[:p]
    if spec.S is not None:
        out = out + spec.S @ coefficients[p:]
    if spec.offset is not None:
        out = out + spec.offset
    for term, effects in zip(spec.terms, b, strict=True):
        if sp.issparse(term.Z):
            out = out + term.Z @ effects.ravel()
        else:
            columns = np.empty((0, 1)) if term.columns is None else term.columns
            spread(term.Z, columns, np.ascontiguousarray(effects), out)
    return out
