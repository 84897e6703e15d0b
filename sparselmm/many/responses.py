"""Y in any of its forms -> blocks of columns in the order of the table's rows.

Accepted: an array or anything that slices like one (h5py, zarr, Dask, xarray), a pandas or polars table, AnnData, a
sparse matrix, or an iterator of tables, arrays or (names, array). Labels of samples are matched where both sides
have them; nothing is dropped or reordered without such labels.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd
import scipy.sparse as sp

from .._errors import DataError
from .._typing import FloatArray, IntArray

CELLS = 4_000_000  # of a block: 32 MB, so that a block with its copies stays in the caches' reach and memory is flat
SHOWN = 5  # labels named in an error


class Source(Protocol):
    """Columns of Y. samples: labels of its n_rows rows or None. names: of responses, None where they come in blocks."""

    samples: pd.Index | None
    names: pd.Index | None
    n_rows: int

    def blocks(self, order: IntArray | None, size: int) -> Iterator[tuple[pd.Index, FloatArray]]:
        """Names and values (n, b) of at most `size` columns at a time, rows in `order`; the values may be changed."""


class _Matrix:
    """Anything with a shape that gives columns lo ... hi-1 as an array."""

    def __init__(self, values: Any, names: Any, samples: pd.Index | None):
        self.values = sp.csc_array(values) if sp.issparse(values) else values
        if len(values.shape) != 2:
            raise DataError(f"Y must be a matrix, samples by responses, not of shape {tuple(values.shape)}")
        self.n_rows, v = values.shape
        self.names = pd.Index(range(v)) if names is None else pd.Index(names)
        self.samples = samples

    def blocks(self, order: IntArray | None, size: int) -> Iterator[tuple[pd.Index, FloatArray]]:
        for lo in range(0, len(self.names), size):
            part = self.values[:, lo : lo + size]
            part = part.toarray() if sp.issparse(part) else part
            names = self.names[lo : lo + size]
            yield names, _floats(part, order, names)


class _Stream:
    """An iterator of blocks, consumed once; rows of each are matched with `labels` of the table, if it has any."""

    samples, names = None, None

    def __init__(self, items: Iterable[Any], labels: pd.Index | None, n_rows: int):
        self.items, self.labels, self.n_rows = items, labels, n_rows

    def blocks(self, order: IntArray | None, size: int) -> Iterator[tuple[pd.Index, FloatArray]]:
        done = 0
        for item in self.items:
            given, values = item if isinstance(item, tuple) else (None, item)
            source = _open_matrix(values, None)
            rows = match(source, self.labels, self.n_rows)
            names = _names(given, source, done)
            keep = rows if order is None else order if rows is None else rows[order]
            for _, part in source.blocks(keep, size):
                yield names[: part.shape[1]], part
                names, done = names[part.shape[1] :], done + part.shape[1]


def _names(given: Any, source: _Matrix, done: int) -> pd.Index:
    if given is None:
        return source.names + done if isinstance(source.names, pd.RangeIndex) else source.names
    names = pd.Index(given)
    if len(names) != len(source.names):
        raise DataError(f"a block of Y has {len(source.names)} responses and {len(names)} names")
    return names


def open_responses(Y: Any, samples: str | None, layer: str | None, labels: pd.Index | None, n_rows: int) -> Source:
    """Y in one of its forms. samples: a column of Y's own that holds labels. layer: of AnnData, X if None.

    labels, n_rows: of the table. Errors: DataError.
    """
    if hasattr(Y, "obs_names") and hasattr(Y, "var_names"):
        if layer is not None and layer not in Y.layers:
            raise DataError(f"layer '{layer}' is not in Y; there are {', '.join(map(repr, Y.layers)) or 'none'}")
        return _Matrix(Y.X if layer is None else Y.layers[layer], Y.var_names, pd.Index(Y.obs_names))
    if layer is not None:
        raise DataError(f"layer='{layer}' is for AnnData; Y is {type(Y).__name__}")
    if not hasattr(Y, "shape") and isinstance(Y, Iterable) and not isinstance(Y, (Sequence, str)):
        return _Stream(Y, labels, n_rows)
    source = _open_matrix(Y, samples)
    if samples is not None and source.samples is None:
        raise DataError(f"samples='{samples}': the rows of Y have no labels; give a table, or leave samples= out")
    return source


def _open_matrix(Y: Any, samples: str | None) -> _Matrix:
    if hasattr(Y, "to_pandas") and hasattr(Y, "columns"):
        Y = Y.to_pandas()
    if hasattr(Y, "dims") and hasattr(Y, "indexes"):
        return _of_xarray(Y)
    if not isinstance(Y, pd.DataFrame):
        return _Matrix(Y if hasattr(Y, "shape") else np.asarray(Y), None, None)
    own = samples is not None and samples in Y.columns
    labels = pd.Index(Y[samples]) if own else Y.index if samples is None else pd.Index(list(Y.index))
    values = Y.drop(columns=samples) if own else Y
    odd = [c for c, kind in zip(values.columns, values.dtypes, strict=True) if kind.kind not in "iufb"]
    if odd:
        raise DataError(f"{len(odd)} columns of Y hold no numbers, the first is {odd[0]!r}; drop them or make numbers")
    nullable = any(pd.api.types.is_extension_array_dtype(kind) for kind in values.dtypes)
    array = values.to_numpy(dtype=np.float64, na_value=np.nan) if nullable else values.to_numpy()
    return _Matrix(array, values.columns, labels)


def _of_xarray(Y: Any) -> _Matrix:
    """Labels are those of the dimensions' coordinates, where there are any."""
    samples, names = (Y.indexes.get(dim) for dim in (*Y.dims, None, None)[:2])
    return _Matrix(Y.data, names, None if isinstance(samples, pd.RangeIndex) else samples)


