"""Every residual against dense matrices, and in models against the n x n likelihood and central differences."""

import pickle

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from sparselmm import DataError, EngineError, ModelError, RandomTerm
from sparselmm.dense import DenseLikelihood
from sparselmm.formula import build_spec
from sparselmm.likelihood import Likelihood
from sparselmm.structures import (
    AR1Residual,
    OUResidual,
    ProductResidual,
    Residual,
    UnstructuredResidual,
    VarIdentResidual,
    check_residual,
)
from sparselmm.terms import ModelSpec
from tests import naive

DENSE = 1e-9  # the inverse of an n x n matrix of condition 1e4
CRITERION = 1e-9  # two factorisations of one criterion
INFORMATION = 1e-7  # average information by both
DIFFERENCES = 1e-5  # central differences with step 1e-5 of a criterion of size 1e2

N = 84
RNG = np.random.default_rng(5)
SHUFFLE = RNG.permutation(N)
SERIES, STEP = np.repeat(np.arange(12), 7)[SHUFFLE], np.tile(np.arange(7), 12)[SHUFFLE]
VISIT = 7 * SERIES + STEP // 3
SINGLE = np.where(STEP == 0, 12 + SERIES, SERIES)  # every series loses its first row to a series of its own
REAL = STEP + RNG.uniform(0, 0.5, N)
STRATA = np.append([0, 1, 2], RNG.integers(0, 3, N - 3))
CROSSED = np.append(np.arange(6), RNG.integers(0, 6, N - 6))
X = np.column_stack([np.ones(N), RNG.normal(size=N)])
Y = X @ [1.0, 0.5] + RNG.normal(size=12)[SERIES] + RNG.normal(size=N)
WEIGHTS = np.exp(RNG.normal(size=N))


def members():
    """Several rows each: a sparse Z with one to three entries a row."""
    cols = np.column_stack([CROSSED, RNG.integers(0, 6, (N, 2))])
    return sp.csr_array((RNG.uniform(0.2, 1, 3 * N), (np.repeat(np.arange(N), 3), cols.ravel())), shape=(N, 6))


