"""One variance ratio over levels too many to decompose: exact at nodes, and between them by Chebyshev polynomials.

r^2, log-determinants and coefficients are sums of a + b/(1 + phi lam) and log(1 + phi lam), phi the ratio: all that is
singular lies at phi = -1/lam < 0. On a piece of the axis of log phi of half-width h interpolation at N nodes is off by
rho^-N, rho = pi/h + sqrt(1 + (pi/h)^2) (Trefethen 2013, Approximation Theory and Approximation Practice, theorem 8.2),
here 1e-11, whatever the eigenvalues. The piece next to phi = 0 is one of phi itself. A node takes one factor for all
responses; pieces are made where some response needs them; each response then ends at its own optimum.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import scipy.linalg as sla
from numpy.polynomial.chebyshev import chebder, chebval
from scipy.sparse.linalg import LinearOperator, eigsh

from .._typing import BoolArray, FloatArray, IntArray
from ..engines.threads import blas_threads, parallel
from ..likelihood import Likelihood
from .degrees import satterthwaite, whitened
from .design import Block, Design, by_tiles, term_matrix, tiles
from .estimates import NOT_CONVERGED, RUNAWAY, Estimates, empty
from .spectral import CERTIFICATE

START, FACTOR, LARGEST = 0.05, 36.0, 1e10  # pieces of phi for effects of unit size; 5 to 64 % of the variance first
NODES, MARGIN = 20, 0.03  # a piece goes beyond its ends by this part, so that a search may cross them
TAIL = 1e-8  # last coefficients of r^2, relative: larger ones, and a response has not converged
NOISE = 1e-13  # of r^2, relative to its largest value
EXACT = 1e-10  # as `fitting`: smaller r^2, relative, are none
COLUMNS = 32  # of right-hand sides at a time
POINTS = 100  # where the least value is looked for in a piece
STEPS = 60  # of Newton and bisection
TINY, LAST = 1e-9, 1e-13  # steps that rounding may turn round, and the last one
SAME = 1e-9  # as `fitting`

Tiles: TypeAlias = Sequence[tuple[slice, FloatArray]]  # columns, and copies of them filled up to COLUMNS


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """What is interpolated: values at N nodes, or N Chebyshev coefficients.

    logdet (N,): -2l less nu log r^2. r2 (N, v). unscaled (N, c): variances over sigma^2, pairs (N, P): covariances.
    shift (N, c, v): what L beta has more than least squares.
    """

    logdet: FloatArray
    r2: FloatArray
    unscaled: FloatArray
    pairs: FloatArray
    shift: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Coefficients over s in -1 ... 1; centre + s half is phi or its logarithm. grid: s where one looks."""

    linear: bool
    centre: float
    half: float
    grid: FloatArray
    sums: Sums

    def phi(self, s: FloatArray) -> FloatArray:
        """The ratio at s."""
        at = self.centre + s * self.half
        return np.maximum(at, 0.0) if self.linear else np.exp(at)

    def criterion(self, s: FloatArray, which: IntArray, nu: float) -> tuple[FloatArray, FloatArray, FloatArray]:
        """-2l, its slope and curvature by s of responses which (a,), each at its s (a,)."""
        logdet, r2 = jets(self.sums.logdet, s), jets(self.sums.r2[:, which], s)
        relative = r2[1] / r2[0]
        curve = logdet[2] + nu * (r2[2] / r2[0] - relative**2)
        return logdet[0] + nu * np.log(r2[0]), logdet[1] + nu * relative, curve


def jets(c: FloatArray, s: FloatArray) -> list[FloatArray]:
    """Value and two derivatives of polynomials c (N, ...) at s, broadcast against each other."""
    return [np.asarray(chebval(s, chebder(c, m), tensor=False), dtype=np.float64) for m in range(3)]


