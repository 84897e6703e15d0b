"""A precision, or a sparse covariance, that the user gives."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from .._errors import DataError, EngineError, ModelError
from .._typing import FloatArray, IntArray
from ..engines import Pattern, make_engine
from .fixed import FixedPrecision

ASYMMETRY = 1e-9  # of sqrt(a_ii a_jj): what inverting a matrix of condition 1e6 in double precision leaves
LARGEST_BLOCK = 10_000  # levels of a dense block: 0.8 GB, and Q would be as full
DENSE = 300  # a precision in blocks up to here goes to LAPACK, larger ones to the sparse Cholesky
BATCH = 2_000_000  # entries of equal blocks that LAPACK gets at a time
PLAIN = (np.integer, np.floating, np.str_)  # labels that messages show as Python's
WAY_OUT = {
    "covariance": "Identical twins and clones need one level, or a small value added to the diagonal",
    "precision": "Give kind='covariance' if it is a covariance, or an intrinsic structure such as rw1()",
}


class Known(FixedPrecision):
    """The precision, or the sparse covariance, that the user gives: scipy.sparse, or dense for few levels.

    A pandas table has its levels in its index, `P.relationship(ids)` for instance, and the same ones in its columns.

    matrix: m x m, symmetric positive definite. kind: "precision", or "covariance", which is inverted family by family:
    connected components of its graph have nothing to do with each other, and each becomes a dense block of Q.
    levels: m labels of its rows in order, None for those of the table or 0 ... m-1. Levels that no row of the data has
    stay.
    Unit scale: the variance of level i is that of the term times (Q^-1)_ii.

    Errors: ModelError for another kind; DataError where the matrix is not square, finite, symmetric (by more than
    1e-9) or positive definite, where `levels` does not fit, and where a block is too large to invert.
    """

    def __init__(self, matrix: Any, kind: str = "precision", levels: Sequence[Any] | None = None):
        if kind not in ("precision", "covariance"):
            raise ModelError(f"known: kind is 'precision' or 'covariance', not '{kind}'")
        A = _checked(matrix, kind)
        self.levels = _checked_levels(_own_levels(matrix, levels, kind), A.shape[0])
        self._codes = {label: i for i, label in enumerate(self.levels)}
        if len(self._codes) < len(self.levels):
            twice = next(label for i, label in enumerate(self.levels) if self._codes[label] != i)
            raise DataError(f"known: level {twice!r} stands twice in the levels of the {kind}")
        _check_symmetric(A, kind, self.levels)
        if kind == "covariance":
            A, logdet = _inverse(A, self.levels)
        else:
            logdet = _logdet(A, self.levels)
        lower = sp.tril(A, format="coo")
        super().__init__((lower.row.astype(np.int64), lower.col.astype(np.int64)), lower.data, logdet)

    def codes(self, labels: Sequence[Any]) -> IntArray:
        """Place of each label among the levels; DataError naming those that are not there."""
        missing = [label for label in labels if label not in self._codes]
        if missing:
            raise DataError(
                f"known: {len(missing)} of {len(labels)} levels of the data are not in the matrix: "
                f"{', '.join(map(repr, missing[:3]))}. Add them to it, or drop their rows"
            )
        return np.fromiter((self._codes[label] for label in labels), np.int64, len(labels))


def _checked(matrix: Any, kind: str) -> sp.csc_array:
    given = matrix if sp.issparse(matrix) else np.asarray(matrix)
    if given.ndim != 2 or given.shape[0] != given.shape[1] or not given.shape[0]:
        raise DataError(f"known: the {kind}, a {type(matrix).__name__}, has shape {given.shape}; it must be square")
    try:
        if given.dtype.kind == "c":
            raise TypeError("its entries are complex")
        A = sp.csc_array(given, dtype=np.float64, copy=True)
    except (TypeError, ValueError) as error:
        raise DataError(f"known: the {kind} is not a matrix of numbers: {error}") from error
    A.sum_duplicates()
    A.eliminate_zeros()
    if not np.isfinite(A.data).all():
        raise DataError(f"known: {int((~np.isfinite(A.data)).sum())} entries of the {kind} are infinite or missing")
    return A


def _own_levels(matrix: Any, levels: Sequence[Any] | None, kind: str) -> Sequence[Any] | None:
    """`levels`, or the labels of a table; DataError where these disagree."""
    if not isinstance(matrix, pd.DataFrame) or (levels is not None and isinstance(matrix.index, pd.RangeIndex)):
        return levels
    one, two = list(matrix.index), list(matrix.columns if levels is None else levels)
    wrong = next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), None)
    if wrong is not None:
        other = "its columns" if levels is None else "levels="
        raise DataError(
            f"known: the index of the {kind} and {other} have different labels, the first are {one[wrong]!r} and "
            f"{two[wrong]!r}. Put rows and columns in one order with the labels of their levels in both, or give "
            "the values alone, matrix.to_numpy(), and levels="
        )
    return two


def _checked_levels(levels: Sequence[Any] | None, m: int) -> list[Any]:
    out = list(range(m)) if levels is None else [x.item() if isinstance(x, PLAIN) else x for x in levels]
    if len(out) != m:
        raise DataError(f"known: {len(out)} levels for a matrix of {m} rows; give one label a row, in its order")
    return out


def _check_symmetric(A: sp.csc_array, kind: str, levels: list[Any]) -> None:
    diagonal = A.diagonal()
    if (diagonal <= 0).any():
        i = int(diagonal.argmin())
        raise DataError(
            f"known: the {kind} is not positive definite: its diagonal is {diagonal[i]:g} at level {levels[i]!r}"
        )
    gap = (A - A.T).tocoo()
    if not gap.nnz:
        return
    excess = np.abs(gap.data) / np.sqrt(diagonal[gap.row] * diagonal[gap.col])
    worst = int(excess.argmax())
    if excess[worst] > ASYMMETRY:
        i, j = int(gap.row[worst]), int(gap.col[worst])
        raise DataError(
            f"known: the {kind} is not symmetric: entries ({levels[i]!r}, {levels[j]!r}) = {A[i, j]:.10g} and "
            f"({levels[j]!r}, {levels[i]!r}) = {A[j, i]:.10g} differ most; give (A + A.T)/2 if that is meant"
        )


def _logdet(A: sp.csc_array, levels: list[Any]) -> float:
    """log|A|; DataError where A is not positive definite."""
    blocks = list(_blocks(A))
    if blocks[0].shape[1] <= DENSE:
        return sum(_block_logdet(_cholesky(_dense_blocks(A, b), b, "precision", levels)) for b in blocks)
    lower = sp.tril(A, format="csc")
    lower.sort_indices()
    engine = make_engine("cholmod", Pattern(lower.indptr.astype(np.int64), lower.indices.astype(np.int64)))
    failure: EngineError | None = None
    logdet = np.nan
    try:
        engine.factorize(lower.data)
        with np.errstate(invalid="ignore", divide="ignore"):
            logdet = engine.logdet()  # not finite where a simplicial L D L' went through with a pivot below zero
    except EngineError as error:
        failure = error
    if not np.isfinite(logdet):
        raise DataError(
            f"known: the precision of {A.shape[0]:,} levels is not positive definite. {WAY_OUT['precision']}"
        ) from failure
    return logdet


def _block_logdet(L: FloatArray) -> float:
    return 2 * float(np.log(np.diagonal(L, axis1=1, axis2=2)).sum())


def _describe(block: IntArray, levels: list[Any]) -> str:
    dots = ", ..." if len(block) > 3 else ""
    return f"in the block of {len(block)} levels {', '.join(repr(levels[i]) for i in block[:3])}{dots}"


def _blocks(A: sp.csc_array) -> Iterator[IntArray]:
    """Connected components, those of equal size together: (number, size) nodes, in batches, the largest first."""
    _, label = connected_components(A, directed=False)
    sizes = np.bincount(label)
    nodes = np.split(np.argsort(label, kind="stable"), np.cumsum(sizes)[:-1])
    order = np.argsort(-sizes, kind="stable")
    _, start = np.unique(-sizes[order], return_index=True)
    for group in np.split(order, start[1:]):
        step = max(1, BATCH // len(nodes[group[0]]) ** 2)
        for first in range(0, len(group), step):
            yield np.stack([nodes[b] for b in group[first : first + step]])


def _inverse(A: sp.csc_array, levels: list[Any]) -> tuple[sp.csc_array, float]:
    """A^-1 and log|A^-1|, block by block: A_b = L L', A_b^-1 = L^-T L^-1 (exactly symmetric)."""
    rows, cols, data, logdet = [], [], [], 0.0
    for nodes in _blocks(A):
        count, size = nodes.shape
        if size > LARGEST_BLOCK:
            raise DataError(
                f"known: the covariance has a connected block of {size:,} levels, whose dense inverse needs "
                f"{8e-9 * size**2:,.1f} GB (at most {LARGEST_BLOCK:,} levels are inverted). Give its sparse precision, "
                "or set small covariances to zero so that it falls into families"
            )
        L = _cholesky(_dense_blocks(A, nodes), nodes, "covariance", levels)
        root = np.linalg.inv(L)
        data.append((root.transpose(0, 2, 1) @ root).ravel())
        rows.append(np.broadcast_to(nodes[:, :, None], (count, size, size)).ravel())
        cols.append(np.broadcast_to(nodes[:, None, :], (count, size, size)).ravel())
        logdet -= _block_logdet(L)
    full = (np.concatenate(data), (np.concatenate(rows), np.concatenate(cols)))
    return sp.csc_array(full, shape=A.shape), logdet


def _dense_blocks(A: sp.csc_array, nodes: IntArray) -> FloatArray:
    """The blocks (count, size, size) of A at `nodes` (count, size)."""
    count, size = nodes.shape
    block = A[:, nodes.ravel()].tocoo()
    place = np.empty(A.shape[0], np.int64)
    place[nodes.ravel()] = np.tile(np.arange(size), count)
    out = np.zeros((count, size, size))
    out[block.col // size, place[block.row], block.col % size] = block.data
    return out


def _cholesky(dense: FloatArray, nodes: IntArray, kind: str, levels: list[Any]) -> FloatArray:
    try:
        return np.asarray(np.linalg.cholesky(dense), dtype=np.float64)
    except np.linalg.LinAlgError as error:
        lowest = np.linalg.eigvalsh(dense)[:, 0]
        b = int(lowest.argmin())
        raise DataError(
            f"known: the {kind} is not positive definite {_describe(nodes[b], levels)}: its smallest eigenvalue "
            f"is {lowest[b]:.3g}. {WAY_OUT[kind]}"
        ) from error
