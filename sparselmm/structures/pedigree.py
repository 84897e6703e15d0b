"""Pedigrees: additive genetic relationships A between animals, through the sparse A^-1."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from .._errors import DataError
from .._typing import AnyArray, FloatArray, IntArray
from ..engines.threads import parallel
from ..kernels import pedigree as kernels
from .fixed import FixedPrecision

SMALLEST = 1e-12  # Mendelian variance after 40 generations of selfing; what is smaller has lost all digits
UNKNOWN = {"numbers": (0,), "text": ("0", "", ".")}
EXACT_FLOAT = 2**53
CANDIDATES = 20_000  # ids among which a close match is looked for


@dataclass(frozen=True, slots=True, eq=False, init=False, repr=False)
class Pedigree:
    """Animals with their parents, sorted by generation, for `ped(1 | animal, P)`.

    id, sire, dam: columns of equal length (lists, NumPy, pandas, polars), rows in any order; ids are whole numbers or
    text. A missing parent is unknown. So is 0, "0", "" or "." among the parents where no row has that id
    (`unknown_codes` has those that occurred). Parents without a row become founders (`n_added`); rows that
    say the same again count once (`n_merged`).
    inbreeding: False ignores it, F = 0 (then A differs from the true one where parents are inbred).
    groups: groups of the unknown parents, that is phantom parents (Westell, Quaas & Van Vleck 1988): a column for both
    parents, two columns (of sires, of dams) as a tuple or table, or a mapping from id to a group or such a pair.
    monoecious: True lets plants be sire and dam, also of the same offspring (selfing).

    ids: (n,), parents before offspring. parents: (n, 2) positions of sire and dam, -1 unknown. generation: (n,), 0 for
    founders. F, d: (n,) inbreeding and Mendelian sampling variance. group_labels: (g,). group_codes: (n, 2), -1 where
    the parent is known.

    Errors: DataError, with the ids, for a loop, an animal that is its own parent, or both sire and dam, or twice there
    with different parents; for columns that do not match; for an unknown parent without a group.
    """

    ids: pd.Index
    parents: IntArray
    generation: IntArray
    F: FloatArray
    d: FloatArray
    uses_inbreeding: bool
    group_labels: tuple[Any, ...]
    group_codes: IntArray
    n_added: int
    n_merged: int
    unknown_codes: tuple[Any, ...]

    def __init__(
        self, id: Any, sire: Any, dam: Any, *, inbreeding: bool = True, groups: Any = None, monoecious: bool = False
    ):
        rows = _read(id, sire, dam)
        row_groups = _group_table(groups, rows.labels[rows.animal])
        first = _first_rows(rows, row_groups)
        n, n_listed = len(rows.labels), len(first)
        parents = np.full((n, 2), -1)
        parents[:n_listed] = rows.parents[first]
        _check_parents(parents, rows.labels, monoecious)
        generation = _generations(parents, rows.labels)
        added_groups = _group_table(groups if isinstance(groups, Mapping) else None, rows.labels[n_listed:])
        group_table = np.vstack([row_groups[first], added_groups])
        group_codes, group_labels = _code_groups(group_table, parents, rows.labels, groups is not None)
        order = np.argsort(generation, kind="stable")
        place = np.empty(n + 1, np.int64)
        place[order], place[-1] = np.arange(n), -1
        sorted_parents = place[parents[order]]
        F, d = _inbreeding(sorted_parents, generation[order], inbreeding)
        values = (
            rows.labels[order], sorted_parents, generation[order], F, d, bool(inbreeding), group_labels,
            group_codes[order], n - n_listed, len(rows.animal) - n_listed, rows.unknown_codes,
        )  # fmt: skip
        for name, value in zip(self.__slots__, values, strict=True):
            if isinstance(value, np.ndarray):
                value.setflags(write=False)
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        added = f" ({self.n_added:,} added)" if self.n_added else ""
        F = f"F mean {self.F.mean():.4g}, max {self.F.max():.4g}" if self.uses_inbreeding else "inbreeding ignored"
        groups = f", {len(self.group_labels)} groups of unknown parents" if self.group_labels else ""
        return (
            f"Pedigree({len(self):,} animals, {self.n_founders:,} founders{added}, {self.n_generations} generations, "
            f"{F}{groups})"
        )

    @property
    def n_founders(self) -> int:
        """Animals whose parents are both unknown."""
        return int((self.generation == 0).sum())

    @property
    def n_generations(self) -> int:
        """1 + the longest path from an animal to a founder."""
        return int(self.generation[-1]) + 1

    @property
    def inbreeding(self) -> pd.Series:
        """F of every animal, by id (zeros with inbreeding=False)."""
        return pd.Series(self.F, index=self.ids, name="inbreeding")

    @property
    def levels(self) -> list[Any]:
        """Labels of the levels of `precision()`: the ids, then the groups."""
        return [*self.ids.tolist(), *self.group_labels]

    def index(self, ids: Any) -> IntArray:
        """Positions of `ids` among `self.ids`; DataError naming those that are not in the pedigree."""
        wanted, kind = _column([ids] if np.ndim(ids) == 0 else ids, "ids")
        mine = "numbers" if self.ids.dtype.kind == "i" else "text"
        if kind not in (mine, ""):
            raise DataError(f"ids hold {kind}, those of the pedigree are {mine}: make them the same")
        positions = self.ids.get_indexer(pd.Index(wanted)).astype(np.int64)
        if (positions < 0).any():
            raise self._unknown(wanted[positions < 0], len(wanted))
        return positions

    def _unknown(self, missing: pd.Series, total: int) -> DataError:
        names = missing.unique().tolist()
        close = _close(names[0], self.ids) if isinstance(names[0], str) else ""
        return DataError(
            f"{len(missing):,} of {total:,} ids are not in the pedigree: {_some(names)}{close}. "
            "Add them to it, with missing parents if these are unknown, or drop their rows"
        )

    def relationship(self, ids: Any) -> pd.DataFrame:
        """A among `ids` (k x k), without the n x n matrix (Colleau 2002); the inverse of what `inverse()` gives."""
        where = self.index(ids)
        A = kernels.relationships(where, self.parents, self.generation, _bounds(self.generation), self.d)
        return pd.DataFrame(A, index=self.ids[where], columns=self.ids[where])

    def inverse(self) -> sp.csc_array:
        """A^-1 (n x n, both triangles) by Henderson's rules (Henderson 1976, Quaas 1976)."""
        return _symmetric(*kernels.henderson_inverse(self.parents, self._variances(), len(self)), len(self))

    def inverse_with_groups(self) -> sp.csc_array:
        """A^-1 with the groups as n, n+1, ...: an unknown parent is replaced by its group (Quaas 1988).

        [I, -Q]' A^-1 [I, -Q] for the contributions Q of groups to animals: rank n, null space [Q; I].
        """
        size = len(self) + len(self.group_labels)
        return _symmetric(*kernels.henderson_inverse(self._extended_parents(), self._variances(), size), size)

    def group_contributions(self) -> pd.DataFrame:
        """Q (n x g): the expected share of each group in each animal's genes; rows sum to one."""
        return pd.DataFrame(self._contributions(), index=self.ids, columns=list(self.group_labels))

    def precision(self) -> "PedigreePrecision":
        """A^-1 as the precision across animals and groups; intrinsic where there are groups."""
        d, size = self._variances(), len(self) + len(self.group_labels)
        rows, cols, values = kernels.henderson_inverse(self._extended_parents(), d, size)
        Q = self._contributions()
        # |B'KB| = |K| |BB'| off the null space, with B = [I, -Q], and |I + QQ'| = |I + Q'Q|
        logdet = -np.log(d).sum() + np.linalg.slogdet(np.eye(Q.shape[1]) + Q.T @ Q)[1]
        return PedigreePrecision((rows, cols), values, logdet, Q, (self.parents, d))

    def _extended_parents(self) -> IntArray:
        """Parents with unknown ones replaced by their group, numbered from n."""
        return np.where(self.group_codes >= 0, len(self) + self.group_codes, self.parents)

    def _contributions(self) -> FloatArray:
        n, g = len(self), len(self.group_labels)
        out = np.vstack([np.zeros((n, g)), np.eye(g)])
        parents, bounds = self._extended_parents(), _bounds(self.generation)
        for start, stop in zip(bounds[:-1], bounds[1:], strict=True) if g else ():
            out[start:stop] = 0.5 * out[parents[start:stop]].sum(axis=1)
        return out[:n]

    def _variances(self) -> FloatArray:
        inbred = np.flatnonzero(self.d < SMALLEST)
        if len(inbred):
            raise DataError(
                f"A is singular: the parents of {len(inbred):,} animals are inbred completely "
                f"({_some(self.ids[inbred].tolist())}). Join such a line to one level, or use inbreeding=False"
            )
        return self.d


