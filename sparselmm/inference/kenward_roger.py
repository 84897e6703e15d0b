"""Kenward & Roger's adjusted covariance, F scaling and degrees of freedom (Biometrics 53, 1997; pbkrtest).

V = sigma^2 (R + sum_i gamma_i G_i) is linear in its components, G_i = Z_k (Q_k^-1 x E_i) Z_k'. Their answers do not
change when components are combined linearly, so the residual's is replaced by V itself: V^-1 V = I. In units of
sigma, with B = Z'V^-1X, A = Z'V^-1Z = Z'R^-1Z - Z'R^-1Z Lambda M^-1 Lambda'Z'R^-1Z and D_i = Q_k^-1 x E_i,

    P_i = -B'D_i B,  Q_ij = B'D_i A D_j B,  tr(V^-1 G_i V^-1 G_j) = tr(A D_i A D_j),
    P_V = -X'V^-1X,  Q_iV = -P_i,           tr(V^-1 G_i) = tr(A D_i),  tr(I) = n.

A is q x q and dense: no matrix has n columns, and q is limited.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg as sla
import scipy.sparse as sp

from .._errors import EngineError, ModelError
from .._typing import FloatArray
from ..engines.memory import available_memory
from ..engines.threads import blas_threads
from ..likelihood import Likelihood, sparse_symmetric
from .factorised import Factorised, factorise
from .wald import FTest

if TYPE_CHECKING:
    from ..results import Fit

MOST_EFFECTS = 6000  # random effects: A takes 288 MB then, and some 5 s
MATRICES = 4.0  # q x q at the peak
COLUMNS = 64  # solved at once, with one BLAS thread: 1.2 s on InstEval, all 4,114 together 6.8 s, with two threads 14 s
GENERIC = 1.37  # a theta of no special kind: 1.37, 2.37, ...
FLAT = 1e-10  # eigenvalues of the information, scaled to a unit diagonal, below this: components without meaning
ROUNDING = 1e-10  # of an entry of order one
NEAR_TWO, NEAR_ZERO = 0.01, 1e-10  # as pbkrtest: no scaling at so few degrees of freedom; rounding in V0 and V1


@dataclass(frozen=True, slots=True, eq=False)
class KenwardRoger:
    """vcov: (p, p) adjusted. phi: (p, p) as estimated. P: (k, p, p) = -X'V^-1 G_i V^-1 X. W: (k, k), of the components.

    P and W in units in which sigma is one and for V as the last component.
    """

    vcov: FloatArray
    phi: FloatArray
    P: FloatArray
    W: FloatArray
    name: str = "kenward-roger"

    def degrees(self, L: FloatArray) -> FloatArray:
        """Of each row of L as a contrast of its own, (c,)."""
        return np.array([_scale_and_degrees(1, *self._moments(row[None, :]))[1] for row in L])

    def f_test(self, L: FloatArray, difference: FloatArray) -> FTest:
        """lambda F with Kenward & Roger's denominator degrees of freedom."""
        rows, rest = _independent(L, difference)
        scale, df = _scale_and_degrees(len(rows), *self._moments(rows))
        F = float(rest @ np.linalg.solve(rows @ self.vcov @ rows.T, rest)) / len(rows)
        return FTest(scale * F, len(rows), df, scale)

    def _moments(self, L: FloatArray) -> tuple[float, float]:
        """A1 = sum W_ij tr(Theta Phi P_i Phi) tr(Theta Phi P_j Phi), A2 = sum W_ij tr(both together)."""
        half = np.linalg.solve(np.linalg.cholesky(L @ self.phi @ L.T), L @ self.phi)
        inner = np.einsum("ap,kpr,br->kab", half, self.P, half, optimize=True)
        traces = np.einsum("kaa->k", inner)
        A1 = float(traces @ self.W @ traces)
        return A1, float(np.einsum("ij,iab,jba->", self.W, inner, inner, optimize=True))


