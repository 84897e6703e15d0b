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
    "load",
    "load_dataset",
    "read_kinship",
    "scan",
    "set_threads",
    "simulate",
]
