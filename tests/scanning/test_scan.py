"""`slm.scan` against explicit inverses, against the dense engine, and against fitting each marker again."""

from dataclasses import replace

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
from scipy import stats

import sparselmm as slm
from sparselmm.scanning import gaps, projection, run
from tests import naive
from tests.scanning.simulated import dense_marker, indicator, people, study

EXACT_RTOL = 1e-9  # explicit inverses of n x n matrices on the other side
SAME_RTOL = 1e-12  # the same sums, blocked otherwise
FIT_RTOL = 1e-5  # two searches, each within 1e-5 standard errors of the optimum
REASONS = {4: "no variation", 5: "no genotype is known"}  # of markers of `study`
UNTESTED = list(REASONS)


@pytest.fixture(scope="module")
def made():
    return study()


@pytest.fixture(scope="module")
def null(made):
    """Kinship, centres: V is one block, so that markers go through solves."""
    Q = slm.Known(made.K, kind="covariance", levels=made.ids)
    return slm.lmm("y ~ x + known(1 | id, Q) + (1 | centre)", made.data, context={"Q": Q})


@pytest.fixture(scope="module")
def family_null(made):
    """Kinship and a permanent effect of each person: V falls into families."""
    Q = slm.Known(made.K, kind="covariance", levels=made.ids)
    return slm.lmm("y ~ x + known(1 | id, Q)", made.data, context={"Q": Q})


def marginal(fit, made):
    """W = V / sigma^2 of both null models."""
    Z = indicator(people(made.data), len(made.ids))
    ratios = (fit.varpar / fit.sigma) ** 2
    parts, psi = [Z], [ratios["sd_known(Intercept)|id"] * made.K]
    if "sd_Intercept|centre" in ratios:
        parts, psi = [*parts, indicator(made.data.centre, 6)], [*psi, ratios["sd_Intercept|centre"] * np.eye(6)]
    return naive.marginal_cov(parts, psi, len(made.data))


def expected(fit, made, j, missing="mean", interact=False, test="wald"):
    g = made.genotypes[:, j]
    rows = ~np.isnan(g)[people(made.data)] if missing == "drop" else np.ones(len(made.data), bool)
    filled = np.where(np.isnan(g), np.nanmean(g), g)[people(made.data)]
    U = np.column_stack([filled, filled * made.data.x]) if interact else filled[:, None]
    return *dense_marker(fit, marginal(fit, made), U, rows, test), rows.sum()


@pytest.mark.parametrize("which", ["null", "family_null"])
@pytest.mark.parametrize("missing", ["mean", "drop"])
@pytest.mark.parametrize("interact", [None, "x"])
@pytest.mark.parametrize("test", ["wald", "score"])
def test_every_marker_is_the_textbooks(made, request, which, missing, interact, test):
    fit = request.getfixturevalue(which)
    table = slm.scan(fit, made.frame, sample="id", missing=missing, interact=interact, test=test).table
    c = 2 if interact else 1
    for j in np.setdiff1d(np.arange(len(table)), UNTESTED):
        beta, se, F, n = expected(fit, made, j, missing, bool(interact), test)
        row = table.iloc[j]
        names = ["", "_x"][:c]
        np.testing.assert_allclose([row[f"effect{s}"] for s in names], beta, rtol=EXACT_RTOL)
        np.testing.assert_allclose([row[f"se{s}"] for s in names], se, rtol=EXACT_RTOL)
        df = n - 2 - c
        p = stats.f.sf(F, c, df) if test == "wald" else stats.chi2.sf(F * c, c)
        assert row.p_value == pytest.approx(p, rel=EXACT_RTOL)
        assert row.statistic == pytest.approx(F if interact else beta[0] / se[0], rel=EXACT_RTOL)
        assert row["mean"] == pytest.approx(np.nanmean(made.genotypes[:, j])) and row.reason == ""
        assert row.n == np.isfinite(made.genotypes[:, j]).sum()


