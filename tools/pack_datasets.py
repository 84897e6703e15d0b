"""Pack a reference collection (CSV files, schema.json, reference.json) into the package and the golden tests.

    python tools/pack_datasets.py REFERENCE_DIRECTORY

Run by hand, and only when the collection changes: the packed files are in the repository.
"""

import hashlib
import json
import lzma
import sys
from pathlib import Path
from typing import Any

import pandas as pd

ROOT = Path(__file__).parent.parent
SHIPPED = ROOT / "sparselmm" / "datasets"
GOLDEN = ROOT / "tests" / "golden"
SHIPPED_KEYS = [
    *("lme4_sleepstudy", "lme4_InstEval", "lme4_Penicillin", "lme4_Pastes", "lme4_Dyestuff", "lme4_Dyestuff2"),
    *("lme4_cake", "nlme_Orthodont", "nlme_Ovary", "nlme_Machines", "nlme_Oats", "nlme_Rail"),
]
TESTED = (
    *([], ["bad-scaling"]),
    *(["residual-ar1"], ["residual-ou"], ["residual-varident"], ["residual-ar1", "residual-varident"]),
)
NOT_TESTED = {
    *("optimizers", "crosscheck_loglik", "agree_1e-6", "call", "raw_par", "start_values_m2ll", "package_error"),
    *("package_loglik", "max_abs_grad"),
}
ORIGIN = """The data sets come from R packages on CRAN, all under GPL-2 or later; `derived_*` add
columns to a data set of lme4 or nlme, `sim_*` are simulated. R object names, package versions, and
the SHA-256 of the uncompressed CSV:

| data set | R package | version | R object | rows | SHA-256 of the CSV |
|---|---|---|---|---:|---|
"""
SHIPPED_HEAD = "# Where the data sets come from\n\n" + ORIGIN
GOLDEN_HEAD = """# Where the golden values come from

`fits.json.xz`: mixed models fitted in R 4.2.2 by lme4 1.1-31 (several optimisers, then polished by Newton
steps) or, where lme4 lacks the model, by an independent dense marginal likelihood checked against nlme or
glmmTMB. Degrees of freedom: lmerTest 3.1-3 and pbkrtest 0.5.2. Nothing in it was computed by sparselmm.
SHA-256 of the uncompressed JSON: `{digest}`.

"""


def table_row(key: str, record: dict[str, Any]) -> str:
    cells = (key, record["package"], record.get("pkgversion", ""), record["name"], record["n"], record["sha256"])
    return "| " + " | ".join(str(cell) for cell in cells) + " |\n"


def compress(data: bytes, target: Path) -> str:
    """Write `target` as .xz and return the SHA-256 of the uncompressed bytes."""
    target.write_bytes(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))
    return hashlib.sha256(data).hexdigest()


def pack_table(source: Path, record: dict[str, Any], folder: Path, key: str) -> dict[str, Any]:
    digest = compress((source / "data" / record["file"]).read_bytes(), folder / "data" / f"{key}.csv.xz")
    kept = {k: record[k] for k in ("package", "pkgversion", "name", "n", "note") if k in record}
    table = pd.read_csv(source / "data" / record["file"])
    columns = {name: as_read(entry, table[name]) for name, entry in record["columns"].items()}
    return kept | {"sha256": digest, "columns": columns}


def as_read(entry: dict[str, Any], column: "pd.Series[Any]") -> dict[str, Any]:
    """Describe an integer column with missing values as double: int64 has no missing value."""
    return {"type": "double"} if entry["type"] == "integer" and column.hasnans else entry


def compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def schema_line(item: tuple[str, dict[str, Any]]) -> bytes:
    return compact(item[0]) + b": " + compact(item[1])


def tested_fits(source: Path) -> list[dict[str, Any]]:
    fits = json.loads((source / "reference.json").read_text())
    return [{k: v for k, v in fit.items() if k not in NOT_TESTED} for fit in fits if fit["needs"] in TESTED]


def main(source: Path) -> None:
    records = json.loads((source / "schema.json").read_text())
    shipped = {records[k]["name"]: pack_table(source, records[k], SHIPPED, records[k]["name"]) for k in SHIPPED_KEYS}
    (SHIPPED / "schema.json").write_bytes(b"{\n" + b",\n".join(map(schema_line, shipped.items())) + b"\n}\n")
    (SHIPPED / "PROVENANCE.md").write_text(SHIPPED_HEAD + "".join(table_row(*item) for item in shipped.items()))

    fits = tested_fits(source)
    keys = sorted({fit["dataset"] for fit in fits} - set(SHIPPED_KEYS))
    golden = {k: pack_table(source, records[k], GOLDEN, k) for k in keys}
    compress(compact(golden), GOLDEN / "schema.json.xz")
    digest = compress(compact(fits), GOLDEN / "fits.json.xz")
    rows = "".join(table_row(*item) for item in golden.items())
    (GOLDEN / "PROVENANCE.md").write_text(GOLDEN_HEAD.format(digest=digest) + ORIGIN + rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
