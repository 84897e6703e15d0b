"""Every start ends at one optimum: variance ratios from 1e-5 to 1e5, correlations from -0.9 to 0.99."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize, nnls

import sparselmm as slm
from sparselmm import start as starting
from sparselmm.dense import DenseLikelihood
from sparselmm.start import nonnegative
from tests.herdbook import herd_book

SAME = 1e-8  # relative: one optimum from different starts
DENSE = 1e-9  # relative: one criterion in two ways
ROOTS = [3e-3, 0.1, 1.0, 10.0, 3e2]  # T, the root of a ratio: 1e-5 to 1e5
FAMILIES, SIZE = 25, 5


def kinship():
    """Two unrelated parents and their children, a block a family."""
    block = np.full((SIZE, SIZE), 0.5)
    block[0, 1] = block[1, 0] = 0.0
    np.fill_diagonal(block, 1.0)
    return np.kron(np.eye(FAMILIES), block)


@pytest.fixture(scope="module")
def relatives():
    """Family beside kinship, simulated without a family effect, two records a person."""
    rng, K = np.random.default_rng(10), kinship()
    n = FAMILIES * SIZE
    person = np.repeat(np.arange(n), 2)
    b = np.linalg.cholesky(K) @ rng.normal(size=n)
    data = pd.DataFrame({"id": person, "family": person // SIZE, "x": rng.normal(size=2 * n)})
    data["y"] = 1 + 0.5 * data.x + b[person] + rng.normal(size=2 * n)
    context = {"K": slm.Known(K, kind="covariance")}
    return slm.LinearMixedModel("y ~ x + (1 | family) + known(1 | id, K)", data, context=context)


@pytest.fixture(scope="module", params=[True, False], ids=["REML", "ML"])
def best(request, relatives):
    """The fit, and that its family variance is zero by the n x n criterion: no pair of ratios is lower."""
    fit, dense = relatives.fit(reml=request.param), DenseLikelihood(relatives.spec)
    assert dense(fit.theta.to_numpy(), reml=fit.reml).deviance == pytest.approx(fit.deviance, rel=DENSE)
    criterion = lambda T: dense(np.abs(T), reml=fit.reml).deviance  # noqa: E731
    for start in ([0.5, 0.5], [0.1, 1.5]):
        found = minimize(criterion, start, method="Nelder-Mead", options={"xatol": 1e-4, "fatol": 1e-6, "maxiter": 60})
        assert found.fun >= fit.deviance - 1e-6
    return fit


def test_family_variance_is_zero(best):
    assert best.converged and best.is_singular
    assert best.varpar["sd_Intercept|family"] == 0.0
    assert best.varpar["sd_known(Intercept)|id"] > 0.5


@pytest.mark.parametrize("roots", list(itertools.product(ROOTS, repeat=2)), ids=str)
def test_family_beside_kinship_from_anywhere(relatives, best, roots):
    fit = relatives.fit(reml=best.reml, start=np.array(roots))
    assert fit.converged and fit.method == "newton"
    assert fit.deviance == pytest.approx(best.deviance, rel=SAME)
    assert fit.varpar["sd_Intercept|family"] == 0.0


@pytest.fixture(scope="module")
def crossed():
    """AR(1) within 25 series of 12 times beside a crossed factor."""
    rng, m, length = np.random.default_rng(8), 25, 12
    g, t = np.repeat(np.arange(m), length), np.tile(np.arange(length), m)
    u = np.empty((m, length))
    u[:, 0] = rng.normal(size=m)
    for i in range(1, length):
        u[:, i] = 0.7 * u[:, i - 1] + np.sqrt(1 - 0.49) * rng.normal(size=m)
    data = pd.DataFrame({"g": g, "t": t, "h": rng.integers(0, 10, len(g))})
    data["y"] = u.ravel() + 0.5 * rng.normal(size=10)[data.h] + rng.normal(size=len(g))
    model = slm.LinearMixedModel("y ~ 1 + (1 | h) + ar1(0 + t | g)", data)
    return model, model.fit()


@pytest.mark.parametrize("roots", list(itertools.product([0.01, 1.0, 100.0], repeat=2)), ids=str)
@pytest.mark.parametrize("rho", [-0.9, 0.0, 0.6, 0.99])
def test_ar1_beside_crossed_from_anywhere(crossed, roots, rho):
    model, best = crossed
    fit = model.fit(start=np.array([*roots, np.arctanh(rho)]))
    assert fit.converged
    assert fit.deviance == pytest.approx(best.deviance, rel=SAME)


EXTREMES = [3e-3, 1.0, 3e2]  # roots of ratios of 1e-5, 1 and 1e5


def herds(seed, permanent):
    """Records of a herd book with breeding values and, or without, a permanent environment; no effect of families."""
    data, P = herd_book(150, 12, 3)
    rng, animal = np.random.default_rng(seed), P.index(data.animal)
    b = np.linalg.cholesky(P.relationship(P.ids).to_numpy()) @ rng.normal(size=len(P))
    lasting = permanent * rng.normal(size=len(P))
    return data.assign(
        y=b[animal] + lasting[animal] + 0.5 * (data.herd % 3) + 1.2 * rng.normal(size=len(data)),
        family=animal // 4,
        x=rng.normal(size=len(data)),
    ), {"P": P}


def panel(seed):
    """Six series of a smooth walk and a crossed factor with slopes."""
    rng, n = np.random.default_rng(seed), 200
    data = pd.DataFrame({"g": rng.integers(0, 6, n), "t": rng.integers(0, 15, n), "h": rng.integers(0, 12, n)})
    data["x"] = rng.normal(size=n)
    walk = 0.1 * rng.normal(size=(6, 15)).cumsum(1).cumsum(1)
    slopes = rng.normal(size=(2, 12))
    data["y"] = walk[data.g, data.t] + slopes[0, data.h] + data.x * slopes[1, data.h] + 0.7 * rng.normal(size=n)
    return data, {}


def plots(seed):
    """A field of 10 x 12 plots with varieties."""
    rng = np.random.default_rng(seed)
    data = pd.DataFrame(itertools.product(range(10), range(12)), columns=["row", "col"])
    correlation = [r ** np.abs(np.subtract.outer(np.arange(k), np.arange(k))) for r, k in ((0.6, 10), (0.4, 12))]
    field = np.kron(*map(np.linalg.cholesky, correlation)) @ rng.normal(size=120)
    data["v"] = rng.integers(0, 15, 120)
    return data.assign(y=field + 0.7 * rng.normal(size=15)[data.v] + 0.7 * rng.normal(size=120)), {}


FREE = np.arctanh(0.5)  # the correlation that a search starts from; others may lie beside another optimum
SHAPES = {  # table, formula, where ratios stand in theta, the others of theta, a variance that is zero
    "family beside a pedigree": (herds(8, 0.0), "x + (1 | family) + ped(1 | animal, P)", [0, 1], [], "family"),
    "permanent environment and herds": (
        herds(6, 0.8), "x + ped(1 | animal, P) + (1 | animal) + (1 | herd)", [0, 1, 2], [], "",
    ),
    "no permanent environment": (
        herds(8, 0.0), "x + ped(1 | animal, P) + (1 | animal) + (1 | herd)", [0, 1, 2], [], "Intercept|animal",
    ),
    "curves of groups, crossed": (panel(1), "x + rw2(0 + t | g) + (1 | h)", [0, 1], [], ""),
    "slopes of two factors": (panel(1), "x + (1 + x | h) + (1 + x | g)", [0, 2, 3, 5], [1, 4], ""),
    "product of series": (plots(1), "1 + ar1(0 + row):ar1(0 + col) + (1 | v)", [0, 3], [1, 2], ""),
}  # fmt: skip


@pytest.mark.parametrize("reml", [True, False], ids=["REML", "ML"])
@pytest.mark.parametrize("shape", SHAPES)
def test_any_ratios_end_at_one_optimum(shape, reml):
    (data, context), formula, ratios, others, zero = SHAPES[shape]
    model = slm.LinearMixedModel(f"y ~ {formula}", data, context=context)
    best = model.fit(reml=reml)
    assert best.converged
    if zero:
        assert [name for name, value in best.varpar.items() if value == 0.0 and zero in name]
    for roots in itertools.product(EXTREMES if len(ratios) < 4 else EXTREMES[::2], repeat=len(ratios)):
        start = np.zeros(len(best.theta))
        start[ratios], start[others] = roots, FREE if "ar1" in formula else 0.0
        fit = model.fit(reml=reml, start=start)
        assert fit.converged, roots
        assert fit.deviance == pytest.approx(best.deviance, rel=SAME), roots


def test_a_start_far_beyond_the_range():
    """A variance ratio of 1e10, from which Newton's method alone would take its 50 iterations."""
    model = slm.LinearMixedModel("Reaction ~ Days + (1 | Subject)", slm.load_dataset("sleepstudy"))
    fit, far = model.fit(), model.fit(start=np.array([1e5]))
    assert far.converged and far.n_iter <= 15
    assert far.deviance == pytest.approx(fit.deviance, rel=SAME)


