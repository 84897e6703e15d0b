"""The process of one measurement: `python -m benchmarks.racing.worker fit|write ...` ends with a line of JSON."""

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

from . import tables
from .contenders import CONTENDERS, Fitted, quiet
from .problems import RACE

ENOUGH, MOST = 1.0, 5  # a fit shorter than a second is repeated, at most so often, and the fastest counts


def fit(contender: str, problem: str, folder: str, warm: str, reml: str) -> dict[str, Any]:
    """Fit the table in `warm` once, for the warming, then the one in `folder` against the clock."""
    entry, model, restricted = CONTENDERS[contender], RACE[problem], reml == "reml"
    quiet(entry, model, entry.read(Path(warm)), restricted)
    table = entry.read(Path(folder))
    seconds: list[float] = []
    while not seconds or (sum(seconds) < ENOUGH and len(seconds) < MOST):
        began = time.perf_counter()
        found = quiet(entry, model, table, restricted)
        seconds.append(time.perf_counter() - began)
    _check(found)
    return {
        "deviance": found.deviance, "converged": found.converged, "seconds": min(seconds), "version": entry.version()
    }  # fmt: skip


def _check(found: Fitted) -> None:
    if not math.isfinite(found.deviance) or not all(math.isfinite(value) for value in found.se):
        raise ValueError(f"deviance {found.deviance}, standard errors {found.se[:3]} ...")


def write(problem: str, folder: str, scale: str) -> dict[str, Any]:
    """Generate a problem's table."""
    model = RACE[problem]
    return {"rows": tables.write(Path(folder), model.chunks(float(scale)), model.factors)}


if __name__ == "__main__":
    task, *arguments = sys.argv[1:]
    answer = {"fit": fit, "write": write}[task](*arguments)
    sys.stdout.write("\n" + json.dumps(answer) + "\n")
