"""What `lmm_multi` refuses, with the name and the way out."""

import numpy as np
import pandas as pd
import pytest

import sparselmm as slm
from sparselmm.multi.stack import check_traits
from tests.multi.traits import herd

TABLE, P = herd(n=60)
PAIR = ["t0", "t1"]
FORMULA = "~ x + (1 | herd)"


def fit(traits=PAIR, formula=FORMULA, table=TABLE, **options):
    return slm.lmm_multi(traits, formula, table, **options)


@pytest.mark.parametrize(
    ("traits", "message"),
    [
        (["t0"], r"1 traits: lmm_multi\(\) takes 2 to 10; lmm\(\) fits one response"),
        ([f"t{i}" for i in range(11)], r"11 traits.*fit them in pairs, or lmm_many\(\)"),
        ("t0", "names of columns"),
        ([0, 1], "names of columns"),
        (["t0", "t1", "t0"], "trait 't0' is there twice"),
    ],
)
def test_names(traits, message):
    with pytest.raises(slm.ModelError, match=message):
        check_traits(traits)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "column 't3' is not in the table .columns: "),
        ({"t3": 2.0}, r"trait 't3' is constant \(2\)"),
        ({"t3": np.nan}, "trait 't3' has no value in the records that are used"),
        ({"t3": "high"}, "column 't3' holds text"),
        ({"t3": np.inf}, "column 't3' has 60 infinite values"),
    ],
)
def test_columns(change, message):
    with pytest.raises(slm.DataError, match=message):
        fit(["t0", "t3"], table=TABLE.assign(**change))


def test_a_trait_with_as_many_values_as_coefficients():
    """It was fitted: a variance of 6.6e11, and a residual variance that stayed where it started."""
    few = TABLE.assign(t1=TABLE.t1.where(TABLE.index.isin(TABLE.t1.dropna().index[:2])))
    with pytest.raises(slm.DataError, match="trait 't1' has 2 values for 2 coefficients.*Leave it out"):
        fit(table=few)


@pytest.mark.parametrize(
    ("traits", "message"),
    [
        (["t0", "copy"], "trait 'copy' is a linear combination of 't0' but for the fixed and random effects"),
        (["t0", "t1", "sum"], "trait '(sum|t1)' is a linear combination of 't0', '(sum|t1)'.*leave one of them out"),
        (["sum", "t1", "t0"], "is a linear combination of 'sum', '(t0|t1)'"),
    ],
)
def test_traits_that_are_combinations_of_each_other(traits, message):
    """They were fitted, by a correlation that stopped at 1 - 1e-6: log|R| has no bound."""
    table = herd(n=120)[0]
    table = table.assign(copy=3.0 * table.t0 - table.x, sum=table.t0 + table.t1)
    with pytest.raises(slm.ModelError, match=message):
        fit(traits, table=table)


def test_no_record_has_a_trait():
    with pytest.raises(slm.DataError, match="no record has a value of t0, t1"):
        fit(table=TABLE.assign(t0=np.nan, t1=np.nan))


@pytest.mark.parametrize(
    ("formula", "error", "message"),
    [
        ("t0 ~ x + (1 | herd)", slm.FormulaError, "the responses are the traits, not 't0': write '~ x"),
        (3, slm.FormulaError, "a formula is a string"),
        ("~ x + t1 + (1 | herd)", slm.FormulaError, "trait 't1' is a covariate too, and would explain itself"),
        ("~ x + offset(x) + (1 | herd)", slm.FormulaError, "offset.. would be taken off every trait"),
        ("~ x + (1 | herb)", slm.DataError, "column 'herb' is not in the table.*did you mean 'herd'"),
        ("~ x + cs(1 + x | herd)", slm.ModelError, r"write \(1 \+ x \| g\) or \(1 \+ x \|\| g\)"),
    ],
)
def test_formulas(formula, error, message):
    with pytest.raises(error, match=message):
        fit(formula=formula)


