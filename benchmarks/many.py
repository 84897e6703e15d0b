"""The bars of many responses and of scans, side by side in one run: `make race-many`, or `python -m benchmarks.many`.

500 samples of 100 donors in 20 batches, four fixed effects. R fits a few of the same responses one after another, and
its time is extrapolated; the criteria are compared first. Without lme4 only our times are given. `--write` puts the
table into docs/explanation/speed.md.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import numpy as np
import pandas as pd
import typer

import sparselmm as slm
from benchmarks import scan
from benchmarks.racing.report import duration, figure, machine, paste, wrap
from benchmarks.shapes import problems

DOCS = Path(__file__).parents[1] / "docs" / "explanation" / "speed.md"
FIXED = "~ age + sex + trt"
WORSE = 1e-6  # by how much our log-likelihood may be below R's, relative
SCRIPT = """
suppressMessages({library(lme4); library(lmerTest)}); args <- commandArgs(TRUE); options(warn = -1)
d <- read.csv(file.path(args[1], "d.csv")); Y <- as.matrix(read.csv(file.path(args[1], "Y.csv")))
W <- as.matrix(read.csv(file.path(args[1], "W.csv"))); method <- args[3]
formula <- as.formula(args[2]); d$y <- Y[, 1]; d$w <- W[, 1]
one <- function(j) { d$y <- Y[, j]; d$w <- W[, j]
  suppressMessages(switch(method, weights = lme4::lmer(formula, d, weights = w), lmerTest = lmerTest::lmer(formula, d),
    refit = refit(first, Y[, j]), lme4::lmer(formula, d))) }
read <- if (method == "lmerTest") function(m) { summary(m)$coefficients; m } else identity
first <- lme4::lmer(formula, d); invisible(read(one(1)))
seconds <- system.time(fits <- lapply(1:ncol(Y), function(j) read(one(j))))
cat(c(seconds[[3]], sum(seconds[1:2])) / ncol(Y))
cat("", sprintf("%.10f", sapply(fits, function(m) as.numeric(logLik(m)))))
"""
VERSIONS = """
cat(paste("R", getRversion()), sapply(c("lme4", "lmerTest"), function(p) paste(p, packageVersion(p))), sep = ", ")
"""

Pair: TypeAlias = np.ndarray  # by elapsed and by processor time
app = typer.Typer(add_completion=False)


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: what was asked and what was measured."""

    problem: str
    bar: str
    measured: str
    met: bool


@dataclass(frozen=True, slots=True)
class Race:
    """One model beside loops in R. bars: R's method -> how many times as fast we have to be. limit: seconds."""

    problem: str
    term: str
    bars: dict[str, float]
    ddf: str = "wald"
    limit: float = np.inf


RACES = (
    Race("`(1 \\| donor)`", "(1 | donor)", {"refit": 200, "lmer": 200}, limit=3.0),
    Race("the same with Satterthwaite's degrees of freedom", "(1 | donor)", {"lmerTest": 300}, "satterthwaite"),
    Race("two crossed factors, `(1 \\| donor) + (1 \\| batch)`", "(1 | donor) + (1 | batch)", {"lmer": 30}),
    Race("intercept and slope, `(1 + age \\| donor)`", "(1 + age | donor)", {"lmer": 20}),
    Race("voom weights, `(1 \\| donor)`", "(1 | donor)", {"weights": 30}),
)


def problem(v: int) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Samples, Y (500, v) and weights (v, 500): variances of donors from nothing to those of the residuals."""
    rng = np.random.default_rng(1)
    donor = np.repeat(np.arange(100), 5)
    data = pd.DataFrame({
        "donor": donor, "batch": rng.integers(0, 20, 500), "age": rng.normal(size=500),
        "sex": rng.integers(0, 2, 100)[donor], "trt": rng.integers(0, 2, 500),
    })  # fmt: skip
    Y = rng.normal(size=(500, v))
    Y += (rng.normal(size=(100, v)) * rng.uniform(0, 1, v))[donor]
    Y += (rng.normal(size=(20, v)) * rng.uniform(0, 0.5, v))[data["batch"]]
    return data, Y, np.exp(rng.normal(size=(v, 500), scale=0.4))


def in_r(script: str, *arguments: str) -> str | None:
    """What R prints; None where it or a package is missing."""
    try:
        done = subprocess.run(["Rscript", "-e", script, *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout


def loop(folder: str, formula: str, method: str) -> np.ndarray | None:
    """Seconds and processor seconds a response, then log-likelihoods."""
    printed = in_r(SCRIPT, folder, f"y {formula}", method)
    return None if printed is None else np.array(printed.split(), dtype=float)


def timed(run: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds, processor seconds of all threads, and the result."""
    began, before = time.perf_counter(), time.process_time()
    result = run()
    return time.perf_counter() - began, time.process_time() - before, result


