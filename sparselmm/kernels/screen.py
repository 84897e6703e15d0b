"""What a response holds: finite values, and their range."""

import numpy as np
from numba import njit, prange

from .._typing import FloatArray, IntArray


@njit(cache=True, parallel=True)
def screen(Y: FloatArray, finite: IntArray, infinite: IntArray, least: FloatArray, largest: FloatArray) -> None:
    """Of each column of Y (n, v): how many values are finite or infinite; least and largest finite one (inf, -inf)."""
    width = 64  # columns of a chunk: a row of it is a cache line or several
    for chunk in prange((Y.shape[1] + width - 1) // width):
        lo, hi = chunk * width, min((chunk + 1) * width, Y.shape[1])
        finite[lo:hi], infinite[lo:hi], least[lo:hi], largest[lo:hi] = 0, 0, np.inf, -np.inf
        for i in range(Y.shape[0]):
            for j in range(lo, hi):
                value = Y[i, j]
                if np.isfinite(value):
                    finite[j] += 1
                    least[j] = min(least[j], value)
                    largest[j] = max(largest[j], value)
                elif not np.isnan(value):
                    infinite[j] += 1
