"""Random walks against difference matrices, Lindgren & Rue's entries, dense pseudo-determinants and null spaces."""

import numpy as np
import pytest
import scipy.linalg

from sparselmm._errors import DataError
from sparselmm.structures.rw import RW1, RW2

from .precisions import DENSE, check, dense, pseudo_logdet

NONE = np.empty(0)
KNOTS = np.array([0.0, 0.3, 1.1, 1.5, 4.0, 4.2, 7.0])
SHORT = [np.array([0.0, 0.5, 2.0, 2.1, 3.0]), np.array([9.0]), np.array([1.0, 4.0]), np.array([-1.0, 0.0, 0.7])]


@pytest.mark.parametrize("walk", [RW1, RW2])
def test_contract(walk):
    check(walk(KNOTS, [7]))
    check(walk(np.concatenate(SHORT), [len(t) for t in SHORT]))


@pytest.mark.parametrize(("walk", "order"), [(RW1, 1), (RW2, 2)])
@pytest.mark.parametrize("h", [1.0, 0.25])
def test_equal_spacing_is_the_usual_difference_penalty(walk, order, h):
    """D'D of order-th differences; innovations of variance h (rw1) and h^3 (rw2)."""
    D = np.diff(np.eye(8), order, axis=0)
    Q = dense(walk(5.0 + h * np.arange(8), [8]), NONE)
    np.testing.assert_allclose(Q * h ** (2 * order - 1), D.T @ D, atol=1e-12)


def test_rw1_is_the_markov_chain_of_a_wiener_process():
    """Increments of the states are independent with variances the gaps: D Q^+ D' = diag(gaps)."""
    D = np.diff(np.eye(7), axis=0)
    covariance = np.linalg.pinv(dense(RW1(KNOTS, [7]), NONE))
    np.testing.assert_allclose(D @ covariance @ D.T, np.diag(np.diff(KNOTS)), atol=DENSE)


def lindgren_rue(knots):
    """The entries of Q as printed in section 3 of Lindgren & Rue (2008), gaps beyond the ends being infinite."""
    n = len(knots)
    d = dict.fromkeys(range(-2, n + 2), np.inf) | dict(enumerate(np.diff(knots)))
    Q = np.zeros((n, n))
    for i in range(n):
        Q[i, i] = (
            2 / (d[i - 1] ** 2 * (d[i - 2] + d[i - 1]))
            + 2 / (d[i - 1] * d[i]) * (1 / d[i - 1] + 1 / d[i])
            + 2 / (d[i] ** 2 * (d[i] + d[i + 1]))
        )
        if i > 0:
            Q[i, i - 1] = Q[i - 1, i] = -2 / d[i - 1] ** 2 * (1 / d[i - 2] + 1 / d[i])
        if i > 1:
            Q[i, i - 2] = Q[i - 2, i] = 2 / (d[i - 2] * d[i - 1] * (d[i - 2] + d[i - 1]))
    return Q


def test_rw2_has_the_entries_of_lindgren_and_rue():
    np.testing.assert_allclose(dense(RW2(KNOTS, [7]), NONE), lindgren_rue(KNOTS), rtol=1e-12, atol=1e-9)


def test_rw2_over_fine_knots_is_the_smoothing_spline():
    """u'Qu tends to the integral of u''(t)^2: for u = t^3 over [0, 1], 36/3; the sum skips half a step at each end."""
    t = np.append(0.0, np.cumsum(np.random.default_rng(4).uniform(0.5, 1.5, 1000)))
    t /= t[-1]
    np.testing.assert_allclose(t**3 @ dense(RW2(t, [len(t)]), NONE) @ t**3, 12.0, rtol=2 / len(t))


@pytest.mark.parametrize(("walk", "order"), [(RW1, 1), (RW2, 2)])
def test_null_space_is_that_of_polynomials(walk, order):
    precision = walk(np.concatenate(SHORT), [len(t) for t in SHORT])
    Q, N = dense(precision, NONE), precision.null_space().toarray()
    assert N.shape == (11, precision.null_dim)
    assert np.abs(Q @ N).max() < 1e-12 * np.abs(Q).max()
    size = 0
    for part, t in zip(np.split(N, [5, 6, 8]), SHORT, strict=True):
        used = part[:, part.any(axis=0)]
        np.testing.assert_allclose(used.T @ used, np.eye(used.shape[1]), atol=1e-12)
        polynomials = np.vander(t, order, increasing=True)
        np.testing.assert_allclose(used @ (used.T @ polynomials), polynomials, atol=1e-12)
        size += used.shape[1]
    assert size == precision.null_dim


def test_logdet_of_small_walks_by_hand():
    """Path Laplacian of T nodes: product of nonzero eigenvalues T; (1, -2, 1) has 6."""
    assert RW1(np.arange(7), [7]).logdet(NONE) == pytest.approx(np.log(7), rel=1e-15)
    assert RW2(np.arange(3), [3]).logdet(NONE) == pytest.approx(np.log(6), rel=1e-15)


def test_logdet_is_right_far_from_zero_and_for_long_series():
    times = 2e9 + np.cumsum(np.random.default_rng(2).uniform(0.5, 2.0, 60))
    precision = RW2(times, [60])
    np.testing.assert_allclose(precision.logdet(NONE), pseudo_logdet(dense(precision, NONE), 2), rtol=1e-7)


@pytest.mark.parametrize("walk", [RW1, RW2])
def test_series_stand_apart(walk):
    two = dense(walk(np.append(KNOTS, KNOTS[:4]), [7, 4]), NONE)
    parts = dense(walk(KNOTS, [7]), NONE), dense(walk(KNOTS[:4], [4]), NONE)
    np.testing.assert_array_equal(two, scipy.linalg.block_diag(*parts))


@pytest.mark.parametrize(("walk", "lengths", "least"), [(RW1, [1, 1], 2), (RW2, [2, 2], 3)])
def test_too_few_knots_are_refused(walk, lengths, least):
    with pytest.raises(DataError, match=f"with {least} distinct times"):
        walk(np.tile(np.arange(lengths[0]), 2), lengths)


@pytest.mark.parametrize("walk", [RW1, RW2])
def test_equal_knots_are_refused(walk):
    with pytest.raises(DataError, match="increase"):
        walk([0.0, 1.0, 1.0, 2.0], [4])


def test_knots_that_are_too_close_are_refused():
    with pytest.raises(DataError, match="1e-08 apart where they span 10.*Round the times: 2 decimals"):
        RW2([0.0, 1.0, 1.0 + 1e-8, 10.0], [4])
