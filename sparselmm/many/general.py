"""Several ratios and structured terms over independent levels: equations of each response by absorption.

A grid of parameters, factorised once for all responses, says where each begins; then each goes on alone by Newton
with the exact score, is compared with the edges, and ends with its own certificate.
"""

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import scipy.sparse as sp

from .._typing import BoolArray, FloatArray, IntArray
from ..fitting import check_apart
from ..kernels.response_products import all_designs, all_sums
from ..kernels.response_score import evaluate_responses, factorise, reductions
from ..terms import RandomTerm
from .degrees import STEP, satterthwaite, whitened
from .design import Block, Design, by_rows, by_tiles
from .estimates import NOT_CONVERGED, Estimates, empty
from .factors import Factors
from .newton import Searches, minimise_many, scaled_gradients
from .pool import over_responses

CHUNK = 1024  # responses whose equations are held at once
GRID = {1: (0.05, 0.2, 0.5, 0.8, 1.2, 1.8, 3.0, 8.0), 2: (0.1, 0.4, 0.9, 2.0), 3: (0.15, 0.6, 1.5), 4: (0.2, 1.0)}
NEAR_EDGE = 1e-2  # as `fitting`: smaller scale parameters are compared with exactly zero
SAME = 1e-9  # as `fitting`
CERTIFICATE = 1e-5
TAIL = 200  # columns of the tail; beyond it a sparse factor is faster


def is_general(design: Design) -> bool:
    """Whether all terms are coded, over independent levels, and the tail besides the largest term is small."""
    spec = design.spec
    if not spec.terms or spec.residual is not None or design.parameters.count == 0:
        return False
    if any(sp.issparse(t.Z) or t.Q is not None for t in spec.terms):
        return False
    return spec.q - max(t.n_random for t in spec.terms) + design.p <= TAIL


@dataclass(frozen=True, slots=True, eq=False)
class Products:
    """Cross-products of a chunk in `kernels.responses`' layout; G, C and D have one row if all responses share them."""

    G: FloatArray
    C: FloatArray
    D: FloatArray
    c: FloatArray
    s: FloatArray
    yy: FloatArray
    sum_log_weights: FloatArray


