"""Heritability and other shares of variance with their standard errors, and reliabilities of breeding values."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import sparselmm as slm
from sparselmm.datasets import load_dataset
from tests import naive
from tests.herdbook import CALVES, KNOWN, MATERNAL, blocks, calves, herd_book, indicator

EXACT_RTOL = 1e-9  # the same ratios
ERROR_RTOL = 1e-5  # the optimum is known to a scaled gradient of 1e-5
CLOSED_RTOL = 1e-6  # errors by differences of step 1e-6
FIT_RTOL = 1e-4  # two searches of one optimum, each to a scaled gradient of 1e-5
PRINTED = 1.1e-3  # three decimals, of which the book cuts some
SHARED = Path(__file__).resolve().parents[3] / "shared" / "reference" / "genomics"
FORMULA = "y ~ 1 + ped(1 | animal + dam, P) + (1 | animal)"


@pytest.fixture(scope="module")
def herd():
    return herd_book()


@pytest.fixture(scope="module")
def maternal(herd):
    table, P = herd
    return slm.lmm(FORMULA, table, context={"P": P})


def textbook_errors(table, P, order, cov, ratios):
    """Delta method on the scale of variances: V is linear in them. ratios: (numerator, denominator), vectors."""
    dV, X, y = blocks(table, P), np.ones((len(table), 1)), table.y.to_numpy()
    V = sum(c * dV[k] for k, c in zip(order, cov, strict=True))
    C = 2 * np.linalg.inv(naive.average_information(y, X, V, [dV[k] for k in order], 1.0))
    out = []
    for top, below in np.asarray(ratios, dtype=float):
        gradient = top / (below @ cov) - below * (top @ cov) / (below @ cov) ** 2
        out.append(np.sqrt(gradient @ C @ gradient))
    return out


def test_all_quantities_of_a_maternal_model(herd, maternal):
    """Values by hand from the five components; errors from the n x n matrices of `textbook_errors`."""
    a, m, am, pe, e = c = maternal.varcorr.vcov.to_numpy()
    total = c.sum()
    expected = {
        ("heritability", "animal"): a / total,
        ("heritability", "dam"): m / total,
        ("total heritability", "animal+dam"): (a + 1.5 * am + 0.5 * m) / total,
        ("correlation", "animal.dam"): am / np.sqrt(a * m),
        ("repeatability", "animal"): (a + pe) / total,
        ("share", "ped(animal)|animal+dam"): a / total,
        ("share", "ped(dam)|animal+dam"): m / total,
        ("share", "ped(animal).ped(dam)|animal+dam"): am / total,
        ("share", "Intercept|animal"): pe / total,
        ("share", "Residual"): e / total,
    }
    found = maternal.heritability()
    assert found.index.tolist() == list(expected) and found.columns.tolist() == ["estimate", "std_error"]
    np.testing.assert_allclose(found.estimate, list(expected.values()), rtol=EXACT_RTOL)
    assert found.estimate["share"].sum() == pytest.approx(1.0, rel=EXACT_RTOL)
    unit, everything = np.eye(5), np.ones(5)
    tops = [unit[0], unit[1], unit @ [1, 0.5, 1.5, 0, 0], unit[0] + unit[3], *unit]
    order = ["direct", "maternal", "covariance", "permanent", "residual"]
    errors = textbook_errors(*herd, order, c, [(top, everything) for top in tops])
    np.testing.assert_allclose(found.std_error.drop("correlation", level="quantity"), errors, rtol=ERROR_RTOL)
    correlation = maternal.varpar_se["cor_ped(animal).ped(dam)|animal+dam"]
    assert found.std_error["correlation"].item() == pytest.approx(correlation, rel=CLOSED_RTOL)


@pytest.mark.parametrize(("reml", "engine"), [(True, "cholmod"), (False, "cholmod"), (True, "dense")])
def test_errors_are_the_derivative_times_the_covariance_of_varpar(herd, reml, engine):
    table, P = herd
    table = table[:160] if engine == "dense" else table
    fit = slm.lmm("y ~ 1 + ped(1 | animal, P) + (1 | animal)", table, reml=reml, context={"P": P}, engine=engine)
    heritability = lambda sd: sd[0] ** 2 / (sd**2).sum()  # noqa: E731
    J = naive.numeric_gradient(heritability, fit.varpar, 1e-6)
    expected = heritability(fit.varpar.to_numpy()), np.sqrt(J @ fit.varpar_vcov.to_numpy() @ J)
    found = fit.heritability().loc[("heritability", "animal")]
    np.testing.assert_allclose(found, expected, rtol=CLOSED_RTOL)
    np.testing.assert_allclose(fit.variance_ratio("ped(Intercept)|animal"), found, rtol=EXACT_RTOL)


def test_an_intraclass_correlation_has_the_error_of_swiger():
    """Unrelated levels, balanced: Swiger, Harvey, Everson & Gregory (1964), for N groups of k."""
    table = load_dataset("Dyestuff")
    batches = table.Batch.unique().tolist()
    P = slm.Pedigree(batches, [None] * 6, [None] * 6)
    fit = slm.lmm("Yield ~ 1 + ped(1 | Batch, P)", table, context={"P": P})
    t, error = fit.heritability().loc[("heritability", "Batch")]
    N, k, n = 6, 5, 30
    swiger = np.sqrt(2 * (n - 1) * (1 - t) ** 2 * (1 + (k - 1) * t) ** 2 / (k**2 * (n - N) * (N - 1)))
    assert error == pytest.approx(swiger, rel=ERROR_RTOL)


@pytest.mark.skipif(not SHARED.exists(), reason="the blue tits of MCMCglmm may not be shipped")
def test_blue_tits_of_mcmcglmm():
    """REML variances made with dense algebra (README of the collection), printed to five decimals."""
    book, table = pd.read_csv(SHARED / "BTped.csv"), pd.read_csv(SHARED / "BTdata.csv")
    P = slm.Pedigree(book.animal, book.sire, book.dam)
    formula = "tarsus ~ sex + hatchdate + (1 | fosternest) + ped(1 | animal, P)"
    found = slm.lmm(formula, table, context={"P": P}).heritability()
    variances = np.array([0.07024, 0.44138, 0.34711])
    np.testing.assert_allclose(found.estimate["share"], variances / variances.sum(), atol=2e-5)
    assert found.estimate[("heritability", "animal")] == found.estimate[("share", "ped(Intercept)|animal")]


def test_what_does_not_count_is_left_out(herd):
    table, P = herd
    table = table.assign(x=np.linspace(-1, 1, len(table)), y=table.y + table.herd)
    fit = slm.lmm("y ~ 1 + ped(1 | animal, P) + (1 + x | herd)", table, context={"P": P})
    with pytest.raises(slm.ModelError, match=r"\(1 \+ x \| herd\): .* differs between rows.*exclude='herd'"):
        fit.heritability()
    found = fit.heritability(exclude="herd")
    a, e = fit.varpar["sd_ped(Intercept)|animal"] ** 2, fit.sigma**2
    assert found.index.get_level_values("of").tolist() == ["animal", "ped(Intercept)|animal", "Residual"]
    np.testing.assert_allclose(found.estimate, [a / (a + e), a / (a + e), e / (a + e)], rtol=EXACT_RTOL)
    pd.testing.assert_frame_equal(found, fit.heritability(exclude=["(1 + x | herd)"]))


@pytest.mark.parametrize("start", ["stationary", "free"])
def test_levels_that_differ_in_variance_have_no_one_heritability(herd, start):
    """With a free start the term's sd is that of the innovations: 1/(1-a^2) times too small a variance of a record."""
    table, P = herd
    table = table.assign(t=np.arange(len(table)) % 12)
    fit = slm.lmm(f"y ~ 1 + ped(1 | animal, P) + ar1(0 + t | herd, start='{start}')", table, context={"P": P})
    if start == "stationary":
        assert fit.heritability().estimate["share"].sum() == pytest.approx(1.0)
        return
    with pytest.raises(slm.ModelError, match=r"ar1\(0 \+ t \| herd.*differs between rows"):
        fit.heritability()
    assert fit.heritability(exclude="herd").estimate["share"].sum() == pytest.approx(1.0)


