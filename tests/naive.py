"""The mixed model as in a textbook: explicit inverses and determinants, nothing clever, nothing from the package.

y ~ N(X beta, V), V = sigma^2 W, W = R + sum_k Z_k Psi_k Z_k'. Every test is "fast equals this".
"""

import numpy as np
from scipy import stats
from scipy.linalg import block_diag, null_space


def marginal_cov(Z, psi, n, weights=None):
    """W = R + sum_k Z_k Psi_k Z_k', R = diag(1/weights)."""
    R = np.eye(n) if weights is None else np.diag(1.0 / np.asarray(weights))
    return R + sum((Zk @ P @ Zk.T for Zk, P in zip(Z, psi, strict=True)), np.zeros((n, n)))


def logdet(A):
    """log|A| of a positive definite matrix (0 for 0 x 0)."""
    sign, value = np.linalg.slogdet(A)
    assert sign > 0
    return value


def gls(y, X, V):
    """beta = (X'V^-1X)^-1 X'V^-1 y and its covariance (X'V^-1X)^-1."""
    V_inv = np.linalg.inv(V)
    cov = np.linalg.inv(X.T @ V_inv @ X)
    return cov @ X.T @ V_inv @ y, cov


def projection(X, V):
    """P = V^-1 - V^-1 X (X'V^-1X)^-1 X'V^-1."""
    V_inv = np.linalg.inv(V)
    return V_inv - V_inv @ X @ np.linalg.inv(X.T @ V_inv @ X) @ X.T @ V_inv


def loglik(y, X, beta, V):
    """Log density of N(X beta, V) at y."""
    return stats.multivariate_normal.logpdf(y, X @ beta, V, allow_singular=False)


def error_contrasts(X):
    """A (n, n-p), orthonormal, A'X = 0 (seed 3, REML)."""
    return null_space(X.T) if X.shape[1] else np.eye(len(X))


def reml_loglik(y, X, V, A=None):
    """Log density of A'y ~ N(0, A'VA), on the scale of lme4's REML criterion.

    With A'X = 0: |A'VA| = |A'A| |V| |X'V^-1X| / |X'X| (Harville 1974), so that
    -2 l_REML = log|V| + log|X'V^-1X| + (n-p) log 2 pi + y'Py = -2 log N(A'y; 0, A'VA) - log|A'A| + log|X'X|.
    """
    A = error_contrasts(X) if A is None else A
    density = stats.multivariate_normal.logpdf(A.T @ y, np.zeros(A.shape[1]), A.T @ V @ A)
    return density + logdet(A.T @ A) / 2 - logdet(X.T @ X) / 2


def deviance(y, X, V, reml):
    """-2 log-likelihood with beta profiled (ML), or the REML criterion."""
    return -2 * (reml_loglik(y, X, V) if reml else loglik(y, X, gls(y, X, V)[0], V))


def profile_sigma(y, X, W, reml):
    """sigma that maximises the likelihood at given W: sqrt(y'Py/nu)."""
    nu = len(y) - X.shape[1] if reml else len(y)
    return np.sqrt(y @ projection(X, W) @ y / nu)


def profile_deviance(y, X, W, reml):
    """`deviance` at V = sigma_hat^2 W."""
    return deviance(y, X, profile_sigma(y, X, W, reml) ** 2 * W, reml)


def blup(y, X, Z, psi, W):
    """b_k = Psi_k Z_k' W^-1 (y - X beta)."""
    residual = np.linalg.inv(W) @ (y - X @ gls(y, X, W)[0])
    return [P @ Zk.T @ residual for Zk, P in zip(Z, psi, strict=True)]


def blup_error_cov(X, Z, psi, W, sigma):
    """var(b_hat - b) of all terms from the joint covariance of (b, y): b_hat = A y, A = Psi Z'P."""
    Zall, Psi = np.hstack(Z), block_diag(*psi)
    A = Psi @ Zall.T @ projection(X, W)
    cross = A @ Zall @ Psi
    return sigma**2 * (A @ W @ A.T - cross - cross.T + Psi)


def average_information(y, X, W, dW, sigma):
    """AI_ij = y'P dW_i P dW_j P y / sigma^2."""
    P = projection(X, W)
    AI = np.array([[y @ P @ Di @ P @ Dj @ P @ y for Dj in dW] for Di in dW]) / sigma**2
    return AI.reshape(len(dW), len(dW))


def expected_information(X, W, dW, reml):
    """E d2(-2l)/dtheta_i dtheta_j = tr(H dW_i H dW_j), H = P (REML) or W^-1 (ML)."""
    H = projection(X, W) if reml else np.linalg.inv(W)
    return np.array([[np.trace(H @ Di @ H @ Dj) for Dj in dW] for Di in dW]).reshape(len(dW), len(dW))


def numeric_gradient(f, x, step):
    """Central differences of a scalar function, O(step^2)."""
    x = np.asarray(x, dtype=float)
    return np.array([(f(x + step * e) - f(x - step * e)) / (2 * step) for e in np.eye(len(x))])


def numeric_hessian(f, x, step):
    """Central differences of central differences."""
    x = np.asarray(x, dtype=float)
    columns = [
        (numeric_gradient(f, x + step * e, step) - numeric_gradient(f, x - step * e, step)) / (2 * step)
        for e in np.eye(len(x))
    ]
    return np.array(columns).reshape(len(x), len(x))
