"""AR(1) against the textbook covariance, the recursion of seed 3, and its exercises 3.2 to 3.4."""

import time

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse as sp
import scipy.sparse.linalg as spla

from sparselmm._errors import DataError, ModelError
from sparselmm.structures.ar1 import AR1
from sparselmm.structures.rw import RW1

from .precisions import DENSE, check, dense, pseudo_logdet

LENGTHS = [5, 1, 2, 3]
SECONDS = 0.05  # for 1.9 million states, the target of the brief


def blocks(make):
    return scipy.linalg.block_diag(*[make(T) for T in LENGTHS])


def stationary(a):
    """Exercise 3.2: cov(u_i, u_j) = a^|i-j| at marginal variance 1."""
    return lambda T: a ** np.abs(np.subtract.outer(np.arange(T), np.arange(T)))


def recursion(a, w):
    """Psi = B C B' with B = (I - a L)^-1, C = diag(w, 1, ..., 1): U_1 = nu_1, U_i = a U_{i-1} + nu_i."""

    def make(T):
        B = np.linalg.inv(np.eye(T) - a * np.eye(T, k=-1))
        return B @ np.diag([w] + [1.0] * (T - 1)) @ B.T

    return make


@pytest.mark.parametrize("start", ["stationary", "free"])
def test_contract(start):
    check(AR1(LENGTHS, start), *([x, 0.7][: 1 + (start == "free")] for x in (-1.5, 0.0, 0.3, 2.0)))


@pytest.mark.parametrize("a", [-0.9, 0.0, 0.4, 0.99])
def test_stationary_is_the_inverse_of_the_textbook_covariance(a):
    Q = dense(AR1(LENGTHS), np.arctanh([a]))
    np.testing.assert_allclose(Q @ blocks(stationary(a)), np.eye(11), atol=DENSE)


@pytest.mark.parametrize(("a", "w"), [(0.6, 0.1), (-0.8, 5.0), (0.0, 1.0)])
def test_free_start_is_the_inverse_of_the_recursion(a, w):
    ar1 = AR1(LENGTHS, start="free")
    Q = dense(ar1, ar1.from_natural(np.array([a, w])))
    np.testing.assert_allclose(Q @ blocks(recursion(a, w)), np.eye(11), atol=DENSE)


def test_free_start_with_the_stationary_variance_is_the_stationary_form():
    rho, a = np.arctanh([0.7]), 0.7
    free = AR1(LENGTHS, start="free").values(np.array([rho[0], -np.log(1 - a * a)]))
    np.testing.assert_allclose(free, (1 - a * a) * AR1(LENGTHS).values(rho), rtol=1e-12)


def test_pattern_holds_at_zero():
    ar1 = AR1([4])
    assert len(ar1.values(np.zeros(1))) == len(ar1.pattern()[0]) == 7


@pytest.mark.parametrize("start", ["stationary", "free"])
@pytest.mark.parametrize("x", [-18.0, 18.0])
def test_near_one_nothing_overflows(start, x):
    ar1 = AR1(LENGTHS, start)
    rho = np.array([x, 1.0])[: ar1.n_params]
    parts = [ar1.values(rho), ar1.gradient(rho), ar1.logdet(rho), ar1.logdet_gradient(rho)]
    assert all(np.isfinite(part).all() for part in parts)


def test_logdet_near_one_keeps_its_digits():
    """1 - tanh^2 x = 4 exp(-2x)/(1 + exp(-2x))^2, so -log is 2x - log 4 + 2 log(1 + exp(-2x)) exactly."""
    x = 17.0
    np.testing.assert_allclose(AR1([2]).logdet(np.array([x])), 2 * x - np.log(4) + 2 * np.exp(-2 * x), rtol=1e-15)


