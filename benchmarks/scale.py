"""Large structures: each case in a process of its own, from the table in memory to a fit with standard errors.

    python -m benchmarks.scale                         # all, prints the table
    python -m benchmarks.scale herds field --write     # two of them, the table goes into docs/explanation/speed.md
    python -m benchmarks.scale --scale 0.01            # small, half a minute

Pedigrees count from their columns. A process first runs the same case at a tenth of its size, so that nothing is
compiled or loaded while the clock runs; its peak memory is the kernel's figure, with libraries, table and whatever made
it. The last result of every case is kept in benchmarks/results/scale.json, unless it was run at another size.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import date
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import scipy
import typer

import sparselmm as slm
from benchmarks.racing.processes import run
from benchmarks.racing.report import duration, ends, machine, memory, paste, read, save, wrap
from benchmarks.shapes import problems

ROOT = Path(__file__).parents[1]
DOCS, RESULTS = ROOT / "docs" / "explanation" / "speed.md", ROOT / "benchmarks" / "results" / "scale.json"
MARKS = "<!-- scale -->", "<!-- /scale -->"
WARM, SMALLEST = 0.1, 0.01  # what a process runs first is so much of its case, no smaller than this
MACHINE = 24e9  # bytes of the machine on which every case must work
LIMIT = 3600.0  # seconds after which a process is stopped
WRITTEN = 1.0  # scale of what is kept

app = typer.Typer(add_completion=False)
simulated = problems()


@dataclass(frozen=True, slots=True)
class Data:
    """What is in memory when the clock starts. parents: columns id, sire, dam of a pedigree, 0 unknown."""

    formula: str = ""
    table: pd.DataFrame | None = None
    parents: pd.DataFrame | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """A problem at any scale (1: as the title says), and its bars: seconds of everything, bytes."""

    title: str
    make: Callable[[float], Data]
    seconds: float = np.inf
    memory: float = MACHINE

    @property
    def bar(self) -> str:
        """In words."""
        return ", ".join([duration(self.seconds)] * (self.seconds < np.inf) + [f"{self.memory / 1e9:g} GB"])


@dataclass(frozen=True, slots=True)
class Row:
    """A measurement. pedigree, fit: seconds; processor: of both, by all threads; peak, forecast: bytes.

    evaluations: factorisations of the equations. A case without a fit has zeros. note: why a bar cannot be met.
    """

    name: str
    pedigree: float = 0.0
    fit: float = 0.0
    processor: float = 0.0
    peak: int = 0
    effects: int = 0
    evaluations: int = 0
    iterations: int = 0
    nonzeros: int = 0
    forecast: float = 0.0
    deviance: float = 0.0
    converged: bool = True
    note: str = ""

    @property
    def met(self) -> bool:
        """Whether there is a converged fit within time and memory."""
        case = CASES[self.name]
        within = self.pedigree + self.fit <= case.seconds and self.peak <= case.memory
        return within and self.converged and not self.note


def many_series(scale: float) -> Data:
    """160 series of 12,000 times."""
    times = round(12_000 * scale)
    return Data("y ~ x + ar1(0 + t | g)", simulated.series(np.random.default_rng(1), 160 * times, times, gap=0.0))


def crossed_series(scale: float) -> Data:
    """2,000 subjects at 100 times, 1,000 items and 200 places crossed with them and with each other."""
    rng, n = np.random.default_rng(2), round(2_000 * scale) * 100
    table = simulated.series(rng, n, 100, gap=0.0, items=max(4, round(1_000 * scale)))
    place = simulated.groups(rng, n, max(4, round(200 * scale)))
    table = table.assign(place=place, y=table.y + simulated.effects(rng, place, [1], 0.4))
    return Data("y ~ x + (1 | h) + (1 | place) + ar1(0 + t | g)", table)


def long_series(scale: float) -> Data:
    """One series seen at 200,000 of 220,000 times."""
    n = round(200_000 * scale)
    return Data("y ~ x + ar1(0 + t)", simulated.series(np.random.default_rng(3), n, n))


def field_trial(scale: float) -> Data:
    """100 x 200 plots, 2,000 genotypes in ten plots each."""
    table = simulated.field(np.random.default_rng(4), round(20_000 * scale), plots=10)
    return Data("y ~ 1 + (1 | variety) + ar1(0 + row):ar1(0 + col)", table)


def herds(scale: float) -> Data:
    """100,000 animals with a record each in 1,000 herds."""
    n = round(100_000 * scale)
    table = simulated.animals(np.random.default_rng(5), n, round(1_000 * scale), generations=10, males=10)
    return Data("y ~ x + (1 | herd) + ped(1 | animal, P)", table.assign(animal=table.animal + 1), parents(n))


def permanent(scale: float) -> Data:
    """200,000 animals, two records of every other one, in 4,000 herd-year-seasons."""
    n = round(200_000 * scale)
    rng, columns = np.random.default_rng(6), parents(n)
    u = simulated.breeding_values(rng, simulated.mating(n, 10, 10)) + 0.7 * rng.normal(size=n)
    who = np.repeat(rng.permutation(n)[: n // 2], 2)
    hys = simulated.groups(rng, len(who), round(4_000 * scale))
    y = 10 + u[who] + simulated.effects(rng, hys, [1], 0.5) + 1.2 * rng.normal(size=len(who))
    table = pd.DataFrame({"y": y, "animal": who + 1, "hys": hys})
    return Data("y ~ 1 + (1 | hys) + ped(1 | animal, P) + (1 | animal)", table, columns)


def million(scale: float) -> Data:
    """1,000,000 animals with a record each: 2,500 sires in a generation; twice as many make four times the fill."""
    n = round(1_000_000 * scale)
    table = simulated.animals(np.random.default_rng(7), n, generations=10, males=20)[["y", "animal"]]
    return Data("y ~ 1 + ped(1 | animal, P)", table.assign(animal=table.animal + 1), parents(n, males=20))


def parents(n: int, generations: int = 10, males: int = 10) -> pd.DataFrame:
    """Columns of a pedigree under random mating, one in `males` of the males used: animals 1 ... n in any order."""
    found = simulated.mating(n, generations, males)
    table = pd.DataFrame({"id": np.arange(1, n + 1), "sire": found["sire"] + 1, "dam": found["dam"] + 1})
    return table.sample(frac=1.0, random_state=8)


def book(n: int, generations: int, scale: float) -> Data:
    """A pedigree alone."""
    return Data(parents=parents(round(n * scale), generations))


CASES = {
    "many_series": Case("160 series of 12,000 times, `ar1(0 + t \\| g)`", many_series, memory=4e9),
    "crossed_series": Case("2,000 series of 100 times, 1,000 items and 200 places crossed", crossed_series),
    "long_series": Case("one series of 200,000 times, `ar1(0 + t)`", long_series),
    "field": Case("field trial, AR(1) x AR(1), 100 x 200 plots, 2,000 genotypes", field_trial),
    "pedigree_deep": Case(
        "`Pedigree` and inverse of A, 100,000 in 25 generations",
        lambda s: Data(parents=parents(round(1e5 * s), 25)),
        1.0,
    ),
    "pedigree_million": Case("`Pedigree` and inverse of A, 1,000,000 in ten", partial(book, 1_000_000, 10), 10.0),
    "herds": Case("100,000 animals, additive, 1,000 herds", herds, 15.0),
    "permanent": Case(
        "200,000 animals, records of half, additive, permanent environment, 4,000 herd-year-seasons", permanent
    ),
    "million": Case("1,000,000 animals, additive, 2,500 sires a generation", million, 900.0, 12e9),
}


def measure(data: Data) -> dict[str, Any]:
    """Run it against the clock: fields of a `Row`."""
    before, began, context = time.process_time(), time.perf_counter(), {}
    if data.parents is not None:
        context["P"] = slm.Pedigree(data.parents.id, data.parents.sire, data.parents.dam)
    if data.table is None:
        context["P"].inverse()
        return {"pedigree": time.perf_counter() - began, "processor": time.process_time() - before}
    middle = time.perf_counter()
    fit = slm.lmm(data.formula, data.table, context=context)
    errors = [fit.fixef_se, fit.varpar_se]
    end, processor, engine = time.perf_counter(), time.process_time() - before, fit.likelihood.engine
    known = all(bool(np.isfinite(e).all()) for e in errors)
    return {
        "pedigree": middle - began if context else 0.0, "fit": end - middle, "processor": processor,
        "effects": fit.spec.q,
        "evaluations": fit.estimate.n_factorisations, "iterations": fit.n_iter, "nonzeros": int(engine.nnz_factor),
        "forecast": float(engine.memory), "deviance": fit.deviance, "converged": fit.converged,
        "note": "" if known else "a standard error is missing",
    }  # fmt: skip


def alone(name: str, scale: float) -> None:
    """What a process of its own does: warm up, measure, print a line of JSON."""
    make = CASES[name].make
    measure(make(max(WARM * scale, SMALLEST)))
    sys.stdout.write("\n" + json.dumps(measure(make(scale))) + "\n")


def in_a_process(name: str, scale: float) -> Row:
    """A case; a process that fails, or takes more than the machine has, leaves a note."""
    command = [sys.executable, "-c", f"from benchmarks.scale import alone; alone({name!r}, {scale!r})"]
    found = run(command, os.environ | {"PYTHONPATH": str(ROOT)}, LIMIT, MACHINE)
    return Row(name, peak=found.peak, **(found.answer or {"note": found.why or "failed"}))


def line(row: Row) -> str:
    """Of the table."""
    case, fitted = CASES[row.name], row.evaluations > 0
    cells = [
        case.title,
        f"{row.effects:,}" if fitted else "",
        duration(row.pedigree) if row.pedigree else "",
        duration(row.fit) if row.fit else "",
        duration(row.processor) if row.processor else "",
        memory(row.peak),
        f"{row.evaluations} ({row.iterations})" if fitted else "",
        f"{row.nonzeros:,}" if fitted else "",
        case.bar,
        "met" if row.met else f"**missed**{'' if row.converged else ', not converged'}{row.note and f', {row.note}'}",
    ]
    return "| " + " | ".join(cells) + " |"


def markdown(kept: Mapping[str, Mapping[str, Any]]) -> str:
    """The table of all that is kept, and how it was measured."""
    known = {f.name for f in fields(Row)}
    rows = [Row(**{k: v for k, v in kept[name].items() if k in known}) for name in CASES if name in kept]
    head = "| | random effects | pedigree | fit | processor | peak memory | evaluations | nonzeros of L | bar | |"
    lines = [head, "|---|---:|---:|---:|---:|---:|---:|---:|---|---|", *map(line, rows)]
    when, where, what = (ends(kept[row.name][key] for row in rows) for key in ("date", "machine", "versions"))
    small = sorted({kept[row.name]["scale"] for row in rows} - {1.0})
    sizes = f"Sizes times {', '.join(f'{size:g}' for size in small)}. " if small else ""
    text = (
        "Seconds of the clock: from columns to a pedigree with inbreeding (where that is all, to the inverse of A), "
        "and from table and pedigree to estimates by REML with standard errors of coefficients and variance "
        "parameters. Processor: seconds of all threads for both; where two cores would have taken less by the clock, "
        "they were shared with other work. Peak memory of the process, libraries and table included. Evaluations: all "
        "factorisations of the equations, and in brackets iterations of the search. Where no time is asked for, the "
        f"bar is the memory of a machine of two cores. {sizes}"
        f"{when}, {where}: {what}; by `python -m benchmarks.scale --write`."
    )
    return "\n".join(lines) + "\n\n" + wrap(text)


def circumstances(scale: float) -> dict[str, Any]:
    """When, where, with what and at which scale."""
    versions = f"sparselmm {slm.__version__}, NumPy {np.__version__}, SciPy {scipy.__version__}"
    return {"date": str(date.today()), "machine": machine(), "versions": versions, "scale": scale}


def measured(names: Sequence[str], scale: float) -> dict[str, dict[str, Any]]:
    """The cases one after the other, with progress on stderr."""
    found = {}
    for name in names:
        row = in_a_process(name, scale)
        typer.echo(f"{name}: {row}", err=True)
        found[name] = asdict(row) | circumstances(scale)
    return found


@app.command()
def main(
    names: Annotated[list[str] | None, typer.Argument(help=f"Of {', '.join(CASES)}; all if none is given.")] = None,
    scale: Annotated[float, typer.Option(help="Size; 1 is what the titles say.")] = 1.0,
    write: Annotated[bool, typer.Option(help="Keep the results, put the table into the documentation.")] = False,
) -> None:
    """Measure, print the table."""
    unknown = set(names or []) - set(CASES)
    if unknown:
        raise typer.BadParameter(f"no case is called {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    if write and scale != WRITTEN:
        raise typer.BadParameter("the documentation has the full sizes only")
    found = measured(names or list(CASES), scale)
    kept = read(RESULTS) | found if write else found
    table = markdown(kept)
    typer.echo(table)
    if write:
        save(RESULTS, kept)
        DOCS.write_text(paste(DOCS.read_text(), table, *MARKS))


if __name__ == "__main__":
    app()
