"""One variance ratio: the kernel with X projected out is decomposed once, a response then costs O(q) a value.

With X orthonormal, A an orthonormal basis of its complement and A'KA = E diag(lam) E', K = Z Q^-1 Z', phi = theta^2,

    r^2(phi) = rest + sum s^2/(1 + phi lam),                s = E'A'y
    beta     = X'y - phi sum t s/(1 + phi lam),             t = X'K A e
    V_beta   = I + phi (null + sum (t^2/lam)/(1 + phi lam))

the last by inverting [X A]'V[X A] blockwise, so that no sum cancels. `null` is what of X'KX the eigenvectors do not
see. Degrees of freedom are Satterthwaite's from the exact Hessian of the criterion by (phi, log sigma^2).
"""

from dataclasses import dataclass

import numpy as np
import scipy.linalg as sla
import scipy.sparse as sp
import scipy.sparse.linalg  # noqa: F401 - sp.linalg

from .._errors import ModelError
from .._typing import BoolArray, FloatArray, IntArray
from ..kernels.spectral import EDGE, RUNAWAY, ratio_estimates, variance_ratios
from ..structures import Precision
from .design import Block, Design, by_tiles, precision_matrix, term_matrix
from .estimates import NOT_CONVERGED, Estimates, empty
from .estimates import RUNAWAY as RUNAWAY_REASON
from .pool import over_responses

DECOMPOSED = 1000  # levels (or rows, if there are fewer) of a kernel: 1 s; one of 3,000 took 30 s
RANK = 1e-10  # eigenvalues below this part of the largest are none: rounding of the projection leaves 1e-15
PRIOR_START = 1e-9  # of t, where a prior on log phi makes phi = 0 impossible
NEAR = (0.0, 0.01, 0.03, 0.07, 0.13, 0.2, 0.3, 0.42, 0.56, 0.75)  # grid of t = log(1 + phi scale), ICC up to a half
FAR = np.linspace(1.0, 23.0, 30)  # to a ratio of 1e10 times the kernel's size
CERTIFICATE = 1e-5  # scaled gradient, in standard errors: as `optimize.Options`
NO_PRIOR = np.zeros(2)


@dataclass(frozen=True, slots=True, eq=False)
class Spectrum:
    """The decomposed kernel. lam: (r,). d: eigenvalues of K itself, for ML. scores = (lift W^1/2 residual)' rotation.

    t: (p, r). gram: (p, p) = X'KX. lift: (q, n), None for the identity.
    """

    lam: FloatArray
    d: FloatArray
    lift: sp.csr_array | FloatArray | None
    rotation: FloatArray
    t: FloatArray
    gram: FloatArray


def is_one_ratio(design: Design) -> bool:
    """Whether the model has a single scalar variance, over independent levels or a known precision."""
    if len(design.spec.terms) != 1 or design.spec.residual is not None:
        return False
    term = design.spec.terms[0]
    known = term.Q is None or (term.Q.n_params == 0 and term.Q.null_dim == 0)
    return term.n_effects == 1 and term.covariance.n_params == 1 and known


def is_decomposable(design: Design) -> bool:
    """Whether there is one ratio, and its kernel small enough."""
    return is_one_ratio(design) and min(design.spec.q, design.n) <= DECOMPOSED


def spectrum(design: Design) -> Spectrum:
    """Decompose the projected kernel of a model with one ratio: q x q, or n x n where n is smaller.

    Errors: ModelError where the fixed effects leave nothing of the term.
    """
    term, root = design.spec.terms[0], np.sqrt(design.weights)
    Z = sp.csr_array(sp.diags_array(root) @ term_matrix(term))
    X = design.basis * root[:, None]
    found = (_by_levels if term.n_random <= design.n else _by_rows)(Z, X, term.Q)
    if not len(found.lam):
        raise ModelError(f"{term.describe()}: the fixed effects explain the whole term; drop it")
    return found


def _by_levels(Z: sp.csr_array, X: FloatArray, Q: Precision | None) -> Spectrum:
    """From Q^-1/2 Z'MZ Q^-1/2, q x q."""
    if Q is None:
        lift: sp.csr_array | FloatArray = sp.csr_array(Z.T)
        gram = (lift @ Z).toarray()
    else:
        root = sla.cholesky(precision_matrix(Q).toarray(), lower=True)
        lift = sla.solve_triangular(root, Z.T.toarray(), lower=True)
        gram = lift @ lift.T
    XZ = (lift @ X).T
    d = _eigenvalues(gram)
    lam, U = _positive(gram - XZ.T @ XZ, len(X) - XZ.shape[0], d[-1])
    size = np.sqrt(lam)
    return Spectrum(lam, d, lift, np.ascontiguousarray(U / size), XZ @ U * size, XZ @ XZ.T)


