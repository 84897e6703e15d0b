"""BLAS and LAPACK from Numba kernels, on parts of arrays: SciPy's own routines, by address.

`np.dot` in Numba wants whole contiguous arrays and knows no symmetric or triangular products. An address is an
argument, not a global, so that kernels stay in Numba's cache.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.core import cgutils
from numba.extending import get_cython_function_address, intrinsic

from .._typing import AnyArray, FloatArray, IntArray

ROUTINES = (("blas", "dgemm"), ("blas", "dsymm"), ("blas", "dtrsm"), ("lapack", "dpotri"), ("lapack", "dpotrf"))
DGEMM, DSYMM, DTRSM, DPOTRI, DPOTRF = range(len(ROUTINES))
LETTERS = b"LRNTlrnt"
L, R, N, T = range(4)


class Blas(NamedTuple):
    """Addresses of ROUTINES, and the places from which Fortran reads its arguments: one set for each thread."""

    address: IntArray
    letter: AnyArray
    whole: AnyArray
    real: FloatArray


@cache
def _addresses() -> tuple[int, ...]:
    return tuple(get_cython_function_address(f"scipy.linalg.cython_{module}", name) for module, name in ROUTINES)


def blas() -> Blas:
    """Workspace for the calls below."""
    letters = np.frombuffer(LETTERS, np.int8).copy()
    return Blas(np.array(_addresses(), np.int64), letters, np.empty(6, np.int32), np.empty(2))


@njit(cache=True, nogil=True)
def own_places(b: Blas) -> Blas:
    """The same with places of its own, for a thread."""
    return Blas(b.address, b.letter, np.empty(6, np.int32), np.empty(2))


def _call_routine(typingctx: Any, address: Any, arguments: Any) -> Any:
    """Call the routine at `address` with a tuple of addresses."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        integer = ir.IntType(64)
        kind = ir.FunctionType(ir.VoidType(), [integer] * len(signature.args[1]))
        routine = builder.inttoptr(values[0], kind.as_pointer())
        builder.call(routine, cgutils.unpack_tuple(builder, values[1]))
        return context.get_dummy_value()

    return types.void(types.int64, arguments), codegen


_call: Any = intrinsic(_call_routine)


@njit(inline="always")
def _at(a: AnyArray, k: int) -> Any:
    return a.ctypes.data + a.itemsize * k


@njit(cache=True)
def gemm(b: Blas, ta: int, tb: int, m: int, n: int, k: int, alpha: float, A: FloatArray, at_a: int, lda: int,
         B: FloatArray, at_b: int, ldb: int, beta: float, C: FloatArray, at_c: int, ldc: int) -> None:  # fmt: skip
    """C = alpha op(A) op(B) + beta C, column-major (m, n); matrices start at places of flat arrays."""
    w = b.whole
    w[0], w[1], w[2], w[3], w[4], w[5] = m, n, k, lda, ldb, ldc
    b.real[0], b.real[1] = alpha, beta
    _call(b.address[DGEMM], (
        _at(b.letter, ta), _at(b.letter, tb), _at(w, 0), _at(w, 1), _at(w, 2), _at(b.real, 0), _at(A, at_a),
        _at(w, 3), _at(B, at_b), _at(w, 4), _at(b.real, 1), _at(C, at_c), _at(w, 5),
    ))  # fmt: skip


@njit(cache=True)
def symm(b: Blas, m: int, n: int, alpha: float, A: FloatArray, at_a: int, lda: int, B: FloatArray, at_b: int, ldb: int,
         beta: float, C: FloatArray, at_c: int, ldc: int) -> None:  # fmt: skip
    """C = alpha A B + beta C, column-major (m, n), A symmetric in its lower triangle."""
    w = b.whole
    w[0], w[1], w[2], w[3], w[4] = m, n, lda, ldb, ldc
    b.real[0], b.real[1] = alpha, beta
    _call(b.address[DSYMM], (
        _at(b.letter, L), _at(b.letter, L), _at(w, 0), _at(w, 1), _at(b.real, 0), _at(A, at_a), _at(w, 2),
        _at(B, at_b), _at(w, 3), _at(b.real, 1), _at(C, at_c), _at(w, 4),
    ))  # fmt: skip


@njit(cache=True)
def solve_right(b: Blas, ta: int, m: int, n: int, A: FloatArray, at_a: int, lda: int, B: FloatArray, at_b: int,
                ldb: int) -> None:  # fmt: skip
    """B = B op(A)^-1, column-major (m, n), A lower triangular."""
    w = b.whole
    w[0], w[1], w[2], w[3] = m, n, lda, ldb
    b.real[0] = 1.0
    _call(b.address[DTRSM], (
        _at(b.letter, R), _at(b.letter, L), _at(b.letter, ta), _at(b.letter, N), _at(w, 0), _at(w, 1), _at(b.real, 0),
        _at(A, at_a), _at(w, 2), _at(B, at_b), _at(w, 3),
    ))  # fmt: skip


@njit(cache=True)
def invert_factor(b: Blas, n: int, A: FloatArray, at_a: int, lda: int) -> None:
    """Lower triangle of A = (A A')^-1 for A lower triangular, column-major (n, n)."""
    w = b.whole
    w[0], w[1], w[2] = n, lda, 0
    _call(b.address[DPOTRI], (_at(b.letter, L), _at(w, 0), _at(A, at_a), _at(w, 1), _at(w, 2)))


@njit(cache=True)
def factorise_lower(b: Blas, n: int, A: FloatArray, at_a: int, lda: int) -> int:
    """A = L L' of its lower triangle, column-major (n, n), in place; 0, or 1 + the column that ends it."""
    w = b.whole
    w[0], w[1], w[2] = n, lda, 0
    _call(b.address[DPOTRF], (_at(b.letter, L), _at(w, 0), _at(A, at_a), _at(w, 1), _at(w, 2)))
    return w[2]
