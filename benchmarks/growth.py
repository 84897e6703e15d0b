"""How time grows with rows, with random effects and with responses, beside one pass over the columns: a picture.

    python -m benchmarks.growth                    # prints the table
    python -m benchmarks.growth --write            # into docs/explanation/speed.md, and the picture into docs/images
    python -m benchmarks.growth --rows 1000,30000 --effects 200,2000 --responses 1,100 --at 30000

Processor seconds of one thread, best of several in a warm process, so that other work on the machine disturbs them
less. The limit is the time in which NumPy adds up the columns that the model reads, at the speed of memory.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer

import sparselmm as slm
from benchmarks.racing.report import duration, machine, paste, wrap

ROOT = Path(__file__).parents[1]
DOCS, PICTURE = ROOT / "docs" / "explanation" / "speed.md", ROOT / "docs" / "images" / "growth.png"
MARKS = "<!-- growth -->", "<!-- /growth -->"
SLOPES, MANY = "y ~ x + (1 + x | g)", "~ age + (1 | donor)"
COLORS = {"fit": "#1f4e79", "pass": "#b5532a"}

app = typer.Typer(add_completion=False)


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement at `size`: seconds of the fit and of one pass over its columns."""

    size: int
    fit: float
    limit: float


@dataclass(frozen=True, slots=True)
class Curve:
    """Time against one size, the others held."""

    what: str
    title: str
    points: tuple[Point, ...]

    @property
    def exponent(self) -> float:
        """Slope of the last third of the points, log against log."""
        last = self.points[-max(2, len(self.points) // 3) :]
        return float(np.polyfit(np.log([p.size for p in last]), np.log([p.fit for p in last]), 1)[0])


def visits(n: int, m: int) -> pd.DataFrame:
    """n visits of m subjects, in their order; intercepts and slopes."""
    rng = np.random.default_rng(n + m)
    g, x = np.sort(np.arange(n) % m), rng.normal(size=n)
    b = rng.multivariate_normal([0.0, 0.0], [[1.0, 0.2], [0.2, 0.5]], m)[g]
    return pd.DataFrame({"y": 1.0 + 0.5 * x + b[:, 0] + b[:, 1] * x + rng.normal(size=n), "x": x, "g": g})


def samples(v: int) -> tuple[pd.DataFrame, np.ndarray]:
    """500 samples of 100 donors, v responses."""
    rng = np.random.default_rng(v)
    donor = np.repeat(np.arange(100), 5)
    Y = rng.normal(size=(500, v)) + (rng.normal(size=(100, v)) * rng.uniform(0, 1, v))[donor]
    return pd.DataFrame({"donor": donor, "age": rng.normal(size=500)}), Y


def seconds(run: Callable[[], Any], repeats: int) -> float:
    """Of the processor, the best; short runs are repeated within a measurement."""
    run()
    best = np.inf
    for _ in range(repeats):
        began, count = time.process_time(), 0
        while count == 0 or time.process_time() - began < 0.02:
            run()
            count += 1
        best = min(best, (time.process_time() - began) / count)
    return best


def fit_point(size: int, table: pd.DataFrame, repeats: int) -> Point:
    """Estimates and standard errors from the table."""
    columns = [table[name].to_numpy() for name in table]
    limit = seconds(lambda: [c.sum() for c in columns], repeats)
    return Point(size, seconds(lambda: slm.lmm(SLOPES, table).fixef_se, repeats), limit)


def many_point(v: int, repeats: int) -> Point:
    """All responses with standard errors, from the matrix."""
    data, Y = samples(v)
    return Point(v, seconds(lambda: slm.lmm_many(MANY, data, Y), repeats), seconds(Y.sum, repeats))


def curves(rows: Sequence[int], at: int, effects: Sequence[int], responses: Sequence[int], repeats: int) -> list[Curve]:
    """The three of them."""
    by_rows = tuple(fit_point(n, visits(n, n // 10), repeats) for n in rows)
    by_effects = tuple(fit_point(q, visits(at, q // 2), repeats) for q in effects)
    by_responses = tuple(many_point(v, repeats) for v in responses)
    return [
        Curve("rows", "rows, ten a subject", by_rows),
        Curve("random effects", f"random effects, {at:,} rows", by_effects),
        Curve("responses", "responses, 500 samples", by_responses),
    ]


def markdown(found: Sequence[Curve]) -> str:
    """A table of all points and the circumstances."""
    lines = ["| against | size | fit | one pass over its columns | ratio |", "|---|---:|---:|---:|---:|"]
    for curve in found:
        for p in curve.points:
            cells = [curve.what, f"{p.size:,}", duration(p.fit), duration(p.limit), f"{p.fit / p.limit:,.0f}"]
            lines.append("| " + " | ".join(cells) + " |")
    slopes = ", ".join(f"{curve.exponent:.2f} for {curve.what}" for curve in found)
    text = f"At the right end time grows with the power {slopes}. One thread; {machine()}, {date.today().isoformat()}."
    return "\n".join(lines) + "\n\n" + wrap(text)


def draw(found: Sequence[Curve], path: Path) -> None:
    """Both times against each size, log-log."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(found), figsize=(11, 3.6), sharey=True, layout="constrained")
    for axis, curve in zip(axes, found, strict=True):
        sizes = [p.size for p in curve.points]
        axis.loglog(sizes, [p.fit for p in curve.points], "o-", color=COLORS["fit"], label="fit")
        axis.loglog(
            sizes, [p.limit for p in curve.points], "s--", color=COLORS["pass"], label="one pass over its columns"
        )
        axis.set_xlabel(curve.title)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("processor seconds, one thread")
    axes[0].legend(frameon=False, loc="upper left")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def numbers(text: str) -> list[int]:
    """`1000,30000` as integers."""
    return [int(part) for part in text.split(",")]


@app.command()
def main(
    rows: Annotated[str, typer.Option()] = "1000,3000,10000,30000,100000,300000,1000000,3000000",
    at: Annotated[int, typer.Option(help="Rows while the random effects grow.")] = 300_000,
    effects: Annotated[str, typer.Option()] = "20,200,2000,20000,60000,200000",
    responses: Annotated[str, typer.Option()] = "1,10,100,1000,10000",
    repeats: Annotated[int, typer.Option()] = 3,
    write: Annotated[
        bool, typer.Option(help="Table into docs/explanation/speed.md, picture into docs/images.")
    ] = False,
) -> None:
    """Measure, print the table."""
    slm.set_threads(1)
    found = curves(numbers(rows), at, numbers(effects), numbers(responses), repeats)
    table = markdown(found)
    typer.echo(table)
    if write:
        DOCS.write_text(paste(DOCS.read_text(), table, *MARKS))
        draw(found, PICTURE)


if __name__ == "__main__":
    app()
