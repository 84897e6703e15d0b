"""The dense oracle against `naive`, and the identities of seed 3 (Waagepetersen 2023) that it stands on."""

import numpy as np
import pytest
from scipy.linalg import block_diag

from sparselmm._errors import DataError, EngineError, ModelError
from sparselmm.engines.dense import DenseMarginal
from tests import naive

CRITERION_RTOL = 1e-9  # two dense computations of one number; explicit inverses lose a few digits
MATRIX_RTOL = 1e-10  # entries of matrices, relative to the largest
GRADIENT_RTOL = 1e-6  # central differences: step^2 truncation and eps/step rounding, both near 1e-8
HESSIAN_RTOL = 1e-4  # second differences lose half of the digits
IDENTITY_RTOL = 1e-10  # algebraic identities at condition numbers below 1e4
STEP = 1e-5


def close(actual, expected, rtol=MATRIX_RTOL):
    """Equal up to rtol times the largest entry."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=rtol * max(np.abs(expected).max(initial=0.0), 1e-300))


def indicator(codes, columns):
    """(n, m r): the columns (n, r) of a row stand at its level."""
    m, r = codes.max() + 1, columns.shape[1]
    Z = np.zeros((len(codes), m * r))
    for i, level in enumerate(codes):
        Z[i, level * r : (level + 1) * r] = columns[i]
    return Z


class Problem:
    """Crossed factors with r effects each; Psi_k = I (x) G_k, the parameters are the entries of the G_k."""

    def __init__(self, name, effects, n=40, p=3, weighted=False):
        rng = np.random.default_rng(sum(map(ord, name)))
        self.X = np.column_stack([np.ones(n), rng.normal(size=(n, 3))])[:, :p]
        self.weights = rng.uniform(0.3, 3.0, n) if weighted else None
        self.levels = [5 + 2 * k for k in range(len(effects))]
        self.Z, self.G, self.dG = [], [], []
        for k, (r, m) in enumerate(zip(effects, self.levels, strict=True)):
            codes = rng.permutation(np.arange(n) % m)
            self.Z.append(indicator(codes, np.column_stack([np.ones(n), rng.normal(size=(n, 1))])[:, :r]))
            A = rng.normal(size=(r, r))
            self.G.append(A @ A.T + 0.1 * np.eye(r))
            for i, j in zip(*np.tril_indices(r), strict=True):
                E = np.zeros((r, r))
                E[i, j] = E[j, i] = 1.0
                self.dG.append((k, E))
        self.y = self.X @ rng.normal(size=p) + 2 * rng.normal(size=n) + 5 * (p > 0)

    def psi(self, x=None):
        """Psi_k at a step x from G: one coordinate an entry of dG."""
        G = [g.copy() for g in self.G]
        for value, (k, E) in zip(np.zeros(len(self.dG)) if x is None else x, self.dG, strict=True):
            G[k] += value * E
        return [np.kron(np.eye(m), g) for m, g in zip(self.levels, G, strict=True)]

    def dpsi(self):
        return [(k, np.kron(np.eye(self.levels[k]), E)) for k, E in self.dG]

    def dW(self):
        return [self.Z[k] @ D @ self.Z[k].T for k, D in self.dpsi()]

    def W(self, x=None):
        return naive.marginal_cov(self.Z, self.psi(x), len(self.y), self.weights)

    def dense(self):
        return DenseMarginal(self.y, self.X, self.Z, self.weights)


PROBLEMS = {
    "scalar": Problem("scalar", [1]),
    "slopes": Problem("slopes", [2]),
    "two terms": Problem("two terms", [2, 1], weighted=True),
    "three terms": Problem("three terms", [1, 2, 1], n=60),
    "no fixed": Problem("no fixed", [2, 1], p=0),
    "weighted no fixed": Problem("weighted no fixed", [1], p=0, weighted=True),
    "no random": Problem("no random", []),
}
problems = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
both = pytest.mark.parametrize("reml", [False, True], ids=["ML", "REML"])
sigmas = pytest.mark.parametrize("sigma", [None, 0.7], ids=["profiled", "given"])


@problems
@both
@sigmas
def test_criterion_and_estimates_equal_textbook(problem, reml, sigma):
    got = problem.dense().evaluate(problem.psi(), reml=reml, sigma=sigma)
    y, X, W = problem.y, problem.X, problem.W()
    s = naive.profile_sigma(y, X, W, reml) if sigma is None else sigma
    beta, cov = naive.gls(y, X, s**2 * W)
    assert got.deviance == pytest.approx(naive.deviance(y, X, s**2 * W, reml), rel=CRITERION_RTOL)
    assert got.sigma == pytest.approx(s, rel=CRITERION_RTOL)
    assert got.r2 == pytest.approx(y @ naive.projection(X, W) @ y, rel=CRITERION_RTOL)
    assert got.nu == len(y) - (X.shape[1] if reml else 0)
    close(got.beta, beta)
    close(got.vcov_beta, cov)


@problems
def test_blups_and_their_error_covariance(problem):
    if not problem.Z:
        assert problem.dense().evaluate([], reml=True).b == []
        return
    got = problem.dense().evaluate(problem.psi(), reml=True)
    expected = naive.blup(problem.y, problem.X, problem.Z, problem.psi(), problem.W())
    for mine, theirs in zip(got.b, expected, strict=True):
        close(mine, theirs)
    error = naive.blup_error_cov(problem.X, problem.Z, problem.psi(), problem.W(), got.sigma)
    start = 0
    for cov in got.b_cov:
        part = slice(start, start + len(cov))
        close(cov, error[part, part])
        start += len(cov)


@problems
@both
@sigmas
def test_gradient_equals_central_differences_of_textbook(problem, reml, sigma):
    got = problem.dense().evaluate(problem.psi(), problem.dpsi(), reml=reml, sigma=sigma)
    y, X = problem.y, problem.X

    def criterion(x):
        W = problem.W(x)
        return naive.profile_deviance(y, X, W, reml) if sigma is None else naive.deviance(y, X, sigma**2 * W, reml)

    expected = naive.numeric_gradient(criterion, np.zeros(len(problem.dG)), STEP)
    close(got.gradient, expected, GRADIENT_RTOL)


@problems
@both
def test_derivative_with_respect_to_log_sigma2(problem, reml):
    got = problem.dense().evaluate(problem.psi(), reml=reml, sigma=0.7)
    V = lambda x: 0.7**2 * np.exp(x[0]) * problem.W()  # noqa: E731
    expected = naive.numeric_gradient(lambda x: naive.deviance(problem.y, problem.X, V(x), reml), [0.0], STEP)
    close([got.gradient_logsigma2], expected, GRADIENT_RTOL)
    profiled = problem.dense().evaluate(problem.psi(), reml=reml)
    assert profiled.gradient_logsigma2 == pytest.approx(0.0, abs=CRITERION_RTOL * profiled.nu)


@problems
@both
def test_average_information_equals_textbook(problem, reml):
    got = problem.dense().evaluate(problem.psi(), problem.dpsi(), reml=reml)
    W, dW = problem.W(), problem.dW()
    everything = naive.average_information(problem.y, problem.X, W, [*dW, W], got.sigma)
    k = len(dW)
    close(got.ai, everything[:k, :k])
    close(got.ai_sigma, everything[:k, k])
    schur = everything[:k, :k] - np.outer(everything[:k, k], everything[:k, k]) / everything[k, k]
    close(got.ai_profiled, schur)


@problems
@both
def test_average_information_is_mean_of_observed_and_expected(problem, reml):
    """Gilmour, Thompson & Cullis (1995), for W linear in its parameters and sigma known."""
    got = problem.dense().evaluate(problem.psi(), problem.dpsi(), reml=reml, sigma=1.3)
    criterion = lambda x: naive.deviance(problem.y, problem.X, 1.3**2 * problem.W(x), reml)  # noqa: E731
    observed = naive.numeric_hessian(criterion, np.zeros(len(problem.dG)), 1e-3)
    expected = naive.expected_information(problem.X, problem.W(), problem.dW(), reml)
    close(2 * got.ai, observed + expected, HESSIAN_RTOL)


@both
def test_zero_covariance_is_ordinary_least_squares(reml):
    problem = PROBLEMS["two terms"]
    zero = [0 * P for P in problem.psi()]
    got = problem.dense().evaluate(zero, problem.dpsi(), reml=reml)
    alone = DenseMarginal(problem.y, problem.X, [], problem.weights).evaluate([], reml=reml)
    assert got.deviance == pytest.approx(alone.deviance, rel=IDENTITY_RTOL)
    close(got.beta, alone.beta)
    assert all((b == 0).all() for b in got.b) and np.isfinite(got.gradient).all()


@both
@pytest.mark.parametrize("shift_y", [2.0**30, 2.0**40], ids=["1e9", "1e12"])
def test_large_response_and_badly_scaled_columns_change_nothing(reml, shift_y):
    """y + 2^k shifts the intercept only; columns of X times powers of two shift log|X'W^-1X| only: both exactly."""
    problem = PROBLEMS["two terms"]
    y = np.round(problem.y * 2**12) / 2**12
    scale = 2.0 ** np.array([0, 20, -20])
    here = DenseMarginal(y, problem.X, problem.Z).evaluate(problem.psi(), reml=reml)
    there = DenseMarginal(y + shift_y, problem.X * scale, problem.Z).evaluate(problem.psi(), reml=reml)
    shift = 2 * np.log(scale).sum() if reml else 0.0
    assert there.deviance == pytest.approx(here.deviance + shift, rel=CRITERION_RTOL)
    close((there.beta * scale)[1:], here.beta[1:], CRITERION_RTOL)
    assert there.beta[0] == pytest.approx(here.beta[0] + shift_y, rel=np.finfo(float).eps)
    assert there.sigma == pytest.approx(here.sigma, rel=CRITERION_RTOL)


