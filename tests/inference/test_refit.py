"""refit(y) is what a fresh fit of y is; fits that share an engine do not disturb each other."""

import pickle

import numpy as np
import pandas as pd
import pytest

import sparselmm as slm
from sparselmm.datasets import load_dataset
from sparselmm.likelihood import Likelihood
from tests.problems import PROBLEMS

SAME = 1e-12  # the same arithmetic on the same numbers; one product of X'WX with y in another order of summation
NAMES = [p.name for p in PROBLEMS.values() if "arrays" not in p.tags]


def ar1_table(n=160):
    rng = np.random.default_rng(5)
    t, g = np.tile(np.arange(20), n // 20), np.repeat(np.arange(n // 20), 20)
    x = rng.normal(size=n)
    return {"y": x + rng.normal(size=n // 20)[g] + rng.normal(size=n), "x": x, "t": t, "g": g, "w": 1 + t % 3}


def table():
    return pd.DataFrame(ar1_table())


def assert_same(found, expected):
    assert found.deviance == pytest.approx(expected.deviance, rel=SAME)
    np.testing.assert_allclose(found.varpar, expected.varpar, rtol=1e3 * SAME, atol=SAME)
    np.testing.assert_allclose(found.fixef, expected.fixef, rtol=1e3 * SAME, atol=SAME)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("reml", [True, False])
def test_a_refit_is_a_fresh_fit(name, reml):
    problem = PROBLEMS[name]
    fit = problem.model().fit(reml=reml)
    y = fit.spec.y[::-1] + 3.0
    fresh = slm.lmm(
        problem.formula, problem.data().assign(y=y), reml=reml, weights=problem.weights, offset=problem.offset
    )
    again = fit.refit(y)
    assert_same(again, fresh)
    assert again.reml is reml


@pytest.mark.parametrize("residual", ["ar1(t | g)", "varident(w)", "ou(x | g)", "ar1(t | g) * varident(w)"])
def test_with_structured_residuals(residual):
    data = table()
    fit = slm.lmm("y ~ x + (1 | g)", data, residual=residual, weights="w")
    y = np.random.default_rng(1).normal(size=len(data))
    assert_same(fit.refit(y), slm.lmm("y ~ x + (1 | g)", data.assign(y=y), residual=residual, weights="w"))


@pytest.mark.parametrize("engine", ["cholmod", "dense"])
def test_offset_held_parameters_and_engines(engine):
    data = table()
    arguments = {"offset": "t", "fixed": {"sd_Intercept|g": 0.7}, "engine": engine}
    fit = slm.lmm("y ~ x + (1 | g) + (1 | w)", data, **arguments)
    y = np.random.default_rng(2).normal(size=len(data))
    again = fit.refit(y)
    assert_same(again, slm.lmm("y ~ x + (1 | g) + (1 | w)", data.assign(y=y), **arguments))
    assert again.varpar["sd_Intercept|g"] == 0.7


def test_fits_that_share_an_engine_do_not_disturb_each_other():
    data = load_dataset("sleepstudy")
    first = slm.lmm("Reaction ~ Days + (Days | Subject)", data)
    untouched = slm.lmm("Reaction ~ Days + (Days | Subject)", data)
    others = [first.refit(data.Reaction.to_numpy()[::step].copy().repeat(abs(step))[:180]) for step in (-1, 2)]
    third = others[0].refit(data.Reaction)
    for fit in (first, third, pickle.loads(pickle.dumps(first))):
        for kind in ("conditional", "prediction"):
            expected = untouched.ranef(se=kind)["Subject"]
            np.testing.assert_allclose(fit.ranef(se=kind)["Subject"], expected, rtol=1e3 * SAME, atol=1e2 * SAME)
            others[1].ranef(se=kind)
        np.testing.assert_allclose(fit.vcov, untouched.vcov, rtol=1e3 * SAME)


def test_nothing_is_analysed_again(monkeypatch):
    fit = PROBLEMS["crossed"].model().fit()
    expected = fit.refit(fit.spec.y[::-1])

    def refuse(*arguments, **options):
        raise AssertionError("a pattern was analysed")

    monkeypatch.setattr(Likelihood, "__init__", refuse)
    monkeypatch.setattr(type(fit.likelihood.engine._slot.engine), "__init__", refuse)
    assert fit.refit(fit.spec.y[::-1]).deviance == expected.deviance


def test_a_start_reaches_the_same_optimum():
    fit = PROBLEMS["crossed"].model().fit()
    y = fit.spec.y + np.sin(np.arange(fit.nobs))
    assert fit.refit(y, start=fit.theta).deviance == pytest.approx(fit.refit(y).deviance, abs=1e-8)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.zeros(3), r"shape \(3,\) for 144 rows"),
        (["a"] * 144, "not numeric"),
        (np.array(["1", "2"] * 72), "not numeric: it has dtype <U1"),
        (np.datetime64("2020-01-01") + np.arange(144), "not numeric: it has dtype datetime64"),  # was nanoseconds
        (np.arange(144) + 1j, "not numeric: it has dtype complex128"),  # was its real part
        (np.where(np.arange(144) == 7, np.nan, 1.0), "1 of 144 values are infinite or missing"),
        (pd.array([1, None] * 72, dtype="Int64"), "72 of 144 values are infinite or missing"),
        (np.ones(144), "constant"),
    ],
)
def test_bad_responses_are_refused(y, message):
    fit = PROBLEMS["one_factor"].model().fit()
    with pytest.raises(slm.DataError, match=message):
        fit.refit(y)
