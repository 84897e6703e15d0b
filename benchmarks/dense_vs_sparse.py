"""Dense against sparse as n grows: checks that both agree, then writes the table in README.md and a picture.

    python benchmarks/dense_vs_sparse.py
    python benchmarks/dense_vs_sparse.py --dense 200,1000 --sparse 200,1000,10000 --repeats 5

Every measurement has a process of its own, for its peak memory and so that none warms up another, and one BLAS
thread, so that other work on the machine disturbs it less.
"""

import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer

import sparselmm as slm

ROOT = Path(__file__).parents[1]
README, PICTURE = ROOT / "README.md", ROOT / "docs" / "images" / "dense_vs_sparse.png"
START, END = "<!-- timings -->", "<!-- /timings -->"
FORMULA = "y ~ x + (1 + x | subject) + (1 | item)"
ITEMS = 50
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
AGREE = 1e-9  # relative difference of the two deviances: both are exact, what is left is rounding
COLORS = {"dense": "#b5532a", "sparse": "#1f4e79"}

app = typer.Typer(add_completion=False)


@dataclass(frozen=True, slots=True)
class Measurement:
    """Seconds (best of several) and bytes at n rows; q random effects. deviance: of the fit."""

    engine: str
    n: int
    q: int
    evaluation: float
    fit: float
    peak: int
    deviance: float


def data(n: int) -> pd.DataFrame:
    """n/10 subjects with intercepts and slopes, crossed with 50 items."""
    rng = np.random.default_rng(n)
    m = n // 10
    subject, item, x = rng.permutation(np.arange(n) % m), rng.integers(0, ITEMS, n), rng.normal(size=n)
    b = rng.normal(size=(m, 2)) * (0.8, 0.5)
    y = 1 + 0.5 * x + b[subject, 0] + b[subject, 1] * x + rng.normal(scale=0.6, size=ITEMS)[item] + rng.normal(size=n)
    return pd.DataFrame({"y": y, "x": x, "subject": subject, "item": item})


def model(n: int, engine: str) -> slm.LinearMixedModel:
    """The unfitted model of n rows."""
    return slm.LinearMixedModel(FORMULA, data(n), engine="dense" if engine == "dense" else "cholmod")


def check_agreement(sizes: list[int]) -> float:
    """Largest relative difference of dense and sparse deviance over sizes, ML and REML, three theta each."""
    worst = 0.0
    for n in sizes:
        dense, sparse = model(n, "dense").likelihood, model(n, "sparse").likelihood
        rng = np.random.default_rng(n)
        for theta in rng.uniform(0.1, 1.5, size=(3, sparse.parameters.count)):
            for reml in (True, False):
                a, b = (engine(theta, reml=reml).deviance for engine in (dense, sparse))
                worst = max(worst, abs(a - b) / abs(a))
    if worst > AGREE:
        raise typer.BadParameter(f"dense and sparse deviances differ by {worst:.1e} (relative), more than {AGREE}")
    return worst


def best_of(repeats: int, function: Callable[[], Any]) -> float:
    """Seconds of the fastest of several calls."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


@app.command()
def measure(engine: str, n: int, repeats: int) -> None:
    """Time one engine at one size in this process, and print the measurement as JSON."""
    model(200, engine).fit()
    unfitted = model(n, engine)
    start = unfitted.fit()
    thetas = iter(start.theta.to_numpy() * (1.0 + 0.01 * k) for k in range(1, repeats + 1))
    evaluation = best_of(repeats, lambda: unfitted.likelihood.derivatives(next(thetas)))
    fit = best_of(repeats, lambda: model(n, engine).fit())
    result = Measurement(engine, n, unfitted.spec.q, evaluation, fit, peak_memory(), start.deviance)
    typer.echo(json.dumps(asdict(result)))


def peak_memory() -> int:
    """Bytes of this process at its peak; getrusage on Linux remembers the parent's peak, so it comes second."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure_apart(engine: str, n: int, repeats: int) -> Measurement:
    """`measure` in a process of its own."""
    command = [sys.executable, __file__, "measure", engine, str(n), str(repeats)]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | ONE_THREAD).stdout
    result = Measurement(**json.loads(out))
    typer.echo(f"{engine:6} n = {n:7,}: evaluation {result.evaluation:.4f} s, fit {result.fit:.3f} s")
    return result


