"""Seed 3's two examples of biased ML variances, answered by the dense engine and by the closed forms.

sigma^2_hat = y'Py/nu, so E sigma^2_hat = sigma^2 tr(P)/nu, exactly: tr(P) comes from unit vectors.
"""

import numpy as np
import pytest

from sparselmm.closed_form import general_linear_model
from sparselmm.engines.dense import DenseMarginal

RTOL = 1e-12  # sums of a few dozen squares


def sigma2(y, X, reml):
    return DenseMarginal(y, X, []).evaluate([], reml=reml).sigma ** 2


def expected_ratio(X, reml):
    """E sigma^2_hat / sigma^2 = tr(P)/nu for y ~ N(X beta, sigma^2 I)."""
    fits = [DenseMarginal(e, X, []).evaluate([], reml=reml, sigma=1.0) for e in np.eye(len(X))]
    return sum(f.r2 for f in fits) / fits[0].nu


def variance_ratio(X, reml):
    """var(sigma^2_hat)/sigma^4 = 2 tr(PP)/nu^2 = 2 tr(P)/nu^2: P is a projection."""
    nu = len(X) - (X.shape[1] if reml else 0)
    return 2 * expected_ratio(X, reml) / nu


def test_simple_normal_sample():
    """Exercises 4 and 9: REML is s^2; ML is biased by (n-1)/n; var s^2 = 2/(n-1), var ML = 2(n-1)/n^2."""
    n = 14
    y, X = np.random.default_rng(1).normal(10, 3, n), np.ones((n, 1))
    assert sigma2(y, X, reml=True) == pytest.approx(np.var(y, ddof=1), rel=RTOL)
    assert sigma2(y, X, reml=False) == pytest.approx(np.var(y), rel=RTOL)
    assert general_linear_model(y, X).Sigma[0, 0] == pytest.approx(np.var(y), rel=RTOL)
    assert expected_ratio(X, reml=True) == pytest.approx(1.0, rel=RTOL)
    assert expected_ratio(X, reml=False) == pytest.approx((n - 1) / n, rel=RTOL)
    assert variance_ratio(X, reml=True) == pytest.approx(2 / (n - 1), rel=RTOL)
    assert variance_ratio(X, reml=False) == pytest.approx(2 * (n - 1) / n**2, rel=RTOL)


@pytest.mark.parametrize("k", [3, 20])
def test_neyman_scott(k):
    """Exercise 5: y_ij = xi_i + e_ij, j = 1, 2. With d_i = y_i1 - y_i2: REML sum d^2/(2k), ML half of it.

    ML tends to sigma^2/2 however large k is; var REML = 2/k, var ML = 1/(2k), in units of sigma^4.
    """
    y = np.random.default_rng(k).normal(size=(k, 2)) + 10 * np.arange(k)[:, None]
    d, X = y[:, 0] - y[:, 1], np.kron(np.eye(k), np.ones((2, 1)))
    assert sigma2(y.ravel(), X, reml=True) == pytest.approx(d @ d / (2 * k), rel=RTOL)
    assert sigma2(y.ravel(), X, reml=False) == pytest.approx(d @ d / (4 * k), rel=RTOL)
    assert general_linear_model(y.ravel(), X).Sigma[0, 0] == pytest.approx(d @ d / (4 * k), rel=RTOL)
    assert expected_ratio(X, reml=True) == pytest.approx(1.0, rel=RTOL)
    assert expected_ratio(X, reml=False) == pytest.approx(0.5, rel=RTOL)
    assert variance_ratio(X, reml=True) == pytest.approx(2 / k, rel=RTOL)
    assert variance_ratio(X, reml=False) == pytest.approx(1 / (2 * k), rel=RTOL)
