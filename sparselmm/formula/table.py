"""Read the columns that a formula uses, from any table, into pandas columns of three kinds.

Numbers become float64 or integers, true/false stays boolean, everything else is a categorical without unused
levels (text and the like with sorted levels), so that what follows never depends on where the table came from.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from .._errors import DataError
from .._typing import BoolArray, FloatArray
from .names import unknown_column

_DATES = "mM"
_KINDS = dict.fromkeys("iuf", "numbers") | dict.fromkeys(_DATES, "dates") | {"b": "true/false values"}
_PLAIN = {"b": np.bool_, "i": np.int64, "u": np.uint64, "f": np.float64}


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows without missing values: the columns used, and which of the table's rows they are.

    frame: the columns, index 0 ... n-1. keep: for every row of the table whether it is here.
    arrays: what was given beside the table (weights, offset), the same rows.
    missing: how many values each column or array lacks.
    """

    frame: pd.DataFrame
    keep: BoolArray
    arrays: Mapping[str, FloatArray]
    missing: Mapping[str, int]

    @property
    def n_dropped(self) -> int:
        """Rows with a missing value in a column or array that is used."""
        return len(self.keep) - int(self.keep.sum())

    def need_some(self) -> None:
        """DataError when no row is left, with the column that lacks most values."""
        if len(self.frame) == 0:
            worst = max(self.missing, key=lambda what: self.missing[what])
            raise DataError(
                f"nothing left to fit: all {self.n_dropped} rows have missing values; most are in '{worst}' "
                f"({self.missing[worst]} of {len(self.keep)})"
            )


def open_table(data: Any) -> nw.DataFrame[Any]:
    """`data` as a narwhals frame; DataError for anything that is no table with names for its columns."""
    try:
        frame = nw.from_native(data, eager_only=True)
    except TypeError as error:
        kind = f"{type(data).__module__}.{type(data).__qualname__}{_way_to_a_table(data)}"
        raise DataError(f"data must be a table (pandas, polars or pyarrow), not {kind}") from error
    except nw.exceptions.DuplicateError as error:
        twice = ", ".join(line.removeprefix("- ") for line in str(error).splitlines()[1:4])
        raise DataError(f"columns of the table have the same name ({twice}): rename them") from error
    odd = [c for c in frame.columns if not isinstance(c, str)]
    if odd:
        raise DataError(f"{len(odd)} column names are not text, the first is {odd[0]!r}: rename these columns")
    return frame


def _way_to_a_table(data: Any) -> str:
    if hasattr(data, "collect"):
        return "; collect it first"
    if isinstance(data, str | Path):
        return "; read the file first, as with pandas.read_csv"
    if isinstance(data, pd.Series):
        return "; data.to_frame() makes a table of a column, data.to_frame().T of a row"
    if isinstance(data, Mapping) and data and all(np.ndim(values) == 0 for values in data.values()):
        return "; pandas.DataFrame([data]) makes a table of one row"
    if isinstance(data, Mapping | list | np.ndarray):
        return "; pandas.DataFrame(data), with names for the columns, makes one of it"
    return ""


def read_rows(
    table: nw.DataFrame[Any],
    columns: Sequence[str],
    arrays: Mapping[str, FloatArray] | None = None,
    group_columns: Collection[str] = (),
    time_columns: Collection[str] = (),
) -> Rows:
    """The rows of `table` that have a value in every one of `columns` and `arrays`.

    group_columns: columns that only group, which may hold dates. time_columns: columns that are only times, where a
    category without rows is a gap and stays. Errors: DataError, naming the column, for infinite
    values, dates as a covariate, or a column that is not there; nothing left is not an error here.
    """
    known = table.columns
    for column in columns:
        if column not in known:
            check_not_index(column, table)
            raise unknown_column(column, known)
    arrays = arrays or {}
    series = {c: table.get_column(c) for c in columns}  # one by one: select() would copy them all
    gaps = {c: _missing(s) for c, s in series.items()} | {what: np.isnan(values) for what, values in arrays.items()}
    missing = {what: int(lacks.sum()) for what, lacks in gaps.items()}
    keep = np.ones(len(table), dtype=np.bool_)
    for what in (what for what, count in missing.items() if count):
        keep &= ~gaps[what]
    if any(missing.values()):
        rows = np.flatnonzero(keep)
        series = {c: s[rows] for c, s in series.items()}
        arrays = {what: values[keep] for what, values in arrays.items()}
    frame = {c: _column(s, c in group_columns, c in time_columns) for c, s in series.items()}
    return Rows(pd.DataFrame(frame, index=range(int(keep.sum())), copy=False), keep, arrays, missing)


def check_not_index(column: str, table: nw.DataFrame[Any]) -> None:
    """DataError where `column`, which is no column, is the index of a pandas table."""
    if column in getattr(getattr(table.to_native(), "index", None), "names", ()):
        raise DataError(f"'{column}' is the index of the table, not a column: take data.reset_index()")


