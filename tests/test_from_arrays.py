"""Models from arrays are the models of the formula."""

import numpy as np
import pytest
import scipy.sparse as sp

import sparselmm as slm
from sparselmm.datasets import load_dataset
from sparselmm.structures.diag import Diagonal

SAME_RTOL = 1e-9  # the same model; sparse Z is multiplied where codes are summed
FIT_RTOL = 1e-6  # the same search on numbers that differ in the last bits
TERMS_RTOL = 1e-5  # the same with another conditioning of the effects
from_arrays = slm.LinearMixedModel.from_arrays


@pytest.fixture(scope="module")
def sleepstudy():
    table = load_dataset("sleepstudy")
    X = np.column_stack([np.ones(180), table.Days])
    return table, table.Reaction.to_numpy(), X, table.Subject.cat.codes.to_numpy()


def sparse_design(codes, columns):
    """n x (m r), the effects of a level side by side."""
    n, r = columns.shape
    rows = np.repeat(np.arange(n), r)
    return sp.coo_array((columns.ravel(), (rows, (codes[:, None] * r + np.arange(r)).ravel())))


@pytest.mark.parametrize("engine", ["absorb", "cholmod", "dense"])
@pytest.mark.parametrize("form", ["codes", "coo", "csr", "csc"])
@pytest.mark.parametrize(
    ("structure", "formula"),
    [
        ("us", "Reaction ~ Days + (Days | Subject)"),
        ("diag", "Reaction ~ Days + (Days || Subject)"),
        (Diagonal(2), "Reaction ~ Days + (Days || Subject)"),
    ],
)
def test_codes_and_sparse_designs_give_the_fit_of_the_formula(sleepstudy, structure, formula, form, engine):
    table, y, X, codes = sleepstudy
    Z = codes if form == "codes" else sparse_design(codes, X).asformat(form)
    columns = X if form == "codes" else None
    term = slm.RandomTerm(Z, structure, columns, ("Intercept", "Days"), "Subject", table.Subject.cat.categories)
    fit = from_arrays(y, X, [term], fixed_names=["Intercept", "Days"], engine=engine).fit()
    other = slm.lmm(formula, table, engine=engine)
    assert fit.deviance == pytest.approx(other.deviance, rel=SAME_RTOL)
    np.testing.assert_allclose(fit.varpar, other.varpar, rtol=FIT_RTOL)
    assert list(fit.varpar.index) == list(other.varpar.index) and list(fit.fixef.index) == ["Intercept", "Days"]
    for se in (True, "prediction"):
        left, right = fit.ranef(se=se)["Subject"], other.ranef(se=se)["Subject"]
        assert list(left.columns) == list(right.columns) and left.index.tolist() == right.index.tolist()
        np.testing.assert_allclose(left, right, rtol=FIT_RTOL, atol=FIT_RTOL)
    np.testing.assert_allclose(fit.fitted, other.fitted, rtol=FIT_RTOL)


@pytest.mark.parametrize("form", ["codes", "sparse", "mixed"])
def test_crossed_terms_with_weights_and_offset(form):
    table = load_dataset("Penicillin")
    weights, offset = 1.0 + np.arange(144) % 3, np.sin(np.arange(144))
    terms = []
    for name in ("plate", "sample"):
        codes = table[name].cat.codes.to_numpy()
        dense = form == "codes" or (form == "mixed" and name == "plate")
        terms.append(slm.RandomTerm(codes if dense else sparse_design(codes, np.ones((144, 1))), name=name))
    fit = from_arrays(table.diameter, np.ones(144), terms, weights=weights, offset=offset).fit()
    other = slm.lmm("diameter ~ (1 | plate) + (1 | sample)", table, weights=weights, offset=offset)
    assert fit.deviance == pytest.approx(other.deviance, rel=SAME_RTOL)
    np.testing.assert_allclose(fit.varpar, other.varpar, rtol=TERMS_RTOL)
    np.testing.assert_allclose(fit.fitted, other.fitted, rtol=FIT_RTOL)


def test_a_row_may_belong_to_several_levels():
    """A multiple-membership design (each row two levels, half each) against V written out."""
    from tests import naive

    rng = np.random.default_rng(5)
    Z = np.zeros((60, 8))
    for i in range(60):
        Z[i, rng.choice(8, 2, replace=False)] = 0.5
    y = Z @ rng.normal(size=8) * 2 + rng.normal(size=60)
    model = from_arrays(y, np.ones(60), [slm.RandomTerm(sp.csr_array(Z), name="member")])
    fit = model.fit()
    W = naive.marginal_cov([Z], [fit.theta.iloc[0] ** 2 * np.eye(8)], 60)
    assert fit.deviance == pytest.approx(naive.profile_deviance(y, np.ones((60, 1)), W, True), rel=SAME_RTOL)
    for step in (-0.01, 0.01):
        assert model.loglik(fit.theta + step) < fit.loglik


