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
from ..results import Fit
from .result import read_parquet, write_parquet

MANIFEST, FORMAT, VERSION = "manifest.json", "sparselmm scan", 1
DIGITS = 6  # of theta and sigma: the same fit on another machine agrees to more


class Store:
    """Parts `part-000000.parquet`, ... of one scan. A part appears under its name only when it is whole."""

    def __init__(self, folder: Any, manifest: Mapping[str, Any]):
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
        if found.get(key) != own[key]:
            raise DataError(
                f"{folder} has a scan with another {key} ({found.get(key)} there, {own[key]} here); continue with the "
                "same null model, genotypes and options, or give a new folder out="
            )


def describe_fit(fit: Fit) -> str:
    """A digest of the null model: rows, response, design, and its parameters to some digits."""
    spec, digest = fit.spec, hashlib.sha256()
    for array in (spec.y, spec.X, spec.weights, spec.offset):
        digest.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
    for term in spec.terms:
        digest.update(term.describe().encode())
        digest.update(term.Z.tobytes() if isinstance(term.Z, np.ndarray) else term.Z.data.tobytes())
    parameters = [f"{x:.{DIGITS}g}" for x in (*fit.estimate.evaluation.theta, fit.sigma)]
    return (
        f"{spec.formula or 'arrays'}; {fit.nobs} rows; theta, sigma {' '.join(parameters)}; {digest.hexdigest()[:16]}"
    )
