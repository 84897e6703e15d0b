"""Classic data sets of the mixed-model literature, shipped with the package (see PROVENANCE.md)."""

import difflib
import json
import lzma
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from .._errors import DataError

FOLDER = Path(__file__).parent
DTYPES = {"double": "float64", "integer": "int64"}


def dataset_names() -> list[str]:
    """Give the names that `load_dataset` knows."""
    return list(schema())


def load_dataset(name: str) -> pd.DataFrame:
    """Load a data set by name, upper or lower case, with R's types: a factor is a categorical in R's level order.

    Raises DataError for an unknown name.
    """
    known = {key.lower(): key for key in schema()}
    key = known.get(str(name).lower())
    if key is None:
        raise DataError(_unknown(str(name), known))
    return read_table(FOLDER / "data" / f"{key}.csv.xz", schema()[key]["columns"])


def read_table(path: Path, columns: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Read a compressed CSV whose columns are described as in schema.json."""
    with lzma.open(path) as file:
        return pd.read_csv(
            file,
            dtype={column: _dtype(entry) for column, entry in columns.items()},
            na_values=["NA"],
            keep_default_na=False,
        )


@cache
def schema() -> dict[str, dict[str, Any]]:
    """Read what is known of each data set: origin, rows, SHA-256 of the CSV, and type and levels of each column."""
    return json.loads((FOLDER / "schema.json").read_text())


def _dtype(entry: dict[str, Any]) -> Any:
    if entry["type"] == "factor":
        return pd.CategoricalDtype(entry["levels"], ordered=entry["ordered"])
    return DTYPES[entry["type"]]


def _unknown(name: str, known: dict[str, str]) -> str:
    close = [known[key] for key in difflib.get_close_matches(name.lower(), known)]
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    return f"there is no data set {name!r}.{hint} There are: {', '.join(known.values())}."
