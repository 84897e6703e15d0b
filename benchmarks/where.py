"""Where the time of the race's fits goes, stage by stage: processor seconds of one thread.

python -m benchmarks.where                        # prints the table
python -m benchmarks.where --problem units --write   # puts it into docs/explanation/speed.md
"""

import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer

import sparselmm as slm
from benchmarks.racing.problems import RACE, RaceProblem
from benchmarks.racing.report import duration, machine, paste, wrap
from sparselmm.engines.threads import blas_threads
from sparselmm.equations import cross_products
from sparselmm.fitting import estimate
from sparselmm.formula import build_spec
from sparselmm.likelihood import Likelihood

DOCS = Path(__file__).parents[1] / "docs" / "explanation" / "speed.md"
MARKS = "<!-- where -->", "<!-- /where -->"
ENGINE = ("factorize", "selected_inverse", "solve")
STAGES = ("formula", "cross-products", "analysis", *ENGINE, "rest of the search")
SKIPPED = ("movielens27m", "fixed_factor")

app = typer.Typer(add_completion=False)


class Clock:
    """Processor seconds by name; calls within calls count once."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._inside = False

    def timed(self, name: str, run: Callable[..., Any]) -> Callable[..., Any]:
        """`run`, its time noted."""

        def call(*args: Any, **options: Any) -> Any:
            if self._inside and name in ENGINE:
                return run(*args, **options)
            self._inside, began = name in ENGINE, time.process_time()
            try:
                return run(*args, **options)
            finally:
                self._inside = False
                self.seconds[name] += time.process_time() - began

        return call


def table(problem: RaceProblem, scale: float) -> pd.DataFrame:
    """A problem's data, factors as categories."""
    data = pd.DataFrame(problem.data(scale))
    return data.astype(dict.fromkeys(problem.factors, "category"))


def profile(problem: RaceProblem, data: pd.DataFrame) -> dict[str, float]:
    """Seconds of each stage of one fit by maximum likelihood."""
    clock = Clock()
    spec = clock.timed("formula", build_spec)(problem.formula, data)
    with blas_threads(0.0):
        products = clock.timed("cross-products", cross_products)(spec)
        likelihood = clock.timed("analysis", Likelihood)(spec, "auto", products)
        for name in ENGINE:
            setattr(likelihood.engine, name, clock.timed(name, getattr(likelihood.engine, name)))
        began = time.process_time()
        estimate(likelihood, reml=False)
        whole = time.process_time() - began
    clock.seconds["rest of the search"] = whole - sum(clock.seconds[name] for name in ENGINE)
    return clock.seconds


def row(problem: RaceProblem, scale: float, repeats: int) -> str:
    """The fastest of several fits, after one that warms up."""
    data = table(problem, scale)
    found = [profile(problem, data) for _ in range(repeats + 1)][1:]
    best = min(found, key=lambda seconds: sum(seconds.values()))
    whole = sum(best.values())
    shares = [f"{100 * best[name] / whole:.0f}" for name in STAGES]
    return f"| {problem.title} | {duration(whole)} | " + " | ".join(shares) + " |"


@app.command()
def main(
    problem: Annotated[list[str] | None, typer.Option(help="A problem of the race, may be repeated.")] = None,
    scale: Annotated[float, typer.Option()] = 1.0,
    repeats: Annotated[int, typer.Option()] = 3,
    write: Annotated[bool, typer.Option(help="Put the table into docs/explanation/speed.md.")] = False,
) -> None:
    """Measure, print the table."""
    slm.set_threads(1)
    names = problem or [name for name in RACE if name not in SKIPPED]
    lines = ["| problem | whole | " + " | ".join(f"{stage}, %" for stage in STAGES) + " |"]
    lines.append("|---|---:|" + "---:|" * len(STAGES))
    lines += [row(RACE[name], scale, repeats) for name in names]
    text = wrap(f"Processor seconds of one thread, maximum likelihood; {machine()}, NumPy {np.__version__}, "
                f"{date.today().isoformat()}.")  # fmt: skip
    found = "\n".join(lines) + "\n\n" + text
    typer.echo(found)
    if write:
        DOCS.write_text(paste(DOCS.read_text(), found, *MARKS))


if __name__ == "__main__":
    app()
