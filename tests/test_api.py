"""The front door: what is public, what the arguments do, and that the ways to a fit agree."""

import inspect
from types import FunctionType

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import sparselmm as slm
from sparselmm.datasets import load_dataset
from sparselmm.optimize import Options
from tests import naive

SLOPES = "Reaction ~ Days + (Days | Subject)"
SAME_RTOL = 1e-12  # the same computation
EXACT_RTOL = 1e-9  # explicit inverses of n x n matrices on the other side
LME4_RTOL = 1e-6  # digits written down
FALLBACK_RTOL = 1e-8  # a derivative-free search with a looser tolerance
FIT_ERRORS = 2e-5  # standard errors between two searches: each ends within 1e-5 of the optimum
DEVIANCE_RTOL = 1e-10  # deviances of two searches: quadratic in the above


@pytest.fixture(scope="module")
def sleepstudy():
    return load_dataset("sleepstudy")


@pytest.fixture(scope="module")
def fit(sleepstudy):
    return slm.lmm(SLOPES, sleepstudy)


def same(left, right):
    """Two fits of one model that may have been found on two ways."""
    assert left.deviance == pytest.approx(right.deviance, rel=DEVIANCE_RTOL)
    for name in ("fixef", "varpar"):
        difference = getattr(left, name) - getattr(right, name)
        assert (difference.abs() / getattr(right, f"{name}_se")).max() < FIT_ERRORS
    np.testing.assert_allclose(left.fitted, right.fitted, rtol=0, atol=FIT_ERRORS * right.sigma)


def test_public_names():
    """A contract: a name that disappears breaks other people's scripts."""
    assert set(slm.__all__) == {
        *("lmm", "LinearMixedModel", "Fit", "RandomTerm", "ModelSpec", "load_dataset", "dataset_names", "simulate"),
        *("load", "SavedFit"),
        *("Known", "Pedigree", "set_threads", "compare", "lmm_many", "ManyFits"),
        *("lmm_multi", "MultiFit"),
        *("scan", "Scan", "read_kinship", "Kinship"),
        *("SparselmmError", "FormulaError", "DataError", "ModelError", "EngineError", "SparselmmWarning"),
    }
    assert all(hasattr(slm, name) for name in slm.__all__)
    members = {name for name in dir(slm.LinearMixedModel) if not name.startswith("_")}
    assert members == {"fit", "loglik", "describe", "from_arrays"}


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (slm.lmm, "formula data reml weights offset residual context fixed engine start verbose"),
        (slm.lmm_multi, "traits formula data reml weights context fixed engine start verbose"),
        (slm.LinearMixedModel, "formula data weights offset residual context engine"),
        (slm.LinearMixedModel.from_arrays, "y X terms weights offset residual fixed_names engine"),
        (slm.LinearMixedModel.fit, "self reml fixed start verbose options"),
        (slm.LinearMixedModel.loglik, "self theta reml"),
        (slm.RandomTerm, "Z structure columns effects name levels Q label text T"),
        (slm.Fit.ranef, "self se"),
        (slm.Fit.predict, "self newdata re new_levels se interval level seed"),
        (slm.load_dataset, "name"),
    ],
)
def test_arguments(function, arguments):
    assert list(inspect.signature(function).parameters) == arguments.split()


def test_errors_have_one_root():
    errors = (slm.FormulaError, slm.DataError, slm.ModelError, slm.EngineError)
    assert all(issubclass(error, slm.SparselmmError) for error in errors)
    assert issubclass(slm.SparselmmError, ValueError) and issubclass(slm.SparselmmWarning, UserWarning)


def test_lmm_is_the_model_and_its_fit(sleepstudy, fit):
    other = slm.LinearMixedModel(SLOPES, sleepstudy).fit()
    assert other.deviance == pytest.approx(fit.deviance, rel=SAME_RTOL)
    pd.testing.assert_series_equal(other.varpar, fit.varpar, rtol=SAME_RTOL)


@pytest.mark.parametrize("reml", [True, False])
def test_loglik_at_a_theta_is_the_textbooks(sleepstudy, reml):
    model = slm.LinearMixedModel(SLOPES, sleepstudy)
    theta = [0.9, 0.1, 0.3]
    design = np.column_stack([np.ones(180), sleepstudy.Days])
    Z = (pd.get_dummies(sleepstudy.Subject).to_numpy(float)[:, :, None] * design[:, None]).reshape(180, 36)
    T = np.array([[0.9, 0.0], [0.1, 0.3]])
    W = naive.marginal_cov([Z], [np.kron(np.eye(18), T @ T.T)], 180)
    expected = -naive.profile_deviance(sleepstudy.Reaction.to_numpy(), design, W, reml) / 2
    assert model.loglik(theta, reml=reml) == pytest.approx(expected, rel=EXACT_RTOL)
    assert type(model.loglik(theta, reml=reml)) is float


@pytest.mark.parametrize("reml", [True, False])
def test_loglik_at_the_estimate_is_that_of_the_fit_and_the_largest(sleepstudy, reml):
    model = slm.LinearMixedModel(SLOPES, sleepstudy)
    best = model.fit(reml=reml)
    assert model.loglik(best.theta, reml=reml) == pytest.approx(best.loglik, rel=SAME_RTOL)
    for step in 0.01 * np.vstack([np.eye(3), -np.eye(3)]):
        assert model.loglik(best.theta + step, reml=reml) < best.loglik


