"""Score and average information of one response from its absorbed equations; `responses` has the notation.

For each term A = sum over levels of the diagonal blocks of Z'PZ (REML) or Z'V^-1Z (ML) and B = sum of n n', n = Z'Py:
d(-2l)/dG = A - B/sigma^2. With f = Z dG n as a response, f'Pf is what `reduce_right` leaves of it.
"""

import numpy as np
from numba import njit

from .._typing import FloatArray, IntArray
from .responses import absorb, factor_tail, gram, reduce_right, scale_rows, tail_forward, tail_inverse


@njit(cache=True, error_model="numpy")
def first_scores(
    T: FloatArray, G: FloatArray, C: FloatArray, cols: IntArray, counts: IntArray, c: FloatArray, L: FloatArray,
    F: FloatArray, h: FloatArray, u: FloatArray, n: FloatArray,
) -> None:  # fmt: skip
    """n_l = c_l - G_l b_l - C_l u, (m, r), of the absorbed term; b_l = T L_l^-T (h_l - F_l u), u (d,) of the tail."""
    m, r, _ = F.shape
    v, b = np.empty(r), np.empty(r)
    for l in range(m):  # noqa: E741
        for a in range(r - 1, -1, -1):
            v[a] = h[l, a]
            for t in range(counts[l]):
                v[a] -= F[l, a, t] * u[cols[l, t]]
            for k in range(a + 1, r):
                v[a] -= L[l, k, a] * v[k]
            v[a] /= L[l, a, a]
        for a in range(r):
            b[a] = 0.0
            for k in range(r):
                b[a] += T[a, k] * v[k]
        for a in range(r):
            value = c[l, a]
            for k in range(r):
                value -= G[l, a, k] * b[k]
            for t in range(counts[l]):
                value -= C[l, a, t] * u[cols[l, t]]
            n[l, a] = value


@njit(cache=True, error_model="numpy")
def first_blocks(
    T: FloatArray, G: FloatArray, C: FloatArray, cols: IntArray, counts: IntArray, L: FloatArray, F: FloatArray,
    P: FloatArray, out: FloatArray,
) -> None:  # fmt: skip
    """out (r, r) += sum of G_l - E'E - (C_l - E'F_l) P (C_l - E'F_l)', E = L_l^-1 T'G_l."""
    m, r, width = F.shape
    E, Ct, right = np.empty((r, r)), np.empty((r, width)), np.empty((r, width))
    for l in range(m):  # noqa: E741
        for a in range(r):
            for k in range(r):
                E[a, k] = 0.0
                for b in range(r):
                    E[a, k] += T[b, a] * G[l, b, k]
                for b in range(a):
                    E[a, k] -= L[l, a, b] * E[b, k]
                E[a, k] /= L[l, a, a]
        e = counts[l]
        right[:] = 0.0
        for a in range(r):
            for t in range(e):
                Ct[a, t] = C[l, a, t]
                for k in range(r):
                    Ct[a, t] -= E[k, a] * F[l, k, t]
                for u in range(e):
                    right[a, u] += Ct[a, t] * P[cols[l, t], cols[l, u]]
        for a in range(r):
            for b in range(r):
                out[a, b] += G[l, a, b]
                for k in range(r):
                    out[a, b] -= E[k, a] * E[k, b]
                for t in range(e):
                    out[a, b] -= right[a, t] * Ct[b, t]


@njit(cache=True, error_model="numpy")
def tail_blocks(
    S: FloatArray, P: FloatArray, starts: IntArray, owners: IntArray, sizes: IntArray, out: FloatArray
) -> None:
    """out[k] (r, r) += sum of the diagonal blocks of S - S P S of each term's levels."""
    d = len(S)
    half = np.empty(d)
    for t in range(len(starts)):
        k, o = owners[t], starts[t]
        for a in range(sizes[k]):
            half[:] = 0.0
            for i in range(d):
                f = S[o + a, i]
                if f != 0.0:
                    for j in range(d):
                        half[j] += f * P[i, j]
            for b in range(sizes[k]):
                value = S[o + a, o + b]
                for j in range(d):
                    value -= half[j] * S[j, o + b]
                out[k, a, b] += value


@njit(cache=True, error_model="numpy")
def products_of_scores(
    n0: FloatArray, n1: FloatArray, starts: IntArray, owners: IntArray, sizes: IntArray, out: FloatArray
) -> None:
    """out[k] (r, r) += sum over levels of n n'."""
    for l in range(len(n0)):  # noqa: E741
        for a in range(n0.shape[1]):
            for b in range(n0.shape[1]):
                out[0, a, b] += n0[l, a] * n0[l, b]
    for t in range(len(starts)):
        k, o = owners[t], starts[t]
        for a in range(sizes[k]):
            for b in range(sizes[k]):
                out[k, a, b] += n1[o + a] * n1[o + b]


