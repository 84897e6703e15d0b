"""Sparse = dense = textbook at any parameters, and every derivative = finite differences."""

import pickle
from functools import cache

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.linalg import block_diag

import sparselmm as slm
from sparselmm._errors import ModelError
from sparselmm.dense import DenseLikelihood
from sparselmm.formula import build_spec
from sparselmm.likelihood import LIFT, Likelihood
from tests import golden, naive
from tests.closed_form.test_profile_score import positive_definite, profile_score, subjects
from tests.problems import PROBLEMS
from tests.test_golden import FITS, formula

RTOL = 1e-9  # one number by the sparse equations and by n x n matrices
INFORMATION_RTOL = 1e-7  # average information and curvature, of the largest entry
SCORE_RTOL = 1e-5  # central differences, of the largest entry
NAIVE_RTOL = 1e-8  # explicit inverses lose a digit more
EDGE_RTOL = 1e-6  # T is lifted by LIFT = 1e-4 there: errors of its square, and of rounding over its square
EDGE_CURVATURE_RTOL = 1e-5  # that rounding times the condition of M, 1e3 where the other effects are large
STEP = 1e-5
SIGMA = 1.3
SMALL_N = 300
assert LIFT**2 < EDGE_RTOL / 10


def _golden_specs():
    """One spec for each model of the small reference data sets."""
    models = {}
    for ref in FITS.values():
        if ref["n"] <= SMALL_N:
            models.setdefault(ref["id"].rsplit("_", 1)[0], ref)
    return models


GOLDEN = _golden_specs()
NAMES = [*PROBLEMS, *GOLDEN]
FEW = [
    "slope",
    "crossed_slope",
    "nested",
    "hcs",
    "weighted",
    "offset",
    "no_fixed",
    "rank_deficient",
    "multi_membership",
]


@cache
def pair(name):
    """The sparse and the dense likelihood of a named problem."""
    if name in PROBLEMS:
        spec = PROBLEMS[name].spec()
    else:
        ref = GOLDEN[name]
        weights, offset = ref.get("weights"), ref.get("offset")
        spec = build_spec(formula(ref), golden.load(ref["dataset"]), weights=weights, offset=offset)
    return Likelihood(spec), DenseLikelihood(spec)


def thetas(likelihood, count=2):
    """Random theta, of order one for effects of unit size."""
    rng = np.random.default_rng(likelihood.spec.n)
    return np.linalg.solve(likelihood.scaling(), rng.normal(size=(likelihood.parameters.count, count))).T