def test_sigma_held_beside_two_correlations():
    """The start is cut down there too; from T = 10 the search ended 126 higher, at correlations of -1."""
    rng = np.random.default_rng(0)
    data = pd.DataFrame(itertools.product(range(12), range(15)), columns=["row", "col"])
    data["y"] = rng.normal(size=180) + rng.normal(size=12)[data.row]
    model = slm.LinearMixedModel("y ~ 1 + ar1(0 + row):ar1(0 + col)", data)
    fit, free = model.fit(fixed={"sigma": 1.0}), model.fit()
    at_free = model.likelihood(free.theta.to_numpy(), sigma=1.0).deviance
    assert fit.converged and free.deviance <= fit.deviance <= at_free


@pytest.mark.parametrize("n", [1, 2, 3, 6, 12])
def test_nonnegative_least_squares_as_scipy_solves_them(n):
    rng = np.random.default_rng(n)
    for _ in range(200):
        A, b = rng.normal(size=(n, n)), rng.normal(size=n)
        A = A @ A.T if rng.random() < 0.5 else np.abs(A)
        x = nonnegative(A, b)
        assert (x >= 0.0).all()
        assert np.linalg.norm(A @ x - b) == pytest.approx(nnls(A, b)[1], rel=DENSE, abs=DENSE)


