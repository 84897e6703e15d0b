"""Covariance matrices that are held: BLUE and BLUP by dense V at invented matrices, and searches over the rest."""

import numpy as np
import pandas as pd
import pytest
from scipy import optimize

import sparselmm as slm
from tests import naive
from tests.multi.traits import Dense, grouped, herd, related

RTOL = 1e-6  # of solutions with a V of condition 1e3; of criteria 1e-9
CRITERION_RTOL = 1e-9
OPTIMUM_ATOL = 1e-6  # deviances of two searches
ANIMAL = "~ x + (1 | herd) + ped(1 | animal, P)"
G_HERD = np.array([[0.5, 0.1, 0.0], [0.1, 0.4, -0.2], [0.0, -0.2, 0.6]])
G_ANIMAL = np.array([[1.0, 0.3, 0.2], [0.3, 0.8, -0.1], [0.2, -0.1, 1.5]])
R = np.array([[1.2, 0.5, -0.3], [0.5, 0.9, 0.1], [-0.3, 0.1, 2.0]])
UNITS = np.array([1.0, 1e3, 0.02])


def problem(traits=3, n=90, missing=0.25, unit=UNITS):
    """Table in these units, pedigree, and the dense model; the first trait has most gaps."""
    table, P = herd(n=n, traits=traits, missing=missing)
    table.loc[table.index[::3], "t0"] = np.nan
    names = [f"t{j}" for j in range(traits)]
    table[names] *= unit[:traits]
    X = np.column_stack([np.ones(n), table.x])
    return table, P, names, Dense(table, names, X, [grouped(table.herd), related(table.animal, P)])


def scaled(V, d=3):
    return V[:d, :d] * np.outer(UNITS[:d], UNITS[:d])


@pytest.mark.parametrize("reml", [True, False])
def test_everything_held_is_blue_and_blup(reml):
    table, P, names, dense = problem()
    G, own = [scaled(G_HERD), scaled(G_ANIMAL)], scaled(R)
    turned = pd.DataFrame(G[1], index=names, columns=names).iloc[::-1, [2, 0, 1]]
    fixed = {"(1 | herd)": G[0], "animal": turned, "Residual": own}
    fit = slm.lmm_multi(names, ANIMAL, table, context={"P": P}, fixed=fixed, reml=reml)
    assert fit.fit.n_iter == 0 and fit.fit.converged and fit.n_params == 6
    assert fit.deviance == pytest.approx(dense.deviance(G, own, reml), rel=CRITERION_RTOL)
    for found, expected in ((fit.G("herd"), G[0]), (fit.G("animal"), G[1]), (fit.R, own)):
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
    assert fit.G_se("animal").isna().all(axis=None) and fit.R_se.isna().all(axis=None)
    V = dense.V(G, own)
    beta, cov = naive.gls(dense.y, dense.X, V)
    np.testing.assert_allclose(fit.fixef.to_numpy().ravel(), beta, rtol=RTOL)
    np.testing.assert_allclose(fit.vcov, cov, rtol=RTOL, atol=1e-12)
    (Z,), A = related(table.animal, P)
    C = np.kron(G[1], Z @ A)[dense.there]
    blup = C.T @ np.linalg.solve(V, dense.y - dense.X @ beta)
    error = np.diag(np.kron(G[1], A) - C.T @ naive.projection(dense.X, V) @ C)
    found = fit.ranef(se="prediction")["ped(1 | animal, P)"]
    np.testing.assert_allclose(found[names].to_numpy().T.ravel(), blup, rtol=RTOL, atol=1e-8)
    np.testing.assert_allclose(found[[f"{t}_se" for t in names]].to_numpy().T.ravel() ** 2, error, rtol=RTOL)


