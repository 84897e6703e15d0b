"""The criterion, its score and average information at given parameters (DESIGN sections 2 and 3).

`Likelihood(spec)(theta)` is an `Evaluation`; nothing is fitted. With H = (C^-1)_vv for REML and M^-1 for ML,

    W_k = d(-2l)/dG_k = T_k^-T (m_k I - S_k - U_k/sigma^2) T_k^-1,   S_k = sum of diagonal blocks of H, U_k of v v'

is exact for any T; everything else follows by the chain rule G_k(theta), so that the edges T -> 0 need no
special case beyond a shift of T by 1e-4 where W_k is formed (`_lifted`).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.linalg as sla

from ._errors import EngineError, ModelError
from ._typing import FloatArray
from .engines import Engine
from .engines.cholmod import Cholmod
from .engines.dense import DenseMarginal
from .equations import Equations
from .terms import ModelSpec

EngineName = Literal["auto", "cholmod", "dense"]
LIFT = 1e-4  # smallest singular value of T sqrt(rows a level) at which W is formed: errors of 1e-8 both ways


@dataclass(frozen=True, slots=True, eq=False)
class Derivatives:
    """First and second derivatives of -2l, by theta (k,) and by log sigma^2.

    information: (k, k) average information AI; hessian: AI plus the exact curvature of G(theta). With
    sigma profiled, all three are those of the profile. em: T of one EM step for each term.
    """

    gradient: FloatArray
    hessian: FloatArray
    information: FloatArray
    by_log_sigma2: float
    cross_log_sigma2: FloatArray
    information_log_sigma2: float
    em: tuple[FloatArray, ...]
    by_cov: tuple[FloatArray, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """The criterion at one theta. beta: (p,) of the kept columns. v: per term (m, r), b = T v."""

    theta: FloatArray
    deviance: float
    sigma: float
    r2: float
    beta: FloatArray
    b: tuple[FloatArray, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """The mixed-model equations solved at one T: what evaluations, derivatives and results share.

    E: (q, p+1) = M^-1 Lambda'Z'W[X y]. RX: (p, p) lower, RX RX' = X'V^-1X sigma^2. beta: in the
    orthonormal basis of X. v: (q,). logdet_M: log|M|.
    """

    T: list[FloatArray]
    B: FloatArray
    E: FloatArray
    RX: FloatArray
    beta: FloatArray
    v: FloatArray
    r2: float
    logdet_M: float


class Likelihood:
    """-2 log-likelihood (ML) or REML criterion of a model as a function of theta.

    theta: the structures' parameters, one term after another. engine: `"auto"`, `"cholmod"` or `"dense"`
    (the n x n oracle). Calling it with sigma=None profiles sigma out, else sigma is held.
    """

    def __init__(self, spec: ModelSpec, engine: EngineName = "auto", equations: Equations | None = None):
        if engine not in ("auto", "cholmod", "dense"):
            raise EngineError(f"unknown engine '{engine}': known are auto, cholmod, dense")
        self.spec = spec
        self.equations = Equations(spec) if equations is None else equations
        self.engine: Engine = Cholmod(self.equations.pattern)
        self.structures = [t.covariance for t in spec.terms]
        sizes = [s.n_params for s in self.structures]
        self.slices = [slice(a, a + k) for a, k in zip(np.cumsum([0, *sizes]), sizes, strict=False)]
        self.n_params = sum(sizes)
        self.n_solves = 0

    @property
    def names(self) -> tuple[str, ...]:
        """Names of theta."""
        return tuple(n for t in self.spec.terms for n in t.covariance.names(t.effects, t.name))

    @property
    def nu(self) -> dict[bool, int]:
        """Degrees of freedom of sigma^2: n for ML (False), n - p for REML (True)."""
        n, p = self.products.n, len(self.products.fixed.kept)
        return {False: n, True: n - p}

    @property
    def products(self):  # type: ignore[no-untyped-def]
        return self.equations.products

    def __call__(self, theta: FloatArray, *, reml: bool = True, sigma: float | None = None) -> Evaluation:
        """Criterion and estimates at theta (k,)."""
        solution = self.solve(self.factors(theta))
        return self.evaluation(theta, solution, reml, sigma)

    def factors(self, theta: FloatArray) -> list[FloatArray]:
        """T_k in the conditioned bases."""
        theta = np.asarray(theta, dtype=np.float64)
        if theta.shape != (self.n_params,):
            raise ModelError(f"theta has shape {theta.shape}; this model has {self.n_params} parameters: {self.names}")
        pairs = zip(self.products.bases, self.structures, self.slices, strict=True)
        return [np.ascontiguousarray(basis @ s.factor(theta[sl])) for basis, s, sl in pairs]

    def solve(self, T: list[FloatArray]) -> Solution:
        """Factorise and solve the mixed-model equations at T (conditioned bases)."""
        self.n_solves += 1
        p = len(self.products.fixed.kept)
        self.engine.factorize(self.equations.fill(T))
        B = self.equations.right_side(T)
        E = self.engine.solve(B)
        S = self.products.xy - B.T @ E
        RX = np.linalg.cholesky(S[:p, :p])
        half = sla.solve_triangular(RX, S[:p, p], lower=True)
        beta = sla.solve_triangular(RX, half, lower=True, trans="T")
        r2 = float(S[p, p] - half @ half)
        return Solution(T, B, E, RX, beta, E[:, p] - E[:, :p] @ beta, r2, self.engine.logdet())

    def evaluation(self, theta: FloatArray, solution: Solution, reml: bool, sigma: float | None) -> Evaluation:
        """The criterion from a solution (DESIGN section 2)."""
        fixed, nu = self.products.fixed, self.nu[reml]
        logdet = solution.logdet_M - self.products.sum_log_weights
        if reml:
            logdet += 2.0 * float(np.log(np.diag(solution.RX)).sum()) + fixed.logdet
        if not solution.r2 > 0.0:
            raise ModelError("the residual sum of squares is zero: the model fits the response exactly")
        sigma2 = solution.r2 / nu if sigma is None else sigma**2
        deviance = logdet + nu * np.log(2 * np.pi * sigma2) + solution.r2 / sigma2
        beta = fixed.start + sla.solve_triangular(fixed.R, solution.beta)
        b = self._random_effects(theta, solution)
        return Evaluation(theta, float(deviance), float(np.sqrt(sigma2)), solution.r2, beta, b)

    def _random_effects(self, theta: FloatArray, solution: Solution) -> tuple[FloatArray, ...]:
        v = self.equations.split(solution.v)
        pairs = zip(v, self.structures, self.slices, strict=True)
        return tuple(vk[:, :, 0] @ s.factor(theta[sl]).T for vk, s, sl in pairs)

    def derivatives(
        self, theta: FloatArray, solution: Solution, *, reml: bool = True, sigma: float | None = None
    ) -> Derivatives:
        """Score, average information and curvature at theta; `solution` is the last one solved."""
        nu = self.nu[reml]
        sigma2 = solution.r2 / nu if sigma is None else sigma**2
        by_cov, em = self._by_covariance(solution, reml, sigma2)
        parts = [self._structure(k, theta) for k in range(len(self.structures))]
        gradient = np.zeros(self.n_params)
        curvature = np.zeros((self.n_params, self.n_params))
        for (dG, d2G), W, sl in zip(parts, by_cov, self.slices, strict=True):
            gradient[sl] = np.einsum("iab,ab->i", dG, W)
            curvature[sl, sl] = np.einsum("ijab,ab->ij", d2G, W)
        information, cross = self._average_information(solution, [dG for dG, _ in parts], sigma2)
        scale = solution.r2 / sigma2
        if sigma is None:
            information = information - np.outer(cross, cross) / scale
        return Derivatives(
            gradient, information + curvature, information, nu - scale, cross, scale, em, by_cov
        )  # fmt: skip

    def _structure(self, k: int, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
        """dG and d2G of term k in the conditioned basis."""
        basis, structure = self.products.bases[k], self.structures[k]
        part = theta[self.slices[k]]
        return basis @ structure.gradient(part) @ basis.T, basis @ structure.hessian(part) @ basis.T

    def _by_covariance(
        self, solution: Solution, reml: bool, sigma2: float
    ) -> tuple[tuple[FloatArray, ...], tuple[FloatArray, ...]]:
        lifted = [self._lifted(k, T) for k, T in enumerate(solution.T)]
        em_source = None
        if any(a is not b for a, b in zip(lifted, solution.T, strict=True)):
            em_source = solution
            solution = self.solve(lifted)
        sums = self._sums(solution, reml, sigma2)
        by_cov, em = [], []
        for k, (T, S) in enumerate(zip(solution.T, sums, strict=True)):
            m = self.spec.terms[k].n_levels
            inverse = np.linalg.inv(T)
            by_cov.append(inverse.T @ (m * np.eye(len(T)) - S) @ inverse)
            em.append(T @ (S / m) @ T.T)
        if em_source is not None:  # the engine holds the lifted matrix: bring the asked one back
            self.solve(em_source.T)
        return tuple(by_cov), tuple(em)

    def _lifted(self, k: int, T: FloatArray) -> FloatArray:
        """T with its singular values at least LIFT / sqrt(rows a level); the same object where they are."""
        floor = LIFT / np.sqrt(max(1.0, self.products.n / self.spec.terms[k].n_levels))
        U, s, Vt = np.linalg.svd(T)
        return T if s[-1] >= floor else np.ascontiguousarray((U * np.maximum(s, floor)) @ Vt)

    def _sums(self, solution: Solution, reml: bool, sigma2: float) -> list[FloatArray]:
        """S_k + U_k/sigma^2, (r, r) for each term."""
        p = len(solution.beta)
        half = sla.solve_triangular(solution.RX, solution.E[:, :p].T, lower=True).T if reml else solution.E[:, :0]
        low_rank = np.column_stack([half, solution.v / np.sqrt(sigma2)])
        out = []
        for k, part in enumerate(self.equations.split(low_rank)):
            rows, cols = self.equations.within[k]
            lower = self.engine.selected_inverse(rows.ravel(), cols.ravel()).reshape(rows.shape).sum(axis=0)
            r = part.shape[1]
            S = np.zeros((r, r))
            S[np.tril_indices(r)] = lower
            S = S + np.tril(S, -1).T
            out.append(S + np.einsum("mac,mbc->ab", part, part))
        return out

    def _average_information(
        self, solution: Solution, gradients: list[FloatArray], sigma2: float
    ) -> tuple[FloatArray, FloatArray]:
        """AI_ij = f_i'P f_j / sigma^2 and f_i'Py / sigma^2, f_i = Z (I x dG_i) Z'Py (Gilmour et al. 1995)."""
        eq, k = self.equations, self.n_params
        w = self._score_effects(solution)
        C = [np.zeros((*wk.shape[:2], k)) for wk in w]
        for Ck, wk, dG, sl in zip(C, w, gradients, self.slices, strict=True):
            Ck[:, :, sl] = np.einsum("iab,mb->mai", dG, wk[:, :, 0])
        F = eq.gram_times(C)
        flat = lambda parts: np.concatenate([x.reshape(-1, k) for x in parts]) if parts else np.zeros((0, k))  # noqa: E731
        c, f = flat(C), flat(F)
        a = flat([np.einsum("ba,mbi->mai", T, Fk) for T, Fk in zip(solution.T, F, strict=True)])
        p = len(solution.beta)
        g = sum((np.einsum("map,mai->pi", Z[:, :, :p], Ck) for Z, Ck in zip(self.products.Zxy, C, strict=True)),
                start=np.zeros((p, k)))  # fmt: skip
        t = sla.solve_triangular(solution.RX, g - solution.E[:, :p].T @ a, lower=True)
        information = c.T @ f - a.T @ self.engine.solve(a) - t.T @ t
        return information / sigma2, c.T @ flat_one(w) / sigma2

    def _score_effects(self, solution: Solution) -> list[FloatArray]:
        """Z'Py = Z'W(y - X beta - Z Lambda v), (m, r, 1) for each term."""
        eq = self.equations
        b = [np.einsum("ab,mbc->mac", T, v) for T, v in zip(solution.T, eq.split(solution.v), strict=True)]
        p = len(solution.beta)
        right = [Z[:, :, p:] - Z[:, :, :p] @ solution.beta[:, None] for Z in self.products.Zxy]
        return [r - zb for r, zb in zip(right, eq.gram_times(b), strict=True)]


def flat_one(parts: list[FloatArray]) -> FloatArray:
    """(m, r, 1) blocks -> (q,)."""
    return np.concatenate([x.ravel() for x in parts]) if parts else np.zeros(0)