def _scale_and_degrees(q: int, A1: float, A2: float) -> tuple[float, float]:
    """lambda and the denominator's degrees of freedom for q contrasts (Kenward & Roger 1997, section 3.2)."""
    B = (A1 + 6.0 * A2) / (2.0 * q)
    g = ((q + 1) * A1 - (q + 4) * A2) / ((q + 2) * A2)
    bottom = 3.0 * q + 2.0 * (1.0 - g)
    V0, V1, V2 = 1.0 + g / bottom * B, 1.0 - (q - g) / bottom * B, 1.0 - (q + 2.0 - g) / bottom * B
    V0 = 0.0 if abs(V0) < NEAR_ZERO else V0
    mean = 1.0 - A2 / q
    ratio = 1.0 if abs(mean) < NEAR_ZERO and abs(V1) < NEAR_ZERO else mean / V1
    df = 4.0 + (q + 2.0) / (ratio**2 * V0 / V2 - 1.0)
    return (1.0 if abs(df - 2.0) < NEAR_TWO else df * mean / (df - 2.0)), df


def _independent(L: FloatArray, difference: FloatArray) -> tuple[FloatArray, FloatArray]:
    """As many independent combinations of the rows as L has rank, with the same of `difference`."""
    U, s, Vt = np.linalg.svd(L, full_matrices=False)
    rank = int((s > 1e-10 * s[0]).sum())
    return Vt[:rank], (U[:, :rank].T @ difference) / s[:rank]


def kenward_roger(fit: "Fit") -> KenwardRoger:
    """The adjusted covariance Phi + 2 Phi {sum W_ij (Q_ij - P_i Phi P_j)} Phi and what tests need beside it.

    Errors: ModelError for an ML fit, held parameters, residual structures, correlations across or within levels in
    which V is not linear; EngineError past MOST_EFFECTS random effects.
    """
    _check(fit)
    with blas_threads(fit.likelihood.flops):
        at = factorise(fit)
        P, Q, K = _components(at)
    R = at.likelihood.products.fixed.R
    Phi = np.linalg.inv(at.solution.RX @ at.solution.RX.T)
    information = K - 2.0 * np.einsum("pr,ijpr->ij", Phi, Q)
    information += np.einsum("pr,irs,st,jtp->ij", Phi, P, Phi, P, optimize=True)
    _check_identified(fit, np.diag(information), np.diag(K))
    W = 2.0 * _inverse(information)
    U = np.einsum("ij,ijpr->pr", W, Q) - np.einsum("ij,ipr,rs,jst->pt", W, P, Phi, P, optimize=True)
    adjusted = Phi + 2.0 * Phi @ U @ Phi
    back = fit.sigma * np.linalg.inv(R)
    vcov, phi = (back @ S @ back.T for S in (0.5 * (adjusted + adjusted.T), Phi))
    return KenwardRoger(vcov, phi, np.einsum("pa,kpr,rb->kab", R, P, R, optimize=True) / fit.sigma**2, W)


def _check(fit: "Fit") -> None:
    way_out = "; ddf='satterthwaite' has no such condition"
    if not fit.reml:
        raise ModelError("Kenward-Roger needs a REML fit, and this one is by ML: fit with reml=True" + way_out)
    if fit.estimate.held:
        raise ModelError(f"Kenward-Roger needs every variance estimated; {', '.join(fit.estimate.held)} held" + way_out)
    if fit.spec.residual is not None and fit.spec.residual.n_params:
        raise ModelError(
            f"Kenward-Roger needs a covariance that is linear in its parameters; residuals {fit.spec.residual.label} "
            "are not" + way_out
        )
    if fit.likelihood.n_fixed != len(fit.likelihood.kept) or fit.spec.S is not None:
        raise ModelError("Kenward-Roger is for dense fixed effects and precisions without a null space" + way_out)
    _check_size(fit.spec.q)
    for term, Q in zip(fit.spec.terms, fit.likelihood.parameters.precisions, strict=True):
        if Q is not None and Q.n_params:
            raise ModelError(
                f"Kenward-Roger needs a covariance that is linear in its parameters; {term.describe()} has "
                f"{', '.join(Q.natural_names(term.effects[0], term.name))}" + way_out
            )


def _check_identified(fit: "Fit", information: FloatArray, without: FloatArray) -> None:
    """ModelError where X leaves nothing of a component's information, to be compared with what it is without X."""
    terms = [
        t for t, s in zip(fit.spec.terms, fit.likelihood.parameters.structures, strict=True) for _ in range(s.n_params)
    ]
    for term, left, all_of_it in zip(terms, information, without, strict=False):
        if left <= FLAT * all_of_it:
            raise ModelError(
                f"{term.describe()}: the fixed effects take up all of it, so that its variance, and with it every "
                "standard error, is not determined. Drop it, or some fixed effects"
            )


