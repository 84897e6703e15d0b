"""Finished blocks in a folder of Parquet parts, with a manifest of what they belong to, to be continued."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .._errors import DataError
from .._typing import AnyArray
from ..results import Fit
from .result import read_parquet, write_parquet

MANIFEST, FORMAT, VERSION = "manifest.json", "sparselmm scan", 1
SAME_FIT = 1e-5  # relative, of theta and sigma: the same fit on another machine or with other threads is closer


class Store:
    """Parts `part-000000.parquet`, ... of one scan. A part appears under its name only when it is whole."""

    def __init__(self, folder: Any, manifest: Mapping[str, Any]):
        if not isinstance(folder, (str, os.PathLike)):
            raise DataError(f"out={folder!r}: the path of a folder is needed")
        self.folder = Path(folder)
        path = self.folder / MANIFEST
        own = {"format": FORMAT, "version": VERSION, **manifest}
        if path.is_file():
            _check_same(_read_manifest(path), own, self.folder)
            return
        if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise DataError(f"out={str(folder)!r} is not empty and has no scan to continue; give a new folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(own, indent=1))
        os.replace(temporary, path)

    def load(self, number: int, markers: Sequence[str]) -> pd.DataFrame | None:
        """Part `number` if it is there. Errors: DataError where it has other markers."""
        path = self._path(number)
        if not path.is_file():
            return None
        table = read_parquet(path)
        if list(table["marker"].unique()) != list(dict.fromkeys(markers)):
            raise DataError(f"{path} has other markers than block {number} of these genotypes; give a new folder out=")
        return table

    def save(self, number: int, table: pd.DataFrame) -> None:
        """Write a part at once."""
        temporary = self._path(number).with_suffix(".tmp")
        write_parquet(table, temporary)
        os.replace(temporary, self._path(number))

    def _path(self, number: int) -> Path:
        return self.folder / f"part-{number:06d}.parquet"


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise DataError(f"{path} cannot be read: {error}; give a new folder out=") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT or found.get("version") != VERSION:
        raise DataError(f"{path} is no manifest of a scan by this version; give a new folder out=")
    return found


def _check_same(found: Mapping[str, Any], own: Mapping[str, Any], folder: Path) -> None:
    """DataError naming what differs."""
    for key in own:
        if not _same(found.get(key), own[key]):
            raise DataError(
                f"{folder} has a scan with another {key} ({found.get(key)} there, {own[key]} here); continue with the "
                "same null model, genotypes and options, or give a new folder out="
            )


def describe_fit(fit: Fit) -> dict[str, Any]:
    """What a null model is: formula, a digest of response and design, parameters."""
    spec = fit.spec
    designs = [t.Z if isinstance(t.Z, np.ndarray) else t.Z.data for t in spec.terms]
    columns = [t.columns for t in spec.terms]
    return {
        "formula": spec.formula or "from arrays",
        "rows": digest(spec.y, spec.X, spec.weights, spec.offset, *designs, *columns),
        "theta, sigma": [*fit.estimate.evaluation.theta.tolist(), fit.sigma],
    }


def digest(*arrays: AnyArray | None) -> str:
    """SHA-256 of arrays and their shapes."""
    out = hashlib.sha256()
    for array in arrays:
        out.update(b"none" if array is None else str(array.shape).encode() + np.ascontiguousarray(array).tobytes())
    return out.hexdigest()


def _same(a: Any, b: Any) -> bool:
    """Equal, floats to SAME_FIT."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= SAME_FIT * max(abs(a), abs(b), SAME_FIT)
    return bool(a == b)