@njit(cache=True, error_model="numpy")
def variate(
    dG: FloatArray, owner: int, n0: FloatArray, n1: FloatArray, starts: IntArray, owners: IntArray, sizes: IntArray,
    f0: FloatArray, f1: FloatArray,
) -> None:  # fmt: skip
    """dG n of the levels of one term into f0 (m, r) or f1 (d,), zero elsewhere."""
    f0[:], f1[:] = 0.0, 0.0
    if owner == 0:
        for l in range(len(n0)):  # noqa: E741
            for a in range(n0.shape[1]):
                for b in range(n0.shape[1]):
                    f0[l, a] += dG[a, b] * n0[l, b]
    for t in range(len(starts)):
        if owners[t] == owner:
            o = starts[t]
            for a in range(sizes[owner]):
                for b in range(sizes[owner]):
                    f1[o + a] += dG[a, b] * n1[o + b]


@njit(cache=True, error_model="numpy")
def gram_times(
    G: FloatArray, C: FloatArray, D: FloatArray, cols: IntArray, counts: IntArray, f0: FloatArray, f1: FloatArray,
    c: FloatArray, s: FloatArray,
) -> None:  # fmt: skip
    """Z_0'W Z f into c (m, r) and [Z_1 X]'W Z f into s (d,)."""
    m, r, _ = C.shape
    s[:] = D @ f1
    for l in range(m):  # noqa: E741
        for a in range(r):
            value = 0.0
            for b in range(r):
                value += G[l, a, b] * f0[l, b]
            for t in range(counts[l]):
                value += C[l, a, t] * f1[cols[l, t]]
                s[cols[l, t]] += C[l, a, t] * f0[l, a]
            c[l, a] = value


@njit(cache=True, error_model="numpy")
def information(
    T: FloatArray, G: FloatArray, C: FloatArray, D: FloatArray, cols: IntArray, counts: IntArray, L: FloatArray,
    F: FloatArray, M: FloatArray, n0: FloatArray, n1: FloatArray, starts: IntArray, owners: IntArray,
    sizes: IntArray, dG: FloatArray, params: IntArray, ai: FloatArray, cross: FloatArray,
) -> None:  # fmt: skip
    """ai (k, k) = f_i'P f_j and cross (k,) = f_i'P y of the parameters with dG (k, R, R) of terms `params`."""
    count, (m, r, _), d = len(params), F.shape, len(D)
    f0, f1, c, s = np.empty((count, m, r)), np.empty((count, d)), np.empty((count, m, r)), np.empty((count, d))
    h, half, T0 = np.empty((count, m, r)), np.empty((count, d)), T[0, :r, :r].copy()
    for i in range(count):
        variate(dG[i], params[i], n0, n1, starts, owners, sizes, f0[i], f1[i])
        gram_times(G, C, D, cols, counts, f0[i], f1[i], c[i], s[i])
        cross[i] = (f0[i] * n0).sum() + (f1[i] * n1).sum()
    for i in range(count):
        for j in range(i + 1):
            ai[i, j] = (f0[i] * c[j]).sum() + (f1[i] * s[j]).sum()
    for i in range(count):
        reduce_right(T0, L, F, cols, counts, c[i], h[i], s[i])
        half[i] = tail_forward(M, s[i], starts, owners, sizes, T)[:, 0]
    for i in range(count):
        for j in range(i + 1):
            ai[i, j] -= (h[i] * h[j]).sum() + (half[i] * half[j]).sum()
            ai[j, i] = ai[i, j]