@app.command()
def run(
    dense: Annotated[str, typer.Option(help="Rows for the dense engine.")] = "200,500,1000,2000,3000",
    sparse: Annotated[str, typer.Option(help="Rows for the sparse one.")] = "200,500,1000,2000,3000,10000,30000,100000",
    repeats: Annotated[int, typer.Option(help="Best of so many (dense above 1000 rows: 2).")] = 5,
    write: Annotated[bool, typer.Option(help="Write README.md and the picture.")] = True,
) -> None:
    """Compare, check and write."""
    sizes = {"dense": [int(n) for n in dense.split(",")], "sparse": [int(n) for n in sparse.split(",")]}
    worst = check_agreement([n for n in sizes["dense"] if n in sizes["sparse"]])
    found = [
        measure_apart(engine, n, min(repeats, 2) if engine == "dense" and n > 1000 else repeats)
        for engine, rows in sizes.items()
        for n in rows
    ]
    text = table(found) + "\n\n" + caption(worst)
    typer.echo(text)
    if write:
        README.write_text(between(README.read_text(), text))
        draw(found)


def table(found: list[Measurement]) -> str:
    """A Markdown table, one row a size."""
    by = {(m.engine, m.n): m for m in found}
    lines = ["| rows | random effects | " + " | ".join(f"{what}, {e}" for what in COLUMNS for e in COLORS) + " |"]
    lines.append("|" + "---:|" * (2 + 2 * len(COLUMNS)))
    for n in sorted({m.n for m in found}):
        q = next(m.q for m in found if m.n == n)
        cells = [show(by[e, n]) if (e, n) in by else "" for show in COLUMNS.values() for e in COLORS]
        lines.append("| " + " | ".join([f"{n:,}", f"{q:,}", *cells]) + " |")
    return "\n".join(lines)


def seconds(value: float) -> str:
    """Two digits and a unit."""
    return f"{float(f'{1000 * value:.2g}'):g} ms" if value < 1 else f"{float(f'{value:.2g}'):g} s"


COLUMNS: dict[str, Callable[[Measurement], str]] = {
    "one evaluation": lambda m: seconds(m.evaluation),
    "whole fit": lambda m: seconds(m.fit),
    "peak memory": lambda m: f"{m.peak / 1e6:,.0f} MB",
}


def caption(worst: float) -> str:
    """What was measured, where and with which versions."""
    names = ("numpy", "scipy", "scikit-sparse")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    text = (
        f"`{FORMULA}`, subjects of ten rows and {ITEMS} items, REML. One evaluation is the criterion with its gradient "
        "and information matrix; a fit goes from table to estimates; best of several, one thread; memory is that of "
        f"the whole process, libraries included. The deviances agree to {worst:.0e} (relative). {date.today()}, "
        f"{processor()}, Python {platform.python_version()}, {versions}; made by `benchmarks/dense_vs_sparse.py` "
        "([plot](docs/images/dense_vs_sparse.png))."
    )
    return textwrap.fill(text, 120, break_on_hyphens=False, break_long_words=False)


def processor() -> str:
    """Name of the processor and how many cores are there."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
        return f"{name}, {sum(line.startswith('processor') for line in lines)} cores"
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def between(text: str, new: str) -> str:
    """`text` with what stands between the markers replaced."""
    before, rest = text.split(START)
    return f"{before}{START}\n{new}\n{END}{rest.split(END)[1]}"


def draw(found: list[Measurement]) -> None:
    """Seconds of an evaluation and of a fit, and memory, against n."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = {
        "one evaluation with derivatives, seconds": lambda m: m.evaluation,
        "whole fit, seconds": lambda m: m.fit,
        "peak memory of the process, MB": lambda m: m.peak / 1e6,
    }
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    for ax, (title, value) in zip(axes, panels.items(), strict=True):
        for engine, color in COLORS.items():
            points = [m for m in found if m.engine == engine]
            ax.loglog([m.n for m in points], [value(m) for m in points], "o-", color=color, label=engine, markersize=4)
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("rows")
        ax.grid(alpha=0.25)
    axes[2].set_yscale("linear")
    axes[2].set_ylim(bottom=0)
    axes[0].legend(frameon=False)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, dpi=130)


if __name__ == "__main__":
    app()
