"""Pedigrees at random, and A as in a textbook: the tabular method, one row after the other."""

import numpy as np


def tabular(parents):
    """A for parents (n, 2), -1 unknown, parents before offspring.

    a_ij = (a_i,sire(j) + a_i,dam(j))/2, a_jj = 1 + a_sire(j),dam(j)/2 (Emik & Terrill 1949; Mrode 2014, section 2.2).
    """
    n = len(parents)
    A = np.eye(n)
    for j, (s, d) in enumerate(parents):
        for i in range(j):
            A[i, j] = A[j, i] = sum(A[i, p] for p in (s, d) if p >= 0) / 2
        A[j, j] += A[s, d] / 2 if s >= 0 and d >= 0 else 0
    return A


def ignoring_inbreeding(parents):
    """T D T' with d of parents that are not inbred: 1, 3/4 or 1/2."""
    n = len(parents)
    T_inverse, d = np.eye(n), np.ones(n)
    for j, both in enumerate(parents):
        for p in both:
            if p >= 0:
                T_inverse[j, p] -= 0.5
                d[j] -= 0.25
    T = np.linalg.inv(T_inverse)
    return T * d @ T.T


def any_pedigree(rng, n, unknown, selfing=False):
    """(n, 2): parents from all earlier animals (overlapping generations), even ones sires, odd ones dams."""
    parents = np.full((n, 2), -1)
    for j in range(2, n):
        for c in range(2):
            if rng.random() > unknown:
                parents[j, c] = rng.integers(j) if selfing else 2 * rng.integers((j + 1 - c) // 2) + c
    return parents


def herd(rng, n, n_generations, sires):
    """(n, 2): discrete generations, half males, of which the share `sires` are used; random mating."""
    size = n // n_generations
    parents = np.full((n, 2), -1)
    for start in range(size, n, size):
        stop = min(start + size, n)
        chosen = rng.choice(size // 2, max(1, int(sires * size / 2)), replace=False)
        parents[start:stop, 0] = start - size + rng.choice(chosen, stop - start)
        parents[start:stop, 1] = start - size // 2 + rng.integers(size // 2, size=stop - start)
    return parents