def test_a_level_without_rows_keeps_its_place(sleepstudy):
    """Its effect is 0 with the standard deviation of the population."""
    _, y, X, codes = sleepstudy
    Z = sparse_design(codes, np.ones((180, 1))).tocsc()
    wider = sp.hstack([Z, sp.csc_array((180, 1))])
    fit, other = (from_arrays(y, X, [slm.RandomTerm(design, name="g")]).fit() for design in (wider, Z))
    assert fit.deviance == pytest.approx(other.deviance, rel=SAME_RTOL)
    frame = fit.ranef(se=True)["g"]
    assert len(frame) == 19 and frame.Intercept.iloc[18] == 0.0
    assert frame.Intercept_se.iloc[18] == pytest.approx(fit.varpar["sd_Intercept|g"], rel=SAME_RTOL)


def test_names_that_are_not_given(sleepstudy):
    _, y, X, codes = sleepstudy
    fit = from_arrays(y, X, [slm.RandomTerm(codes, columns=X)]).fit()
    assert list(fit.fixef.index) == ["x0", "x1"]
    assert list(fit.varpar.index) == ["sd_x0|g", "sd_x1|g", "cor_x0.x1|g", "sigma"]
    assert fit.ranef()["g"].index.tolist() == list(range(18))
    assert fit.spec.terms[0].describe() == "(0 + x0 + x1 | g)"
    assert from_arrays(y, X, [slm.RandomTerm(codes)]).spec.terms[0].describe() == "(1 | g)"
    assert slm.RandomTerm(codes, "cs", X, ("a", "b"), "h").describe() == "cs(0 + a + b | h)"


def test_what_is_given_is_not_changed(sleepstudy):
    _, y, X, codes = sleepstudy
    Z = sparse_design(codes, np.ones((180, 1))).tocsr()
    copies = y.copy(), X.copy(), codes.copy(), Z.copy()
    fit = from_arrays(y, X, [slm.RandomTerm(codes, columns=X), slm.RandomTerm(Z, name="h", effects=("z",))]).fit()
    fit.ranef(se=True)
    for left, right in zip(copies[:3], (y, X, codes), strict=True):
        np.testing.assert_array_equal(left, right)
    assert (copies[3] != Z).nnz == 0


@pytest.mark.parametrize("kind", [list, np.float32, np.int64])
def test_other_kinds_of_arrays(sleepstudy, kind):
    _, y, X, codes = sleepstudy
    y = np.round(y)
    given = y.tolist() if kind is list else y.astype(kind)
    fit = from_arrays(given, X.tolist(), [slm.RandomTerm(codes.astype(np.uint16).tolist())]).fit()
    assert fit.deviance == from_arrays(y, X, [slm.RandomTerm(codes)]).fit().deviance


def test_one_column_of_X_may_be_a_vector_and_none_a_matrix_without_columns(sleepstudy):
    _, y, _, codes = sleepstudy
    terms = [slm.RandomTerm(codes)]
    assert list(from_arrays(y, np.ones(180), terms).fit().fixef.index) == ["x0"]
    assert len(from_arrays(y, np.empty((180, 0)), terms).fit().fixef) == 0


def test_no_formula_is_read(sleepstudy, monkeypatch):
    monkeypatch.setattr("sparselmm.api.build_spec", None)
    _, y, X, codes = sleepstudy
    fit = from_arrays(y, X, [slm.RandomTerm(codes)]).fit()
    assert fit.spec.encoding is None and fit.spec.formula == "" and "Formula" not in fit.summary()


def test_T_is_another_name_for_the_structure_beside_Q():
    codes, X = np.arange(12) % 4, np.column_stack([np.ones(12), np.arange(12.0)])
    named = slm.RandomTerm(codes, T="diag", columns=X, effects=("Intercept", "x"))
    assert named.structure == "diag"
    assert type(named.covariance) is type(slm.RandomTerm(codes, "diag", columns=X).covariance)
    own = slm.RandomTerm(codes, T=named.covariance, columns=X)
    assert own.covariance is named.covariance
    with pytest.raises(slm.ModelError, match=r"T= and structure= are two names"):
        slm.RandomTerm(codes, "diag", columns=X, T="us")


def test_structures_that_are_none():
    """A matrix in place of a precision, and the text of a formula: they were AttributeErrors."""
    codes = np.repeat(np.arange(18), 10)
    with pytest.raises(slm.ModelError, match=r"Q is a Precision such as Known\(matrix\).*, not ndarray"):
        slm.RandomTerm(codes, Q=np.eye(18), name="g")
    y, X = np.arange(180.0), np.ones((180, 1))
    with pytest.raises(slm.ModelError, match=r"is for formulas: arrays take an object, as structures.AR1Residual"):
        slm.LinearMixedModel.from_arrays(y, X, [slm.RandomTerm(codes)], residual="ar1(Days | Subject)")
