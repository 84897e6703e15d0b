"""The mixed-model equations of many responses, each at its own parameters, by absorbing the term with most levels.

Levels l of the first term have r x r blocks G_l = Z_l'WZ_l; all else is the tail, the other terms' columns and X, of
d columns: C_l = Z_l'W[Z_1 X], D = [Z_1 X]'W[Z_1 X]. Of C_l only the columns cols[l, :counts[l]] that have entries are
kept, (m, r, e), of F_l too. With b_l = T v_l, L_l L_l' = I + T'G_l T and F_l = L_l^-1 T'C_l,

    S = D - sum F_l'F_l,    M = Lambda' S Lambda + (I for random effects, 0 for X),    H = M^-1

is the tail's Schur complement. Z'PZ and Z'Py follow without T^-1, so that a variance of zero is no special case.
"""

import math

import numpy as np
from numba import njit

from .._typing import FloatArray, IntArray


@njit(cache=True, error_model="numpy")
def cholesky(A: FloatArray, n: int) -> bool:
    """Lower factor of the leading n x n part in place, rows of it; False where a pivot is not positive."""
    for i in range(n):
        for j in range(i + 1):
            total = A[i, j]
            for k in range(j):
                total -= A[i, k] * A[j, k]
            if i == j:
                if not total > 0.0:
                    return False
                A[i, i] = math.sqrt(total)
            else:
                A[i, j] = total / A[j, j]
    return True


@njit(cache=True, error_model="numpy")
def absorb(
    T: FloatArray, G: FloatArray, C: FloatArray, cols: IntArray, counts: IntArray, L: FloatArray, F: FloatArray,
    S: FloatArray,
) -> float:  # fmt: skip
    """L (m, r, r) and F (m, r, e); S -= sum F'F, lower triangle; returns sum log|L_l|^2, NaN where one breaks down."""
    m, r, _ = F.shape
    half, logdet = np.empty((r, r)), 0.0
    for l in range(m):  # noqa: E741
        e = counts[l]
        half[:] = 0.0
        F[l, :, :e] = 0.0
        for a in range(r):
            for b in range(r):
                t = T[b, a]
                if t != 0.0:
                    for c in range(r):
                        half[a, c] += t * G[l, b, c]
                    for c in range(e):
                        F[l, a, c] += t * C[l, b, c]
        for a in range(r):
            for b in range(r):
                L[l, a, b] = 1.0 if a == b else 0.0
                for c in range(r):
                    L[l, a, b] += half[a, c] * T[c, b]
        if not cholesky(L[l], r):
            return np.nan
        forward(L[l], F[l, :, :e])
        for a in range(r):
            logdet += 2.0 * math.log(L[l, a, a])
            for i in range(e):
                f = F[l, a, i]
                for j in range(i + 1):
                    S[cols[l, i], cols[l, j]] -= f * F[l, a, j]
    return logdet


@njit(cache=True, error_model="numpy")
def forward(L: FloatArray, B: FloatArray) -> None:
    """B (n, k) <- L^-1 B."""
    for a in range(len(B)):
        for b in range(a):
            f = L[a, b]
            for c in range(B.shape[1]):
                B[a, c] -= f * B[b, c]
        scale = 1.0 / L[a, a]
        for c in range(B.shape[1]):
            B[a, c] *= scale


@njit(cache=True, error_model="numpy")
def scale_rows(B: FloatArray, starts: IntArray, owners: IntArray, sizes: IntArray, T: FloatArray, turn: bool) -> None:
    """Rows of each level of the tail's terms (B (d, k)): T B, or T'B if `turn`; rows of X stay."""
    work = np.empty((T.shape[1], B.shape[1]))
    for t in range(len(starts)):
        k, o = owners[t], starts[t]
        for a in range(sizes[k]):
            work[a] = 0.0
            for b in range(sizes[k]):
                f = T[k, b, a] if turn else T[k, a, b]
                if f != 0.0:
                    for c in range(B.shape[1]):
                        work[a, c] += f * B[o + b, c]
        for a in range(sizes[k]):
            B[o + a] = work[a]


@njit(cache=True, error_model="numpy")
def factor_tail(
    S: FloatArray, q: int, starts: IntArray, owners: IntArray, sizes: IntArray, T: FloatArray, M: FloatArray
) -> bool:
    """M (d, d) <- lower factor of Lambda'S Lambda + I on the q random effects; the upper triangle of S is filled."""
    d = len(S)
    for i in range(d):
        for j in range(i):
            S[j, i] = S[i, j]
    M[:] = S
    scale_rows(M, starts, owners, sizes, T, True)
    turned = M.T.copy()
    scale_rows(turned, starts, owners, sizes, T, True)
    M[:] = turned
    for i in range(q):
        M[i, i] += 1.0
    return cholesky(M, d)


@njit(cache=True, error_model="numpy")
def reduce_right(
    T: FloatArray, L: FloatArray, F: FloatArray, cols: IntArray, counts: IntArray, c: FloatArray, h: FloatArray,
    s: FloatArray,
) -> float:  # fmt: skip
    """h_l = L_l^-1 T'c_l (m, r); s (d,) -= sum F_l'h_l; returns sum h'h."""
    m, r, _ = F.shape
    total = 0.0
    for l in range(m):  # noqa: E741
        for a in range(r):
            value = 0.0
            for b in range(r):
                value += T[b, a] * c[l, b]
            for b in range(a):
                value -= L[l, a, b] * h[l, b]
            value /= L[l, a, a]
            h[l, a] = value
            total += value * value
            for t in range(counts[l]):
                s[cols[l, t]] -= F[l, a, t] * value
    return total


@njit(cache=True, error_model="numpy")
def tail_forward(
    M: FloatArray, s: FloatArray, starts: IntArray, owners: IntArray, sizes: IntArray, T: FloatArray
) -> FloatArray:
    """L^-1 Lambda's, (d, 1)."""
    out = s.copy().reshape(-1, 1)
    scale_rows(out, starts, owners, sizes, T, True)
    forward(M, out)
    return out


@njit(cache=True, error_model="numpy")
def tail_inverse(M: FloatArray, n: int) -> FloatArray:
    """Inverse of the lower factor M of order n, (n, n) lower."""
    out = np.zeros((n, n))
    for j in range(n):
        out[j, j] = 1.0 / M[j, j]
        for i in range(j + 1, n):
            total = 0.0
            for k in range(j, i):
                total -= M[i, k] * out[k, j]
            out[i, j] = total / M[i, i]
    return out


@njit(cache=True, error_model="numpy")
def gram(A: FloatArray, n: int, d: int) -> FloatArray:
    """A'A of the leading n x n part of a lower triangular A, in a d x d matrix with zeros around it."""
    out = np.zeros((d, d))
    for k in range(n):
        for i in range(k + 1):
            f = A[k, i]
            if f != 0.0:
                for j in range(k + 1):
                    out[i, j] += f * A[k, j]
    return out
