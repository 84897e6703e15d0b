"""A series whose variance is zero: an exact edge, where its correlation has no meaning."""

import numpy as np
import pytest

import sparselmm as slm

DEVIANCE_RTOL = 1e-10  # two computations of one number


@pytest.fixture(scope="module")
def fit():
    return slm.lmm("Reaction ~ Days + ar1(0 + Days)", slm.load_dataset("sleepstudy"))


def test_variance_is_exactly_zero(fit):
    assert fit.converged
    assert fit.is_singular
    assert fit.varpar["sd_ar1(Days)|Days"] == 0.0
    assert not fit.ranef()["Days"].to_numpy().any()


def test_criterion_is_that_of_least_squares(fit):
    X, y = fit.spec.X, fit.spec.y
    r2, nu = np.linalg.lstsq(X, y)[1][0], len(y) - X.shape[1]
    expected = np.linalg.slogdet(X.T @ X)[1] + nu * (1 + np.log(2 * np.pi * r2 / nu))
    assert fit.deviance == pytest.approx(expected, rel=DEVIANCE_RTOL)


def test_score_of_the_correlation_is_zero_there(fit):
    score = fit.likelihood.derivatives(np.array([0.0, 1.0])).gradient
    assert score[1] == 0.0


def test_correlation_has_no_standard_error(fit):
    assert np.isnan(fit.varpar_se["rho_ar1(Days)|Days"])
    assert "rho_ar1(Days)|Days" in fit.summary()