@pytest.mark.parametrize("which", ["null", "family_null"])
@pytest.mark.parametrize("missing", ["mean", "drop"])
@pytest.mark.parametrize("interact", [None, "x"])
@pytest.mark.parametrize("offset", [1e6, -1e8])
def test_a_large_mean_costs_no_digits(made, request, which, missing, interact, offset):
    """The textbook has the marker without it. Markers used to be refused here, and to have nine digits at 1e3."""
    fit = request.getfixturevalue(which)
    far = slm.scan(fit, made.frame + offset, sample="id", missing=missing, interact=interact).table
    near = slm.scan(fit, made.frame, sample="id", missing=missing, interact=interact).table
    for j in np.setdiff1d(np.arange(len(far)), UNTESTED):
        beta, se, _, _ = expected(fit, made, j, missing, bool(interact))
        names = ["", "_x"][: len(beta)]
        np.testing.assert_allclose([far[f"effect{s}"][j] for s in names], beta, rtol=EXACT_RTOL)
        np.testing.assert_allclose([far[f"se{s}"][j] for s in names], se, rtol=EXACT_RTOL)
    pd.testing.assert_frame_equal(far.drop(columns="mean"), near.drop(columns="mean"), rtol=EXACT_RTOL)
    np.testing.assert_allclose(far["mean"] - offset, near["mean"], atol=1e-15 * abs(offset))


@pytest.mark.parametrize("missing", ["mean", "drop"])
def test_a_large_mean_costs_no_digits_of_reestimated_markers(made, family_null, missing):
    frame, options = made.frame[["rs0", "rs7"]], {"sample": "id", "missing": missing, "reestimate": 1.0}
    near, far = (slm.scan(family_null, frame + offset, **options).table for offset in (0.0, 1e6))
    scale = near.se_lmm
    np.testing.assert_allclose((far.effect_lmm - near.effect_lmm) / scale, 0.0, atol=FIT_RTOL)
    np.testing.assert_allclose(far.se_lmm, scale, rtol=FIT_RTOL)


@pytest.mark.parametrize("formula", ["y ~ 0 + x + (1 | id)", "y ~ 1 + (1 | id)"])
def test_nothing_is_taken_off_a_marker_where_the_fixed_effects_would_notice(made, formula):
    """Without an intercept, or with the interaction of a covariate that is no fixed effect."""
    fit = slm.lmm(formula, made.data)
    W = naive.marginal_cov(
        [indicator(people(made.data), 75)], [(fit.varpar.iloc[0] / fit.sigma) ** 2 * np.eye(75)], len(made.data)
    )
    table = slm.scan(fit, made.frame, sample="id", interact={"x": made.data.x.to_numpy()}).table
    g = made.genotypes[:, 1]
    g = np.where(np.isnan(g), np.nanmean(g), g)[people(made.data)]
    U = np.column_stack([g, g * made.data.x])
    beta, se, _ = dense_marker(fit, W, U, np.ones(len(g), bool), "wald")
    np.testing.assert_allclose(table.loc[1, ["effect", "effect_x"]].astype(float), beta, rtol=EXACT_RTOL)
    np.testing.assert_allclose(table.loc[1, ["se", "se_x"]].astype(float), se, rtol=EXACT_RTOL)


def test_a_constant_and_rounding_do_not_vary(made, null):
    G = np.where(np.arange(75)[:, None] % 2 == 0, 0.3, 0.1 + 0.2) + np.array([[0.0, 1e6]])
    table = slm.scan(null, G, samples=made.ids, sample="id").table
    assert (table.reason == "no variation").all() and table.p_value.isna().all()


def test_markers_that_cannot_be_tested_have_a_reason(made, null):
    table = slm.scan(null, made.frame, sample="id").table
    assert table.reason.tolist() == [REASONS.get(j, "") for j in range(12)]
    assert table.loc[UNTESTED, ["effect", "se", "statistic", "p_value"]].isna().all(axis=None)


