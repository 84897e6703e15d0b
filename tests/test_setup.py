"""The set-up: which scikit-sparse is asked for, given the SuiteSparse and the compilers of the machine."""

import runpy
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parent.parent


def requirement(monkeypatch):
    """Run setup.py as pip does and give what it asks for of scikit-sparse."""
    asked = []
    fake = SimpleNamespace(setup=lambda install_requires: asked.extend(install_requires))
    monkeypatch.setitem(sys.modules, "setuptools", fake)
    runpy.run_path(str(ROOT / "setup.py"))
    return [line for line in asked if "scikit-sparse" in line]


# 0.5.0 fails to compile with SuiteSparse 5.12 (Debian 12), compiles with 7.10 and g++ (Debian 13); 0.4.16 with both.
@pytest.mark.parametrize(
    ("version", "cxx", "expected"),
    [
        ((5, 12), True, "scikit-sparse>=0.4.16,<0.5"),
        ((7, 3), True, "scikit-sparse>=0.4.16,<0.5"),
        ((7, 4), True, "scikit-sparse>=0.4.16"),
        ((7, 10), True, "scikit-sparse>=0.4.16"),
        ((7, 10), False, "scikit-sparse>=0.4.16,<0.5"),
    ],
)
def test_the_version_of_scikit_sparse_fits_the_library(monkeypatch, tmp_path, version, cxx, expected):
    header = "#define SUITESPARSE_MAIN_VERSION {}\n#define SUITESPARSE_SUB_VERSION    {}\n".format(*version)
    (tmp_path / "SuiteSparse_config.h").write_text(header)
    monkeypatch.setenv("SUITESPARSE_INCLUDE_DIR", str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda command: command if cxx else None)
    assert requirement(monkeypatch) == [expected]


def test_without_suitesparse_the_package_installs_with_the_dense_engine(monkeypatch):
    monkeypatch.setattr(Path, "is_file", lambda path: False)
    assert requirement(monkeypatch) == []
