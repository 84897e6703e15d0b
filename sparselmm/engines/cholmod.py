"""CHOLMOD through scikit-sparse 0.4.16 or 0.5: the only file that imports sksparse (Chen et al. 2008)."""

import importlib
import warnings
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp

from .._errors import EngineError
from .._typing import FloatArray, IntArray
from ..kernels.selinv import panel_positions, selected_inverse, supernodes
from ..kernels.symbolic import column_counts
from ..kernels.triangular import solve_transposed
from .base import NOT_POSITIVE, Pattern, available_memory

INSTALL = (
    "scikit-sparse cannot be imported ({reason}). Install SuiteSparse and then the version that fits it:\n"
    "    apt-get install libsuitesparse-dev libopenblas0-pthread   (or: brew install suite-sparse,"
    " conda install -c conda-forge scikit-sparse)\n"
    '    pip install "scikit-sparse==0.4.16"    with SuiteSparse below 7.4, else\n'
    '    pip install "scikit-sparse>=0.5"\n'
    'Small problems run without it: engine="dense".'
)
BYTES_PER_NONZERO = 28.0  # L as CHOLMOD keeps it (8 + index), its columns as scipy sees them (8), the inverse (8)
SMALL = 400  # below this order every fill-reducing ordering is as good as another


class _Factor(Protocol):
    """The little that both versions of scikit-sparse are asked for."""

    perm: IntArray

    def factorize(self, A: sp.csc_matrix) -> None: ...
    def solve(self, right: FloatArray) -> FloatArray: ...
    def logdet(self) -> float: ...
    def lower(self) -> sp.csc_matrix: ...


class _Factor04:
    """scikit-sparse 0.4: `analyze` gives a Factor that is refilled in place."""

    def __init__(self, module: Any, A: sp.csc_matrix, ordering: str):
        self._error = module.CholmodNotPositiveDefiniteError
        self._factor = module.analyze(A, mode="auto", ordering_method=ordering)
        self.perm = self._factor.P().astype(np.int64)

    def factorize(self, A: sp.csc_matrix) -> None:
        try:
            self._factor.cholesky_inplace(A)
        except self._error as error:
            raise EngineError(NOT_POSITIVE) from error
        if not np.isfinite(self.logdet()):  # a simplicial LDL' goes on with negative pivots
            raise EngineError(NOT_POSITIVE)

    def solve(self, right: FloatArray) -> FloatArray:
        return self._factor.solve_A(right)

    def logdet(self) -> float:
        with np.errstate(invalid="ignore", divide="ignore"):
            return float(self._factor.logdet())

    def lower(self) -> sp.csc_matrix:
        return self._factor.L()


class _Factor05:
    """scikit-sparse 0.5: a symbolic factor is copied for every evaluation.

    `factorize` leaves a simplicial factor behind, and refilling that took 7 times a supernodal factorisation
    (nnz(L) 1.7e6); a copy of the symbolic factor costs nothing and stays supernodal.
    """

    def __init__(self, module: Any, A: sp.csc_matrix, ordering: str):
        self._error = module.CholmodNotPositiveDefiniteError
        self._symbolic = module.CholeskyFactor(A, supernodal_mode="auto", order=ordering, lower=True)
        self.perm = np.asarray(self._symbolic.get_perm(), dtype=np.int64)
        self._factor = self._symbolic

    def factorize(self, A: sp.csc_matrix) -> None:
        factor = self._symbolic.copy()
        try:
            self._factor = factor.factorize(A)
        except self._error as error:
            raise EngineError(NOT_POSITIVE) from error

    def solve(self, right: FloatArray) -> FloatArray:
        return np.asarray(self._factor.solve(right))

    def logdet(self) -> float:
        return float(self._factor.logdet())

    def lower(self) -> sp.csc_matrix:
        return sp.csc_matrix(self._factor.factor)


def _load() -> Any:
    try:
        return importlib.import_module("sksparse.cholmod")
    except ImportError as error:
        raise EngineError(INSTALL.format(reason=error)) from error


def _factor_maker(module: Any) -> Callable[[sp.csc_matrix, str], _Factor]:
    version: Any = _Factor05 if hasattr(module, "CholeskyFactor") else _Factor04
    return lambda A, ordering: version(module, A, ordering)


