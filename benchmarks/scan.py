"""Markers a second and core of `slm.scan`: python -m benchmarks.scan [--people 100000] [--markers 512].

People in families of five (two parents, three children), a record each, genotypes in bytes with 0.5 % missing.
"families": kinship and independent residuals, V falls into families. "general": centres crossed with the kinship join
everybody, so that each marker takes a solve with the sparse factor. Processor seconds with one thread, best of several,
without what is made once for a null model (given beside it); the fit of the null model is not counted. Both paths test
the same markers of the first model too, and must agree.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import process_time

import numpy as np
import pandas as pd
import scipy.sparse as sp
from threadpoolctl import threadpool_limits

import sparselmm as slm
from sparselmm.scanning import projection

FAMILY = 0.5 * (np.eye(5) + 1.0)
FAMILY[0, 1] = FAMILY[1, 0] = 0.0  # parents are unrelated
AGREEMENT = 1e-9  # relative, of effects and standard errors by the two paths


@dataclass(frozen=True, slots=True)
class Rate:
    """setup: seconds before the first marker. per_second: markers."""

    name: str
    setup: float
    per_second: float


def problem(people: int, markers: int) -> tuple[pd.DataFrame, slm.Known, np.ndarray]:
    """Table, kinship, genotypes (people, markers) stored marker by marker, as PLINK files are."""
    rng, m = np.random.default_rng(7), people // 5
    relatives = (rng.normal(size=(m, 5)) @ np.linalg.cholesky(FAMILY).T).ravel()
    data = pd.DataFrame({"id": np.arange(5 * m), "age": rng.normal(size=5 * m), "centre": rng.integers(0, 200, 5 * m)})
    centres = 0.5 * rng.normal(size=200)
    data["y"] = 0.3 * data.age + relatives + centres[data.centre] + rng.normal(size=5 * m)
    genotypes = rng.binomial(2, rng.uniform(0.05, 0.5, markers)[:, None], (markers, 5 * m)).astype(np.int8)
    genotypes[rng.random(genotypes.shape) < 0.005] = -127
    kinship = slm.Known(sp.block_diag([FAMILY] * m, format="csc"), kind="covariance")
    return data, kinship, genotypes.T


def best(function: Callable[[], object], repeats: int) -> float:
    """Processor seconds."""
    seconds = []
    for _ in range(repeats):
        began = process_time()
        function()
        seconds.append(process_time() - began)
    return min(seconds)


def rate(name: str, fit: slm.Fit, genotypes: np.ndarray, repeats: int) -> Rate:
    """Of a scan of all markers, less one of a single marker."""
    people = np.arange(len(genotypes))
    scan = lambda G: slm.scan(fit, G, samples=people, sample="id")  # noqa: E731
    scan(genotypes[:, :2])
    setup, whole = best(lambda: scan(genotypes[:, :1]), repeats), best(lambda: scan(genotypes), repeats)
    return Rate(name, setup, (genotypes.shape[1] - 1) / (whole - setup))


def disagreement(fit: slm.Fit, genotypes: np.ndarray) -> float:
    """Largest relative difference between both paths."""
    people, limit = np.arange(len(genotypes)), projection.LARGEST_FAMILY
    tables = []
    try:
        for largest in (limit, 0):
            projection.LARGEST_FAMILY = largest
            tables.append(slm.scan(fit, genotypes, samples=people, sample="id").table[["statistic", "se"]])
    finally:
        projection.LARGEST_FAMILY = limit
    return float(((tables[0] - tables[1]).abs() / tables[0].abs()).max().max())


def main(arguments: Sequence[str] | None = None) -> list[Rate]:
    """Print a line for each path."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for option, default in (("--people", 100_000), ("--markers", 512), ("--repeats", 3)):
        parser.add_argument(option, type=int, default=default)
    given = parser.parse_args(arguments)
    data, kinship, genotypes = problem(given.people, given.markers)
    rates = []
    slm.set_threads(1)
    try:
        with threadpool_limits(1):
            for name, centres in (("families", ""), ("general", " + (1 | centre)")):
                fit = slm.lmm(f"y ~ age + known(1 | id, Q){centres}", data, context={"Q": kinship})
                if not centres and (gap := disagreement(fit, genotypes[:, :16])) > AGREEMENT:
                    raise SystemExit(f"the two paths differ by {gap:.3g}")
                rates.append(rate(name, fit, genotypes, given.repeats))
                print(f"{name:10}{rates[-1].per_second:10,.0f} markers a second and core{rates[-1].setup:8.2f} s once")
    finally:
        slm.set_threads(None)
    return rates


if __name__ == "__main__":
    main()