def as_vector(values: ArrayLike, n: int, what: str) -> FloatArray:
    """`values` as n floats; DataError naming `what` where it cannot be."""
    try:
        out = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{what} must be a column name or {n} numbers: {error}") from error
    if out.shape != (n,):
        raise DataError(f"unequal lengths: {what} has shape {out.shape}, the table has {n} rows")
    return out


def check_index(values: Any, table: nw.DataFrame[Any], what: str) -> None:
    """DataError where pandas labels the rows of a Series otherwise than those of the table: in which order are they?"""
    native = table.to_native()
    if isinstance(values, pd.Series) and isinstance(native, pd.DataFrame) and not values.index.equals(native.index):
        raise DataError(
            f"{what}: the Series has another index than the table. Make a column of the table of it, or give "
            f"{what}.to_numpy() where its rows are in the table's order"
        )


def numeric_column(table: nw.DataFrame[Any], column: str, what: str) -> FloatArray:
    """A column of `table` as floats, missing values as NaN; DataError if it is not there or holds no numbers."""
    rows = read_rows(table, [column])
    values = rows.frame[column]
    if values.dtype.kind not in "iuf":
        raise DataError(f"{what}: column '{column}' holds {kind_of(values)}, not numbers")
    out = np.full(len(rows.keep), np.nan)
    out[rows.keep] = values
    return out


def kind_of(values: Any) -> str:
    """What a column or an array holds, in words."""
    kind = values.dtype.kind if hasattr(values, "dtype") else np.asarray(values).dtype.kind
    return _KINDS.get(kind, "text or categories")


def _missing(series: nw.Series[Any]) -> BoolArray:
    """Which values are missing, (n,), or (0,) where the kind of column has none."""
    native = series.to_native()
    if isinstance(native, pd.Series) and isinstance(native.dtype, np.dtype) and native.dtype.kind in "iufb":
        values = native.to_numpy()
        return np.isnan(values) if values.dtype.kind == "f" else np.zeros(0, dtype=np.bool_)
    gaps = series.is_null().to_numpy().astype(np.bool_)
    if series.dtype.is_float():
        gaps |= series.is_nan().fill_null(False).to_numpy().astype(np.bool_)
    return gaps


def _column(series: nw.Series[Any], only_groups: bool, only_times: bool) -> pd.Series:
    name = series.name
    values = _to_pandas(series).copy(deep=False)  # a view, with rows numbered anew
    values.index = pd.RangeIndex(len(values))
    if isinstance(values.dtype, pd.CategoricalDtype):
        used = values if only_times or _all_used(values) else values.cat.remove_unused_categories()
        return used.cat.rename_categories(used.cat.categories.tolist())
    if values.dtype.kind == "O" or pd.api.types.is_string_dtype(values.dtype):
        values = _from_objects(values, name)
    if values.dtype.kind in _PLAIN and values.dtype != _PLAIN[values.dtype.kind]:
        values = values.astype(_PLAIN[values.dtype.kind])
    if values.dtype.kind == "f":
        if not np.isfinite(values.to_numpy()).all():  # missing ones are not here any more
            infinite = int(np.isinf(values.to_numpy()).sum())
            raise DataError(f"column '{name}' has {infinite} infinite values: drop or mend these rows")
    if values.dtype.kind in _DATES and not only_groups:
        raise DataError(f"column '{name}' holds dates: make numbers of them first, such as days since the start")
    if values.dtype.kind == "c":
        raise DataError(f"column '{name}' holds complex numbers")
    return values


def _all_used(values: pd.Series) -> bool:
    """Whether every category occurs."""
    seen = np.zeros(len(values.cat.categories) + 1, dtype=np.bool_)
    seen[values.cat.codes.to_numpy()] = True  # -1, a missing value, marks the last place
    return bool(seen[:-1].all())


def _to_pandas(series: nw.Series[Any]) -> pd.Series:
    if series.implementation.is_pyarrow():
        return series.to_native().to_pandas()  # keeps the order of a dictionary, unlike series.to_pandas()
    if not series.implementation.is_polars():
        return series.to_pandas()
    if isinstance(series.dtype, nw.Enum):
        return pd.Series(pd.Categorical(series.to_list(), categories=list(series.dtype.categories)))
    if series.dtype in (nw.String, nw.Categorical):
        return pd.Series(np.array(series.to_list(), dtype=object), dtype=object)
    return pd.Series(series.to_numpy())


def _from_objects(values: pd.Series, name: str) -> pd.Series:
    kind = "string" if values.dtype.kind != "O" else pd.api.types.infer_dtype(values, skipna=False)
    if kind in ("decimal", "integer", "floating", "mixed-integer-float"):
        return values.astype(np.float64 if kind != "integer" else np.int64)
    if kind == "boolean":
        return values.astype(np.bool_)
    if kind in ("date", "datetime"):
        return pd.to_datetime(values)
    try:
        codes, levels = pd.factorize(values, sort=True)
    except TypeError as error:
        raise DataError(f"column '{name}' holds values that cannot be sorted into levels: {error}") from error
    return pd.Series(pd.Categorical.from_codes(codes, categories=levels.tolist()))