class PedigreePrecision(FixedPrecision):
    """A^-1 of a pedigree, with a null space [Q; I] where unknown parents have groups; Q: (n, g) contributions.

    rules: parents (n, 2) and Mendelian variances d (n,), which make A.
    """

    unit_variance = True

    def __init__(
        self,
        pattern: tuple[IntArray, IntArray],
        values: FloatArray,
        logdet: float,
        Q: FloatArray,
        rules: tuple[IntArray, FloatArray],
    ):
        super().__init__(pattern, values, logdet, null_dim=Q.shape[1])
        self._contributions, self._rules = Q, rules

    def covariance_times(self, x: FloatArray) -> FloatArray:
        """A x, (n, c); only where there are no groups."""
        out = np.array(x, dtype=np.float64, order="C")
        kernels.relationship_times(*self._rules, out)
        return out

    def null_space(self) -> sp.csc_array:
        """An orthonormal basis, (n_levels, null_dim)."""
        basis, _ = np.linalg.qr(np.vstack([self._contributions, np.eye(self.null_dim)]))
        return sp.csc_array(basis)

    def pins(self) -> IntArray:
        """The groups."""
        return np.arange(self.n_levels - self.null_dim, self.n_levels)


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """The rows as given: animal (rows,) and parents (rows, 2) are positions in labels, -1 for unknown."""

    animal: IntArray
    parents: IntArray
    labels: pd.Index
    unknown_codes: tuple[Any, ...]


