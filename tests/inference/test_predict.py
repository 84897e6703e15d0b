"""Predictions for the rows of the fit, and for a table of new rows."""

import numpy as np
import pandas as pd
import polars as pl
import pytest

import sparselmm as slm
from sparselmm.datasets import load_dataset

SUM_RTOL = 1e-12  # the same sums in another order


@pytest.fixture(scope="module")
def sleepstudy():
    return load_dataset("sleepstudy")


CASES = [
    "Reaction ~ Days + (Days | Subject)",
    "Reaction ~ poly(Days, 2) + (1 | Subject)",
    "log(Reaction) ~ scale(Days) + (scale(Days) || Subject)",
    "Reaction ~ C(half) * Days + offset(Days / 3) + (0 + half | Subject) + (1 | Subject:half)",
    "Reaction ~ 0 + Days + (1 | Subject)",
    "Reaction ~ Days",
]


@pytest.mark.parametrize("formula", CASES)
@pytest.mark.parametrize("weighted", [False, True])
def test_the_rows_of_the_fit_give_fitted(sleepstudy, formula, weighted):
    table = sleepstudy.assign(half=np.where(sleepstudy.Days < 5, "first", "second"), w=1.0 + sleepstudy.Days)
    fit = slm.lmm(formula, table, weights="w" if weighted else None)
    np.testing.assert_array_equal(fit.predict(), fit.fitted)
    for newdata in (table, table.iloc[::-1].iloc[::-1], pl.from_pandas(table.astype({"Subject": str}))):
        np.testing.assert_allclose(fit.predict(newdata), fit.fitted, rtol=SUM_RTOL)
    np.testing.assert_allclose(fit.predict(table, re=False), fit.predict(re=False), rtol=SUM_RTOL)


def test_new_rows_are_beta_and_b_at_their_places(sleepstudy):
    fit = slm.lmm("Reaction ~ Days + (Days | Subject)", sleepstudy)
    new = pd.DataFrame({"Days": [0.0, 2.5, 20.0], "Subject": ["335", "308", "335"]})
    b = fit.ranef()["Subject"].loc[new.Subject]
    population = fit.fixef["Intercept"] + fit.fixef["Days"] * new.Days.to_numpy()
    expected = population + b.Intercept.to_numpy() + b.Days.to_numpy() * new.Days.to_numpy()
    np.testing.assert_allclose(fit.predict(new), expected, rtol=SUM_RTOL)
    np.testing.assert_allclose(fit.predict(new, re=False), population, rtol=SUM_RTOL)


def test_an_unknown_level_is_predicted_at_the_population_or_refused(sleepstudy):
    fit = slm.lmm("Reaction ~ Days + (1 | Subject)", sleepstudy)
    new = pd.DataFrame({"Days": [1.0, 1.0], "Subject": ["308", "nobody"]})
    np.testing.assert_allclose(fit.predict(new)[1], fit.predict(new, re=False)[1], rtol=SUM_RTOL)
    with pytest.raises(slm.DataError, match=r"\(1 \| Subject\): 1 of 2 rows have a level of 'Subject' that was not"):
        fit.predict(new, new_levels="error")
    with pytest.raises(slm.ModelError, match="one of 'population', 'error'"):
        fit.predict(new, new_levels="zero")


def test_a_dropped_column_predicts_as_zero(sleepstudy):
    table = sleepstudy.assign(twice=2 * sleepstudy.Days)
    fit = slm.lmm("Reaction ~ Days + twice + (1 | Subject)", table)
    np.testing.assert_allclose(fit.predict(table), fit.fitted, rtol=SUM_RTOL)


def test_rows_that_were_dropped_can_be_predicted(sleepstudy):
    table = sleepstudy.assign(Reaction=sleepstudy.Reaction.where(sleepstudy.Days != 3))
    fit = slm.lmm("Reaction ~ Days + (1 | Subject)", table)
    assert len(fit.fitted) == 162 and np.isfinite(fit.predict(table)).all()


