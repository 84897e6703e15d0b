"""The criterion, its score and average information at given parameters (DESIGN sections 2 and 3).

`Likelihood(spec)(theta)` is an `Evaluation`; nothing is fitted. With H = (C^-1)_vv for REML and M^-1 for ML,

    W_k = d(-2l)/dG_k = T_k^-T (m_k I - S_k - U_k/sigma^2) T_k^-1,   S_k = sum of diagonal blocks of H, U_k of v v'

holds for any structure; the rest follows by the chain rule through G_k(theta). An edge (a variance of zero)
needs no special case beyond a lift of T by 1e-4 where W_k is formed (`_lifted`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import scipy.linalg as sla

from ._errors import EngineError, ModelError
from ._typing import FloatArray
from .engines import Engine, make_engine
from .equations import CrossProducts, Equations
from .structures import Covariance
from .structures.base import semidefinite_cholesky
from .terms import ModelSpec

LIFT = 1e-4  # smallest singular value of T sqrt(rows a level) where W is formed: errors of 1e-8 both ways


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """The criterion at one theta. beta: (p,) of the kept columns; b: per term (m, r), the BLUPs."""

    theta: FloatArray
    deviance: float
    sigma: float
    r2: float
    beta: FloatArray
    b: tuple[FloatArray, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Derivatives:
    """Derivatives of -2l by theta (k,) and by log sigma^2.

    information: (k, k) average information; hessian: the same plus the exact curvature of G(theta). Both are
    those of the profile where sigma was profiled. cross_log_sigma2 (k,) and information_log_sigma2 complete
    the unprofiled matrix. em: (r, r) root of each G after one EM step, in the conditioned basis.
    """

    gradient: FloatArray
    hessian: FloatArray
    information: FloatArray
    by_log_sigma2: float
    cross_log_sigma2: FloatArray
    information_log_sigma2: float
    em: tuple[FloatArray, ...] = ()


class Criterion(Protocol):
    """What fitting and results ask of a likelihood, sparse or dense."""

    spec: ModelSpec
    parameters: "Parameters"
    engine_name: str
    engine_reason: str
    flops: float
    n_evaluations: int

    def __call__(self, theta: FloatArray, *, reml: bool = True, sigma: float | None = None) -> Evaluation: ...
    def derivatives(self, theta: FloatArray, *, reml: bool = True, sigma: float | None = None) -> Derivatives: ...
    def vcov(self, theta: FloatArray, sigma: float) -> FloatArray: ...
    def random_vcov(self, theta: FloatArray, sigma: float, *, prediction: bool) -> tuple[FloatArray, ...]: ...
    @property
    def kept(self) -> Any: ...


class Parameters:
    """theta of a model: the structures' parameters one term after another, with names and slices."""

    def __init__(self, spec: ModelSpec):
        self.structures: list[Covariance] = [t.covariance for t in spec.terms]
        sizes = [s.n_params for s in self.structures]
        self.slices = [slice(end - size, end) for end, size in zip(np.cumsum(sizes), sizes, strict=True)]
        self.count = sum(sizes)
        self.names = tuple(n for t in spec.terms for n in t.covariance.names(t.effects, t.name))
        self.natural_names = tuple(n for t in spec.terms for n in t.covariance.natural_names(t.effects, t.name))

    def check(self, theta: Any) -> FloatArray:
        """theta as a vector of the right length; ModelError names the parameters."""
        try:
            out = np.asarray(theta, dtype=np.float64)
        except (TypeError, ValueError):
            out = np.full(1, np.nan)
        if out.shape != (self.count,) or not np.isfinite(out).all():
            names = f", for {', '.join(self.names)}" if self.names else ""
            raise ModelError(f"theta must be {self.count} finite numbers{names}; not {theta}")
        return out

    def parts(self, theta: FloatArray) -> list[FloatArray]:
        """theta of each term."""
        return [theta[s] for s in self.slices]

    def map(self, method: str, theta: FloatArray) -> FloatArray:
        """`method` of each structure on its part, joined: to_natural, from_natural, canonical."""
        pieces = [getattr(s, method)(part) for s, part in zip(self.structures, self.parts(theta), strict=True)]
        return np.concatenate(pieces) if pieces else np.zeros(0)


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """The mixed-model equations solved at one T (conditioned bases).

    E: (q, p+1) = M^-1 Lambda'Z'W[X y]. RX: (p, p) lower with RX RX' = X'V^-1X sigma^2. beta: of the
    orthonormal basis of X. v: (q,).
    """

    theta: FloatArray
    T: list[FloatArray]
    E: FloatArray
    RX: FloatArray
    beta: FloatArray
    v: FloatArray
    r2: float
    logdet_M: float


