"""Searches among unstructured covariances whose first effects hardly vary: a valley along a circle in a lower T."""

import numpy as np
import pandas as pd
import pytest

import sparselmm as slm
from sparselmm.charts import FreeChart
from sparselmm.dense import DenseLikelihood
from sparselmm.likelihood import Likelihood
from sparselmm.optimize import Options
from sparselmm.structures import check_covariance
from sparselmm.structures.turned import Turned
from sparselmm.turning import turned, turned_back

CRITERION_RTOL = 1e-11  # one criterion in two sets of coordinates
DENSE_RTOL = 1e-9  # by two factorisations
GRADIENT = 1e-5  # central differences, relative to the largest
FEW = 10  # iterations: in a lower T such searches took 50 and did not converge


def slopes_without_intercepts(seed, groups=50, n=1000):
    """A slope for each group and no intercept, crossed with another factor; covariates far from zero."""
    rng = np.random.default_rng(seed)
    g, k = rng.choice(groups, n, p=rng.dirichlet(np.ones(groups))), rng.integers(0, 8, n)
    x = rng.normal(size=n) + 3.0
    y = x + rng.normal(size=n) + rng.normal(size=8)[k] + 3.0 * rng.normal(size=groups)[g] * x
    return pd.DataFrame({"y": y, "x": x, "g": g, "k": k})


def three_effects(n=240):
    """Effects of which the last varies most and the first not at all."""
    rng = np.random.default_rng(3)
    g = rng.integers(0, 20, n)
    x, z = rng.normal(size=n), rng.normal(size=n)
    b = rng.normal(size=20)
    return pd.DataFrame({"y": 0.3 * b[g] * x + 2.0 * b[g] * z + rng.normal(size=n), "x": x, "z": z, "g": g})


@pytest.mark.parametrize("reml", [True, False], ids=["REML", "ML"])
@pytest.mark.parametrize("seed", range(6))
def test_valley_along_a_circle(seed, reml):
    data = slopes_without_intercepts(seed)
    fit = slm.lmm("y ~ x + (x | g) + (1 | k)", data, reml=reml)
    assert fit.converged and fit.estimate.optimum.method == "newton"
    assert fit.n_iter <= FEW
    dense = DenseLikelihood(fit.spec)
    assert dense(fit.theta.to_numpy(), reml=reml).deviance == pytest.approx(fit.deviance, rel=DENSE_RTOL)
    rng = np.random.default_rng(seed)
    for size in (1e-3, 1e-1):
        for _ in range(10):
            there = fit.theta.to_numpy() + size * rng.normal(size=len(fit.theta))
            assert dense(there, reml=reml).deviance >= fit.deviance - DENSE_RTOL * abs(fit.deviance)


@pytest.mark.parametrize("engine", ["auto", "dense"])
def test_order_of_the_effects_does_not_matter(engine):
    data = three_effects().assign(one=1.0)
    orders = "1 + x + z", "0 + z + x + one"
    fits = [slm.lmm(f"y ~ x + z + ({left} | g)", data, engine=engine) for left in orders]
    assert fits[0].deviance == pytest.approx(fits[1].deviance, abs=1e-8)
    assert all(fit.converged for fit in fits)
    assert fits[0].varpar["sd_z|g"] == pytest.approx(fits[1].varpar["sd_z|g"], rel=1e-6)


def test_estimate_is_in_the_coordinates_of_the_model():
    fit = slm.lmm("y ~ x + (x | g) + (1 | k)", slopes_without_intercepts(0))
    estimate, theta = fit.estimate, fit.theta.to_numpy()
    assert isinstance(estimate.chart, FreeChart)
    np.testing.assert_allclose(estimate.chart.model(estimate.optimum.x)[0], theta, rtol=1e-12, atol=1e-15)
    gradient, hessian = estimate.chart.pull_back(estimate.optimum.x, estimate.derivatives)
    np.testing.assert_array_equal(estimate.optimum.gradient, gradient)
    np.testing.assert_array_equal(estimate.optimum.hessian, hessian)
    assert fit.likelihood(theta).deviance == fit.deviance


@pytest.mark.parametrize("criterion", [Likelihood, DenseLikelihood])
def test_same_criterion_and_its_own_gradient(criterion):
    spec = slm.LinearMixedModel("y ~ x + z + (x + z | g)", three_effects()).spec
    likelihood = criterion(spec)
    theta = np.array([0.01, 0.02, -0.3, 0.4, 0.1, 1.5])
    expected = likelihood(theta).deviance
    other, x = turned(likelihood, theta)
    assert other is not likelihood
    assert other(x).deviance == pytest.approx(expected, rel=CRITERION_RTOL)
    gradient, step = other.derivatives(x).gradient, 1e-5
    differences = [(other(x + e).deviance - other(x - e).deviance) / (2 * step) for e in step * np.eye(len(x))]
    np.testing.assert_allclose(gradient, differences, atol=GRADIENT * np.abs(gradient).max())
    np.testing.assert_allclose(turned_back(other, x, likelihood), theta, atol=1e-12)
    assert likelihood(theta).deviance == pytest.approx(expected, rel=CRITERION_RTOL)  # the engine is shared


def test_terms_in_order_stay_as_they_are():
    likelihood = slm.LinearMixedModel("y ~ x + z + (x + z | g)", three_effects()).likelihood
    for theta in ([2.0, 0.3, 0.1, 1.0, 0.2, 0.5], [1.0, 0.9, 0.8, 0.0, 0.0, 0.0], np.zeros(6)):
        assert turned(likelihood, np.array(theta))[0] is likelihood


@pytest.mark.parametrize("seed", range(3))
def test_contract_of_a_structure(seed):
    rng = np.random.default_rng(seed)
    basis = np.tril(rng.normal(size=(3, 3))) + 3.0 * np.eye(3)
    check_covariance(Turned(3, basis, np.linalg.qr(rng.normal(size=(3, 3)))[0]), seed=seed)


def test_budget_counts_both_searches():
    model = slm.LinearMixedModel("y ~ x + (x | g) + (1 | k)", slopes_without_intercepts(0))
    with pytest.warns(slm.SparselmmWarning, match="did not converge"):
        fit = model.fit(options=Options(max_iter=2, fallback=False))
    assert fit.estimate.optimum.n_iter <= 2
