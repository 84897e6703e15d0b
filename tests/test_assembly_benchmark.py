"""The benchmarks of single kernels run: asv reports a broken one as a failure that nobody waits for."""

import pytest

from benchmarks import assembly

CLASSES = [assembly.Columns, assembly.CrossProducts, assembly.Places, assembly.Levels]
MEASURES = [(c, m) for c in CLASSES for m in dir(c) if m.startswith(("time_", "peakmem_"))]


@pytest.mark.parametrize(("benchmark_class", "measure"), MEASURES, ids=[f"{c.__name__}.{m}" for c, m in MEASURES])
def test_a_kernel_can_be_measured(monkeypatch, benchmark_class, measure):
    monkeypatch.setattr(assembly._Rows, "n", 400)
    monkeypatch.setattr(assembly.Levels, "m", 50)
    for params in [(order,) for order in getattr(benchmark_class, "params", [])] or [()]:
        benchmark = benchmark_class()
        benchmark.setup(*params)
        getattr(benchmark, measure)(*params)
        getattr(benchmark, "teardown", lambda *_: None)(*params)
