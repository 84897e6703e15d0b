"""`lmm_many` beside lme4 over one set of genes: `make race-many`, or `python -m benchmarks.many --responses 2000`.

500 samples of 100 donors in 20 batches, four fixed effects. lme4 (in R) fits some of the same responses, by `refit` of
one model and by `lmer` anew; its time is extrapolated, and the criteria are compared. Where lme4 is not installed only
our times are printed.
"""

import resource
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer

import sparselmm as slm

FIXED = "~ age + sex + trt"
MODELS = {
    "(1 | donor)": (" + (1 | donor)", False),
    "two factors": (" + (1 | donor) + (1 | batch)", False),
    "intercept and slope": (" + (1 + age | donor)", False),
    "voom weights": (" + (1 | donor)", True),
}
SCRIPT = """
suppressMessages(library(lme4)); args <- commandArgs(TRUE); options(warn = -1)
d <- read.csv(file.path(args[1], "d.csv")); Y <- as.matrix(read.csv(file.path(args[1], "Y.csv")))
W <- as.matrix(read.csv(file.path(args[1], "W.csv"))); weighted <- args[3] == "True"
formula <- as.formula(args[2]); d$y <- Y[, 1]; d$w <- W[, 1]
one <- function(j) { d$y <- Y[, j]; d$w <- W[, j]
  suppressMessages(if (weighted) lmer(formula, d, weights = w) else lmer(formula, d)) }
first <- one(1)
again <- system.time(for (j in 1:ncol(Y)) if (weighted) one(j) else suppressMessages(refit(first, Y[, j])))[[3]]
anew <- system.time(fits <- lapply(1:ncol(Y), one))[[3]]
cat(again / ncol(Y), anew / ncol(Y), sprintf("%.10f", sapply(fits, function(m) as.numeric(logLik(m)))))
"""

app = typer.Typer(add_completion=False)


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


def lme4(data: pd.DataFrame, Y: np.ndarray, W: np.ndarray, formula: str, weighted: bool) -> np.ndarray | None:
    """Seconds a response by refit and by lmer, then log-likelihoods."""
    with tempfile.TemporaryDirectory() as folder:
        for name, table in (("d", data), ("Y", pd.DataFrame(Y)), ("W", pd.DataFrame(W.T))):
            table.to_csv(Path(folder) / f"{name}.csv", index=False)
        script = Path(folder) / "race.R"
        script.write_text(SCRIPT)
        command = ["Rscript", str(script), folder, f"y {formula}", str(weighted)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
    return np.array(done.stdout.split(), dtype=float)


def best(run: Any, rounds: int) -> tuple[float, Any]:
    """Least seconds of several runs, and the last result."""
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        result = run()
        times.append(time.perf_counter() - began)
    return min(times), result


@app.command()
def main(
    responses: Annotated[int, typer.Option(help="Responses that we fit.")] = 20_000,
    genes: Annotated[int, typer.Option(help="Responses that lme4 fits.")] = 100,
    rounds: Annotated[int, typer.Option(help="Timed runs, the best of which counts.")] = 3,
    voxels: Annotated[int, typer.Option(help="Responses of the largest problem; 0 leaves it out.")] = 200_000,
) -> None:
    """Time, compare, print."""
    data, Y, W = problem(responses)
    typer.echo("model                  seconds   ms each   x refit   x lmer   least difference of loglik")
    for name, (term, weighted) in MODELS.items():
        formula, weights = FIXED + term, W if weighted else None
        slm.lmm_many(formula, data, Y[:, :64], weights=None if weights is None else weights[:64])
        seconds, fits = best(lambda f=formula, w=weights: slm.lmm_many(f, data, Y, weights=w), rounds)
        theirs = lme4(data, Y[:, :genes], W[:genes], formula, weighted)
        line = f"{name:22} {seconds:7.2f} {1e3 * seconds / responses:9.3f}"
        if theirs is not None:
            ratios = theirs[:2] * responses / seconds
            line += f" {ratios[0]:9.0f} {ratios[1]:8.0f} {(fits.loglik[:genes] - theirs[2:]).min():12.1e}"
        typer.echo(line)
    if voxels:
        largest(voxels)


def largest(v: int) -> None:
    """One factor over very many responses: seconds, and memory beside Y."""
    data, Y, _ = problem(100)
    Y = np.tile(Y, (1, v // 100))
    Y += np.random.default_rng(2).normal(scale=0.1, size=Y.shape[1])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, _ = best(lambda: slm.lmm_many(FIXED + " + (1 | donor)", data, Y), 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    typer.echo(
        f"{v:,} responses: {seconds:.1f} s; Y has {Y.nbytes / 1e9:.2f} GB, the peak rose by {(peak - before) / 1e6:.2f}"
    )


if __name__ == "__main__":
    app()