def regroup(blocks: Iterable[tuple[pd.Index, FloatArray]], size: int) -> Iterator[tuple[pd.Index, FloatArray]]:
    """Blocks of exactly `size` columns but for the last, so that no result depends on how an iterator cut Y.

    Those that come have at most `size` columns.
    """
    held: list[tuple[pd.Index, FloatArray]] = []
    count = 0
    for block in blocks:
        held.append(block)
        count += len(block[0])
        if count >= size:
            names, Y = _together(held)
            yield names[:size], np.ascontiguousarray(Y[:, :size])
            count -= size
            held = [(names[size:], Y[:, size:])] if count else []
    if count:
        yield _together(held)


def _together(blocks: list[tuple[pd.Index, FloatArray]]) -> tuple[pd.Index, FloatArray]:
    names, parts = zip(*blocks, strict=True)
    return blocks[0] if len(blocks) == 1 else (names[0].append(list(names[1:])), np.hstack(parts))


def in_order(values: Any, labels: pd.Index | None, what: str) -> Any:
    """A Series as an array in the order of labels, where both are labelled; anything else as it is.

    Errors: DataError, as `match`.
    """
    if not isinstance(values, pd.Series) or labels is None:
        return values
    if any(isinstance(index, pd.RangeIndex) for index in (values.index, labels)):
        return values
    rows = match(_Matrix(values.to_frame(), None, values.index), labels, len(labels), what)
    return values.to_numpy() if rows is None else values.to_numpy()[rows]


def match(source: Source, labels: pd.Index | None, n_rows: int, what: str = "Y") -> IntArray | None:
    """Rows of Y in the order of the table; None where they are in it already. Errors: DataError, with the labels."""
    if source.samples is None or labels is None or _only_numbered(source.samples, labels):
        if isinstance(source, _Matrix) and source.n_rows != n_rows:
            turned = f"; it has {n_rows} columns: transpose it" if source.values.shape[1] == n_rows else ""
            raise DataError(f"{what} has {source.n_rows} rows (samples), the table has {n_rows}{turned}")
        return None
    for where, index in ((what, source.samples), ("the table", labels)):
        if index.has_duplicates:
            raise DataError(f"sample {index[index.duplicated()][0]!r} is in {where} more than once")
    found = source.samples.get_indexer(labels)
    _check_found(labels[found < 0], "the table", what, "drop these rows of the table")
    _check_found(source.samples.difference(labels, sort=False), what, "the table", f"leave these rows of {what} out")
    return None if (found == np.arange(len(found))).all() else found.astype(np.int64)


def _only_numbered(one: pd.Index, other: pd.Index) -> bool:
    """Whether rows go by their order, since one side has no labels but row numbers (a RangeIndex).

    Errors: DataError where the other side has the same numbers in another order: a table that was sorted or shuffled.
    """
    if not any(isinstance(index, pd.RangeIndex) for index in (one, other)):
        return False
    if len(one) == len(other) and not one.equals(other) and one.is_unique and one.isin(other).all():
        raise DataError(
            "the rows of Y and of the table have the same numbers in another order: give both labels (an index of "
            "text, or samples=), or say that rows go by their order: reset_index(drop=True)"
        )
    return True


def _check_found(lost: pd.Index, where: str, other: str, way_out: str) -> None:
    if len(lost):
        shown = ", ".join(map(repr, lost[:SHOWN].tolist())) + (", ..." if len(lost) > SHOWN else "")
        raise DataError(f"{len(lost)} samples of {where} are not in {other}: {shown}; {way_out}")


def _floats(values: Any, order: IntArray | None, names: pd.Index) -> FloatArray:
    """A fresh C-ordered copy with rows in `order`."""
    masked = isinstance(values, np.ma.MaskedArray) and values.dtype.kind in "iufb"
    array = values.astype(np.float64).filled(np.nan) if masked else np.asarray(values)
    if array.dtype.kind not in "iufb":
        raise DataError(f"response '{names[0]}': values of type {array.dtype} are no numbers")
    array = array if order is None else array[order]
    return np.array(array, dtype=np.float64, order="C")
