"""Mixed models fitted by other software (see PROVENANCE.md) and the data sets they were fitted to."""

import json
import lzma
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from sparselmm.datasets import load_dataset, read_table, schema

FOLDER = Path(__file__).parent


@cache
def fits() -> list[dict[str, Any]]:
    """Read every fit of a model that the tests cover; `dataset` is the name that `load` takes."""
    return _read("fits.json.xz")


@cache
def inference() -> dict[str, Any]:
    """Read what make_inference.R wrote: tests of terms, contrasts, marginal means, comparisons; with its versions."""
    return _read("inference.json.xz")


@cache
def load(dataset: str) -> pd.DataFrame:
    """Load a data set by `package_name`, such as `nlme_Oxboys`; don't change it in place, it is shared."""
    own = golden_schema().get(dataset)
    if own is None:
        return load_dataset(shipped()[dataset])
    return read_table(FOLDER / "data" / f"{dataset}.csv.xz", own["columns"])


@cache
def golden_schema() -> dict[str, dict[str, Any]]:
    """Read origin, SHA-256 and column types of the data sets that only the tests use."""
    return _read("schema.json.xz")


def shipped() -> dict[str, str]:
    """Map `package_name` to the name under which the package ships the data set."""
    return {f"{entry['package']}_{name}": name for name, entry in schema().items()}


def _read(file: str) -> Any:
    return json.loads(lzma.decompress((FOLDER / file).read_bytes()))