def test_ratios_of_any_sums(maternal):
    a, m, am = maternal.varcorr.vcov[:3]
    names = ["ped(animal)|animal+dam", "ped(dam)|animal+dam", "ped(animal).ped(dam)|animal+dam"]
    found = maternal.variance_ratio(dict(zip(names, [1, 0.5, 1.5], strict=True)))
    np.testing.assert_allclose(found, maternal.heritability().loc["total heritability"].iloc[0], rtol=EXACT_RTOL)
    assert maternal.variance_ratio(names[1:], names)["estimate"] == pytest.approx((m + am) / (a + m + am))
    four, one = maternal.variance_ratio({names[0]: 4}), maternal.variance_ratio(names[0])
    np.testing.assert_allclose(four, 4 * one, rtol=CLOSED_RTOL)


def test_known_and_zero_variances_have_no_error(herd):
    table, P = herd
    held = slm.lmm(MATERNAL, CALVES, context={"P": calves()}, fixed=KNOWN).heritability()
    assert held.std_error.isna().all()
    assert held.estimate[("heritability", "calf")] == pytest.approx(150 / 590, rel=EXACT_RTOL)
    assert held.estimate[("repeatability", "dam")] == pytest.approx(130 / 590, rel=EXACT_RTOL)
    noise = table.assign(y=np.random.default_rng(4).normal(size=len(table)))
    fit = slm.lmm("y ~ 1 + ped(1 | animal, P) + (1 | animal)", noise, context={"P": P})
    zero = fit.varcorr.vcov[:2] == 0.0
    assert zero.any()
    share = fit.heritability().loc["share"][:2]
    np.testing.assert_array_equal(share.std_error.isna(), zero)
    np.testing.assert_array_equal(share.estimate == 0.0, zero)


