"""CHOLMOD through scikit-sparse 0.4.16 or 0.5: the only file that imports sksparse (Chen et al. 2008)."""

import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp

from .._errors import EngineError
from .._typing import FloatArray, IntArray
from ..kernels.blas import blas
from ..kernels.codes import counting_sort
from ..kernels.selinv import Columns, Supernodes, front_positions, selected_inverse, supernode_tree, supernodes
from ..kernels.symbolic import column_counts
from ..kernels.triangular import solve_transposed
from .base import NOT_POSITIVE, Pattern, compressed
from .memory import available_memory
from .threads import find_libraries

INSTALL = (
    "scikit-sparse cannot be imported ({reason}). Install SuiteSparse and then the version that fits it:\n"
    "    apt-get install libsuitesparse-dev libopenblas0-pthread   (or: brew install suite-sparse,"
    " conda install -c conda-forge scikit-sparse)\n"
    '    pip install "scikit-sparse==0.4.16"    with SuiteSparse below 7.4, else\n'
    '    pip install "scikit-sparse>=0.5"\n'
    'Most models with independent levels run without it: engine="absorb"; small ones too: engine="dense".'
)
SUPERNODAL = 40.0  # operations a nonzero of L from which CHOLMOD's factor is supernodal
BYTES_PER_COPY = 64.0  # a nonzero of a simplicial L: CHOLMOD's, two copies, the columns as SciPy sees them
BYTES_PER_COLUMNS = 24.0  # a nonzero of a supernodal L: its copy, and that as columns
BYTES_PER_COLUMN = 64.0  # of the tree, and where the columns of L lie
BYTES_PER_ENTRY = 80.0  # an entry of M: values and pattern (here, in CHOLMOD, sorted), and where its inverse lies
# Seconds of a factorisation with its selected inverse, one thread, 3 flops at 50 Gflop/s. Measured beside the forecast:
# InstEval 54 ms (45) by AMD and 34 (26) by METIS, its S 18 (22), 120,000 nested pupils 47 (45), 50,000 workers in 5,000
# firms 37 (31) and their S 10 (11), a lattice of 100 x 100 17 (19).
RATES = 2e-7, 5e-8, 2e-11  # a column, a nonzero of L, an operation
# Seconds of an analysis by METIS: InstEval 37 ms (25), its S 26 (30), those workers 290 (120).
METIS_COLUMN, METIS_ENTRY = 1.5e-6, 2e-7
# A last block of L that is FULL and has all but 5 % of the operations: nothing separates such a graph. In 11 of 35
# random patterns (crossed, pedigrees, lattices, neighbours) METIS needed 1.1 to 2.2 times the operations there; where
# it won, up to 3 times, that block had 6 to 88 % of them.
FULL, ONE_BLOCK = 0.95, 0.95


class _Factor(Protocol):
    """The little that both versions of scikit-sparse are asked for."""

    perm: IntArray

    def factorize(self, A: sp.csc_matrix) -> None: ...
    def solve(self, right: FloatArray) -> FloatArray: ...
    def logdet(self) -> float: ...
    def lower(self) -> sp.csc_matrix: ...
    def columns(self) -> tuple[Columns, FloatArray]: ...


class _Factor04:
    """scikit-sparse 0.4: `analyze` gives a Factor that is refilled in place."""

    def __init__(self, module: Any, A: sp.csc_matrix, ordering: str):
        self._error = module.CholmodNotPositiveDefiniteError
        self._long: sp.csc_matrix | None = None
        try:
            self._factor = module.analyze(A, mode="auto", ordering_method=ordering)
        except module.CholmodTooLargeError:  # L has 2^31 entries or more: indices of 64 bits
            self._long = _with_long_indices(A)
            self._factor = module.analyze(self._long, mode="auto", ordering_method=ordering, use_long=True)
        self.perm = self._factor.P().astype(np.int64)

    def factorize(self, A: sp.csc_matrix) -> None:
        if self._long is not None:
            self._long.data = A.data
        try:
            self._factor.cholesky_inplace(A if self._long is None else self._long)
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

    def columns(self) -> tuple[Columns, FloatArray]:
        return csc_columns(self.lower())


def csc_columns(L: sp.csc_matrix) -> tuple[Columns, FloatArray]:
    """Columns and values of an L in CSC form."""
    L.sort_indices()
    at = L.indptr.astype(np.int64)
    return Columns(at[:-1], at[:-1], np.diff(at), L.indices), L.data


