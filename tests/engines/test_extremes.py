"""Every engine at random effects of no size, of nearly none, and of 1e5 residual standard deviations."""

import numpy as np
import pytest

from sparselmm.dense import DenseLikelihood
from sparselmm.engines import absorb, tails
from sparselmm.likelihood import Likelihood
from tests.problems import PROBLEMS

RTOL = 1e-9  # one number by the sparse equations and by n x n matrices
BACKWARD = 1e-14  # of a solve by Cholesky: a few q times the unit of rounding, 2e-16, whatever the condition
EPS = np.finfo(float).eps
ENGINES = ["auto", "absorb", "absorb, sparse tails", "supernodal", "cholmod"]


@pytest.fixture(params=ENGINES)
def likelihood(request, monkeypatch):
    """Maker of a likelihood by name of the problem."""
    if request.param == "absorb, sparse tails":
        monkeypatch.setattr(absorb, "SMALL_TAIL", 2)
        monkeypatch.setattr(absorb, "FILLED", 2.0)
        monkeypatch.setattr(tails, "PER_FLOP", 1.0)
    return lambda name: Likelihood(PROBLEMS[name].spec(), request.param.partition(",")[0])


def at(likelihood, size):
    """theta of standard deviations `size` times the residual's, for effects of unit size."""
    return size * np.linalg.solve(likelihood.scaling(), np.ones(likelihood.parameters.count))


@pytest.mark.parametrize("size", [0.0, 1e-5])
@pytest.mark.parametrize("name", PROBLEMS)
def test_small_effects_equal_dense(name, size, likelihood):
    sparse, dense = likelihood(name), DenseLikelihood(PROBLEMS[name].spec())
    theta = at(sparse, size)
    for reml in (False, True):
        a, b = sparse(theta, reml=reml), dense(theta, reml=reml)
        np.testing.assert_allclose([a.deviance, a.sigma], [b.deviance, b.sigma], rtol=RTOL)
        np.testing.assert_allclose(a.beta, b.beta, rtol=0, atol=RTOL * np.abs(b.beta).max(initial=0.0))
        for x, y in zip(a.b, b.b, strict=True):
            np.testing.assert_allclose(x, y, rtol=0, atol=RTOL * np.abs(y).max(initial=0.0))


@pytest.mark.parametrize("name", [name for name in PROBLEMS if name != "hcs"])  # there such a G is singular
def test_large_effects_are_as_exact_as_the_equations_allow(name, likelihood):
    """M is of order 1e10 where levels differ and of order 1 where they share a mean: n x n matrices do no better."""
    model = likelihood(name)
    theta, rows, cols = at(model, 1e5), *model.equations.places()
    values = model.equations.fill(model.products, model.factors(theta), model.precisions(theta))
    M = np.zeros((model.equations.q,) * 2)
    M[rows, cols] = M[cols, rows] = values
    engine = model.engine
    engine.factorize(values)
    right = np.random.default_rng(1).normal(size=(len(M), 2))
    x = engine.solve(right)
    assert np.abs(M @ x - right).max() <= BACKWARD * len(M) * np.abs(M).max() * np.abs(x).max()
    rounding = EPS * np.linalg.cond(M)  # 2e-15 for independent levels, up to 2e-4 where two terms share a mean
    assert engine.logdet() == pytest.approx(np.linalg.slogdet(M)[1], rel=RTOL, abs=rounding)
    inverse = np.linalg.inv(M)
    found = engine.selected_inverse(rows, cols)
    np.testing.assert_allclose(found, inverse[rows, cols], rtol=0, atol=max(RTOL, rounding) * np.abs(inverse).max())