def test_one_parameter_held(herd):
    """The free ones as in a textbook in which the held variance is no parameter."""
    table, P = herd
    fit = slm.lmm("y ~ 1 + ped(1 | animal, P)", table, context={"P": P}, fixed={"sigma": 2.0})
    a = fit.varcorr.vcov[0]
    dV, X = blocks(table, P), np.ones((len(table), 1))
    AI = naive.average_information(fit.spec.y, X, a * dV["direct"] + 4 * dV["residual"], [dV["direct"]], 1.0)
    found = fit.heritability().loc[("heritability", "animal")]
    assert found["estimate"] == pytest.approx(a / (a + 4), rel=EXACT_RTOL)
    assert found["std_error"] == pytest.approx(4 / (a + 4) ** 2 * np.sqrt(2 / AI.item()), rel=ERROR_RTOL)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda fit: fit.heritability(exclude="heard"), r"no random term 'heard': this model has .*\(1 \| animal\)"),
        (lambda fit: fit.heritability(exclude="animal+dam"), "needs a genetic term"),
        (
            lambda fit: fit.variance_ratio("Intercept|animals"),
            r"'Intercept\|animals'\. Did you mean 'Intercept\|animal'",
        ),
        (lambda fit: fit.variance_ratio("Residual", {"Residual": 0}), "denominator is 0"),
        (lambda fit: fit.variance_ratio({"Residual": "two"}), "coefficient of 'Residual' is 'two'"),
        (lambda fit: fit.reliability("heard"), "no random term 'heard'"),
    ],
)
def test_errors(maternal, ask, message):
    with pytest.raises(slm.ModelError, match=message):
        ask(maternal)


def test_slopes_have_no_one_heritability(herd):
    table, P = herd
    table = table.assign(x=np.linspace(-1, 1, len(table)))
    held = {"sd_ped(Intercept)|animal": 2.0, "sd_ped(x)|animal": 1.0, "cor_ped(Intercept).ped(x)|animal": 0.0}
    fit = slm.lmm("y ~ 1 + ped(1 + x | animal, P)", table, context={"P": P}, fixed=held | {"sigma": 2.0})
    with pytest.raises(slm.ModelError, match=r"ped\(1 \+ x \| animal, P\): .* differs between rows"):
        fit.heritability()
    ratio = fit.variance_ratio(["ped(Intercept)|animal"], ["ped(Intercept)|animal", "Residual"])
    assert ratio["estimate"] == pytest.approx(0.5)


