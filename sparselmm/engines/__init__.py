"""Engines: how log|M|, solves and selected inverses are computed."""

from .base import ENGINES, Engine, Pattern, make_engine

__all__ = ["ENGINES", "Engine", "Pattern", "make_engine"]
