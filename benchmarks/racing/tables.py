"""Tables on disk that Python and R read with what they bring along: a file of numbers for each column.

`columns.txt` has a line `name kind levels` for each column. kind "float": float64; "group" and "factor": int32 codes
0 ... levels - 1, the labels of random effects and the categories of fixed ones.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

Columns = dict[str, np.ndarray]
TYPES = {"float": np.dtype("<f8"), "group": np.dtype("<i4"), "factor": np.dtype("<i4")}


def write(folder: Path, chunks: Iterable[Columns], factors: Iterable[str] = ()) -> int:
    """Append the chunks of a table to `folder`, each as it comes, and count the rows.

    Columns of integers are groups, or factors if named so; the codes of every one must be 0 ... max, all used.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kinds: dict[str, str] = {}
    seen: dict[str, np.ndarray] = {}
    rows = 0
    for chunk in chunks:
        for name, values in chunk.items():
            kind = "float" if values.dtype.kind == "f" else "factor" if name in factors else "group"
            with (folder / f"{name}.bin").open("ab" if name in kinds else "wb") as file:
                values.astype(TYPES[kind]).tofile(file)
            if kind != "float":
                seen[name] = np.union1d(seen.get(name, values[:0]), values)
            kinds[name] = kind
        rows += len(values)
    _check_codes(seen)
    lines = [f"{name} {kind} {len(seen.get(name, ()))}" for name, kind in kinds.items()]
    (folder / "columns.txt").write_text("\n".join(lines) + "\n")
    return rows


def _check_codes(seen: dict[str, np.ndarray]) -> None:
    for name, codes in seen.items():
        if codes[0] != 0 or codes[-1] != len(codes) - 1:
            raise ValueError(f"{name}: {len(codes)} codes from {codes[0]} to {codes[-1]}: some are never used")


def levels(folder: Path) -> dict[str, int]:
    """Name of each column -> how many levels it has, 0 for numbers."""
    return {name: int(count) for name, _, count in _lines(folder)}


def pandas(folder: Path) -> Any:
    """The table as a pandas DataFrame: groups are int64, factors categories "0", "1", ..."""
    import pandas as pd

    frame = {name: _read(folder, name, kind) for name, kind, _ in _lines(folder)}
    for name, kind, count in _lines(folder):
        if kind == "group":
            frame[name] = frame[name].astype(np.int64)
        elif kind == "factor":
            frame[name] = pd.Categorical.from_codes(frame[name], [str(i) for i in range(int(count))])
    return pd.DataFrame(frame)


def polars(folder: Path) -> Any:
    """The table as a polars DataFrame: groups are int64, factors strings."""
    import polars as pl

    out = {}
    for name, kind, _ in _lines(folder):
        values = _read(folder, name, kind)
        out[name] = values.astype(str) if kind == "factor" else values.astype(np.int64 if kind == "group" else float)
    return pl.DataFrame(out)


def _lines(folder: Path) -> list[list[str]]:
    return [line.split() for line in (folder / "columns.txt").read_text().splitlines()]


def _read(folder: Path, name: str, kind: str) -> Any:
    return np.fromfile(folder / f"{name}.bin", dtype=TYPES[kind])