RESIDUALS = {
    "ar1": AR1Residual(STEP, SERIES),
    "ar1 of one series": AR1Residual(STEP + 9 * SERIES),
    "ar1 with gaps": AR1Residual(STEP * (1 + SERIES % 3) ** 2, SERIES),
    "ar1 with many gaps": AR1Residual(STEP * (1 + SERIES), SERIES),
    "ar1 with single rows": AR1Residual(STEP, SINGLE),
    "ou": OUResidual(REAL, SERIES),
    "ou on a grid": OUResidual(0.25 * STEP, SERIES),
    "varident": VarIdentResidual(STRATA),
    "ar1 * varident": ProductResidual(AR1Residual(STEP, SERIES), VarIdentResidual((STEP > 2).astype(int))),
    "ou * varident": ProductResidual(OUResidual(REAL, SERIES), VarIdentResidual(STRATA)),
    "us": UnstructuredResidual(STEP, SERIES),
    "us of two, with rows alone": UnstructuredResidual(STEP % 2, 4 * SERIES + STEP // 2),
    "us of three": UnstructuredResidual(STEP % 3, VISIT),
    "us of four, two never together": UnstructuredResidual(np.choose(STEP % 3, [0, 1 + SERIES % 2, 3]), VISIT),
}
TERMS = {
    "none": (),
    "intercept of the series": (RandomTerm(SERIES),),
    "slope and crossed": (RandomTerm(SERIES, columns=X), RandomTerm(CROSSED, name="h")),
    "sparse": (RandomTerm(members(), name="club"), RandomTerm(SERIES)),
}
every = pytest.mark.parametrize("residual", RESIDUALS.values(), ids=list(RESIDUALS))


def points(residual):
    """The start and two more."""
    rng = np.random.default_rng(1)
    return [residual.start(), *(residual.start() + rng.normal(scale=0.6, size=(2, residual.n_params)))]


def dense_inverse(residual, rho):
    """K (n, n) from its values by classes."""
    d, o = residual.values(rho)
    return assembled(residual, d, o)


def assembled(residual, d, o):
    K = np.diag(d[residual.row_class])
    K[residual.later, residual.earlier] = o[residual.link_class]
    K[residual.earlier, residual.later] = o[residual.link_class]
    return K


def differences(function, rho, step=1e-6):
    ends = [(function(rho + step * e), function(rho - step * e)) for e in np.eye(len(rho))]
    return np.array([(np.asarray(up) - np.asarray(down)) / (2 * step) for up, down in ends])


# --- the contract of Residual -----------------------------------------------------------------------------


@every
@pytest.mark.parametrize("seed", range(3))
def test_conformance(residual, seed):
    check_residual(residual, *points(residual), seed=seed)


@pytest.mark.parametrize(
    "words",
    ["ar1(t | g)", "ou(t | g)", "car1(t | g)", "varident(f)", "ar1(t | g) * varident(f)", "ou(t) * varident(f)"],
)
def test_every_word_of_a_formula_conforms(words):
    rng = np.random.default_rng(6)
    data = pd.DataFrame({"y": rng.normal(size=24), "t": rng.permutation(24), "g": np.arange(24) % 3})
    data["f"] = np.array(list("abc"))[np.arange(24) // 8]
    check_residual(build_spec("y ~ 1", data, residual=words).residual)


class _Changed:
    """A residual with one member replaced."""

    def __init__(self, residual, **members):
        found = {name: getattr(residual, name) for name in dir(residual) if not name.startswith("_")}
        self.__dict__.update(found | members)


AR = AR1Residual([0, 1, 2, 4, 0, 1, 3], [0, 0, 0, 0, 1, 1, 1])
BROKEN = {
    "logdet is not log": {"logdet": lambda rho: AR.logdet(rho) + 1e-3},
    "logdet_gradient is not the derivative": {"logdet_gradient": lambda rho: -AR.logdet_gradient(rho)},
    "gradient is not that of values": {"gradient": lambda rho: tuple(0 * part for part in AR.gradient(rho))},
    "covariance_gradient is not the derivative": {"covariance_gradient": lambda rho: 2 * AR.covariance_gradient(rho)},
    "covariance is not symmetric": {"covariance": lambda rho: AR.covariance(rho) + np.triu(np.ones((7, 7)), 1)},
    "covariance has shape": {"covariance": lambda rho: AR.covariance(rho)[:-1]},
    "inverse of covariance": {"covariance": lambda rho: 2 * AR.covariance(rho)},
    "has the eigenvalue -": {"values": lambda rho: tuple(-part for part in AR.values(rho))},
    "classes, not": {"values": lambda rho: (AR.values(rho)[0][:-1], AR.values(rho)[1])},
    "times is not R V": {"times": lambda rho, V: V},
    "times changes its argument": {"times": lambda rho, V: (AR.times(rho, V), V.fill(0))[0]},
    "square roots of the diagonal": {"scales": lambda rho: 2 * AR.scales(rho)},
    "is another rho": {"from_natural": lambda natural: AR.from_natural(natural) + 0.1},
    "start is not inside the bounds": {"bounds": lambda: (np.array([1.0]), np.array([2.0]))},
    "is not the bound": {"bounds": lambda: (np.array([-30.0]), np.array([30.0]))},
    "names gives 2 names for 1": {"names": lambda: ("a", "b")},
    "two rows are linked twice": {"later": AR.later[[0, 0, *range(2, 5)]], "earlier": AR.earlier[[0, 0, *range(2, 5)]]},
    "a link joins a row with itself": {"later": AR.earlier},
    "rows outside": {"earlier": AR.earlier + 5},
    "link classes": {"link_class": AR.link_class[1:]},
    "row_class has 6 entries": {"row_class": AR.row_class[1:]},
}


@pytest.mark.parametrize("message", BROKEN)
def test_a_broken_residual_is_caught(message):
    with pytest.raises(ModelError, match=f"_Changed.*{message}"):
        check_residual(_Changed(AR, **BROKEN[message]))


def test_what_is_no_residual_is_caught():
    with pytest.raises(ModelError, match="int: it lacks a member of the protocol Residual"):
        check_residual(3)


@every
def test_inverse_logdet_and_product(residual):
    assert isinstance(residual, Residual)
    V = np.random.default_rng(2).normal(size=(N, 3))
    for rho in points(residual):
        R = residual.covariance(rho)
        np.testing.assert_allclose(dense_inverse(residual, rho) @ R, np.eye(N), atol=DENSE)
        np.testing.assert_allclose(residual.logdet(rho), naive.logdet(R), rtol=DENSE)
        np.testing.assert_allclose(residual.times(rho, V), R @ V, rtol=DENSE, atol=DENSE)
        np.testing.assert_allclose(residual.scales(rho) ** 2, np.diag(R), rtol=DENSE)


@every
def test_derivatives(residual):
    for rho in points(residual):
        gradient = np.array([assembled(residual, d, o) for d, o in zip(*residual.gradient(rho), strict=True)])
        scale = np.abs(gradient).max()
        expected = differences(lambda x: dense_inverse(residual, x), rho)
        np.testing.assert_allclose(gradient / scale, expected / scale, atol=1e-7)
        np.testing.assert_allclose(residual.logdet_gradient(rho), differences(residual.logdet, rho), rtol=1e-7)
        dR = residual.covariance_gradient(rho)
        np.testing.assert_allclose(dR, differences(residual.covariance, rho), rtol=1e-6, atol=1e-8)


@every
def test_names_scale_and_pickle(residual):
    for rho in points(residual):
        np.testing.assert_allclose(residual.from_natural(residual.to_natural(rho)), rho, atol=1e-12)
    assert len(residual.names()) == len(residual.natural_names()) == residual.n_params
    again = pickle.loads(pickle.dumps(residual))
    np.testing.assert_array_equal(again.values(rho)[0], residual.values(rho)[0])


def test_ar1_is_a_power_of_rho_of_either_sign():
    residual, same = RESIDUALS["ar1 with gaps"], SERIES[:, None] == SERIES
    lag = np.abs(residual.time[:, None] - residual.time)
    for rho in (0.6, -0.6, 0.0, 0.999999, -0.999999):
        R = residual.covariance(np.arctanh([rho]))
        np.testing.assert_allclose(R, np.where(same, rho**lag, 0.0), atol=1e-9)
    assert residual.to_natural(np.array([-0.3]))[0] == np.tanh(-0.3)


def test_inverse_does_not_cancel_near_one():
    """1/(1-rho^2) to full precision where 1 - rho^2 itself would keep 5 digits."""
    x = 12.0
    d, o = AR1Residual(np.arange(3)).values(np.array([x]))
    exact = np.cosh(x) ** 2
    assert sorted(d) == pytest.approx([exact, 2 * exact - 1], rel=1e-14)
    assert o == pytest.approx([-np.tanh(x) * exact], rel=1e-14)


def test_ou_is_exponential():
    lag = np.abs(REAL[:, None] - REAL)
    R = RESIDUALS["ou"].covariance(np.log([0.7]))
    np.testing.assert_allclose(R, np.where(SERIES[:, None] == SERIES, np.exp(-0.7 * lag), 0.0), atol=1e-15)


def test_product_scales_the_correlation():
    residual = RESIDUALS["ou * varident"]
    scale = np.array([1.0, 1.5, 0.4])[STRATA]
    expected = np.outer(scale, scale) * RESIDUALS["ou"].covariance(np.log([0.7]))
    np.testing.assert_allclose(residual.covariance(np.log([0.7, 1.5, 0.4])), expected, rtol=1e-14)
    assert residual.natural_names() == ("kappa_residual", "ratio_1|residual", "ratio_2|residual")


# --- in a model -------------------------------------------------------------------------------------------


def spec(residual, terms, weights=None):
    return ModelSpec(Y, X, ("a", "b"), terms, weights=weights, residual=residual)


def some_theta(likelihood, seed=3):
    roots = [np.eye(s.n_effects) for s in likelihood.parameters.structures]
    theta = likelihood.parameters.start(roots)
    return theta + np.random.default_rng(seed).normal(scale=0.4, size=len(theta))


@every
@pytest.mark.parametrize("terms", TERMS.values(), ids=list(TERMS))
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["", "weights"])
def test_sparse_is_dense(residual, terms, weights):
    model = spec(residual, terms, weights)
    likelihood, dense = Likelihood(model), DenseLikelihood(model)
    theta = some_theta(likelihood)
    for options in ({"reml": True}, {"reml": False}, {"reml": True, "sigma": 1.3}):
        ours, theirs = likelihood(theta, **options), dense(theta, **options)
        assert ours.deviance == pytest.approx(theirs.deviance, rel=CRITERION)
        np.testing.assert_allclose(ours.beta, theirs.beta, rtol=DENSE, atol=DENSE)
        for b, expected in zip(ours.b, theirs.b, strict=True):
            np.testing.assert_allclose(b, expected, rtol=DENSE, atol=DENSE)
        ours, theirs = likelihood.derivatives(theta, **options), dense.derivatives(theta, **options)
        np.testing.assert_allclose(ours.gradient, theirs.gradient, rtol=INFORMATION, atol=INFORMATION)
        np.testing.assert_allclose(ours.information, theirs.information, rtol=INFORMATION, atol=INFORMATION)
        np.testing.assert_allclose(ours.hessian, theirs.hessian, rtol=INFORMATION, atol=INFORMATION)
        np.testing.assert_allclose(ours.cross_log_sigma2, theirs.cross_log_sigma2, rtol=INFORMATION, atol=INFORMATION)
    np.testing.assert_allclose(likelihood.vcov(theta, 1.3), dense.vcov(theta, 1.3), rtol=DENSE)
    for ours, theirs in zip(
        likelihood.random_vcov(theta, 1.3, prediction=True), dense.random_vcov(theta, 1.3, prediction=True), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=INFORMATION, atol=DENSE)


@every
def test_score_is_the_difference_of_the_criterion(residual):
    likelihood = Likelihood(spec(residual, TERMS["slope and crossed"], WEIGHTS))
    theta = some_theta(likelihood)
    for reml in (True, False):
        numeric = naive.numeric_gradient(lambda x, reml=reml: likelihood(x, reml=reml).deviance, theta, 1e-5)
        gradient = likelihood.derivatives(theta, reml=reml).gradient
        np.testing.assert_allclose(gradient, numeric, rtol=DIFFERENCES, atol=DIFFERENCES * np.abs(numeric).max())


def test_criterion_is_that_of_the_textbook():
    """With R written out here: neither likelihood of the package takes part in it."""
    likelihood = Likelihood(spec(RESIDUALS["ar1 * varident"], TERMS["intercept of the series"], WEIGHTS))
    T, rho, ratio = 0.8, 0.4, 1.7
    scale = np.where(STEP > 2, ratio, 1.0) / np.sqrt(WEIGHTS)
    same = SERIES[:, None] == SERIES
    R = np.outer(scale, scale) * np.where(same, rho ** np.abs(STEP[:, None] - STEP), 0.0)
    for reml in (True, False):
        ours = likelihood(np.array([T, np.arctanh(rho), np.log(ratio)]), reml=reml)
        assert ours.deviance == pytest.approx(naive.profile_deviance(Y, X, R + T**2 * same, reml), rel=CRITERION)
        assert ours.sigma == pytest.approx(naive.profile_sigma(Y, X, R + T**2 * same, reml), rel=CRITERION)


def test_zero_variances_beside_a_residual():
    """T on its edge is lifted by 1e-4 for the score alone, which costs 1e-8 of it."""
    model = spec(RESIDUALS["ar1"], TERMS["slope and crossed"])
    likelihood, dense = Likelihood(model), DenseLikelihood(model)
    theta = some_theta(likelihood)
    theta[:4] = 0.0
    ours, theirs = likelihood.derivatives(theta), dense.derivatives(theta)
    np.testing.assert_allclose(ours.gradient, theirs.gradient, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(ours.hessian, theirs.hessian, rtol=1e-6, atol=1e-6)


def test_stored_and_by_rows_agree(monkeypatch):
    model = spec(RESIDUALS["ar1 * varident"], TERMS["sparse"], WEIGHTS)
    stored = Likelihood(model)
    monkeypatch.setattr("sparselmm.banded.MOST_STORED", 0)
    by_rows = Likelihood(model)
    theta = some_theta(stored)
    assert stored(theta).deviance == pytest.approx(by_rows(theta).deviance, rel=1e-12)
    np.testing.assert_allclose(stored.derivatives(theta).gradient, by_rows.derivatives(theta).gradient, rtol=1e-9)


def test_regular_series_are_evaluated_without_the_rows(monkeypatch):
    likelihood = Likelihood(spec(RESIDUALS["ar1"], TERMS["slope and crossed"]))
    monkeypatch.setattr(likelihood.products.banded, "_pass", lambda d, o: pytest.fail("a pass over the rows"))
    assert np.isfinite(likelihood(some_theta(likelihood)).deviance)


def test_pattern_does_not_depend_on_rho():
    likelihood = Likelihood(spec(RESIDUALS["ar1"], TERMS["slope and crossed"]))
    theta = some_theta(likelihood)
    theta[-1] = 0.0
    dense = DenseLikelihood(likelihood.spec)
    assert likelihood(theta).deviance == pytest.approx(dense(theta).deviance, rel=CRITERION)
    plain = Likelihood(spec(None, TERMS["slope and crossed"]))
    assert likelihood(theta).deviance == pytest.approx(plain(theta[:-1]).deviance, rel=1e-12)


def test_order_of_rows_does_not_matter():
    order = np.random.default_rng(4).permutation(N)
    residual = ProductResidual(AR1Residual(STEP[order], SERIES[order]), VarIdentResidual((STEP > 2).astype(int)[order]))
    moved = ModelSpec(Y[order], X[order], ("a", "b"), (RandomTerm(SERIES[order]),), residual=residual)
    model = spec(RESIDUALS["ar1 * varident"], TERMS["intercept of the series"])
    theta = some_theta(Likelihood(model))
    assert Likelihood(moved)(theta).deviance == pytest.approx(Likelihood(model)(theta).deviance, rel=1e-12)


# --- bad input --------------------------------------------------------------------------------------------


def test_duplicated_time():
    with pytest.raises(DataError, match=r"two rows of series 'b' have the time 2 .*ar1\(t \| g:h\)"):
        AR1Residual([1, 2, 1, 2, 2], [0, 0, 1, 1, 1], labels=["a", "b"], label="ar1(t | g)")


def test_time_that_is_no_integer():
    with pytest.raises(DataError, match=r"time 2.5 in row 1 is not an integer.*ou\(t \| g\)"):
        AR1Residual([1, 2.5, 3], label="ar1(t | g)")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: AR1Residual([1, 2], [0, 1]), ModelError, "no series has two rows"),
        (lambda: OUResidual([1, np.nan]), DataError, "finite numbers"),
        (lambda: OUResidual(["a", "b"]), DataError, "not numeric"),
        (lambda: AR1Residual([1, 2], [0]), DataError, "2 times for 1 codes"),
        (lambda: VarIdentResidual([0, 0]), ModelError, "one stratum only"),
        (lambda: VarIdentResidual([0, 2]), DataError, "code 1 of the strata does not occur"),
        (lambda: ProductResidual(AR1Residual([1, 2]), VarIdentResidual([0, 1, 1])), DataError, "2 rows .* 3 in"),
        (lambda: AR1Residual([1, 2]).from_natural(np.array([1.1])), ModelError, "between -1 and 1"),
        (lambda: OUResidual([1, 2]).from_natural(np.array([-1.0])), ModelError, "a rate is not negative"),
        (lambda: VarIdentResidual([0, 1, 1]).from_natural(np.array([0.0])), ModelError, "ratio_1|residual = 0"),
        (lambda: AR1Residual([1, 2]).values(np.array([19.0])), EngineError, "singular"),
        (lambda: OUResidual([1, 2]).values(np.array([-400.0])), EngineError, "singular"),
        (lambda: spec(AR1Residual([1, 2]), ()), DataError, r"84 rows, residual ar1\(t\) has 2"),
    ],
)
def test_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
