"""Pair tables of relationships -> families -> a covariance in blocks, whose precision is `Known`.

A sparse relationship matrix (GCTA's `--make-bK-sparse`, KING, Matrix Market, a table) has an entry for each pair of
relatives above some threshold. Cutting small entries can leave a family's block indefinite; such blocks are named, and
repaired only where that is asked for.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.io
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from .._errors import DataError, ModelError
from .._typing import FloatArray, IntArray
from .known import ASYMMETRY, Known, _blocks, _dense_blocks

REPAIRS = (None, "ridge", "eigen")
FLOOR = 1e-6  # of the largest eigenvalue: below, a block is not positive definite to rounding
SMALLEST = 1e-3  # of the mean diagonal entry: the smallest eigenvalue that a repaired block has
SHOWN = 3  # families, and people of each, that an error names


@dataclass(frozen=True, slots=True, eq=False)
class Kinship:
    """Relationships among m people in families.

    ids: their labels. matrix: (m, m) sparse, symmetric. family: (m,) number of the connected component of each, from
    the largest on. repaired: a row a block that was changed: `family`, `size`, `smallest` eigenvalue as given, and
    `change`, the largest of any entry.
    """

    ids: tuple[Any, ...]
    matrix: sp.csc_array
    family: IntArray
    repaired: pd.DataFrame

    @property
    def n_families(self) -> int:
        """Connected components, single people among them."""
        return int(self.family.max()) + 1

    def sizes(self) -> IntArray:
        """People of each family, (n_families,)."""
        return np.bincount(self.family)

    def precision(self) -> Known:
        """Its inverse, family by family, with `logdet`: for `known(1 | id, Q)`. Errors: as `Known`."""
        return Known(self.matrix, kind="covariance", levels=self.ids)

    def __repr__(self) -> str:
        sizes = self.sizes()
        return (
            f"<kinship of {len(self.ids):,} people in {len(sizes):,} families, the largest of {sizes.max():,}; "
            f"{len(self.repaired)} repaired>"
        )


def read_kinship(
    source: Any, *, ids: Sequence[Any] | None = None, threshold: float = 0.0, repair: str | None = None
) -> Kinship:
    """Relationships from pairs of people.

    source: `prefix.grm.sp` (GCTA, with `prefix.grm.id` beside it), a Matrix Market file `.mtx`, another text file or a
    table with three columns (one person, the other, the relationship, which is twice KING's kinship coefficient; a
    person with itself for the diagonal, which is one where it is missing), or a scipy sparse matrix. Each pair may
    stand once or in both orders. ids: labels in the order of a matrix, or all people of a table, those without
    relatives too. threshold: entries off the diagonal of smaller size are taken as zero. repair: of blocks that are not
    positive definite: "ridge" adds to their diagonal, "eigen" raises their small eigenvalues, so that the smallest is
    1e-3 of the mean diagonal; None refuses such blocks.
    Errors: DataError, ModelError.
    """
    if repair not in REPAIRS:
        raise ModelError(f"repair={repair!r}: None, 'ridge' or 'eigen'")
    number = isinstance(threshold, (int, float, np.integer, np.floating)) and not isinstance(threshold, bool)
    if not number or not 0.0 <= threshold < np.inf:
        raise ModelError(f"threshold={threshold!r}: a size of relationships, at least 0")
    if ids is not None and (isinstance(ids, (str, bytes)) or not np.iterable(ids)):
        raise DataError(f"ids={ids!r}: a list of people is needed")
    rows, cols, values, labels = _pairs(source, ids)
    matrix = _assemble(rows, cols, values, labels, threshold)
    family = _families(matrix)
    matrix, repaired = _mend(matrix, family, labels, repair)
    return Kinship(labels, matrix, family, repaired)


_Pairs = tuple[IntArray, IntArray, FloatArray, tuple[Any, ...]]


def _pairs(source: Any, ids: Sequence[Any] | None) -> _Pairs:
    """Places of the two people of each entry, its value, and labels."""
    if sp.issparse(source):
        return _of_matrix(source, ids, True)
    if not isinstance(source, (str, Path)):
        return _of_table(_as_table(source), ids)
    path = Path(source)
    if not path.is_file():
        raise DataError(f"no file {path}")
    try:
        if path.suffix == ".mtx":
            return _of_matrix(sp.coo_array(scipy.io.mmread(path)), ids, False)
        if path.name.endswith(".grm.sp"):
            return _of_gcta(path, ids)
        return _of_table(_read_pairs(path), ids)
    except (ValueError, OSError, csv.Error) as error:
        raise DataError(f"{path.name}: {error}") from error


def _as_table(source: Any) -> pd.DataFrame:
    """Errors: DataError for anything else, a dense matrix among it."""
    try:
        table = pd.DataFrame(source)
    except (TypeError, ValueError) as error:
        kind = type(source).__name__
        raise DataError(f"kinship: a path, a table of pairs or a sparse matrix is needed, not {kind}") from error
    values = table.to_numpy()
    if len(table) and values.shape == values.T.shape and (values == values.T).all():
        raise DataError(
            f"kinship: a symmetric table of {len(table)} by {len(table)} is a matrix, not pairs: give it as "
            "scipy.sparse.csc_array(matrix), with ids="
        )
    return table


def _read_pairs(path: Path) -> pd.DataFrame:
    """Three columns with or without a line of names; ids are text unless all of them are plain whole numbers."""
    with path.open() as file:
        separated = any(mark in file.readline() for mark in ",;\t")
    table = pd.read_csv(path, sep=None if separated else r"\s+", engine="python", header=None, dtype=str)
    if table.shape[1] != 3:
        return table
    if pd.to_numeric(table[2].iloc[:1], errors="coerce").isna().iloc[0] and not pd.isna(table[2].iloc[0]):
        table = table.iloc[1:]
    people = pd.concat([table[0], table[1]])
    plain = bool(people.str.fullmatch(r"0|-?[1-9]\d{0,17}").all())
    return table.astype({0: np.int64, 1: np.int64, 2: np.float64} if plain else {2: np.float64})


def _of_matrix(matrix: Any, ids: Sequence[Any] | None, is_sum: bool) -> _Pairs:
    """is_sum: whether entries at the same place add up, as in scipy's matrices, or are one pair that stands twice."""
    entries, m = sp.coo_array(matrix, copy=True), matrix.shape[0]
    if entries.dtype.kind not in "biuf":
        raise DataError(f"kinship: relationships are real numbers, not {entries.dtype}")
    if is_sum:
        entries.sum_duplicates()
    if matrix.shape != (m, m):
        raise DataError(f"kinship: the matrix has shape {matrix.shape}; it must be square")
    labels = tuple(range(m)) if ids is None else tuple(ids)
    if len(labels) != m:
        raise DataError(f"kinship: {len(labels)} ids for a matrix of {m} people")
    _check_labels(pd.Index(labels))
    return entries.row.astype(np.int64), entries.col.astype(np.int64), entries.data.astype(np.float64), labels


