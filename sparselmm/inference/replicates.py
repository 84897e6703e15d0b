"""Replicates of a bootstrap in memory, and in a file of JSON lines that can be continued."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .._errors import DataError, ModelError

if TYPE_CHECKING:
    from ..results import Fit

FORMAT, VERSION = "sparselmm bootstrap", 1
SAME_FIT = 1e-6  # relative: the same fit on another machine or with other threads agrees to far more digits


@dataclass(frozen=True, slots=True)
class Replicate:
    """Number i, its estimates, and the facts of its fit."""

    i: int
    values: tuple[float, ...]
    converged: bool
    singular: bool


@dataclass(frozen=True, slots=True)
class Header:
    """What replicates belong to. estimates: the last one is sigma. seed: None where any will do."""

    names: tuple[str, ...]
    estimates: tuple[float, ...]
    nobs: int
    reml: bool
    effects: str
    seed: int | None
    format: str = FORMAT
    version: int = VERSION

    @classmethod
    def of(cls, fit: "Fit", estimates: pd.Series, effects: str, seed: Any) -> "Header":
        """Errors: ModelError for a seed that is no whole number."""
        whole = isinstance(seed, (int, np.integer)) and not isinstance(seed, bool)
        if seed is not None and not (whole and seed >= 0):
            raise ModelError(f"seed={seed!r}: a whole number from 0 on, or None")
        seed = None if seed is None else int(seed)
        return cls(tuple(estimates.index), tuple(estimates.tolist()), fit.nobs, fit.reml, effects, seed)

    @classmethod
    def read(cls, line: str, path: Path) -> "Header":
        """Errors: DataError for a file of another kind."""
        try:
            given = json.loads(line)
            if given["format"] == FORMAT and given["version"] == VERSION:
                return cls(**given | {key: tuple(given[key]) for key in ("names", "estimates")})
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is no file of bootstrap replicates; give another file=") from error
        raise DataError(
            f"{path}: format {given['format']!r}, version {given['version']}; this one is {FORMAT} {VERSION}"
        )

    def check(self, other: "Header", path: Path) -> None:
        """DataError where `other`, of the file, belongs to another fit or another seed."""
        for key in ("names", "nobs", "reml", "effects"):
            if getattr(self, key) != getattr(other, key):
                raise DataError(
                    f"{path} has replicates of another fit: {key} is {getattr(other, key)} there and "
                    f"{getattr(self, key)} here; give another file="
                )
        near = SAME_FIT * self.estimates[-1]  # in units of sigma, whatever those of the response are
        if not np.allclose(self.estimates, other.estimates, rtol=SAME_FIT, atol=near, equal_nan=True):
            raise DataError(f"{path} has replicates of a fit with other estimates; give another file=")
        if self.seed is not None and self.seed != other.seed:
            raise DataError(f"{path} was begun with seed={other.seed}, not {self.seed}; leave seed= out to continue it")


@dataclass(slots=True)
class Store:
    """Finished replicates by number; path: where each new one is written at once, None for memory alone."""

    seed: int
    done: dict[int, Replicate] = field(default_factory=dict)
    path: Path | None = None

    @classmethod
    def open(cls, file: Any, header: Header) -> "Store":
        """Continue `file`, or begin it. A last line that was cut off is dropped. Errors: DataError."""
        path = None if file is None else _path(file)
        if path is None or not path.exists():
            fresh = int(np.random.SeedSequence().entropy) if header.seed is None else header.seed  # type: ignore[arg-type]
            if path is not None:
                _begin(path, _line(asdict(header) | {"seed": fresh}))
            return cls(fresh, path=path)
        text = _read(path)
        first, *lines = text.splitlines(keepends=True) or [""]
        found = Header.read(first, path)
        header.check(found, path)
        whole = [line for line in lines if line.endswith("\n")]
        done = [_replicate(line, number, path) for number, line in enumerate(whole, 2)]
        if not text.endswith("\n"):
            path.write_text("".join([first.rstrip("\n") + "\n", *whole]), encoding="utf-8")
        assert found.seed is not None
        return cls(found.seed, {r.i: r for r in done}, path)

    def add(self, replicate: Replicate) -> None:
        """Keep it, and write it."""
        self.done[replicate.i] = replicate
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as out:
                out.write(_line(asdict(replicate)))


def _path(file: Any) -> Path:
    try:
        return Path(file)
    except TypeError as error:
        raise ModelError(f"file={file!r}: a path, or None") from error


def _begin(path: Path, line: str) -> None:
    try:
        path.write_text(line, encoding="utf-8")
    except OSError as error:
        raise DataError(f"replicates cannot be written to {path}: {error}") from error


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"replicates cannot be read from {path}: {error}; give another file=") from error


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record) + "\n"


def _replicate(line: str, number: int, path: Path) -> Replicate:
    try:
        given = json.loads(line)
        return Replicate(**given | {"values": tuple(map(float, given["values"]))})
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}, line {number}, is no replicate: the file is damaged") from error