def test_a_covariance_of_zero_beside_variances_that_are_estimated():
    """scipy's search over the dense criterion with the same entry at zero."""
    table, P, names, dense = problem(traits=2)
    free = np.array([[np.nan, 0.0], [0.0, np.nan]])
    fit = slm.lmm_multi(names, ANIMAL, table, context={"P": P}, fixed={"animal": free})
    unit = np.diag(UNITS[:2])

    def matrices(x):
        factors = [np.array([[a, 0.0], [b, c]]) for a, b, c in (x[:3], x[3:6])]
        G_herd, own = (unit @ L @ L.T @ unit for L in factors)
        return [G_herd, unit @ np.diag(x[6:] ** 2) @ unit], own

    starts = ([0.5, 0.1, 0.5, 1.0, 0.3, 1.0, 0.7, 0.9], [0.8, -0.2, 0.3, 1.3, 0.5, 0.8, 0.4, 0.4])
    lowest = min(
        optimize.minimize(lambda x: dense.deviance(*matrices(x)), x, options={"gtol": 1e-6}).fun for x in starts
    )
    assert fit.deviance == pytest.approx(lowest, abs=OPTIMUM_ATOL)
    assert fit.deviance == pytest.approx(dense.deviance([fit.G("herd"), fit.G("animal")], fit.R), rel=CRITERION_RTOL)
    assert fit.G("animal").loc["t0", "t1"] == 0.0 and fit.n_params == 4 + 8
    assert fit.G_se("animal").to_numpy()[0, 0] > 0.0 and np.isnan(fit.G_se("animal").to_numpy()[0, 1])
    whole = slm.lmm_multi(names, ANIMAL, table, context={"P": P})
    assert whole.deviance <= fit.deviance and whole.n_params == fit.n_params + 1


def test_some_matrices_held_at_the_optimum_change_nothing():
    table, P, names, _ = problem()
    free = slm.lmm_multi(names, ANIMAL, table, context={"P": P})
    for fixed in ({"Residual": free.R}, {"animal": free.G("animal")}):
        fit = slm.lmm_multi(names, ANIMAL, table, context={"P": P}, fixed=fixed)
        assert fit.deviance == pytest.approx(free.deviance, abs=OPTIMUM_ATOL)
        np.testing.assert_allclose(fit.fixef, free.fixef, rtol=1e-3)


def test_slopes_are_held_by_the_names_of_their_effects():
    table, _ = herd(n=160, traits=2, missing=0.2)
    names = ["t1", "t0"]
    free = slm.lmm_multi(names, "~ x + (1 + x | herd)", table)
    G = free.G("herd") * 0.9
    fit = slm.lmm_multi(names, "~ x + (1 + x | herd)", table, fixed={"herd": G.iloc[::-1, ::-1], "Residual": free.R})
    np.testing.assert_allclose(fit.G("herd"), G, rtol=1e-8)
    X = np.column_stack([np.ones(len(table)), table.x])
    dense = Dense(table, names, X, [grouped(table.herd, X.T)])
    assert fit.deviance == pytest.approx(dense.deviance([G], free.R), rel=CRITERION_RTOL)


def test_traits_that_never_meet_have_no_residual_covariance_to_hold():
    table, _ = herd(n=120, traits=2, missing=0.0)
    table.loc[::2, "t0"], table.loc[1::2, "t1"] = np.nan, np.nan
    held = {"Residual": np.diag([1.0, 2.0]), "herd": np.array([[0.5, 0.2], [0.2, 0.4]])}
    fit = slm.lmm_multi(["t0", "t1"], "~ x + (1 | herd)", table, fixed=held)
    dense = Dense(table, ["t0", "t1"], np.column_stack([np.ones(120), table.x]), [grouped(table.herd)])
    assert fit.deviance == pytest.approx(dense.deviance([held["herd"]], held["Residual"]), rel=CRITERION_RTOL)


@pytest.mark.parametrize(
    ("fixed", "message"),
    [
        ({"anima": np.eye(3)}, "'anima' is no term; there are '.1 . herd.', 'ped"),
        ({"animal": np.eye(2)}, "a matrix of t0, t1, t2, not one of shape"),
        ({"animal": "G"}, "needs a matrix of"),
        ({"animal": np.triu(np.ones((3, 3)))}, "not symmetric"),
        ({"animal": pd.DataFrame(np.eye(3), index=list("abc"), columns=list("abc"))}, "rows and columns t0, t1, t2"),
        ({"animal": np.eye(3) - 0.9}, "not positive semidefinite"),
        ({"animal": np.full((3, 3), 2.0) - np.eye(3)}, "not positive semidefinite"),
        ({"Residual": np.ones((3, 3))}, "not positive definite"),
        ({"Residual": np.diag([1.0, np.nan, 1.0])}, "held all together"),
        ({"animal": np.where(np.eye(3) == 1.0, np.nan, 0.3)}, "beside a variance that is free"),
        ({"animal": -np.eye(3)}, "are not all at least 0"),
        ("animal", "terms with covariance matrices"),
    ],
)
def test_what_cannot_be_held(fixed, message):
    table, P, names, _ = problem(unit=np.ones(3))
    with pytest.raises(slm.SparselmmError, match=message):
        slm.lmm_multi(names, ANIMAL, table, context={"P": P}, fixed=fixed)