def test_a_marker_of_infinite_values_or_in_the_fixed_effects_has_a_reason(made):
    G = made.genotypes[:, :3].copy()
    data = made.data.assign(sex=G[people(made.data), 0] > 0)
    Q = slm.Known(made.K, kind="covariance", levels=made.ids)
    for formula in ("y ~ sex + known(1 | id, Q)", "y ~ sex + known(1 | id, Q) + (1 | centre)"):
        fit = slm.lmm(formula, data, context={"Q": Q})
        G[:, 1] = G[:, 0] > 0
        G[3, 2] = np.inf
        table = slm.scan(fit, pd.DataFrame(G, index=made.ids), sample="id").table
        assert table.reason.tolist() == ["", "depends linearly on the fixed effects", "infinite values"]
        assert table.p_value.isna().tolist() == [False, True, True]


@pytest.mark.parametrize("interact", [None, "x"])
def test_families_and_solves_agree(made, family_null, monkeypatch, interact):
    fast = slm.scan(family_null, made.frame, sample="id", interact=interact).table
    monkeypatch.setattr(projection, "LARGEST_FAMILY", 0)
    slow = slm.scan(family_null, made.frame, sample="id", interact=interact).table
    pd.testing.assert_frame_equal(fast, slow, rtol=EXACT_RTOL)


def test_which_models_fall_into_families(made, null, family_null):
    def families(fit):
        rows = people(made.data)
        whole = projection.PeopleProducts(
            projection.NullModel(fit), rows, np.arange(len(made.ids)), np.ones((len(rows), 1))
        )
        return whole.families

    assert families(null) is None
    assert families(family_null).sizes.tolist() == [3] and families(family_null).counts.tolist() == [25]


def test_a_variance_of_zero_joins_nobody(made):
    """Centres that do not matter leave families alone; the numbers are those without them."""
    Q = slm.Known(made.K, kind="covariance", levels=made.ids)
    formula, held = "y ~ x + known(1 | id, Q)", {"sd_known(Intercept)|id": 0.9, "sigma": 1.1}
    alone = slm.lmm(formula, made.data, context={"Q": Q}, fixed=held)
    both = slm.lmm(formula + " + (1 | centre)", made.data, context={"Q": Q}, fixed=held | {"sd_Intercept|centre": 0.0})
    rows = people(made.data)
    whole = projection.PeopleProducts(
        projection.NullModel(both), rows, np.arange(len(made.ids)), np.ones((len(rows), 1))
    )
    assert whole.families is not None
    pd.testing.assert_frame_equal(
        *(slm.scan(fit, made.frame, sample="id").table for fit in (both, alone)), rtol=EXACT_RTOL
    )


STRUCTURED = {
    "slopes and weights": ("y ~ x + (1 + x | id)", {"weights": "w"}),
    "serial residuals": ("y ~ x + (1 | centre)", {"residual": "ar1(t | id)"}),
    "serial effects": ("y ~ x + ar1(0 + t | id)", {}),
    "strata": ("y ~ x + (1 | id)", {"residual": "varident(half)"}),
    "no random effects": ("y ~ x", {}),
    "maximum likelihood": ("y ~ x + (1 | id) + (1 | centre)", {"reml": False}),
}


@pytest.fixture(scope="module")
def series():
    made = study(records=4, markers=3, gaps=0.0)
    rng = np.random.default_rng(8)
    data = made.data.sort_values("id", kind="stable", ignore_index=True)
    data = data.assign(t=data.groupby("id").cumcount(), w=rng.uniform(0.5, 2.0, len(data)), half=data.index % 2)
    data["y"] += 0.8 * rng.normal(size=len(made.ids))[people(data)] * data.x
    return replace(made, data=data)


