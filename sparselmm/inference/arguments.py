"""Checks of arguments that several verbs share."""

from typing import Any

import numpy as np

from .._errors import ModelError


def check_flag(value: Any, what: str) -> None:
    """ModelError unless it is True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise ModelError(f"{what}={value!r}: True or False")


def check_level(level: Any) -> None:
    """ModelError unless 0 < level < 1."""
    if not isinstance(level, (int, float)) or not 0.0 < level < 1.0:
        raise ModelError(f"level={level!r}: a number between 0 and 1, such as 0.95")


def check_count(n: Any, what: str) -> None:
    """ModelError unless n is a positive integer."""
    if not isinstance(n, (int, np.integer)) or isinstance(n, bool) or n < 1:
        raise ModelError(f"{what} = {n!r}: a whole number from 1 on")


def generator(seed: Any) -> np.random.Generator:
    """numpy's own, of anything that it takes; ModelError for other seeds."""
    try:
        return np.random.default_rng(seed)
    except (TypeError, ValueError) as error:
        raise ModelError(f"seed={seed!r}: a whole number from 0 on, a numpy.random.Generator, or None") from error