def coefficients(values: FloatArray) -> FloatArray:
    """Of the polynomials with these values (N, ...) at `nodes(N)`."""
    k, out = np.arange(len(values)), np.zeros_like(values)
    for value, angle in zip(values, np.pi * (k + 0.5) / len(k), strict=True):  # a product's bits depend on its shape
        out += np.multiply.outer(np.cos(k * angle), value) * (2.0 / len(k))
    out[0] *= 0.5
    return out


def nodes(n: int) -> FloatArray:
    """Zeros of the Chebyshev polynomial of degree n."""
    return np.cos(np.pi * (np.arange(n) + 0.5) / n)


class SparseRatio:
    """Fits responses of a model that `is_one_ratio`. ddf: with degrees of freedom."""

    def __init__(self, design: Design, reml: bool, ddf: bool = True):
        self.design, self.reml, self.ddf = design, reml, ddf
        self.nu = float(design.degrees(reml))

    @cached_property
    def likelihood(self) -> Likelihood:
        """The equations; they are made again where this has travelled."""
        return Likelihood(self.design.spec, products=self.design.products)

    @cached_property
    def largest_eigenvalue(self) -> float:
        """Of the kernel of effects of unit size, K = Z Q^-1 Z' W: a tenth above what Lanczos finds."""
        Z, weights = term_matrix(self.design.spec.terms[0]), self.design.weights
        scale = self.likelihood.scaling()[0, 0] ** 2
        none = np.zeros(0)

        def times(x: FloatArray) -> FloatArray:
            root = np.sqrt(weights)
            return root * (Z @ self.likelihood._solve_precision(0, none, Z.T @ (root * x.ravel())[:, None])[:, 0])

        K = LinearOperator((self.design.n,) * 2, matvec=times, dtype=np.float64)
        start = np.ones(self.design.n)
        return 1.1 * float(eigsh(K, 1, v0=start, tol=0.05, return_eigenvectors=False)[0]) / scale

    def __getstate__(self) -> dict[str, object]:
        return {key: value for key, value in self.__dict__.items() if key != "likelihood"}

    def on(self, design: Design) -> "SparseRatio":
        """The same method for another design."""
        return SparseRatio(design, self.reml, self.ddf)

    def theta(self, phi: FloatArray) -> FloatArray:
        """(..., 1), of ratios for effects of unit size."""
        return np.sqrt(phi)[..., None] / self.likelihood.scaling()[0, 0]

    def fit(self, block: Block) -> Estimates:
        """Every response of a block at its own optimum."""
        basis = self.design.products.bases[0][0, 0]
        ZY = term_matrix(self.design.spec.terms[0]).T @ (self.design.weights[:, None] * block.residual) / basis
        search = _Search(self, list(tiles(ZY, COLUMNS)), block.ss)
        with blas_threads(self.likelihood.flops):
            search.run()
        out = empty(self.design, len(block.ss))
        base = by_tiles(self.design.loadings, block.beta).T
        for which, piece in search.found():
            out.put(which, self._estimates(piece, search.s[which], which, base[which]))
        out.blank(search.rough, NOT_CONVERGED)
        out.blank(search.runaway, RUNAWAY)
        return out

    def at(self, phi: float, columns: Tiles, ss: FloatArray) -> Sums:
        """One node; columns: Z'WY (q, v) in tiles, ss (v,)."""
        likelihood, theta = self.likelihood, self.theta(np.array(phi))
        deviance, solution = likelihood(theta, reml=self.reml).deviance, likelihood.solution(theta)
        T, p = float(solution.T[0][0, 0]), self.design.p
        invert = sla.solve_triangular(solution.RX, np.eye(p), lower=True)
        across = -T * (invert @ solution.E[:, :p].T)
        r2, half = ss.copy(), np.empty((p, len(ss)))
        squares = getattr(likelihood.engine, "squares", None)

        def take(begin: int, end: int) -> None:
            for part, tile in columns[begin:end]:
                width = part.stop - part.start
                inner = squares(tile) if squares else np.einsum("qv,qv->v", tile, likelihood.engine.solve(tile))
                half[:, part] = (across @ tile)[:, :width]
                r2[part] -= T**2 * inner[:width]

        with blas_threads(0.0):  # the bits of a product depend on BLAS' threads
            parallel(take, np.arange(len(columns) + 1) if squares else np.array([0, len(columns)]))
        r2 -= (half**2).sum(axis=0)
        L = invert @ self.design.loadings.T
        logdet = np.array(deviance - self.nu * np.log(solution.r2))
        pairs = self.design.packed(invert.T @ invert)
        return Sums(logdet, r2, (L**2).sum(axis=0), pairs, by_tiles(L.T, half))

    def _estimates(self, piece: Piece, s: FloatArray, which: IntArray, base: FloatArray) -> Estimates:
        """Of some responses of one piece; base (a, c): least-squares values of what is wanted."""
        out, phi = empty(self.design, len(s)), piece.phi(s)
        value, slope, curve = piece.criterion(s, which, self.nu)
        at_zero, r2 = phi == 0.0, jets(piece.sums.r2[:, which], s)
        unscaled = [x.T for x in jets(piece.sums.unscaled[:, :, None], s)]
        sigma2 = r2[0] / self.nu
        out.theta[:], out.sigma[:] = self.theta(phi), np.sqrt(sigma2)
        out.varpar[:, 0] = out.theta[:, 0] * out.sigma
        out.beta[:] = base + jets(piece.sums.shift[:, :, which], s)[0].T
        out.se[:] = np.sqrt(sigma2[:, None] * unscaled[0])
        out.loglik[:], out.nobs[:], out.nu[:], out.is_singular[:] = -0.5 * value, self.design.n, self.nu, at_zero
        out.gradient_norm[:] = np.where(at_zero, 0.0, np.abs(slope) / np.sqrt(np.abs(curve)))
        out.converged[:] = at_zero | ((curve > 0.0) & (out.gradient_norm <= CERTIFICATE))
        out.reason[:] = np.where(out.converged, "", NOT_CONVERGED)
        pairs = [x.T for x in jets(piece.sums.pairs[:, :, None], s)]
        out.vcov[:] = sigma2[:, None] * pairs[0]
        if self.ddf:
            rho = -r2[1] / sigma2
            H = np.stack([curve + rho**2 / self.nu, rho, rho, np.full(len(s), self.nu)], axis=1).reshape(-1, 2, 2)
            df, residual = satterthwaite(H, (unscaled[1] / unscaled[0])[:, None])
            out.df[:] = np.where(at_zero[:, None], self.nu, df)
            out.df_residual[:] = np.where(at_zero, self.nu, residual)
            out.df[np.isnan(out.se)] = np.nan
            slopes = sigma2[:, None] * pairs[1] - (rho / self.nu)[:, None] * out.vcov
            out.spread[:] = np.where(at_zero[:, None, None], 0.0, whitened(curve[:, None, None], slopes[:, None]))
        return out


