"""BLUPs: their values, their two kinds of standard errors, and the tables they come in."""

import numpy as np
import pandas as pd
import pytest

import sparselmm as slm
from sparselmm.datasets import load_dataset
from tests import naive

BLUP_RTOL = 1e-8  # explicit inverses of n x n matrices on the other side
BLUP_ATOL = 1e-8  # for effects that are zero by symmetry


@pytest.fixture(scope="module")
def machines():
    return load_dataset("Machines")


def textbook(fit):
    """BLUPs and the covariances of b_hat - b, and of b given y and beta, from V."""
    dense = slm.LinearMixedModel.from_arrays(fit.spec.y, fit.spec.X, fit.spec.terms, weights=fit.spec.weights)
    Z = [term_matrix(t) for t in dense.spec.terms]
    parts = fit.likelihood.parameters.parts(fit.theta.to_numpy())
    factors = [t.covariance.factor(p) for t, p in zip(fit.spec.terms, parts, strict=True)]
    psi = [np.kron(np.eye(t.n_levels), T @ T.T) for t, T in zip(fit.spec.terms, factors, strict=True)]
    W = naive.marginal_cov(Z, psi, fit.nobs, fit.spec.weights)
    y, X = fit.spec.y - (0.0 if fit.spec.offset is None else fit.spec.offset), fit.spec.X
    prediction = naive.blup_error_cov(X, Z, psi, W, fit.sigma)
    conditional = naive.blup_error_cov(np.zeros((fit.nobs, 0)), Z, psi, W, fit.sigma)
    return np.concatenate(naive.blup(y, X, Z, psi, W)), np.sqrt(np.diag(prediction)), np.sqrt(np.diag(conditional))


def term_matrix(term):
    """Z (n x m r) written out row by row."""
    Z = np.zeros((term.n_rows, term.n_levels, term.n_effects))
    for i, level in enumerate(term.Z):
        Z[i, level] = 1.0 if term.columns is None else term.columns[i]
    return Z.reshape(term.n_rows, -1)


def flat(frames, suffix=""):
    """Effects of all terms, level by level, as in b."""
    pieces = []
    for frame in frames.values():
        columns = [c for c in frame if not c.endswith("_se")]
        pieces.append(frame[[c + suffix for c in columns]].to_numpy().ravel())
    return np.concatenate(pieces)


CASES = [
    ("Reaction ~ Days + (Days | Subject)", "sleepstudy", {}),
    ("Reaction ~ Days + (Days || Subject)", "sleepstudy", {"offset": "Days"}),
    ("diameter ~ 1 + (1 | plate) + (1 | sample)", "Penicillin", {}),
    ("strength ~ 1 + (1 | batch/cask)", "Pastes", {}),
    ("score ~ Machine + cs(0 + Machine | Worker)", "Machines", {}),
    ("distance ~ age * Sex + (1 | Subject)", "Orthodont", {"weights": np.tile([1.0, 2.0, 3.0, 4.0], 27)}),
]


@pytest.mark.parametrize("engine", ["absorb", "cholmod", "dense"])
@pytest.mark.parametrize(("formula", "data", "options"), CASES)
def test_effects_and_errors_are_those_of_a_textbook(formula, data, options, engine):
    fit = slm.lmm(formula, load_dataset(data), engine=engine, **options)
    b, prediction, conditional = textbook(fit)
    np.testing.assert_allclose(flat(fit.ranef()), b, rtol=BLUP_RTOL, atol=BLUP_ATOL)
    np.testing.assert_allclose(flat(fit.ranef(se=True), "_se"), conditional, rtol=BLUP_RTOL)
    np.testing.assert_allclose(flat(fit.ranef(se="conditional"), "_se"), conditional, rtol=BLUP_RTOL)
    np.testing.assert_allclose(flat(fit.ranef(se="prediction"), "_se"), prediction, rtol=BLUP_RTOL)
    np.testing.assert_array_equal(flat(fit.ranef(se=True)), flat(fit.ranef()))
    assert (prediction >= conditional).all()


def test_an_error_stands_beside_its_effect():
    frame = slm.lmm("Reaction ~ Days + (Days | Subject)", load_dataset("sleepstudy")).ranef(se=True)["Subject"]
    assert list(frame.columns) == ["Intercept", "Intercept_se", "Days", "Days_se"]


