"""Selected inverse beside a numeric factorisation of the same equations: python -m benchmarks.selected_inverse.

Prints processor seconds with one BLAS thread, best of several, and how many factorisations a selected inverse takes.
"""

import argparse
from collections.abc import Callable
from time import process_time

import numpy as np
from threadpoolctl import threadpool_limits

import sparselmm as slm
from sparselmm._typing import FloatArray, IntArray
from sparselmm.engines import Cholmod, Engine, Pattern, Supernodal
from sparselmm.equations import Equations, sparse_pattern
from sparselmm.formula import build_spec
from sparselmm.kernels.pedigree import henderson_inverse

from .shapes import INSTEVAL, problems

GENERATIONS = 20


def insteval() -> Pattern:
    """Three crossed factors."""
    return Equations(build_spec(INSTEVAL, slm.load_dataset("InstEval"))).pattern


def pedigree(animals: int) -> Pattern:
    """Random mating in discrete generations, a twentieth of the males used; every animal has a record."""
    found = problems().mating(animals, GENERATIONS)
    parents = np.column_stack([found["sire"], found["dam"]])
    return sparse_pattern(*henderson_inverse(parents, np.full(animals, 0.5), animals)[:2], animals)


def lattice(rows: int, columns: int) -> Pattern:
    """AR(1) x AR(1) over plots: each joined to its eight neighbours."""
    plot = np.arange(rows * columns).reshape(rows, columns)
    pairs = [(plot, plot), (plot[1:], plot[:-1]), (plot[:, 1:], plot[:, :-1])]
    pairs += [(plot[1:, 1:], plot[:-1, :-1]), (plot[1:, :-1], plot[:-1, 1:])]
    first, second = (np.concatenate([pair[side].ravel() for pair in pairs]) for side in (0, 1))
    return sparse_pattern(first, second, plot.size)


def dominant_values(pattern: Pattern) -> tuple[FloatArray, IntArray]:
    """Random values on the pattern with a dominant diagonal, and the column of each."""
    values = np.random.default_rng(0).uniform(-1.0, 1.0, pattern.nnz)
    cols = np.repeat(np.arange(pattern.q), np.diff(pattern.indptr))
    weights = np.abs(values)
    values[pattern.indptr[:-1]] = 1.0 + sum(np.bincount(at, weights, pattern.q) for at in (pattern.indices, cols))
    return values, cols


def best(function: Callable[[], object], repeats: int) -> float:
    """Processor seconds."""
    seconds = []
    for _ in range(repeats):
        start = process_time()
        function()
        seconds.append(process_time() - start)
    return min(seconds)


def measure(pattern: Pattern, repeats: int, make: Callable[[Pattern], Engine]) -> tuple[Engine, float, float]:
    """The engine, seconds of a factorisation, seconds of a selected inverse on the pattern."""
    engine, (values, cols) = make(pattern), dominant_values(pattern)
    with threadpool_limits(1):
        engine.factorize(values)
        engine.selected_inverse(pattern.indices, cols)
        factorise = best(lambda: engine.factorize(values), repeats)
        return engine, factorise, best(lambda: engine.selected_inverse(pattern.indices, cols), repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--animals", type=int, default=200_000)
    parser.add_argument("--plots", type=int, nargs=2, default=(100, 200))
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    rows, columns = options.plots
    cases = {
        "InstEval": insteval(),
        f"pedigree of {options.animals:,} animals": pedigree(options.animals),
        f"AR(1) x AR(1), {rows} x {columns} plots": lattice(rows, columns),
    }
    print(
        "| equations | engine | nonzeros of L | factorisation | selected inverse | ratio |\n|---|---|---|---|---|---|"
    )
    for name, pattern in cases.items():
        for make in (Supernodal, Cholmod):
            engine, first, second = measure(pattern, options.repeats, make)
            figures = f"{first:.3f} s | {second:.3f} s | {second / first:.2f}"
            print(f"| {name} | {engine.name} | {engine.nnz_factor:,} | {figures} |")


if __name__ == "__main__":
    main()
