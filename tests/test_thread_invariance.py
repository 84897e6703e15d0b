"""Results are the same for any number of threads, to 1e-12: kernels add in one order, and BLAS, which cuts large
matrices by their rows and columns, changes the order of few sums."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from threadpoolctl import threadpool_info

import sparselmm as slm
from sparselmm.engines import threads
from sparselmm.formula import build_spec
from sparselmm.likelihood import Likelihood

SAME = 1e-12  # relative to the largest number of a result
N, LEFT, RIGHT = 40_000, 900, 700  # every level meets half of the others: fronts of 700 columns


@pytest.fixture(scope="module")
def crossed():
    rng = np.random.default_rng(12)
    a, b = np.r_[np.arange(LEFT), rng.integers(0, LEFT, N - LEFT)], rng.integers(0, RIGHT, N)
    x = rng.normal(size=N)
    y = 1.0 + x + rng.normal(size=LEFT)[a] + 0.5 * rng.normal(size=RIGHT)[b] + rng.normal(size=N)
    return pd.DataFrame({"y": y, "x": x, "a": a, "b": b})


@pytest.fixture
def blas_takes_all(monkeypatch):
    """However small the factor and however busy the machine."""
    monkeypatch.setattr(threads, "MANY_FLOPS", 0.0)
    yield
    slm.set_threads(None)


def everything(engine, data):
    """What an evaluation gives: criterion, gradient, information, coefficients, effects, their variances."""
    likelihood = Likelihood(build_spec("y ~ x + (1 + x | a) + (1 | b)", data), engine)
    theta = np.array([0.9, 0.1, 0.2, 0.6])
    with threads.blas_threads(likelihood.flops):
        used = {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}
        found, slope = likelihood(theta), likelihood.derivatives(theta)
        variances = likelihood.random_vcov(theta, found.sigma, prediction=True)
    scalars = np.array([found.deviance, found.sigma])
    return used, [scalars, found.beta, *found.b, slope.gradient, slope.hessian, *variances]


@pytest.mark.parametrize("engine", ["absorb", "supernodal", "cholmod"])
def test_any_number_of_threads_gives_the_same_numbers(crossed, blas_takes_all, engine):
    slm.set_threads(1)
    used, expected = everything(engine, crossed)
    assert used == {1}
    for n in (2, 3):
        slm.set_threads(n)
        used, found = everything(engine, crossed)
        assert used == {n}
        for left, right in zip(found, expected, strict=True):
            np.testing.assert_allclose(left, right, rtol=0.0, atol=SAME * np.abs(right).max())


def test_the_library_that_cholmod_brings_is_limited_too():
    """In a process that has fitted without CHOLMOD before."""
    script = """
import numpy as np, sparselmm as slm
from threadpoolctl import threadpool_info
from sparselmm.engines.threads import blas_threads
count = lambda: [l["num_threads"] for l in threadpool_info() if l["user_api"] == "blas"]
data, formula = slm.load_dataset("sleepstudy"), "Reaction ~ Days + (Days | Subject)"
slm.lmm(formula, data, engine="absorb")
before = len(count())
slm.lmm(formula, data, engine="cholmod")
slm.set_threads(3)
with blas_threads(1e12):
    print(before, *count())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    before, *counts = map(int, done.stdout.split())
    assert len(counts) >= before and set(counts) == {3}
