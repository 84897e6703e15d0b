"""Engines: how log|M|, solves and selected inverses are computed."""

from .base import Engine, Pattern

__all__ = ["Engine", "Pattern"]
