"""Every benchmark runs: asv reports a broken one as a failure that nobody waits for."""

import inspect

import pytest

from benchmarks import stages

SHAPE = "crossed"
CLASSES = [c for _, c in inspect.getmembers(stages, inspect.isclass) if c.__module__ == stages.__name__ and c.__doc__]
MEASURES = [(c, m) for c in CLASSES for m in dir(c) if m.startswith(("time_", "peakmem_"))]


@pytest.mark.parametrize(("benchmark_class", "measure"), MEASURES, ids=[f"{c.__name__}.{m}" for c, m in MEASURES])
def test_a_stage_can_be_measured(benchmark_class, measure):
    benchmark = benchmark_class()
    benchmark.setup(SHAPE)
    getattr(benchmark, measure)(SHAPE)


def test_the_facts_are_those_of_a_fit():
    facts = stages.Facts()._facts(SHAPE)
    assert facts["iterations"] <= 10 and facts["nnz"] > 0
    assert facts["deviance"] == stages.model(SHAPE).fit().deviance
