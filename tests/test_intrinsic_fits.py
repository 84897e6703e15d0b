"""Models with intrinsic precisions against the textbook: V from the pseudo-inverse of Q, the null space among X."""

import numpy as np
import pandas as pd
import pytest
import scipy.linalg as sla
from statsmodels.tsa.api import UnobservedComponents

import sparselmm as slm
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
    np.testing.assert_allclose(score, slope, atol=GRADIENT * max(1.0, np.abs(slope).max()))


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


def simulated_walk(seed=1, T=120, order=1):
    rng = np.random.default_rng(seed)
    walk = rng.normal(size=T) * (0.5 if order == 1 else 0.05)
    for _ in range(order):
        walk = np.cumsum(walk)
    return pd.DataFrame({"t": np.arange(T), "y": 3 + walk + rng.normal(size=T)})


def test_rw1_is_the_local_level_model_of_statsmodels():
    """Exact diffuse Kalman filter (Durbin & Koopman): the restricted likelihood with the level as an intercept."""
    data = simulated_walk()
    model = UnobservedComponents(data["y"], "llevel", use_exact_diffuse=True)
    likelihood = Likelihood(build_spec("y ~ 1 + rw1(0 + t)", data))
    for ratio in (0.1, 0.5, 2.0):
        e = likelihood([ratio])
        kalman = model.loglike([e.sigma**2, (ratio * e.sigma) ** 2])
        # the filter counts n factors of sqrt(2 pi), the density of n - 1 contrasts one less
        assert -0.5 * e.deviance == pytest.approx(kalman + 0.5 * np.log(2 * np.pi), rel=1e-9)
    fit = slm.lmm("y ~ 1 + rw1(0 + t)", data)
    smoothed = model.smooth([fit.sigma**2, fit.varpar["sd_rw1(t)|t"] ** 2])
    level = fit.fixef["Intercept"] + fit.ranef()["t"]["rw1(t)"]
    np.testing.assert_allclose(level, smoothed.level.smoothed, rtol=1e-7, atol=1e-8)
    assert fit.loglik >= model.fit(disp=False).llf + 0.5 * np.log(2 * np.pi) - 1e-7


def test_rw2_is_the_smooth_trend_of_statsmodels():
    """The same with a level and a slope without a prior; the two likelihoods differ by a constant."""
    data = simulated_walk(order=2)
    model = UnobservedComponents(data["y"], "strend", use_exact_diffuse=True)
    likelihood = Likelihood(build_spec("y ~ 1 + t + rw2(0 + t)", data))
    differences = []
    for ratio in (0.01, 0.05, 0.3):
        e = likelihood([ratio])
        differences.append(-0.5 * e.deviance - model.loglike([e.sigma**2, (ratio * e.sigma) ** 2]))
    np.testing.assert_allclose(np.diff(differences), 0.0, atol=1e-6)
    fit = slm.lmm("y ~ 1 + t + rw2(0 + t)", data)
    smoothed = model.smooth([fit.sigma**2, fit.varpar["sd_rw2(t)|t"] ** 2])
    curve = fit.fixef["Intercept"] + fit.fixef["t"] * data["t"] + fit.ranef()["t"]["rw2(t)"].to_numpy()
    np.testing.assert_allclose(curve, smoothed.level.smoothed, rtol=1e-6)


def test_a_random_walk_is_the_limit_of_ar1():
    """Seed 3, exercise 3.4: a -> 1 at innovations of variance T^2; the difference falls with 1 - a."""
    data = simulated_walk()
    walk = Likelihood(build_spec("y ~ 1 + rw1(0 + t)", data))
    serial = Likelihood(build_spec("y ~ 1 + ar1(0 + t)", data))
    T, found = 0.5, []
    for gap in (1e-3, 1e-4, 1e-5):
        marginal = T / np.sqrt(1 - (1 - gap) ** 2)
        found.append(abs(serial([marginal, np.arctanh(1 - gap)]).deviance - walk([T]).deviance))
    assert found[2] < 1e-2 and found[1] < 0.15 * found[0] and found[2] < 0.15 * found[1]