def _by_rows(Z: sp.csr_array, X: FloatArray, Q: Precision | None) -> Spectrum:
    """From M Z Q^-1 Z' M, n x n."""
    right = Z.T.toarray()
    K = Z @ (right if Q is None else sp.linalg.splu(precision_matrix(Q)).solve(right))
    KX = K @ X
    gram = X.T @ KX
    projected = K - X @ KX.T - KX @ X.T + X @ gram @ X.T
    d = _eigenvalues(K)
    lam, E = _positive(0.5 * (projected + projected.T), len(K) - X.shape[1], d[-1])
    return Spectrum(lam, d, None, np.ascontiguousarray(E), KX.T @ E, gram)


def _positive(A: FloatArray, rank: int, size: float) -> tuple[FloatArray, FloatArray]:
    """Eigenvalues above rounding of a matrix of this size before projection, at most `rank` of them, and vectors."""
    lam, U = np.linalg.eigh(A)
    keep = lam > RANK * size
    keep[: max(len(lam) - rank, 0)] = False
    return lam[keep], U[:, keep]


def _eigenvalues(A: FloatArray) -> FloatArray:
    return np.maximum(np.linalg.eigvalsh(A), 0.0)


class Spectral:
    """Fits responses of a model with one ratio. prior: mean and half the precision of log phi, or none.

    ddf: whether degrees of freedom are wanted.
    """

    def __init__(self, design: Design, reml: bool, ddf: bool = True, prior: FloatArray = NO_PRIOR):
        self.design, self.reml, self.ddf, self.prior = design, reml, ddf, prior
        self.spectrum = found = spectrum(design)
        self.d = found.lam if reml else found.d
        self.nu = float(design.degrees(reml))
        self.scale = float(found.lam.mean())
        self.full = len(found.lam) == design.n - design.p
        self.cross = np.ascontiguousarray(design.loadings @ found.t)
        self.shape, self.pairs = self._shape(), self._pairs()
        self.grid = np.concatenate([[PRIOR_START] if prior[1] > 0 else [], NEAR[int(prior[1] > 0) :], FAR])
        self._phi = np.expm1(self.grid) / self.scale
        self._w = 1.0 / (1.0 + np.outer(found.lam, self._phi))
        self._lam_w2 = found.lam[:, None] * self._w**2
        self._trace = (self.d[:, None] / (1.0 + np.outer(self.d, self._phi))).sum(axis=0)

    def on(self, design: Design) -> "Spectral":
        """The same method for another design."""
        return Spectral(design, self.reml, self.ddf, self.prior)

    def _shape(self) -> FloatArray:
        """(c, r + 2): variance at phi = 0, weight of what no eigenvector sees, squared loadings over lam."""
        L, found = self.design.loadings, self.spectrum
        total = np.einsum("ca,ab,cb->c", L, found.gram, L)
        seen = self.cross**2 / found.lam
        null = np.maximum(total - seen.sum(axis=1), 0.0)
        null[null < RANK * total] = 0.0
        return np.column_stack([(L**2).sum(axis=1), null, seen])

    def _pairs(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """The same of pairs of coefficients: (P,), (P,) and products of loadings over lam (P, r)."""
        design, found, (first, second) = self.design, self.spectrum, self.design.pairs
        seen = self.cross[first] * self.cross[second] / found.lam
        total = design.packed(found.gram)
        null, size = total - seen.sum(axis=1), np.sqrt(total[first == second])
        null[np.abs(null) < RANK * size[first] * size[second]] = 0.0
        return design.packed(np.eye(design.p)), null, seen

    def sums(self, block: Block) -> tuple[FloatArray, FloatArray]:
        """Scores (v, r) and rest (v,)."""
        values = block.residual
        if self.design.spec.weights is not None:
            values = values * np.sqrt(self.design.weights)[:, None]
        lift = self.spectrum.lift
        lifted = values if lift is None else lift @ values if sp.issparse(lift) else by_tiles(lift, values)
        scores = by_tiles(self.spectrum.rotation.T, lifted).T
        rest = block.ss - np.einsum("ij,ij->i", scores, scores)
        return scores, np.zeros(len(rest)) if self.full else np.maximum(rest, 0.0)

    def slopes(self, scores: FloatArray, rest: FloatArray) -> FloatArray:
        """dh/dphi on the grid, (v, g)."""
        s2 = scores**2
        out = self._trace - self.nu * (s2 @ self._lam_w2) / (rest[:, None] + s2 @ self._w)
        if self.prior[1] > 0.0:
            out += 2.0 * self.prior[1] * (np.log(self._phi) - self.prior[0]) / self._phi
        return out

    def fit(self, block: Block) -> Estimates:
        """Every response of a block at its own optimum."""
        scores, rest = self.sums(block)
        v = len(scores)
        phi, norm, end = np.empty(v), np.empty(v), np.empty(v, dtype=np.int64)
        sums = (scores, rest, self.spectrum.lam, self.d, self.nu)
        where = (self.grid, self.slopes(scores, rest), self.scale, self.prior)
        over_responses(variance_ratios, v, *sums, *where, phi, norm, end)
        return self.estimates(block, scores, rest, phi, norm, end)

    def estimates(
        self, block: Block, scores: FloatArray, rest: FloatArray, phi: FloatArray, norm: FloatArray, end: IntArray
    ) -> Estimates:
        """Everything at given ratios (v,)."""
        v, c = len(phi), len(self.cross)
        moments, combined = np.empty((v, 5)), np.empty((v, c, 3))
        sums = (scores, rest, self.spectrum.lam, self.d, phi)
        over_responses(ratio_estimates, v, *sums, self.cross, self.shape, moments, combined)
        r2, d1, d2, logdet, curve = moments.T
        shift, unscaled, slope = combined.transpose(2, 0, 1)
        sigma2 = r2 / self.nu
        out = empty(self.design, v)
        out.beta[:] = by_tiles(self.design.loadings, block.beta).T - shift
        out.se[:] = np.sqrt(sigma2[:, None] * unscaled)
        out.theta[:, 0] = np.sqrt(phi)
        out.sigma[:] = np.sqrt(sigma2)
        out.varpar[:, 0] = out.theta[:, 0] * out.sigma
        out.loglik[:] = -0.5 * (self._constant() + logdet + self.nu * np.log(sigma2))
        hessian = np.stack([d2 / sigma2 - curve, -d1 / sigma2])
        if self.ddf:
            out.df[:], out.df_residual[:] = satterthwaite(hessian, self.nu, unscaled, slope, phi == 0.0)
        self._put_covariances(out, phi, hessian)
        out.gradient_norm[:], out.nobs[:], out.nu[:] = norm, self.design.n, self.nu
        out.converged[:] = (norm <= CERTIFICATE) & (end != RUNAWAY)
        out.is_singular[:] = end == EDGE
        out.reason[:] = np.where(end == RUNAWAY, RUNAWAY_REASON, np.where(out.converged, "", NOT_CONVERGED))
        return out

    def _put_covariances(self, out: Estimates, phi: FloatArray, hessian: FloatArray) -> None:
        """vcov and spread at phi (v,); hessian as in `satterthwaite`."""
        (plain, null, seen), (pp, ps) = self.pairs, hessian
        if not len(plain):
            return
        w = 1.0 / (1.0 + np.outer(self.spectrum.lam, phi))
        C = plain + phi[:, None] * (null + by_tiles(seen, w).T)
        out.vcov[:] = C * (out.sigma**2)[:, None]
        if not self.ddf:
            return
        slope = null + by_tiles(seen, w * w).T - C * (ps / self.nu)[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            root = np.where(phi == 0.0, 0.0, out.sigma**2 / np.sqrt(pp - ps**2 / self.nu))
        out.spread[:, 0] = slope * root[:, None]

    def _constant(self) -> float:
        """What -2l has besides log-determinant and nu log sigma^2."""
        constant = self.nu * (1.0 + np.log(2.0 * np.pi)) - self.design.products.sum_log_weights
        return constant + (self.design.fixed.logdet if self.reml else 0.0)


def satterthwaite(
    hessian: FloatArray, nu: float, unscaled: FloatArray, slope: FloatArray, at_edge: BoolArray
) -> tuple[FloatArray, FloatArray]:
    """Degrees of freedom (v, c) of the coefficients, and (v,) of sigma^2: 2 f^2/var(f) (Satterthwaite 1946).

    hessian: (2, v), of -2l by (phi, phi) and by (phi, log sigma^2); that by log sigma^2 twice is nu.
    f = sigma^2 c(phi), so that var(f)/f^2 = 2 (c'/c, 1) H^-1 (c'/c, 1)'. nu where phi = 0 is the estimate.
    """
    pp, ps = hessian
    determinant = pp * nu - ps * ps
    relative = slope / unscaled
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = (nu * relative**2 - 2.0 * ps[:, None] * relative + pp[:, None]) / determinant[:, None]
        df, residual = 1.0 / spread, determinant / pp
    df[at_edge], residual[at_edge] = nu, nu
    df[np.isnan(unscaled)] = np.nan
    return np.where(df > 0.0, df, np.nan), np.where(residual > 0.0, residual, np.nan)