def _check_size(q: int) -> None:
    needed, free = MATRICES * 8.0 * q**2, available_memory()
    if q > MOST_EFFECTS or needed > free:
        raise EngineError(
            f"Kenward-Roger takes dense matrices of {q:,} x {q:,} for {q:,} random effects: {needed / 1e9:.3g} GB "
            f"with {free / 1e9:.3g} GB free, and at most {MOST_EFFECTS:,} random effects; "
            "ddf='satterthwaite' works at any size"
        )


def linear_components(likelihood: Likelihood, k: int) -> FloatArray:
    """Matrices E_i (n_params, r, r) that span the covariances of term k, in its conditioned basis.

    They are linear in its parameters if derivatives at several points of no special kind span no more dimensions
    than there are parameters. ModelError else.
    """
    structure, r = likelihood.parameters.structures[k], likelihood.spec.terms[k].n_effects
    points = GENERIC + np.arange(2 * structure.n_params)
    slopes = [
        structure.gradient(np.roll(points, j)[: structure.n_params]).reshape(-1, r * r) for j in range(len(points))
    ]
    _, s, Vt = np.linalg.svd(np.vstack(slopes), full_matrices=False)
    if (s > 1e-8 * s[0]).sum() != structure.n_params:
        raise ModelError(
            f"Kenward-Roger needs a covariance that is linear in its parameters; that of "
            f"{likelihood.spec.terms[k].describe()} is not; ddf='satterthwaite' has no such condition"
        )
    return _in_basis(Vt[: structure.n_params], likelihood.bases[k])


def _in_basis(span: FloatArray, basis: FloatArray) -> FloatArray:
    """Rows of span (c, r^2) in another basis of the effects, orthonormal there, (c, r, r).

    One entry of the matrices after another first: mixed, those of effects of the size 1e9 would drown the others.
    """
    pivots = sla.qr(span, mode="r", pivoting=True)[1][: len(span)]
    entries = np.linalg.solve(span[:, pivots], span)
    entries[np.abs(entries) < ROUNDING] = 0.0
    E = basis @ entries.reshape(-1, *basis.shape) @ basis.T
    size = np.abs(E).max(axis=(1, 2), initial=0.0)[:, None]
    flat = E.reshape(len(E), -1)
    return np.asarray(np.linalg.qr((flat / size).T)[0]).T.reshape(E.shape)


def _components(at: Factorised) -> tuple[FloatArray, FloatArray, FloatArray]:
    """P (k, p, p), Q_ij (k, k, p, p) and tr(V^-1 G_i V^-1 G_j) (k, k); V is the last component."""
    solution, p = at.solution, len(at.solution.beta)
    A, B = projected_designs(at)
    terms = [_Term(at.likelihood, k, A, B) for k in range(len(at.equations.terms))]
    count = sum(len(t.E) for t in terms)
    XVX = solution.RX @ solution.RX.T
    P, Q, K = np.empty((count + 1, p, p)), np.empty((count + 1, count + 1, p, p)), np.empty((count + 1, count + 1))
    P[-1], Q[-1, -1], K[-1, -1] = -XVX, XVX, at.likelihood.products.n
    ends = np.cumsum([0, *(len(t.E) for t in terms)])
    parts = [slice(a, b) for a, b in zip(ends[:-1], ends[1:], strict=True)]
    for part, term in zip(parts, terms, strict=True):
        P[part] = -np.einsum("map,iab,mbr->ipr", term.B, term.E, term.QB, optimize=True)
        Q[part, -1] = Q[-1, part] = -P[part]
        K[part, -1] = K[-1, part] = np.einsum("iab,ab->i", term.E, term.trace(A))
        for other_part, other in zip(parts, terms, strict=True):
            if other_part.start <= part.start:
                Q[part, other_part], K[part, other_part] = term.cross(other, A)
                Q[other_part, part] = Q[part, other_part].transpose(1, 0, 3, 2)
                K[other_part, part] = K[part, other_part].T
    return P, Q, K


