"""Finished blocks in a folder of Parquet parts, with a manifest of what they belong to, to be continued.

Each part has a checksum of its block of genotypes, and of its own pages: one that cannot be read is made again, one of
other genotypes is refused.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from .._errors import DataError
from .._typing import AnyArray
from ..results import Fit
from ..terms import ModelSpec
from .result import parquet

MANIFEST, FORMAT, VERSION = "manifest.json", "sparselmm scan", 3
BLOCK = b"sparselmm block"  # where a part has the checksum of its genotypes
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
        temporary = path.with_suffix(".tmp")
        if self.folder.exists() and (not self.folder.is_dir() or {*self.folder.iterdir()} - {temporary}):
            raise DataError(f"out={str(folder)!r} is not empty and has no scan to continue; give a new folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(own, indent=1))
        os.replace(temporary, path)

    def load(self, number: int, checksum: str) -> pd.DataFrame | None:
        """Part `number` if it is there and can be read. Errors: DataError where it is of other genotypes."""
        pa, pq = parquet()
        path = self._path(number)
        if not path.is_file():
            return None
        try:
            table = pq.read_table(path, page_checksum_verification=True)
            found, frame = table.schema.metadata[BLOCK].decode(), table.to_pandas()
        except (pa.ArrowException, OSError, ValueError, KeyError):  # broken off, or changed on the disk
            return None
        if found != checksum:
            raise DataError(f"{path} is of other genotypes than block {number} of these; give a new folder out=")
        return frame

    def save(self, number: int, checksum: str, table: pd.DataFrame) -> None:
        """Write a part at once."""
        pa, pq = parquet()
        part = pa.Table.from_pandas(table, preserve_index=False)
        part = part.replace_schema_metadata({**part.schema.metadata, BLOCK: checksum.encode()})
        temporary = self._path(number).with_suffix(".tmp")
        pq.write_table(part, temporary, write_page_checksum=True)
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
    """What a null model is: formula, a digest of response, design and structures, parameters."""
    return {
        "formula": fit.spec.formula or "from arrays",
        "rows": digest(*_contents(fit.spec)),
        "criterion": "REML" if fit.reml else "ML",
        "parameters": list(fit.theta.index),
        "theta, sigma": [*fit.estimate.evaluation.theta.tolist(), fit.sigma],
    }


def _contents(spec: ModelSpec) -> Iterator[AnyArray | None]:
    """Arrays of a model. Precisions in single precision: LAPACK with other threads rounds their inverses otherwise."""
    yield from (spec.y, spec.weights, spec.offset, *_arrays(spec.X), *_arrays(spec.S))
    for term in spec.terms:
        yield from (*_arrays(term.Z), term.columns)
        if term.Q is not None:
            yield from (*term.Q.pattern(), term.Q.values(term.Q.start()).astype(np.float32))
    if spec.residual is not None:
        of = spec.residual
        yield from (of.later, of.earlier, of.row_class, of.link_class, *of.values(of.start()))


def _arrays(x: Any) -> list[AnyArray | None]:
    """Those of a sparse matrix, or the array."""
    if not sp.issparse(x):
        return [x]
    x = sp.csc_array(x)
    return [x.data, x.indices, x.indptr]


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