@pytest.mark.parametrize("scale", [1e-100, 1e100])
def test_unit_of_the_response(scale):
    problem = PROBLEMS["slopes"]
    here = problem.dense().evaluate(problem.psi(), problem.dpsi(), reml=True)
    there = DenseMarginal(problem.y * scale, problem.X, problem.Z).evaluate(problem.psi(), problem.dpsi(), reml=True)
    assert there.deviance == pytest.approx(here.deviance + 2 * here.nu * np.log(scale), rel=CRITERION_RTOL)
    close(there.gradient, here.gradient)
    close(there.ai_profiled, here.ai_profiled)


# --- seed 3 ---------------------------------------------------------------------------------------------


@problems
def test_reml_does_not_depend_on_the_choice_of_contrasts(problem):
    """Seed 3, exercise 6: A and AC (C invertible) give the same REML likelihood."""
    y, X, V = problem.y, problem.X, problem.W()
    A = naive.error_contrasts(X)
    C = np.random.default_rng(3).normal(size=(A.shape[1], A.shape[1])) + 5 * np.eye(A.shape[1])
    got = problem.dense().evaluate(problem.psi(), reml=True, sigma=1.0)
    assert -2 * naive.reml_loglik(y, X, V, A @ C) == pytest.approx(got.deviance, rel=CRITERION_RTOL)


