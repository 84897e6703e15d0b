"""What `import sparselmm`, and the first fit, may load: heavy modules wait until something needs them."""

import json
import subprocess
import sys

import sparselmm as slm

HEAVY = ["formulaic", "matplotlib", "numba", "pandas", "polars", "pyarrow", "scipy", "statsmodels", "typer", "rich"]
NOT_FOR_A_FIT = ["matplotlib", "polars", "scipy.stats", "statsmodels", "typer", "rich", "sparselmm.many"]
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


def test_public_names_are_listed_before_they_are_loaded():
    script = "import sparselmm as slm; print(sorted(set(slm.__all__) - set(dir(slm))), 'sparselmm.api' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", f"import sys; {script}"], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "[] False"


def test_every_public_name_has_a_home():
    assert set(slm.__all__) == set(slm._HOME)
    for name in slm.__all__:
        assert getattr(slm, name) is vars(slm)[name]
