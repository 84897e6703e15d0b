"""Several traits: against dense likelihoods and their optimum, other software, and the canonical transformation."""

from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest

import sparselmm as slm
from sparselmm.fitting import estimate
from sparselmm.likelihood import Likelihood
from sparselmm.multi.stack import stack
from tests import golden, naive
from tests.many.references import SHARED
from tests.multi.traits import Dense, grouped, herd, related

CRITERION_RTOL = 1e-9  # explicit inverses of n x n matrices on the other side
OPTIMUM_ATOL = 1e-6  # deviances of two searches
ESTIMATE_ATOL = 1e-3  # of standardised covariances: the dense search stops where the deviance is flat to 1e-8
NLME_LOSS = 1e-9  # relative: log-likelihoods
NLME_RTOL = 1e-4  # standard deviations: nlme stops within 1e-8 of its likelihood
BLUP_RTOL = 1e-6  # BLUPs at estimates that agree to 1e-9, V of condition 1e3 inverted
SCORE_ATOL = 1e-3  # central differences with step 1e-4 of a dense criterion, of 1e3 with rounding 1e-11
SAME_RTOL = 1e-7  # two searches: each ends within 1e-5 standard errors of the optimum
AVERAGE_RTOL = 1e-5  # differences of step 1e-6 through theta -> G
OBSERVED_RTOL = 0.03  # standard errors: average information beside observed, 240 records

PAIR, ANIMAL = ["t0", "t1"], "~ x + (1 | herd) + ped(1 | animal, P)"


@cache
def animals(traits=2, missing=0.25, per_animal=1, n=120):
    return herd(n=n, traits=traits, missing=missing, per_animal=per_animal)


@cache
def fitted(reml=True, traits=2, missing=0.25, per_animal=1, n=120):
    table, P = animals(traits, missing, per_animal, n)
    return slm.lmm_multi([f"t{j}" for j in range(traits)], ANIMAL, table, context={"P": P}, reml=reml)


def oracle(traits=2, missing=0.25, per_animal=1, n=120):
    table, P = animals(traits, missing, per_animal, n)
    X = np.column_stack([np.ones(len(table)), table.x])
    terms = [grouped(table.herd), related(table.animal, P)]
    return Dense(table, [f"t{j}" for j in range(traits)], X, terms)


def test_the_dense_criterion_is_the_textbooks():
    dense = oracle(n=40)
    G, R = [np.eye(2), [[1.0, 0.3], [0.3, 2.0]]], [[1.0, -0.4], [-0.4, 1.5]]
    for reml in (True, False):
        expected = naive.deviance(dense.y, dense.X, dense.V(G, R), reml)
        assert dense.deviance(G, R, reml) == pytest.approx(expected, rel=CRITERION_RTOL)


def criterion_agrees(fit, dense, *terms):
    found = dense.deviance([fit.G(t) for t in terms], fit.R.fillna(0.0), fit.reml)
    assert fit.deviance == pytest.approx(found, rel=CRITERION_RTOL)
    V = dense.V([fit.G(t) for t in terms], fit.R.fillna(0.0))
    beta, cov = naive.gls(dense.y, dense.X, V)
    np.testing.assert_allclose(fit.fixef.to_numpy().ravel(), beta, rtol=BLUP_RTOL)
    np.testing.assert_allclose(fit.vcov, cov, rtol=BLUP_RTOL, atol=1e-12)
    np.testing.assert_allclose(fit.fixef_se.to_numpy().ravel(), np.sqrt(np.diag(cov)), rtol=BLUP_RTOL)


# --- dense ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reml", [True, False])
def test_optimum_of_the_dense_likelihood(reml):
    """Pedigree, herds and missing cells; scipy's search over the dense criterion."""
    fit = fitted(reml, n=80)
    deviance, (G_herd, G_animal, R) = oracle(n=80).optimum([2, 2], 2, reml)
    assert fit.converged
    assert fit.deviance == pytest.approx(deviance, abs=OPTIMUM_ATOL)
    for found, expected in ((fit.G("herd"), G_herd), (fit.G("animal"), G_animal), (fit.R, R)):
        np.testing.assert_allclose(found, expected, atol=ESTIMATE_ATOL)


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("shape", [(2, 0.25, 1), (3, 0.3, 2), (4, 0.2, 2)])
def test_criterion_and_coefficients_at_the_estimates(shape, reml):
    criterion_agrees(fitted(reml, *shape), oracle(*shape), "herd", "animal")


def test_score_of_the_dense_criterion_is_zero():
    """By every covariance of three traits."""
    fit, dense = fitted(traits=3, missing=0.3, per_animal=2), oracle(traits=3, missing=0.3, per_animal=2)
    matrices = [fit.G("herd").to_numpy(), fit.G("animal").to_numpy(), fit.R.to_numpy()]
    for m in range(3):
        for i, j in zip(*np.triu_indices(3), strict=True):
            ends = []
            for step in (1e-4, -1e-4):
                moved = [M.copy() for M in matrices]
                moved[m][i, j] += step
                moved[m][j, i] = moved[m][i, j]
                ends.append(dense.deviance(moved[:2], moved[2]))
            assert abs(ends[0] - ends[1]) / 2e-4 < SCORE_ATOL


def test_blups_and_fitted_values():
    fit, dense = fitted(), oracle()
    table, P = animals()
    G, R = [fit.G("herd").to_numpy(), fit.G("animal").to_numpy()], fit.R.to_numpy()
    rest = np.linalg.inv(dense.V(G, R)) @ (dense.y - dense.X @ naive.gls(dense.y, dense.X, dense.V(G, R))[0])
    (Z,), A = related(table.animal, P)
    expected = (np.kron(G[1], A @ Z.T)[:, dense.there] @ rest).reshape(2, -1).T
    found = fit.ranef()["ped(1 | animal, P)"]
    assert list(found.columns) == PAIR and list(found.index) == list(P.ids)
    np.testing.assert_allclose(found, expected, rtol=BLUP_RTOL, atol=1e-9)
    (H,), _ = grouped(table.herd)
    herds = (np.kron(G[0], H.T)[:, dense.there] @ rest).reshape(2, -1).T
    X = np.column_stack([np.ones(len(table)), table.x])
    mean = X @ fit.fixef.to_numpy().T + H @ herds + Z @ expected
    some = table[PAIR].notna().any(axis=1).to_numpy()
    assert list(fit.fitted.index) == np.flatnonzero(some).tolist() and (~some).any()
    np.testing.assert_allclose(fit.fitted, mean[some], rtol=BLUP_RTOL, atol=1e-9)


