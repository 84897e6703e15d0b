"""Degrees of freedom as in the papers: n x n matrices, a covariance V(x), numerical derivatives; nothing clever.

Satterthwaite: df = 2 (l'Cl)^2 / g'Ag with A = 2 (d2(-2l)/dx2)^-1. Kenward & Roger (1997): V = sum x_i G_i.
"""

import numpy as np

from tests import naive


def cov_beta(X, V):
    """C = (X'V^-1X)^-1."""
    return naive.gls(np.zeros(len(X)), X, V)[1]


def satterthwaite(y, X, V, x, L, reml, step=1e-4):
    """df of each row of L; V(x) is the covariance, every x of its own size."""
    size = np.where(x == 0.0, 1.0, np.abs(x))
    A = 2 * np.linalg.inv(naive.numeric_hessian(lambda z: naive.deviance(y, X, V(z * size), reml), x / size, 1e-3))
    steps = step * np.eye(len(x))
    slopes = [(cov_beta(X, V(x + e * size)) - cov_beta(X, V(x - e * size))) / (2 * step) for e in steps]
    C = cov_beta(X, V(x))
    out = []
    for row in L:
        g = np.array([row @ D @ row for D in slopes])
        out.append(2 * (row @ C @ row) ** 2 / (g @ A @ g))
    return np.array(out)


def kenward_roger(X, V, G, L, beta):
    """Adjusted covariance, F scaling, denominator df and scaled F of L beta = 0, by the formulas of the paper."""
    V_inv, Phi = np.linalg.inv(V), cov_beta(X, V)
    k, ell = len(G), len(L)
    P = [-X.T @ V_inv @ Gi @ V_inv @ X for Gi in G]
    Q = [[X.T @ V_inv @ Gi @ V_inv @ Gj @ V_inv @ X for Gj in G] for Gi in G]
    information = np.empty((k, k))
    for i in range(k):
        for j in range(k):
            K = np.trace(V_inv @ G[i] @ V_inv @ G[j])
            information[i, j] = K - 2 * np.trace(Phi @ Q[i][j]) + np.trace(Phi @ P[i] @ Phi @ P[j])
    W = 2 * np.linalg.inv(information)
    pairs = [(i, j) for i in range(k) for j in range(k)]
    adjusted = Phi + 2 * Phi @ sum(W[i, j] * (Q[i][j] - P[i] @ Phi @ P[j]) for i, j in pairs) @ Phi
    Theta = L.T @ np.linalg.inv(L @ Phi @ L.T) @ L
    T = [Theta @ Phi @ Pi @ Phi for Pi in P]
    A1 = sum(W[i, j] * np.trace(T[i]) * np.trace(T[j]) for i, j in pairs)
    A2 = sum(W[i, j] * np.trace(T[i] @ T[j]) for i, j in pairs)
    B = (A1 + 6 * A2) / (2 * ell)
    g = ((ell + 1) * A1 - (ell + 4) * A2) / ((ell + 2) * A2)
    bottom = 3 * ell + 2 * (1 - g)
    c1, c2, c3 = g / bottom, (ell - g) / bottom, (ell + 2 - g) / bottom
    mean = 1 / (1 - A2 / ell)
    variance = 2 / ell * (1 + c1 * B) / ((1 - c2 * B) ** 2 * (1 - c3 * B))
    rho = variance / (2 * mean**2)
    m = 4 + (ell + 2) / (ell * rho - 1)
    scale = m / (mean * (m - 2))
    Lb = L @ beta
    return adjusted, scale, m, scale * Lb @ np.linalg.solve(L @ adjusted @ L.T, Lb) / ell
