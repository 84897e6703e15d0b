"""What the parameters of R add to the score and to the average information (docs/explanation/criterion.md)."""

from dataclasses import dataclass

import numpy as np
import scipy.linalg as sla

from ._typing import FloatArray
from .equations import CrossProducts, Equations


@dataclass(frozen=True, slots=True, eq=False)
class Variates:
    """The working variates f_i = dR_i R^-1 e as h_i = R^-1 f_i = -K_i e, K_i = dR^-1/drho_i; k parameters.

    Zh: Z'h of each term, (m, r, k). Xh: (p, k). gram: h'Rh, (k, k). score: h'e, (k,).
    """

    Zh: list[FloatArray]
    Xh: FloatArray
    gram: FloatArray
    score: FloatArray


def residual_variates(
    products: CrossProducts, rho: FloatArray, coefficients: FloatArray, effects: list[FloatArray]
) -> Variates:
    """Of e = [X y] coefficients - Z b, coefficients (p+1,), effects b (m, r) a term: one pass over the rows."""
    banded = products.banded
    assert banded is not None
    e = banded.rest(coefficients, effects)[:, None]
    h = np.hstack([-banded.times(d, o, e) for d, o in zip(*banded.residual.gradient(rho), strict=True)])
    return Variates(
        Zh=[design.sums(h) for design in banded.designs],
        Xh=banded.V[:, :-1].T @ h,
        gram=h.T @ banded.residual.times(rho, h),
        score=(h.T @ e)[:, 0],
    )


@dataclass(frozen=True, slots=True, eq=False)
class SolvedEquations:
    """What the score needs of the equations: T, E = M^-1 Lambda'Z'R^-1[X y] (q, p+1), RX (p, p) lower, beta (p,)."""

    T: list[FloatArray]
    E: FloatArray
    RX: FloatArray
    beta: FloatArray


def residual_score(
    equations: Equations, rho: FloatArray, at: SolvedEquations, inverse: FloatArray, reml: bool, sigma2: float
) -> FloatArray:
    """d(-2l)/drho = dlog|R| + tr(H W'KW) + e'Ke/sigma^2, K = dR^-1/drho; inverse: M^-1 on the pattern (nnz,).

    With C^-1 = blockdiag(M^-1, 0) + G'G, G = RX^-1 [-E_x', I], and F = [X y] - Z Lambda E (n, p+1),

        tr(H W'KW) = tr(M^-1 Lambda'Z'KZ Lambda) + tr(RX^-1 (F'KF)_xx RX^-T)     (the second for REML only),

    and e = F [-beta; 1].
    """
    products, p = equations.products, len(at.beta)
    assert products.banded is not None
    residual = products.banded.residual
    rows, cols = equations.places()
    weight = np.where(rows == cols, 1.0, 2.0) * inverse
    solved = [T @ part for T, part in zip(at.T, equations.split(at.E), strict=True)]
    combination = np.append(-at.beta, 1.0)
    out = residual.logdet_gradient(rho).astype(np.float64)
    for i, (d, o) in enumerate(zip(*residual.gradient(rho), strict=True)):
        K = products.at(d, o)
        gram = _rest_gram(equations, K, solved)
        out[i] += weight @ equations.scaled_gram(K, at.T) + combination @ gram @ combination / sigma2
        if reml:
            half = sla.solve_triangular(at.RX, gram[:p, :p], lower=True)
            out[i] += np.trace(sla.solve_triangular(at.RX, half.T, lower=True))
    return out


def _rest_gram(equations: Equations, K: CrossProducts, solved: list[FloatArray]) -> FloatArray:
    """F'KF, (p+1, p+1), for F = [X y] - Z A with A in blocks (m, r, p+1)."""
    out = K.xy.copy()
    for A, Zxy, ZZ in zip(solved, K.Zxy, equations.gram_times(K, solved), strict=True):
        cross = np.tensordot(A, Zxy, ((0, 1), (0, 1)))
        out += np.tensordot(A, ZZ, ((0, 1), (0, 1))) - cross - cross.T
    return out
