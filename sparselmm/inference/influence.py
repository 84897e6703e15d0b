"""Cook's distances: how far the coefficients move without a row, or without all rows of a group.

Leaving out rows I is the same as giving each an effect of its own. With Omega = R^-1, L the rows I of Omega [Z X] and
Py = Omega e, at the variance parameters of all rows

    beta_hat - beta_hat(I) = K_beta'C^-1 L' (Omega_II - L C^-1 L')^-1 (Py)_I

exactly (Cook 1977; Christensen, Pearson & Johnson 1992 for mixed models), without a refit.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.linalg as sla
import scipy.sparse as sp

from .._errors import DataError, ModelError
from .._typing import FloatArray, IntArray
from ..coefficients import Functionals
from ..engines.threads import blas_threads
from ..equations import destinations
from .posterior import BLOCK, Posterior
from .residuals import LOST, row_precision, rows_used

if TYPE_CHECKING:
    from ..results import Fit

LARGEST_GROUP = 5_000  # rows left out at once: a dense matrix of their number is decomposed


def cooks_distance(fit: "Fit", by: Any = None) -> pd.Series:
    """(beta - beta(I))' vcov^-1 (beta - beta(I)) / p, variance parameters held, for each row or each level of `by`.

    by: a group of the model, or labels (nobs,). NaN where beta cannot be estimated without these rows.
    Errors: ModelError for an unknown group, no coefficients, or a group of more than 5,000 rows.
    """
    with blas_threads(fit.likelihood.flops):
        model = _Deletion.of(fit)
        if by is None:
            return pd.Series(model.distances(model.by_row()), name="cooks_distance")
        labels, codes = _groups(fit, by)
        rows = np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes, minlength=len(labels)))[:-1])
        found = np.vstack(list(model.by_group(rows)))
    return pd.Series(model.distances(found), index=labels, name="cooks_distance")


def _groups(fit: "Fit", by: Any) -> tuple[pd.Index, IntArray]:
    """Labels of the groups, and which one each row is in."""
    if isinstance(by, str):
        for term in fit.spec.terms:
            if term.name == by and term.Q is None and not sp.issparse(term.Z):
                return pd.Index(term.labels(), name=by, tupleize_cols=False), np.asarray(term.Z)
        known = ", ".join(dict.fromkeys(repr(t.name) for t in fit.spec.terms if t.Q is None)) or "none"
        raise ModelError(f"cooks_distance(by={by!r}): a group of independent levels ({known}), or labels of the rows")
    values = np.asarray(by)
    if values.shape != (fit.nobs,):
        raise DataError(f"cooks_distance: by has shape {values.shape} for {fit.nobs} rows used")
    codes, labels = pd.factorize(values, sort=True)
    if (codes < 0).any():
        raise DataError(f"cooks_distance: by lacks a label in {int((codes < 0).sum())} rows")
    return pd.Index(labels, name=getattr(by, "name", None)), codes.astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class _Deletion:
    """L: Omega [Z X] of all rows. Py: (n,). cross: (p, n) K_beta'C^-1 L'. cov: (p, p) of beta over sigma^2."""

    fit: "Fit"
    posterior: Posterior
    Omega: sp.csr_array
    L: Functionals
    Py: FloatArray
    half: FloatArray
    cross: FloatArray
    cov: FloatArray

    @classmethod
    def of(cls, fit: "Fit") -> "_Deletion":
        posterior, Omega = Posterior.of(fit), row_precision(fit)
        p = len(posterior.kept)
        if not p:
            raise ModelError("the model has no coefficients whose change could be measured")
        L = rows_used(fit, posterior).combined(Omega)
        K = posterior.functionals(np.eye(p), [])
        half, own = posterior.half(L), posterior.half(K)
        solved = posterior.inverse.solve(posterior.dense(K))
        cross = own.T @ half + posterior.times(L, solved).T
        return cls(fit, posterior, Omega, L, Omega @ fit.resid, half, cross, fit.vcov.to_numpy() / fit.sigma**2)

    def distances(self, change: FloatArray) -> FloatArray:
        """Of changes of beta (c, p)."""
        size = np.sqrt(np.diag(self.cov))
        z = change.T / size[:, None]
        solved = sla.solve(self.cov / np.outer(size, size), z, assume_a="pos", check_finite=False)
        return np.asarray((z * solved).sum(axis=0) / (change.shape[1] * self.fit.sigma**2))

    def by_row(self) -> FloatArray:
        """Changes of beta, (n, p)."""
        diagonal = self.Omega.diagonal()
        left = diagonal - self.posterior.forms(self.L, self.L)
        step = np.where(left > LOST * diagonal, self.Py / np.where(left > 0.0, left, 1.0), np.nan)
        return np.asarray((self.cross * step).T)

    def by_group(self, groups: Sequence[IntArray]) -> Iterator[FloatArray]:
        """Changes of beta without the rows of each group, (p,)."""
        largest = max(map(len, groups))
        if largest > LARGEST_GROUP:
            raise ModelError(
                f"cooks_distance: a group has {largest:,} rows, and at most {LARGEST_GROUP:,} are left out at once"
            )
        inverse = _Blocks(self.posterior)
        for rows, S, H in inverse.of([(rows, self.L.S[rows]) for rows in groups]):
            share = self.L.share[rows]
            between = self.posterior.share.T @ self.posterior.solved
            shared = (S @ self.posterior.solved) @ share.T
            form = S[:, H.columns] @ (S[:, H.columns] @ H.values).T + shared + shared.T + share @ between @ share.T
            left = self.Omega[rows][:, rows].toarray() - form - self.half[:, rows].T @ self.half[:, rows]
            yield self.cross[:, rows] @ _solved(left, self.Py[rows])


def _solved(left: FloatArray, right: FloatArray) -> FloatArray:
    """left^-1 right; NaN where left is singular."""
    values, vectors = np.linalg.eigh(left)
    if values[0] <= LOST * max(values[-1], 0.0):
        return np.full(len(right), np.nan)
    return np.asarray(vectors @ ((vectors.T @ right) / values))


@dataclass(frozen=True, slots=True, eq=False)
class _Block:
    """Rows and columns `columns` of M^-1."""

    columns: IntArray
    values: FloatArray


class _Blocks:
    """Dense blocks of M^-1 at the effects that each group meets: on the pattern of M, or solved for several groups."""

    def __init__(self, posterior: Posterior):
        self._posterior, self._pattern, self._q = posterior, posterior.pattern, posterior.pattern.q
        self._entries = posterior.entries()

    def of(self, groups: Sequence[tuple[IntArray, sp.csr_array]]) -> Iterator[tuple[IntArray, sp.csr_array, _Block]]:
        """Each group's rows and S with its block, in order."""
        columns = [np.unique(S.indices).astype(np.int64) for _, S in groups]
        first, width = 0, max(1, int(BLOCK // max(1, self._q)))
        while first < len(groups):
            found = self._on_pattern(columns[first])
            if found is not None:
                yield *groups[first], found
                first += 1
                continue
            last, union = first + 1, columns[first]
            while last < len(groups) and len(wider := np.union1d(union, columns[last])) <= width:
                last, union = last + 1, wider
            H = self._solved(union)
            for group, own in zip(groups[first:last], columns[first:last], strict=True):
                at = np.searchsorted(union, own)
                yield *group, _Block(own, H[np.ix_(at, at)])
            first = last

    def _on_pattern(self, columns: IntArray) -> _Block | None:
        i, j = np.meshgrid(columns, columns, indexing="ij")
        place = destinations(self._pattern, np.maximum(i, j).ravel(), np.minimum(i, j).ravel())
        if (place < 0).any():
            return None
        return _Block(columns, self._entries[place].reshape(i.shape))

    def _solved(self, columns: IntArray) -> FloatArray:
        """M^-1 at `columns`, in pieces whose right sides stay within BLOCK."""
        out, width = np.empty((len(columns),) * 2), max(1, int(BLOCK // self._q))
        for start in range(0, len(columns), width):
            some = columns[start : start + width]
            right = np.zeros((self._q, len(some)))
            right[some, np.arange(len(some))] = 1.0
            out[:, start : start + len(some)] = self._posterior.inverse.solve(right)[columns]
        return out