def test_the_dense_engine_is_not_for_several_traits():
    with pytest.raises(slm.EngineError, match=r"engine='dense': lmm_multi\(\) has"):
        fit(engine="dense")


def test_lengths_of_weights():
    with pytest.raises(slm.DataError, match=r"weights has shape \(3,\), the table has 60 rows"):
        fit(weights=[1.0, 2.0, 3.0])


def test_terms_are_named_by_text_or_group():
    found = fit(
        formula="~ x + (1 | herd) + (1 | animal) + ped(1 | animal, P)", table=herd(per_animal=2)[0], context={"P": P2}
    )
    assert found.G("herd").equals(found.G("(1 | herd)"))
    with pytest.raises(slm.ModelError, match=r"G\('animal'\): 2 random terms fit; name one of .*'\(1 \| animal\)'"):
        found.G("animal")
    with pytest.raises(slm.ModelError, match=r"G\('dam'\): no random terms fit"):
        found.G("dam")
    with pytest.raises(slm.ModelError, match=r"G\(\): 3 random terms fit"):
        found.G()
    both = found.heritability()
    assert both.loc[("t0", "heritability", "animal"), "estimate"] < 1.0


P2 = herd(per_animal=2)[1]


def test_heritability_needs_a_genetic_term_and_one_phenotypic_variance():
    with pytest.raises(slm.ModelError, match="needs a genetic term"):
        fit().heritability()
    slopes = fit(formula="~ x + (1 + x | herd) + ped(1 | animal, P)", table=herd(per_animal=2)[0], context={"P": P2})
    with pytest.raises(slm.ModelError, match=r"\(1 \+ x \| herd\): with it the phenotypic variance differs.*exclude="):
        slopes.heritability()
    assert len(slopes.heritability(exclude="herd"))
    assert "Phenotypic" not in slopes.correlations().index.get_level_values("term")


def test_text_of_a_fit():
    found = fit(table=TABLE.assign(x=TABLE.x.where(TABLE.index > 0)))
    text = str(found)
    assert text.splitlines()[0] == "Multi-trait linear mixed model fit by REML"
    for part in (
        "Formula: t0, t1 ~ x + (1 | herd)",
        "Converged in",
        "Residual",
        "without a trait",
        "1 record with missing",
    ):
        assert part in text
    cells = TABLE[PAIR].iloc[1:].notna().sum()
    assert repr(found).startswith(
        f"<sparselmm: 2 traits in {found.n_records} records ({cells.t0} of t0, {cells.t1} of t1)"
    )
    assert found.aic == pytest.approx(found.deviance + 2 * (4 + 3 + 3))
    assert found.bic == pytest.approx(found.deviance + np.log(cells.sum()) * 10)
    assert "-2 log-likelihood" in fit(reml=False).summary() and not fit(reml=False).reml


def test_heritability_beside_groups_of_unknown_parents():
    """The share of the variance within groups in their sum with R, by hand; it was refused."""
    rng = np.random.default_rng(3)
    sire, dam = (np.r_[np.zeros(20, dtype=int), 2 * rng.integers(0, 10, 60) + k] for k in (1, 2))
    P = slm.Pedigree(np.arange(1, 81), sire, dam, groups=np.where(np.arange(80) % 3, "old", "new"))
    table = pd.DataFrame({"animal": np.arange(1, 81).repeat(3)})
    effects = rng.normal(size=(81, 2))[table["animal"]]
    table[["t0", "t1"]] = effects + rng.normal(size=(240, 2))
    found = slm.lmm_multi(["t0", "t1"], "~ ped(1 | animal, P)", table, context={"P": P})
    G, R = np.diag(found.G("animal")), np.diag(found.R)
    estimates = found.heritability().xs("heritability", level="quantity")["estimate"]
    np.testing.assert_allclose(estimates, G / (G + R), rtol=1e-9)
