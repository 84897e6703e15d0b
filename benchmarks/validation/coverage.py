"""How often 95 % intervals cover the truth: `python -m benchmarks.validation.coverage --datasets 1000`.

40 groups of 6 rows, y ~ x + (1 | g), by REML. Each data set is fitted, profiled and bootstrapped; data set k has the
k-th child of one seed. Prints the table in docs/how-to/intervals.md.
"""

import argparse
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
import pandas as pd

import sparselmm as slm

FORMULA = "y ~ x + (1 | g)"
TRUTH = {"Intercept": 1.0, "x": 0.5, "sd_Intercept|g": 0.7, "sigma": 1.0}
LEVEL = 0.95
BOOTSTRAP = {"percentile": "percentile", "bias-corrected": "bc", "BCa": "bca"}


def design() -> pd.DataFrame:
    """240 rows: a covariate that varies within groups."""
    g = np.repeat(np.arange(40), 6)
    return pd.DataFrame({"x": np.random.default_rng(0).normal(size=len(g)), "g": g})


def covered(k: int, seed: int, replicates: int) -> pd.DataFrame:
    """Whether each interval of data set k has the truth: parameters by methods."""
    truth = pd.Series(TRUTH)
    table = design()
    y = slm.simulate(f"~ {FORMULA.partition('~')[2]}", table, TRUTH, np.random.SeedSequence(seed, spawn_key=(k,)))
    fit = slm.lmm(FORMULA, table.assign(y=y[:, 0]))
    intervals = {"Wald": fit.confint("wald", LEVEL), "profile": fit.confint("profile", LEVEL)}
    by_reml = fit.confint("profile", LEVEL, reml=True)
    intervals["REML profile"] = by_reml.combine_first(intervals["profile"])  # coefficients have none of their own
    if replicates:
        boot = fit.bootstrap(replicates, seed=k)
        intervals |= {name: boot.confint(LEVEL, kind) for name, kind in BOOTSTRAP.items()}
    ends = {m: ci.loc[truth.index] for m, ci in intervals.items()}
    return pd.DataFrame({m: (ci["lower"] <= truth) & (truth <= ci["upper"]) for m, ci in ends.items()})


def run(datasets: int, seed: int, replicates: int, workers: int) -> Iterator[pd.DataFrame]:
    """One table a data set."""
    one = partial(covered, seed=seed, replicates=replicates)
    if workers == 1:
        yield from map(one, range(datasets))
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(one, range(datasets), chunksize=5)


def report(tables: list[pd.DataFrame], replicates: int) -> str:
    """Coverage in per cent, in Markdown; the last line has its Monte-Carlo error at 95 %."""
    rates = 100 * sum(t.astype(float) for t in tables) / len(tables)
    head = ["parameter", *rates.columns]
    rows = [[f"`{name}`".replace("|", "\\|"), *(f"{rate:.1f}" for rate in row)] for name, row in rates.iterrows()]
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    error = 100 * np.sqrt(LEVEL * (1 - LEVEL) / len(tables))
    with_boot = f", {replicates} replicates each" if replicates else ""
    return "\n".join([*lines, "", f"{len(tables)} data sets{with_boot}; standard error {error:.1f}"])


def main() -> None:
    """Read the command line, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--datasets", type=int, default=1000)
    parser.add_argument("--replicates", type=int, default=999, help="of the bootstrap; 0 leaves it out")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    began = time.perf_counter()
    tables = list(run(given.datasets, given.seed, given.replicates, given.workers))
    print(report(tables, given.replicates))
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