# ---------------------------------------------------------------------------------------- reliabilities


def test_mrode_reliabilities_of_example_3_3():
    """Mrode (2014), section 3.3.3: of the calves of example 3.1, sigma2_a = 20, sigma2_e = 40; animals 1 ... 8."""
    table = pd.DataFrame({
        "calf": [4, 5, 6, 7, 8],
        "sire": [1, 3, 1, 4, 3],
        "dam": [None, 2, 2, 5, 6],
        "sex": list("mffmm"),
        "gain": [4.5, 2.9, 3.9, 3.5, 5.0],
    })  # fmt: skip
    P = slm.Pedigree(table.calf, table.sire, table.dam)
    held = {"sd_ped(Intercept)|calf": np.sqrt(20), "sigma": np.sqrt(40)}
    fit = slm.lmm("gain ~ 0 + sex + ped(1 | calf, P)", table, context={"P": P}, fixed=held)
    found = fit.reliability()["ped(Intercept)"].loc[range(1, 9)]
    np.testing.assert_allclose(found, [0.058, 0.016, 0.088, 0.144, 0.144, 0.116, 0.116, 0.156], atol=PRINTED)


@pytest.mark.parametrize("engine", ["cholmod", "dense"])
@pytest.mark.parametrize("inbreeding", [True, False])
def test_reliabilities_are_the_textbook_s(engine, inbreeding):
    """1 - PEV/(G_jj A_ll) of direct and maternal effects, inbred animals, and of the permanent environment."""
    table, P = herd_book(90, 20)
    P = slm.Pedigree(P.ids, *(np.append(P.ids, 0)[p] for p in P.parents.T), inbreeding=inbreeding)
    held = {f"sd_ped({g})|animal+dam": sd for g, sd in (("animal", 2.0), ("dam", 1.4))}
    held |= {"cor_ped(animal).ped(dam)|animal+dam": -0.4, "sd_Intercept|animal": 1.0, "sigma": 1.7}
    fit = slm.lmm(FORMULA, table, context={"P": P}, fixed=held, engine=engine)
    A, G = np.linalg.inv(P.inverse().toarray()), np.array([[4.0, -1.12], [-1.12, 1.96]]) / 1.7**2
    assert np.diag(A).max() > 1.1
    Z = np.stack([indicator(table[g], P.ids) for g in ("animal", "dam")], axis=2).reshape(len(table), -1)
    W_pe = indicator(table.animal, np.unique(table.animal))
    psi = [np.kron(A, G), np.eye(W_pe.shape[1]) / 1.7**2]
    V = naive.marginal_cov([Z, W_pe], psi, len(table))
    pev = np.diag(naive.blup_error_cov(np.ones((len(table), 1)), [Z, W_pe], psi, V, 1.7))
    expected = 1 - pev / (1.7**2 * np.concatenate([np.diag(p) for p in psi]))
    found = fit.reliability()
    assert found.index.equals(fit.ranef()["animal+dam"].index) and list(found) == ["ped(animal)", "ped(dam)"]
    np.testing.assert_allclose(found.to_numpy().ravel(), expected[: Z.shape[1]], atol=EXACT_RTOL)
    permanent = fit.reliability("(1 | animal)")["Intercept"]
    np.testing.assert_allclose(permanent, expected[Z.shape[1] :], atol=EXACT_RTOL)


def test_a_given_matrix_has_the_reliabilities_of_the_pedigree(herd):
    table, P = herd
    K = slm.Known(P.relationship(P.ids).to_numpy(), kind="covariance", levels=P.ids)
    held = {"sd_ped(Intercept)|animal": 2.0, "sigma": 1.7}
    ped = slm.lmm("y ~ 1 + ped(1 | animal, P)", table, context={"P": P}, fixed=held)
    held = {name.replace("ped", "known"): value for name, value in held.items()}
    known = slm.lmm("y ~ 1 + known(1 | animal, K)", table, context={"K": K}, fixed=held)
    np.testing.assert_allclose(known.reliability("animal"), ped.reliability("animal"), atol=EXACT_RTOL)
    pev = ped.ranef(se="prediction")["animal"]["ped(Intercept)_se"] ** 2
    expected = 1 - pev / (4.0 * (1 + P.inbreeding))
    np.testing.assert_allclose(ped.reliability()["ped(Intercept)"], expected, atol=EXACT_RTOL)