class General:
    """Fits responses of a model that `is_general`. ddf: whether degrees of freedom are wanted.

    whole: whether `design` is that of all rows, where a term within the fixed effects is an error.
    """

    def __init__(self, design: Design, reml: bool, ddf: bool = True, whole: bool = True):
        if reml and whole:
            check_apart(design.products, design.spec.terms, design.parameters, {})
        self.design, self.reml, self.ddf = design, reml, ddf
        self.nu = design.degrees(reml)
        terms = design.spec.terms
        order = sorted(range(len(terms)), key=lambda k: -terms[k].n_random)
        self.factors = Factors(design, order)
        self._lay_out([terms[k] for k in order])
        sizes = sum(terms[k].n_effects for k in order)
        values = GRID.get(sizes, (0.3, 1.0))
        rows = list(product(values, repeat=sizes)) if sizes <= 6 else [(v,) * sizes for v in GRID[1]]
        self.starts = np.array([self.factors.start(np.array(row)) for row in rows])

    def on(self, design: Design) -> "General":
        """The same method for another design."""
        return General(design, self.reml, self.ddf, whole=False)

    def _lay_out(self, terms: list[RandomTerm]) -> None:
        """Rows of the design: codes and Z of the absorbed term, places and values of the tail."""
        n, bases = self.design.n, self.factors.bases
        Z = [np.ones((n, 1)) if t.columns is None else t.columns for t in terms]
        Z = [np.linalg.solve(basis.T, z.T).T for basis, z in zip(bases, Z, strict=True)]
        self.codes, self.Z = terms[0].Z.astype(np.int64), np.ascontiguousarray(Z[0])
        places, starts, owners, done = [], [], [], 0
        for k, term in enumerate(terms[1:], start=1):
            r = term.n_effects
            places.append(done + term.Z[:, None] * r + np.arange(r))
            starts.append(done + np.arange(term.n_levels) * r)
            owners.append(np.full(term.n_levels, k))
            done += term.n_random
        self.q = done
        places.append(np.broadcast_to(done + np.arange(self.design.p), (n, self.design.p)))
        self.places = np.ascontiguousarray(np.hstack(places), dtype=np.int64)
        self.tail = np.ascontiguousarray(np.hstack([*Z[1:], self.design.basis]))
        cols, counts, self.local = level_columns(self.codes, self.places, terms[0].n_levels, done + self.design.p)
        none = np.zeros(0, dtype=np.int64)
        parts = [np.concatenate([none, *x]).astype(np.int64) for x in (starts, owners)]
        self.layout: tuple[Any, ...] = (cols, counts, *parts, np.array([t.n_effects for t in terms], dtype=np.int64))
        self.m = terms[0].n_levels

    def products(self, Y: FloatArray, W: FloatArray | None) -> Products:
        """Y (v, n) residuals; W (v, n) weights of each response, None for those of the design."""
        weights = self.design.weights[None] if W is None else np.ascontiguousarray(W)
        g, v, r, d = len(weights), len(Y), self.Z.shape[1], self.q + self.design.p
        out = Products(
            np.empty((g, self.m, r, r)), np.empty((g, self.m, r, self.layout[0].shape[1])), np.empty((g, d, d)),
            np.empty((v, self.m, r)), np.empty((v, d)), np.empty(v), np.log(weights).sum(axis=1),
        )  # fmt: skip
        rows = (self.codes, self.Z, self.places)
        over_responses(all_designs, g, *rows, self.local, self.tail, weights, out.G, out.C, out.D)
        over_responses(all_sums, v, *rows, self.tail, weights, np.ascontiguousarray(Y), out.c, out.s, out.yy)
        return out

    def reductions(self, theta: FloatArray, p: Products) -> tuple[float, FloatArray, FloatArray]:
        """log-determinant, h (v, m r) and half (v, d) at one theta (k,): y'Py = y'Wy - h'h - half'half."""
        h, half, T = np.empty_like(p.c), np.empty_like(p.s), self.factors.factors(theta[None])[0]
        factor: tuple[Any, ...] = (np.empty_like(p.G[0]), np.empty_like(p.C[0]), np.empty_like(p.D[0]))
        where: tuple[Any, ...] = (self.q, *self.layout, self.reml, *factor)
        logdet = factorise(T, p.G[0], p.C[0], p.D[0], *where)
        over_responses(reductions, len(h), T, p.c, p.s, *self.layout, *factor, h, half)
        return logdet, h.reshape(len(h), -1), half

    def fit(self, block: Block) -> Estimates:
        """Every response of a block at its own optimum."""
        v = block.residual.shape[1]
        out = empty(self.design, v)
        for lo in range(0, v, CHUNK):
            where = slice(lo, min(lo + CHUNK, v))
            W = None if block.weights is None else block.weights[where]
            base = by_tiles(self.design.loadings, block.beta[:, where]).T
            out.put(where, Chunk(self, block.residual[:, where].T, W).fit(base))
        return out


