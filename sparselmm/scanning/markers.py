"""Where genotypes come from: PLINK 1 files, tables and arrays, or any iterator of blocks.

Every source gives blocks of markers (k, samples), in bytes (-127 is missing, as bed-reader has it) or float64 (NaN).
"""

import hashlib
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import scipy.sparse as sp

from .._errors import DataError, ModelError
from .._typing import AnyArray, IntArray
from ..kernels.families import MISSING

ROWS = 2048  # samples that are transposed at a time, within the cache: 0.37 ms a marker of 100,000 people at once
MISSING_IN_FLOATS = (-9.0, -99.0, -999.0, -9999.0)  # PLINK's and others'; no dosage or standardised genotype
CODES_BESIDE_COUNTS = (5.0, 9.0, 99.0)  # where no count comes near them
CODES = 127  # whole numbers from here on (127, 129, 255, 999) are no counts of alleles
MAGIC = b"\x6c\x1b\x01"  # of a bed file, marker by marker
BIM = ["chromosome", "marker", "cm", "position", "allele", "other_allele"]


@dataclass(frozen=True, slots=True, eq=False)
class MarkerBlock:
    """info: a row a marker with `marker`, and what is known of chromosome, position, allele. raw: (k, samples)."""

    info: pd.DataFrame
    raw: AnyArray

    def __post_init__(self) -> None:
        if len(self.info) != len(self.raw):
            raise DataError(f"{len(self.info)} ids for {len(self.raw)} markers; blocks are samples by markers")

    def checksum(self) -> str:
        """Of genotypes, and of all that is known of the markers."""
        info = pd.util.hash_pandas_object(self.info, index=False).to_numpy()
        return f"{zlib.crc32(np.ascontiguousarray(self.raw).data):08x}{zlib.crc32(info.data):08x}"


class MarkerSource(Protocol):
    """samples: their ids, None without. info: a row a marker, None where only the blocks tell."""

    samples: pd.Index | None
    n_samples: int
    info: pd.DataFrame | None

    def fingerprint(self) -> str:
        """Of what is read: the same text for the same genotypes."""

    def blocks(self, size: int) -> Iterator[MarkerBlock]:
        """Blocks of about `size` markers, the same ones every time."""


def open_markers(genotypes: Any, samples: Any = None, markers: Any = None) -> MarkerSource:
    """The source that suits `genotypes`.

    A path: PLINK 1 files (.bed with .bim and .fam). A DataFrame: samples in rows, markers in columns. An array or a
    scipy sparse matrix (samples, markers). An iterator of (ids or a table with a column `marker`, array (samples, k)).
    samples: ids of the samples, instead of those that a source has; markers: ids, or a table with `marker`,
    `chromosome`, `position`, of tables and arrays. Errors: DataError, ModelError.
    """
    index = None if samples is None else pd.Index(samples)
    if isinstance(genotypes, (str, Path)):
        _no_markers(markers, "PLINK files have them in .bim")
        return Plink(Path(genotypes), index)
    if hasattr(genotypes, "to_pandas") and hasattr(genotypes, "columns"):
        genotypes = genotypes.to_pandas()
    if isinstance(genotypes, pd.DataFrame):
        if index is None and not genotypes.index.equals(pd.RangeIndex(len(genotypes))):
            index = genotypes.index
        return Table(_numbers(genotypes), index, genotypes.columns if markers is None else markers)
    if isinstance(genotypes, np.ndarray) or sp.issparse(genotypes):
        return Table(sp.csc_array(genotypes) if sp.issparse(genotypes) else genotypes, index, markers)
    if isinstance(genotypes, Iterable) and not isinstance(genotypes, Mapping) and not hasattr(genotypes, "shape"):
        _no_markers(markers, "each block of an iterator has its own")
        return Stream(genotypes, index)
    raise DataError(
        "genotypes are a path, a DataFrame, an array, a sparse matrix or an iterator of blocks, not "
        f"{type(genotypes).__name__}: give other arrays in blocks, ((ids[i:j], np.asarray(G[:, i:j])) for ...)"
    )


