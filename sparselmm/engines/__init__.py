"""Engines: how log|M|, solves and selected inverses are computed."""

from .._errors import EngineError
from .base import Engine, Pattern
from .cholmod import Cholmod

ENGINES = ("auto", "cholmod", "dense")


def make_engine(name: str, pattern: Pattern) -> Engine:
    """The engine for M that `name` asks for; "auto" is cholmod. EngineError for an unknown name."""
    if name not in ("auto", "cholmod"):
        raise EngineError(f"unknown engine '{name}': known are {', '.join(ENGINES)}")
    return Cholmod(pattern)


__all__ = ["ENGINES", "Cholmod", "Engine", "Pattern", "make_engine"]