@pytest.mark.parametrize("name", STRUCTURED)
@pytest.mark.parametrize("limit", [32, 0])
def test_structured_models_are_the_dense_engines(series, name, limit, monkeypatch):
    """The marker in the formula, every variance parameter held, by n x n matrices."""
    monkeypatch.setattr(projection, "LARGEST_FAMILY", limit)
    formula, options = STRUCTURED[name]
    fit = slm.lmm(formula, series.data, **options)
    table = slm.scan(fit, series.frame, sample=series.data.id, test="score").table
    data = series.data.assign(g=series.genotypes[people(series.data), 1])
    again = slm.lmm(
        formula.replace("~ x", "~ x + g"), data, fixed=fit.varpar.to_dict(), engine="dense", **options
    )  # fmt: skip
    assert table.effect[1] == pytest.approx(again.fixef["g"], rel=EXACT_RTOL)
    assert table.se[1] == pytest.approx(again.fixef_se["g"], rel=EXACT_RTOL)


def test_sparse_fixed_effects_and_intrinsic_terms(series):
    """A random walk over x in steps and dummies of the people's first records, against the same fit with the marker."""
    data, rng = series.data, np.random.default_rng(1)
    who = people(data)
    D = sp.csr_array((np.ones(40), (rng.permutation(len(data))[:40], np.repeat(np.arange(10), 4))), (len(data), 10))
    X = sp.hstack([sp.csr_array(np.column_stack([np.ones(len(data)), data.x])), D])
    terms = [slm.RandomTerm(who, name="id")]
    fit = slm.LinearMixedModel.from_arrays(data.y, X, terms).fit()
    g = series.genotypes[:, 1]
    table = slm.scan(fit, series.genotypes, sample=who, test="score").table
    again = slm.LinearMixedModel.from_arrays(data.y, sp.hstack([X, sp.csr_array(g[who][:, None])]), terms)
    again = again.fit(fixed=fit.varpar.to_dict())
    place = [i for i, name in enumerate(again.spec.fixed_names) if name == "x12"]
    assert table.effect[1] == pytest.approx(again.fixef.iloc[place[0]], rel=EXACT_RTOL)
    assert table.se[1] == pytest.approx(again.fixef_se.iloc[place[0]], rel=EXACT_RTOL)
    walk = "y ~ 1 + rw1(0 + step) + (1 | id)"
    data = data.assign(step=np.round(3 * data.x).astype(int), g=g[who])
    fit = slm.lmm(walk, data)
    table = slm.scan(fit, series.frame, sample="id", test="score").table
    again = slm.lmm(walk.replace("1 +", "1 + g +", 1), data, fixed=fit.varpar.to_dict())
    assert table.effect[1] == pytest.approx(again.fixef["g"], rel=EXACT_RTOL)
    assert table.se[1] == pytest.approx(again.fixef_se["g"], rel=EXACT_RTOL)


@pytest.mark.parametrize("missing", ["mean", "drop"])
@pytest.mark.parametrize("interact", [None, "x"])
def test_reestimated_markers_are_the_refitted_models(made, null, missing, interact):
    table = slm.scan(null, made.frame, sample="id", missing=missing, interact=interact, reestimate=1.0).table
    Q = slm.Known(made.K, kind="covariance", levels=made.ids)
    for j in (0, 7):
        g = made.genotypes[:, j][people(made.data)]
        data = made.data.assign(
            g=g if missing == "drop" else np.where(np.isnan(g), np.nanmean(made.genotypes[:, j]), g)
        )
        right = "x + g + x:g" if interact else "x + g"
        fit = slm.lmm(f"y ~ {right} + known(1 | id, Q) + (1 | centre)", data, context={"Q": Q})
        for suffix, name in [("", "g"), ("_x", "x:g")][: 2 if interact else 1]:
            scale = fit.fixef_se[name]
            assert table[f"effect_lmm{suffix}"][j] == pytest.approx(fit.fixef[name], abs=FIT_RTOL * scale)
            assert table[f"se_lmm{suffix}"][j] == pytest.approx(scale, rel=FIT_RTOL)
    assert table.loc[UNTESTED, "p_lmm"].isna().all()


