"""Moderated t and F tests: against limma, the tests of single fits, and dense sums."""

import json
import lzma
from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import sparselmm as slm
from tests.golden import FOLDER
from tests.many.references import ONE, responses, samples

LIMMA_RTOL = 1e-9
ROBUST_RTOL = 1e-7  # limma's search for d0 of a robust prior stops at 1e-8 of d0/(1 + d0), and some d0 here are 1,600
SINGLE_RTOL = 1e-5  # both searches stop at 1e-5 standard errors
DF_RTOL = 2e-4  # second derivatives are central differences of scores, here and there at other points
DENSE_RTOL = 1e-5  # central differences of a dense criterion
SETS = ("varied", "few", "five", "outliers", "equal", "same")
PAIR = ["f[T.b]", "f[T.c]"]


@cache
def limma():
    return json.loads(lzma.decompress((FOLDER / "limma.json.xz").read_bytes()))


@cache
def fitted(name):
    Y = np.array(limma()[name]["Y"], dtype=float)
    return slm.lmm_many("~ x + f", pd.DataFrame(limma()["samples"]), Y)


@pytest.mark.parametrize("how", ["plain", "trend", "robust", "given"])
@pytest.mark.parametrize("name", SETS)
def test_moderated_tests_are_limmas(name, how):
    """limma's F has one correlation for all responses, not that of a response with gaps: those are left out."""
    rtol = ROBUST_RTOL if how == "robust" else LIMMA_RTOL
    fits, expected = fitted(name), limma()[name][how]
    v = len(fits.responses)
    options = {
        "plain": {},
        "trend": {"trend": True},
        "robust": {"robust": True},
        "given": {"trend": np.arange(1, v + 1) ** 2},
    }
    t, F = (fits.top_table(what, **options[how]).sort_index() for what in ("x", PAIR))
    for column in ("estimate", "statistic", "p_value", "adj_p_value"):
        np.testing.assert_allclose(t[column], expected[column], rtol=rtol)
    df = np.array([float(x.replace("Inf", "inf")) for x in expected["df_prior"]]) + expected["df_residual"]
    df = np.minimum(df, np.sum(expected["df_residual"]))
    whole = fits.nobs == 24
    np.testing.assert_allclose(t["df"], df, rtol=rtol)
    np.testing.assert_allclose(F["den_df"], df, rtol=rtol)
    np.testing.assert_allclose(F["F"][whole], np.array(expected["F"])[whole], rtol=rtol)
    p = stats.f.sf(expected["F"], 2, df)  # limma's own p has more than the pooled degrees of freedom
    np.testing.assert_allclose(F["p_value"][whole], p[whole], rtol=rtol)
    np.testing.assert_allclose(fits.estimates.mean, expected["mean"], rtol=rtol)
    assert list(F.columns) == [*PAIR, "F", "num_df", "den_df", "p_value", "adj_p_value"] and (F["num_df"] == 2).all()


MODELS = {
    "one ratio": (ONE, {}),
    "ML": (ONE, {"reml": False}),
    "crossed": ("~ age + sex + trt + (1 | donor) + (1 | batch)", {}),
    "slopes": ("~ age + sex + trt + (1 + age | donor)", {}),
    "series": ("~ age + sex + trt + ar1(0 + t | donor)", {}),
    "weights": (ONE, {"weights": np.random.default_rng(1).uniform(0.3, 3.0, 500)}),
    "dropped": ("~ age + one + sex + trt + (1 | donor)", {}),
}


def table():
    return samples().assign(t=samples().groupby("donor").cumcount(), one=1.0)


@pytest.mark.parametrize("name", MODELS)
def test_f_tests_are_those_of_single_fits(name):
    formula, options = MODELS[name]
    Y = responses()[:, [0, 3, 7]].copy()
    Y[4:9, 2] = np.nan
    fits = slm.lmm_many(formula, table(), Y, contrasts={"both": {"age": 1.0, "trt": 2.0}}, **options)
    found = fits.top_table(["both", "trt", "sex[T.1]"], moderated=False).sort_index()
    for j, y in enumerate(Y.T):
        keep = np.isfinite(y)
        own = {key: x[keep] if isinstance(x, np.ndarray) else x for key, x in options.items()}
        fit = slm.lmm("y" + formula, table()[keep].assign(y=y[keep]), **own)
        names = list(fit.spec.fixed_names)
        L = np.zeros((3, len(names)))
        for row, weights in enumerate(({"age": 1.0, "trt": 2.0}, {"trt": 1.0}, {"sex[T.1]": 1.0})):
            L[row, [names.index(key) for key in weights]] = list(weights.values())
        expected = fit.test(L).iloc[0]
        np.testing.assert_allclose(found["F"][j], expected["F"], rtol=SINGLE_RTOL)
        np.testing.assert_allclose(found["den_df"][j], expected["den_df"], rtol=DF_RTOL)
        assert found["num_df"][j] == expected["num_df"] == 3


