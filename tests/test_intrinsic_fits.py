"""Models with intrinsic precisions against the textbook: V from the pseudo-inverse of Q, the null space among X."""

import numpy as np
import pandas as pd
import pytest
import scipy.linalg as sla

from sparselmm.equations import fitted_values
from sparselmm.fixed import design_matrix
from sparselmm.formula import build_spec
from sparselmm.likelihood import Likelihood

from . import naive
from .structures.precisions import dense

CRITERION, ESTIMATE = 1e-9, 1e-7  # criterion relative; estimates through a dense pseudo-inverse of condition 1e6
GRADIENT = 1e-5  # central differences with step 1e-5


def table(seed=0, n=90, series=4):
    rng = np.random.default_rng(seed)
    g = rng.integers(0, series, n)
    x = np.round(rng.uniform(0, 10, n), 1)
    y = np.sin(x) + 0.3 * g + 0.2 * rng.normal(size=n)
    return pd.DataFrame({"y": y, "x": x, "t": rng.integers(0, 12, n), "g": g, "w": rng.normal(size=n), "h": g % 2})


FORMULAS = {
    "all of the null space in X": "y ~ 1 + w + rw1(0 + t)",
    "a spline beside its line": "y ~ x + w + rw2(0 + x)",
    "half of the null space in X": "y ~ 1 + w + rw2(0 + x)",
    "nothing in X": "y ~ 0 + w + rw1(0 + t | g)",
    "an intercept beside levels of series": "y ~ 1 + w + rw1(0 + t | g)",
    "series of second order": "y ~ 1 + w + rw2(0 + t | g)",
    "crossed with others": "y ~ 1 + w + rw2(0 + x) + (1 | g) + ar1(0 + t | h)",
    "weights and a residual": "y ~ x + rw2(0 + x)",
}


def spec_of(name):
    data = table()
    if name == "weights and a residual":
        weights = np.random.default_rng(3).uniform(0.5, 2, len(data))
        return build_spec(FORMULAS[name], data, weights=weights, residual="varident(h)")
    return build_spec(FORMULAS[name], data)


class Textbook:
    """Z, Psi by the pseudo-inverse of Q, and [X, what X leaves of the null spaces (orthonormal)]."""

    def __init__(self, spec, parameters, theta):
        self.spec = spec
        self.Z = [design_matrix(t).toarray() for t in spec.terms]
        self.psi, nulls = [], []
        blocks = zip(spec.terms, parameters.structures, parameters.slices, parameters.rho_slices, strict=True)
        for term, T, part, rho in blocks:
            Q = np.eye(term.n_levels) if term.Q is None else dense(term.Q, theta[rho])
            G = T.factor(theta[part]) @ T.factor(theta[part]).T
            d = 0 if term.Q is None else term.Q.null_dim
            values, vectors = np.linalg.eigh(Q)
            self.psi.append(np.kron((vectors[:, d:] / values[d:]) @ vectors[:, d:].T, G))
            nulls.append(np.kron(vectors[:, :d], np.eye(term.n_effects)))
        ends = np.cumsum([0] + [N.shape[1] for N in nulls])
        ZN = np.hstack([Z @ N for Z, N in zip(self.Z, nulls, strict=True)])
        B = np.linalg.lstsq(ZN, spec.X, rcond=None)[0]
        residuals = np.linalg.norm(ZN @ B - spec.X, axis=0) if ZN.shape[1] else np.ones(spec.X.shape[1])
        inside = residuals < 1e-8 * np.linalg.norm(spec.X, axis=0)
        rest = sla.null_space(B[:, inside].T) if inside.any() else np.eye(ZN.shape[1])
        self.rest = [N @ rest[a:b] for N, a, b in zip(nulls, ends[:-1], ends[1:], strict=True)]
        self.X = np.hstack([spec.X, ZN @ rest])

    def W(self, theta, parameters):
        R = np.eye(self.spec.n)
        if self.spec.residual is not None:
            R = self.spec.residual.covariance(theta[parameters.residual_slice])
        root = np.ones(self.spec.n) if self.spec.weights is None else np.sqrt(self.spec.weights)
        parts = (Z @ P @ Z.T for Z, P in zip(self.Z, self.psi, strict=True))
        return R / np.outer(root, root) + sum(parts)


def at(likelihood, seed):
    rng = np.random.default_rng(seed)
    start = likelihood.parameters.start([np.eye(t.n_effects) for t in likelihood.spec.terms])
    return start + rng.uniform(-0.4, 0.4, len(start))


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("seed", [1, 2])
def test_restricted_criterion_estimates_and_errors(name, seed):
    spec = spec_of(name)
    likelihood = Likelihood(spec)
    theta = at(likelihood, seed)
    book = Textbook(spec, likelihood.parameters, theta)
    W = book.W(theta, likelihood.parameters)
    e = likelihood(theta, reml=True)
    assert e.deviance == pytest.approx(naive.profile_deviance(spec.y, book.X, W, True), rel=CRITERION)
    sigma = naive.profile_sigma(spec.y, book.X, W, True)
    beta, cov = naive.gls(spec.y, book.X, sigma**2 * W)
    p = spec.X.shape[1]
    np.testing.assert_allclose(e.beta, beta[:p], rtol=ESTIMATE, atol=ESTIMATE)
    np.testing.assert_allclose(likelihood.vcov(theta, e.sigma), cov[:p, :p], rtol=ESTIMATE, atol=ESTIMATE)
    np.testing.assert_allclose(likelihood.fixed_variances(theta, e.sigma), np.diag(cov)[:p], rtol=ESTIMATE)
    effects = naive.blup(spec.y, book.X, book.Z, book.psi, W)
    for b, own, rest in zip(e.b, effects, book.rest, strict=True):
        np.testing.assert_allclose(b.ravel(), own + rest @ beta[p:], rtol=ESTIMATE, atol=ESTIMATE)


