"""Bad input of series, pedigrees, given precisions and structured residuals: one clear error at the front door."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import sparselmm as slm
from sparselmm import DataError, FormulaError, ModelError
from sparselmm.structures import AR1, AR1Residual

EXACT = 1e-9  # two ways to one answer


def rows(**columns):
    rng = np.random.default_rng(1)
    table = pd.DataFrame({"g": np.repeat(list("abc"), 4), "t": np.tile(np.arange(4), 3), "id": np.arange(12) % 6})
    return table.assign(y=rng.normal(size=12), x=rng.normal(size=12)).assign(**columns)


TWICE = rows(t=[0, 1, 2, 2, *range(4), *range(4)])
HALF = rows(t=np.tile([0, 1, 2.5, 3], 3))
MISSING = rows(t=np.tile([0, 1, np.inf, 3], 3))
SINGLE = rows(g=list("abcdefghijkl"))
P = slm.Pedigree([0, 1, 2, 3, 4], [None, None, 0, 0, 2], [None, None, 1, 1, 1])
SKEW, INDEFINITE, WIDE = np.eye(6), np.eye(6), sp.csc_array(np.ones((6, 5)))
SKEW[0, 1] = 0.5
INDEFINITE[0, 1] = INDEFINITE[1, 0] = 2.0

# formula, table, residual, context, error, what it says
BAD = {
    "residual ar1: a time twice": (
        "y ~ x", TWICE, "ar1(t | g)", {}, DataError, r"two rows of series 'a' have the time 2 .*ar1\(t \| g:h\)",
    ),
    "residual ou: a time twice": (
        "y ~ x", TWICE, "ou(t | g)", {}, DataError, r"two rows of series 'a' have the time 2 .*ou\(t \| g:h\)",
    ),
    "residual ar1: half a step": ("y ~ x", HALF, "ar1(t | g)", {}, DataError, r"2.5 .* not an integer.*ou\(t \| g\)"),
    "ar1: half a step": ("y ~ x + ar1(0 + t | g)", HALF, None, {}, DataError, r"2.5 .* integer steps.*ou\(0 \+ t"),
    "residual ar1: infinite time": ("y ~ x", MISSING, "ar1(t | g)", {}, DataError, "infinite"),
    "ar1: infinite time": ("y ~ x + ar1(0 + t | g)", MISSING, None, {}, DataError, "infinite"),
    "residual ar1: series of one row": ("y ~ x", SINGLE, "ar1(t | g)", {}, ModelError, "no series has two rows"),
    "ar1: series of one row": ("y ~ x + ar1(0 + t | g)", SINGLE, None, {}, DataError, "2 distinct times or more"),
    "residual ou: text for time": ("y ~ x", rows(t="noon"), "ou(t | g)", {}, DataError, "'t'.* text"),
    "residual: an unknown word": ("y ~ x", rows(), "arma(t | g)", {}, FormulaError, "arma"),
    "ped: an unknown animal": (
        "y ~ x + ped(1 | id, P)", rows(), None, {"P": P}, DataError, "1 of 6 ids are not in the pedigree: 5",
    ),
    "ped: no pedigree": ("y ~ x + ped(1 | id, P)", rows(), None, {"P": np.eye(6)}, ModelError, "P is a Pedigree"),
    "known: not symmetric": (
        "y ~ x + known(1 | id, Q)", rows(), None, {"Q": sp.csc_array(SKEW)}, DataError, "not symmetric",
    ),
    "known: not positive definite": (
        "y ~ x + known(1 | id, Q)", rows(), None, {"Q": sp.csc_array(INDEFINITE)}, DataError, "not positive definite",
    ),
    "known: not square": ("y ~ x + known(1 | id, Q)", rows(), None, {"Q": WIDE}, DataError, "square"),
    "known: too few levels": ("y ~ x + known(1 | id, Q)", rows(), None, {"Q": sp.eye_array(4)}, DataError, "4|5"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_one_clear_error(name):
    formula, data, residual, context, error, message = BAD[name]
    with pytest.raises(error, match=message) as caught:
        slm.lmm(formula, data, residual=residual, context=context)
    assert type(caught.value) is error
    with pytest.raises(error) as again:  # order of rows is no part of what is wrong, and does not decide
        slm.lmm(formula, data.iloc[::-1], residual=residual, context=context)
    assert type(again.value) is error


def test_a_loop_in_a_pedigree():
    with pytest.raises(DataError, match="loop of 2 animals"):
        slm.Pedigree([1, 2, 3], [2, 1, None], [3, 3, None])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: slm.RandomTerm(np.arange(12) % 6, Q=AR1([5])), DataError, "5|6"),
        (lambda: slm.RandomTerm(np.arange(12) % 6, Q=slm.Known(np.eye(4))), DataError, "4|6"),
        (lambda: slm.Known(np.eye(4), levels=range(3)), DataError, "3 levels for a matrix of 4 rows"),
        (lambda: AR1Residual(np.arange(12), np.zeros(11, int)), DataError, "12 times for 11 codes"),
    ],
)
def test_shapes_that_do_not_match(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_residual_of_other_rows():
    y = np.random.default_rng(1).normal(size=12)
    with pytest.raises(DataError, match=r"12 rows, residual ar1\(t\) has 10"):
        slm.LinearMixedModel.from_arrays(y, np.ones((12, 1)), [], residual=AR1Residual(np.arange(10)))


# --- what is legal --------------------------------------------------------------------------------------


def test_a_series_of_one_observation_beside_longer_ones():
    """As in nlme: it counts for the mean and for sigma. Against the criterion with R written out."""
    from tests import naive

    data = pd.concat([rows(), pd.DataFrame({"g": ["z"], "t": [7], "y": [0.3], "x": [0.1], "id": [0]})])
    fit = slm.lmm("y ~ x", data, residual="ar1(t | g)")
    rho, t, g = fit.varpar["rho_residual"], data.t.to_numpy(), data.g.to_numpy()
    R = np.where(g[:, None] == g, rho ** np.abs(t[:, None] - t), 0.0)
    X = np.column_stack([np.ones(13), data.x])
    assert fit.nobs == 13 and fit.converged
    assert fit.deviance == pytest.approx(naive.profile_deviance(data.y.to_numpy(), X, R, True), rel=EXACT)
    random = slm.lmm("y ~ x + ar1(0 + t | g)", data)
    assert len(random.ranef()["g"]) == 13


def test_rows_of_one_time_share_a_state():
    """A time twice is legal where the series is a random effect."""
    fit = slm.lmm("y ~ x + ar1(0 + t | g)", TWICE)
    assert len(fit.ranef()["g"]) == 11
