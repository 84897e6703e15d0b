"""Steps of a dense Cholesky factorisation and its inverse by panels of columns, cut by rows into tiles for threads.

A panel K is columns lo ... hi-1 of a column-major (n, n) matrix, flat, whose lower triangle counts. Tiles begin ...
end-1 of the rows below it have `height` each. BLAS does the work, each call in the thread that makes it.
"""

from numba import njit

from .._typing import FloatArray
from .blas import Blas, N, T, gemm, own_places, solve_right, symm

# n = 3,706, one thread: factor 365 ms and inverse 680 ms, LAPACK 321 and 689; with panels of 128 and tiles of 128
# rows 430 and 780, of 256 and 512 369 and 715.
WIDTH, HEIGHT = 192, 384  # of a panel, of a tile at most
STRIP = 64  # columns of a diagonal block at a time, of which only what is below the diagonal is computed


@njit(cache=True, nogil=True)
def copy_columns(begin: int, end: int, A: FloatArray, out: FloatArray) -> None:
    """out[j, j:] = A[j, j:], the columns of the lower triangle."""
    for j in range(begin, end):
        out[j, j:] = A[j, j:]


@njit(cache=True, nogil=True)
def clear_columns(begin: int, end: int, A: FloatArray) -> None:
    """A[j, j:] = 0."""
    for j in range(begin, end):
        A[j, j:] = 0.0


@njit(cache=True, nogil=True)
def take_left(begin: int, end: int, b: Blas, height: int, n: int, lo: int, hi: int, A: FloatArray) -> None:
    """A_IK -= L_I L_K' with the columns left of panel K: tile 0 is A_KK, the others are those of the rows below."""
    own = own_places(b)
    for t in range(begin, end):
        if t == 0:
            for j in range(lo, hi, STRIP):
                gemm(own, N, T, hi - j, min(STRIP, hi - j), lo, -1.0, A, j, n, A, j, n, 1.0, A, j * n + j, n)
            continue
        i = hi + (t - 1) * height
        gemm(own, N, T, min(height, n - i), hi - lo, lo, -1.0, A, i, n, A, lo, n, 1.0, A, lo * n + i, n)


@njit(cache=True, nogil=True)
def divide(
    begin: int,
    end: int,
    b: Blas,
    height: int,
    transposed: bool,
    n: int,
    lo: int,
    hi: int,
    L: FloatArray,
    at: int,
    X: FloatArray,
) -> None:
    """X_I = X_I L_KK^-1, transposed: X_I L_KK^-T, for tiles I of the rows from hi on; X (n, hi-lo) begins at `at`."""
    own = own_places(b)
    for t in range(begin, end):
        i = hi + t * height
        m = min(height, n - i)
        solve_right(own, T if transposed else N, m, hi - lo, L, lo * n + lo, n, X, at + i, n)


@njit(cache=True, nogil=True)
def below(begin: int, end: int, b: Blas, height: int, n: int, lo: int, hi: int, Y: FloatArray, Z: FloatArray) -> None:
    """Z_IK = -Z_I Y for tiles I of the rows from hi on: left of the diagonal tile, on it, and above it, transposed."""
    own = own_places(b)
    for t in range(begin, end):
        i = hi + t * height
        m, w = min(height, n - i), hi - lo
        symm(own, m, w, -1.0, Z, i * n + i, n, Y, i, n, 0.0, Z, lo * n + i, n)
        if i > hi:
            gemm(own, N, N, m, w, i - hi, -1.0, Z, hi * n + i, n, Y, hi, n, 1.0, Z, lo * n + i, n)
        if i + m < n:
            gemm(own, T, N, m, w, n - i - m, -1.0, Z, i * n + i + m, n, Y, i + m, n, 1.0, Z, lo * n + i, n)


@njit(cache=True, nogil=True)
def on_the_diagonal(begin: int, end: int, b: Blas, n: int, lo: int, hi: int, Y: FloatArray, Z: FloatArray) -> None:
    """Z_KK -= Y' Z_RK with the rows R from hi on, strips of STRIP columns, from their diagonal down."""
    own = own_places(b)
    for t in range(begin, end):
        j = lo + t * STRIP
        w = min(STRIP, hi - j)
        gemm(own, T, N, hi - j, w, n - hi, -1.0, Y, (j - lo) * n + hi, n, Z, j * n + hi, n, 1.0, Z, j * n + j, n)
