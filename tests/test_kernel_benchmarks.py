"""The benchmarks of engines and kernels run, and every module of kernels and engines has one."""

import inspect
from itertools import product
from pathlib import Path

import pytest

import sparselmm
from benchmarks import assembly, kernels, shapes, stages

PACKAGE = Path(sparselmm.__file__).parent
CLASSES = [c for _, c in inspect.getmembers(kernels, inspect.isclass) if hasattr(c, "covers")]
SMALL = {"n": 400, "m": 20, "v": 60, "people": 100, "markers": 6, "replicates": 2}
CASES = [(c, params) for c in CLASSES for params in product(*getattr(c, "params", []))]
ELSEWHERE = {  # modules that a benchmark of another file is for
    "blocks": assembly.Places, "codes": assembly.Columns, "columns": assembly.Columns,
    "crossproducts": assembly.CrossProducts,
}  # fmt: skip


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(kernels, "SIZE", 400)
    monkeypatch.setattr(shapes, "SIZES", dict.fromkeys(shapes.SIZES, 144))


@pytest.mark.parametrize(("made", "params"), CASES, ids=[f"{c.__name__}-{'-'.join(map(str, p))}" for c, p in CASES])
def test_an_engine_or_a_kernel_can_be_measured(monkeypatch, made, params):
    for name in SMALL.keys() & vars(made).keys():
        monkeypatch.setattr(made, name, SMALL[name])
    benchmark = made()
    if params[:1] == ("absorb",) and params[1] not in ("InstEval", "crossed"):
        with pytest.raises(NotImplementedError, match="nothing can be absorbed"):
            benchmark.setup(*params)
        return
    benchmark.setup(*params)
    measures = [name for name in dir(made) if name.startswith(("time_", "peakmem_", "track_"))]
    assert measures
    for name in measures:
        getattr(benchmark, name)(*params)


def test_every_module_of_kernels_and_engines_has_a_benchmark():
    covered = {name for c in CLASSES for name in c.covers} | set(ELSEWHERE)
    found = {path.stem for part in ("kernels", "engines") for path in (PACKAGE / part).glob("*.py")}
    assert found - {"__init__", "memory"} == covered  # which reads what the system says


def test_asv_can_import_every_benchmark():
    """It has the installed package and this folder, not the tests: one module that fails to load ends them all."""
    files = list(Path(kernels.__file__).parent.glob("**/*.py"))
    assert len(files) > 20
    assert [file.name for file in files if "from tests" in file.read_text()] == []


def test_every_engine_is_measured():
    assert {*kernels.Engines.params[0], "dense"} == set(sparselmm.engines.ENGINES) - {"auto"}
    assert stages.Evaluation.engine == "auto"