def close(actual, expected, rtol=RTOL, scale=0.0):
    """Within rtol of the largest entry of `expected`, or of `scale` entry by entry."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    size = np.maximum(np.abs(expected).max(initial=0.0) if np.ndim(scale) == 0 else np.abs(expected), scale)
    excess = np.abs(actual - expected) - rtol * size
    assert (excess <= 0).all(), f"{actual}\n{expected}"


def designs(spec):
    """Z of each term, row by row."""
    out = []
    for term in spec.terms:
        if sp.issparse(term.Z):
            out.append(term.Z.toarray())
            continue
        r = term.n_effects
        Z = np.zeros((spec.n, term.n_random))
        for i, level in enumerate(term.Z):
            Z[i, level * r : (level + 1) * r] = 1.0 if term.columns is None else term.columns[i]
        out.append(Z)
    return out


def covariances(likelihood, theta):
    """G of each term."""
    parts = likelihood.parameters.parts(theta)
    return [(T := s.factor(part)) @ T.T for s, part in zip(likelihood.parameters.structures, parts, strict=True)]


every = pytest.mark.parametrize("name", NAMES)
few = pytest.mark.parametrize("name", FEW)
methods = pytest.mark.parametrize("reml", [False, True], ids=["ML", "REML"])
sigmas = pytest.mark.parametrize("sigma", [None, SIGMA], ids=["profiled", "given"])


# --- sparse = dense -------------------------------------------------------------------------------------


@every
@methods
@sigmas
def test_criterion_and_estimates_equal_dense(name, reml, sigma):
    sparse, dense = pair(name)
    assert list(sparse.kept) == list(dense.kept)
    for theta in thetas(sparse):
        a, b = sparse(theta, reml=reml, sigma=sigma), dense(theta, reml=reml, sigma=sigma)
        close([a.deviance], [b.deviance])
        close([a.sigma, a.r2], [b.sigma, b.r2], scale=np.array([b.sigma, b.r2]))
        close(a.beta, b.beta, scale=np.sqrt(np.diag(dense.vcov(theta, b.sigma))))
        for bk, expected in zip(a.b, b.b, strict=True):
            close(bk, expected, scale=np.abs(expected).max(axis=0) + 0 * expected)


@every
def test_covariances_equal_dense(name):
    sparse, dense = pair(name)
    for theta in thetas(sparse):
        expected = dense.vcov(theta, SIGMA)
        se = np.sqrt(np.diag(expected))
        close(sparse.vcov(theta, SIGMA), expected, scale=np.outer(se, se))
        for prediction in (False, True):
            both = [model.random_vcov(theta, SIGMA, prediction=prediction) for model in (sparse, dense)]
            for cov, expected in zip(*both, strict=True):
                sd = np.sqrt(np.einsum("lii->li", expected))
                close(cov, expected, scale=sd[:, :, None] * sd[:, None, :])


@every
@methods
@sigmas
def test_derivatives_equal_dense(name, reml, sigma):
    """In coordinates of unit-size effects, where entries are comparable."""
    sparse, dense = pair(name)
    back = np.linalg.inv(sparse.scaling())
    for theta in thetas(sparse):
        a, b = sparse.derivatives(theta, reml=reml, sigma=sigma), dense.derivatives(theta, reml=reml, sigma=sigma)
        close(back.T @ a.gradient, back.T @ b.gradient, scale=np.full(len(theta), sparse.spec.n * 1e-3))
        close(back.T @ a.information @ back, back.T @ b.information @ back, INFORMATION_RTOL)
        close(back.T @ a.hessian @ back, back.T @ b.hessian @ back, INFORMATION_RTOL)
        close(back.T @ a.cross_log_sigma2, back.T @ b.cross_log_sigma2)
        close([a.information_log_sigma2], [b.information_log_sigma2])
        close([a.by_log_sigma2], [b.by_log_sigma2], scale=np.array([sparse.spec.n]))


# --- score = finite differences -------------------------------------------------------------------------


@every
@methods
@sigmas
def test_score_equals_finite_differences(name, reml, sigma):
    sparse, _ = pair(name)
    back = np.linalg.inv(sparse.scaling())
    for theta in thetas(sparse):
        x = sparse.scaling() @ theta
        expected = naive.numeric_gradient(lambda x: sparse(back @ x, reml=reml, sigma=sigma).deviance, x, STEP)
        close(back.T @ sparse.derivatives(theta, reml=reml, sigma=sigma).gradient, expected, SCORE_RTOL)


@few
@methods
def test_score_of_sigma_equals_finite_differences(name, reml):
    sparse, _ = pair(name)
    for theta in thetas(sparse):
        criterion = lambda x: sparse(theta, reml=reml, sigma=SIGMA * np.exp(x[0] / 2)).deviance  # noqa: B023, E731
        expected = naive.numeric_gradient(criterion, [0.0], STEP)
        close([sparse.derivatives(theta, reml=reml, sigma=SIGMA).by_log_sigma2], expected, SCORE_RTOL)


@pytest.mark.parametrize("r", [1, 2, 3])
def test_score_is_that_of_seed_2(r):
    """-2 times the score of the profile likelihood in the direction dG/dtheta_i; no fixed effects."""
    data, theta = subjects(r), np.linalg.cholesky(positive_definite(r)).T[np.triu_indices(r)]
    y, Z = np.concatenate([y for y, _ in data]), np.concatenate([Z for _, Z in data])
    codes = np.repeat(np.arange(len(data)), [len(y) for y, _ in data])
    term = slm.RandomTerm(codes, columns=Z, effects=tuple(f"z{j}" for j in range(r)))
    likelihood = slm.LinearMixedModel.from_arrays(y, np.zeros((len(y), 0)), [term]).likelihood
    T = term.covariance.factor(theta)
    expected = [-2 * profile_score(data, T @ T.T, dG) for dG in term.covariance.gradient(theta)]
    close(likelihood.derivatives(theta, reml=False).gradient, expected)


# --- the textbook ---------------------------------------------------------------------------------------


@few
@methods
def test_equal_to_the_textbook(name, reml):
    sparse, _ = pair(name)
    spec, Z = sparse.spec, designs(sparse.spec)
    y = spec.y if spec.offset is None else spec.y - spec.offset
    X = spec.X[:, sparse.kept]
    for theta in thetas(sparse):
        psi = [np.kron(np.eye(t.n_levels), G) for t, G in zip(spec.terms, covariances(sparse, theta), strict=True)]
        W = naive.marginal_cov(Z, psi, spec.n, spec.weights)
        at, given = sparse(theta, reml=reml), sparse(theta, reml=reml, sigma=SIGMA)
        close([at.deviance], [naive.profile_deviance(y, X, W, reml)], NAIVE_RTOL)
        close([given.deviance], [naive.deviance(y, X, SIGMA**2 * W, reml)], NAIVE_RTOL)
        close([at.sigma], [naive.profile_sigma(y, X, W, reml)], NAIVE_RTOL)
        close(at.beta, naive.gls(y, X, W)[0], NAIVE_RTOL)
        for b, expected in zip(at.b, naive.blup(y, X, Z, psi, W), strict=True):
            close(b.ravel(), expected, NAIVE_RTOL)
        close(sparse.vcov(theta, SIGMA), naive.gls(y, X, SIGMA**2 * W)[1], NAIVE_RTOL)
        blocks = [block_diag(*b) for b in sparse.random_vcov(theta, SIGMA, prediction=True)]
        expected = naive.blup_error_cov(X, Z, psi, W, SIGMA)
        close(block_diag(*blocks), expected * (block_diag(*[_levels(t) for t in spec.terms]) > 0), NAIVE_RTOL)
        dW = list(_dW(sparse, theta, Z))
        information = sparse.derivatives(theta, reml=reml, sigma=SIGMA).information
        close(information, naive.average_information(y, X, W, dW, SIGMA), INFORMATION_RTOL)


def _levels(term):
    return np.kron(np.eye(term.n_levels), np.ones((term.n_effects, term.n_effects)))


def _dW(likelihood, theta, Z):
    """dW/dtheta_i = Z_k (I (x) dG) Z_k' of every parameter."""
    parts = likelihood.parameters.parts(theta)
    for term, Zk, part in zip(likelihood.spec.terms, Z, parts, strict=True):
        for dG in term.covariance.gradient(part):
            yield Zk @ np.kron(np.eye(term.n_levels), dG) @ Zk.T