@pytest.mark.parametrize("formula", [ONE, "~ age + sex + trt + (1 | donor) + (1 | batch)"])
def test_weights_of_each_response(formula):
    Y, W = responses()[:, :2], np.random.default_rng(2).uniform(0.3, 3.0, (2, 500))
    found = slm.lmm_many(formula, samples(), Y, weights=W).top_table(["age", "trt"], moderated=False).sort_index()
    for j in range(2):
        fit = slm.lmm("y" + formula, samples().assign(y=Y[:, j]), weights=W[j])
        expected = fit.test(np.eye(4)[[1, 3]]).iloc[0]
        np.testing.assert_allclose(found["F"][j], expected["F"], rtol=SINGLE_RTOL)
        np.testing.assert_allclose(found["den_df"][j], expected["den_df"], rtol=DF_RTOL)


def test_a_pedigree_by_polynomials(monkeypatch):
    """`SparseRatio`, beside the spectral decomposition of the same model."""
    rng = np.random.default_rng(3)
    animals = [f"a{i}" for i in range(60)]
    parents = [[None] * 20 + list(rng.choice(animals[lo : lo + 10], 40)) for lo in (0, 10)]
    data = pd.DataFrame({"a": animals * 2, "x": rng.normal(size=120), "z": rng.normal(size=120)})
    Y, context = rng.normal(size=(120, 5)) + rng.normal(size=(60, 5))[np.tile(np.arange(60), 2)], {}
    context["P"] = slm.Pedigree(animals, *parents)
    formula = "~ x + z + ped(1 | a, P)"
    plain = slm.lmm_many(formula, data, Y, context=context)
    monkeypatch.setattr("sparselmm.many.spectral.DECOMPOSED", 10)
    other = slm.lmm_many(formula, data, Y, context=context)
    assert (plain.fixef != other.fixef).any()
    for one, two in zip(*(f.top_table(["x", "z"]).sort_index().to_numpy().T for f in (plain, other)), strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-6)  # of estimates near zero; polynomials are right to 1e-10


def test_f_tests_from_the_definition():
    """b'V^-1 b/2, and Fai & Cornelius' degrees of freedom from central differences of the dense REML criterion."""
    d, y = samples()[:120], responses()[:120, 2]
    fits = slm.lmm_many("~ age + trt + (1 | donor) + (1 | batch)", d, y[:, None])
    X = np.column_stack([np.ones(120), d["age"], d["trt"]]).astype(float)
    kernels = [np.equal.outer(d[g].to_numpy(), d[g].to_numpy()).astype(float) for g in ("donor", "batch")]
    kernels.append(np.eye(120))

    def vcov(v):
        return np.linalg.inv(X.T @ np.linalg.solve(sum(s * K for s, K in zip(v, kernels, strict=True)), X))

    v = np.array([*fits.varpar[0] ** 2, fits.sigma[0] ** 2])
    V = sum(s * K for s, K in zip(v, kernels, strict=True))
    P = np.linalg.inv(V) - np.linalg.solve(V, X) @ vcov(v) @ np.linalg.solve(V, X).T
    products = [P @ K for K in kernels]
    observed = [[2.0 * y @ A @ B @ P @ y - np.trace(A @ B) for B in products] for A in products]
    cov, b = 2.0 * np.linalg.inv(np.array(observed)), vcov(v) @ X.T @ np.linalg.solve(V, y)
    L = np.eye(3)[1:]
    size, E = np.linalg.eigh(L @ vcov(v) @ L.T)
    rows = E.T @ L
    step = 1e-4 * v.max()
    slopes = [(vcov(v + step * e) - vcov(v - step * e)) / (2.0 * step) for e in np.eye(3)]
    nu = []
    for row, f in zip(rows, size, strict=True):
        g = np.array([row @ S @ row for S in slopes])
        nu.append(2.0 * f**2 / (g @ cov @ g))
    total = sum(x / (x - 2.0) for x in nu)
    found = fits.top_table(["age", "trt"], moderated=False).iloc[0]
    np.testing.assert_allclose(found["F"], np.mean((rows @ b) ** 2 / size), rtol=DENSE_RTOL)
    np.testing.assert_allclose(found["den_df"], 2.0 * total / (total - 2.0), rtol=DENSE_RTOL)
    np.testing.assert_allclose(found["p_value"], stats.f.sf(found["F"], 2, found["den_df"]), rtol=1e-12)