def _of_gcta(path: Path, ids: Sequence[Any] | None) -> _Pairs:
    """Rows `i j value`, i and j from 0; the IID of each person in the file beside it."""
    table = pd.read_csv(path, sep=r"\s+", header=None, names=["i", "j", "value"])
    if not len(table):
        raise DataError(f"{path.name} is empty; it has a line for each person at least")
    beside = path.with_name(path.name[: -len(".sp")] + ".id")
    if ids is None:
        if not beside.is_file():
            raise DataError(f"no file {beside.name} beside it; give the people as ids=")
        people = pd.read_csv(beside, sep=r"\s+", header=None, dtype=str, keep_default_na=False)
        if people.iloc[0, 0].startswith("#"):  # PLINK 2 may write a line of names
            people = people.iloc[1:]
        if people.shape[1] < 2:
            raise DataError(f"{beside.name} has one column; family and person, FID and IID, are needed")
        ids = people[1].tolist()
    _check_labels(pd.Index(ids))
    given = table[["i", "j"]].to_numpy(dtype=np.float64)
    places = given.astype(np.int64)
    odd = (places != given) | (given < 0) | (given >= len(ids))
    if odd.any():
        raise DataError(f"person {given[odd][0]:g} is not among the {len(ids)} people of the ids, who count from 0")
    i, j = np.ascontiguousarray(places.T)
    return i, j, table["value"].to_numpy(dtype=np.float64), tuple(ids)