def test_prediction_errors_of_breeding_values():
    fit, dense = fitted(), oracle()
    table, P = animals()
    G, V = fit.G("animal").to_numpy(), dense.V([fit.G("herd"), fit.G("animal")], fit.R)
    (Z,), A = related(table.animal, P)
    C = np.kron(G, Z @ A)[dense.there]
    error = np.kron(G, A) - C.T @ naive.projection(dense.X, V) @ C
    found = fit.ranef(se="prediction")["ped(1 | animal, P)"]
    np.testing.assert_allclose(
        found[["t0_se", "t1_se"]].to_numpy().T.ravel() ** 2, np.diag(error), rtol=BLUP_RTOL
    )  # fmt: skip


def test_slopes_and_weights():
    """(1 + x | herd): unstructured among four effects; weights of records."""
    table, _ = animals(missing=0.2, n=160)
    table = table.assign(w=np.exp(np.random.default_rng(4).normal(size=len(table)) / 2))
    fit = slm.lmm_multi(PAIR, "~ x + (1 + x | herd)", table, weights="w")
    X = np.column_stack([np.ones(len(table)), table.x])
    dense = Dense(table, PAIR, X, [grouped(table.herd, X.T)], table.w)
    assert list(fit.G().index) == ["t0", "t0:x", "t1", "t1:x"]
    criterion_agrees(fit, dense, "herd")
    by_array = slm.lmm_multi(PAIR, "~ x + (1 + x | herd)", table, weights=table.w.to_numpy())
    assert by_array.deviance == pytest.approx(fit.deviance, rel=SAME_RTOL)


def test_independent_slopes_are_terms_of_their_own():
    table, _ = animals(missing=0.2, n=160)
    fit = slm.lmm_multi(PAIR, "~ x + (1 + x || herd)", table)
    X = np.column_stack([np.ones(len(table)), table.x])
    dense = Dense(table, PAIR, X, [grouped(table.herd), grouped(table.herd, [table.x])])
    labels = list(fit.ranef())
    assert len(labels) == 2
    criterion_agrees(fit, dense, *labels)