def races(v: int, genes: int, rounds: int) -> Iterator[Row]:
    """Every model; ours and R's take turns, the best of each counts."""
    data, Y, W = problem(v)
    with tempfile.TemporaryDirectory() as folder:
        for name, table in (("d", data), ("Y", pd.DataFrame(Y[:, :genes])), ("W", pd.DataFrame(W[:genes].T))):
            table.to_csv(Path(folder) / f"{name}.csv", index=False)
        for race in RACES:
            yield against(race, data, Y, W if "weights" in race.bars else None, folder, rounds)


def against(race: Race, data: pd.DataFrame, Y: np.ndarray, W: np.ndarray | None, folder: str, rounds: int) -> Row:
    """One model. Errors: SystemExit where R found a better optimum."""
    formula, v = f"{FIXED} + {race.term}", Y.shape[1]
    fit = lambda j=v: slm.lmm_many(formula, data, Y[:, :j], weights=None if W is None else W[:j], ddf=race.ddf)  # noqa: E731
    fit(64)
    ours: Pair = np.full(2, np.inf)
    theirs = {method: np.full(2, np.inf) for method in race.bars}
    for _ in range(rounds):
        *took, fits = timed(fit)
        ours = np.minimum(ours, took)
        for method in race.bars:
            found = loop(folder, formula, method)
            if found is None:
                continue
            theirs[method], logliks = np.minimum(theirs[method], found[:2] * v), found[2:]
            short = ((fits.loglik[: len(logliks)] - logliks) / np.abs(logliks)).min()
            if short < -WORSE:
                raise SystemExit(f"{formula}: log-likelihood {short:.1e} below {method}'s")
    ratios = {m: t / ours for m, t in theirs.items() if np.isfinite(t).all()}
    names = {"weights": "lmer"}
    bars = [f"{b:g} x {names.get(m, m)}" for m, b in race.bars.items()]
    bars += [f"{race.limit:g} s"] if np.isfinite(race.limit) else []
    said = [duration(ours[0]), *(f"{times(r)} {names.get(m, m)}" for m, r in ratios.items())]
    met = ours[0] <= race.limit and all(r[0] >= race.bars[m] for m, r in ratios.items())
    return Row(race.problem, ", ".join(bars), ", ".join(said), met)


def times(ratios: Pair) -> str:
    """By elapsed time, and by that of processors."""
    return f"{figure(ratios[0])} ({figure(ratios[1])}) x"