class _Search:
    """Pieces that the responses of a block need, and where in them each has its minimum: `where` and `s`, (v,)."""

    def __init__(self, model: SparseRatio, columns: Tiles, ss: FloatArray):
        self.model, self.columns, self.ss, self.v = model, columns, ss, np.arange(len(ss))
        self.pieces: list[Piece] = []
        self.value, self.s = np.full((2, len(ss)), np.inf)
        self.where: IntArray = np.full(len(ss), -1, dtype=np.int64)
        self.runaway, self.rough = np.zeros((2, len(ss)), dtype=bool)

    def run(self) -> None:
        """Make pieces until the least value of every response is inside them, then go on by Newton."""
        low, high, lowest = START, START * FACTOR, 0.0
        below, above = self._make(low, high)
        zero = self.model.at(0.0, [], self.ss[:0]).logdet + self.model.nu * np.log(self.ss)
        while low > 0.0 and (below | _as_good(zero, self.value)).any():
            lowest = lowest or 2.0 / self.model.largest_eigenvalue
            below, _ = self._make(0.0 if low <= lowest else low / FACTOR, low)
            low = 0.0 if low <= lowest else low / FACTOR
        while high < LARGEST and above.any():
            _, above = self._make(high, high * FACTOR)
            high *= FACTOR
        self.runaway |= above
        for which, piece in self.found():
            self.s[which], self.value[which] = minima(piece, self.s[which], which, self.model.nu)
        edge = _as_good(zero, self.value) & ~self.runaway
        self.where[edge], self.s[edge] = next((i for i, piece in enumerate(self.pieces) if piece.linear), -1), -1.0

    def found(self) -> Iterator[tuple[IntArray, Piece]]:
        """Responses of each piece, those without a minimum left out."""
        for i, piece in enumerate(self.pieces):
            which = np.flatnonzero((self.where == i) & ~self.runaway)
            if len(which):
                yield which, piece

    def _make(self, low: float, high: float) -> tuple[BoolArray, BoolArray]:
        """A piece; which responses have their least value so far at its lower, its upper end."""
        piece = self._interpolate(low, high)
        values = np.array([piece.criterion(np.full(len(self.v), s), self.v, self.model.nu)[0] for s in piece.grid])
        self.runaway |= ~np.isfinite(values).all(axis=0)
        best = np.where(self.runaway, 0, values.argmin(axis=0))
        least = values[best, self.v]
        better = (least < self.value) & ~self.runaway
        self.value[better], self.s[better], self.where[better] = (
            least[better],
            piece.grid[best][better],
            len(self.pieces),
        )
        self.pieces.append(piece)
        below, above = ((self.where == len(self.pieces) - 1) & (self.s == piece.grid[i]) for i in (0, -1))
        return below & ~self.runaway, above & ~self.runaway

    def _interpolate(self, low: float, high: float) -> Piece:
        """From low to high in phi: on the axis of phi itself where low is zero, else of its logarithm."""
        linear = low == 0.0
        first, last = (low, high) if linear else np.log([low, high])
        margin = MARGIN * (last - first)
        start, stop = first - (0.0 if linear else margin), last + margin
        centre, half = 0.5 * (start + stop), 0.5 * (stop - start)
        at = centre + half * nodes(NODES)
        rows = [self.model.at(float(phi), self.columns, self.ss) for phi in (at if linear else np.exp(at))]
        sums = Sums(*(coefficients(np.array([getattr(row, name) for row in rows])) for name in Sums.__slots__))
        r2 = np.array([row.r2 for row in rows])
        self.runaway |= (r2 <= EXACT * self.ss).any(axis=0)
        self.rough |= np.abs(sums.r2[-2:]).max(axis=0) > TAIL * r2.min(axis=0) + NOISE * self.ss
        return Piece(linear, centre, half, (np.linspace(first, last, POINTS) - centre) / half, sums)


def _as_good(zero: FloatArray, value: FloatArray) -> BoolArray:
    return np.asarray(zero <= value + SAME + 1e-14 * np.abs(value))


def minima(piece: Piece, s: FloatArray, which: IntArray, nu: float) -> tuple[FloatArray, FloatArray]:
    """s (a,) of the minimum beside each s of the grid, and the values there: Newton within a bracket."""
    step = piece.grid[1] - piece.grid[0]
    low, high = np.maximum(s - step, -1.0), np.minimum(s + step, 1.0)
    done = np.zeros(len(s), dtype=bool)
    for _ in range(STEPS):
        _, slope, curve = piece.criterion(s, which, nu)
        low, high = np.where(slope < 0.0, s, low), np.where(slope > 0.0, s, high)
        with np.errstate(divide="ignore", invalid="ignore"):
            newton = s - slope / curve
        good = (curve > 0.0) & ((newton > low) & (newton < high) | (np.abs(newton - s) < TINY))
        before, s = s, np.where(done, s, np.where(good, newton, 0.5 * (low + high)))
        done |= np.abs(s - before) < LAST
        if done.all():
            break
    return s, piece.criterion(s, which, nu)[0]