# --- edges ----------------------------------------------------------------------------------------------


def edges(likelihood):
    """Each parameter at zero, which makes T singular or a correlation zero; and all of them."""
    theta = thetas(likelihood, 1)[0]
    return [*(np.where(np.arange(len(theta)) == i, 0.0, theta) for i in range(len(theta))), np.zeros(len(theta))]


@every
@methods
def test_exactly_singular_theta_equals_dense(name, reml):
    sparse, dense = pair(name)
    back = np.linalg.inv(sparse.scaling())
    for theta in edges(sparse):
        a, b = sparse(theta, reml=reml), dense(theta, reml=reml)
        close([a.deviance, a.sigma], [b.deviance, b.sigma])
        close(a.beta, b.beta, scale=np.sqrt(np.diag(dense.vcov(theta, b.sigma))))
        a, b = sparse.derivatives(theta, reml=reml), dense.derivatives(theta, reml=reml)
        close(back.T @ a.gradient, back.T @ b.gradient, EDGE_RTOL, scale=np.full(len(theta), sparse.spec.n * 1e-2))
        close(back.T @ a.information @ back, back.T @ b.information @ back, INFORMATION_RTOL)
        close(back.T @ a.hessian @ back, back.T @ b.hessian @ back, EDGE_CURVATURE_RTOL)


