"""Cholesky factor and inverse of a dense matrix, in place, by threads of `parallel` instead of those of BLAS.

    left-looking:  A_K -= L_K,<K L_<K'  ,  L_KK = chol(A_KK),  L_RK = A_RK L_KK^-T,   panels K from the left
    Y = L_RK L_KK^-1,  Z_RK = -Z_RR Y,  Z_KK = L_KK^-T L_KK^-1 - Y' Z_RK,             panels K from the right

with R the rows below K. BLAS's own threads spin where another process has a core; these do not, and the numbers do
not depend on how many there are.
"""

import numpy as np

from .._errors import EngineError
from .._typing import FloatArray, IntArray
from ..kernels import tiles as kernels
from ..kernels.blas import blas, factorise_lower, invert_factor
from ..kernels.tiles import HEIGHT, STRIP, WIDTH
from .base import NOT_POSITIVE
from .threads import blas_threads, parallel

AT_LEAST, LOW = 8, 64  # tiles for the threads to share; rows below which BLAS is slow


def factorise(S: FloatArray) -> None:
    """L in S[j, j:] = column j, in place of a symmetric matrix's; EngineError where it is not positive definite."""
    n, flat, b = len(S), S.reshape(-1), blas()
    with blas_threads(0.0):
        for lo in range(0, n, WIDTH):
            hi = min(lo + WIDTH, n)
            rows, height = _tiles(n - hi)
            if lo:
                parallel(kernels.take_left, np.arange(len(rows) + 1), b, height, n, lo, hi, flat)
            if factorise_lower(b, hi - lo, flat, lo * n + lo, n) != 0:
                raise EngineError(NOT_POSITIVE)
            parallel(kernels.divide, rows, b, height, True, n, lo, hi, flat, lo * n, flat)
    if not np.isfinite(np.diag(S)).all():
        raise EngineError(NOT_POSITIVE)


def invert(L: FloatArray, out: FloatArray) -> None:
    """out[j, j:] = column j of (L L')^-1, from L[j, j:]; out may be L."""
    n, Z, b = len(L), out.reshape(-1), blas()
    Y = np.empty(n * min(WIDTH, n))
    parallel(kernels.copy_columns, np.arange(0, n + WIDTH, WIDTH).clip(max=n), L, out)
    with blas_threads(0.0):
        for lo in range((n - 1) // WIDTH * WIDTH, -1, -WIDTH):
            hi = min(lo + WIDTH, n)
            rows, height = _tiles(n - hi)
            Y[: n * (hi - lo)] = Z[lo * n : hi * n]
            parallel(kernels.divide, rows, b, height, False, n, lo, hi, Z, 0, Y)
            parallel(kernels.below, rows, b, height, n, lo, hi, Y, Z)
            invert_factor(b, hi - lo, Z, lo * n + lo, n)
            parallel(kernels.on_the_diagonal, np.arange(-(-(hi - lo) // STRIP) + 1), b, n, lo, hi, Y, Z)


def _tiles(rows: int) -> tuple[IntArray, int]:
    """Bounds of tiles and their height: AT_LEAST of them where that leaves them high enough."""
    height = int(np.clip(-(-rows // AT_LEAST), LOW, HEIGHT))
    return np.arange(-(-rows // height) + 1), height