def _read(id: Any, sire: Any, dam: Any) -> _Rows:
    named = {"id": id, "sire": sire, "dam": dam}
    columns, kinds = zip(*(_column(values, name) for name, values in named.items()), strict=True)
    lengths = {name: len(column) for name, column in zip(named, columns, strict=True)}
    if len(set(lengths.values())) > 1:
        raise DataError(f"unequal lengths of the pedigree's columns: {lengths}")
    if lengths["id"] == 0 or kinds[0] == "":
        raise DataError(
            "the pedigree has no animals: every id is missing" if lengths["id"] else "the pedigree is empty"
        )
    for name, kind in zip(named, kinds, strict=True):
        if kind not in (kinds[0], ""):
            raise DataError(f"id holds {kinds[0]} and {name} holds {kind}: make them the same")
    missing = np.flatnonzero(columns[0].isna())
    if len(missing):
        raise DataError(f"{len(missing):,} ids of the pedigree are missing, the first in row {missing[0]}: drop them")
    blanks = [code for code in UNKNOWN[kinds[0]] if not (columns[0] == code).any()]
    unknown = [code for code in blanks if any((column == code).any() for column in columns[1:])]
    parents = [column.mask(column.isin(unknown)) if unknown else column for column in columns[1:]]
    same = [column.astype(columns[0].dtype) for column in (columns[0], *parents)]
    codes, labels = pd.factorize(pd.concat(same, ignore_index=True))
    table = codes.astype(np.int64).reshape(3, -1)
    index = pd.Index(labels, name="id")
    return _Rows(table[0], table[1:].T, index.astype(np.int64) if kinds[0] == "numbers" else index, tuple(unknown))


def _column(values: Any, what: str) -> tuple[pd.Series, str]:
    """`values` as whole numbers ("Int64") or text (object), and which: "numbers", "text", or "" if all are missing."""
    if not isinstance(values, pd.Series | pd.Index):
        values = np.asarray(values) if hasattr(values, "__array__") else list(values)
        if np.ndim(values) != 1 and isinstance(values, np.ndarray):
            raise DataError(f"{what} must be a column, it has shape {values.shape}")
    column = pd.Series(values).reset_index(drop=True)
    if column.isna().all():
        return column.astype(object), ""
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(object)
    kind = pd.api.types.infer_dtype(column, skipna=True)
    if kind == "string":
        return column.astype(object).where(column.notna(), None), "text"
    if kind not in ("integer", "floating", "mixed-integer-float", "decimal"):
        raise DataError(f"{what} holds {kind} values; ids are whole numbers, or text")
    return _whole(column, kind, what), "numbers"


def _whole(column: pd.Series, kind: str, what: str) -> pd.Series:
    """`column` as "Int64"; DataError where a number is not whole, or so large that floats cannot tell it."""
    if kind != "integer":
        numbers = column.astype("Float64").to_numpy(np.float64, na_value=np.nan)
        odd = np.flatnonzero(~np.isnan(numbers) & ((numbers != np.floor(numbers)) | (np.abs(numbers) >= EXACT_FLOAT)))
        if len(odd):
            raise DataError(
                f"{what} has {len(odd):,} values that are no whole numbers below 2^53, the first is "
                f"{numbers[odd[0]]}: give such ids as text"
            )
        column = pd.Series(numbers)
    return column.astype("Int64")