def test_a_start_from_relationships_is_minque_at_zero(monkeypatch):
    """Rao's (1971) equations with dense K = ZAZ' and P: e'K_k e = sum tr(K_k P K_l P) s_l; traces by many signs."""
    monkeypatch.setattr(starting, "PROBES", 4000)
    data, P = herd_book()
    data = data.assign(y=data.y + 2.0 * (data.herd % 3))
    spec = slm.LinearMixedModel("y ~ 1 + (1 | herd) + ped(1 | animal, P)", data, context={"P": P})
    ours = np.concatenate(starting.moment_ratios(spec.likelihood))
    animals = P.index(data.animal)
    A = P.relationship(P.ids).to_numpy()[np.ix_(animals, animals)]
    herd = np.equal.outer(data.herd.to_numpy(), data.herd.to_numpy()).astype(float)
    n, y = len(data), data.y.to_numpy()
    off = np.eye(n) - 1.0 / n
    kernels = [herd, A, np.eye(n)]
    expected = np.array([[np.trace(K @ off @ L @ off) for L in kernels] for K in kernels])
    found = np.array([(off @ y) @ K @ (off @ y) for K in kernels])
    herds = np.sum(herd**2), np.trace(herd)  # our equation of the herds is without P
    expected[0], expected[2, 0] = (herds[0], expected[0, 1], herds[1]), herds[1]
    s = np.linalg.solve(expected, found)
    assert (s > 0).all()
    np.testing.assert_allclose(ours, np.clip(s[:2] / s[2], starting.FLOOR, starting.CEILING), rtol=0.1)