@njit(cache=True, error_model="numpy")
def evaluate_one(
    T: FloatArray, G: FloatArray, C: FloatArray, D: FloatArray, c: FloatArray, s: FloatArray, yy: float, q: int,
    cols: IntArray, counts: IntArray, starts: IntArray, owners: IntArray, sizes: IntArray, dG: FloatArray,
    params: IntArray, reml: bool, second: bool, basic: FloatArray, A: FloatArray, B: FloatArray, ai: FloatArray,
    cross: FloatArray, beta: FloatArray, vcov: FloatArray,
) -> None:  # fmt: skip
    """One response at T (K, R, R); basic = log-determinant, r^2; NaN where the equations break down.

    second: whether ai and cross are wanted.
    """
    (m, r, width), d, r0 = C.shape, len(D), sizes[0]
    L, F, S, M = np.empty((m, r, r)), np.empty((m, r, width)), D.copy(), np.empty((d, d))
    T0 = T[0, :r0, :r0].copy()
    logdet = absorb(T0, G, C, cols, counts, L, F, S)
    basic[:] = np.nan
    if np.isnan(logdet) or not factor_tail(S, q, starts, owners, sizes, T, M):
        return
    for i in range(d if reml else q):
        logdet += 2.0 * np.log(M[i, i])
    h, reduced = np.empty((m, r)), s.copy()
    r2 = yy - reduce_right(T0, L, F, cols, counts, c, h, reduced)
    half = tail_forward(M, reduced, starts, owners, sizes, T)
    inverse = tail_inverse(M, d)
    basic[0], basic[1] = logdet, r2 - (half * half).sum()
    u = inverse.T @ half
    scale_rows(u, starts, owners, sizes, T, False)
    tail = u[:, 0].copy()
    n0, n1 = np.empty((m, r)), reduced - S @ tail
    beta[:], n1[q:] = tail[q:], 0.0
    first_scores(T0, G, C, cols, counts, c, L, F, h, tail, n0)
    P = gram(inverse, d, d)
    vcov[:] = P[q:, q:]
    if not reml:
        P = gram(inverse, q, d)
    scale_rows(P, starts, owners, sizes, T, False)
    P = P.T.copy()
    scale_rows(P, starts, owners, sizes, T, False)
    A[:], B[:] = 0.0, 0.0
    first_blocks(T0, G, C, cols, counts, L, F, P, A[0, :r0, :r0])
    tail_blocks(S, P, starts, owners, sizes, A)
    products_of_scores(n0, n1, starts, owners, sizes, B)
    if second:
        information(
            T, G, C, D, cols, counts, L, F, M, n0, n1, starts, owners, sizes, dG, params, ai, cross
        )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy")
def evaluate_responses(
    begin: int, end: int, which: IntArray, T: FloatArray, G: FloatArray, C: FloatArray, D: FloatArray, c: FloatArray,
    s: FloatArray, yy: FloatArray, q: int, cols: IntArray, counts: IntArray, starts: IntArray, owners: IntArray,
    sizes: IntArray, dG: FloatArray, params: IntArray, reml: bool, second: bool, basic: FloatArray, A: FloatArray,
    B: FloatArray, ai: FloatArray, cross: FloatArray, beta: FloatArray, vcov: FloatArray,
) -> None:  # fmt: skip
    """`evaluate_one` of responses which[begin:end]; T, dG and the results have rows like which (a,).

    c, s, yy have a row a response, G, C and D too, or one row that all share.
    """
    for j in range(begin, end):
        i = which[j]
        g = i if len(G) > 1 else 0
        evaluate_one(
            T[j], G[g], C[g], D[g], c[i], s[i], yy[i], q, cols, counts, starts, owners, sizes, dG[j], params, reml,
            second, basic[j], A[j], B[j], ai[j], cross[j], beta[j], vcov[j],
        )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy")
def factorise(
    T: FloatArray, G: FloatArray, C: FloatArray, D: FloatArray, q: int, cols: IntArray, counts: IntArray,
    starts: IntArray, owners: IntArray, sizes: IntArray, reml: bool, L: FloatArray, F: FloatArray, M: FloatArray,
) -> float:  # fmt: skip
    """L (m, r, r), F (m, r, e) and M (d, d) at one T (K, R, R); returns the log-determinant, NaN at a breakdown."""
    S, T0 = D.copy(), T[0, : sizes[0], : sizes[0]].copy()
    logdet = absorb(T0, G, C, cols, counts, L, F, S)
    if np.isnan(logdet) or not factor_tail(S, q, starts, owners, sizes, T, M):
        return np.nan
    for i in range(len(D) if reml else q):
        logdet += 2.0 * np.log(M[i, i])
    return logdet


@njit(cache=True, nogil=True, error_model="numpy")
def reductions(
    begin: int, end: int, T: FloatArray, c: FloatArray, s: FloatArray, cols: IntArray, counts: IntArray,
    starts: IntArray, owners: IntArray, sizes: IntArray, L: FloatArray, F: FloatArray, M: FloatArray, h: FloatArray,
    half: FloatArray,
) -> None:  # fmt: skip
    """h (v, m, r) and half (v, d) of responses begin ... end-1 by one factor: y'Py = y'Wy - h'h - half'half."""
    T0 = T[0, : sizes[0], : sizes[0]].copy()
    for j in range(begin, end):
        reduced = s[j].copy()
        reduce_right(T0, L, F, cols, counts, c[j], h[j], reduced)
        half[j] = tail_forward(M, reduced, starts, owners, sizes, T)[:, 0]