def test_terms_on_one_factor_share_a_frame(machines):
    parted = slm.lmm("score ~ Machine + (1 | Worker) + (0 + Machine | Worker) + (1 | Worker:Machine)", machines)
    frames = parted.ranef()
    assert list(frames) == ["Worker", "Worker:Machine"]
    assert list(frames["Worker"].columns) == ["Intercept", "Machine[A]", "Machine[B]", "Machine[C]"]
    for term, b in zip(parted.spec.terms, parted.estimate.evaluation.b, strict=True):
        np.testing.assert_array_equal(frames[term.name][list(term.effects)], b)


def test_terms_with_the_same_effects_stay_apart(machines):
    codes, columns = machines.Worker.cat.codes.to_numpy(), pd.get_dummies(machines.Machine).to_numpy(dtype=float)
    terms = [slm.RandomTerm(codes, word, columns, ("A", "B", "C"), "Worker") for word in ("diag", "cs")]
    frames = slm.LinearMixedModel.from_arrays(machines.score, columns, terms).fit().ranef(se=True)
    assert list(frames) == ["Worker", "cs(0 + A + B + C | Worker)"]
    assert all(list(f.columns) == ["A", "A_se", "B", "B_se", "C", "C_se"] for f in frames.values())


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([30, 4, 100], np.int64),
        (["b", "a", "c"], None),
        ([True, False, True], np.bool_),
        ([1.5, 0.5, 2.5], np.float64),
        (pd.Categorical(["lo", "hi", "mid"], categories=["lo", "mid", "hi"]), None),
        (pd.to_datetime(["2021-03-01", "2020-01-01", "2022-01-01"]), "datetime64[us]"),
    ],
)
def test_levels_keep_their_kind(values, dtype):
    """The index is sorted (in the order of the categories), and of the type of the column."""
    rng = np.random.default_rng(3)
    column = pd.Series(values).repeat(6).reset_index(drop=True)
    fit = slm.lmm("y ~ 1 + (1 | g)", pd.DataFrame({"y": rng.normal(size=18), "g": column}))
    index = fit.ranef()["g"].index
    assert index.name == "g" and index.tolist() == sorted(column.unique().tolist(), key=list(level_order(column)).index)
    assert all(type(label) is type(column.tolist()[0]) for label in index.tolist())
    if dtype is not None:
        assert index.dtype.kind == np.dtype(dtype).kind


def level_order(column):
    return column.cat.categories if isinstance(column.dtype, pd.CategoricalDtype) else sorted(column.unique().tolist())


def test_labels_of_an_interaction_are_joined():
    frames = slm.lmm("strength ~ 1 + (1 | batch/cask)", load_dataset("Pastes")).ranef()
    assert list(frames) == ["batch", "batch:cask"]
    assert frames["batch:cask"].index.tolist()[:4] == ["A:a", "A:b", "A:c", "B:a"]
    assert frames["batch:cask"].index.name == "batch:cask"


def test_only_combinations_that_occur():
    table = load_dataset("Pastes")
    fewer = table[~((table.batch == "A") & (table.cask == "b"))]
    assert "A:b" not in slm.lmm("strength ~ 1 + (1 | batch:cask)", fewer).ranef()["batch:cask"].index


def test_unused_levels_have_no_row():
    table = load_dataset("sleepstudy")
    some = table[table.Subject.isin(["308", "309", "310"])]
    assert slm.lmm("Reaction ~ Days + (1 | Subject)", some).ranef()["Subject"].index.tolist() == ["308", "309", "310"]


def test_a_model_without_random_effects_has_none():
    fit = slm.lmm("Reaction ~ Days", load_dataset("sleepstudy"))
    assert fit.ranef() == fit.ranef(se=True) == {}


@pytest.mark.parametrize("se", ["condVar", 2, [True], None])
def test_an_unknown_kind_of_error(se):
    fit = slm.lmm("Yield ~ 1 + (1 | Batch)", load_dataset("Dyestuff"))
    with pytest.raises(slm.ModelError, match="one of False, True, 'conditional', 'prediction'"):
        fit.ranef(se=se)
