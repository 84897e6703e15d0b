"""Kernels over responses in the package's pool of threads."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..engines.threads import parallel, pieces

GRAIN = 32.0  # responses of a piece at least


def over_responses(kernel: Callable[..., Any], count: int, *args: Any) -> None:
    """kernel(begin, end, *args) for pieces of 0 ... count-1; each response is one thread's work, in a fixed order."""
    if count:
        parallel(kernel, pieces(np.arange(count + 1), GRAIN), *args)
