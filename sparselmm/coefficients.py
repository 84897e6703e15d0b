"""From the solution of the equations to the coefficients and effects that are reported, with their covariances.

Everything reported is linear in beta (of the orthonormal basis of X) and v. Where a column of X lies within the null
space of an intrinsic term, only their sum is identified: with a, all of the effects' part along N, such columns take
the least-squares share g = B^+ a of it and leave N (a - B g) to the effects. An intercept beside a random walk is so
the mean of the walk, and the walk's effects sum to zero.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg as sla
import scipy.sparse as sp

from ._typing import BoolArray, FloatArray, IntArray
from .equations import Equations

RANK = 1.5e-8  # eigenvalues below this part of the largest are none (sqrt of the machine's, as lmerTest)
SAME = 1e-8  # degrees of freedom that differ by less are equal (lmerTest)
UNEVEN = 100.0  # standard errors whose ratio is larger: contrasts in such units are standardised, else lmerTest's


@dataclass(frozen=True, slots=True, eq=False)
class Inverse:
    """C^-1 = blockdiag(M^-1, 0) + G'G, G = RX^-1 [-E_x', I]. solve: M^-1. E: (q, p) = M^-1 Lambda'Z'WX. RX: (p, p)."""

    solve: Callable[[FloatArray], FloatArray]
    E: FloatArray
    RX: FloatArray

    def covariance(self, Kv: FloatArray, Kb: FloatArray) -> FloatArray:
        """K'C^-1 K for K = [Kv (q, k); Kb (p, k)], (k, k)."""
        half = self.half(Kv, Kb)
        return Kv.T @ self.solve(Kv) + half.T @ half

    def variances(self, Kv: FloatArray, Kb: FloatArray) -> FloatArray:
        """Its diagonal, (k,)."""
        half = self.half(Kv, Kb)
        return np.asarray((Kv * self.solve(Kv)).sum(axis=0) + (half**2).sum(axis=0))

    def half(self, Kv: FloatArray, Kb: FloatArray) -> FloatArray:
        """G K, (p, k)."""
        return sla.solve_triangular(self.RX, Kb - self.E.T @ Kv, lower=True)


@dataclass(frozen=True, slots=True, eq=False)
class Functionals:
    """K of c functionals: Kv = S' + G share', S (c, q) sparse, share (c, n_confounded), G = `share_of`; Kb (p, c)."""

    S: sp.csr_array
    share: FloatArray
    Kb: FloatArray

    def combined(self, A: sp.csr_array) -> "Functionals":
        """Those of the combinations A (rows, c)."""
        return Functionals(sp.csr_array(A @ self.S), A @ self.share, (A @ self.Kb.T).T)


