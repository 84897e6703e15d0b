"""Name the dependencies: scikit-sparse compiles against the SuiteSparse of the machine, and must fit its version.

Everything else is in pyproject.toml. Publish an sdist only: a wheel would carry the choice made for its builder.
"""

import os
import re
import shutil
import sysconfig
from pathlib import Path

from setuptools import setup

DEPENDENCIES = [
    *("numpy>=1.24", "scipy>=1.14", "numba>=0.59", "pandas>=2.0", "narwhals>=1.20", "formulaic>=1.0"),
    *("typer>=0.12", "rich>=13", "threadpoolctl>=3"),
]


def include_folders() -> list[Path]:
    """List where scikit-sparse's own build looks for the headers of SuiteSparse."""
    own, conda = os.environ.get("SUITESPARSE_INCLUDE_DIR"), os.environ.get("CONDA_PREFIX")
    folders = [Path(own)] if own else []
    if conda:
        folders += [Path(conda, "include/suitesparse"), Path(conda, "Library/include/suitesparse")]
    system = ("/usr/include", "/usr/local/include", "/opt/homebrew/include")
    return folders + [Path(folder, "suitesparse") for folder in system]


def suitesparse_version() -> tuple[int, int] | None:
    """Read (main, sub) version from SuiteSparse_config.h, None where there is none."""
    for folder in include_folders():
        header = folder / "SuiteSparse_config.h"
        if header.is_file():
            found = dict(re.findall(r"define SUITESPARSE_(MAIN|SUB)_VERSION\s+(\d+)", header.read_text("latin-1")))
            return int(found["MAIN"]), int(found["SUB"])
    return None


def has_cxx() -> bool:
    return shutil.which((sysconfig.get_config_var("CXX") or "c++").split()[0]) is not None


def scikit_sparse() -> list[str]:
    """Require what builds here: 0.5 needs SuiteSparse 7.4 and a C++ compiler, 0.4.16 neither."""
    version = suitesparse_version()
    if version is None:
        return []  # the dense engine works without, and the error of the sparse one says what to install
    return ["scikit-sparse>=0.4.16" if version >= (7, 4) and has_cxx() else "scikit-sparse>=0.4.16,<0.5"]


setup(install_requires=DEPENDENCIES + scikit_sparse())