def test_without_random_effects_it_is_least_squares(sleepstudy):
    """Residual variance e'e/(n-p); the restricted log-likelihood of seed 3."""
    fit = slm.lmm("Reaction ~ Days", sleepstudy)
    X, y = np.column_stack([np.ones(180), sleepstudy.Days]), sleepstudy.Reaction.to_numpy()
    beta, rss = np.linalg.lstsq(X, y)[:2]
    np.testing.assert_allclose(fit.fixef, beta, rtol=EXACT_RTOL)
    assert fit.sigma == pytest.approx(np.sqrt(rss[0] / 178), rel=EXACT_RTOL)
    assert fit.loglik == pytest.approx(naive.reml_loglik(y, X, fit.sigma**2 * np.eye(180)), rel=EXACT_RTOL)
    assert fit.converged and not fit.is_singular and len(fit.theta) == 0 and list(fit.varpar.index) == ["sigma"]


@pytest.mark.parametrize("kind", ["polars", "pyarrow"])
def test_any_table(sleepstudy, fit, kind):
    plain = sleepstudy.astype({"Subject": str})
    table = pl.from_pandas(plain) if kind == "polars" else pa.Table.from_pandas(plain)
    other = slm.lmm(SLOPES, table)
    assert other.deviance == pytest.approx(fit.deviance, rel=SAME_RTOL)
    pd.testing.assert_frame_equal(other.ranef()["Subject"], fit.ranef()["Subject"], check_index_type=False)


def test_weights_and_offset_by_name_by_array_and_in_the_formula(sleepstudy):
    table = sleepstudy.assign(w=1.0 + sleepstudy.Days, o=3.0 * sleepstudy.Days)
    fits = [
        slm.lmm(SLOPES, table, weights="w", offset="o"),
        slm.lmm(SLOPES, table, weights=table.w, offset=table.o.to_numpy()),
        slm.lmm(SLOPES, table, weights=table.w.tolist(), offset=pl.Series(table.o)),
        slm.lmm("Reaction ~ Days + offset(o) + (Days | Subject)", table, weights="w"),
        slm.lmm("Reaction ~ Days + offset(o / 2) + (Days | Subject)", table, weights="w", offset=table.o / 2),
    ]
    assert [f.deviance for f in fits] == pytest.approx([fits[0].deviance] * 5, rel=SAME_RTOL)
    shifted = slm.lmm(SLOPES, table.assign(Reaction=table.Reaction - table.o), weights="w")
    same(slm.lmm("y ~ Days + (Days | Subject)", table.assign(y=shifted.spec.y), weights="w"), shifted)
    assert fits[0].deviance == pytest.approx(shifted.deviance, rel=DEVIANCE_RTOL)
    np.testing.assert_allclose(fits[0].fitted, shifted.fitted + table.o, rtol=SAME_RTOL)


def test_context_gives_names_to_the_formula(sleepstudy):
    half = lambda x: x / 2  # noqa: E731
    other = slm.lmm("Reaction ~ half(Days) + (1 | Subject)", sleepstudy, context={"half": half})
    assert other.fixef["half(Days)"] == pytest.approx(2 * 10.46729, rel=LME4_RTOL)  # lme4's slope (tests/golden)


@pytest.mark.parametrize("start", [[1e-5, 0.0, 1e-5], [1.0, 0.0, 1.0], [100.0, 50.0, 30.0], [1.0, -1.0, 0.0]])
def test_any_start_ends_at_the_same_place(sleepstudy, fit, start):
    same(slm.lmm(SLOPES, sleepstudy, start=start), fit)


@pytest.mark.parametrize("engine", ["auto", "absorb", "cholmod", "dense"])
def test_engines_agree(sleepstudy, fit, engine):
    same(slm.lmm(SLOPES, sleepstudy, engine=engine), fit)


def test_a_fit_that_stops_short_warns_and_says_so(sleepstudy):
    model = slm.LinearMixedModel(SLOPES, sleepstudy)
    with pytest.warns(slm.SparselmmWarning, match="did not converge: no end within 1 iterations?, scaled gradient"):
        stopped = model.fit(options=Options(max_iter=1, fallback=False))
    assert not stopped.converged and "NOT CONVERGED" in stopped.summary()
    assert stopped.gradient_norm > Options().tolerance


def test_a_derivative_free_search_takes_over_and_is_reported(sleepstudy, fit):
    found = slm.LinearMixedModel(SLOPES, sleepstudy).fit(options=Options(max_iter=1, tolerance=1e-3))
    assert found.method == "cobyqa" and found.converged
    assert "COBYQA" in found.summary()
    assert found.deviance == pytest.approx(fit.deviance, rel=FALLBACK_RTOL)


def test_repr_of_a_model(sleepstudy):
    text = repr(slm.LinearMixedModel(SLOPES, sleepstudy))
    assert text == f"<sparselmm model: {SLOPES}; 180 observations, 36 random effects>"


def test_every_public_thing_has_a_docstring():
    for name in slm.__all__:
        thing = getattr(slm, name)
        assert inspect.getdoc(thing), name
        members = vars(thing).items() if inspect.isclass(thing) else ()
        for member, value in members:
            if not member.startswith("_") and isinstance(value, (FunctionType, classmethod, property)):
                assert inspect.getdoc(value), f"{name}.{member}"
