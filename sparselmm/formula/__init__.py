"""Formula and table -> ModelSpec: `build_spec("y ~ x + (1 | g)", table)`."""

from .encode import Encoding, build_spec
from .names import FUNCTIONS
from .parse import Bar, ParsedFormula, parse

__all__ = ["FUNCTIONS", "Bar", "Encoding", "ParsedFormula", "build_spec", "parse"]
