"""Engines: how log|M|, solves and selected inverses are computed."""

from collections.abc import Callable

from .._errors import EngineError
from .absorb import Absorb
from .base import Blocks, Engine, Pattern, sparse_pattern
from .cholmod import Cholmod
from .choose import by_forecast
from .supernodal import Supernodal

ENGINES = ("auto", "absorb", "supernodal", "cholmod", "dense")
OF_THE_WHOLE: dict[str, Callable[[Pattern], Engine]] = {"supernodal": Supernodal, "cholmod": Cholmod}


def make_engine(name: str, pattern: Pattern, blocks: Blocks = ()) -> Engine:
    """The engine for M that `name` asks for; "auto" chooses by forecast. EngineError for an unknown name.

    blocks: (levels, effects a level) of each term in the order of M's columns; without them nothing is absorbed.
    """
    if name == "absorb":
        return Absorb(pattern, blocks)
    if name == "auto":
        return by_forecast(pattern, blocks)
    if name not in OF_THE_WHOLE:
        raise EngineError(f"unknown engine '{name}': known are {', '.join(ENGINES)}")
    return OF_THE_WHOLE[name](pattern)


__all__ = ["ENGINES", "Absorb", "Blocks", "Cholmod", "Engine", "Pattern", "Supernodal", "make_engine", "sparse_pattern"]