def test_exercise_3_4_the_limit_is_the_first_order_random_walk():
    """At unit innovations Q -> Q of RW1 as a -> 1, and log|Q| minus that of the vanishing eigenvalue -> log T."""
    T, gap = 6, 1e-7
    Q = (1 - (1 - gap) ** 2) * dense(AR1([T]), np.arctanh([1 - gap]))
    walk = RW1(np.arange(T), [T])
    np.testing.assert_allclose(Q, dense(walk, np.empty(0)), atol=3 * gap)
    eigenvalues = np.linalg.eigvalsh(Q)
    np.testing.assert_allclose(np.log(eigenvalues[1:]).sum(), walk.logdet(np.empty(0)), rtol=10 * gap)
    np.testing.assert_allclose(walk.logdet(np.empty(0)), pseudo_logdet(dense(walk, np.empty(0)), 1), rtol=DENSE)
    np.testing.assert_allclose(eigenvalues[0], 2 * gap / T, rtol=1e-5)  # 1'Q1/T to first order in the gap


def test_exercise_3_3_the_inverse_of_ar1_plus_noise_in_sparse_matrices():
    """Woodbury with A = sigma^2 I: V^-1 = I/sigma^2 - (Psi^-1 + I/sigma^2)^-1/sigma^4, Psi^-1 = Q/tau^2."""
    a, tau2, sigma2, T = 0.8, 1.7, 0.6, 40
    ar1 = AR1([T])
    rows, cols = ar1.pattern()
    lower = sp.csc_matrix((ar1.values(np.arctanh([a])), (rows, cols)))
    precision = (lower + sp.tril(lower, -1).T) / tau2
    inner = spla.splu((precision + sp.identity(T) / sigma2).tocsc())
    y = np.random.default_rng(3).normal(size=T)
    V = tau2 * stationary(a)(T) + sigma2 * np.eye(T)
    np.testing.assert_allclose(y / sigma2 - inner.solve(y) / sigma2**2, np.linalg.solve(V, y), rtol=DENSE, atol=DENSE)
    np.testing.assert_allclose(
        np.log(inner.U.diagonal()).sum() - ar1.logdet(np.arctanh([a])) + T * np.log(tau2 * sigma2),
        np.linalg.slogdet(V)[1],
        rtol=DENSE,
    )


def test_names():
    assert AR1([2]).natural_names("ar1(t)", "g") == ("rho_ar1(t)|g",)
    assert AR1([2], start="free").natural_names("ar1(t)", "g") == ("rho_ar1(t)|g", "start_ar1(t)|g")
    np.testing.assert_allclose(AR1([2], start="free").to_natural(np.array([0.5, 0.0])), [np.tanh(0.5), 1.0])


@pytest.mark.parametrize("a", [1.0, -1.0])
def test_the_limits_are_the_ends_of_the_coordinate(a):
    ar1 = AR1([4])
    rho = ar1.from_natural(np.array([a]))
    assert ar1.to_natural(rho).tolist() == [a]
    assert np.sign(a) * rho in ar1.bounds()
    covariance = np.linalg.inv(dense(ar1, rho))
    np.testing.assert_allclose(covariance, stationary(a)(4), atol=1e-6)  # 3 steps of 1e-8, and rounding over 1e-8


@pytest.mark.parametrize("a", [1.001, -1.5, np.nan])
def test_rho_outside_its_range_is_refused(a):
    with pytest.raises(ModelError, match="between -1 and 1"):
        AR1([2]).from_natural(np.array([a]))


def test_start_variance_is_not_negative():
    free = AR1([2], start="free")
    for w in (0.0, np.inf):
        assert free.to_natural(free.from_natural(np.array([0.5, w])))[1] == w
    with pytest.raises(ModelError, match="not negative"):
        free.from_natural(np.array([0.5, -0.1]))


def test_unknown_start_is_refused():
    with pytest.raises(ModelError, match="'fixed': known are free, stationary"):
        AR1([2], start="fixed")


@pytest.mark.parametrize(
    ("lengths", "message"),
    [([1, 1], "2 distinct times or more"), ([0, 2], "positive"), ([], "positive"), ([2.5], "pos")],
)
def test_lengths_that_are_refused(lengths, message):
    with pytest.raises(DataError, match=message):
        AR1(lengths)


def test_two_million_states_are_quick():
    ar1 = AR1(np.full(160, 12_000))
    rho, seconds = ar1.start(), []
    for _ in range(5):
        begin = time.perf_counter()
        ar1.values(rho)
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < SECONDS
