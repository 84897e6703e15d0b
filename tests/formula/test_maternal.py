"""`ped(1 | animal + dam, P)`: direct and maternal effects, their design, a published example, and new rows."""

import numpy as np
import pandas as pd
import pytest

import sparselmm as slm
from sparselmm import DataError, FormulaError
from sparselmm.formula import build_spec
from tests import naive
from tests.herdbook import CALVES, KNOWN, MATERNAL, blocks, calves, herd_book, indicator

PRINTED = 5.1e-4  # the book prints three decimals, rounded
RTOL = 1e-9  # criterion and BLUPs against n x n matrices
SUM_RTOL = 1e-12  # the same sums in another order
SAME_RTOL = 1e-8  # two fits of one model, each converged to a scaled gradient of 1e-5
# Mrode (2014), example 7.1, with variances 150, 90, 40 and 350 and a covariance of -40: animals 1 ... 14
DIRECT = [0.564, -1.244, 1.165, -0.484, 0.630, -0.859, -1.156, 1.917, -0.553, -1.055, 0.385, 0.863, -2.980, 1.751]
MOTHER = [0.262, -1.583, 0.736, 0.586, -0.507, 0.841, 1.299, -0.158, 0.660, -0.153, 0.916, 0.442, 0.093, 0.362]


def term(formula, table=CALVES, **context):
    return build_spec(formula, table, context={"P": calves(), **context}).terms[0]


@pytest.mark.parametrize("engine", ["cholmod", "dense"])
def test_mrode_maternal_model_of_example_7_1(engine):
    fit = slm.lmm(MATERNAL, CALVES, context={"P": calves()}, fixed=KNOWN, engine=engine)
    np.testing.assert_allclose(fit.fixef, [34.540, 27.691, 3.386, 1.434], atol=PRINTED)
    animals = fit.ranef()["calf+dam"].loc[range(1, 15)]
    np.testing.assert_allclose(animals["ped(calf)"], DIRECT, atol=PRINTED)
    np.testing.assert_allclose(animals["ped(dam)"], MOTHER, atol=PRINTED)
    assert fit.ranef()["dam"].index.tolist() == [2, 5, 6, 7]
    np.testing.assert_allclose(fit.ranef()["dam"].Intercept, [-1.701, 0.415, 0.825, 0.461], atol=PRINTED)


def test_a_row_has_a_one_for_the_animal_and_one_for_its_dam():
    maternal = term("kg ~ ped(1 | calf + dam, P)")
    assert (maternal.n_levels, maternal.n_effects, maternal.effects) == (14, 2, ("ped(calf)", "ped(dam)"))
    assert maternal.describe() == "ped(1 | calf + dam, P)" and maternal.name == "calf+dam"
    Z = maternal.Z.toarray()
    np.testing.assert_array_equal(Z[:, 0::2], indicator(CALVES.calf, maternal.levels))
    np.testing.assert_array_equal(Z[:, 1::2], indicator(CALVES.dam, maternal.levels))


def test_criterion_and_score_are_the_textbook_s():
    """At parameters far from the optimum, REML; the score against differences of -2l by each of V's components."""
    table, P = herd_book(90, 20)
    fit = slm.lmm("y ~ 1 + ped(1 | animal + dam, P) + (1 | animal)", table, context={"P": P}, fixed={"sigma": 1.5})
    theta = np.array([0.8, -0.4, 0.7, 0.5])
    T = np.array([[0.8, 0.0], [-0.4, 0.7]])
    dV, G = blocks(table, P), T @ T.T
    W = G[0, 0] * dV["direct"] + G[1, 1] * dV["maternal"] + G[0, 1] * dV["covariance"] + 0.25 * dV["permanent"]
    W, X, y = W + dV["residual"], np.ones((len(table), 1)), table.y.to_numpy()
    found = fit.likelihood(theta)
    assert found.deviance == pytest.approx(naive.profile_deviance(y, X, W, True), rel=RTOL)
    expected = naive.numeric_gradient(lambda t: fit.likelihood(t).deviance, theta, 1e-5)
    np.testing.assert_allclose(fit.likelihood.derivatives(theta).gradient, expected, atol=1e-6 * abs(expected).max())


def test_estimates_are_at_the_textbook_s_optimum():
    table, P = herd_book()
    fit = slm.lmm("y ~ 1 + ped(1 | animal + dam, P) + (1 | animal)", table, context={"P": P})
    dV, X, y = blocks(table, P), np.ones((len(table), 1)), table.y.to_numpy()

    def deviance(x):
        a, m, cor, pe, sigma = x
        parts = {"direct": a**2, "maternal": m**2, "covariance": cor * a * m, "permanent": pe**2, "residual": sigma**2}
        return naive.deviance(y, X, sum(parts[k] * dV[k] for k in parts), True)

    best = fit.varpar.to_numpy()
    assert fit.converged and fit.varpar.index[2] == "cor_ped(animal).ped(dam)|animal+dam"
    assert fit.deviance == pytest.approx(deviance(best), rel=RTOL)
    for step in 1e-3 * np.eye(5):
        assert min(deviance(best + step), deviance(best - step)) > fit.deviance


