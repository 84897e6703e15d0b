"""The criterion, its score and average information at given parameters (docs/explanation/criterion.md).

`Likelihood(spec)(theta)` is an `Evaluation`; nothing is fitted. With H = (C^-1)_vv for REML and M^-1 for ML,

    W_k = d(-2l)/dG_k = T_k^-T (m_k I - S_k - U_k/sigma^2) T_k^-1,   S_k = sum of diagonal blocks of H, U_k of v v'

holds for any structure; the rest follows by the chain rule through G_k(theta). An edge (a variance of zero)
needs no special case beyond a lift of T by 1e-4 where W_k is formed (`_lifted`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from ._errors import EngineError, ModelError
from ._typing import FloatArray, IntArray
from .coefficients import Coefficients, EffectErrors, Inverse
from .engines import Engine, make_engine, sparse_pattern
from .engines.threads import by_pieces, row_pieces
from .equations import CrossProducts, Equations, destinations
from .kernels.blocks import half_moment
from .kernels.triangular import solve_lower
from .marginal import Marginal
from .parameters import Parameters
from .residual_score import SolvedEquations, residual_score, residual_variates
from .structures.base import semidefinite_cholesky
from .structures.intrinsic import Scaled
from .terms import ModelSpec

LARGEST_VCOV = 20_000  # coefficients: their covariance matrix is dense
ILL_CONDITIONED = 1e-7  # of a row's part in the deviance: 5e-9 in 120 rows of rw2, 1e-2 in 20,000 with close knots
REGULAR = 1e-4  # smallest singular value of T over the largest
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


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """The mixed-model equations solved at one T (conditioned bases).

    products: those of R at theta, W = R^-1. E: (q, p+1) = M^-1 Lambda'Z'W[X y]. RX: (p, p) lower with
    RX RX' = X'V^-1X sigma^2. beta: of the orthonormal basis of X. v: (q,).
    """

    theta: FloatArray
    products: CrossProducts
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
        self.engine: Engine = make_engine(
            engine, self.equations.pattern, tuple((t.n_levels, t.n_effects) for t in self.equations.terms)
        )  # fmt: skip
        self.engine_name, self.engine_reason, self.flops = self.engine.name, self.engine.reason, self.engine.flops
        self.n_evaluations = 0
        self._delicate = any(isinstance(Q, Scaled) for Q in self.parameters.precisions)
        self._precision_engines: dict[int, tuple[Engine, IntArray]] = {}
        self.coefficients = Coefficients(self.equations)
        self._marginal: Marginal | None = None if spec.S is None else Marginal(self.equations, engine)
        self._solved: Solution | None = None
        self._derived: tuple[tuple[bytes, bool, float | None], Derivatives] | None = None
        self._held: list[FloatArray] | None = None
        self._inverse: tuple[list[FloatArray], bool, FloatArray] | None = None  # T, ML without S, M^-1 on the pattern

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_held": None, "_solved": None, "_inverse": None}

    @property
    def kept(self) -> Any:
        """Columns of X (and behind them of S) that are in the model."""
        return self.products.fixed.kept

    @property
    def rounding(self) -> float:
        """Of the deviance where some Q is ill-conditioned: the score stays good where the value has lost digits."""
        return ILL_CONDITIONED * self.products.n if self._delicate else 0.0

    @property
    def n_fixed(self) -> int:
        """Estimated directions without a prior: coefficients, and what they leave of null spaces."""
        return self.products.fixed.n_columns

    def degrees(self, reml: bool) -> int:
        """nu, the divisor of sigma^2: n for ML, n - p for REML, less the dimension of null spaces for both."""
        fixed = self.products.fixed
        return self.products.n - (fixed.n_columns if reml else fixed.n_null)

    def __call__(self, theta: FloatArray, *, reml: bool = True, sigma: float | None = None) -> Evaluation:
        """The criterion and the estimates at theta (k,)."""
        solution, fixed, nu = self.solution(theta), self.products.fixed, self.degrees(reml)
        if not solution.r2 > 0.0:
            raise ModelError("the residual sum of squares is zero: the model fits the response exactly")
        logdet = self._logdet_M(solution, reml) - self._logdet_Q(solution.theta) - self.products.sum_log_weights
        if self.spec.residual is not None:
            logdet += self.spec.residual.logdet(self._residual_part(solution.theta))
        if reml:
            logdet += 2.0 * float(np.log(np.diag(solution.RX)).sum()) + fixed.logdet + fixed.logdet_share
        sigma2 = solution.r2 / nu if sigma is None else sigma**2
        deviance = logdet + nu * np.log(2 * np.pi * sigma2) + solution.r2 / sigma2
        beta, b = self.coefficients.estimates(solution.beta, solution.v, self._own_factors(solution.theta))
        return Evaluation(solution.theta, float(deviance), float(np.sqrt(sigma2)), solution.r2, beta, b)

    def _logdet_M(self, solution: Solution, reml: bool) -> float:
        """log|M|; under ML without the user's sparse fixed effects."""
        fixed = self.products.fixed
        if reml or self._marginal is None:
            return solution.logdet_M + fixed.logdet_diffuse()
        return self._marginal_engine(solution).logdet() + fixed.logdet_diffuse(fixed.n_null)

    def _marginal_engine(self, solution: Solution) -> Engine:
        """The engine holding M without the user's sparse fixed effects."""
        assert self._marginal is not None
        return self._marginal.at(self._values(solution.theta, solution.products, solution.T))

    def solution(self, theta: FloatArray) -> Solution:
        """The equations solved at theta; the last one is kept."""
        theta = self.parameters.check(theta)
        if self._solved is None or not np.array_equal(theta, self._solved.theta):
            self._solved = self._solve(theta, self._products_at(theta), self.factors(theta))
        return self._solved

    def _products_at(self, theta: FloatArray) -> CrossProducts:
        residual = self.spec.residual
        return self.products if residual is None else self.products.at(*residual.values(self._residual_part(theta)))

    def _residual_part(self, theta: FloatArray) -> FloatArray:
        return theta[self.parameters.residual_slice]

    def factors(self, theta: FloatArray) -> list[FloatArray]:
        """T_k in the conditioned bases."""
        own = self._own_factors(theta)
        own += [np.eye(1) for _ in self.products.bases[len(own) :]]  # sparse fixed effects as they are
        return [np.ascontiguousarray(basis @ T) for basis, T in zip(self.products.bases, own, strict=True)]

    def precisions(self, theta: FloatArray) -> list[FloatArray]:
        """Values of each Q on its pattern: ones where levels are independent, zeros for effects without a prior."""
        parts = [theta[part] for part in self.parameters.rho_slices]
        sizes = [t.n_levels for t in self.spec.terms]
        triples = zip(self.parameters.precisions, parts, sizes, strict=True)
        own = [np.ones(m) if Q is None else Q.values(rho) for Q, rho, m in triples]
        return own + [np.zeros(t.n_levels) for t in self.equations.terms[len(own) :]]

    def _logdet_Q(self, theta: FloatArray) -> float:
        """log|Q~| = sum of r_k log|Q_k|."""
        triples = zip(self.spec.terms, self.parameters.precisions, self.parameters.rho_slices, strict=True)
        return sum(t.n_effects * Q.logdet(theta[part]) for t, Q, part in triples if Q is not None)

    def _solve(self, theta: FloatArray, products: CrossProducts, T: list[FloatArray]) -> Solution:
        p = self.products.fixed.p
        self._factorize(theta, products, T)
        B = self.equations.right_side(products, T)
        E = self.engine.solve(B)
        S = products.xy - B.T @ E
        try:
            RX = np.linalg.cholesky(S[:p, :p])
        except np.linalg.LinAlgError as error:
            raise EngineError("X'V^-1X is not positive definite at these parameters") from error
        half = solve_lower(RX, S[:p, p])
        beta = solve_lower(RX, half, transposed=True)
        r2 = float(S[p, p] - half @ half)
        return Solution(theta, products, T, E, RX, beta, E[:, p] - E[:, :p] @ beta, r2, self.engine.logdet())

    def _factorize(self, theta: FloatArray, products: CrossProducts, T: list[FloatArray]) -> None:
        """M at T and the products and precisions of theta, unless the engine holds just that."""
        if T is not self._held:
            self._held = None
            self.engine.factorize(self._values(theta, products, T))
            self._held = T
            self.n_evaluations += 1

    def _values(self, theta: FloatArray, products: CrossProducts, T: list[FloatArray]) -> FloatArray:
        """Values of M."""
        return self.equations.fill(products, T, self.precisions(theta))

    def _own_factors(self, theta: FloatArray) -> list[FloatArray]:
        """T_k in the effects' own units, with b = T v for levels v of variance one."""
        parameters = self.parameters
        triples = zip(parameters.structures, parameters.parts(theta), parameters.scales, strict=True)
        return [scale * s.factor(part) for s, part, scale in triples]

    def derivatives(self, theta: FloatArray, *, reml: bool = True, sigma: float | None = None) -> Derivatives:
        """Score, average information and curvature at theta; the last ones are kept."""
        key = (self.parameters.check(theta).tobytes(), reml, sigma)
        if self._derived is None or self._derived[0] != key:
            self._derived = key, self._derivatives(theta, reml, sigma)
        return self._derived[1]

    def _derivatives(self, theta: FloatArray, reml: bool, sigma: float | None) -> Derivatives:
        solution, nu = self.solution(theta), self.degrees(reml)
        sigma2 = solution.r2 / nu if sigma is None else sigma**2
        parameters = self.parameters
        near = self._off_edge(solution)
        selected = self._selected(near, reml)
        spread = self._second_moments(near, reml, sigma2, selected)
        gradient, curvature = np.zeros(parameters.count), np.zeros((parameters.count, parameters.count))
        gradients, em = [], []
        for k, part in enumerate(parameters.slices):
            m, T = self.spec.terms[k].n_levels, near.T[k]
            S, rest = self._moments(k, near, spread, selected)
            inverse = np.linalg.inv(T)
            W = inverse.T @ rest @ inverse
            dG, d2G = self._structure(k, solution.theta)
            gradient[part] = np.einsum("iab,ab->i", dG, W)
            curvature[part, part] = np.einsum("ijab,ab->ij", d2G, W)
            gradients.append(dG)
            em.append(T @ semidefinite_cholesky(S / m))
            if solution.T[k].any():  # else V does not depend on rho
                self._precision_score(k, solution.theta, spread, gradient)
        if parameters.residual is not None:
            rho, at = self._residual_part(solution.theta), SolvedEquations(near.T, near.E, near.RX, near.beta)
            inverse = selected(*self.equations.places())
            gradient[parameters.residual_slice] = residual_score(self.equations, rho, at, inverse, reml, sigma2)
        information, cross = self._average_information(solution, gradients, sigma2)
        scale = solution.r2 / sigma2
        if sigma is None:
            information = information - np.outer(cross, cross) / scale
        return Derivatives(gradient, information + curvature, information, nu - scale, cross, scale, tuple(em))

    def _moments(
        self, k: int, near: Solution, spread: "SecondMoments", selected: "Selected"
    ) -> tuple[FloatArray, FloatArray]:
        """S_k + U_k/sigma^2, and m I less it: by `Equations.informed` where Q may be ill-conditioned."""
        whole = self.spec.terms[k].n_levels * np.eye(len(near.T[k]))
        values = self.precisions(near.theta)[k]
        if not isinstance(self.parameters.precisions[k], Scaled):
            S = spread(k, values)
            return S, whole - S
        inverse = selected(*self.equations.places())
        informed = self.equations.informed(k, near.products, near.T, inverse)
        low_rank = spread(k, values, inverse=False)
        return whole - informed + low_rank, informed - low_rank

    def _precision_score(self, k: int, theta: FloatArray, spread: "SecondMoments", gradient: FloatArray) -> None:
        """d(-2l)/drho = tr(H dQ~) + v'dQ~ v/sigma^2 - r dlog|Q|, into gradient (docs/explanation/criterion.md)."""
        Q, part = self.parameters.precisions[k], self.parameters.rho_slices[k]
        if Q is None or part.stop == part.start:
            return
        rho = theta[part]
        traces = [np.trace(spread(k, dQ)) for dQ in Q.gradient(rho)]
        gradient[part] = np.array(traces) - self.spec.terms[k].n_effects * Q.logdet_gradient(rho)

    def _structure(self, k: int, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
        """dG and d2G of term k in the conditioned basis."""
        basis, structure = self.bases[k], self.parameters.structures[k]
        part = theta[self.parameters.slices[k]]
        return basis @ structure.gradient(part) @ basis.T, basis @ structure.hessian(part) @ basis.T

    @property
    def bases(self) -> list[FloatArray]:
        """What turns T of each term into that of levels of variance one and effects of unit size."""
        return [scale * basis for basis, scale in zip(self.products.bases, self.parameters.scales, strict=False)]

    def _off_edge(self, solution: Solution) -> Solution:
        """The same solution, or one with T lifted off the edge, where W can be formed."""
        random = len(self.spec.terms)
        lifted = [*(self._lifted(k, T) for k, T in enumerate(solution.T[:random])), *solution.T[random:]]
        at_edge = any(a is not b for a, b in zip(lifted, solution.T, strict=True))
        return self._solve(solution.theta, solution.products, lifted) if at_edge else solution

    def _lifted(self, k: int, T: FloatArray) -> FloatArray:
        """T with its singular values at least LIFT / sqrt(rows a level); the same object where they are."""
        floor = LIFT / np.sqrt(max(1.0, self.products.n / self.spec.terms[k].n_levels))
        U, s, Vt = np.linalg.svd(T)
        return T if s[-1] >= floor else np.ascontiguousarray((U * np.maximum(s, floor)) @ Vt)

    def _second_moments(self, solution: Solution, reml: bool, sigma2: float, selected: "Selected") -> "SecondMoments":
        """(k, values of some K on Q_k's pattern) -> sum_lm K_lm (H_ml + v_m v_l'/sigma^2), (r, r)."""
        v = solution.v[:, None] / np.sqrt(sigma2)
        low_rank = self.equations.split(np.hstack([self._fixed_part(solution), v]) if reml else v)
        blocks, pairs = self.equations.level_blocks(selected), self.equations.pairs

        def spread(k: int, values: FloatArray, inverse: bool = True) -> FloatArray:
            first, second = pairs[k]
            inner = blocks[k] if inverse else blocks[k][:0]
            halves = by_pieces(half_moment, row_pieces(len(first)), first, second, values, inner, low_rank[k])
            half = np.sum(halves, axis=0)
            return half + half.T

        return spread

    def _fixed_part(self, solution: Solution) -> FloatArray:
        """N (q, p) with (C^-1)_vv = M^-1 + N N'."""
        return solution.E[:, :-1] @ solve_lower(solution.RX, np.eye(len(solution.RX))).T

    def _selected(self, solution: Solution, reml: bool) -> "Selected":
        """(rows, cols) on the pattern -> entries of M^-1: all of them at once where they are asked for again.

        Under ML the user's sparse fixed effects are taken as known: M without them, and zeros at their place.
        """
        without = self._marginal is not None and not reml
        if not (self._delicate or self.parameters.residual is not None or self._marginal is not None):
            return self._whole_selected(solution)
        kept = self._inverse
        if kept is None or kept[0] is not solution.T or kept[1] != without:
            selected = self._marginal_selected(solution) if without else self._whole_selected(solution)
            self._inverse = kept = solution.T, without, selected(*self.equations.places())
        return self.equations.find(kept[2])

    def _whole_selected(self, solution: Solution) -> "Selected":
        self._factorize(solution.theta, solution.products, solution.T)
        return self.engine.selected_inverse

    def _marginal_selected(self, solution: Solution) -> "Selected":
        assert self._marginal is not None
        self._marginal_engine(solution)
        return self._marginal.selected_inverse

    def _average_information(
        self, solution: Solution, gradients: list[FloatArray], sigma2: float
    ) -> tuple[FloatArray, FloatArray]:
        """AI_ij = f_i'P f_j/sigma^2 and f_i'Py/sigma^2, f_i = dV_i Py = Z c_i (Gilmour, Thompson & Cullis 1995)."""
        p, w = len(solution.beta), self._score_effects(solution)
        C = [self._working_effects(k, solution, w[k][:, :, 0], dG) for k, dG in enumerate(gradients)]
        C += [np.zeros((*x.shape[:2], self.parameters.count)) for x in w[len(C) :]]
        F = self.equations.gram_times(solution.products, C)
        c, count = self._stack(C, self.parameters.count), self.parameters.count
        g = (self._stack(solution.products.Zxy, p + 1).T @ c)[:p]
        gram, cross = c.T @ self._stack(F, count), (c.T @ self._stack(w, 1))[:, 0]
        if self.parameters.residual is not None:
            self._add_residual_variates(solution, c, F, g, gram, cross)
        a = self.equations.scaled(solution.T, F, count)
        t = solve_lower(solution.RX, g - solution.E[:, :p].T @ a)
        self._factorize(solution.theta, solution.products, solution.T)
        return (gram - a.T @ self.engine.solve(a) - t.T @ t) / sigma2, cross / sigma2

    def _add_residual_variates(
        self, solution: Solution, c: FloatArray, F: list[FloatArray], g: FloatArray, gram: FloatArray, cross: FloatArray
    ) -> None:
        """f_i of R's parameters beside those of T and Q: Z'R^-1 f into F, X'R^-1 f into g, f'R^-1 f, f'Py."""
        part, count = self.parameters.residual_slice, self.parameters.count
        b = [T @ v for T, v in zip(solution.T, self.equations.split(solution.v), strict=True)]
        rho, coefficients = self._residual_part(solution.theta), np.append(-solution.beta, 1.0)
        variates = residual_variates(self.products, rho, coefficients, [x[:, :, 0] for x in b])
        for Fk, Zh in zip(F, variates.Zh, strict=True):
            Fk[:, :, part] = Zh
        g[:, part], cross[part] = variates.Xh, variates.score
        gram[:, part] = c.T @ self._stack(F, count)[:, part]
        gram[part] = gram[:, part].T
        gram[part, part] = variates.gram

    def _working_effects(self, k: int, solution: Solution, w: FloatArray, dG: FloatArray) -> FloatArray:
        """c_i of term k's parameters, (m, r, count): (I x dG_i) Q^-1 w for T, -(I x T) Q^-1 dQ_i v for rho."""
        Q, parameters, theta = self.parameters.precisions[k], self.parameters, solution.theta
        v = self.equations.split(solution.v)[k][:, :, 0]
        C = np.zeros((*w.shape, parameters.count))
        if Q is None:
            C[:, :, parameters.slices[k]] = (w @ dG.T.reshape(len(dG.T), -1)).reshape(*w.shape, len(dG))
            return C
        rho, T, (first, second) = theta[parameters.rho_slices[k]], solution.T[k], self.equations.pairs[k]
        changes = [sparse_symmetric(first, second, dQ, Q.n_levels) @ v for dQ in Q.gradient(rho)]
        size = np.linalg.svd(T, compute_uv=False)
        regular = size[-1] > REGULAR * size[0]  # then Q^-1 w = v T^-1, without a solve
        wanted = changes if regular else [w, *changes]
        parts = np.split(self._solve_precision(k, rho, np.hstack(wanted)), len(wanted), axis=1) if wanted else []
        inverse_w = v @ np.linalg.inv(T) if regular else parts.pop(0)
        C[:, :, parameters.slices[k]] = np.einsum("iab,mb->mai", dG, inverse_w)
        for i, part in enumerate(parts):
            C[:, :, parameters.rho_slices[k].start + i] = -part @ T.T
        return C

    def _solve_precision(self, k: int, rho: FloatArray, right: FloatArray) -> FloatArray:
        """Q_k^-1 right, (m, c), by its own sparse Cholesky; its pattern is analysed once."""
        Q = self.parameters.precisions[k]
        assert Q is not None
        if k not in self._precision_engines:
            rows, cols = Q.pattern()
            pattern = sparse_pattern(rows, cols, Q.n_levels)
            self._precision_engines[k] = make_engine("auto", pattern), destinations(pattern, rows, cols)
        engine, place = self._precision_engines[k]
        values = np.empty(len(place))
        values[place] = Q.values(rho)
        engine.factorize(values)
        return engine.solve(right)

    def _stack(self, parts: Sequence[FloatArray], columns: int) -> FloatArray:
        """(m, r, c) of each term -> (q, c)."""
        flat = [x.reshape(x.shape[0] * x.shape[1], x.shape[2]) for x in parts]
        return flat[0] if len(flat) == 1 else np.concatenate([np.zeros((0, columns)), *flat])

    def _score_effects(self, solution: Solution) -> list[FloatArray]:
        """Z'Py = Z'W(y - X beta - Z Lambda v), (m, r, 1) for each term."""
        b = [(v[:, :, 0] @ T.T)[:, :, None] for T, v in zip(solution.T, self.equations.split(solution.v), strict=True)]
        rest = np.append(-solution.beta, 1.0)
        right = [(x.reshape(-1, len(rest)) @ rest).reshape(*x.shape[:2], 1) for x in solution.products.Zxy]
        return [r - zb for r, zb in zip(right, self.equations.gram_times(solution.products, b), strict=True)]

    def vcov(self, theta: FloatArray, sigma: float) -> FloatArray:
        """Covariance of the kept coefficients, sigma^2 (X'V^-1X)^-1, (p, p); ModelError where p is very large."""
        solution, p = self.solution(theta), len(self.kept)
        if p > LARGEST_VCOV:
            raise ModelError(f"vcov of {p:,} coefficients has {p**2:,} entries; fixef_se has the standard errors")
        K = self.coefficients.functionals(np.eye(p), (), self._own_factors(solution.theta))
        return np.asarray(sigma**2 * self.inverse(theta).covariance(*K))

    def inverse(self, theta: FloatArray) -> Inverse:
        """C^-1 at theta: over sigma^2 the covariance of v_hat - v and beta_hat, until another theta is asked for."""
        solution = self.solution(theta)
        self._factorize(solution.theta, solution.products, solution.T)
        return Inverse(self.engine.solve, solution.E[:, : len(solution.beta)], solution.RX)

    def fixed_variances(self, theta: FloatArray, sigma: float) -> FloatArray:
        """Diagonal of `vcov`, (p,), without the rest of it."""
        solution, fixed = self.solution(theta), self.products.fixed
        if fixed.diffuse is None:  # R^-1 (RX RX')^-1 R^-T, without a column for every random effect
            half = solve_lower(solution.RX, solve_lower(fixed.R.T, np.eye(fixed.p)))
            return np.asarray(sigma**2 * (half**2).sum(axis=0))
        sparse, dense = fixed.n_sparse, len(self.kept) - fixed.n_sparse
        K = self.coefficients.functionals(np.eye(dense, len(self.kept)), (), self._own_factors(solution.theta))
        out = self.inverse(theta).variances(*K)
        if sparse:
            out = np.append(out, self._sparse_variances(solution, sparse))
        return np.asarray(sigma**2 * out)

    def _sparse_variances(self, solution: Solution, count: int) -> FloatArray:
        """Variances over sigma^2 of the user's sparse coefficients, from the selected inverse."""
        diffuse = self.products.fixed.diffuse
        assert diffuse is not None
        places = np.arange(self.equations.q - count, self.equations.q)
        squares = (self._fixed_part(solution)[places] ** 2).sum(axis=1)
        diagonal = self._selected(solution, True)(places, places) + squares
        return np.asarray(diagonal / diffuse.size[diffuse.n_null :] ** 2)

    def random_vcov(self, theta: FloatArray, sigma: float, *, prediction: bool) -> tuple[FloatArray, ...]:
        """Covariance of each level's effects, (m, r, r): given beta, as in lme4, or of b_hat - b (Henderson)."""
        solution, own = self.solution(theta), self._own_factors(theta)
        selected = self._selected(solution, prediction)
        low_rank = self._fixed_part(solution)[:, : None if prediction else 0]
        solve = self.engine.solve if prediction or self._marginal is None else self._marginal.solve
        entries = self.equations.find(selected(*self.equations.places()))
        at = EffectErrors(entries, solve, low_rank, not prediction)
        terms = range(len(self.spec.terms))
        return tuple(sigma**2 * self.coefficients.effect_covariances(k, own, at) for k in terms)

    def scaling(self) -> FloatArray:
        """Matrix S (k, k), x = S theta: coordinates of order one for an optimiser."""
        out = np.eye(self.parameters.count)
        for s, basis, part in zip(self.parameters.structures, self.bases, self.parameters.slices, strict=True):
            out[part, part] = s.scaling(basis)
        return out


SecondMoments = Callable[..., FloatArray]
Selected = Callable[[IntArray, IntArray], FloatArray]


def sparse_symmetric(rows: IntArray, cols: IntArray, values: FloatArray, m: int) -> sp.csr_array:
    """The symmetric m x m matrix whose lower triangle is given."""
    off = rows != cols
    entries = np.append(values, values[off]), (np.append(rows, cols[off]), np.append(cols, rows[off]))
    return sp.csr_array(entries, shape=(m, m))