@pytest.mark.parametrize("reader", [pd.DataFrame, pl.DataFrame])
def test_samples_by_a_column_of_the_table(made, reader):
    """Rows that the fit dropped, for a covariate, a group or the response, are left out of the column too."""
    rng = np.random.default_rng(2)
    table = made.data.assign(w=rng.uniform(0.5, 2.0, len(made.data)), half=made.data.x > 0)
    for name, rows in (("x", [3, 8]), ("y", [5]), ("centre", [7])):
        table.loc[rows, name] = np.nan
    table = table.rename(columns={"id": "who"})
    fit = slm.lmm("y ~ scale(x) + half + (1 | centre)", table, weights="w")
    there = table.drop(index=[3, 5, 7, 8])
    expected = slm.scan(fit, made.frame, sample=there.who).table
    found = slm.scan(fit, made.frame, sample="who", data=reader(table.to_dict("list"))).table
    pd.testing.assert_frame_equal(found, expected, check_exact=True)
    pd.testing.assert_frame_equal(slm.scan(fit, made.frame, sample="who", data=there).table, expected, check_exact=True)
    with pytest.raises(slm.ModelError, match="a column of data is needed; it has who, x"):
        slm.scan(fit, made.frame, sample="id", data=table)
    for other in (table.iloc[1:], table.assign(x=table.x[::-1].to_numpy())):
        with pytest.raises(slm.DataError, match="give the table of the fit"):
            slm.scan(fit, made.frame, sample="who", data=other)


def test_the_table_of_the_fit_is_known_by_its_response(made):
    """Rows in another order used to get other people's genotypes where the fixed part is an intercept."""
    table = made.data.assign(y=np.exp(made.data.y))
    fit = slm.lmm("log(y) ~ 1 + (1 | centre)", table)
    by_label = slm.scan(fit, made.frame, sample=table.id).table
    by_column = slm.scan(fit, made.frame, sample="id", data=table).table
    pd.testing.assert_frame_equal(by_column, by_label, check_exact=True)
    with pytest.raises(slm.DataError, match="150 of 150 rows .* the table of the fit as it was"):
        slm.scan(fit, made.frame, sample="id", data=table.sort_values("id"))
    arrays = slm.LinearMixedModel.from_arrays(made.data.y, np.ones((150, 1)), []).fit()
    with pytest.raises(slm.ModelError, match="data= is for models from formulas; give the ids of the 150 rows"):
        slm.scan(arrays, made.frame, sample="id", data=made.data)


@pytest.mark.parametrize("index", [range(1, 76), range(0, 150, 2), range(74, -1, -1)])
def test_whole_numbers_of_a_table_are_ids(made, index):
    """An index that pandas keeps as a range was taken for no index at all: everybody got a neighbour's genotype."""
    label = np.asarray(index)[people(made.data)]
    some = np.isin(label, np.asarray(index)[:74]) & (label < 74)  # whose labels are places too
    fit = slm.lmm("y ~ x + (1 | centre)", made.data[some])
    expected = slm.scan(fit, made.frame, sample=made.data.id[some]).table
    table = slm.scan(fit, pd.DataFrame(made.genotypes, index=index, columns=made.frame.columns), sample=label[some])
    pd.testing.assert_frame_equal(table.table, expected, check_exact=True)


def test_rows_without_the_time_of_a_residual_are_left_out_of_the_column(made):
    table = made.data.assign(when=np.random.default_rng(0).permutation(150).astype(float))
    table.loc[[2, 9], "when"] = np.nan
    fit = slm.lmm("y ~ x", table, residual="ou(when | centre)")
    by_label = slm.scan(fit, made.frame, sample=table.id.drop(index=[2, 9])).table
    pd.testing.assert_frame_equal(slm.scan(fit, made.frame, sample="id", data=table).table, by_label, check_exact=True)


