"""Seed 2: the score of the profile likelihood of y_i ~ N(0, sigma^2 (I + Z_i D Z_i')), i = 1 ... N.

The answer printed in the seed treats D as a scalar and has a wrong sign and a wrong factor. Right is

    d l_p = N/2 sum y'V^-1 dV V^-1 y / sum y'V^-1 y - 1/2 sum tr(V^-1 dV),   dV_i = Z_i dD Z_i',  N = sum n_i.
"""

import numpy as np
import pytest
from scipy.linalg import block_diag

from sparselmm.engines.dense import DenseMarginal
from tests import naive

SCORE_RTOL = 1e-6  # central differences
ENGINE_RTOL = 1e-10  # one formula by explicit inverses and by Cholesky
STEP = 1e-5
SIZES = [4, 7, 5, 9, 6, 8]


def subjects(r):
    """(y_i, Z_i), Z_i (n_i, r): intercept and slopes."""
    rng = np.random.default_rng(r)
    Z = [np.column_stack([np.ones(n), rng.normal(size=(n, 2))])[:, :r] for n in SIZES]
    return [(Zi @ rng.normal(size=r) + rng.normal(size=len(Zi)), Zi) for Zi in Z]


def covariance(Z, D):
    return np.eye(len(Z)) + Z @ D @ Z.T


def profile_loglik(data, D):
    """l_p as in the seed, without its constants."""
    total = sum(len(y) for y, _ in data)
    quadratic = sum(y @ np.linalg.inv(covariance(Z, D)) @ y for y, Z in data)
    return -(total * np.log(quadratic) + sum(naive.logdet(covariance(Z, D)) for _, Z in data)) / 2


def profile_score(data, D, dD):
    """d l_p in the direction dD, as above."""
    total = sum(len(y) for y, _ in data)
    slope = quadratic = trace = 0.0
    for y, Z in data:
        V_inv, dV = np.linalg.inv(covariance(Z, D)), Z @ dD @ Z.T
        slope += y @ V_inv @ dV @ V_inv @ y
        quadratic += y @ V_inv @ y
        trace += np.trace(V_inv @ dV)
    return total / 2 * slope / quadratic - trace / 2


def printed_score(data, D):
    """The seed's answer for one D: -N (sum y'V^-1 ZZ' V^-1 y) / (sum y'V^-1 y) - sum tr(V^-1 ZZ')."""
    total = sum(len(y) for y, _ in data)
    slope = quadratic = trace = 0.0
    for y, Z in data:
        V_inv = np.linalg.inv(covariance(Z, D))
        slope += y @ V_inv @ Z @ Z.T @ V_inv @ y
        quadratic += y @ V_inv @ y
        trace += np.trace(V_inv @ Z @ Z.T)
    return -total * slope / quadratic - trace


def directions(r):
    """Symmetric matrices, one an entry of the lower triangle."""
    out = []
    for i, j in zip(*np.tril_indices(r), strict=True):
        E = np.zeros((r, r))
        E[i, j] = E[j, i] = 1.0
        out.append(E)
    return out


def positive_definite(r):
    A = np.random.default_rng(10 + r).normal(size=(r, r))
    return A @ A.T + 0.2 * np.eye(r)


ranks = pytest.mark.parametrize("r", [1, 2, 3])


@ranks
def test_score_equals_finite_differences(r):
    data, D, dD = subjects(r), positive_definite(r), directions(r)
    criterion = lambda x: profile_loglik(data, D + sum(v * E for v, E in zip(x, dD, strict=True)))  # noqa: E731
    expected = naive.numeric_gradient(criterion, np.zeros(len(dD)), STEP)
    score = [profile_score(data, D, E) for E in dD]
    np.testing.assert_allclose(score, expected, rtol=0, atol=SCORE_RTOL * np.abs(expected).max())


@ranks
def test_dense_gradient_is_minus_twice_the_score(r):
    data, D = subjects(r), positive_definite(r)
    y, Z, eye = np.concatenate([y for y, _ in data]), block_diag(*[Z for _, Z in data]), np.eye(len(data))
    dpsi = [(0, np.kron(eye, E)) for E in directions(r)]
    got = DenseMarginal(y, np.empty((len(y), 0)), [Z]).evaluate([np.kron(eye, D)], dpsi, reml=False)
    expected = np.array([-2 * profile_score(data, D, E) for E in directions(r)])
    np.testing.assert_allclose(got.gradient, expected, rtol=0, atol=ENGINE_RTOL * np.abs(expected).max())
    n = len(y)
    constant = n * (1 + np.log(2 * np.pi / n))
    assert got.deviance == pytest.approx(-2 * profile_loglik(data, D) + constant, rel=ENGINE_RTOL)


@pytest.mark.parametrize("phi", [0.05, 0.5, 5.0])
def test_printed_answer_is_not_the_score(phi):
    """Not even for the scalar D that it is written for: its first term needs the other sign, both a half."""
    data, D = subjects(1), np.array([[phi]])
    expected = naive.numeric_gradient(lambda x: profile_loglik(data, np.diag(x)), [phi], STEP)[0]
    trace = sum(np.trace(np.linalg.inv(covariance(Z, D)) @ Z @ Z.T) for _, Z in data)
    printed = printed_score(data, D)
    assert printed < 0
    assert abs(printed - expected) > abs(expected)
    assert (-(printed + trace) - trace) / 2 == pytest.approx(expected, rel=SCORE_RTOL)


def test_printed_answer_has_no_root_where_the_likelihood_has_its_maximum():
    """ "Find the D that sets this equal to zero": the score has such a D, the printed answer has none."""
    data, low, high = subjects(1), np.array([[1e-3]]), np.array([[1e3]])
    assert profile_score(data, low, np.eye(1)) > 0 > profile_score(data, high, np.eye(1))
    assert printed_score(data, low) < 0 and printed_score(data, high) < 0
