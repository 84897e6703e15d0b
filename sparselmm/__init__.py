"""Large sparse linear mixed models: `fit = slm.lmm("y ~ x + (1 + x | g)", data)`."""

from ._errors import DataError, EngineError, FormulaError, ModelError, SparselmmError, SparselmmWarning
from .api import LinearMixedModel, lmm
from .datasets import dataset_names, load_dataset
from .results import Fit
from .terms import ModelSpec, RandomTerm

__version__ = "0.1.0"

__all__ = [
    "DataError",
    "EngineError",
    "Fit",
    "FormulaError",
    "LinearMixedModel",
    "ModelError",
    "ModelSpec",
    "RandomTerm",
    "SparselmmError",
    "SparselmmWarning",
    "dataset_names",
    "lmm",
    "load_dataset",
]