@pytest.mark.parametrize("test", ["wald", "score"])
@pytest.mark.parametrize("interact", [None, "x"])
@pytest.mark.parametrize("options", [{}, {"reml": False}, {"fixed": {"sd_Intercept|id": 1.5}}])
def test_reestimated_tests_are_those_of_the_model_with_the_marker(made, test, interact, options):
    """By its criterion, with what was held; t and F of the fitted model's own coefficients, z and chi^2 / 2."""
    table = slm.scan(
        slm.lmm("y ~ x + (1 | id)", made.data, **options), made.frame[["rs7"]], sample="id", test=test,
        interact=interact, reestimate=1.0,
    ).table.loc[0]  # fmt: skip
    g = made.genotypes[:, 7]
    g = np.where(np.isnan(g), np.nanmean(g), g)[people(made.data)]
    names = ["g", "gx"][: 1 if interact is None else 2]
    fit = slm.lmm(f"y ~ x + {' + '.join(names)} + (1 | id)", made.data.assign(g=g, gx=g * made.data.x), **options)
    beta, V = fit.fixef[names], fit.vcov.loc[names, names]
    F, c = float(beta @ np.linalg.solve(V, beta)) / len(names), len(names)
    p = stats.f.sf(F, c, 150 - 2 - c) if test == "wald" else stats.chi2.sf(c * F, c)
    assert table.p_lmm == pytest.approx(p, rel=1e-4)  # of z, within 1e-5
    assert table.statistic_lmm == pytest.approx(F if interact else beta["g"] / fit.fixef_se["g"], rel=1e-4)


def test_only_hits_are_reestimated():
    made = study(effect=1.0, gaps=0.0)
    fit = slm.lmm("y ~ x + (1 | id)", made.data)
    table = slm.scan(fit, made.frame, sample="id", reestimate=1e-3).table
    hits = table.p_value < 1e-3
    assert hits[0] and not hits.all()
    assert (table.p_lmm.notna() == hits).all()


def test_blocks_and_threads_do_not_matter(made, null, family_null):
    for fit in (null, family_null):
        whole = slm.scan(fit, made.frame, sample="id").table
        for size in (1, 5):
            parts = slm.scan(fit, made.frame, sample="id", block=size).table
            pd.testing.assert_frame_equal(parts, whole, rtol=SAME_RTOL)
        slm.set_threads(1)
        try:
            pd.testing.assert_frame_equal(slm.scan(fit, made.frame, sample="id").table, whole, rtol=SAME_RTOL)
        finally:
            slm.set_threads(None)


def test_several_traits_in_one_pass(made, null, family_null):
    other = slm.lmm("z ~ x + (1 | id)", made.data.assign(z=made.data.y + made.data.x**2))
    both = slm.scan([null, other, family_null], made.frame, sample="id", block=5)
    assert both.traits == ("y", "z", "y.3")
    for name, fit in zip(both.traits, (null, other, family_null), strict=True):
        alone = slm.scan(fit, made.frame, sample="id").table
        mine = both.of(name).reset_index(drop=True)
        pd.testing.assert_frame_equal(mine.drop(columns="trait"), alone.drop(columns="trait"), rtol=SAME_RTOL)
    with pytest.raises(slm.ModelError, match="trait=None: one of 'y', 'z', 'y.3'"):
        both.lambda_gc()
    named = slm.lmm("`y.3` ~ x", made.data.rename(columns={"y": "y.3"}))
    assert slm.scan([named, null, null], made.frame, sample=made.data.id).traits == ("y.3", "y", "y.3.3")


