"""Passes over the rows of the fixed effects' columns, without temporaries of n rows.

Weights that are all one are given as (0,). Kernels work on rows begin ... end-1 and release the GIL.
"""

import numpy as np
from numba import njit

from .._typing import FloatArray, IntArray


@njit(cache=True, nogil=True)
def largest(begin: int, end: int, X: FloatArray) -> FloatArray:
    """(p,) largest |x| of each column."""
    out = np.zeros(X.shape[1])
    for i in range(begin, end):
        for j in range(X.shape[1]):
            out[j] = max(out[j], abs(X[i, j]))
    return out


@njit(cache=True, nogil=True)
def orthonormal_rows(begin: int, end: int, X: FloatArray, used: IntArray, R: FloatArray, out: FloatArray) -> None:
    """Rows of X[:, used] R^-1 into out (n, p); R upper triangular."""
    for i in range(begin, end):
        for j in range(len(used)):
            value = X[i, used[j]]
            for k in range(j):
                value -= out[i, k] * R[k, j]
            out[i, j] = value / R[j, j]


@njit(cache=True, nogil=True)
def project(begin: int, end: int, V: FloatArray, y: FloatArray, weights: FloatArray) -> FloatArray:
    """(c,) sum of w_i v_i y_i; y of ones is given as (0,)."""
    out = np.zeros(V.shape[1])
    for i in range(begin, end):
        value = (y[i] if len(y) else 1.0) * (weights[i] if len(weights) else 1.0)
        for j in range(V.shape[1]):
            out[j] += V[i, j] * value
    return out


@njit(cache=True, nogil=True)
def take_away(begin: int, end: int, V: FloatArray, step: FloatArray, y: FloatArray) -> None:
    """y -= V step."""
    for i in range(begin, end):
        value = 0.0
        for j in range(V.shape[1]):
            value += V[i, j] * step[j]
        y[i] -= value


@njit(cache=True, nogil=True)
def distance_to_one(begin: int, end: int, X: FloatArray, used: IntArray, weights: FloatArray) -> float:
    """Largest |x_i[used]' weights - 1|."""
    out = 0.0
    for i in range(begin, end):
        value = -1.0
        for j in range(len(used)):
            value += X[i, used[j]] * weights[j]
        out = max(out, abs(value))
    return out


@njit(cache=True, nogil=True)
def gram(begin: int, end: int, V: FloatArray, weights: FloatArray) -> FloatArray:
    """(c, c) sum of w_i v_i v_i'."""
    out = np.zeros((V.shape[1], V.shape[1]))
    for i in range(begin, end):
        w = weights[i] if len(weights) else 1.0
        for j in range(V.shape[1]):
            value = w * V[i, j]
            for k in range(j + 1):
                out[j, k] += value * V[i, k]
    for j in range(V.shape[1]):
        for k in range(j):
            out[k, j] = out[j, k]
    return out


@njit(cache=True, forceinline=True, nogil=True, fastmath={"reassoc"})
def triangularise(A: FloatArray) -> None:
    """Householder's QR of A' in place: A (p, rows) holds columns as rows; R (p, p) ends up in A[k, :k+1].

    Sums may be reordered: only then are they vectorised, which halves the time. `forceinline`: two machine codes of
    such sums, alone and within a caller, would differ in the last bit.
    """
    p, rows = A.shape
    for j in range(min(p, rows)):
        norm = 0.0
        for i in range(j, rows):
            norm += A[j, i] ** 2
        norm = np.sqrt(norm)
        if norm == 0.0:
            continue
        alpha = -norm if A[j, j] > 0.0 else norm
        scale = 1.0 / (alpha * (alpha - A[j, j]))
        A[j, j] -= alpha
        for k in range(j + 1, p):
            total = 0.0
            for i in range(j, rows):
                total += A[j, i] * A[k, i]
            for i in range(j, rows):
                A[k, i] -= total * scale * A[j, i]
        A[j, j] = alpha
        A[j, j + 1 :] = 0.0