class _Term:
    """One random term: D_i = Q^-1 x E_i, i = 1 ... n_params; B: its rows (m, r, p) of Z'V^-1X, QB = (Q^-1 x I) B."""

    def __init__(self, likelihood: Likelihood, k: int, A: FloatArray, B: FloatArray):
        offsets, term = likelihood.equations.offsets, likelihood.spec.terms[k]
        self.rows, self.m, self.r = slice(offsets[k], offsets[k + 1]), term.n_levels, term.n_effects
        self.E = linear_components(likelihood, k)
        self.inverse = _dense_inverse(likelihood, k)
        self.B = B[self.rows].reshape(self.m, self.r, B.shape[1])
        self.QB = self.across(self.B)

    def across(self, right: FloatArray) -> FloatArray:
        """(Q^-1 x I) right, right (m, ...)."""
        return right if self.inverse is None else np.tensordot(self.inverse, right, axes=1)

    def adjusted(self) -> FloatArray:
        """D_i B of each i, (n_params, m r, p)."""
        made = np.einsum("iab,lbp->ilap", self.E, self.QB)
        return made.reshape(len(self.E), self.m * self.r, self.B.shape[2])

    def trace(self, A: FloatArray) -> FloatArray:
        """sum_lm Q^-1[l,m] A[m-block, l-block], (r, r)."""
        own = A[self.rows, self.rows].reshape(self.m, self.r, self.m, self.r)
        return np.einsum("lalb->ab", own) if self.inverse is None else np.einsum("lm,malb->ab", self.inverse, own)

    def cross(self, other: "_Term", A: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Q_ij (k, l, p, p) and tr(A D_i A D_j) (k, l) of two terms."""
        block = A[self.rows, other.rows].reshape(self.m, self.r, other.m, other.r)
        between = np.moveaxis(other.across(np.moveaxis(self.across(block), 2, 0)), 0, 2)
        T = np.empty((self.r, other.r, self.r, other.r))
        for a, b in np.ndindex(self.r, other.r):
            T[a, b] = np.einsum("lm,lcmd->cd", between[:, a, :, b], block, optimize=True)
        K = np.einsum("iac,jbd,abcd->ij", self.E, other.E, T, optimize=True)
        left, right = self.adjusted(), other.adjusted()
        flat = block.reshape(self.m * self.r, other.m * other.r)
        return np.array([[a.T @ (flat @ b) for b in right] for a in left]), K


def _dense_inverse(likelihood: Likelihood, k: int) -> FloatArray | None:
    """Q_k^-1, (m, m); None where levels are independent."""
    Q = likelihood.parameters.precisions[k]
    if Q is None:
        return None
    return np.linalg.inv(sparse_symmetric(*Q.pattern(), Q.values(np.zeros(0)), Q.n_levels).toarray())


def projected_designs(at: Factorised) -> tuple[FloatArray, FloatArray]:
    """A = Z'V^-1Z (q, q) and B = Z'V^-1X (q, p) in units of sigma and the conditioned bases."""
    equations, solution = at.equations, at.solution
    products, p, q = solution.products, len(solution.beta), equations.q
    if q == 0:
        return np.zeros((0, 0)), np.zeros((0, p))
    unit = [np.eye(t.n_effects) for t in equations.terms]
    rows, cols = equations.places()
    gram = sparse_symmetric(rows, cols, equations.scaled_gram(products, unit), q)
    Lambda = sp.block_diag([sp.kron(sp.eye_array(len(z)), T) for z, T in zip(products.Zxy, solution.T, strict=True)])
    half = sp.csr_array(gram @ Lambda)
    right, A = sp.csc_array(half.T), gram.toarray()
    for first in range(0, q, COLUMNS):
        chunk = slice(first, first + COLUMNS)
        A[:, chunk] -= half @ at.engine.solve(right[:, chunk].toarray())
    Zx = np.concatenate([z[:, :, :p].reshape(z.shape[0] * z.shape[1], p) for z in products.Zxy])
    return A, Zx - half @ solution.E[:, :p]


def _inverse(information: FloatArray) -> FloatArray:
    """Inverse; of components that cannot be told apart the generalised one, as in pbkrtest."""
    size = np.sqrt(np.diag(information))
    size[size == 0.0] = 1.0
    d, P = np.linalg.eigh(information / np.outer(size, size))
    keep = d > FLAT
    P = P[:, keep] / size[:, None]
    return (P / d[keep]) @ P.T