def test_each_chromosome_has_its_own_null_model(made, null, family_null, tmp_path):
    info = pd.DataFrame({"marker": [f"rs{j}" for j in range(12)], "chromosome": [1] * 5 + [2] * 7})
    loco = slm.scan({1: null, 2: family_null}, made.genotypes, samples=made.ids, markers=info, sample="id", block=4)
    for chromosome, fit in ((1, null), (2, family_null)):
        mine = info.chromosome == chromosome
        alone = slm.scan(fit, made.genotypes, samples=made.ids, markers=info, sample="id").table
        pd.testing.assert_frame_equal(loco.table[mine], alone[mine], rtol=SAME_RTOL)
    with pytest.raises(slm.ModelError, match="no fit for chromosome '2'"):
        slm.scan({1: null}, made.genotypes, samples=made.ids, markers=info, sample="id", block=4, out=tmp_path / "scan")
    assert not (tmp_path / "scan").exists()  # it used to come when the scan got there
    blocks = [(info[:5], made.genotypes[:, :5]), (info[5:], made.genotypes[:, 5:])]
    with pytest.raises(slm.ModelError, match="block rs5 to rs11: there is no fit for chromosome '2'"):
        slm.scan({1: null}, iter(blocks), samples=made.ids, sample="id")
    with pytest.raises(slm.ModelError, match="markers with a chromosome"):
        slm.scan({1: null}, made.frame, sample="id")


def test_interactions_with_any_covariate(made, null):
    by_name = slm.scan(null, made.frame, sample="id", interact="x").table
    by_value = slm.scan(null, made.frame, sample="id", interact={"x": made.data.x}).table
    pd.testing.assert_frame_equal(by_name, by_value)


def test_rows_in_the_order_of_samples_and_dropped_rows():
    made = study(records=1)
    fit = slm.lmm("y ~ x + (1 | centre)", made.data)
    in_order = slm.scan(fit, made.genotypes[people(made.data)]).table
    by_id = slm.scan(fit, made.frame, sample=made.data.id).table
    pd.testing.assert_frame_equal(in_order.drop(columns="marker"), by_id.drop(columns="marker"), rtol=SAME_RTOL)
    fewer = slm.lmm("y ~ x + (1 | centre)", made.data.assign(x=made.data.x.where(made.data.index > 3)))
    with pytest.raises(slm.DataError, match=r"75 samples and the model 71 rows \(4 rows of the table were dropped\)"):
        slm.scan(fewer, made.genotypes)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"sample": "centre"}, slm.DataError, "6 of 6 samples of the model are not among the 75 .* '.', '.', '.', ..."),
        ({"sample": "nothing"}, slm.ModelError, r"no grouping factor of the model \(id, centre\)"),
        ({"sample": ["p0"]}, slm.DataError, "1 labels for the 150 rows"),
        ({"sample": None}, slm.ModelError, r"the genotypes have ids \('p0', 'p1', 'p2', ...\)"),
        ({"test": "lrt"}, slm.ModelError, "test='lrt': one of 'wald', 'score'"),
        ({"missing": "zero"}, slm.ModelError, "missing='zero'"),
        ({"reestimate": 2.0}, slm.ModelError, "reestimate=2.0"),
        ({"interact": "age"}, slm.ModelError, "no coefficient 'age'; there are Intercept, x"),
        ({"interact": {"z": [1.0]}}, slm.DataError, "'z' must be 150 finite numbers"),
        ({"block": -4}, slm.ModelError, "block=-4"),
        ({"block": True}, slm.ModelError, "block=True"),
        ({"reestimate": "a"}, slm.ModelError, "reestimate='a'"),
        ({"sample": np.zeros((150, 2))}, slm.ModelError, r"150 labels are needed, not an array of shape \(150, 2\)"),
        ({"sample": 3}, slm.ModelError, "labels are needed"),
        ({"interact": 3}, slm.ModelError, "interact=3: names of coefficients"),
        ({"interact": {"z": ["a"] * 150}}, slm.DataError, "'z' must be 150 finite numbers"),
        ({"interact": "Intercept"}, slm.ModelError, "Intercept and a constant depend on each other"),
        ({"interact": ["x", "x"]}, slm.ModelError, "x, x and a constant depend on each other"),
        ({"out": 3}, slm.DataError, "out=3: the path of a folder"),
        ({"genotypes": np.zeros((75, 0)), "samples": [f"p{i}" for i in range(75)]}, slm.DataError, "no markers"),
        ({"fit": []}, slm.ModelError, "an empty list"),
        ({"fit": [3]}, slm.ModelError, "a fitted model, a list"),
    ],
)
def test_bad_arguments(made, null, change, error, message):
    arguments = {"fit": null, "genotypes": made.frame, "sample": "id"} | change
    with pytest.raises(error, match=message):
        slm.scan(**arguments)