def _no_markers(markers: Any, why: str) -> None:
    if markers is not None:
        raise ModelError(f"markers= is for tables and arrays: {why}")


def _check_count(samples: pd.Index | None, n_samples: int) -> None:
    if samples is not None and len(samples) != n_samples:
        raise DataError(f"samples: {len(samples)} ids for genotypes of {n_samples} samples")


def _numbers(table: pd.DataFrame) -> AnyArray:
    """(samples, markers), NaN where a nullable column has no value. Errors: DataError for columns of something else."""
    odd = [column for column, kind in table.dtypes.items() if kind.kind not in "biuf"]
    if odd:
        raise DataError(f"{len(odd)} columns of the genotypes hold no numbers, the first is {odd[0]!r}")
    nullable = any(pd.api.types.is_extension_array_dtype(kind) for kind in table.dtypes)
    flags = {kind.kind == "b" for kind in table.dtypes}
    return table.to_numpy(dtype=np.float64, na_value=np.nan) if nullable or len(flags) > 1 else table.to_numpy()


def marker_info(markers: Any, count: int) -> pd.DataFrame:
    """A row a marker; names m0, m1, ... where there are none."""
    if hasattr(markers, "to_pandas") and hasattr(markers, "columns"):
        markers = markers.to_pandas()
    if isinstance(markers, pd.DataFrame):
        return _checked_info(markers)
    if isinstance(markers, str) or not (markers is None or np.iterable(markers)):
        raise DataError(f"markers={markers!r}: a list of ids or a table is needed")
    names = [f"m{i}" for i in range(count)] if markers is None else list(markers)
    return pd.DataFrame({"marker": [str(x) for x in names]})


def _checked_info(table: pd.DataFrame) -> pd.DataFrame:
    """With `marker`, and all that is no number or date, as text. Errors: DataError for names of columns."""
    names = [str(name) for name in table.columns]
    if "marker" not in names:
        raise DataError(f"markers: a table needs a column 'marker', it has {', '.join(names)}")
    if len(set(names)) < len(names):
        raise DataError(f"markers: a table needs columns of different names, not {', '.join(names)}")
    out = table.reset_index(drop=True).set_axis(names, axis=1)
    text = [name for name in names if out[name].dtype.kind not in "biufM" and name != "marker"]
    texts = {name: out[name].astype(object).map(str, na_action="ignore") for name in text}
    return out.assign(**texts, marker=out["marker"].map(str))


def by_marker(values: Any, n_samples: int | None = None) -> AnyArray:
    """(samples, k) -> (k, samples) contiguous, int8 or float64. Errors: DataError for other shapes, text, odd codes."""
    values = values.toarray() if sp.issparse(values) else values
    array = np.asarray(np.ma.filled(values.astype(np.float64), np.nan) if np.ma.isMaskedArray(values) else values)
    if array.ndim != 2 or (n_samples is not None and len(array) != n_samples):
        rows = "samples" if n_samples is None else f"{n_samples} samples"
        raise DataError(f"genotypes have shape {array.shape}; {rows} by markers are needed")
    if array.dtype.kind not in "biuf":
        raise DataError(f"genotypes are numbers (missing: {MISSING} in bytes, NaN else), not {array.dtype}")
    out = np.empty(array.shape[::-1], np.int8 if array.dtype in (np.int8, np.bool_) else np.float64)
    for first in range(0, len(array), ROWS):
        out[:, first : first + ROWS] = array[first : first + ROWS].T
    if array.dtype.kind in "iu" and out.dtype != np.int8:
        check_codes(out.min(axis=1, initial=0.0, where=out != MISSING), out.max(axis=1, initial=0.0))
    return out


def check_floats(lowest: AnyArray, largest: AnyArray) -> None:
    """DataError where a marker's least genotype (k,) of type float is a code for missing."""
    odd = lowest[np.isin(lowest, MISSING_IN_FLOATS)]
    if len(odd):
        raise DataError(f"genotypes have the number {odd[0]:g}, a code for missing: missing is NaN in floats")