class Chunk:
    """Some responses of a block, with their products."""

    def __init__(self, model: General, Y: FloatArray, W: FloatArray | None = None):
        self.model, self.factors, self.reml, self.nu = model, model.factors, model.reml, model.nu
        Y = np.ascontiguousarray(Y)
        self.products = model.products(Y, W)
        self.shared = self.products if W is None else model.products(Y, None)
        self.scale = np.ones(len(Y)) if W is None else np.sqrt(W.mean(axis=1))
        self.v = len(Y)

    def fit(self, base: FloatArray) -> Estimates:
        """base (v, c): least-squares values of what is wanted."""
        search = minimise_many(self.evaluate, self._starts())
        self._from_lower_rank(search)
        self._at_edges(search)
        return self.estimates(search.x, search.norm, base, self.model.ddf)

    def _starts(self) -> FloatArray:
        """The best point of the grid for each response, in the search's coordinates."""
        best, theta = np.full(self.v, np.inf), np.empty((self.v, self.factors.count))
        for row in self.model.starts:
            logdet, h, half = self.model.reductions(row, self.shared)
            r2 = self.shared.yy - np.einsum("vq,vq->v", h, h) - np.einsum("vd,vd->v", half, half)
            value = logdet + self.nu * np.log(r2)
            better = value < best
            theta[better], best[better] = row, value[better]
        return self.factors.coordinates(theta) / self.scale[:, None]

    def _raw(self, which: IntArray, theta: FloatArray, G: FloatArray, second: bool) -> tuple[FloatArray, ...]:
        """(log-determinant, r^2), A, B, information, cross, beta, vcov of some responses at theta (a, k)."""
        a, p = len(which), self.model.design.p
        K, k, R = len(self.factors.structures), self.factors.count, self.factors.R
        shapes = ((a, 2), (a, K, R, R), (a, K, R, R), (a, k, k), (a, k), (a, p), (a, p, p))
        out: tuple[Any, ...] = tuple(np.zeros(shape) for shape in shapes)
        x = self.products
        sums = (x.G, x.C, x.D, x.c, x.s, x.yy, self.model.q, *self.model.layout)
        rest = (G, self.factors.owner, self.reml, second, *out)
        over_responses(evaluate_responses, a, which, self.factors.factors(theta), *sums, *rest)
        return out

    def at(self, which: IntArray, x: FloatArray, second: bool = True) -> "Points":
        """Some responses (a,) at x (a, k); without the Hessian and cross unless `second`."""
        theta = self.factors.theta(x)
        G = self.factors.gradients(theta)
        basic, A, B, information, cross, beta, vcov = self._raw(which, theta, G, second)
        with np.errstate(invalid="ignore", divide="ignore"):
            sigma2 = basic[:, 1] / self.nu
            value = np.where(sigma2 > 0.0, basic[:, 0] + self.nu * np.log(sigma2), np.inf)
        W = A - B / sigma2[:, None, None, None]
        gradient = np.einsum("vkab,vkab->vk", W[:, self.factors.owner], G)
        cross = cross / sigma2[:, None]
        hessian = information / sigma2[:, None, None] - cross[:, :, None] * cross[:, None, :] / self.nu
        hessian += self.factors.curvature(theta, W)
        inverse = self.factors.inverse
        value[np.isnan(value)] = np.inf
        return Points(
            value,
            by_rows(gradient, inverse),
            inverse.T @ hessian @ inverse,
            sigma2,
            by_rows(cross, inverse),
            beta,
            vcov,
        )

    def unit_score(self, x: FloatArray) -> FloatArray:
        """Sum over responses, each at x (v, k), of d(-2l)/dx at sigma = 1."""
        theta = self.factors.theta(x)
        G = self.factors.gradients(theta)
        _, A, B, *_ = self._raw(np.arange(self.v), theta, G, False)
        total = np.einsum("vkab,vkab->k", (A - B)[:, self.factors.owner], G)
        return total @ self.factors.inverse

    def evaluate(self, which: IntArray, x: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """What a search needs."""
        points = self.at(which, x)
        return points.value, points.gradient, points.hessian

    def _from_lower_rank(self, search: Searches) -> None:
        """Go on from T less its smallest singular value where the search crept along an edge it never reached.

        With an intercept's variance near zero a slope's part b, c of T = [a, 0; b, c] turns freely, while the optimum
        is at c = 0.
        """
        stuck = np.flatnonzero(search.norm > CERTIFICATE)
        if not len(stuck) or self.factors.R == 1:
            return
        x = self.factors.lower_rank(search.x[stuck])
        again = minimise_many(lambda which, x: self.evaluate(stuck[which], x), x)
        better = again.value < search.value[stuck] + SAME
        better &= again.norm < search.norm[stuck]
        search.put(stuck[better], again, np.flatnonzero(better))

    def _at_edges(self, search: Searches) -> None:
        """Where a near-zero parameter may as well be exactly zero, it is."""
        which, points = self._candidates(search.x)
        if not len(which):
            return
        value, gradient, hessian = self.evaluate(which, points)
        norm = scaled_gradients(gradient, hessian)
        own = search.value[which]
        good = (value <= own + SAME + 1e-14 * np.abs(own)) & (norm <= np.maximum(CERTIFICATE, search.norm[which]))
        taken: BoolArray = np.zeros(self.v, dtype=bool)
        for i in np.flatnonzero(good):
            j = which[i]
            if not taken[j]:
                taken[j], search.x[j], search.value[j], search.norm[j] = True, points[i], value[i], norm[i]

    def _candidates(self, x: FloatArray) -> tuple[IntArray, FloatArray]:
        """Responses and points with small parameters at exactly zero; those with most zeros first."""
        which: list[int] = []
        points: list[FloatArray] = []
        for j in np.flatnonzero((np.abs(x) < NEAR_EDGE).any(axis=1)):
            found = edges(self.factors, x[j])
            which += [int(j)] * len(found)
            points += found
        return np.array(which, dtype=np.int64), np.array(points).reshape(len(points), x.shape[1])

    def estimates(self, x: FloatArray, norm: FloatArray, base: FloatArray, ddf: bool) -> Estimates:
        """Everything at x (v, k) with its certificates (v,)."""
        theta, L = self.factors.canonical(self.factors.theta(x)), self.model.design.loadings
        x = self.factors.coordinates(theta)
        points = self.at(np.arange(self.v), x)
        unscaled = np.einsum("ca,vab,cb->vc", L, points.vcov, L)
        out = empty(self.model.design, self.v)
        out.theta[:] = theta
        out.sigma[:] = np.sqrt(points.sigma2)
        sd = np.array([n.startswith("sd_") for n in self.factors.parameters.natural_names])
        out.varpar[:] = self.factors.natural(theta) * np.where(sd, out.sigma[:, None], 1.0)
        out.beta[:], out.se[:] = base + by_rows(points.beta, L.T), np.sqrt(points.sigma2[:, None] * unscaled)
        out.loglik[:] = -0.5 * (points.value + self._constant())
        out.vcov[:] = points.sigma2[:, None] * self.model.design.packed(points.vcov)
        if ddf:
            self._put_degrees(out, x, points, unscaled)
        out.gradient_norm[:], out.nobs[:], out.nu[:] = norm, self.model.design.n, self.nu
        out.converged[:] = norm <= CERTIFICATE
        out.is_singular[:] = self.factors.singular(theta)
        out.reason[:] = np.where(out.converged, "", NOT_CONVERGED)
        return out

    def _constant(self) -> FloatArray:
        fixed = self.model.design.fixed.logdet if self.reml else 0.0
        return self.nu * (1.0 + np.log(2.0 * np.pi)) + fixed - self.products.sum_log_weights

    def _put_degrees(self, out: Estimates, x: FloatArray, points: "Points", unscaled: FloatArray) -> None:
        """Degrees of freedom of the coefficients and of sigma^2, and spread.

        The profile's Hessian is that of central differences of the exact score; with rho = cross/sigma^2 the one by
        (x, log sigma^2) is [H + rho rho'/nu, rho; rho', nu].
        """
        k, design, everyone = x.shape[1], self.model.design, np.arange(self.v)
        L, slopes = design.loadings, np.empty_like(out.spread)
        relative, H = np.empty((self.v, k, len(L))), np.empty((self.v, k + 1, k + 1))
        for i, unit in enumerate(STEP * np.eye(k)):
            ahead, behind = self.at(everyone, x + unit, False), self.at(everyone, x - unit, False)
            change = (ahead.vcov - behind.vcov) / (2.0 * STEP)
            relative[:, i] = np.einsum("ca,vab,cb->vc", L, change, L) / unscaled
            slopes[:, i] = points.sigma2[:, None] * design.packed(change)
            H[:, i, :k] = (ahead.gradient - behind.gradient) / (2.0 * STEP)
        rho = points.cross
        profile = 0.5 * (H[:, :k, :k] + H[:, :k, :k].transpose(0, 2, 1))
        out.spread[:] = whitened(profile, slopes - rho[:, :, None] * out.vcov[:, None] / self.nu)
        H[:, :k, :k] = profile + rho[:, :, None] * rho[:, None] / self.nu
        H[:, :k, k], H[:, k, :k], H[:, k, k] = rho, rho, self.nu
        out.df[:], out.df_residual[:] = satterthwaite(H, relative)


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Responses each at its x. value: -2l up to a constant; gradient (a, k), hessian (a, k, k) by x; sigma2 (a,);
    cross (a, k) = -(d r^2/dx)/sigma^2; beta (a, p) and vcov (a, p, p)/sigma^2 in the basis of X."""

    value: FloatArray
    gradient: FloatArray
    hessian: FloatArray
    sigma2: FloatArray
    cross: FloatArray
    beta: FloatArray
    vcov: FloatArray


def level_columns(codes: IntArray, places: IntArray, m: int, d: int) -> tuple[IntArray, IntArray, IntArray]:
    """Columns of the tail that each level's rows have: cols (m, e) in order, counts (m,), local like places.

    places (n, t): columns of each row's entries.
    """
    keys, inverse = np.unique(codes[:, None] * d + places, return_inverse=True)
    level = keys // d
    counts = np.bincount(level, minlength=m)
    first = np.concatenate([[0], np.cumsum(counts)])
    position = np.arange(len(keys)) - first[level]
    cols = np.zeros((m, counts.max()), dtype=np.int64)
    cols[level, position] = keys % d
    return cols, counts.astype(np.int64), position[inverse.reshape(places.shape)]


def edges(factors: Factors, x: FloatArray) -> list[FloatArray]:
    """x with small parameters put to zero: of all terms first, then of one after another (as `charts.FreeChart`)."""
    joint, single = x.copy(), []
    for structure, part in zip(factors.structures, factors.slices, strict=True):
        found = structure.edges(x[part], NEAR_EDGE)
        single += [np.concatenate([x[: part.start], candidate, x[part.stop :]]) for candidate in found]
        if found:
            joint[part] = found[0]
    return [joint, *single] if len(single) > 1 else single