def voxels(v: int) -> Row:
    """One factor over very many responses, in a process of its own."""
    command = [sys.executable, "-c", f"from benchmarks.many import alone; alone({v})"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    seconds, memory = map(float, done.stdout.split())
    said = f"{duration(seconds)}, {figure(memory)} x Y"
    return Row(f"{v:,} responses (voxels)", "15 s, memory 3 x Y", said, seconds <= 15.0 and memory <= 3.0)


def alone(v: int) -> None:
    """Seconds; and the peak of the process over what it held before there was Y, in sizes of Y."""
    data, Y, _ = problem(100)
    slm.lmm_many(FIXED + " + (1 | donor)", data, Y)
    before = _status("VmRSS")
    Y = np.tile(Y, (1, v // 100))
    Y += np.random.default_rng(2).normal(scale=0.1, size=Y.shape[1])
    seconds, _, _ = timed(lambda: slm.lmm_many(FIXED + " + (1 | donor)", data, Y))
    typer.echo(f"{seconds} {(_status('VmHWM') - before) / Y.nbytes}")


def _status(key: str) -> int:
    """Bytes, from the kernel's account of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))


def traits(n: int, v: int) -> Row:
    """v traits of all animals of a pedigree, beside v times one trait's fit."""
    rng, context = np.random.default_rng(3), problems().pedigree(n)
    data = problems().animals(rng, n)
    Y = data["y"].to_numpy()[:, None] + rng.uniform(0.5, 2.0, v) * rng.normal(size=(n, v))
    formula = "~ x + ped(1 | animal, P)"
    *one, fit = timed(lambda: slm.lmm("y" + formula, data.assign(y=Y[:, 0]), context=context))
    *every, fits = timed(lambda: slm.lmm_many(formula, data, Y, context=context))
    if abs(fits.loglik[0] - fit.loglik) > WORSE * abs(fit.loglik):
        raise SystemExit(f"log-likelihoods differ by {fits.loglik[0] - fit.loglik:.1e}")
    ratios = v * np.array(one) / every
    said = f"{duration(every[0])}, {times(ratios)} (one fit: {duration(one[0])})"
    return Row(f"{v} traits on a pedigree of {n:,}", f"30 x one trait's fit times {v}", said, ratios[0] >= 30.0)


def markers(people: int, count: int) -> Iterator[Row]:
    """Both kinds of scan, by `benchmarks.scan`."""
    bars = {"families": ("in families of 5, exact", 1500), "general": ("through a general sparse factor", 200)}
    for rate in scan.main(["--people", str(people), "--markers", str(count)]):
        what, bar = bars[rate.name]
        said = f"{figure(rate.per_second)} a second and core, {duration(rate.setup)} once"
        yield Row(f"scan, {people:,} people {what}", f"{bar:,} markers a second and core", said, rate.per_second >= bar)


def markdown(rows: list[Row], responses: int, genes: int, rounds: int) -> str:
    """The table, and how it was measured."""
    lines = ["| problem | bar | measured | |", "|---|---|---|---|"]
    lines += [f"| {r.problem} | {r.bar} | {r.measured} | {'met' if r.met else '**missed**'} |" for r in rows]
    software = ", ".join([f"sparselmm {slm.__version__}", f"NumPy {np.__version__}", in_r(VERSIONS) or "R not there"])
    text = (
        f"{responses:,} responses of 500 samples and 100 donors, four fixed effects, REML, from tables to estimates, "
        f"best of {rounds} rounds in turns with R, whose loop over {genes} of the responses is extrapolated. How many "
        "times as fast is by elapsed time, which decides, and in brackets by processor time of all threads, which "
        f"other work on the machine (load {os.getloadavg()[1]:.0f} at the end) disturbs less and for which a second "
        "core counts for nothing. Scans: processor seconds of one thread. Our log-likelihood was nowhere below R's "
        f"(1e-6, relative). {date.today()}, {machine()}: {software}; by `make race-many`."
    )
    return "\n".join(lines) + "\n\n" + wrap(text)


@app.command()
def main(
    responses: Annotated[int, typer.Option(help="Responses that we fit beside R; 0 leaves them out.")] = 20_000,
    genes: Annotated[int, typer.Option(help="Responses that R fits.")] = 60,
    rounds: Annotated[int, typer.Option(help="Timed runs, the best of which counts.")] = 3,
    most: Annotated[int, typer.Option("--voxels", help="Responses of the largest problem.")] = 200_000,
    herd: Annotated[int, typer.Option("--animals", help="Animals of the pedigree.")] = 100_000,
    people: Annotated[int, typer.Option(help="People of the scans.")] = 100_000,
    write: Annotated[bool, typer.Option(help="Put the table into the documentation.")] = False,
) -> None:
    """Time, compare, print."""
    rows: list[Row] = []
    parts: list[Iterator[Row]] = [races(responses, genes, rounds)] if responses else []
    parts += [iter([voxels(most)])] if most else []
    parts += [markers(people, 512)] if people else []
    parts += [iter([traits(herd, 100)])] if herd else []
    for part in parts:
        for row in part:
            typer.echo(f"{row.problem}: {row.measured} ({row.bar}: {'met' if row.met else 'missed'})", err=True)
            rows.append(row)
    table = markdown(rows, responses, genes, rounds)
    typer.echo(table)
    if write:
        DOCS.write_text(paste(DOCS.read_text(), table, "<!-- race-many -->", "<!-- /race-many -->"))


if __name__ == "__main__":
    app()