# --- the EM step of the start ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["one_factor", "slope", "three_effects", "crossed_slope", "sparse_slopes"])
@methods
def test_em_step_is_the_mean_of_expected_squares(name, reml):
    """G_new = mean over levels of (b b' + var(b|y))/sigma^2, and the deviance does not rise (Dempster et al. 1977)."""
    sparse, dense = pair(name)
    for theta in thetas(sparse):
        at = dense(theta, reml=reml)
        roots = sparse.derivatives(theta, reml=reml).em
        after = []
        errors = dense.random_vcov(theta, at.sigma, prediction=reml)
        for k, (b, cov, root) in enumerate(zip(at.b, errors, roots, strict=True)):
            expected = (cov + b[:, :, None] * b[:, None, :]).mean(axis=0) / at.sigma**2
            own = np.linalg.solve(sparse.products.bases[k], root)
            close(own @ own.T, expected)
            after.append(sparse.parameters.structures[k].nearest(own))
        assert sparse(np.concatenate(after), reml=reml).deviance <= at.deviance


# --- the object -----------------------------------------------------------------------------------------


def test_pickled_likelihood_fits_on():
    """With and without an evaluation behind it."""
    for name in ("crossed_slope", "multi_membership", "cs"):
        likelihood = Likelihood(PROBLEMS[name].spec())
        theta = thetas(likelihood, 1)[0]
        fresh = pickle.loads(pickle.dumps(likelihood))
        before = likelihood.derivatives(theta)
        used = pickle.loads(pickle.dumps(likelihood))
        for copy in (fresh, used):
            assert copy(theta).deviance == likelihood(theta).deviance
            np.testing.assert_array_equal(copy.derivatives(theta).gradient, before.gradient)


def test_pickled_model_fits_to_the_same_optimum():
    model = PROBLEMS["crossed_slope"].model()
    fit = model.fit()
    again = pickle.loads(pickle.dumps(model)).fit()
    assert again.deviance == fit.deviance
    np.testing.assert_array_equal(again.theta, fit.theta)


def test_calls_between_do_not_leave_a_trace():
    """Solutions and factors are kept between calls; results must not depend on what was asked before."""
    likelihood, fresh = Likelihood(PROBLEMS["slope"].spec()), pair("slope")[0]
    theta, other = thetas(likelihood)
    edge = edges(likelihood)[0]
    expected = fresh.derivatives(theta).gradient
    likelihood(theta)
    likelihood.derivatives(edge)
    likelihood.vcov(other, SIGMA)
    np.testing.assert_array_equal(likelihood.derivatives(theta).gradient, expected)
    likelihood.random_vcov(other, SIGMA, prediction=True)
    np.testing.assert_array_equal(likelihood.derivatives(theta).gradient, expected)


@pytest.mark.parametrize("theta", [[1.0], [1.0, np.nan, 1.0], [[1.0, 1.0, 1.0]]])
def test_theta_of_wrong_shape_is_refused(theta):
    for likelihood in pair("slope"):
        with pytest.raises(ModelError, match=r"theta must be 3 finite numbers, for Intercept\|g, x.Intercept\|g, x\|g"):
            likelihood(theta)
