"""Every benchmark runs: asv reports a broken one as a failure that nobody waits for."""

import inspect

import numpy as np
import pytest

from benchmarks import shapes, stages
from sparselmm.dense import DenseLikelihood
from sparselmm.likelihood import Likelihood
from tests.problems import INTRINSIC, PROBLEMS, SMALL, STRUCTURED, mating, pedigree

CLASSES = [c for _, c in inspect.getmembers(stages, inspect.isclass) if c.__module__ == stages.__name__ and c.__doc__]
MEASURES = [(c, m) for c in CLASSES for m in dir(c) if m.startswith(("time_", "peakmem_"))]
RTOL = 1e-9  # sparse against dense at a given theta: both are exact


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(shapes, "SIZES", dict.fromkeys(shapes.SIZES, SMALL))


@pytest.mark.parametrize("shape", shapes.SIZES)
@pytest.mark.parametrize(("benchmark_class", "measure"), MEASURES, ids=[f"{c.__name__}.{m}" for c, m in MEASURES])
def test_a_stage_can_be_measured(benchmark_class, measure, shape):
    benchmark = benchmark_class()
    benchmark.setup(shape)
    getattr(benchmark, measure)(shape)


@pytest.mark.parametrize("shape", ["crossed", *STRUCTURED, *INTRINSIC])
def test_the_facts_are_those_of_a_fit(shape):
    facts = stages.Facts()._facts(shape)
    fit = stages.model(shape).fit()
    assert fit.converged and facts["iterations"] == fit.n_iter
    assert facts["deviance"] == fit.deviance
    if shape == "crossed":
        assert facts["iterations"] <= 10 and facts["nnz"] > 0


def test_every_problem_for_benchmarks_has_a_size():
    assert set(shapes.SIZES) == {p.name for p in PROBLEMS.values() if "bench" in p.tags} | {*STRUCTURED, *INTRINSIC}
    assert set(shapes.SHAPES) == {*shapes.SIZES, "InstEval"}


@pytest.mark.parametrize("name", STRUCTURED)
def test_structured_problems_are_the_same_densely(name):
    sparse, dense = Likelihood(STRUCTURED[name].spec()), DenseLikelihood(STRUCTURED[name].spec())
    theta = np.linspace(0.4, 0.9, sparse.parameters.count)
    assert sparse(theta).deviance == pytest.approx(dense(theta).deviance, rel=RTOL)


def test_random_mating():
    n, parents = 600, mating(600)
    old = parents["sire"] >= 0
    generation = np.arange(n) // 100
    for who in parents.values():
        assert np.array_equal(who >= 0, generation > 0)
        assert np.array_equal(generation[who[old]], generation[old] - 1)
    assert not set(parents["sire"][old]) & set(parents["dam"][old])
    P = pedigree(n)["P"]
    assert (len(P), P.n_founders, P.n_generations) == (600, 100, 6)
    assert 0 < P.inbreeding.mean() < 0.2
