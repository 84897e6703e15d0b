"""The same criterion from n x n matrices: the oracle, and what users race a sparse fit against.

Nothing numerical is shared with `likelihood`: V is built, factorised and differentiated as in a textbook.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from ._errors import EngineError
from ._typing import FloatArray
from .engines.dense import DenseEvaluation, DenseMarginal, check_memory
from .likelihood import Derivatives, Evaluation
from .parameters import Parameters
from .structures import Precision
from .terms import ModelSpec, RandomTerm, check_residual


class DenseLikelihood:
    """-2 log-likelihood or REML criterion as a function of theta, by the marginal covariance V (n x n)."""

    engine_name = "dense"
    rounding = 0.0

    def __init__(self, spec: ModelSpec):
        for term in spec.terms:
            if term.Q is not None and term.Q.null_dim:
                raise EngineError(
                    f"{term.describe()}: its precision is intrinsic, V has no inverse; use engine='cholmod'"
                )
        spec = spec if spec.S is None else replace(spec, X=np.hstack([spec.X, spec.S.toarray()]), S=None)
        check_memory(spec.n, spec.q + (0 if spec.residual is None else spec.n))
        self.spec, self.parameters = spec, Parameters(spec)
        self.flops = float(spec.n) ** 3
        self.engine_reason = f"V is {spec.n:,} x {spec.n:,}"
        self.kept = _independent_columns(spec)
        y = spec.y if spec.offset is None else spec.y - spec.offset
        check_residual(y - spec.X @ np.linalg.lstsq(spec.X, y, rcond=None)[0], len(self.kept), spec)
        self._marginal = DenseMarginal(y, spec.X[:, self.kept], [_dense(t) for t in spec.terms], spec.weights)
        self.n_evaluations = 0

    @property
    def n_fixed(self) -> int:
        """Coefficients that are estimated."""
        return len(self.kept)

    def __call__(self, theta: FloatArray, *, reml: bool = True, sigma: float | None = None) -> Evaluation:
        """The criterion and the estimates at theta (k,)."""
        theta = self.parameters.check(theta)
        e = self._evaluate(theta, (), reml, sigma)
        b = tuple(x.reshape(t.n_levels, t.n_effects) for x, t in zip(e.b, self.spec.terms, strict=True))
        return Evaluation(theta, e.deviance, e.sigma, e.r2, e.beta, b)

    def derivatives(self, theta: FloatArray, *, reml: bool = True, sigma: float | None = None) -> Derivatives:
        """Score, average information and curvature at theta."""
        theta, k = self.parameters.check(theta), self.parameters.count
        first, second, pairs = [], [], []
        zipped = zip(self.parameters.structures, self.parameters.slices, strict=True)
        for t, (structure, part) in enumerate(zipped):
            across, dacross = self._across(t, theta)
            first += [(t, np.kron(across, G)) for G in structure.gradient(theta[part])]
            T = structure.factor(theta[part])
            first += [(t, np.kron(d, T @ T.T)) for d in dacross]
            for (i, j), G in _upper(structure.hessian(theta[part])):
                second.append((t, np.kron(across, G)))
                pairs.append((part.start + i, part.start + j))
        if self.spec.residual is not None:
            dR = self.spec.residual.covariance_gradient(theta[self.parameters.residual_slice])
            first += [(len(self.spec.terms), self._weigh(d)) for d in dR]
        e = self._evaluate(theta, first, reml, sigma)
        curvature = np.zeros((k, k))
        for (i, j), value in zip(pairs, self._evaluate(theta, second, reml, sigma).gradient, strict=True):
            curvature[i, j] = curvature[j, i] = value
        information = e.ai_profiled if sigma is None else e.ai
        return Derivatives(
            e.gradient, information + curvature, information, e.gradient_logsigma2, e.ai_sigma, e.r2 / e.sigma**2
        )  # fmt: skip

    def vcov(self, theta: FloatArray, sigma: float) -> FloatArray:
        """sigma^2 (X'V^-1X)^-1, (p, p)."""
        return self._evaluate(self.parameters.check(theta), (), True, sigma).vcov_beta

    def fixed_variances(self, theta: FloatArray, sigma: float) -> FloatArray:
        """Diagonal of `vcov`, (p,)."""
        return np.diag(self.vcov(theta, sigma))

    def random_vcov(self, theta: FloatArray, sigma: float, *, prediction: bool) -> tuple[FloatArray, ...]:
        """Covariance of each level's effects, (m, r, r): conditional on beta as in lme4, or of b_hat - b."""
        marginal = self._marginal if prediction else self._without_fixed()
        theta = self.parameters.check(theta)
        e = marginal.evaluate(self._psi(theta), (), reml=False, sigma=sigma, R=self._noise(theta))
        out = []
        for term, cov in zip(self.spec.terms, e.b_cov, strict=True):
            m, r = term.n_levels, term.n_effects
            out.append(np.einsum("lalb->lab", cov.reshape(m, r, m, r)))
        return tuple(out)

    def beside_fixed(self, V: FloatArray) -> FloatArray:
        """V (n, c) less its projection on the columns of X that are kept, weighted."""
        root = np.ones((self.spec.n, 1)) if self.spec.weights is None else np.sqrt(self.spec.weights)[:, None]
        Q = np.linalg.qr(root * self.spec.X[:, self.kept])[0]
        return V - Q @ (Q.T @ (root * V)) / root

    def scaling(self) -> FloatArray:
        """Matrix S (k, k), x = S theta: coordinates of order one for an optimiser."""
        out = np.eye(self.parameters.count)
        for structure, basis, part in zip(self.parameters.structures, self.bases, self.parameters.slices, strict=True):
            out[part, part] = structure.scaling(basis)
        return out

    @property
    def bases(self) -> list[FloatArray]:
        """What turns T of each term into that of effects of unit size."""
        out = []
        for term in self.spec.terms:
            squares = (_dense(term) ** 2).reshape(term.n_rows, term.n_levels, term.n_effects).sum(axis=1)
            weighted = squares if self.spec.weights is None else squares * self.spec.weights[:, None]
            out.append(np.diag(np.sqrt(weighted.mean(axis=0))))
        return out

    def _psi(self, theta: FloatArray) -> list[FloatArray]:
        factors = [s.factor(p) for s, p in zip(self.parameters.structures, self.parameters.parts(theta), strict=True)]
        return [np.kron(self._across(t, theta)[0], T @ T.T) for t, T in enumerate(factors)]

    def _across(self, t: int, theta: FloatArray) -> tuple[FloatArray, list[FloatArray]]:
        """Q^-1 (m, m) of term t and its derivatives -Q^-1 dQ Q^-1; the identity where levels are independent."""
        Q, m = self.spec.terms[t].Q, self.spec.terms[t].n_levels
        if Q is None:
            return np.eye(m), []
        rho = theta[self.parameters.rho_slices[t]]
        cov = np.linalg.inv(_symmetric(Q, Q.values(rho)))
        cov = 0.5 * (cov + cov.T)
        changes = [-cov @ _symmetric(Q, dQ) @ cov for dQ in Q.gradient(rho)]
        return cov, [0.5 * (D + D.T) for D in changes]

    def _evaluate(self, theta: FloatArray, dpsi: Any, reml: bool, sigma: float | None) -> DenseEvaluation:
        self.n_evaluations += 1
        return self._marginal.evaluate(self._psi(theta), dpsi, reml=reml, sigma=sigma, R=self._noise(theta))

    def _noise(self, theta: FloatArray) -> FloatArray | None:
        """R with the prior weights, (n, n); None where it has no parameters."""
        residual = self.spec.residual
        return None if residual is None else self._weigh(residual.covariance(theta[self.parameters.residual_slice]))

    def _weigh(self, R: FloatArray) -> FloatArray:
        """R_ij / sqrt(w_i w_j)."""
        root = np.ones(self.spec.n) if self.spec.weights is None else np.sqrt(self.spec.weights)
        return R / np.outer(root, root)

    def _without_fixed(self) -> DenseMarginal:
        """The same with beta known: P becomes V^-1."""
        none = np.zeros((self.spec.n, 0))
        return DenseMarginal(self.spec.y, none, [_dense(t) for t in self.spec.terms], self.spec.weights)


def _dense(term: RandomTerm) -> FloatArray:
    """Z as a dense n x (m r) array."""
    if sp.issparse(term.Z):
        return np.asarray(term.Z.toarray())
    n, r = term.n_rows, term.n_effects
    Z = np.zeros((n, term.n_levels, r))
    Z[np.arange(n), term.Z] = 1.0 if term.columns is None else term.columns
    return Z.reshape(n, -1)


def _symmetric(Q: Precision, values: FloatArray) -> FloatArray:
    """Dense m x m matrix from values on the lower triangle's pattern."""
    rows, cols = Q.pattern()
    out = np.zeros((Q.n_levels, Q.n_levels))
    out[rows, cols] = values
    out[cols, rows] = values
    return out


def _upper(hessian: FloatArray) -> list[tuple[tuple[int, int], FloatArray]]:
    k = len(hessian)
    return [((i, j), hessian[i, j]) for i in range(k) for j in range(i, k) if hessian[i, j].any()]


def _independent_columns(spec: ModelSpec) -> Any:
    """Columns of X outside the span of the earlier ones, by plain least squares on each in turn."""
    weights = np.ones(spec.n) if spec.weights is None else spec.weights
    X = spec.X * np.sqrt(weights)[:, None]
    kept: list[int] = []
    for j in range(X.shape[1]):
        column = X[:, j] / max(np.linalg.norm(X[:, j]), np.finfo(float).tiny)
        rest = column
        if kept:
            Q = np.linalg.qr(X[:, kept] / np.linalg.norm(X[:, kept], axis=0))[0]
            rest = column - Q @ (Q.T @ column)
        if np.linalg.norm(rest) > 1e-7:
            kept.append(j)
    return np.array(kept, dtype=np.int64)
