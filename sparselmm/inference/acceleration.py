"""Acceleration of BCa intervals: a sixth of the skewness of the score along the least favourable direction.

Efron 1987 (J. Amer. Statist. Assoc. 82, sections 4 and 6), DiCiccio & Efron 1996 (Statist. Sci. 11, section 6): with I
the information of eta and t a parameter, mu = I^-1 dt/deta and a = skew(mu' dl/deta)/6 at the estimates.

The score of error contrasts along mu, V_mu the derivative of V, is (y'P V_mu P y - tr P V_mu)/2, of cumulants
tr (P V_mu)^2/2 and tr (P V_mu)^3. For draws y ~ N(X beta, V), A_ij = y'P V_i P V_j P y (the average information) and
q_i = y'P V_i P y (its column of log sigma^2) have

    E A_ij = tr P V_i P V_j,     cov(q_i, A_jk) = 2 tr P V_i P V_j P V_k

which takes some 15 times fewer draws than the skewness of drawn scores.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .._typing import FloatArray
from ..engines.threads import blas_threads
from ..likelihood import Likelihood
from ..structures.limits import at_bounds
from .factorised import sparse_likelihood
from .refit import Responses
from .simulate import Simulator
from .varpar import jacobian, natural_values, sizes

if TYPE_CHECKING:
    from ..results import Fit

DRAWS, BLOCK = 250, 50  # a is right to 9 %: less noise in the ends than z0 of 1,000 replicates brings
LIFT = 1e-3  # smallest singular value of T sqrt(rows a level): V changes by 1e-6, dV/d(variance) not at all


def acceleration(fit: "Fit", draws: int = DRAWS, seed: int = 0) -> pd.Series:
    """a of each coefficient and each of `varpar`; zero for coefficients, whose estimates are symmetric.

    A variance of zero counts as a small one: what matters is dV/d(variance). What was held, and parameters of series
    at the end of their space, count as known.
    """
    likelihood, names = sparse_likelihood(fit), fit.varpar.index
    theta, size = _off_edge(likelihood, fit.estimate.evaluation.theta), np.append(sizes(likelihood), 1.0)
    A = _informations(fit, likelihood, theta, draws, seed) / np.outer(size, size)
    values = lambda x: natural_values(likelihood.parameters, x[:-1] / size[:-1], float(np.exp(0.5 * x[-1])))  # noqa: E731
    J = jacobian(values, size * np.append(theta, 2.0 * np.log(fit.sigma)))
    free = np.array([name not in fit.estimate.held for name in names])
    free[:-1] &= ~at_bounds(theta, likelihood.parameters.bounds())
    out = pd.Series(0.0, index=[*fit.fixef.index, *names])
    back = np.asarray(np.linalg.pinv(_unit_rows(J)), dtype=np.float64)
    out[names[free]] = _skewness(A, back[:, free]) / 6.0
    return out


def _unit_rows(J: FloatArray) -> FloatArray:
    """Skewness does not depend on the units of eta."""
    length = np.linalg.norm(J, axis=1, keepdims=True)
    return J / np.where(length > 0.0, length, 1.0)


def _off_edge(likelihood: Likelihood, theta: FloatArray) -> FloatArray:
    """theta with each T lifted off its edge."""
    out, parameters = theta.copy(), likelihood.parameters
    triples = zip(likelihood.spec.terms, parameters.structures, parameters.slices, likelihood.bases, strict=False)
    for term, structure, part, basis in triples:
        floor = LIFT / np.sqrt(max(1.0, likelihood.spec.n / term.n_levels))
        U, s, Vt = np.linalg.svd(basis @ structure.factor(theta[part]))
        if s[-1] < floor:
            out[part] = structure.nearest(np.linalg.solve(basis, (U * np.maximum(s, floor)) @ Vt))
    return out


def _informations(fit: "Fit", likelihood: Likelihood, theta: FloatArray, draws: int, seed: int) -> FloatArray:
    """A by (theta, log sigma^2) of each draw, (draws, k + 1, k + 1); one factorisation for all."""
    simulator, responses = Simulator.of(fit), Responses(likelihood)
    rng, out = np.random.default_rng(seed), []
    with blas_threads(likelihood.flops):
        mine, T = responses.likelihood(likelihood.spec.y), likelihood.factors(theta)
        assert isinstance(mine, Likelihood)
        gradients = [mine._structure(k, theta)[0] for k in range(len(mine.spec.terms))]
        for lo in range(0, draws, BLOCK):
            for y in simulator.draw(min(BLOCK, draws - lo), rng).T:
                products = responses.products(likelihood.products, replace(mine.spec, y=y))
                mine.products = mine.equations.products = products
                out.append(_information(mine, theta, T, gradients, fit.sigma**2))
    return np.array(out)


def _information(
    likelihood: Likelihood, theta: FloatArray, T: list[FloatArray], gradients: list[FloatArray], sigma2: float
) -> FloatArray:
    solution = likelihood._solve(theta, likelihood._products_at(theta), T)
    A, q = likelihood._average_information(solution, gradients, sigma2)
    return np.block([[A, q[:, None]], [q[None, :], np.array([[solution.r2 / sigma2]])]])


def _skewness(A: FloatArray, K: FloatArray) -> FloatArray:
    """Skewness of the score along the least favourable direction of each eta, (f,).

    A: (draws, k, k) by x, the last of which is log sigma^2. K: (k, f) = dx/deta.
    """
    by_eta = K.T @ A @ K
    mu = np.linalg.pinv(by_eta.mean(axis=0))
    second = 0.5 * np.einsum("ai,ij,aj->a", mu, by_eta.mean(axis=0), mu)
    q, along = A[:, :, -1] @ K @ mu, np.einsum("ai,nij,aj->na", mu, by_eta, mu)
    third = 0.5 * ((q - q.mean(axis=0)) * (along - along.mean(axis=0))).sum(axis=0) / (len(A) - 1)
    return np.asarray(third / second**1.5)