def _of_table(table: pd.DataFrame, ids: Sequence[Any] | None) -> _Pairs:
    if table.shape[1] != 3:
        raise DataError(f"kinship: a table of pairs has three columns (person, person, value), not {table.shape[1]}")
    one, two, values = (table.iloc[:, k] for k in range(3))
    if one.isna().any() or two.isna().any():
        raise DataError(f"kinship: {int((one.isna() | two.isna()).sum())} pairs have no name for one of their people")
    labels = pd.Index(pd.unique(pd.concat([one, two], ignore_index=True)) if ids is None else list(ids))
    _check_labels(labels)
    rows, cols = labels.get_indexer(one), labels.get_indexer(two)
    if (rows < 0).any() or (cols < 0).any():
        unknown = pd.concat([one[rows < 0], two[cols < 0]]).unique().tolist()
        raise DataError(f"kinship: {len(unknown)} people of the pairs are not in ids, the first is {unknown[0]!r}")
    try:
        numbers = values.to_numpy(dtype=np.float64)
    except ValueError as error:
        raise DataError(f"kinship: the third column is not numeric: {error}") from error
    return rows.astype(np.int64), cols.astype(np.int64), numbers, tuple(labels.tolist())


def _check_labels(labels: pd.Index) -> None:
    if not len(labels):
        raise DataError("kinship: there are no people")
    if not labels.is_unique:
        raise DataError(f"kinship: id {labels[labels.duplicated()][0]!r} stands twice in ids")


def _assemble(
    rows: IntArray, cols: IntArray, values: FloatArray, labels: tuple[Any, ...], threshold: float
) -> sp.csc_array:
    """The symmetric matrix, ones on the diagonal where there is none. Errors: DataError for pairs that contradict."""
    if not np.isfinite(values).all():
        raise DataError(f"kinship: {int((~np.isfinite(values)).sum())} relationships are infinite or missing")
    pairs = pd.DataFrame({"i": np.maximum(rows, cols), "j": np.minimum(rows, cols), "value": values})
    pairs = pairs.groupby(["i", "j"], sort=True)["value"].agg(["min", "max"]).reset_index()
    differ = pairs["max"] - pairs["min"] > ASYMMETRY * (pairs["max"].abs() + 1.0)
    if differ.any():
        one, two, low, high = pairs[differ].iloc[0]
        raise DataError(
            f"kinship: the pair {labels[int(one)]!r}, {labels[int(two)]!r} stands there twice: {low:g} and {high:g}"
        )
    pairs = pairs[(pairs["i"] == pairs["j"]) | (pairs["max"].abs() >= threshold)]
    i, j, value = (pairs[name].to_numpy() for name in ("i", "j", "max"))
    without = np.setdiff1d(np.arange(len(labels)), i[i == j])
    off = i != j
    row, col = np.concatenate([i, j[off], without]), np.concatenate([j, i[off], without])
    entries = np.concatenate([value, value[off], np.ones(len(without))])
    out = sp.csc_array((entries, (row, col)), shape=(len(labels),) * 2)
    out.eliminate_zeros()
    return out