def _group_table(groups: Any, animals: pd.Index) -> AnyArray:
    """Labels of the groups of sire and dam of `animals`, (k, 2); None where there is none."""
    out = np.full((len(animals), 2), None, dtype=object)
    if isinstance(groups, Mapping):
        for i, animal in enumerate(animals.tolist()):
            given = groups.get(animal)
            out[i] = given if isinstance(given, tuple) else (given, given)
        return out
    pair = isinstance(groups, tuple) and len(groups) == 2 and np.ndim(groups[0]) == 1
    if groups is not None and not pair and np.ndim(groups) == 2:
        groups, pair = np.asarray(groups, dtype=object).T, True
        if len(groups) != 2:
            raise DataError(f"groups has {len(groups)} columns: one for both parents, or two, of sires and of dams")
    for c in range(2 if groups is not None else 0):
        column = pd.Series(groups[c] if pair else groups).convert_dtypes().tolist()
        if len(column) != len(animals):
            raise DataError(f"unequal lengths: groups has {len(column)} rows, the pedigree {len(animals)}")
        out[:, c] = column
    return out


def _first_rows(rows: _Rows, groups: AnyArray) -> IntArray:
    """First row of every animal listed; DataError where a later one differs."""
    first = np.empty(int(rows.animal.max()) + 1, np.int64)
    first[rows.animal[::-1]] = np.arange(len(rows.animal))[::-1]
    if len(first) == len(rows.animal):
        return first
    records = np.column_stack([rows.parents, pd.factorize(groups.ravel())[0].reshape(-1, 2)])
    differs = (records != records[first[rows.animal]]).any(axis=1)
    if differs.any():
        names = rows.labels[np.unique(rows.animal[differs])].tolist()
        raise DataError(
            f"{len(names):,} animals have several rows with different parents or groups: {_some(names)}. "
            "Keep the right one of each"
        )
    return first


def _code_groups(
    table: AnyArray, parents: IntArray, labels: pd.Index, wanted: bool
) -> tuple[IntArray, tuple[Any, ...]]:
    """Codes of the groups of unknown parents (n, 2), -1 elsewhere, and the labels; DataError where one has none."""
    codes, unknown = np.full(parents.shape, -1), (parents < 0) & wanted
    codes[unknown], names = pd.factorize(table[unknown])
    without = np.flatnonzero((unknown & (codes < 0)).any(axis=1))
    if len(without):
        raise DataError(
            f"{len(without):,} animals have an unknown parent without a group: {_some(labels[without].tolist())}. "
            "Give one for each; for animals without a row of their own, by a mapping from id to group"
        )
    return codes, tuple(names.tolist())


def _check_parents(parents: IntArray, labels: pd.Index, monoecious: bool) -> None:
    own = np.flatnonzero((parents == np.arange(len(parents))[:, None]).any(axis=1))
    if len(own):
        raise DataError(f"{len(own):,} animals are their own parent: {_some(labels[own].tolist())}")
    both = np.intersect1d(parents[:, 0], parents[:, 1])
    both = both[both >= 0]
    if len(both) and not monoecious:
        raise DataError(
            f"{len(both):,} animals are both sire and dam: {_some(labels[both].tolist())}. Mend their offspring, or "
            "for plants say monoecious=True; if this stands for an unknown parent, make it missing"
        )


def _generations(parents: IntArray, labels: pd.Index) -> IntArray:
    n = len(parents)
    stack, generation = np.empty(n, np.int64), np.empty(n, np.int64)
    length = kernels.number_generations(parents, stack, generation)
    if length:
        loop = list(map(repr, labels[stack[:length][::-1]].tolist()))
        shown = [*loop[:10], "..."] if length > 10 else [*loop, loop[0]]
        raise DataError(
            f"the pedigree has a loop of {length} animals, each a parent of the next: {' -> '.join(shown)}. "
            "Mend the parents of one of them"
        )
    return generation


def _inbreeding(parents: IntArray, generation: IntArray, wanted: bool) -> tuple[FloatArray, FloatArray]:
    if wanted:
        return kernels.inbreeding(parents, generation, _bounds(generation), parallel)
    F, d = np.zeros(len(parents)), np.empty(len(parents))
    kernels.mendelian_variances(parents, F, 0, len(F), d)
    return F, d


def _bounds(generation: IntArray) -> IntArray:
    """Where each generation starts, and n."""
    return np.searchsorted(generation, np.arange(generation[-1] + 2)).astype(np.int64)


def _symmetric(rows: IntArray, cols: IntArray, values: FloatArray, size: int) -> sp.csc_array:
    below = rows != cols
    full = (np.append(values, values[below]), (np.append(rows, cols[below]), np.append(cols, rows[below])))
    return sp.csc_array(full, shape=(size, size))


def _some(names: Sequence[Any]) -> str:
    return ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")


def _close(name: str, ids: pd.Index) -> str:
    near = ids if len(ids) <= CANDIDATES else ids[ids.str.startswith(name[:3])][:CANDIDATES]
    close = difflib.get_close_matches(name, near.tolist(), n=3)
    return f" (close to {name!r}: {', '.join(map(repr, close))})" if close else ""