def test_relationships_start_a_fit_next_to_its_end():
    """On 2,000 animals of a model that holds the moments come within a few standard errors; equal variances do not."""
    data, P = herd_book(2000, 100, 4)
    rng, animal = np.random.default_rng(8), P.index(data.animal)
    b = np.linalg.cholesky(P.relationship(P.ids).to_numpy()) @ rng.normal(size=len(P))
    data = data.assign(y=0.5 * b[animal] + rng.normal(size=len(data)))
    model = slm.LinearMixedModel("y ~ 1 + (1 | herd) + ped(1 | animal, P)", data, context={"P": P})
    start, far = model.fit(), model.fit(start=[1.0, 1.0])
    assert start.estimate.optimum.log[0].gradient_norm < 5.0 < far.estimate.optimum.log[0].gradient_norm
    assert start.deviance == pytest.approx(far.deviance, rel=SAME)


# --- a step in the precisions -----------------------------------------------------------------------------


def _precision(theta):
    """G^-1 as a vector, G = T T' for T lower triangular 2 x 2."""
    T = np.array([[theta[0], 0.0], [theta[1], theta[2]]])
    return np.linalg.inv(T @ T.T)[np.tril_indices(2)]


def test_step_is_straight_in_the_precision():
    """Newton's step in the entries of G^-1, with n x n matrices and a Jacobian by differences."""
    rng = np.random.default_rng(8)
    g, x = np.repeat(np.arange(15), 6), rng.normal(size=90)
    b = rng.normal(size=(15, 2)) * [1.0, 0.7]
    data = pd.DataFrame({"g": g, "x": x, "y": b[g, 0] + b[g, 1] * x + rng.normal(size=90)})
    likelihood = slm.LinearMixedModel("y ~ x + (x | g)", data).likelihood
    theta = np.array([0.9, 0.1, 0.6])
    likelihood(theta)
    roots = starting._straight_in_precisions(likelihood, theta, likelihood.derivatives(theta))
    T = np.linalg.solve(likelihood.bases[0], roots[0])
    at = DenseLikelihood(likelihood.spec).derivatives(theta)
    step = 1e-6 * np.eye(3)
    J = np.linalg.inv(np.array([(_precision(theta + e) - _precision(theta - e)) / 2e-6 for e in step]).T)
    moved = _precision(theta) - np.linalg.solve(J.T @ at.information @ J, J.T @ at.gradient)
    np.testing.assert_allclose(np.linalg.inv(T @ T.T)[np.tril_indices(2)], moved, rtol=1e-6)


def test_start_of_insteval_is_near():
    """A step of EM from the same moments is 1.9 above the minimum."""
    fit = slm.lmm("y ~ service + (1 | s) + (1 | d) + (1 | dept)", slm.load_dataset("insteval"), reml=False)
    theta, steps = starting.starting_theta(fit.likelihood, reml=False)
    assert steps == 1
    assert fit.likelihood(theta, reml=False).deviance < fit.deviance + 0.1
    assert fit.estimate.n_factorisations <= 5


def test_step_that_has_no_end_is_not_taken():
    """From a ratio of a thousandth the step would make the variance negative in the precision."""
    rng = np.random.default_rng(9)
    g = np.repeat(np.arange(30), 5)
    data = pd.DataFrame({"g": g, "y": 3.0 * rng.normal(size=30)[g] + rng.normal(size=150)})
    likelihood = slm.LinearMixedModel("y ~ 1 + (1 | g)", data).likelihood
    theta = np.array([0.03])
    likelihood(theta)
    assert starting._straight_in_precisions(likelihood, theta, likelihood.derivatives(theta)) is None