def _with_long_indices(A: sp.csc_matrix) -> sp.csc_matrix:
    """A copy; SciPy's constructor would shorten the indices again."""
    out = A.copy()
    out.indices, out.indptr = out.indices.astype(np.int64), out.indptr.astype(np.int64)
    return out


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

    def columns(self) -> tuple[Columns, FloatArray]:
        return csc_columns(self.lower())


def _load() -> Any:
    try:
        module = importlib.import_module("sksparse.cholmod")
    except ImportError as error:
        raise EngineError(INSTALL.format(reason=error)) from error
    _announce()
    return module


@cache
def _announce() -> None:
    """CHOLMOD has brought a BLAS of its own: once a process."""
    find_libraries()


def _factor_maker(module: Any) -> Callable[[sp.csc_matrix, str], _Factor]:
    version: Any = _Factor05 if hasattr(module, "CholeskyFactor") else _Factor04
    return lambda A, ordering: version(module, A, ordering)


@dataclass(frozen=True, slots=True, eq=False)
class Ordering:
    """Columns of M in an order of elimination, perm (q,), with the tree of that, parent and counts (q,).

    others: the nonzeros of L under orderings that were looked at and have more.
    """

    name: str
    perm: IntArray
    parent: IntArray
    counts: IntArray
    others: dict[str, int]

    @property
    def nnz(self) -> int:
        """Nonzeros of L."""
        return int(self.counts.sum())

    @property
    def flops(self) -> float:
        """Of a factorisation."""
        return _flops((self.parent, self.counts))

    @property
    def reason(self) -> str:
        """Why this ordering."""
        others = "".join(f"; {k} would need {v:,}" for k, v in self.others.items())
        return f"{self.name} ordering, {self.nnz:,} nonzeros in L{others}"


def order(pattern: Pattern, rates: tuple[float, float, float]) -> tuple[sp.csc_matrix, _Factor, Ordering]:
    """A matrix with this pattern, CHOLMOD's analysis of it, and its ordering: by AMD, or METIS where that may pay.

    rates: seconds of a factorisation with its selected inverse: a column, a nonzero of L, an operation.
    """
    q, index = pattern.q, np.int32 if pattern.nnz < 2**31 - 1 else np.int64
    A = sp.csc_matrix((np.ones(pattern.nnz), pattern.indices.astype(index), pattern.indptr.astype(index)), shape=(q, q))
    make, trees = _factor_maker(_load()), dict[str, tuple[IntArray, IntArray]]()
    for name in ("amd", "metis"):
        if trees and _metis_cannot_pay(pattern, trees["amd"], rates):
            break
        candidate = make(A, name)
        perm, trees[name] = _largest_last(candidate.perm, *predicted_tree(pattern, candidate.perm))
        if _flops(trees[name]) == min(map(_flops, trees.values())):
            factor, best, best_perm = candidate, name, perm
    others = {name: int(counts.sum()) for name, (_, counts) in trees.items() if name != best}
    return A, factor, Ordering(best, best_perm, *trees[best], others)


def _largest_last(perm: IntArray, parent: IntArray, counts: IntArray) -> tuple[IntArray, tuple[IntArray, IntArray]]:
    """The order, and its parent and counts, with that tree of the forest at the end which has most operations.

    Its last block is what threads share. Without this, 200,000 animals of whom some are nobody's relatives had a last
    block of one column behind one of 12,800, and METIS was asked in vain.
    """
    roots = np.flatnonzero(parent < 0)
    if len(roots) < 2:
        return perm, (parent, counts)
    begins = np.append(0, roots[:-1] + 1)
    largest = np.argmax(np.add.reduceat(counts.astype(np.float64) ** 2, begins))
    begin, end = begins[largest], roots[largest] + 1
    order = np.concatenate([np.arange(begin), np.arange(end, len(perm)), np.arange(begin, end)])
    place = np.append(np.argsort(order), -1)  # no parent: -1 stays so
    return perm[order], (place[parent[order]], counts[order])


def _metis_cannot_pay(pattern: Pattern, amd: tuple[IntArray, IntArray], rates: tuple[float, float, float]) -> bool:
    """Its analysis takes longer than the factorisation it may save, one of about eight; or there is one dense block."""
    if not pattern.q or seconds(pattern.q, amd, rates) < METIS_COLUMN * pattern.q + METIS_ENTRY * pattern.nnz:
        return True
    counts, width = amd[1][::-1].astype(np.float64), np.arange(1.0, pattern.q + 1)
    full = np.flatnonzero(np.cumsum(counts) >= FULL * 0.5 * width * (width + 1.0))
    last = counts[: full[-1] + 1]
    return bool(last @ last > ONE_BLOCK * _flops(amd))