class Likelihood:
    """-2 log-likelihood (ML) or REML criterion as a function of theta, by the sparse mixed-model equations.

    sigma=None profiles sigma out; else it is held at that value.
    """

    def __init__(self, spec: ModelSpec, engine: str = "auto", products: CrossProducts | None = None):
        self.spec = spec
        self.parameters = Parameters(spec)
        self.equations = Equations(spec, products)
        self.products = self.equations.products
        self.engine: Engine = make_engine(engine, self.equations.pattern)
        self.engine_name, self.engine_reason, self.flops = self.engine.name, self.engine.reason, self.engine.flops
        self.n_evaluations = 0
        self._solved: Solution | None = None
        self._derived: tuple[tuple[bytes, bool, float | None], Derivatives] | None = None
        self._held: list[FloatArray] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_held": None, "_solved": None}

    @property
    def kept(self) -> Any:
        """Columns of X that are in the model."""
        return self.products.fixed.kept

    def degrees(self, reml: bool) -> int:
        """nu, the divisor of sigma^2: n for ML, n - p for REML."""
        return self.products.n - (len(self.kept) if reml else 0)

    def __call__(self, theta: FloatArray, *, reml: bool = True, sigma: float | None = None) -> Evaluation:
        """The criterion and the estimates at theta (k,)."""
        solution, fixed, nu = self.solution(theta), self.products.fixed, self.degrees(reml)
        if not solution.r2 > 0.0:
            raise ModelError("the residual sum of squares is zero: the model fits the response exactly")
        logdet = solution.logdet_M - self.products.sum_log_weights
        if reml:
            logdet += 2.0 * float(np.log(np.diag(solution.RX)).sum()) + fixed.logdet
        sigma2 = solution.r2 / nu if sigma is None else sigma**2
        deviance = logdet + nu * np.log(2 * np.pi * sigma2) + solution.r2 / sigma2
        beta = fixed.start + sla.solve_triangular(fixed.R, solution.beta)
        b = tuple(x[:, :, 0] for x in self._effects(solution))
        return Evaluation(solution.theta, float(deviance), float(np.sqrt(sigma2)), solution.r2, beta, b)

    def solution(self, theta: FloatArray) -> Solution:
        """The equations solved at theta; the last one is kept."""
        theta = self.parameters.check(theta)
        if self._solved is None or not np.array_equal(theta, self._solved.theta):
            self._solved = self._solve(theta, self.factors(theta))
        return self._solved

    def factors(self, theta: FloatArray) -> list[FloatArray]:
        """T_k in the conditioned bases."""
        pairs = zip(self.products.bases, self._own_factors(theta), strict=True)
        return [np.ascontiguousarray(basis @ T) for basis, T in pairs]

    def _solve(self, theta: FloatArray, T: list[FloatArray]) -> Solution:
        p = len(self.kept)
        self._factorize(T)
        B = self.equations.right_side(T)
        E = self.engine.solve(B)
        S = self.products.xy - B.T @ E
        try:
            RX = np.linalg.cholesky(S[:p, :p])
        except np.linalg.LinAlgError as error:
            raise EngineError("X'V^-1X is not positive definite at these parameters") from error
        half = sla.solve_triangular(RX, S[:p, p], lower=True)
        beta = sla.solve_triangular(RX, half, lower=True, trans="T")
        r2 = float(S[p, p] - half @ half)
        return Solution(theta, T, E, RX, beta, E[:, p] - E[:, :p] @ beta, r2, self.engine.logdet())

    def _factorize(self, T: list[FloatArray]) -> None:
        """M at T, unless the engine holds just that."""
        if T is not self._held:
            self._held = None
            self.engine.factorize(self.equations.fill(T))
            self._held = T
            self.n_evaluations += 1

    def _effects(self, solution: Solution) -> list[FloatArray]:
        """b = T v, in the effects' own units, (m, r, 1) for each term."""
        v = self.equations.split(solution.v)
        return [T @ vk for T, vk in zip(self._own_factors(solution.theta), v, strict=True)]

    def _own_factors(self, theta: FloatArray) -> list[FloatArray]:
        """T_k in the effects' own units."""
        pairs = zip(self.parameters.structures, self.parameters.parts(theta), strict=True)
        return [s.factor(part) for s, part in pairs]

    def derivatives(self, theta: FloatArray, *, reml: bool = True, sigma: float | None = None) -> Derivatives:
        """Score, average information and curvature at theta; the last ones are kept."""
        key = (self.parameters.check(theta).tobytes(), reml, sigma)
        if self._derived is None or self._derived[0] != key:
            self._derived = key, self._derivatives(theta, reml, sigma)
        return self._derived[1]

    def _derivatives(self, theta: FloatArray, reml: bool, sigma: float | None) -> Derivatives:
        solution, nu = self.solution(theta), self.degrees(reml)
        sigma2 = solution.r2 / nu if sigma is None else sigma**2
        by_cov, em = self._by_covariance(solution, reml, sigma2)
        gradient, count = np.zeros(self.parameters.count), self.parameters.count
        curvature, gradients = np.zeros((count, count)), []
        for k, (W, part) in enumerate(zip(by_cov, self.parameters.slices, strict=True)):
            dG, d2G = self._structure(k, solution.theta)
            gradient[part] = np.einsum("iab,ab->i", dG, W)
            curvature[part, part] = np.einsum("ijab,ab->ij", d2G, W)
            gradients.append(dG)
        information, cross = self._average_information(solution, gradients, sigma2)
        scale = solution.r2 / sigma2
        if sigma is None:
            information = information - np.outer(cross, cross) / scale
        return Derivatives(gradient, information + curvature, information, nu - scale, cross, scale, em)

    def _structure(self, k: int, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
        """dG and d2G of term k in the conditioned basis."""
        basis, structure = self.products.bases[k], self.parameters.structures[k]
        part = theta[self.parameters.slices[k]]
        return basis @ structure.gradient(part) @ basis.T, basis @ structure.hessian(part) @ basis.T

    def _by_covariance(
        self, solution: Solution, reml: bool, sigma2: float
    ) -> tuple[list[FloatArray], tuple[FloatArray, ...]]:
        """W_k for each term, and the roots of one EM step: G_new = T (S + U/sigma^2)/m T'."""
        lifted = [self._lifted(k, T) for k, T in enumerate(solution.T)]
        at_edge = any(a is not b for a, b in zip(lifted, solution.T, strict=True))
        near = self._solve(solution.theta, lifted) if at_edge else solution
        by_cov, em = [], []
        for k, (T, S) in enumerate(zip(near.T, self._sums(near, reml, sigma2), strict=True)):
            m, inverse = self.spec.terms[k].n_levels, np.linalg.inv(T)
            by_cov.append(inverse.T @ (m * np.eye(len(T)) - S) @ inverse)
            em.append(T @ semidefinite_cholesky(S / m))
        return by_cov, tuple(em)

    def _lifted(self, k: int, T: FloatArray) -> FloatArray:
        """T with its singular values at least LIFT / sqrt(rows a level); the same object where they are."""
        floor = LIFT / np.sqrt(max(1.0, self.products.n / self.spec.terms[k].n_levels))
        U, s, Vt = np.linalg.svd(T)
        return T if s[-1] >= floor else np.ascontiguousarray((U * np.maximum(s, floor)) @ Vt)

    def _sums(self, solution: Solution, reml: bool, sigma2: float) -> list[FloatArray]:
        """S_k + U_k/sigma^2, (r, r) for each term."""
        v = solution.v[:, None] / np.sqrt(sigma2)
        low_rank = self.equations.split(np.hstack([self._fixed_part(solution), v]) if reml else v)
        blocks = self._level_blocks(solution)
        return [S.sum(axis=0) + np.einsum("mac,mbc->ab", w, w) for S, w in zip(blocks, low_rank, strict=True)]

    def _fixed_part(self, solution: Solution) -> FloatArray:
        """N (q, p) with (C^-1)_vv = M^-1 + N N'."""
        return sla.solve_triangular(solution.RX, solution.E[:, : len(solution.beta)].T, lower=True).T

    def _level_blocks(self, solution: Solution) -> list[FloatArray]:
        """Diagonal blocks of M^-1, (m, r, r) for each term."""
        self._factorize(solution.T)
        rows, cols = self.equations.within
        values, end, out = self.engine.selected_inverse(rows, cols), 0, []
        for term in self.spec.terms:
            i, j = np.tril_indices(term.n_effects)
            lower = values[end : (end := end + term.n_levels * len(i))].reshape(-1, len(i))
            block = np.empty((term.n_levels, term.n_effects, term.n_effects))
            block[:, i, j] = lower
            block[:, j, i] = lower
            out.append(block)
        return out

    def _average_information(
        self, solution: Solution, gradients: list[FloatArray], sigma2: float
    ) -> tuple[FloatArray, FloatArray]:
        """AI_ij = f_i'P f_j/sigma^2 and f_i'Py/sigma^2, f_i = Z (I x dG_i) Z'Py (Gilmour, Thompson & Cullis 1995)."""
        p, w = len(solution.beta), self._score_effects(solution)
        C = [np.zeros((*wk.shape[:2], self.parameters.count)) for wk in w]
        for Ck, wk, dG, part in zip(C, w, gradients, self.parameters.slices, strict=True):
            Ck[:, :, part] = np.einsum("iab,mb->mai", dG, wk[:, :, 0])
        F = self.equations.gram_times(C)
        c, f = self._stack(C), self._stack(F)
        a = self._stack([T.T @ Fk for T, Fk in zip(solution.T, F, strict=True)])
        g = self._stack([Zxy[:, :, :p] for Zxy in self.products.Zxy]).T @ c
        t = sla.solve_triangular(solution.RX, g - solution.E[:, :p].T @ a, lower=True)
        self._factorize(solution.T)
        information = c.T @ f - a.T @ self.engine.solve(a) - t.T @ t
        return information / sigma2, (c.T @ self._stack(w))[:, 0] / sigma2

    def _stack(self, parts: Sequence[FloatArray]) -> FloatArray:
        """(m, r, c) of each term -> (q, c)."""
        return np.concatenate([x.reshape(x.shape[0] * x.shape[1], -1) for x in parts]) if parts else np.zeros((0, 1))

    def _score_effects(self, solution: Solution) -> list[FloatArray]:
        """Z'Py = Z'W(y - X beta - Z Lambda v), (m, r, 1) for each term."""
        p = len(solution.beta)
        b = [T @ v for T, v in zip(solution.T, self.equations.split(solution.v), strict=True)]
        right = [Zxy[:, :, p:] - Zxy[:, :, :p] @ solution.beta[:, None] for Zxy in self.products.Zxy]
        return [r - zb for r, zb in zip(right, self.equations.gram_times(b), strict=True)]

    def vcov(self, theta: FloatArray, sigma: float) -> FloatArray:
        """sigma^2 (X'V^-1X)^-1 of the kept coefficients, (p, p)."""
        solution, R = self.solution(theta), self.products.fixed.R
        half = sla.solve_triangular(solution.RX, np.linalg.inv(R).T if len(R) else R, lower=True)
        return sigma**2 * half.T @ half

    def random_vcov(self, theta: FloatArray, sigma: float, *, prediction: bool) -> tuple[FloatArray, ...]:
        """Covariance of each level's effects, (m, r, r): given beta, as in lme4, or of b_hat - b (Henderson)."""
        solution = self.solution(theta)
        blocks = self._level_blocks(solution)
        extra = self.equations.split(self._fixed_part(solution)) if prediction else []
        out = []
        for k, (T, block) in enumerate(zip(self._own_factors(solution.theta), blocks, strict=True)):
            total = block + extra[k] @ extra[k].transpose(0, 2, 1) if prediction else block
            out.append(sigma**2 * T @ total @ T.T)
        return tuple(out)

    def scaling(self) -> FloatArray:
        """Matrix S (k, k), x = S theta: coordinates of order one for an optimiser."""
        pairs = zip(self.parameters.structures, self.products.bases, strict=True)
        return sla.block_diag(*[s.scaling(basis) for s, basis in pairs]) if self.parameters.count else np.zeros((0, 0))