def test_walks_that_share_a_level():
    """Levels of h and of the spline are one direction too many: contrasts and fitted values do not care which."""
    spec = build_spec("y ~ 1 + rw1(0 + t | h) + rw2(0 + x)", table())
    likelihood, found, expected = Likelihood(spec), [], []
    for seed in (1, 2, 3):
        theta = at(likelihood, seed)
        book = Textbook(spec, likelihood.parameters, theta)
        W, X = book.W(theta, likelihood.parameters), sla.orth(book.X, rcond=1e-10)
        e = likelihood(theta, reml=True)
        found.append(e.deviance)
        expected.append(naive.profile_deviance(spec.y, X, W, True))
        fitted = fitted_values(spec, e.beta, list(e.b))
        np.testing.assert_allclose(fitted, spec.y - naive.projection(X, W) @ spec.y, rtol=ESTIMATE, atol=ESTIMATE)
    np.testing.assert_allclose(np.diff(found), np.diff(expected), rtol=1e-7)
    assert likelihood.degrees(True) == spec.n - 3 and X.shape[1] == 3


@pytest.mark.parametrize("name", FORMULAS)
def test_likelihood_is_that_of_contrasts_free_of_the_null_space(name):
    """A flat prior on the null space: the density of A'y, A orthonormal with A'ZN = 0, but for a constant."""
    spec = spec_of(name)
    likelihood = Likelihood(spec)
    found, expected = [], []
    for seed in (1, 2, 3):
        theta = at(likelihood, seed)
        book = Textbook(spec, likelihood.parameters, theta)
        W = book.W(theta, likelihood.parameters)
        N = np.hstack([Z @ null for Z, null in zip(book.Z, all_null(spec), strict=True)])
        A = naive.error_contrasts(sla.orth(N))
        X = sla.orth(A.T @ spec.X, rcond=1e-8) if (np.abs(A.T @ spec.X) > 1e-8).any() else np.zeros((A.shape[1], 0))
        expected.append(naive.profile_deviance(A.T @ spec.y, X, A.T @ W @ A, False))
        found.append(likelihood(theta, reml=False).deviance)
    np.testing.assert_allclose(np.diff(found), np.diff(expected), rtol=1e-7)
    assert likelihood.degrees(False) == A.shape[1]


def all_null(spec):
    for term in spec.terms:
        d = 0 if term.Q is None else term.Q.null_dim
        N = sla.orth(term.Q.null_space().toarray()) if d else np.zeros((term.n_levels, 0))
        yield np.kron(N, np.eye(term.n_effects))


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("name", FORMULAS)
def test_score_is_the_slope_of_the_criterion(name, reml):
    likelihood = Likelihood(spec_of(name))
    theta = at(likelihood, 4)
    slope = naive.numeric_gradient(lambda t: likelihood(t, reml=reml).deviance, theta, 1e-5)
    score = likelihood.derivatives(theta, reml=reml).gradient
    np.testing.assert_allclose(score, slope, rtol=GRADIENT, atol=GRADIENT)


@pytest.mark.parametrize("name", FORMULAS)
def test_errors_of_effects(name):
    """Henderson's equations in a basis K of the effects that X leaves: [X ZK], penalty K'QK/T^2."""
    spec = spec_of(name)
    likelihood = Likelihood(spec)
    theta = at(likelihood, 5)
    sigma = likelihood(theta).sigma
    prediction = likelihood.random_vcov(theta, sigma, prediction=True)
    given_beta = likelihood.random_vcov(theta, sigma, prediction=False)
    book = Textbook(spec, likelihood.parameters, theta)
    R = book.W(theta, likelihood.parameters) - sum(Z @ P @ Z.T for Z, P in zip(book.Z, book.psi, strict=True))
    ranges = [sla.orth(psi, rcond=1e-10) for psi in book.psi]
    K = np.hstack([sla.block_diag(*ranges), np.vstack(book.rest)])
    precisions = [np.linalg.inv(k.T @ psi @ k) for k, psi in zip(ranges, book.psi, strict=True)]
    free = np.zeros((book.rest[0].shape[1],) * 2)
    design = np.hstack([spec.X, np.hstack(book.Z) @ K])
    p = spec.X.shape[1]
    equations = design.T @ np.linalg.inv(R) @ design + sla.block_diag(np.zeros((p, p)), *precisions, free)
    ends = np.cumsum([t.n_random for t in spec.terms])[:-1]
    for first, found in ((0, prediction), (p, given_beta)):
        inverse = np.linalg.inv(equations[first:, first:])[p - first :, p - first :]
        covariance = sigma**2 * K @ inverse @ K.T
        for term, blocks, part in zip(spec.terms, found, np.split(np.arange(len(K)), ends), strict=True):
            m, r = term.n_levels, term.n_effects
            expected = np.einsum("lalb->lab", covariance[np.ix_(part, part)].reshape(m, r, m, r))
            np.testing.assert_allclose(blocks, expected, rtol=ESTIMATE, atol=ESTIMATE)