def check_codes(lowest: AnyArray, largest: AnyArray) -> None:
    """DataError where a marker's least or largest genotype (k,), a whole number, is some other code for missing."""
    odd = [*lowest[lowest < 0], *largest[(largest >= CODES) & np.isfinite(largest)]]
    if odd:
        raise DataError(
            f"genotypes have the whole number {odd[0]:g}: {MISSING} is missing (or NaN in floats), others count alleles"
        )


def check_gap(raw: AnyArray, people: IntArray, lowest: AnyArray, largest: AnyArray) -> None:
    """DataError where all genotypes of a block (k, samples) are counts but for a code, twice as large at least or -1.

    Of BLUPF90 and FImpute (5), EIGENSTRAT and AlphaImpute (9), scikit-allel (-1). Counts of polyploids have the numbers
    between; -1, 0, 1 are another way to write genotypes.
    """
    low = lowest.min(initial=0.0)
    high = largest.max(initial=0.0, where=np.isfinite(largest))
    if low == -1.0 and high >= 2.0:
        code, beside = low, raw != np.floor(raw)
    elif low == 0.0 and high in CODES_BESIDE_COUNTS:
        code, beside = high, (raw > high / 2.0) & (raw != high)
    else:
        return
    if not (beside & ~np.isnan(raw))[:, people].any():
        raise DataError(
            f"genotypes have the number {code:g} beside counts of alleles: a code for missing, it seems. Missing is "
            f"{MISSING} in bytes, NaN in floats: np.where(G == {code:g}, np.nan, G). If it is none, give (G + 1) / 3"
        )


class Table:
    """An array or a sparse matrix (samples, markers) in memory."""

    def __init__(self, values: Any, samples: pd.Index | None, markers: Any):
        if values.ndim != 2:
            raise DataError(f"genotypes have shape {values.shape}; samples by markers are needed")
        by_marker(values[:1])
        _check_count(samples, values.shape[0])
        self._values, self.samples, self.n_samples = values, samples, values.shape[0]
        self.info: pd.DataFrame = marker_info(markers, values.shape[1])
        if len(self.info) != values.shape[1]:
            raise DataError(f"markers: {len(self.info)} ids for {values.shape[1]} columns of genotypes")

    def fingerprint(self) -> str:
        return fingerprint(self._values, self.info, self.samples)

    def blocks(self, size: int) -> Iterator[MarkerBlock]:
        for first in range(0, self._values.shape[1], size):
            part = slice(first, first + size)
            yield MarkerBlock(self.info.iloc[part], by_marker(self._values[:, part]))


class Stream:
    """An iterator of (ids, array) blocks, consumed once; its blocks stay as they are."""

    info = None

    def __init__(self, blocks: Iterable[Any], samples: pd.Index | None):
        self._blocks = iter(blocks)
        first = next(self._blocks, None)
        if first is None:
            raise DataError("the iterator of genotypes has no blocks")
        self._first = self._read(first, None)
        self.samples, self.n_samples = samples, self._first.raw.shape[1]
        _check_count(samples, self.n_samples)

    def fingerprint(self) -> str:
        return fingerprint(self._first.raw, self._first.info, self.samples)

    def blocks(self, size: int) -> Iterator[MarkerBlock]:
        yield self._first
        yield from (self._read(block, self.n_samples) for block in self._blocks)

    def _read(self, block: Any, n_samples: int | None) -> MarkerBlock:
        if not isinstance(block, (tuple, list)) or len(block) != 2:
            raise DataError("an iterator of genotypes gives pairs: ids of markers, array of samples by markers")
        raw = by_marker(block[1], n_samples)
        return MarkerBlock(marker_info(block[0], len(raw)), raw)


