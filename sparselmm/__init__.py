"""Large sparse linear mixed models: `fit = slm.lmm("y ~ x + (1 + x | g)", data)`."""

from ._errors import DataError, EngineError, FormulaError, ModelError, SparselmmError, SparselmmWarning
from .api import LinearMixedModel, lmm, simulate
from .datasets import dataset_names, load_dataset
from .engines.threads import set_threads
from .inference.compare import compare
from .inference.save import SavedFit, load
from .many.fit import lmm_many
from .many.result import ManyFits
from .results import Fit
from .structures import Known, Pedigree
from .terms import ModelSpec, RandomTerm

__version__ = "0.1.0"

__all__ = [
    "DataError",
    "EngineError",
    "Fit",
    "FormulaError",
    "Known",
    "LinearMixedModel",
    "ManyFits",
    "ModelError",
    "ModelSpec",
    "Pedigree",
    "SavedFit",
    "RandomTerm",
    "SparselmmError",
    "SparselmmWarning",
    "compare",
    "dataset_names",
    "lmm",
    "lmm_many",
    "load",
    "load_dataset",
    "set_threads",
    "simulate",
]
