"""Covariances of predictions: K'C^-1 K of rows K of effects and coefficients, at variance parameters taken as known.

Over sigma^2, C^-1 is the covariance of beta_hat and b_hat - b jointly (Henderson 1975). A row has few nonzeros in v,
and where these meet in a row of the data their entries of M^-1 are on the pattern of M: one selected inverse then
serves all rows. Rows whose levels never meet are solved for, in blocks.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.linalg as sla
import scipy.sparse as sp

from .._typing import BoolArray, FloatArray, IntArray
from ..coefficients import Functionals, Inverse
from ..engines import Engine, Pattern
from ..equations import destinations
from .factorised import sparse_likelihood

if TYPE_CHECKING:
    from ..results import Fit

FEW = 100  # rows up to here are solved for: a selected inverse costs about as much
BLOCK = 2e7  # numbers in a block of right sides, 160 MB
PAIRS = 2_000_000  # pairs of nonzeros that are looked up at a time


@dataclass(frozen=True, slots=True, eq=False)
class Posterior:
    """C^-1 of one fit at its estimates, over sigma^2.

    engine: holds M, whose lower triangle is on `pattern`. kept: columns of X that are in the model. functionals: K of
    x'beta + sum_k Z_k b_k, x (c, p) of the kept coefficients, Z_k (c, m r) or None. share: (q, c), v's part in the
    columns within null spaces.
    """

    engine: Engine
    pattern: Pattern
    kept: IntArray
    functionals: Callable[[Any, Sequence[sp.csr_array | None]], Functionals]
    inverse: Inverse
    share: FloatArray
    solved: FloatArray

    @classmethod
    def of(cls, fit: "Fit") -> "Posterior":
        """Holds as long as nobody asks the fit's likelihood for another theta."""
        likelihood, theta = sparse_likelihood(fit), fit.estimate.evaluation.theta
        inverse, T = likelihood.inverse(theta), likelihood._own_factors(theta)
        share, pattern = likelihood.coefficients.share_of(T), likelihood.equations.pattern
        make = partial(likelihood.coefficients.sparse_functionals, T=T)
        solved = inverse.solve(share) if share.size else share
        return cls(likelihood.engine, pattern, likelihood.kept, make, inverse, share, solved)

    def entries(self) -> FloatArray:
        """M^-1 on the pattern, (nnz,)."""
        columns = np.repeat(np.arange(self.pattern.q), np.diff(self.pattern.indptr))
        return self.engine.selected_inverse(self.pattern.indices, columns)

    def forms(self, K: Functionals, L: Functionals) -> FloatArray:
        """K_i'C^-1 L_i of each row, (c,)."""
        first = self.half(K)
        half = np.einsum("pc,pc->c", first, first if L is K else self.half(L))
        between = self.share.T @ self.solved
        shared = ((K.S @ self.solved) * L.share + K.share * (L.S @ self.solved + L.share @ between)).sum(axis=1)
        return np.asarray(half + shared + self._sparse_forms(K.S, L.S))

    def half(self, K: Functionals) -> FloatArray:
        """G K of C^-1 = blockdiag(M^-1, 0) + G'G, (p, c)."""
        rest = K.Kb - self.times(K, self.inverse.E).T
        return np.asarray(sla.solve_triangular(self.inverse.RX, rest, lower=True))

    def dense(self, K: Functionals) -> FloatArray:
        """Kv, (q, c)."""
        return np.asarray(K.S.T.toarray() + self.share @ K.share.T)

    def times(self, K: Functionals, right: FloatArray) -> FloatArray:
        """Kv'right, (c, k), of right (q, k)."""
        return np.asarray(K.S @ right + K.share @ (self.share.T @ right))

    def _sparse_forms(self, A: sp.csr_array, B: sp.csr_array) -> FloatArray:
        """a_i'M^-1 b_i of the rows of A and B (c, q)."""
        out, open_rows = np.zeros(A.shape[0]), np.ones(A.shape[0], dtype=np.bool_)
        if A.shape[0] > FEW:
            entries = self.entries()
            for rows in _pieces(A, B):
                out[rows], open_rows[rows] = _on_pattern(A[rows], B[rows], self.pattern, entries)
        left = np.flatnonzero(open_rows)
        for block in blocks(left, A.shape[1]):
            X, rows = self.inverse.solve(np.ascontiguousarray(B[block].T.toarray())), A[block]
            row = np.repeat(np.arange(len(block)), np.diff(rows.indptr))
            out[block] = np.bincount(row, rows.data * X[rows.indices, row], minlength=len(block))
        return out