def test_a_missing_value_gives_a_missing_prediction(sleepstudy):
    fit = slm.lmm("Reaction ~ Days + (1 | Subject)", sleepstudy)
    new = pd.DataFrame({"Days": [1.0, np.nan], "Subject": ["308", "308"]})
    assert np.isnan(fit.predict(new)).tolist() == [False, True]


def test_a_missing_column_is_named(sleepstudy):
    fit = slm.lmm("Reaction ~ Days + (1 | Subject)", sleepstudy)
    with pytest.raises(slm.DataError, match="'Days' is not in the table"):
        fit.predict(sleepstudy[["Subject"]])


def test_a_model_from_arrays_has_no_encoding(sleepstudy):
    term = slm.RandomTerm(sleepstudy.Subject.cat.codes.to_numpy())
    fit = slm.LinearMixedModel.from_arrays(sleepstudy.Reaction, np.ones(180), [term]).fit()
    np.testing.assert_array_equal(fit.predict(), fit.fitted)
    with pytest.raises(slm.ModelError, match="from arrays"):
        fit.predict(sleepstudy)


def test_a_term_that_is_left_out_is_not_read():
    """The columns of the group of another term need not be there."""
    table = load_dataset("Penicillin").assign(x=np.arange(144.0) % 7)
    fit = slm.lmm("diameter ~ x + (1 | plate) + (1 | sample)", table)
    found = fit.predict(table.drop(columns="plate"), re="sample")
    np.testing.assert_array_equal(found, fit.predict(table, re="sample"))
    with pytest.raises(slm.ModelError, match="re=None: True, False, or random terms"):
        fit.predict(table, re=None)


def test_a_cell_without_rows_is_not_determined():
    """Of the eight cells with rows every prediction is; of the ninth, whose coefficient was dropped, none is."""
    table = load_dataset("Machines").assign(b=lambda t: np.tile(["u", "v", "w"], 18))
    short = table[~((table.Machine == "C") & (table.b == "w"))]
    fit = slm.lmm("score ~ Machine * b + (1 | Worker)", short)
    assert len(fit.predict(short, se=True)) == len(short)
    with pytest.warns(
        slm.SparselmmWarning, match=r"6 of 54 rows have a fixed part .* \(Machine\[T.C\]:b\[T.w\]\) as zero"
    ):
        fit.predict(table)


@pytest.mark.parametrize("terms", ["ped(1 | id, P) + (1 | id)", "(1 | id) + ped(1 | id, P)"])
def test_two_terms_that_number_the_levels_of_a_group_differently(terms, tmp_path):
    """Additive and permanent effects: the pedigree's animals come in its own order, and there are more of them."""
    rng = np.random.default_rng(6)
    P = slm.Pedigree(
        [f"a{i}" for i in range(30)],
        [None] * 10 + [f"a{i % 5}" for i in range(20)],
        [None] * 10 + [f"a{5 + i % 4}" for i in range(20)],
    )
    table = pd.DataFrame({"id": [f"a{i}" for i in rng.integers(8, 25, 100)], "x": rng.normal(size=100)})
    table["y"] = table.x + 2 * rng.normal(size=30)[table.id.str[1:].astype(int)] + rng.normal(size=100)
    fit = slm.lmm(
        f"y ~ x + {terms}", table, context={"P": P}, fixed={"sd_ped(Intercept)|id": 1.0, "sd_Intercept|id": 1.0}
    )
    np.testing.assert_allclose(fit.predict(table), fit.fitted, rtol=1e-12)
    unseen = pd.DataFrame({"id": ["a29", "a0"], "x": 0.0})
    additive = fit.ranef()["ped(1 | id, P)" if terms[0] == "(" else "id"].loc[unseen.id].iloc[:, 0]
    np.testing.assert_allclose(fit.predict(unseen), fit.fixef["Intercept"] + additive, rtol=1e-12)
    fit.save(tmp_path / "fit.json")
    np.testing.assert_allclose(slm.load(tmp_path / "fit.json").predict(table), fit.fitted, rtol=1e-12)
