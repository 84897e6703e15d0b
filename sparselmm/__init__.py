"""Large sparse linear mixed models: `fit = slm.lmm("y ~ x + (1 + x | g)", data)`.

Public names are imported where they are first used, so that `import sparselmm` itself is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._errors import DataError, EngineError, FormulaError, ModelError, SparselmmError, SparselmmWarning
    from .api import LinearMixedModel, lmm, simulate
    from .datasets import dataset_names, load_dataset
    from .engines.threads import set_threads
    from .inference.compare import compare
    from .inference.save import SavedFit, load
    from .many.fit import lmm_many
    from .many.result import ManyFits
    from .multi.fit import lmm_multi
    from .multi.result import MultiFit
    from .results import Fit
    from .scanning.result import Scan
    from .scanning.run import scan
    from .structures import Known, Pedigree
    from .structures.kinship import Kinship, read_kinship
    from .terms import ModelSpec, RandomTerm

__version__ = "0.1.0"

__all__ = [
    "DataError",
    "EngineError",
    "Fit",
    "FormulaError",
    "Kinship",
    "Known",
    "LinearMixedModel",
    "ManyFits",
    "ModelError",
    "ModelSpec",
    "MultiFit",
    "Pedigree",
    "SavedFit",
    "Scan",
    "RandomTerm",
    "SparselmmError",
    "SparselmmWarning",
    "compare",
    "dataset_names",
    "lmm",
    "lmm_many",
    "lmm_multi",
    "load",
    "load_dataset",
    "read_kinship",
    "scan",
    "set_threads",
    "simulate",
]

_HOMES = {
    "._errors": (
        "DataError",
        "EngineError",
        "FormulaError",
        "ModelError",
        "SparselmmError",
        "SparselmmWarning",
    ),
    ".api": (
        "LinearMixedModel",
        "lmm",
        "simulate",
    ),
    ".datasets": (
        "dataset_names",
        "load_dataset",
    ),
    ".engines.threads": ("set_threads",),
    ".inference.compare": ("compare",),
    ".inference.save": (
        "SavedFit",
        "load",
    ),
    ".many.fit": ("lmm_many",),
    ".many.result": ("ManyFits",),
    ".multi.fit": ("lmm_multi",),
    ".multi.result": ("MultiFit",),
    ".results": ("Fit",),
    ".scanning.result": ("Scan",),
    ".scanning.run": ("scan",),
    ".structures": (
        "Known",
        "Pedigree",
    ),
    ".structures.kinship": (
        "Kinship",
        "read_kinship",
    ),
    ".terms": (
        "ModelSpec",
        "RandomTerm",
    ),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


_MODULES = ("closed_form", "inference", "plots", "structures")


def __getattr__(name: str) -> Any:
    """A public name, from the module that it lives in, or a module that people use by its name, as `slm.plots`."""
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    if name not in _HOME:
        raise AttributeError(f"module 'sparselmm' has no attribute '{name}'")
    globals()[name] = value = getattr(import_module(_HOME[name], __name__), name)
    return value


def __dir__() -> list[str]:
    own = (name for name in globals() if name.startswith("__"))
    return sorted({*own, *__all__, *_MODULES})