def test_moderated_f_has_the_posterior_variance_and_the_priors_degrees_of_freedom():
    fits = slm.lmm_many(ONE, samples(), responses())
    t, one = (fits.top_table(what).sort_index() for what in ("age", ["age"]))
    np.testing.assert_allclose(one["F"], t["statistic"] ** 2, rtol=1e-10)
    np.testing.assert_allclose(one["den_df"], t["df"], rtol=1e-8)
    np.testing.assert_allclose(one["p_value"], t["p_value"], rtol=1e-8)
    plain, moderated = (fits.top_table(["age", "trt"], moderated=m).sort_index() for m in (False, True))
    posterior = (t["estimate"] / t["statistic"] / fits.fixef_se[:, 1]) ** 2
    np.testing.assert_allclose(moderated["F"], plain["F"] / posterior, rtol=1e-10)


def test_contrasts_that_depend_on_each_other_count_once():
    contrasts = {"sum": {"age": 1.0, "trt": 1.0}, "twice": {"age": 2.0}}
    fits = slm.lmm_many(ONE, samples(), responses(), contrasts=contrasts)
    found, expected = fits.top_table(["sum", "twice", "trt"]), fits.top_table(["age", "trt"])
    assert (found["num_df"] == 2).all() and list(found.index) == list(expected.index)
    np.testing.assert_allclose(found["F"], expected["F"], rtol=1e-10)


def test_without_degrees_of_freedom_f_is_chi_squared():
    fits = slm.lmm_many("~ age + trt + (1 | donor)", samples(), responses(), ddf="wald")
    table = fits.top_table(["age", "trt"], moderated=False)
    assert table["den_df"].isna().all()
    np.testing.assert_allclose(table["p_value"], stats.chi2.sf(2.0 * table["F"], 2), rtol=1e-10)


def test_a_response_without_a_fit_has_no_f():
    Y = responses().copy()
    Y[:, 3] = 1.0
    table = slm.lmm_many(ONE, samples(), Y).top_table(["age", "trt"], trend=True)
    assert table.index[-1] == 3 and table.loc[3, ["F", "den_df", "p_value"]].isna().all()
    assert table["p_value"].drop(3).notna().all()


def test_degrees_of_freedom_of_dropped_coefficients_are_none():
    """They were n where the variance is zero."""
    rng = np.random.default_rng(4)
    data = pd.DataFrame({"x": rng.normal(size=40), "g": np.arange(40) // 4}).assign(z=lambda d: 2.0 * d["x"])
    values = rng.normal(size=(40, 6))
    values -= pd.DataFrame(values).groupby(data["g"]).transform("mean").to_numpy()
    fits = slm.lmm_many("~ x + z + (1 | g)", data, values)
    assert (fits.varpar == 0.0).all() and np.isnan(fits.fixef[:, 2]).all() and np.isnan(fits.fixef_df[:, 2]).all()


@pytest.mark.parametrize(
    ("coef", "options", "message"),
    [
        (["age", "agee"], {}, "no coefficient or contrast 'agee'"),
        ([], {}, "no coefficients to test"),
        (3, {}, "no coefficient or contrast '3'"),
        ("age", {"trend": [1.0, 2.0]}, "a finite number for each of 12 responses"),
        ("age", {"trend": "mean"}, "a finite number for each of 12 responses"),
        ("age", {"trend": True, "robust": True}, "one prior for all responses"),
        ("age", {"robust": True, "moderated": False}, "leave moderated=False out"),
    ],
)
def test_tables_that_are_not_there(coef, options, message):
    fits = slm.lmm_many(ONE, samples(), responses(), ddf="wald")
    with pytest.raises(slm.SparselmmError, match=message):
        fits.top_table(coef, **options)


def test_a_coefficient_named_like_a_column_of_the_table():
    fits = slm.lmm_many("~ F + trt + (1 | donor)", samples().rename(columns={"age": "F"}), responses())
    assert fits.top_table("F").shape == (12, 6)
    with pytest.raises(slm.ModelError, match="'F' is a coefficient, and a column of this table"):
        fits.top_table(["F", "trt"])


def test_covariances_of_many_coefficients_are_not_kept():
    factor = pd.Categorical(np.arange(500) % 25)
    fits = slm.lmm_many("~ level + (1 | donor)", samples().assign(level=factor), responses()[:, :2])
    assert fits.estimates.vcov.shape == (2, 0)
    with pytest.raises(slm.ModelError, match="kept of up to 20, not of 25"):
        fits.top_table(["level[T.1]", "level[T.2]"])