def _families(matrix: sp.csc_array) -> IntArray:
    """Numbers of the connected components, (m,), from the largest on."""
    _, label = connected_components(matrix, directed=False)
    order = np.argsort(-np.bincount(label), kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return place[label]


def _mend(
    matrix: sp.csc_array, family: IntArray, labels: tuple[Any, ...], repair: str | None
) -> tuple[sp.csc_array, pd.DataFrame]:
    """The matrix with blocks repaired, and which. Errors: DataError naming blocks where none may be."""
    columns = ["family", "size", "smallest", "change"]
    alone = matrix.diagonal()
    if (alone <= 0.0).any():
        worst = int(alone.argmin())
        raise DataError(
            f"kinship: {labels[worst]!r} has relationship {alone[worst]:g} with itself; it must be positive"
        )
    bad = _indefinite(matrix)
    if not bad:
        return matrix, pd.DataFrame(columns=columns)
    if repair is None:
        raise DataError(_complaint([(people, smallest) for people, _, smallest in bad], labels))
    mend = _ridge if repair == "ridge" else _eigen
    blocks = [(people, mend(block)) for people, block, _ in bad]
    sizes = [float(np.abs(new - block).max()) for (_, new), (_, block, _) in zip(blocks, bad, strict=True)]
    rows = [(family[p[0]], len(p), smallest, size) for (p, _, smallest), size in zip(bad, sizes, strict=True)]
    return _replaced(matrix, blocks), pd.DataFrame(rows, columns=columns).sort_values("family", ignore_index=True)


def _indefinite(matrix: sp.csc_array) -> list[tuple[IntArray, FloatArray, float]]:
    """People, block and smallest eigenvalue of each family that is not positive definite."""
    out = []
    for nodes in _blocks(matrix):
        dense = _dense_blocks(matrix, nodes)
        values = np.linalg.eigvalsh(dense)
        bad = np.flatnonzero(values[:, 0] <= FLOOR * np.abs(values[:, -1]))
        out += [(nodes[b], dense[b], float(values[b, 0])) for b in bad]
    return out


def _replaced(matrix: sp.csc_array, blocks: list[tuple[IntArray, FloatArray]]) -> sp.csc_array:
    """The matrix with other blocks, people (s,) and values (s, s) of each."""
    keep = np.ones(matrix.shape[0], dtype=bool)
    keep[np.concatenate([people for people, _ in blocks])] = False
    old = matrix.tocoo()
    stays = keep[old.row]
    rows = np.concatenate([old.row[stays], *(np.repeat(people, len(people)) for people, _ in blocks)])
    cols = np.concatenate([old.col[stays], *(np.tile(people, len(people)) for people, _ in blocks)])
    values = np.concatenate([old.data[stays], *(block.ravel() for _, block in blocks)])
    return sp.csc_array((values, (rows, cols)), shape=matrix.shape)


def _ridge(block: FloatArray) -> FloatArray:
    """block + c I, with SMALLEST of the mean diagonal as the smallest eigenvalue."""
    return block + (_wanted(block) - np.linalg.eigvalsh(block)[0]) * np.eye(len(block))


def _eigen(block: FloatArray) -> FloatArray:
    """The nearest matrix in the Frobenius norm without smaller eigenvalues (Higham 1988)."""
    values, vectors = np.linalg.eigh(block)
    out = (vectors * np.maximum(values, _wanted(block))) @ vectors.T
    return (out + out.T) / 2


def _wanted(block: FloatArray) -> float:
    return SMALLEST * float(np.diag(block).mean())


def _complaint(bad: list[tuple[IntArray, float]], labels: tuple[Any, ...]) -> str:
    def name(people: IntArray) -> str:
        dots = ", ..." if len(people) > SHOWN else ""
        return f"{', '.join(repr(labels[i]) for i in people[:SHOWN])}{dots}"

    shown = "; ".join(f"{name(p)} ({len(p)} people, smallest eigenvalue {s:.3g})" for p, s in bad[:SHOWN])
    return (
        f"kinship: {len(bad)} families are not positive definite: {shown}. Identical twins and duplicates need one id; "
        "else lower the threshold, or ask for repair='ridge' or repair='eigen'"
    )