def test_which_term_is_meant(herd):
    table, P = herd
    held = {"sd_ped(Intercept)|animal": 2.0, "sd_ped(Intercept)|dam": 0.0, "sigma": 1.7}
    fit = slm.lmm("y ~ 1 + ped(1 | animal, P) + ped(1 | dam, P)", table, context={"P": P}, fixed=held)
    with pytest.raises(slm.ModelError, match=r"2 genetic terms fit; name one of 'ped\(1 \| animal, P\)'"):
        fit.reliability()
    assert fit.reliability("animal")["ped(Intercept)"].between(0, 1).all()
    assert fit.reliability("dam")["ped(Intercept)"].isna().all()
    none = slm.lmm("y ~ 1 + (1 | herd)", table)
    with pytest.raises(slm.ModelError, match="no genetic terms fit"):
        none.reliability()
    assert len(none.reliability("herd")) == 9


def test_terms_from_arrays(herd, maternal):
    """A pedigree's precision makes a term genetic, whatever its names; the pair as columns level * 2 + effect."""
    table, P = herd
    Z = np.stack([indicator(table[g], P.ids) for g in ("animal", "dam")], axis=2).reshape(len(table), -1)
    codes, _ = pd.factorize(table.animal)
    pair = slm.RandomTerm(sp.csr_array(Z), effects=("a", "m"), name="id", levels=P.ids, Q=P.precision())
    terms = [pair, slm.RandomTerm(codes, name="a")]
    fit = slm.LinearMixedModel.from_arrays(table.y, np.ones((len(table), 1)), terms).fit()
    found, expected = fit.heritability(), maternal.heritability()
    np.testing.assert_allclose(found, expected, rtol=FIT_RTOL)
    assert found.index[:2].tolist() == [("heritability", "a"), ("heritability", "m")]
    np.testing.assert_allclose(fit.reliability("id"), maternal.reliability(), rtol=FIT_RTOL)
    shares = slm.RandomTerm(sp.csr_array(0.5 * Z[:, 0::2]), name="half", Q=P.precision())
    half = slm.LinearMixedModel.from_arrays(table.y, np.ones((len(table), 1)), [shares]).fit()
    with pytest.raises(slm.ModelError, match=r"\(1 \| half\): .* differs between rows"):
        half.heritability()


def test_heritability_beside_groups_of_unknown_parents():
    """That within groups, by hand: it was refused, as if the variance differed between rows. Errors: delta method."""
    rng = np.random.default_rng(3)
    sire, dam = (np.r_[np.zeros(20, dtype=int), 2 * rng.integers(0, 10, 100) + k] for k in (1, 2))
    P = slm.Pedigree(np.arange(1, 121), sire, dam, groups=np.where(np.arange(120) % 3, "old", "new"))
    table = pd.DataFrame({"animal": rng.integers(1, 121, 300), "herd": rng.integers(0, 10, 300)})
    effects = rng.normal(size=121)
    table["y"] = effects[table["animal"]] + rng.normal(size=10)[table["herd"]] + rng.normal(size=300)
    fit = slm.lmm("y ~ (1 | herd) + ped(1 | animal, P)", table, context={"P": P})
    sd = fit.varpar.to_numpy()
    at = fit.varpar.index.get_loc("sd_ped(Intercept)|animal")
    share = sd[at] ** 2 / (sd**2).sum()
    slopes = 2 * sd * ((np.arange(3) == at) - share) / (sd**2).sum()
    found = fit.heritability().loc[("heritability", "animal")]
    np.testing.assert_allclose(found, [share, np.sqrt(slopes @ fit.varpar_vcov.to_numpy() @ slopes)], rtol=1e-6)
