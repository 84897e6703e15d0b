"""Fits of many responses by other software: golden/genomics.json.xz (by golden/genomics.R), and the whole set."""

import json
import lzma
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tests.golden import FOLDER

SHARED = Path(__file__).resolve().parents[3] / "shared" / "reference" / "genomics"
ONE = "~ age + sex + trt + (1 | donor)"


@cache
def golden() -> dict[str, Any]:
    """Everything that R said."""
    return json.loads(lzma.decompress((FOLDER / "genomics.json.xz").read_bytes()))


@cache
def samples() -> pd.DataFrame:
    """The table: donor, age, sex, trt, batch."""
    return _typed(pd.DataFrame(golden()["samples"]))


@cache
def responses() -> np.ndarray:
    """500 samples x 12 responses."""
    return np.array(golden()["Y"]).T


def reference(name: str) -> dict[str, np.ndarray]:
    """beta, se (v, p), sdcor (v, k + 1), loglik (v,) of one list of fits."""
    fits = golden()[name]
    return {key: np.array([fit[key] for fit in fits], dtype=float) for key in fits[0]}


def everything() -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray, np.ndarray]:
    """Table, 200 responses, and lme4's fits: one factor (200 x 11), two factors (60 x 4)."""
    first, second = (pd.read_csv(SHARED / f"lmer_ref{i}.csv").to_numpy() for i in ("", "2"))
    return _typed(pd.read_csv(SHARED / "lmer_d.csv")), pd.read_csv(SHARED / "lmer_Y.csv.gz"), first, second


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(sex=pd.Categorical(table["sex"].astype(str)))