class Cholmod:
    """CHOLMOD's own factor of M on a frozen pattern, analysed once."""

    name = "cholmod"

    def __init__(self, pattern: Pattern):
        self.pattern = pattern
        self._A, self._factor, ordering = order(pattern, RATES)
        tree = ordering.parent, ordering.counts
        self.ordering, self.nnz_factor, self.flops = ordering.name, ordering.nnz, ordering.flops
        self.reason, self.memory = ordering.reason, forecast_bytes(pattern, *tree)
        self.seconds = seconds(pattern.q, tree, RATES)
        check_memory(self.memory, self.nnz_factor)
        self._supernodes: Supernodes | None = None
        self._entries = 0
        self._wanted: _Wanted | None = None
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
            columns, values = self._factor.columns()
        if self._supernodes is None or self._entries != len(values):
            self._supernodes, self._entries, self._wanted = supernodes(columns), len(values), None
        if self._wanted is None or not self._wanted.same(rows, cols):
            self._wanted = self._locate(rows, cols, self._supernodes)
        stacks = [np.empty(length) for length in self._supernodes.tree.lengths]
        out, w = np.empty(len(rows)), self._wanted
        selected_inverse(
            self._supernodes, columns, values, blas(), (stacks[0], stacks[1]), stacks[2], w.ends, w.order, w.place, out
        )  # fmt: skip
        return out

    def _locate(self, rows: IntArray, cols: IntArray, S: Supernodes) -> "_Wanted":
        i, j = self._inverse_perm[rows], self._inverse_perm[cols]
        upper, lower, place = np.minimum(i, j), np.maximum(i, j), np.empty(len(i), np.int64)
        front_positions(S, lower, upper, place)
        owner, n = S.tree.owner[upper], len(S.tree.size)
        ends, order = np.zeros(n + 1, np.int64), np.empty(len(i), np.int64)
        counting_sort(np.arange(len(i)), owner, ends, order)
        return _Wanted(rows, cols, np.append(0, ends[:-1]), order, place)


@dataclass(frozen=True, slots=True, eq=False)
class _Wanted:
    """Entries (rows, cols) of M^-1: order[ends[s]:ends[s+1]] are those in supernode s, at place in its front."""

    rows: IntArray
    cols: IntArray
    ends: IntArray
    order: IntArray
    place: IntArray

    def same(self, rows: IntArray, cols: IntArray) -> bool:
        return np.array_equal(rows, self.rows) and np.array_equal(cols, self.cols)


def _flops(tree: tuple[IntArray, IntArray]) -> float:
    counts = tree[1].astype(np.float64)
    return float(counts @ counts)


def seconds(q: int, tree: tuple[IntArray, IntArray], rates: tuple[float, float, float]) -> float:
    """Forecast of a factorisation with its selected inverse, one thread."""
    return rates[0] * q + rates[1] * float(tree[1].sum()) + rates[2] * 3.0 * _flops(tree)


def forecast_bytes(pattern: Pattern, parent: IntArray, counts: IntArray) -> float:
    """Bytes at the peak: L and its copies, the fronts of the selected inverse, and what belongs to the entries of M."""
    tree = supernode_tree(parent, counts)
    nonzeros = float(counts.sum())
    supernodal = _flops((parent, counts)) >= SUPERNODAL * nonzeros
    L = float(np.diff(tree.first) @ tree.size) if supernodal else 0.0
    copies = (BYTES_PER_COLUMNS if supernodal else BYTES_PER_COPY) * nonzeros
    return 8.0 * (L + tree.lengths.sum()) + copies + BYTES_PER_COLUMN * pattern.q + BYTES_PER_ENTRY * pattern.nnz


def check_memory(need: float, nnz: int) -> None:
    """EngineError with the figures where `need` bytes cannot be had."""
    if need > available_memory():
        raise EngineError(
            f"the Cholesky factor of these equations has {nnz:,} nonzeros and needs about {need / 1e9:.3g} GB; "
            f"{available_memory() / 1e9:.3g} GB are free. Drop a crossed term, or use a machine with more memory"
        )


def predicted_tree(pattern: Pattern, perm: IntArray) -> tuple[IntArray, IntArray]:
    """Elimination tree and nonzeros of each column of L under an ordering, (q,) each: nothing is factorised."""
    place = np.argsort(perm)
    cols = place[np.repeat(np.arange(pattern.q), np.diff(pattern.indptr))]
    rows = place[pattern.indices]
    upper = compressed(np.minimum(rows, cols), np.maximum(rows, cols), pattern.q)
    parent, counts = np.empty(pattern.q, np.int64), np.empty(pattern.q, np.int64)
    column_counts(*upper, parent, counts)
    return parent, counts