def test_maternal_effects():
    """ped(1 | animal + dam, P): G of four, direct and maternal of two traits."""
    table, P = animals(missing=0.2, n=160)
    table = table.assign(mother=(table.animal + 1) // 2)
    fit = slm.lmm_multi(PAIR, "~ x + ped(1 | animal + mother, P)", table, context={"P": P})
    X = np.column_stack([np.ones(len(table)), table.x])
    ((Za,), A), ((Zm,), _) = related(table.animal, P), related(table.mother, P)
    dense = Dense(table, PAIR, X, [([Za, Zm], A)])
    criterion_agrees(fit, dense, None)


def test_predictions_of_new_rows():
    """Rows of the fit give its fitted values; an unknown herd counts as zero, or is refused."""
    table, P = animals(traits=2, missing=0.2, n=160)
    formula = "~ x + (1 + x || herd) + ped(1 | animal, P)"
    fit = slm.lmm_multi(PAIR, formula, table, context={"P": P})
    used = table.loc[fit.fitted.index]
    found = fit.predict(used.drop(columns=PAIR))
    pd.testing.assert_frame_equal(found, fit.fitted, rtol=1e-10)
    fixed = fit.fixef["Intercept"].to_numpy() + np.outer(used.x, fit.fixef["x"])
    np.testing.assert_allclose(fit.predict(used, re=False), fixed, rtol=1e-10)
    animal = fit.ranef()["ped(1 | animal, P)"].loc[used.animal].to_numpy()
    np.testing.assert_allclose(fit.predict(used.assign(herd=99)), fixed + animal, rtol=1e-10)
    np.testing.assert_allclose(fit.predict(used, re="animal"), fixed + animal, rtol=1e-10)
    with pytest.raises(slm.DataError, match="herd"):
        fit.predict(used.assign(herd=99), new_levels="error")
    with pytest.raises(slm.ModelError, match="new_levels='sample'"):
        fit.predict(used, new_levels="sample")


@pytest.mark.parametrize("formula", ["~ x + (1 + x | herd) + ped(1 | animal, P)", "~ x + (1 + x || herd)"])
def test_errors_and_intervals_of_predictions(formula):
    """k'C^-1 k by dense V: var(k (beta_hat, b_hat) - k (beta, b)); animals without records, unknown herds."""
    table, P = animals(traits=3, missing=0.4, n=160)
    names, genetic = ["t2", "t0", "t1"], "ped" in formula
    table = table.assign(w=np.exp(np.random.default_rng(4).normal(size=len(table)) / 2), t1=1e4 * table.t1)
    fit = slm.lmm_multi(names, formula, table, context={"P": P}, weights="w")
    new = table.iloc[[3, 50, 120, 7]].assign(herd=[2, 5, 99, 0], x=[0.3, -2.0, 1.0, 0.5], w=[0.5, 2.0, 1.0, 3.0])
    X, X_new = (np.column_stack([np.ones(len(d)), d.x]) for d in (table, new))
    H = [pd.Index(np.unique(table.herd)).get_indexer(d.herd) for d in (table, new)]
    Z, Z_new = (np.eye(8)[h] * (h >= 0)[:, None] for h in H)
    slopes, slopes_new = [Z, Z * X[:, [1]]], [Z_new, Z_new * X_new[:, [1]]]
    labels = list(fit.ranef())
    (own,), A = related(table.animal, P)
    (own_new,), _ = related(new.animal, P)
    whole = [(slopes, slopes_new, np.eye(8), X_new), ([own], [own_new], A, np.zeros((len(new), 1)))]
    apart = [([a], [b], np.eye(8), X_new[:, [i]]) for i, (a, b) in enumerate(zip(slopes, slopes_new, strict=True))]
    terms = whole if genetic else apart  # the last: what an unknown herd sees of its effects
    G = [fit.G(label).to_numpy() for label in labels]
    dense = Dense(table, names, X, [(old, K) for old, _, K, _ in terms], table.w)
    V = np.linalg.inv(dense.V(G, fit.R))
    C, rest = np.linalg.inv(dense.X.T @ V @ dense.X), H[1] < 0
    interval = fit.predict(new, interval="prediction", level=0.9)
    found = fit.predict(new, se=True)
    assert list(found.columns) == ["t2", "t2_se", "t0", "t0_se", "t1", "t1_se"] and list(found.index) == list(new.index)
    for t, name in enumerate(names):
        prior, cross = np.zeros(len(new)), np.zeros((len(new), 3 * len(table)))
        for Gk, (old, own, K, loads) in zip(G, terms, strict=True):
            r = len(old)
            for a, b in np.ndindex(r, r):
                prior += Gk[t * r + a, t * r + b] * np.einsum("ij,jk,ik->i", own[a], K, own[b])
                prior += rest * Gk[t * r + a, t * r + b] * loads[:, a] * loads[:, b]
                for u in range(3):
                    at = slice(u * len(table), (u + 1) * len(table))
                    cross[:, at] += Gk[t * r + a, u * r + b] * (own[a] @ K @ old[b].T)
        c = cross[:, dense.there]
        x = np.kron(np.eye(3)[t], X_new) - c @ V @ dense.X
        beta = fit.fixef.to_numpy().ravel()
        mean = np.kron(np.eye(3)[t], X_new) @ beta + c @ V @ (dense.y - dense.X @ beta)
        variance = prior - np.einsum("ij,jk,ik->i", c, V, c) + np.einsum("ij,jk,ik->i", x, C, x)
        np.testing.assert_allclose(found[name], mean, rtol=BLUP_RTOL)
        np.testing.assert_allclose(found[f"{name}_se"], np.sqrt(variance), rtol=BLUP_RTOL)
        half = 1.6448536269514722 * np.sqrt(variance + fit.R.loc[name, name] / new.w)
        np.testing.assert_allclose(interval[f"{name}_upper"] - mean, half, rtol=BLUP_RTOL)
        np.testing.assert_allclose(mean - interval[f"{name}_lower"], half, rtol=BLUP_RTOL)


@pytest.mark.parametrize("term", ["rw1(0 + time)", "ar1(0 + time | herd)", "(1 + x | herd) + ped(1 | animal, P)"])
def test_errors_of_predictions_are_those_of_the_rows_below_each_other(term):
    """The inner fit finds its own rows without being told of traits."""
    table, P = herd(n=160, traits=2, missing=0.2)
    table = table.assign(time=np.arange(len(table)) % 20)
    fit = slm.lmm_multi(["t1", "t0"], f"~ x + {term}", table, context={"P": P})
    inner = fit.fit.predict(se=True)
    cells = fit.stacked.spec.y.size
    record, trait = np.nonzero(fit.stacked.present[:, list(fit.stacked.order)])
    found = fit.predict(table.iloc[fit.stacked.rows], se=True)
    names = [fit.traits[t] for t in np.asarray(fit.stacked.order)[trait]]
    for column, key in (("", "fit"), ("_se", "se")):
        values = [found[name + column].iloc[i] / fit.scale[name] for i, name in zip(record, names, strict=True)]
        assert len(values) == cells
        np.testing.assert_allclose(values, inner[key], rtol=BLUP_RTOL, atol=1e-9)


def test_predictions_that_cannot_be_made_say_so():
    table, P = animals(missing=0.2, n=160)
    fit = slm.lmm_multi(PAIR, "~ x + ped(1 | animal, P)", table, context={"P": P}, weights=np.ones(len(table)))
    assert np.isfinite(fit.predict(table, interval="confidence").to_numpy()).all()
    with pytest.raises(slm.DataError, match="weights= was an array"):
        fit.predict(table, interval="prediction")
    with pytest.raises(slm.ModelError, match="interval='both'"):
        fit.predict(table, interval="both")
    with pytest.raises(slm.DataError, match="animal"):
        fit.predict(table.assign(animal=999), se=True)
    f = np.array(list("abc"))[np.arange(len(table)) % 3]
    table = table.assign(f=f, t1=table.t1.where(f != "c"))
    lacking = slm.lmm_multi(PAIR, "~ f + (1 | herd)", table)
    with pytest.warns(slm.SparselmmWarning, match="rows have a fixed part of 't1' that its records do not determine"):
        lacking.predict(table)


def with_many_levels():
    """A table whose factor of 120 levels becomes sparse columns, a fit of it, and the columns."""
    table, _ = animals(missing=0.05, n=240, per_animal=2)
    table = table.assign(f=[f"f{i % 120}" for i in range(len(table))])
    fit = slm.lmm_multi(PAIR, "~ x + f + (1 | herd)", table)
    assert fit.stacked.spec.S is not None
    X = np.column_stack([np.ones(len(table)), pd.get_dummies(table.f).to_numpy(float)[:, 1:], table.x])
    return table, fit, X


def test_errors_of_predictions_with_sparse_fixed_effects():
    """The same from dense columns of an X given to `lmm` in the long form."""
    table, fit, X = with_many_levels()
    dense = Dense(table, PAIR, X, [grouped(table.herd)])
    V = dense.V([fit.G()], fit.R)
    new, p = slice(0, 5), X.shape[1]
    (Z,), _ = grouped(table.herd)
    c = np.kron(fit.G().to_numpy()[1], Z[new] @ Z.T)[:, dense.there]
    x = np.column_stack([np.zeros((5, p)), X[new]]) - c @ np.linalg.solve(V, dense.X)
    variance = fit.G().iloc[1, 1] - np.einsum("ij,ji->i", c, np.linalg.solve(V, c.T))
    variance += np.einsum("ij,ji->i", x, np.linalg.solve(dense.X.T @ np.linalg.solve(V, dense.X), x.T))
    np.testing.assert_allclose(fit.predict(table[new], se=True)["t1_se"], np.sqrt(variance), rtol=BLUP_RTOL)


# --- what never meets, what is missing --------------------------------------------------------------------


def apart():
    """t0 of males, t1 of females, t2 of all."""
    table, P = herd(n=150, traits=3, missing=0.0)
    male = np.arange(len(table)) % 2 == 0
    return table.assign(t0=table.t0.where(male), t1=table.t1.where(~male)), P


def test_two_traits_that_never_meet():
    """R is diagonal; the genetic correlation comes from relatives."""
    table, P = apart()
    fit = slm.lmm_multi(PAIR, ANIMAL, table, context={"P": P})
    X = np.column_stack([np.ones(len(table)), table.x])
    dense = Dense(table, PAIR, X, [grouped(table.herd), related(table.animal, P)])
    assert np.isnan(fit.R.loc["t0", "t1"]) and np.isnan(fit.R_se.loc["t0", "t1"])
    assert ("Residual", "t0", "t1") not in fit.correlations().index
    assert np.isfinite(fit.correlations().loc[("ped(1 | animal, P)", "t0", "t1"), "std_error"])
    criterion_agrees(fit, dense, "herd", "animal")


@pytest.mark.parametrize("order", [["t0", "t1", "t2"], ["t2", "t1", "t0"]])
def test_a_third_trait_that_meets_both(order):
    """Whatever stands at the pair that never meets: any of it gives the same likelihood."""
    table, P = apart()
    fit = slm.lmm_multi(order, ANIMAL, table, context={"P": P})
    X = np.column_stack([np.ones(len(table)), table.x])
    dense = Dense(table, order, X, [grouped(table.herd), related(table.animal, P)])
    R = fit.R
    assert R.isna().to_numpy().sum() == 2 and np.isnan(R.loc["t0", "t1"])
    R.loc["t0", "t1"] = R.loc["t1", "t0"] = R.loc["t0", "t2"] * R.loc["t1", "t2"] / R.loc["t2", "t2"]
    found = dense.deviance([fit.G("herd"), fit.G("animal")], R)
    assert fit.deviance == pytest.approx(found, rel=CRITERION_RTOL)


def test_a_trait_missing_in_a_whole_group():
    """No t1 in herd 3, nothing at all in herd 5."""
    table, P = animals(n=150)
    table = table.assign(t1=table.t1.where(table.herd != 3))
    table.loc[table.herd == 5, PAIR] = np.nan
    fit = slm.lmm_multi(PAIR, ANIMAL, table, context={"P": P})
    assert fit.n_dropped["without a trait"] == table[PAIR].isna().all(axis=1).sum()
    used = table[table.herd != 5]
    X = np.column_stack([np.ones(len(used)), used.x])
    dense = Dense(used, PAIR, X, [grouped(used.herd), related(used.animal, P)])
    criterion_agrees(fit, dense, "herd", "animal")
    herds = fit.ranef()["(1 | herd)"]
    assert 5 not in herds.index and np.isfinite(herds.loc[3, "t1"]) and herds.loc[3, "t1"] != 0.0


def test_records_that_are_left_out_change_nothing():
    table, P = animals()
    gaps = table.copy()
    gaps.loc[[3, 10], "x"] = np.nan
    fit = slm.lmm_multi(PAIR, ANIMAL, gaps, context={"P": P})
    kept = slm.lmm_multi(PAIR, ANIMAL, table.drop(index=[3, 10]), context={"P": P})
    assert fit.deviance == pytest.approx(kept.deviance, rel=SAME_RTOL)
    assert fit.n_dropped.to_dict() == {
        "without a trait": table[PAIR].isna().all(axis=1).sum(), "incomplete": 2,
    }  # fmt: skip
    assert int(fit.nobs.sum()) == fit.fit.nobs and fit.n_records == len(fit.fitted)


# --- the canonical transformation -------------------------------------------------------------------------


def test_complete_data_by_the_canonical_transformation():
    """With Q R Q' = I and Q G Q' = diag(l), Y Q' are independent traits of variances l and 1 (Thompson 1977)."""
    table, P = animals(traits=3, missing=0.0, n=150)
    names = ["t0", "t1", "t2"]
    fit = slm.lmm_multi(names, "~ x + ped(1 | animal, P)", table, context={"P": P})
    L = np.linalg.inv(np.linalg.cholesky(fit.R))
    values, U = np.linalg.eigh(L @ fit.G().to_numpy() @ L.T)
    Q = U.T @ L
    X = np.column_stack([np.ones(len(table)), table.x])
    (Z,), A = related(table.animal, P)
    Y = table[names].to_numpy() @ Q.T
    each = [naive.deviance(y, X, v * Z @ A @ Z.T + np.eye(len(table)), True) for y, v in zip(Y.T, values, strict=True)]
    jacobian = -2 * (len(table) - X.shape[1]) * np.log(abs(np.linalg.det(Q)))
    assert fit.deviance == pytest.approx(sum(each) + jacobian, rel=CRITERION_RTOL)
    lower = slm.lmm("c ~ x + ped(1 | animal, P)", table.assign(c=Y[:, 0]), context={"P": P})
    assert lower.deviance == pytest.approx(each[0], rel=CRITERION_RTOL)  # each is at its own optimum


def test_without_random_terms_it_is_multivariate_regression():
    """Complete data: B by least squares, R = E'E/(n - p)."""
    table, _ = animals(traits=3, missing=0.0)
    names = ["t0", "t1", "t2"]
    fit = slm.lmm_multi(names, "~ x", table)
    X = np.column_stack([np.ones(len(table)), table.x])
    B = np.linalg.lstsq(X, table[names].to_numpy())[0]
    E = table[names].to_numpy() - X @ B
    np.testing.assert_allclose(fit.fixef.to_numpy(), B.T, rtol=BLUP_RTOL)
    np.testing.assert_allclose(fit.R, E.T @ E / (len(table) - 2), rtol=1e-5)


# --- other software ---------------------------------------------------------------------------------------

# nlme 3.1-162, R 4.2.2: lme(y ~ 0 + trait + trait:sex, random = ~ 0 + trait | school, correlation =
# corSymm(form = ~ t | school/id), weights = varIdent(form = ~ 1 | trait)) on the stacked mlmRev_Exam without standLRT
# of every pupil whose number is divisible by 7 and normexam of those that leave 3 when divided by 11. glmmTMB 1.1.5
# (dispformula = ~ 0 and a random effect a pupil) finds -9176.741988 and -9167.41995014.
NLME = {
    True: {
        "loglik": -9176.74202348893,
        "school": ([0.4052860, 0.3070495], 0.747),
        "residual": (0.9169741854, np.exp(0.03734061703)),
        "fixef": [0.09237858964, -0.25277526932, 0.03703576743, -0.14470555730],
        "se": [0.05609039017, 0.04163201044, 0.04572280116, 0.04240347818],
    },
    False: {
        "loglik": -9167.41995015144,
        "school": ([0.4014833, 0.3037772], 0.749),
        "residual": (0.9168584843, np.exp(0.03734980153)),
        "fixef": [0.09245169786, -0.25276682528, 0.03701150837, -0.14443807912],
        "se": None,
    },
}
PUPILS = 0.5763  # glmmTMB's correlation of the residuals: 0.576325 and 0.576294


@cache
def exam():
    table = golden.load("mlmRev_Exam")
    number = np.arange(1, len(table) + 1)
    return table.assign(standLRT=table.standLRT.where(number % 7 != 0), normexam=table.normexam.where(number % 11 != 3))


@pytest.mark.parametrize("reml", [True, False])
def test_nlme_and_glmmtmb(reml):
    ref, fit = NLME[reml], slm.lmm_multi(["normexam", "standLRT"], "~ sex + (1 | school)", exam(), reml=reml)
    assert fit.loglik >= ref["loglik"] - NLME_LOSS * abs(ref["loglik"])
    assert fit.loglik == pytest.approx(ref["loglik"], rel=1e-8)
    sd, r = ref["school"]
    np.testing.assert_allclose(np.sqrt(np.diag(fit.G())), sd, rtol=NLME_RTOL)
    cor = fit.correlations()["estimate"]
    assert cor.iloc[0] == pytest.approx(r, abs=1e-3)
    assert cor["Residual"].iloc[0] == pytest.approx(PUPILS, abs=1e-4)
    sigma, ratio = ref["residual"]
    np.testing.assert_allclose(np.sqrt(np.diag(fit.R)), [sigma, sigma * ratio], rtol=NLME_RTOL)
    np.testing.assert_allclose(fit.fixef.to_numpy().ravel(), ref["fixef"], atol=1e-5)
    if ref["se"]:
        np.testing.assert_allclose(fit.fixef_se.to_numpy().ravel(), ref["se"], rtol=NLME_RTOL)


@pytest.mark.skipif(not (SHARED / "BTdata.csv").exists(), reason="the blue tits are not part of the project")
def test_blue_tits():
    """The dense criterion at the estimates, and one trait alone: variances of tests by dense algebra."""
    table = pd.read_csv(SHARED / "BTdata.csv")
    ped = pd.read_csv(SHARED / "BTped.csv")
    P = slm.Pedigree(ped["animal"], ped["sire"], ped["dam"])
    formula = "~ sex + hatchdate + (1 | fosternest) + ped(1 | animal, P)"
    fit = slm.lmm_multi(["tarsus", "back"], formula, table, context={"P": P})
    sex = pd.get_dummies(table.sex).to_numpy(float)[:, 1:]
    X = np.column_stack([np.ones(len(table)), sex, table.hatchdate])
    dense = Dense(table, ["tarsus", "back"], X, [grouped(table.fosternest), related(table.animal, P)])
    criterion_agrees(fit, dense, "fosternest", "animal")
    alone = {"tarsus": (0.44138, 0.07024, 0.34711), "back": (0.13019, 0.11917, 0.74057)}
    for trait, (animal, nest, residual) in alone.items():  # a second trait moves them by far less than their errors
        for found, se, expected in (
            (fit.G("animal"), fit.G_se("animal"), animal),
            (fit.G("fosternest"), fit.G_se("fosternest"), nest),
            (fit.R, fit.R_se, residual),
        ):
            assert abs(found.loc[trait, trait] - expected) < 0.3 * se.loc[trait, trait]
    assert -0.9 < fit.correlations().loc[("ped(1 | animal, P)", "tarsus", "back"), "estimate"] < -0.2


# --- standard errors --------------------------------------------------------------------------------------


def test_standard_errors_beside_the_observed_information():
    fit, dense = fitted(n=240, missing=0.1, per_animal=2), oracle(n=240, missing=0.1, per_animal=2)
    at = [(m, i, j) for m in range(3) for i, j in zip(*np.triu_indices(2), strict=True)]
    matrices = [fit.G("herd").to_numpy(), fit.G("animal").to_numpy(), fit.R.to_numpy()]

    def deviance(x):
        out = [np.zeros((2, 2)) for _ in range(3)]
        for (m, i, j), value in zip(at, x, strict=True):
            out[m][i, j] = out[m][j, i] = value
        return dense.deviance(out[:2], out[2])

    x = np.array([matrices[m][i, j] for m, i, j in at])
    cov = 2 * np.linalg.inv(naive.numeric_hessian(deviance, x, 1e-3))
    errors = [fit.G_se("herd"), fit.G_se("animal"), fit.R_se]
    found = [errors[m].to_numpy()[i, j] for m, i, j in at]
    np.testing.assert_allclose(found[3:], np.sqrt(np.diag(cov))[3:], rtol=OBSERVED_RTOL)


@pytest.mark.parametrize("reml", [True, False])
def test_standard_errors_are_those_of_average_information(reml):
    """All of G and R: inverse of y'P V_i P V_j P y / 2, V_i = dV by each covariance, dense (Gilmour et al. 1995)."""
    fit, dense = fitted(reml, n=240, missing=0.1, per_animal=2), oracle(n=240, missing=0.1, per_animal=2)
    matrices = [fit.G("herd").to_numpy(), fit.G("animal").to_numpy(), fit.R.to_numpy()]
    P = naive.projection(dense.X, dense.V(matrices[:2], matrices[2]))
    Py, F = P @ dense.y, []
    at = [(m, i, j) for m in range(3) for i, j in zip(*np.triu_indices(2), strict=True)]
    for m, i, j in at:
        units = np.zeros((3, 2, 2))
        units[m, i, j] = units[m, j, i] = 1.0
        F.append(dense.V(units[:2], units[2]) @ Py)
    expected = np.sqrt(np.diag(np.linalg.inv(np.array(F) @ P @ np.array(F).T / 2)))
    errors = [M.to_numpy() for M in (fit.G_se("herd"), fit.G_se("animal"), fit.R_se)]
    np.testing.assert_allclose([errors[m][i, j] for m, i, j in at], expected, rtol=AVERAGE_RTOL)


def test_derived_quantities_by_hand():
    """Correlations and heritabilities from G and R, and their errors by differences of the delta method."""
    fit = fitted(n=240, missing=0.1, per_animal=2)
    H, G, R = (M.to_numpy() for M in (fit.G("herd"), fit.G("animal"), fit.R))
    table = fit.heritability()
    total = np.diag(H + G + R)
    for i, trait in enumerate(PAIR):
        assert table.loc[(trait, "heritability", "animal"), "estimate"] == pytest.approx(G[i, i] / total[i])
        shares = table.loc[(trait, "share"), "estimate"]
        assert shares.sum() == pytest.approx(1.0)
        assert list(shares.index) == ["(1 | herd)", "ped(1 | animal, P)", "Residual"]
    without = fit.heritability(exclude="herd")
    assert without.loc[("t0", "heritability", "animal"), "estimate"] == pytest.approx(G[0, 0] / (G + R)[0, 0])
    cor = fit.correlations()
    assert cor.loc[("Phenotypic", "t0", "t1"), "estimate"] == pytest.approx((H + G + R)[0, 1] / np.sqrt(total.prod()))
    one = cor.loc[("ped(1 | animal, P)", "t0", "t1")]
    assert one["estimate"] == pytest.approx(G[0, 1] / np.sqrt(G[0, 0] * G[1, 1]))
    varpar = fit.fit.varpar_se.filter(like="cor_ped")
    assert one["std_error"] == pytest.approx(varpar.iloc[0], rel=1e-5)


def test_heritability_is_near_that_of_one_trait():
    """A correlated second trait adds little to what complete records say of the first one's heritability."""
    fit = fitted(n=240, missing=0.0, per_animal=2)
    table, P = animals(missing=0.0, per_animal=2, n=240)
    one = slm.lmm("t0 ~ x + (1 | herd) + ped(1 | animal, P)", table, context={"P": P}).heritability()
    found = fit.heritability().loc[("t0", "heritability", "animal")]
    expected = one.loc[("heritability", "animal")]
    assert found["std_error"] == pytest.approx(expected["std_error"], rel=0.2)
    assert abs(found["estimate"] - expected["estimate"]) < 0.3 * expected["std_error"]


# --- invariance, starts, edges ----------------------------------------------------------------------------


def test_units_of_the_traits():
    """t1 in millionths and far from zero: everything follows, the deviance by the Jacobian."""
    table, P = animals()
    fit, other = fitted(), slm.lmm_multi(PAIR, ANIMAL, table.assign(t1=1e6 * table.t1 - 3e8), context={"P": P})
    unit = np.array([1.0, 1e6])
    count = table.t1.notna().sum() - 2
    assert other.deviance == pytest.approx(fit.deviance + 2 * count * np.log(1e6), rel=SAME_RTOL)
    np.testing.assert_allclose(other.G("animal"), fit.G("animal") * np.outer(unit, unit), rtol=1e-4)
    np.testing.assert_allclose(other.R_se, fit.R_se * np.outer(unit, unit), rtol=1e-3)
    np.testing.assert_allclose(other.fixef["x"], fit.fixef["x"] * unit, rtol=1e-4)
    numbers = ["estimate", "std_error"]
    np.testing.assert_allclose(other.correlations()[numbers], fit.correlations()[numbers], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(other.coef_table()["t"].iloc[[1, 3]], fit.coef_table()["t"].iloc[[1, 3]], rtol=1e-4)


def test_order_of_traits_and_rows_and_kind_of_table():
    import polars as pl

    table, P = animals(traits=3, missing=0.3, per_animal=2)
    fit = fitted(traits=3, missing=0.3, per_animal=2)
    back = slm.lmm_multi(["t2", "t0", "t1"], ANIMAL, table.sample(frac=1.0, random_state=2), context={"P": P})
    other = slm.lmm_multi(["t0", "t1", "t2"], ANIMAL, pl.from_pandas(table), context={"P": P})
    names = ["t0", "t1", "t2"]
    for left in (back, other):
        assert left.deviance == pytest.approx(fit.deviance, rel=SAME_RTOL)
        np.testing.assert_allclose(left.R.loc[names, names], fit.R, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(left.fixef.loc[names], fit.fixef, rtol=1e-3, atol=1e-4)
    assert list(back.G("animal").index) == ["t2", "t0", "t1"] and list(back.scale.index) == ["t2", "t0", "t1"]


@pytest.mark.parametrize("traits", [2, 3])
def test_every_start_ends_at_the_same_optimum(traits):
    table, P = animals(traits=traits, per_animal=2)
    stacked = stack([f"t{j}" for j in range(traits)], ANIMAL, table, context={"P": P})
    likelihood = Likelihood(stacked.spec)
    best = fitted(traits=traits, per_animal=2).fit.deviance
    rng = np.random.default_rng(5)
    ends = likelihood.parameters.residual_slice
    for size in (1e-2, 0.3, 1.0, 3.0, 30.0):
        roots = [size * (np.eye(traits) + 0.3 * rng.normal(size=(traits, traits))) for _ in range(2)]
        theta = likelihood.parameters.start(roots)
        theta[ends] += rng.normal(scale=0.4, size=ends.stop - ends.start)
        found = estimate(likelihood, start=theta)
        assert found.converged
        assert found.evaluation.deviance == pytest.approx(best, abs=OPTIMUM_ATOL)


def test_a_genetic_correlation_of_one_is_reported():
    """Means of groups are proportional, noise in them is not: by moments the correlation is above one."""
    rng = np.random.default_rng(3)
    table, _ = herd(n=200, traits=2, missing=0.0)
    g, group = rng.normal(size=20), np.arange(200) % 20
    noise = pd.DataFrame(rng.normal(size=(200, 2)) @ [[1.0, -0.5], [0.0, 1.0]])
    noise -= noise.groupby(group).transform("mean")
    table = table.assign(group=group, t0=g[group] + noise[0], t1=2 * g[group] + noise[1])
    fit = slm.lmm_multi(PAIR, "~ x + (1 | group)", table)
    row = fit.correlations().loc[("(1 | group)", "t0", "t1")]
    assert fit.is_singular and fit.converged
    assert row["boundary"] and row["estimate"] == pytest.approx(1.0) and np.isnan(row["std_error"])
    assert "correlation of t0 and t1 in (1 | group) is 1" in fit.summary()
    X = np.column_stack([np.ones(len(table)), table.x])
    deviance, _ = Dense(table, PAIR, X, [grouped(table.group)]).optimum([2], 2)
    assert fit.deviance == pytest.approx(deviance, abs=OPTIMUM_ATOL)


def test_a_variance_of_zero_is_reported():
    """Less variance between herds than chance in both traits: G = 0."""
    table, _ = herd(n=200, traits=2, missing=0.0)
    table[PAIR] -= table.groupby("herd")[PAIR].transform("mean")
    fit = slm.lmm_multi(PAIR, "~ x + (1 | herd)", table)
    assert fit.is_singular and (fit.G() == 0.0).all(axis=None) and fit.G_se().isna().all(axis=None)
    assert "no variance of t0 in (1 | herd), no variance of t1 in (1 | herd)" in fit.summary()
    assert np.isnan(fit.correlations().loc[("(1 | herd)", "t0", "t1"), "estimate"])
    X = np.column_stack([np.ones(len(table)), table.x])
    criterion_agrees(fit, Dense(table, PAIR, X, [grouped(table.herd)]), "herd")


def test_a_residual_covariance_of_less_than_full_rank():
    """Three traits, one record an animal: the residual determines a trait by the two others, no pair alone does."""
    table, P = herd(n=120, traits=3, missing=0.3)
    names = ["t0", "t1", "t2"]
    fit = slm.lmm_multi(names, ANIMAL, table, context={"P": P})
    assert fit.is_singular and fit.converged and not fit.correlations()["boundary"].any()
    assert "a covariance matrix is not of full rank" in fit.summary()
    assert np.linalg.eigvalsh(fit.R)[0] == pytest.approx(0.0, abs=1e-8)
    X = np.column_stack([np.ones(len(table)), table.x])
    dense = Dense(table, names, X, [grouped(table.herd), related(table.animal, P)])
    found = dense.deviance([fit.G("herd"), fit.G("animal")], fit.R)
    assert fit.deviance == pytest.approx(found, abs=10 * OPTIMUM_ATOL)  # R stops at 1e-6 of its end


@pytest.mark.parametrize("seed", [9, 10, 14])
def test_searches_that_stalled_beside_a_singular_residual(seed):
    """Four traits of 100 records, one an animal: 10 and 14 said that they did not converge, 9 took 5 s."""
    table, P = herd(n=100, traits=4, missing=0.2, seed=seed)
    names = [f"t{j}" for j in range(4)]
    fit = slm.lmm_multi(names, ANIMAL, table, context={"P": P})
    assert fit.converged and fit.is_singular
    X = np.column_stack([np.ones(len(table)), table.x])
    dense = Dense(table, names, X, [grouped(table.herd), related(table.animal, P)])
    G = [fit.G("herd").to_numpy(), fit.G("animal").to_numpy()]
    full = fit.R + 1e-7 * np.eye(4)  # the limit is singular
    assert fit.deviance == pytest.approx(dense.deviance(G, full), abs=100 * OPTIMUM_ATOL)
    for M, change in ((0, 0.97), (0, 1.03), (1, 0.97), (1, 1.03)):
        moved = [V * (change if m == M else 1.0) for m, V in enumerate(G)]
        assert dense.deviance(moved, full) > fit.deviance


@pytest.mark.parametrize("order", [["t0", "t1"], ["t1", "t0"]])
def test_a_trait_that_random_effects_fit_exactly(order):
    """t1 is a constant of each group: the likelihood has no bound, whichever trait is the reference."""
    rng = np.random.default_rng(1)
    group = np.repeat(np.arange(40), 4)
    h = rng.normal(size=(40, 2))
    table = pd.DataFrame({"group": group, "t0": h[group, 0] + rng.normal(size=160), "t1": h[group, 1]})
    with pytest.raises(slm.ModelError, match="trait 't1' is fitted exactly.*drop a term"):
        slm.lmm_multi(order, "~ 1 + (1 | group)", table)


@pytest.mark.parametrize("order", [["t0", "t1"], ["t1", "t0"]])
def test_a_residual_correlation_of_minus_one_is_reported(order):
    """t1 is a breeding value, seen once an animal: R of rank one is the optimum."""
    table, P = herd(n=150, missing=0.0)
    rng = np.random.default_rng(0)
    A = np.linalg.cholesky(P.relationship(table.animal.to_numpy()).to_numpy())
    u = A @ rng.normal(size=(150, 2))
    table = table.assign(t0=u[:, 0] + rng.normal(size=150), t1=u[:, 0] + u[:, 1])
    fit = slm.lmm_multi(order, "~ 1 + ped(1 | animal, P)", table, context={"P": P})
    row = fit.correlations().loc[("Residual", *order)]
    assert fit.converged and fit.is_singular
    assert row["boundary"] and row["estimate"] == pytest.approx(-1.0) and np.isnan(row["std_error"])
    dense = Dense(table, order, np.ones((150, 1)), [related(table.animal, P)])
    assert fit.deviance == pytest.approx(dense.deviance([fit.G()], fit.R), abs=10 * OPTIMUM_ATOL)
    for M in (fit.G(), fit.R):  # a little to either side is no better
        for f in (0.95, 1.05):
            G, R = (fit.G() * f, fit.R) if M.equals(fit.G()) else (fit.G(), fit.R * f)
            assert dense.deviance([G], R) > fit.deviance


def test_residuals_that_determine_each_other():
    """t1 is a multiple of t0 but for the herds: a residual correlation of one, at the end of its space."""
    table, _ = herd(n=200, traits=2, missing=0.0)
    rng = np.random.default_rng(2)
    e, h = rng.normal(size=len(table)), rng.normal(size=(8, 2))
    table = table.assign(t0=e + h[table.herd, 0], t1=e + h[table.herd, 1])
    table["t1"] += 0.02 * rng.normal(size=len(table))
    fit = slm.lmm_multi(PAIR, "~ 1 + (1 | herd)", table)
    X = np.ones((len(table), 1))
    assert fit.correlations().loc[("Residual", "t0", "t1"), "estimate"] == pytest.approx(0.9998, abs=1e-4)
    criterion_agrees(fit, Dense(table, PAIR, X, [grouped(table.herd)]), "herd")


def test_columns_that_depend_on_others_are_dropped_for_their_trait():
    """A level of f in which t1 was never measured."""
    table, P = animals()
    f = np.array(list("abc"))[np.arange(len(table)) % 3]
    table = table.assign(f=f, t1=table.t1.where(f != "c"))
    fit = slm.lmm_multi(PAIR, "~ f + (1 | herd)", table)
    assert np.isnan(fit.fixef.loc["t1", "f[T.c]"]) and np.isfinite(fit.fixef.loc["t0", "f[T.c]"])
    assert np.isnan(fit.fixef_se.loc["t1", "f[T.c]"])
    assert "Columns that depend on others: t1:f[T.c]" in fit.summary()
    used = table[table[PAIR].notna().any(axis=1)]
    D = pd.get_dummies(used.f).to_numpy(float)
    dense = Dense(used, PAIR, D, [grouped(used.herd)])
    dense.X = dense.X[:, dense.X.any(axis=0)]
    # other columns, the same space: log|X'X| of dummies for that of treatment contrasts, whose determinant is the same
    assert fit.deviance == pytest.approx(dense.deviance([fit.G()], fit.R), rel=CRITERION_RTOL)


def test_sparse_fixed_effects():
    """A factor of many levels becomes sparse columns, for every trait its own."""
    table, fit, X = with_many_levels()
    found = Dense(table, PAIR, X, [grouped(table.herd)])
    assert fit.deviance == pytest.approx(found.deviance([fit.G()], fit.R), rel=CRITERION_RTOL)
    beta, _ = naive.gls(found.y, found.X, found.V([fit.G()], fit.R))
    assert fit.fixef.loc["t1", "x"] == pytest.approx(beta[-1], rel=1e-6)


def test_a_series_with_a_precision_of_its_own():
    """ar1(0 + t | g) beside several traits: one rho, G among the traits."""
    rng = np.random.default_rng(9)
    table = pd.DataFrame({"g": np.repeat(np.arange(15), 8), "t": np.tile(np.arange(8), 15)})
    series = np.linalg.cholesky(0.6 ** np.abs(np.subtract.outer(np.arange(8), np.arange(8))))
    states = np.einsum("ab,gbt->gat", series, rng.normal(size=(15, 8, 2))) @ [[1.5, 0.5], [0.0, 1.0]]
    table[PAIR] = rng.normal(size=(120, 2)) + states.reshape(120, 2)
    fit = slm.lmm_multi(PAIR, "~ 1 + ar1(0 + t | g)", table)
    rho = fit.fit.varpar.filter(like="rho").iloc[0]
    lag = np.abs(np.subtract.outer(table.t.to_numpy(), table.t.to_numpy()))
    K = np.where(np.equal.outer(table.g.to_numpy(), table.g.to_numpy()), rho**lag, 0.0)
    dense = Dense(table, PAIR, np.ones((120, 1)), [([np.eye(120)], K)])
    criterion_agrees(fit, dense, None)


# --- the same model in the words of lmm() -----------------------------------------------------------------


def test_lmm_with_an_unstructured_residual_is_the_same_model():
    table, P = animals()
    long = table.reset_index().melt(["index", "animal", "herd", "x"], PAIR, "trait", "y").dropna()
    formula = "y ~ 0 + trait + trait:x + (0 + trait | herd) + ped(0 + trait | animal, P)"
    other = slm.lmm(formula, long, residual="us(trait | index)", context={"P": P})
    fit = fitted()
    assert other.deviance == pytest.approx(fit.deviance, rel=SAME_RTOL)
    assert other.sigma == pytest.approx(np.sqrt(fit.R.iloc[0, 0]), rel=1e-4)
    cor = fit.correlations()["estimate"]
    assert other.varpar["cor_t0.t1|residual"] == pytest.approx(cor["Residual"].iloc[0], rel=1e-3)


def test_the_inner_fit_has_everything_that_a_fit_has():
    fit = fitted().fit
    assert fit.simulate(2, seed=1).shape == (fit.nobs, 2)
    assert np.isfinite(fit.residuals("standardized")).all()
    assert fit.refit(fit.spec.y).deviance == pytest.approx(fit.deviance, rel=SAME_RTOL)
    assert replace(fit).nobs == fit.nobs