def blocks(rows: IntArray, q: int) -> Iterator[IntArray]:
    """`rows` in pieces whose right sides (q, c) stay within BLOCK."""
    width = max(1, int(BLOCK // max(1, q)))
    return (rows[i : i + width] for i in range(0, len(rows), width))


def _pieces(A: sp.csr_array, B: sp.csr_array) -> Iterator[slice]:
    """Runs of rows with about PAIRS pairs of nonzeros."""
    pairs = np.cumsum(np.diff(A.indptr).astype(np.int64) * np.diff(B.indptr))
    cuts = np.searchsorted(pairs, np.arange(PAIRS, pairs[-1] + PAIRS, PAIRS)) + 1
    ends = np.unique(np.concatenate([[0], np.minimum(cuts, len(pairs))])).astype(int)
    return (slice(a, b) for a, b in pairwise(ends))


def _on_pattern(A: sp.csr_array, B: sp.csr_array, pattern: Any, entries: FloatArray) -> tuple[FloatArray, BoolArray]:
    """a_i'M^-1 b_i by entries of M^-1, and which rows have a pair that is not on the pattern."""
    n_a, n_b = np.diff(A.indptr).astype(np.int64), np.diff(B.indptr).astype(np.int64)
    count = n_a * n_b
    row = np.repeat(np.arange(len(count)), count)
    within = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    a, b = A.indptr[row] + within // n_b[row], B.indptr[row] + within % n_b[row]
    i, j = A.indices[a].astype(np.int64), B.indices[b].astype(np.int64)
    place = destinations(pattern, np.maximum(i, j), np.minimum(i, j))
    terms = np.where(place >= 0, A.data[a] * B.data[b] * entries[place], 0.0)
    missing = np.bincount(row[place < 0], minlength=len(count)) > 0
    return np.bincount(row, terms, minlength=len(count)).astype(np.float64), missing


def error_variances(posterior: Posterior, x: Any, Z: Sequence[sp.csr_array | None]) -> FloatArray:
    """Variance of x'(beta_hat - beta) + sum_k Z_k (b_hat_k - b_k) over sigma^2, (n,).

    x: (n, p), all columns of the model's design; those that were dropped do not count. Equal rows are done once.
    """
    given = sp.csr_array(x)[:, posterior.kept]
    widths = [given.shape[1], *(0 if Zk is None else Zk.shape[1] for Zk in Z)]
    whole = sp.csr_array(sp.hstack([given, *(Zk for Zk in Z if Zk is not None)], format="csr"))
    first, same = _distinct(whole)
    ends, columns = np.cumsum(widths), sp.csc_array(whole[first])
    parts = [sp.csr_array(columns[:, a:b]) for a, b in pairwise([0, *ends])]
    matrices = [None if Zk is None else part for Zk, part in zip(Z, parts[1:], strict=True)]
    K = posterior.functionals(parts[0], matrices)
    return posterior.forms(K, K)[same]


def _distinct(matrix: sp.csr_array) -> tuple[IntArray, IntArray]:
    """First row of each kind, and the kind of each row."""
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    ends = list(pairwise(matrix.indptr.tolist()))
    keys = [matrix.indices[a:b].tobytes() + matrix.data[a:b].tobytes() for a, b in ends]
    kind = pd.factorize(np.array(keys, dtype=object))[0] if keys else np.zeros(0, np.int64)
    return np.unique(kind, return_index=True)[1], kind