def test_reml_of_a_simple_sample_from_both_bases_of_seed_3():
    """Columns e_i - 1/n or e_i - e_n."""
    y = np.random.default_rng(5).normal(3, 2, 12)
    X, eye = np.ones((12, 1)), np.eye(12)
    got = DenseMarginal(y, X, []).evaluate([], reml=True)
    for A in (eye[:, :-1] - 1 / 12, eye[:, :-1] - eye[:, [-1]]):
        assert -2 * naive.reml_loglik(y, X, got.sigma**2 * eye, A) == pytest.approx(got.deviance, rel=CRITERION_RTOL)


def test_seed_3_profile_reml_likelihood_with_woodbury():
    """Slides 20-21: sigma^2 and l(phi) from A'Z only, equal to ours up to a constant in phi."""
    problem = PROBLEMS["scalar"]
    y, X, Z = problem.y, problem.X, problem.Z[0]
    A, n, p, m = naive.error_contrasts(X), *X.shape, Z.shape[1]

    def seed(phi):
        small = np.linalg.inv(np.eye(m) / phi + Z.T @ A @ A.T @ Z)
        t = A.T @ y
        sigma2 = (t @ t - t @ A.T @ Z @ small @ Z.T @ A @ t) / (n - p)
        return sigma2, -(n - p) / 2 * np.log(sigma2) - naive.logdet(np.eye(m) + phi * Z.T @ A @ A.T @ Z) / 2

    ours = [problem.dense().evaluate([phi * np.eye(m)], reml=True) for phi in (0.2, 3.0)]
    theirs = [seed(phi) for phi in (0.2, 3.0)]
    close([e.sigma**2 for e in ours], [s for s, _ in theirs], IDENTITY_RTOL)
    assert ours[0].deviance - ours[1].deviance == pytest.approx(-2 * (theirs[0][1] - theirs[1][1]), rel=CRITERION_RTOL)