def test_uncorrelated_effects_are_two_terms():
    table, P = herd_book(90, 20)
    given = {"context": {"P": P}, "reml": False}
    apart = slm.lmm("y ~ 1 + ped(1 | animal, P) + ped(1 | dam, P)", table, **given)
    assert list(apart.varpar.index) == ["sd_ped(Intercept)|animal", "sd_ped(Intercept)|dam", "sigma"]
    held = {"cor_ped(animal).ped(dam)|animal+dam": 0.0}
    joint = slm.lmm("y ~ 1 + ped(1 | animal + dam, P)", table, fixed=held, **given)
    assert joint.deviance == pytest.approx(apart.deviance, rel=SAME_RTOL)


def test_a_given_matrix_takes_two_columns_too():
    P = calves()
    K = slm.Known(P.relationship(P.ids).to_numpy(), kind="covariance", levels=P.ids)
    held = {name.replace("ped", "known"): value for name, value in KNOWN.items()}
    fits = [
        slm.lmm(MATERNAL, CALVES, context={"P": P}, fixed=KNOWN),
        slm.lmm(MATERNAL.replace("ped", "known").replace("P)", "K)"), CALVES, context={"K": K}, fixed=held),
    ]
    assert fits[0].deviance == pytest.approx(fits[1].deviance, rel=RTOL)


def test_permanent_environment_beside_the_pedigree():
    table, P = herd_book(90, 20)
    fit = slm.lmm("y ~ 1 + ped(1 | animal, P) + (1 | animal)", table, context={"P": P})
    assert list(fit.varpar.index) == ["sd_ped(Intercept)|animal", "sd_Intercept|animal", "sigma"]
    assert {k: len(v) for k, v in fit.ranef().items()} == {"animal": 90, "(1 | animal)": 70}


def test_new_rows():
    """The animal's effect and the dam's, each by itself; an animal without records has a breeding value as well."""
    fit = slm.lmm(MATERNAL, CALVES, context={"P": calves()}, fixed=KNOWN)
    np.testing.assert_allclose(fit.predict(CALVES), fit.fitted, rtol=SUM_RTOL)
    new = pd.DataFrame({"sex": 1, "herd": 1, "calf": [5, 5, 99, 1, 5], "dam": [2, 99, 2, 3, None]})
    b, pe = fit.ranef()["calf+dam"], fit.ranef()["dam"]["Intercept"]
    a, m = b["ped(calf)"], b["ped(dam)"]
    random = [a[5] + m[2] + pe[2], a[5], m[2] + pe[2], a[1] + m[3], a[5]]
    np.testing.assert_allclose(fit.predict(new) - fit.predict(new, re=False), random, rtol=RTOL)
    with pytest.raises(DataError, match=r"ped\(1 \| calf \+ dam, P\): 3 of 5 rows have a level"):
        fit.predict(new, new_levels="error")


def test_new_animals_without_records_have_breeding_values():
    fit = slm.lmm("kg ~ 1 + ped(1 | calf, P)", CALVES, context={"P": calves()}, fixed={"sigma": 10.0})
    values = fit.ranef()["calf"]["ped(Intercept)"]
    found = fit.predict(pd.DataFrame({"calf": [4, 1, 5]})) - fit.fixef["Intercept"]
    np.testing.assert_allclose(found, values.loc[[4, 1, 5]], rtol=RTOL)


def test_rows_without_a_dam_are_dropped_and_counted():
    table = CALVES.assign(dam=CALVES.dam.where(CALVES.calf != 8))
    fit = slm.lmm(MATERNAL, table, context={"P": calves()}, fixed=KNOWN)
    assert (fit.nobs, fit.spec.n_dropped) == (9, 1)
    without = slm.lmm(MATERNAL, CALVES[CALVES.calf != 8], context={"P": calves()}, fixed=KNOWN)
    assert fit.deviance == pytest.approx(without.deviance, rel=SUM_RTOL)


def test_a_dam_that_is_not_in_the_pedigree():
    with pytest.raises(DataError, match="1 of 14 ids are not in the pedigree: 77"):
        term("kg ~ ped(1 | calf + dam, P)", CALVES.assign(dam=CALVES.dam.replace(5, 77)))


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("ped(1 + sex | calf + dam, P)", "an intercept for each"),
        ("ped(0 + sex | calf + dam, P)", "an intercept for each"),
        ("ped(1 | calf/dam, P)", "different columns"),
        ("ped(1 | calf + calf, P)", "different columns"),
        ("ped(1 | calf + calf:dam, P)", "different columns"),
        ("ped(1 | calf + dam)", "is written ped"),
    ],
)
def test_what_several_columns_cannot_be(place, message):
    formula = f"kg ~ sex + {place}"
    with pytest.raises(FormulaError, match=message) as caught:
        term(formula)
    assert formula[caught.value.start : caught.value.end] == place
