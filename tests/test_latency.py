"""What `import sparselmm`, and the first fit, may load: heavy modules wait until something needs them."""

import json
import subprocess
import sys

import sparselmm as slm

HEAVY = ["formulaic", "matplotlib", "numba", "pandas", "polars", "pyarrow", "scipy", "statsmodels", "typer", "rich"]
NOT_FOR_A_FIT = [
    "matplotlib",
    "polars",
    "scipy.optimize",
    "scipy.stats",
    "statsmodels",
    "typer",
    "rich",
    "sparselmm.many",
]
MOST_KERNELS = 17
FIT = """
table = slm.load_dataset("sleepstudy")
slm.lmm("Reaction ~ Days + (Days | Subject)", table).summary()
"""


def loaded(code):
    """Names of the modules that a fresh process has after `code`."""
    script = f"import json, sys\nimport sparselmm as slm\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_import_loads_nothing_heavy():
    assert not loaded("") & set(HEAVY)


def test_a_fit_loads_only_what_it_needs():
    there = loaded(FIT)
    assert {"numba", "pandas", "formulaic"} <= there
    assert not there & set(NOT_FOR_A_FIT)


def test_a_first_fit_needs_few_kernels():
    """Each takes some 7 ms to load from Numba's cache."""
    script = """
import gc
import sparselmm as slm
from numba.core.dispatcher import Dispatcher
slm.lmm("Reaction ~ Days + (Days | Subject)", slm.load_dataset("sleepstudy")).fixef_se
ours = [o for o in gc.get_objects() if isinstance(o, Dispatcher) and o.py_func.__module__.startswith("sparselmm")]
print(sum(len(o.overloads) for o in ours), *sorted(o.__name__ for o in ours if o.overloads))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    count, *names = done.stdout.split()
    assert 0 < int(count) <= MOST_KERNELS, names


def test_public_names_are_listed_before_they_are_loaded():
    script = "import sparselmm as slm; print(sorted(set(slm.__all__) - set(dir(slm))), 'sparselmm.api' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", f"import sys; {script}"], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "[] False"


def test_every_public_name_has_a_home():
    assert set(slm.__all__) == set(slm._HOME)
    for name in slm.__all__:
        assert getattr(slm, name) is vars(slm)[name]
