"""The null model's P over people: U'P U and U'P y of any columns U, from cross-products and one solve.

With W = R^-1, C the mixed-model equations at the null's parameters and sigma taken out,

    P = W - W [Z Lambda, X] C^-1 [Z Lambda, X]' W,     U'P U = U'W U - A'M^-1 A - H'H,

A = Lambda'Z'W U and H = RX^-1 (X'W U - E'A). A marker is one number a person: U = diag(c) S g with S
(n x m) who has which row and c a covariate, so that S'W S, Lambda'Z'W S and H of S are formed once and rows of data are
not touched again. U = S g costs a solve; where V falls into small families, m products by the blocks of S'V^-1 S.
"""

from dataclasses import dataclass

import numpy as np
import scipy.linalg as sla
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from .._typing import AnyArray, FloatArray, IntArray
from ..designs import Design
from ..engines.threads import blas_threads, get_threads, parallel
from ..equations import all_terms
from ..fixed import fixed_basis, take_off
from ..inference.factorised import Factorised, factorise
from ..kernels.families import family_products, fill_markers
from ..results import Fit

LARGEST_FAMILY = 32  # people: x'Bx costs 16 products a person there, no more than a solve through the equations
EXPLAINED = 1e-10  # of a column's length that P leaves: rounding, and the column is one of the fixed effects
SOLVED = 4_000_000  # numbers of a right-hand side at a time: 32 MB, as much again for what the solve makes


