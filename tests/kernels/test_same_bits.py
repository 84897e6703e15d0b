"""A kernel has the same bits in the process that compiled it and in those that read it from Numba's cache.

A kernel that others call is compiled twice: alone, and as a copy in each caller's machine code. Both have one symbol.
A process that has just compiled the first one links to it, one that has read the caller from the cache to the copy,
which LLVM has optimised once more. Without fastmath both have the same bits; where sums may be reordered they have not.
"""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import sparselmm

KERNELS = Path(sparselmm.__file__).parent / "kernels"
PROGRAM = """
import numpy as np
from sparselmm.kernels import columns
rng = np.random.default_rng(0)
X, w, y = rng.normal(size=(1500, 3)), rng.uniform(0.5, 2.0, 1500), rng.normal(size=1500)
out = [columns.triangular_factor(0, 1500, X, np.ones(3), w), columns.centred_gram(0, 1500, X, X.mean(axis=0), y, w)]
out.append(columns.take_centred_away(0, 1500, X, X.mean(axis=0), np.arange(3.0), y, w))
print(*(float(a).hex() for part in out for a in np.ravel(part)))
"""


def decorator(function: ast.FunctionDef) -> dict[str, str]:
    """Options of `@njit(...)`, empty for anything else."""
    for node in function.decorator_list:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "njit":
            return {key.arg or "": ast.unparse(key.value) for key in node.keywords}
    return {}


def kernels(path: Path) -> tuple[dict[str, dict[str, str]], dict[str, set[str]]]:
    """Options of each kernel of a file, and which of them each one calls."""
    functions = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
    options = {f.name: decorator(f) for f in functions if decorator(f)}
    calls = {
        f.name: {n.func.id for n in ast.walk(f) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
        & options.keys()
        for f in functions
    }
    return options, calls


def reorders(name: str, options: dict[str, dict[str, str]], calls: dict[str, set[str]]) -> bool:
    return "fastmath" in options[name] or any(reorders(callee, options, calls) for callee in calls[name])


@pytest.mark.parametrize("path", sorted(KERNELS.glob("*.py")), ids=lambda path: path.stem)
def test_reordered_sums_are_compiled_once(path):
    options, calls = kernels(path)
    called = set().union(*calls.values()) if calls else set()
    free = {name for name in called if reorders(name, options, calls)}
    assert {name for name in free if options[name].get("forceinline") != "True"} == set()
    elsewhere = {
        alias.name
        for other in KERNELS.glob("*.py")
        for node in ast.walk(ast.parse(other.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module == path.stem
        for alias in node.names
    }
    assert {name for name in elsewhere & options.keys() if reorders(name, options, calls)} == set()


def test_compiled_here_and_read_from_the_cache(tmp_path):
    def run() -> str:
        environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
        return subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
        ).stdout

    first = run()
    assert list(tmp_path.rglob("*.nbc"))
    assert run() == first