class Plink:
    """PLINK 1: prefix.bed, .bim and .fam; genotypes count the first allele of .bim. samples: ids, IIDs if None."""

    def __init__(self, path: Path, samples: pd.Index | None = None):
        self._bed = path if path.suffix == ".bed" else Path(f"{path}.bed")
        files = [self._bed, *(self._bed.with_suffix(end) for end in (".bim", ".fam"))]
        for file in files:
            if not file.is_file():
                raise DataError(f"no file {file}: PLINK 1 genotypes are three files, .bed, .bim and .fam")
        bim, fam = _read_table(files[1], BIM), _read_table(files[2], ["fid", "iid", "", "", "", ""])
        self.info: pd.DataFrame = bim[["marker", "chromosome", "position", "allele", "other_allele"]]
        self.samples = pd.Index(fam["iid"]) if samples is None else samples
        self.n_samples = len(fam)
        _check_count(samples, self.n_samples)
        _check_bed(self._bed, self.n_samples, len(self.info))

    def fingerprint(self) -> str:
        return fingerprint(_ends(self._bed), self.info, self.samples)

    def blocks(self, size: int) -> Iterator[MarkerBlock]:
        try:
            from bed_reader import open_bed
        except ImportError as error:
            raise ModelError('PLINK files need bed-reader: pip install "sparselmm[plink]"') from error
        count = len(self.info)
        with open_bed(
            self._bed, iid_count=self.n_samples, sid_count=count, num_threads=1, skip_format_check=True
        ) as bed:
            for first in range(0, count, size):
                part = slice(first, min(first + size, count))
                yield MarkerBlock(self.info.iloc[part], np.ascontiguousarray(bed.read(np.s_[:, part], dtype="int8").T))


def _read_table(path: Path, columns: list[str]) -> pd.DataFrame:
    """A .bim or .fam file. Errors: DataError."""
    try:
        table = pd.read_csv(path, sep=r"\s+", header=None, dtype=str, keep_default_na=False)
    except ValueError as error:
        raise DataError(f"{path.name} cannot be read: {error}") from error
    if table.shape[1] != len(columns):
        raise DataError(f"{path.name} has {table.shape[1]} columns; {len(columns)} are needed")
    table.columns = pd.Index(columns)
    if "position" not in columns:
        return table
    return table.assign(position=pd.to_numeric(table["position"], errors="coerce"))


def _check_bed(path: Path, samples: int, markers: int) -> None:
    """DataError where the file does not begin as it must, or is not as long as .bim and .fam say."""
    with path.open("rb") as file:
        start = file.read(3)
    if start[:2] != MAGIC[:2]:
        raise DataError(f"{path.name} is no PLINK 1 bed file: it begins with {start.hex()}, not {MAGIC.hex()}")
    if start != MAGIC:
        raise DataError(f"{path.name} is sorted by sample (mode {start[2:].hex()}); convert it with plink --make-bed")
    size, need = path.stat().st_size, 3 + markers * ((samples + 3) // 4)
    if size != need:
        what = "truncated" if size < need else "too long"
        raise DataError(
            f"{path.name} is {what}: {size:,} bytes, while {markers:,} markers (.bim) of {samples:,} samples (.fam) "
            f"need {need:,}; the three files do not belong together, or the copy is incomplete"
        )


def _ends(path: Path, length: int = 1 << 20) -> AnyArray:
    """Size, first and last bytes of a file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(length)
        file.seek(max(0, size - length))
        return np.frombuffer(str(size).encode() + head + file.read(), np.uint8)


def fingerprint(genotypes: Any, info: pd.DataFrame, samples: pd.Index | None) -> str:
    """SHA-256 of genotypes (or what stands for them), ids of markers and of samples."""
    parts = [genotypes.data, genotypes.indices, genotypes.indptr] if sp.issparse(genotypes) else [genotypes]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(np.ascontiguousarray(part).data)
    digest.update("\n".join(info["marker"]).encode())
    digest.update(b"" if samples is None else "\n".join(map(str, samples)).encode())
    return digest.hexdigest()