class Coefficients:
    """The linear maps of one model. Own factors T_k (r, r) are in the effects' own units."""

    def __init__(self, equations: Equations):
        self.equations, self.fixed = equations, equations.products.fixed
        self.n_terms = len(equations.terms) - (self.fixed.diffuse is not None)
        self._null = {k: N for k in range(self.n_terms) if (N := equations.null_space(k)) is not None}
        diffuse = self.fixed.diffuse
        self._size = np.ones(0) if diffuse is None else diffuse.size
        B = self.fixed.B / self._size[:, None]
        self._share = np.linalg.pinv(B) if self.fixed.confounded.size else np.zeros((0, len(self._size)))
        self._n_coefficients = int(self.fixed.kept.max(initial=-1)) + 1

    @property
    def n_confounded(self) -> int:
        """c, columns of X within null spaces."""
        return len(self.fixed.confounded)

    def estimates(
        self, beta: FloatArray, v: FloatArray, T: Sequence[FloatArray]
    ) -> tuple[FloatArray, tuple[FloatArray, ...]]:
        """Kept coefficients (p,) and effects (m, r) of each term."""
        fixed, parts = self.fixed, self.equations.split(v)
        b = [(vk[:, :, 0] @ Tk.T).reshape(-1) for Tk, vk in zip(T, parts, strict=False)]
        a = fixed.start_D + (parts[-1].ravel() if fixed.diffuse is not None else 0.0)
        share = self._share @ (a / self._size + sum(self._along(k, b[k]) for k in self._null))
        for k, N in self._null.items():
            b[k] = b[k] + N @ (a - self.fixed.B @ share)
        out = np.zeros(self._n_coefficients)
        out[fixed.used] = fixed.start + sla.solve_triangular(fixed.R, beta) - fixed.C @ share
        out[fixed.confounded] = share
        if fixed.diffuse is not None:
            out[self._sparse_places()] = (a / self._size)[fixed.n_null :]
        shapes = [(term.n_levels, term.n_effects) for term in self.equations.terms]
        return out[fixed.kept], tuple(x.reshape(shape) for x, shape in zip(b, shapes, strict=False))

    def _along(self, k: int, b: FloatArray) -> FloatArray:
        """N_o'b, (d,), of the orthonormal N_o."""
        return np.asarray(self._null[k].T @ b) * self._size

    def _sparse_places(self) -> IntArray:
        """Where the user's sparse columns stand among the coefficients."""
        assert self.fixed.diffuse is not None
        return self.fixed.kept[len(self.fixed.kept) - len(self.fixed.diffuse.kept) :]

    def share_of(self, T: Sequence[FloatArray]) -> FloatArray:
        """g as a function of v: (q, c)."""
        out = np.zeros((self.equations.q, self.n_confounded))
        if not self.n_confounded:
            return out
        out[self.equations.offsets[-2] :] = (self._share / self._size).T
        for k, N in self._null.items():
            along = (N @ (self._share * self._size).T).reshape(-1, len(T[k]), self.n_confounded)
            out[self._rows(k)] = (T[k].T @ along).reshape(-1, self.n_confounded)
        return out

    def _rows(self, k: int) -> slice:
        return slice(int(self.equations.offsets[k]), int(self.equations.offsets[k + 1]))

    def functionals(
        self, x: FloatArray, Z: Sequence[sp.csr_array | None], T: Sequence[FloatArray]
    ) -> tuple[FloatArray, FloatArray]:
        """K of x'beta + sum_k Z_k b_k: Kv (q, c) and Kb (p, c).

        x: (c, p) of the kept coefficients. Z: (c, m r) of each term, None for none of it.
        """
        parts = self.sparse_functionals(x, Z, T)
        return parts.S.T.toarray() + self.share_of(T) @ parts.share.T, parts.Kb

    def sparse_functionals(
        self, x: FloatArray | sp.csr_array, Z: Sequence[sp.csr_array | None], T: Sequence[FloatArray]
    ) -> "Functionals":
        """The same with Kv in its sparse part and its part along g; x may be sparse."""
        fixed, given = self.fixed, sp.csr_array(x)
        places = sp.csr_array(
            (np.ones(len(fixed.kept)), (np.arange(len(fixed.kept)), fixed.kept)),
            shape=(len(fixed.kept), self._n_coefficients),
        )
        full = sp.csr_array(given @ places)
        used = full[:, fixed.used].toarray()
        share = full[:, fixed.confounded].toarray() - used @ fixed.C
        last = sp.csr_array((given.shape[0], self.equations.q - int(self.equations.offsets[self.n_terms])))
        blocks = []
        for k in range(self.n_terms):
            Zk = Z[k] if k < len(Z) else None
            if Zk is None:
                blocks.append(sp.csr_array((given.shape[0], self.equations.terms[k].n_random)))
                continue
            blocks.append(sp.csr_array(Zk @ sp.kron(sp.eye_array(Zk.shape[1] // len(T[k])), T[k], format="csr")))
            if k in self._null:
                along = sp.csr_array(Zk @ self._null[k])
                last, share = last + along, share - along @ fixed.B
        if fixed.diffuse is not None:
            own = full[:, self._sparse_places()] @ sp.diags_array(1.0 / self._size[fixed.n_null :])
            empty = sp.csr_array((given.shape[0], fixed.n_null))
            last = last + sp.csr_array(sp.hstack([empty, own]))
        S = sp.csr_array(sp.hstack([*blocks, last], format="csr"))
        return Functionals(S, share, sla.solve_triangular(fixed.R, used.T, trans="T"))

    def effect_covariances(self, k: int, T: Sequence[FloatArray], at: "EffectErrors") -> FloatArray:
        """Covariance of each level's effects over sigma^2, (m, r, r).

        The effects are f - N_o B g with f = (I x T) v + N a; without a null space f alone.
        """
        m, r = self.equations.terms[k].n_levels, len(T[k])
        f = self._map(k, T[k], at.low_rank)
        out = self._own(k, T[k], at.selected) + self._with_null(k, T[k], at.selected) + f @ f.transpose(0, 2, 1)
        if not self.n_confounded:
            return out
        G = self.share_of(T)
        solved = at.solve(G) + at.low_rank @ (at.low_rank.T @ G)
        cross = self._map(k, T[k], solved)
        if at.given_beta:  # and so given g
            return np.asarray(out - cross @ np.linalg.solve(G.T @ solved, cross.transpose(0, 2, 1)))
        if k not in self._null:
            return np.asarray(out)
        U = (self._null[k] @ self.fixed.B).reshape(m, r, -1)
        both = cross @ U.transpose(0, 2, 1)
        return np.asarray(out - both - both.transpose(0, 2, 1) + U @ (G.T @ solved) @ U.transpose(0, 2, 1))

    def _map(self, k: int, T: FloatArray, columns: FloatArray) -> FloatArray:
        """f = (I x T) v + N a of each column (q, c), (m, r, c)."""
        term = self.equations.terms[k]
        own = T @ columns[self._rows(k)].reshape(term.n_levels, term.n_effects, -1)
        if k in self._null:
            own = own + (self._null[k] @ columns[self.equations.offsets[-2] :]).reshape(own.shape)
        return np.asarray(own)

    def _own(self, k: int, T: FloatArray, selected: "Selected") -> FloatArray:
        """T M^-1_ll T' for each level l, (m, r, r)."""
        m, r, (first, second) = self.equations.terms[k].n_levels, len(T), np.indices((len(T), len(T)))
        rows, cols = (int(self.equations.offsets[k]) + np.arange(m)[:, None, None] * r + x for x in (first, second))
        block = selected(np.maximum(rows, cols).ravel(), np.minimum(rows, cols).ravel()).reshape(m, r, r)
        return np.asarray(T @ block @ T.T)

    def _with_null(self, k: int, T: FloatArray, selected: "Selected") -> FloatArray:
        """What N a adds to the covariance of each level's f, (m, r, r): entries of M^-1 at directions."""
        r, start, last = len(T), int(self.equations.offsets[k]), int(self.equations.offsets[-2])
        m = self.equations.terms[k].n_levels
        out = np.zeros((m, r, r))
        if k not in self._null:
            return out
        N = self._null[k]
        level, direction = self.equations.null_incidence(k)
        crossed = [
            sp.csr_array((selected(last + direction, start + level * r + b), (level, direction)), shape=(m, N.shape[1]))
            for b in range(r)
        ]
        one, two = (x.astype(np.int64) for x in self.equations.null_meetings(k).nonzero())
        lower = sp.csr_array((selected(last + one, last + two), (one, two)), shape=(N.shape[1],) * 2)
        P = lower + sp.tril(lower, -1).T
        parts = [sp.csr_array(N[a::r]) for a in range(r)]
        for a in range(r):
            at_a = parts[a] @ P
            mixed = sum((T[a, b] * crossed[b] for b in range(1, r)), start=T[a, 0] * crossed[0])
            for b in range(r):
                out[:, a, b] += at_a.multiply(parts[b]).sum(axis=1)
                both = mixed.multiply(parts[b]).sum(axis=1)
                out[:, a, b] += both
                out[:, b, a] += both
        return out


Selected = Callable[[IntArray, IntArray], FloatArray]


@dataclass(frozen=True, slots=True, eq=False)
class EffectErrors:
    """Covariance of v over sigma^2: M^-1 + low_rank low_rank'. selected: entries of M^-1 on its pattern; solve: M^-1 V.

    given_beta: whether coefficients are taken as known; low_rank (q, 0) then.
    """

    selected: Selected
    solve: Callable[[FloatArray], FloatArray]
    low_rank: FloatArray
    given_beta: bool


def uncorrelated(V: FloatArray) -> tuple[FloatArray, BoolArray]:
    """K with K'VK = I in the columns (..., r) that are kept, zero in those that depend on them; V (..., r, r).

    Eigenvectors of V, which lmerTest takes, or in units that differ much those of the correlations; the rank is theirs.
    """
    size = np.sqrt(np.maximum(np.diagonal(V, axis1=-2, axis2=-1), 0.0))
    size[size == 0.0] = 1.0
    d = np.linalg.eigvalsh(V / (size[..., :, None] * size[..., None, :]))
    keep = d > RANK * d.max(axis=-1, keepdims=True, initial=0.0)  # the last ones, as those of V
    even = size.max(axis=-1, initial=0.0) <= UNEVEN * size.min(axis=-1, initial=np.inf)
    size[even] = 1.0
    d, P = np.linalg.eigh(V / (size[..., :, None] * size[..., None, :]))
    root = np.sqrt(np.where(keep, d, 1.0))
    return P * (keep / root)[..., None, :] / size[..., :, None], keep


def degrees_of_mean(nu: FloatArray, keep: BoolArray) -> FloatArray:
    """Of the mean of the squares of t values with nu (..., r) degrees of freedom that are kept (Fai & Cornelius 1996).

    2E/(E - q), E = sum nu/(nu - 2) over the q of them; 2 where some nu is at most 2.
    """
    count = keep.sum(axis=-1)
    low, high = (end(nu, axis=-1, where=keep, initial=at) for end, at in ((np.min, np.inf), (np.max, -np.inf)))
    with np.errstate(divide="ignore", invalid="ignore"):
        E = np.sum(1.0 / (1.0 - 2.0 / nu), axis=-1, where=keep)
        out = np.where(low <= 2.0, 2.0, 2.0 * E / (E - count))
        return np.where((high - low < SAME) | (low == np.inf), np.mean(nu, axis=-1, where=keep), out)