def test_samples_that_are_missing_or_twice(made, null):
    with pytest.raises(slm.DataError, match="2 of 75 samples of the model are not among the 73 of the genotypes"):
        slm.scan(null, made.frame.drop(index=["p3", "p60"]), sample="id")
    with pytest.raises(slm.DataError, match="1 ids of samples stand twice among the genotypes: 'p0'"):
        slm.scan(null, made.frame.rename(index={"p1": "p0"}), sample="id")
    more = pd.concat([made.frame, made.frame.iloc[:3].rename(index=lambda s: f"extra {s}")]).sample(
        frac=1, random_state=1
    )
    pd.testing.assert_frame_equal(
        slm.scan(null, more, sample="id").table, slm.scan(null, made.frame, sample="id").table, rtol=SAME_RTOL
    )


def test_a_marker_that_is_a_fixed_effect_but_for_missing_people(made):
    """It used to have an effect of rounding errors: its size was measured after the fixed effects were taken out."""
    z = np.repeat([1.0, 0.0], [30, 45])
    data = made.data.assign(z=z[made.data.id.str[1:].astype(int)])
    marker = np.where(np.arange(75) >= 60, np.nan, z)  # missing only where z is zero
    frame = pd.DataFrame({"rs0": marker, "rs1": 2.0 * marker, "rs2": 1.0 - marker}, index=made.ids)
    table = slm.scan(slm.lmm("y ~ x + z + (1 | id)", data), frame, sample="id", missing="drop").table
    assert (table.reason == "depends linearly on the fixed effects").all() and table.effect.isna().all()


def test_dropping_under_ml_cannot_be_reestimated(made):
    fit = slm.lmm("y ~ x + (1 | id)", made.data, reml=False)
    with pytest.raises(slm.ModelError, match="needs a fit by REML"):
        slm.scan(fit, made.frame, sample="id", missing="drop", reestimate=1.0)


def test_what_fails_for_one_marker_is_its_reason(made, null, monkeypatch):
    monkeypatch.setattr(gaps, "LARGEST", 0)
    table = slm.scan(null, made.frame, sample="id", missing="drop").table
    gappy = np.isnan(made.genotypes).any(axis=0) & ~np.isnan(made.genotypes).all(axis=0)
    gappy[4] = False
    assert gappy.any() and table.reason[gappy].str.fullmatch(r"missing in \d+ of 150 rows.*'drop'").all()
    assert table.p_value[gappy].isna().all() and (table.reason[~gappy].isin(["", *REASONS.values()])).all()

    def refuse(*arguments):
        raise slm.ModelError("no way")

    monkeypatch.setattr(run, "refit_with", refuse)
    table = slm.scan(null, made.frame, sample="id", reestimate=1.0).table
    assert table.reason[0] == "re-estimation: no way" and table.p_value.notna()[0] and table.p_lmm.isna().all()


def test_lambda_gc_is_the_median_over_its_expectation(made, null):
    scan = slm.scan(null, made.frame, sample="id", test="score")
    chi2 = scan.table.statistic.dropna() ** 2
    assert scan.lambda_gc() == pytest.approx(np.median(chi2) / 0.45493642311957283, rel=EXACT_RTOL)
    assert repr(scan) == "<sparselmm scan: 12 rows, 10 tested; traits: y>"
