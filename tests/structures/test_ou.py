"""Ornstein-Uhlenbeck against the inverse of exp(-kappa |t - s|), and against AR(1) where the gaps are 1."""

import numpy as np
import pytest
import scipy.linalg

from sparselmm._errors import DataError, ModelError
from sparselmm.structures.ar1 import AR1
from sparselmm.structures.ou import OU
from sparselmm.structures.residual_serial import OUResidual
from sparselmm.structures.rw import RW1

from .precisions import DENSE, check, dense

SERIES = [np.array([0.1, 0.7, 3.0, 3.2]), np.array([5.0]), np.array([-2.0, 1.0])]
TIMES, LENGTHS = np.concatenate(SERIES), [4, 1, 2]


def covariance(kappa):
    return scipy.linalg.block_diag(*[np.exp(-kappa * np.abs(np.subtract.outer(t, t))) for t in SERIES])


def test_contract():
    check(OU(TIMES, LENGTHS), [-2.0], [0.0], [1.5])


@pytest.mark.parametrize("kappa", [0.01, 0.5, 1.0, 20.0])
def test_is_the_inverse_of_the_exponential_covariance(kappa):
    Q = dense(OU(TIMES, LENGTHS), np.log([kappa]))
    np.testing.assert_allclose(Q @ covariance(kappa), np.eye(7), atol=DENSE)


def test_unit_gaps_are_ar1():
    a = 0.6
    ou, ar1 = OU(np.arange(9.0), [5, 4]), AR1([5, 4])
    rho = np.log([-np.log(a)])
    np.testing.assert_allclose(ou.values(rho), ar1.values(np.arctanh([a])), rtol=1e-12)
    np.testing.assert_allclose(ou.logdet(rho), ar1.logdet(np.arctanh([a])), rtol=1e-12)


def test_start_is_one_over_the_median_gap():
    np.testing.assert_allclose(OU(TIMES, LENGTHS).to_natural(OU(TIMES, LENGTHS).start()), [1 / 1.45])


def test_far_apart_the_states_are_independent():
    ou = OU(np.array([0.0, 1.0, 1e6]), [3])
    for x in (10.0, 300.0):
        np.testing.assert_array_equal(ou.values(np.array([x])), [1, 1, 1, 0, 0])
        assert ou.logdet(np.array([x])) == 0.0
        assert not ou.gradient(np.array([x])).any() and not ou.logdet_gradient(np.array([x])).any()


def test_close_together_keeps_its_digits():
    """At u = kappa d -> 0: 1/expm1(2u) + 1 = 1/(2u) + 1/2, 1/(2 sinh u) = 1/(2u), log(1 - f^2) = log 2u - u."""
    ou, u = OU(np.array([0.0, 1.0]), [2]), 1e-9
    rho = np.log([u])
    np.testing.assert_allclose(ou.values(rho), [1 / (2 * u) + 0.5, 1 / (2 * u) + 0.5, -1 / (2 * u)], rtol=1e-15)
    np.testing.assert_allclose(ou.logdet(rho), -np.log(2 * u) + u, rtol=1e-15)
    np.testing.assert_allclose(ou.gradient(rho)[0] * 2 * u, [-1, -1, 1], rtol=1e-12)


def test_names_and_range():
    ou = OU(TIMES, LENGTHS)
    assert ou.natural_names("ou(t)", "g") == ("kappa_ou(t)|g",)
    for bad in (-1.0, np.nan):
        with pytest.raises(ModelError, match="rate is not negative"):
            ou.from_natural(np.array([bad]))


def test_the_limits_are_the_ends_of_the_coordinate():
    """kappa = 0: one number a series; infinite: independent levels, exactly."""
    ou = OU(TIMES, LENGTHS)
    zero, infinite = (ou.from_natural(np.array([kappa])) for kappa in (0.0, np.inf))
    assert (ou.to_natural(zero), ou.to_natural(infinite)) == ([0.0], [np.inf])
    same = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
    np.testing.assert_allclose(np.linalg.inv(dense(ou, zero)), 1.0 * (same[:, None] == same), atol=1e-5)
    np.testing.assert_allclose(dense(ou, infinite), np.eye(len(TIMES)), atol=1e-15)


def test_series_of_one_time_each_are_refused():
    with pytest.raises(DataError, match="ou needs a series with 2 distinct times"):
        OU([1.0, 2.0], [1, 1])


def test_times_that_do_not_increase_are_refused():
    with pytest.raises(DataError, match="increase"):
        OU([1.0, 1.0], [2])


def test_times_that_differ_by_rounding_are_refused():
    """0.1 + 0.2 beside 0.3: equations that were not positive definite, at 1/gap = 2e16."""
    with pytest.raises(DataError, match="ou: two times are 5.55e-17 apart where they span 0.9: .* to 7 decimals"):
        OU([0.1, 0.3, 0.1 + 0.2, 1.0], [4])
    with pytest.raises(DataError, match="rw1: two times are"):
        RW1([0.1, 0.3, 0.1 + 0.2, 1.0], [4])
    with pytest.raises(DataError, match="residual ou.*two rows have the time 0.3"):
        OUResidual([0.1, 0.3, 0.1 + 0.2, 1.0])