@problems
def test_woodbury_and_determinant_identities(problem):
    """(Z Psi Z' + S)^-1 = S^-1 - S^-1 Z (Psi^-1 + Z'S^-1Z)^-1 Z'S^-1, and |I + AB| = |I + BA|.

    Checked on what the dense engine answers: y'W^-1y and log|W| at p = 0, sigma = 1.
    """
    n = len(problem.y)
    weights = np.ones(n) if problem.weights is None else problem.weights
    got = DenseMarginal(problem.y, np.empty((n, 0)), problem.Z, problem.weights)
    got = got.evaluate(problem.psi(), reml=False, sigma=1.0)
    Z, Psi = np.hstack([np.empty((n, 0)), *problem.Z]), block_diag(*problem.psi(), np.empty((0, 0)))
    S_inv = np.diag(weights)
    inner = np.linalg.inv(Psi) + Z.T @ S_inv @ Z
    W_inv = S_inv - S_inv @ Z @ np.linalg.inv(inner) @ Z.T @ S_inv
    assert got.r2 == pytest.approx(problem.y @ W_inv @ problem.y, rel=IDENTITY_RTOL)
    logdet_W = got.deviance - n * np.log(2 * np.pi) - got.r2
    small = np.eye(len(Psi)) + Psi @ Z.T @ S_inv @ Z
    assert logdet_W == pytest.approx(np.linalg.slogdet(small)[1] - np.log(weights).sum(), rel=IDENTITY_RTOL)


# --- errors ---------------------------------------------------------------------------------------------


def test_too_many_rows_are_refused_before_anything_is_allocated():
    n = 5_000_000
    with pytest.raises(EngineError, match=r'4e\+05 GB for 5000000 rows.*engine="cholmod"'):
        DenseMarginal(np.zeros(n), np.zeros((n, 0)), [])


def test_arrays_that_do_not_agree():
    y, X, Z = np.arange(4.0), np.ones((4, 1)), np.eye(4)[:, :2]
    for bad, message in [
        ((y, X[:3], [Z]), "X has shape"),
        ((y, X, [Z[:2]]), r"Z\[0\] has shape"),
        ((y, X, [Z[:, 0]]), r"Z\[0\] has shape"),
        ((y, X, [Z], np.ones(3)), "weights has shape"),
        ((y, X, [Z], np.array([1.0, 2.0, 0.0, 1.0])), "weights must be positive, the smallest is 0"),
        ((y, X * np.nan, [Z]), "X has infinite or missing"),
    ]:
        with pytest.raises(DataError, match=message):
            DenseMarginal(*bad)


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_dependent_columns_are_named(scale):
    X = np.random.default_rng(1).normal(size=(9, 3))
    X[:, 2] = scale * (X[:, 0] - 2 * X[:, 1])
    with pytest.raises(ModelError, match="column 2 of X"):
        DenseMarginal(np.arange(9.0), X, [])


def test_psi_is_checked():
    dense = DenseMarginal(np.array([1.0, 2.0, 4.0, 4.5]), np.ones((4, 1)), [np.eye(4)[:, :2]])
    with pytest.raises(DataError, match="2 covariance matrices psi for 1"):
        dense.evaluate([np.eye(2), np.eye(2)], reml=True)
    with pytest.raises(DataError, match=r"psi\[0\] has shape"):
        dense.evaluate([np.eye(3)], reml=True)
    with pytest.raises(DataError, match=r"psi\[0\] is not symmetric"):
        dense.evaluate([np.array([[1.0, 0.5], [0.0, 1.0]])], reml=True)
    with pytest.raises(DataError, match=r"dpsi\[0\] has shape"):
        dense.evaluate([np.eye(2)], [(0, np.eye(3))], reml=True)
    with pytest.raises(EngineError, match="positive semi-definite"):
        dense.evaluate([-2 * np.eye(2)], reml=True)


def test_exact_fit_needs_sigma():
    dense = DenseMarginal(np.array([1.0, 2.0]), np.eye(2), [])
    with pytest.raises(ModelError, match="give sigma"):
        dense.evaluate([], reml=True)
    # -2l = log|W| + log|X'X| + 0 log(2 pi 9) + 0 = 0
    assert dense.evaluate([], reml=True, sigma=3.0).deviance == pytest.approx(0.0, abs=1e-14)