@njit(cache=True, nogil=True)
def triangular_factor(begin: int, end: int, X: FloatArray, size: FloatArray, weights: FloatArray) -> FloatArray:
    """R (p, p) with R'R = X'WX over these rows, X with columns divided by size (p,): QR by slabs that stay in cache."""
    p = X.shape[1]
    slab = max(4 * p, 8192 // max(p, 1))
    A = np.zeros((p, p + slab))
    for first in range(begin, end, slab):
        last = min(first + slab, end)
        for i in range(first, last):
            root = np.sqrt(weights[i]) if len(weights) else 1.0
            for j in range(p):
                A[j, p + i - first] = X[i, j] / size[j] * root
        A[:, p + last - first :] = 0.0
        triangularise(A)
    return A[:, :p].T.copy()


SLAB = 512  # rows: ten columns of them stay in the first cache


@njit(cache=True, nogil=True)
def _centred_slab(first: int, last: int, X: FloatArray, shift: FloatArray, A: FloatArray) -> None:
    """A (p, SLAB) = columns of X - shift in rows first ... last-1, then zeros."""
    for i in range(first, last):
        for j in range(len(shift)):
            A[j, i - first] = X[i, j] - shift[j]
    A[: len(shift), last - first :] = 0.0


@njit(cache=True, forceinline=True, nogil=True, fastmath={"reassoc", "contract"})  # so that it is vectorised
def _dot(a: FloatArray, b: FloatArray) -> float:
    """Of two columns of a slab."""
    total = 0.0
    for i in range(SLAB):
        total += a[i] * b[i]
    return total


@njit(cache=True, nogil=True)
def divide_rows(begin: int, end: int, R: FloatArray, rows: FloatArray) -> None:
    """The first p columns of rows begin ... end-1 times R^-1, in place; R (p, p) upper triangular."""
    for i in range(begin, end):
        for j in range(len(R)):
            left = rows[i, j]
            for k in range(j):
                left -= rows[i, k] * R[k, j]
            rows[i, j] = left / R[j, j]


@njit(cache=True, nogil=True)
def centred_gram(
    begin: int, end: int, X: FloatArray, shift: FloatArray, y: FloatArray, weights: FloatArray
) -> FloatArray:
    """(p+1, p+1) sum of w_i u_i u_i', u_i = [x_i - shift, y_i]."""
    p = len(shift)
    A, out = np.zeros((p + 1, SLAB)), np.zeros((p + 1, p + 1))
    for first in range(begin, end, SLAB):
        last = min(first + SLAB, end)
        _centred_slab(first, last, X, shift, A)
        A[p, : last - first] = y[first:last]
        A[p, last - first :] = 0.0
        if len(weights):
            for i in range(first, last):
                A[:, i - first] *= np.sqrt(weights[i])
        for j in range(p + 1):
            for k in range(j + 1):
                out[j, k] += _dot(A[j], A[k])
    for j in range(p + 1):
        out[:j, j] = out[j, :j]
    return out


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def take_centred_away(
    begin: int, end: int, X: FloatArray, shift: FloatArray, step: FloatArray, y: FloatArray, weights: FloatArray
) -> FloatArray:
    """y -= (X - shift) step; then (p+1,) sums of w_i y_i [x_i - shift, y_i]."""
    p = len(shift)
    A, rest, out = np.zeros((p, SLAB)), np.zeros(SLAB), np.zeros(p + 1)
    for first in range(begin, end, SLAB):
        last = min(first + SLAB, end)
        _centred_slab(first, last, X, shift, A)
        rest[: last - first] = y[first:last]
        for j in range(p):
            for i in range(SLAB):
                rest[i] -= A[j, i] * step[j]
        y[first:last] = rest[: last - first]
        rest[last - first :] = 0.0
        if len(weights):
            rest[: last - first] *= np.sqrt(weights[first:last])
        out[p] += _dot(rest, rest)
        if len(weights):
            rest[: last - first] *= np.sqrt(weights[first:last])
        for j in range(p):
            out[j] += _dot(A[j], rest)
    return out