class NullModel:
    """The equations of a fit at its estimates; U (n, k), sparse or dense, are columns over its rows.

    residual: W(y - X beta - Z b) = P y, (n,). ss: y'P y. n_fixed: directions without a prior.
    """

    def __init__(self, fit: Fit):
        spec = fit.spec
        self.spec = spec
        self.at: Factorised = factorise(fit)
        likelihood, solution = self.at.likelihood, self.at.solution
        fixed = likelihood.products.fixed
        weights = np.ones(spec.n) if spec.weights is None else spec.weights
        basis = fixed_basis(spec, fixed)
        y = take_off(spec, fixed, basis, weights)[1]
        self.W = _residual_precision(fit, weights)
        self.ZL = self._random_design(weights)
        self.WX = self.W @ basis
        self.E, self.RX = solution.E[:, : basis.shape[1]], solution.RX
        self.residual = self.W @ (y - basis @ solution.beta - self.ZL @ solution.v)
        self.ss, self.n_fixed = solution.r2, likelihood.n_fixed

    def _random_design(self, weights: FloatArray) -> sp.csr_array:
        """Z Lambda, n x q, sparse fixed effects among it."""
        terms = all_terms(self.spec, self.at.likelihood.products.fixed)
        parts = [sp.csr_array((self.spec.n, 0))]
        for term, T in zip(terms, self.at.solution.T, strict=True):
            parts.append(Design(term, weights).matrix() @ sp.kron(sp.eye_array(term.n_levels), T))
        return sp.csr_array(sp.hstack(parts, format="csr"))

    def columns(self, U: sp.csr_array) -> "Columns":
        """Cross-products of U (n, k)."""
        WU = sp.csr_array(self.W @ U)
        A = sp.csr_array(self.ZL.T @ WU)
        XWU = _dense(U.T @ self.WX)
        H = sla.solve_triangular(self.RX, (XWU - _dense(A.T @ self.E)).T, lower=True)
        return Columns(U, WU, A, np.ascontiguousarray(H), _dense(U.T @ self.residual))

    def solve(self, right: FloatArray) -> FloatArray:
        """M^-1 right, (q, k)."""
        return self.at.engine.solve(right) if len(right) else right

    def explains(self, U: FloatArray) -> bool:
        """Whether the columns U (n, k) are combinations of the fixed effects: P U = 0 but for rounding."""
        WU = self.W @ U
        A = self.ZL.T @ WU
        b = sla.cho_solve((self.RX, True), self.WX.T @ U - self.E.T @ A)
        PU = WU - self.WX @ b - self.W @ (self.ZL @ (self.solve(A) - self.E @ b))
        return bool((np.linalg.norm(PU, axis=0) <= EXPLAINED * np.linalg.norm(WU, axis=0)).all())

    def gram(self, U: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """U'P U (k, k), U'P y (k,) and the diagonal of U'V^-1 U (k,) of dense columns (n, k)."""
        WU, A = self.W @ U, self.ZL.T @ (self.W @ U)
        H = sla.solve_triangular(self.RX, self.WX.T @ U - self.E.T @ A, lower=True)
        gram = U.T @ WU - A.T @ self.solve(A)
        return gram - H.T @ H, U.T @ self.residual, np.diag(gram)


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """U (n, k) beside the null model: WU, A = Lambda'Z'W U (q, k), H (p, k) and score U'P y (k,)."""

    U: sp.csr_array
    WU: sp.csr_array
    A: sp.csr_array
    H: FloatArray
    score: FloatArray


def _dense(x: object) -> FloatArray:
    return np.asarray(x.toarray() if sp.issparse(x) else x, dtype=np.float64)  # type: ignore[attr-defined]


def _residual_precision(fit: Fit, weights: FloatArray) -> sp.csr_array:
    """W = R^-1, n x n: the weights, or sqrt(w) K sqrt(w) with the K of a structured residual."""
    residual, n = fit.spec.residual, fit.spec.n
    if residual is None:
        return sp.csr_array(sp.diags_array(weights))
    part = fit.likelihood.parameters.residual_slice
    d, o = residual.values(fit.estimate.evaluation.theta[part])
    link, root = o[residual.link_class], np.sqrt(weights)
    rows = np.concatenate([np.arange(n), residual.later, residual.earlier])
    cols = np.concatenate([np.arange(n), residual.earlier, residual.later])
    values = np.concatenate([d[residual.row_class], link, link]) * root[rows] * root[cols]
    return sp.csr_array((values, (rows, cols)), shape=(n, n))


class PeopleProducts:
    """Of markers g (m,) over people and U_j = diag(c_j) S g: g'U_j'P U_l g and g'U_j'P y for each block of markers.

    codes: (n,) person of each row; covariates (n, c), the first one all ones. people: (m,) the sample of each person.
    families: how V^-1 falls apart, None where it does not (much). centred: whether the fixed effects take up whatever
    is taken off a marker, which is what keeps the digits of one with a large mean.
    """

    def __init__(self, null: NullModel, codes: IntArray, people: IntArray, covariates: FloatArray):
        self.null, self.people, self.m, self.c = null, people, len(people), covariates.shape[1]
        rows = np.arange(len(codes))
        designs = [sp.csr_array((x, (rows, codes)), shape=(len(codes), self.m)) for x in covariates.T]
        self.columns = [null.columns(U) for U in designs]
        self.pairs = [(j, k) for j in range(self.c) for k in range(j + 1)]
        self.UWU = [sp.csr_array(self.columns[j].U.T @ self.columns[k].WU) for j, k in self.pairs]
        self.h = np.vstack([x for c in self.columns for x in (c.score[None], c.H)])
        self.families, self.centred = _families(self), null.explains(covariates)

    def __call__(self, raw: AnyArray, centre: FloatArray, value: FloatArray) -> "Products":
        """raw (k, samples), from which centre (k,) is taken off; value (k,) of missing genotypes."""
        if self.families is not None:
            return self._combine(*self.families.products(raw, centre, value, self.people, self.h))
        step, parts = max(1, SOLVED // max(self.m, self.null.ZL.shape[1])), []
        with blas_threads(0.0):
            for first in range(0, len(raw), step):
                part = slice(first, first + step)
                G = np.empty((len(raw[part]), self.m))
                fill_markers(raw[part], self.people, centre[part], value[part], G)
                parts.append((self._by_solving(np.ascontiguousarray(G.T)), G @ self.h.T))
        return self._combine(*(np.concatenate(x) for x in zip(*parts, strict=True)))

    def _by_solving(self, G: FloatArray) -> FloatArray:
        """g'U_j'V^-1 U_l g, (k, pairs); G (m, k)."""
        right = [c.A @ G for c in self.columns]
        solved = [self.null.solve(r) for r in right]
        terms = [_column_dots(G, UWU @ G) for UWU in self.UWU]
        return np.stack([t - _column_dots(right[j], solved[k]) for t, (j, k) in zip(terms, self.pairs, strict=True)], 1)

    def _combine(self, quadratic: FloatArray, linear: FloatArray) -> "Products":
        """Take the fixed effects out: P = V^-1 - H'H."""
        parts = linear.reshape(len(linear), self.c, -1)
        score, H = parts[:, :, 0], parts[:, :, 1:]
        gram = np.empty((len(linear), self.c, self.c))
        for t, (j, k) in enumerate(self.pairs):
            gram[:, j, k] = gram[:, k, j] = quadratic[:, t]
        size = np.einsum("kjj->kj", gram).copy()
        with np.errstate(invalid="ignore", over="ignore"):
            return Products(gram - np.einsum("kjp,klp->kjl", H, H), score, size)


@dataclass(frozen=True, slots=True, eq=False)
class Products:
    """gram (k, c, c) = U'P U, score (k, c) = U'P y, size (k, c) = diagonal of U'V^-1 U."""

    gram: FloatArray
    score: FloatArray
    size: FloatArray


def _column_dots(a: FloatArray, b: FloatArray) -> FloatArray:
    return np.asarray(np.einsum("ik,ik->k", a, b))


@dataclass(frozen=True, slots=True, eq=False)
class Families:
    """Blocks of S'V^-1 S for `kernels.families`. order: (m,) people; sizes, counts by group; B (pairs, packed)."""

    order: IntArray
    sizes: IntArray
    counts: IntArray
    B: FloatArray

    def products(
        self, raw: AnyArray, centre: FloatArray, value: FloatArray, people: IntArray, h: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """g'B g (k, pairs) and g'h (k, d); h (d, m)."""
        quadratic, linear = np.zeros((len(raw), len(self.B))), np.zeros((len(raw), len(h)))
        sorted_h = np.ascontiguousarray(h[:, self.order])
        bounds = np.linspace(0, len(raw), min(len(raw), get_threads()) + 1).astype(np.int64)
        parallel(
            family_products, bounds, raw, centre, value, people[self.order], self.sizes, self.counts, self.B, sorted_h,
            quadratic, linear,
        )  # fmt: skip
        return quadratic, linear


def _families(of: PeopleProducts) -> Families | None:
    """The connected components of S'V^-1 S with its blocks; None where one is larger than LARGEST_FAMILY."""
    label = _components(of)
    size = np.bincount(label)
    if size.max() > LARGEST_FAMILY:
        return None
    order = np.lexsort((label, size[label]))
    sizes, people_of = np.unique(size[label], return_counts=True)
    counts = people_of // sizes
    ends = np.cumsum(people_of)[:-1]
    groups = [part.reshape(-1, s).T for part, s in zip(np.split(order, ends), sizes, strict=True)]
    rank = np.empty(of.m, np.int64)
    for group in groups:
        rank[group] = np.arange(len(group))[:, None]
    columns = _block_columns(of, rank, int(sizes[-1]))
    B = np.stack([np.concatenate([_pack(block, group) for group in groups]) for block in columns])
    return Families(np.concatenate([g.ravel() for g in groups]), sizes.astype(np.int64), counts.astype(np.int64), B)


def _components(of: PeopleProducts) -> IntArray:
    """Number of the family of each person, (m,): joined by M, by effects in common, by residuals; zeros join nobody."""
    rows, cols = of.null.at.equations.places()
    M = sp.coo_array((of.null.at.values(), (rows, cols)), shape=(of.null.ZL.shape[1],) * 2)
    A = sum((abs(c.A) for c in of.columns[1:]), start=abs(of.columns[0].A))
    UWU = sum((abs(x) for x in of.UWU[1:]), start=abs(of.UWU[0]))
    graph = sp.csr_array(sp.block_array([[UWU, None], [A, M]]))
    graph.eliminate_zeros()
    _, label = connected_components(graph, directed=False)
    return np.unique(label[: of.m], return_inverse=True)[1].astype(np.int64)


def _block_columns(of: PeopleProducts, rank: IntArray, largest: int) -> list[list[FloatArray]]:
    """For each pair (j, l) columns of the blocks of U_j'V^-1 U_l: [a][i] for person i and number a of i's family."""
    out: list[list[FloatArray]] = [[] for _ in of.pairs]
    for a in range(largest):
        pick = (rank == a).astype(np.float64)[:, None]
        solved = [of.null.solve(c.A @ pick) for c in of.columns]
        for t, (j, k) in enumerate(of.pairs):
            out[t].append((of.UWU[t] @ pick - of.columns[j].A.T @ solved[k])[:, 0])
    return out


def _pack(columns: list[FloatArray], group: IntArray) -> FloatArray:
    """Symmetric part of the blocks of one group of families, group (s, n): diagonal entries once, others twice."""
    pairs = [(a, b) for a in range(len(group)) for b in range(a + 1)]
    entries = [columns[b][group[a]] + (columns[a][group[b]] if a != b else 0.0) for a, b in pairs]
    return np.concatenate(entries)