class Cholmod:
    """Sparse Cholesky of M on a frozen pattern: analysed once with the ordering of least predicted fill."""

    name = "cholmod"

    def __init__(self, pattern: Pattern):
        self.pattern = pattern
        q, index = pattern.q, np.int32 if pattern.nnz < 2**31 - 1 else np.int64
        self._A = sp.csc_matrix(
            (np.ones(pattern.nnz), pattern.indices.astype(index), pattern.indptr.astype(index)), shape=(q, q)
        )
        make = _factor_maker(_load())
        fills: dict[str, int] = {}
        flops: dict[str, float] = {}
        for ordering in ("amd",) if q < SMALL else ("amd", "metis"):
            candidate = make(self._A, ordering)
            counts = predicted_counts(pattern, candidate.perm).astype(np.float64)
            fills[ordering], flops[ordering] = int(counts.sum()), float(counts @ counts)
            if fills[ordering] == min(fills.values()):
                self._factor, best = candidate, ordering
        self.nnz_factor, self.flops = fills[best], flops[best]
        others = "".join(f"; {k} would need {v:,}" for k, v in fills.items() if k != best)
        self.reason = f"{best} ordering, {fills[best]:,} nonzeros in L{others}"
        self.memory = BYTES_PER_NONZERO * self.nnz_factor
        if self.memory > available_memory():
            raise EngineError(
                f"the Cholesky factor of these equations has {self.nnz_factor:,} nonzeros and needs about "
                f"{self.memory / 1e9:.3g} GB; {available_memory() / 1e9:.3g} GB are free. Drop a crossed term, or use "
                "a machine with more memory"
            )
        self.ordering = best
        self._panels: tuple[IntArray, IntArray, IntArray, IntArray, IntArray] | None = None
        self._inverse_perm = np.argsort(self._factor.perm)

    def __reduce__(self) -> tuple[type, tuple[Pattern]]:
        return Cholmod, (self.pattern,)

    def factorize(self, values: FloatArray) -> None:
        self._A.data[:] = values
        self._factor.factorize(self._A)
        with np.errstate(invalid="ignore", divide="ignore"):
            self._logdet = self._factor.logdet()
        if not np.isfinite(self._logdet):  # a simplicial L D L' goes through with a pivot below zero
            raise EngineError(NOT_POSITIVE)

    def solve(self, right: FloatArray) -> FloatArray:
        return self._factor.solve(right)

    def logdet(self) -> float:
        return self._logdet

    def pivots(self) -> FloatArray:
        """Squared diagonal of L, (q,), each at its row of M: what is left of it after the rows eliminated before."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            L = self._factor.lower()
        return np.asarray(L.diagonal()[self._inverse_perm] ** 2)

    def sample(self, z: FloatArray) -> FloatArray:
        """P' L^-T z, (q, c): of covariance M^-1 where z is standard normal (Rue & Held 2005, algorithm 2.4)."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            L = self._factor.lower().sorted_indices()
        out = np.array(z, dtype=np.float64, order="C")
        solve_transposed(L.indptr, L.indices, L.data, out)
        return out[self._inverse_perm]

    def selected_inverse(self, rows: IntArray, cols: IntArray) -> FloatArray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            L = self._factor.lower()
        if self._panels is None or len(self._panels[4]) != L.nnz:
            self._panels = _panels(L)
        first, start, owner, indptr, indices = self._panels
        Z = np.empty(start[-1])
        selected_inverse(first, start, owner, indptr, indices, L.data, Z)
        i, j = self._inverse_perm[rows], self._inverse_perm[cols]
        place = np.empty(len(i), np.int64)
        panel_positions(first, start, indptr, indices, np.maximum(i, j), np.minimum(i, j), place)
        return Z[place]


def _panels(L: sp.csc_matrix) -> tuple[IntArray, IntArray, IntArray, IntArray, IntArray]:
    """first column, place of the panel, owner of a column; indptr and indices of L as int64."""
    L.sort_indices()
    indptr, indices = L.indptr.astype(np.int64), L.indices.astype(np.int64)
    first = np.empty(len(indptr), np.int64)
    first = first[: supernodes(indptr, indices, first) + 1]
    widths, rows = np.diff(first), np.diff(indptr)[first[:-1]]
    start = np.concatenate([[0], np.cumsum(widths * rows)])
    return first, start, np.repeat(np.arange(len(widths)), widths), indptr, indices


def predicted_counts(pattern: Pattern, perm: IntArray) -> IntArray:
    """Nonzeros of each column of L under an ordering, (q,): nothing is factorised."""
    place = np.argsort(perm)
    cols = place[np.repeat(np.arange(pattern.q), np.diff(pattern.indptr))]
    rows = place[pattern.indices]
    places = np.minimum(rows, cols), np.maximum(rows, cols)
    upper = sp.csc_matrix((np.ones(pattern.nnz), places), shape=(pattern.q, pattern.q))
    parent, counts = np.empty(pattern.q, np.int64), np.empty(pattern.q, np.int64)
    column_counts(upper.indptr.astype(np.int64), upper.indices.astype(np.int64), parent, counts)
    return counts