@pytest.mark.parametrize("reml", [True, False])
def test_levels_of_walks_leave_nothing_of_an_intercept_of_the_same_groups(reml):
    """The level of each walk has no prior: the criterion is the same at any variance of (1 | g), by ML too."""
    rng = np.random.default_rng(8)
    data = pd.DataFrame({"g": rng.integers(0, 6, 90), "t": rng.integers(0, 9, 90), "y": rng.normal(size=90)})
    formula = "y ~ 1 + rw1(0 + t | g) + (1 | g)"
    with pytest.raises(slm.ModelError, match="levels without a prior, contain it .* the likelihood says nothing"):
        slm.lmm(formula, data, reml=reml)
    held = [slm.lmm(formula, data, reml=reml, fixed={"sd_Intercept|g": sd}).deviance for sd in (0.2, 4.0)]
    assert held[0] == pytest.approx(held[1], rel=1e-9)
    coarse = data.assign(g=data.g.astype(str), h=data.g % 2)
    with pytest.raises(slm.ModelError, match=r"\(1 \| h\)"):
        slm.lmm("y ~ 1 + rw1(0 + t | g) + (1 | h)", coarse, reml=reml)


def test_knots_without_data_are_interpolated():
    """A state between two others has their conditional mean, for rw1 the straight line; data elsewhere is unchanged."""
    data = simulated_walk().iloc[::4]
    fit = slm.lmm("y ~ 1 + rw1(0 + t)", data)
    finer = slm.lmm("y ~ 1 + rw1(0 + t, knots=grid)", data, context={"grid": np.arange(0, 117)})
    assert finer.deviance == pytest.approx(fit.deviance, rel=1e-9)
    curve = (finer.fixef["Intercept"] + finer.ranef()["t"]["rw1(t)"]).to_numpy()
    np.testing.assert_allclose(curve, np.interp(np.arange(117), data["t"], fit.fitted), atol=1e-5)


def test_variance_of_zero_is_the_null_space_alone():
    """A straight line with noise: rw2 has nothing to add to it, and the fit is that of the line."""
    rng = np.random.default_rng(8)
    data = pd.DataFrame({"x": np.linspace(0, 1, 80)})
    data["y"] = 1 + 2 * data["x"] + rng.choice([-1.0, 1.0], 80)
    fit = slm.lmm("y ~ x + rw2(0 + x)", data)
    line = np.polyfit(data["x"], data["y"], 1)
    assert fit.converged and fit.is_singular and fit.varpar["sd_rw2(x)|x"] == 0.0
    np.testing.assert_allclose(fit.fixef, line[::-1], rtol=1e-9)
    without = slm.lmm("y ~ 0 + rw2(0 + x)", data)
    np.testing.assert_allclose(without.ranef()["x"]["rw2(x)"], np.polyval(line, data["x"]), rtol=1e-9)


def test_groups_of_unknown_parents():
    """Westell, Quaas & Van Vleck (1988): the same as the groups' contributions Q among X, animals by A^-1."""
    rng = np.random.default_rng(9)
    n = 60
    sire = [None] * 10 + [int(s) for s in rng.integers(0, 5, n - 10)]
    dam = [None] * 10 + [int(d) for d in rng.integers(5, 10, n - 10)]
    P = slm.Pedigree(range(n), sire, dam, groups=["a" if i % 3 else "b" for i in range(n)])
    plain = slm.Pedigree(range(n), sire, dam)
    data = pd.DataFrame({"id": np.repeat(np.arange(n), 2), "x": rng.normal(size=2 * n)})
    data["y"] = data["x"] + rng.normal(size=n)[data["id"]] + rng.normal(size=2 * n)
    fit = slm.lmm("y ~ 0 + x + ped(1 | id, P)", data, context={"P": P})
    Q = P.group_contributions().loc[data["id"]].reset_index(drop=True)
    other = slm.lmm("y ~ 0 + x + a + b + ped(1 | id, P)", pd.concat([data, Q], axis=1), context={"P": plain})
    assert fit.sigma == pytest.approx(other.sigma, rel=1e-6)
    np.testing.assert_allclose(fit.varpar, other.varpar, rtol=1e-5)
    u = fit.ranef()["id"]["ped(Intercept)"]
    expected = P.group_contributions() @ other.fixef[["a", "b"]] + other.ranef()["id"]["ped(Intercept)"]
    np.testing.assert_allclose(u.loc[list(range(n))], expected.loc[list(range(n))], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(u.loc[["a", "b"]], other.fixef[["a", "b"]], rtol=1e-5, atol=1e-6)


def test_two_columns_that_are_nearly_one_within_a_null_space():
    """x is 1 to six digits: beside the walk's own constant the later of the two is dropped, as beside an intercept."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"t": np.arange(60) % 12, "x": 1.0 + 1e-6 * rng.normal(size=60)})
    table["y"] = np.sin(table.t) + 0.3 * rng.normal(size=60)
    fit, plain = (slm.lmm(f"y ~ {fixed} + rw2(0 + t)", table) for fixed in ("x", "1"))
    assert fit.dropped_columns == ("x",)
    np.testing.assert_allclose(fit.fitted, plain.fitted, atol=1e-8)  # two searches
    assert fit.leverage().max() < 1.0
