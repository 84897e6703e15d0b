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

    With C^-1 = blockdiag(M^-1, 0) + G'G, G = RX^-1 [-E_x', I], F = [X y] - Z A, A = Lambda E (q, p+1), e = F [-beta; 1]
    and N = blockdiag(RX^-T RX^-1, 0) + [-beta; 1][-beta; 1]'/sigma^2 (the first for REML only),

        tr(H W'KW) + e'Ke/sigma^2 = tr(M^-1 Lambda'Z'KZ Lambda) + tr(N F'KF)

    is linear in K: one pass gives its slope by K's value in each class of rows and links, for all parameters.
    """
    banded, p = equations.products.banded, len(at.beta)
    assert banded is not None
    combination = np.append(-at.beta, 1.0)
    N = np.outer(combination, combination) / sigma2
    if reml:
        half = sla.solve_triangular(at.RX, np.eye(p), lower=True)
        N[:p, :p] += half.T @ half
    A = [T @ part for T, part in zip(at.T, equations.split(at.E), strict=True)]
    blocks = _block_slopes(equations, at.T, A, inverse, N)
    by_row, by_link = banded.slopes(blocks, [-2.0 * a @ N for a in A], N)
    rows, links = banded.residual.gradient(rho)
    return banded.residual.logdet_gradient(rho) + rows @ by_row + links @ by_link


def _block_slopes(
    equations: Equations, T: list[FloatArray], A: list[FloatArray], inverse: FloatArray, N: FloatArray
) -> list[FloatArray]:
    """T_k M^-1 T_j' + A_k N A_j' at the levels of each block of Z'KZ, twice where the block stands for two."""
    out = []
    for b in equations.products.blocks:
        k, j = b.row_term, b.col_term
        slope = T[k] @ equations.block_of(b, inverse) @ T[j].T
        slope += A[k][b.rows] @ N @ A[j][b.cols].transpose(0, 2, 1)
        slope *= np.where((b.rows == b.cols) & (k == j), 1.0, 2.0)[:, None, None]
        out.append(slope)
    return out
