"""Any model that `Likelihood` knows: one symbolic factor for all responses, each one's search from a shared grid.

At a point of the grid the equations are factorised once and solved for all responses together; each then begins
where its own criterion is least, and `fitting.estimate` does the rest.
"""

import copy
from dataclasses import replace

import numpy as np
import scipy.linalg as sla

from .._errors import SparselmmError
from .._typing import FloatArray
from ..equations import CrossProducts, cross_products
from ..fitting import Estimate, estimate
from ..likelihood import Likelihood
from ..structures.limits import at_bounds
from .degrees import STEP, WIDE_STEP, satterthwaite, whitened
from .design import Block, Design, term_matrix
from .estimates import NOT_CONVERGED, Estimates, empty

GRID = (0.1, 0.5, 1.0, 2.5)  # standard deviations of effects of unit size, relative to sigma, the same in every term
SD = "sd_"


class Structured:
    """Fits responses one after another through the sparse mixed-model equations. ddf: with degrees of freedom."""

    def __init__(self, design: Design, reml: bool, ddf: bool = True):
        self.design, self.reml, self.ddf = design, reml, ddf
        self.likelihood = Likelihood(design.spec, products=design.products)
        structures, bases = self.likelihood.parameters.structures, design.products.bases
        roots = [[np.asarray(size * np.linalg.inv(basis), dtype=np.float64) for basis in bases] for size in GRID]
        self.starts = [self.likelihood.parameters.start(root) for root in roots] if structures else []

    def on(self, design: Design) -> "Structured":
        """The same method for another design."""
        return Structured(design, self.reml, self.ddf)

    def fit(self, block: Block) -> Estimates:
        """Every response of a block at its own optimum."""
        v = block.residual.shape[1]
        out = empty(self.design, v)
        sums = self._sums(block.residual)
        starts = self._starts(sums, block)
        for j in range(v):
            try:
                self._put(out, j, self._estimate(j, sums, block, starts), block.beta[:, j])
            except SparselmmError as error:
                out.blank(np.arange(v) == j, str(error))
        return out

    def _sums(self, Y: FloatArray) -> list[FloatArray]:
        """Z'WY in the conditioned bases, (m, r, v) for each term."""
        out = []
        for term, basis in zip(self.design.spec.terms, self.design.products.bases, strict=True):
            raw = term_matrix(term).T @ (self.design.weights[:, None] * Y)
            shaped = raw.reshape(term.n_levels, term.n_effects, Y.shape[1])
            out.append(np.einsum("ba,mbv->mav", np.linalg.inv(basis), shaped))
        return out

    def _starts(self, sums: list[FloatArray], block: Block) -> list[FloatArray | None]:
        """The best theta of the grid for each response; None, as for `lmm`, where R or a precision has parameters.

        The sums change with those of R, and correlations have local maxima, whose starts the search compares itself.
        """
        v, nu = block.residual.shape[1], self.design.degrees(self.reml)
        serial = any(t.Q is not None and t.Q.n_params for t in self.design.spec.terms)
        if serial or self.design.spec.residual is not None or not self.starts:
            return [None] * v
        values = np.array([self._values(theta, sums, block.ss, nu) for theta in self.starts])
        return [self.starts[i] for i in values.argmin(axis=0)]

    def _values(self, theta: FloatArray, sums: list[FloatArray], ss: FloatArray, nu: int) -> FloatArray:
        """-2l of every response at theta up to what theta does not change, (v,): one factor, one solve."""
        likelihood, p = self.likelihood, self.design.p
        solution = likelihood.solution(theta)
        right = [np.matmul(T.T, s).reshape(-1, s.shape[2]) for T, s in zip(solution.T, sums, strict=True)]
        B = np.concatenate(right)
        solved = likelihood.engine.solve(B)
        half = sla.solve_triangular(solution.RX, -solution.E[:, :p].T @ B, lower=True)
        r2 = ss - np.einsum("qv,qv->v", B, solved) - (half**2).sum(axis=0)
        deviance = likelihood(theta, reml=self.reml).deviance
        return deviance + nu * np.log(r2 / solution.r2)

    def _estimate(self, j: int, sums: list[FloatArray], block: Block, starts: list[FloatArray | None]) -> Estimate:
        likelihood = copy.copy(self.likelihood)
        likelihood.equations = copy.copy(self.likelihood.equations)
        likelihood.products = likelihood.equations.products = self._products(j, sums, block)
        likelihood._solved = likelihood._derived = likelihood._held = None
        self._likelihood = likelihood
        return estimate(likelihood, reml=self.reml, start=starts[j])

    def _products(self, j: int, sums: list[FloatArray], block: Block) -> CrossProducts:
        """The design's cross-products with response j in the last place."""
        old, p = self.design.products, self.design.p
        if old.banded is not None:
            return cross_products(replace(self.design.spec, y=block.residual[:, j]))
        pairs = zip(old.Zxy, sums, strict=True)
        Zxy = tuple(np.concatenate([Z[:, :, :p], s[:, :, j : j + 1]], axis=2) for Z, s in pairs)
        xy = old.xy.copy()
        xy[p, :p] = xy[:p, p] = 0.0
        xy[p, p] = block.ss[j]
        return replace(old, Zxy=Zxy, xy=xy)

    def _put(self, out: Estimates, j: int, found: Estimate, base: FloatArray) -> None:
        theta, sigma = found.evaluation.theta, found.evaluation.sigma
        parameters, L = self.likelihood.parameters, self.design.loadings
        sd = np.array([name.startswith(SD) for name in parameters.natural_names])
        beta = self._likelihood.solution(theta).beta
        C = self._unscaled(theta)
        out.beta[j], out.se[j] = L @ (base + beta), sigma * np.sqrt(_squares(L, C))
        out.vcov[j] = sigma**2 * self.design.packed(C)
        out.theta[j], out.sigma[j] = theta, sigma
        out.varpar[j] = parameters.to_natural(theta) * np.where(sd, sigma, 1.0)
        out.loglik[j], out.gradient_norm[j] = -0.5 * found.evaluation.deviance, found.gradient_norm
        out.nobs[j], out.converged[j], out.is_singular[j] = self.design.n, found.converged, found.is_singular
        out.nu[j] = self.design.degrees(self.reml)
        out.reason[j] = "" if found.converged else NOT_CONVERGED
        if self.ddf:
            self._put_degrees(out, j, found, C)

    def _unscaled(self, theta: FloatArray) -> FloatArray:
        """Covariance of the coefficients in the basis over sigma^2, (p, p)."""
        half = np.linalg.inv(self._likelihood.solution(theta).RX)
        return half.T @ half

    def _put_degrees(self, out: Estimates, j: int, found: Estimate, C: FloatArray) -> None:
        """Satterthwaite's and spread; correlations and rates at their limits have no part in them."""
        design, likelihood, chart, sigma = self.design, self._likelihood, found.chart, found.evaluation.sigma
        x = chart.coordinates(found.evaluation.theta, sigma)
        inside = np.flatnonzero(~at_bounds(x, chart.bounds()))

        def at(x: FloatArray) -> tuple[FloatArray, FloatArray]:
            theta, _ = chart.model(x)
            score = likelihood.derivatives(theta, reml=self.reml, sigma=sigma).gradient
            return (chart.jacobian(x).T @ score)[inside], self._unscaled(theta)

        k, step = len(inside), STEP if len(inside) == len(x) else WIDE_STEP
        H, slopes = np.empty((k + 1, k + 1)), np.empty((k, *C.shape))
        for i, unit in enumerate(step * np.eye(len(x))[inside]):
            ahead, behind = at(x + unit), at(x - unit)
            H[i, :k], slopes[i] = ((a - b) / (2.0 * step) for a, b in zip(ahead, behind, strict=True))
        H[:k, :k] = 0.5 * (H[:k, :k] + H[:k, :k].T)
        rho = (chart.jacobian(x).T @ found.derivatives.cross_log_sigma2)[inside]
        H[:k, k], H[k, :k], H[k, k] = rho, rho, found.derivatives.information_log_sigma2
        relative = np.array([_squares(design.loadings, slope) for slope in slopes]).reshape(k, len(design.L))
        out.df[[j]], out.df_residual[[j]] = satterthwaite(H[None], relative[None] / _squares(design.loadings, C))
        profile, along = H[:k, :k] - np.outer(rho, rho) / H[k, k], slopes - rho[:, None, None] * C / H[k, k]
        out.spread[j] = 0.0
        out.spread[[j], :k] = whitened(profile[None], sigma**2 * design.packed(along)[None])


def _squares(L: FloatArray, C: FloatArray) -> FloatArray:
    """l'Cl of each row of L (c, p), (c,)."""
    return np.einsum("ca,ab,cb->c", L, C, L)
