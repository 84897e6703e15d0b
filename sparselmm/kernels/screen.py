"""What a response holds: finite values, and their range."""

import numpy as np
from numba import njit

from .._typing import FloatArray, IntArray


@njit(cache=True, nogil=True)
def screen(
    begin: int,
    end: int,
    Y: FloatArray,
    finite: IntArray,
    infinite: IntArray,
    least: FloatArray,
    largest: FloatArray,
    total: FloatArray,
) -> None:
    """Of columns begin ... end-1 of Y (n, v): how many values are finite or infinite; of the finite ones the least, the
    largest and the sum.
    """
    finite[begin:end], infinite[begin:end], total[begin:end] = 0, 0, 0.0
    least[begin:end], largest[begin:end] = np.inf, -np.inf
    for i in range(Y.shape[0]):
        for j in range(begin, end):
            value = Y[i, j]
            if np.isfinite(value):
                finite[j] += 1
                total[j] += value
                least[j] = min(least[j], value)
                largest[j] = max(largest[j], value)
            elif not np.isnan(value):
                infinite[j] += 1
