"""Degrees of freedom: against lmerTest and pbkrtest (golden), and against n x n matrices where they have no model."""

import numpy as np
import pandas as pd
import pytest

import sparselmm as slm
from sparselmm.inference import ddf, kenward_roger
from sparselmm.inference.ddf import ddf_method
from tests import golden, naive
from tests.inference import naive_ddf
from tests.test_golden import FITS, fitted, r_name

DF_RTOL = 1e-3  # agreed for the collection: lmerTest takes numerical second derivatives
SE_RTOL = 1e-5  # agreed for the collection
NAIVE_RTOL = 2e-3  # second differences of a deviance, at an optimum known to a scaled gradient of 1e-5
KR_RTOL = 1e-8  # closed formulas on the same numbers, by n x n inverses
LIMIT_RTOL = 2e-4  # the search stops at a correlation of 1 - 1e-8, where the score is only known to 1e-6
SAME_RTOL = 1e-7  # the same by two coordinates, each by central differences

GOLDEN = [(i, key) for i, ref in FITS.items() for key in ("satterthwaite", "kenward_roger") if ref.get(key) is not None]


@pytest.mark.parametrize(("fit_id", "key"), GOLDEN)
def test_single_coefficients_are_those_of_lmertest_and_pbkrtest(fit_id, key):
    ref, fit = FITS[fit_id][key], fitted(fit_id)
    method = ddf_method(fit, key.replace("_", "-"))
    names = [r_name(name) for name in fit.vcov.index]
    assert sorted(names) == sorted(ref)
    np.testing.assert_allclose(method.degrees(np.eye(len(names))), [ref[n]["df"] for n in names], rtol=DF_RTOL)
    np.testing.assert_allclose(np.sqrt(np.diag(method.vcov)), [ref[n]["se"] for n in names], rtol=SE_RTOL)


def test_the_collection_covers_both_methods_and_the_edge():
    assert sum(key == "kenward_roger" for _, key in GOLDEN) >= 40 and len(GOLDEN) >= 160
    assert {i for i, _ in GOLDEN if FITS[i]["singular"]} >= {"corr1_REML", "negicc_REML", "wheat2_var_REML"}


def indicators(codes):
    return np.eye(int(codes.max()) + 1)[codes]


def small(seed=3, n=60):
    """Unbalanced rows: two crossed factors g and h, a factor f between them, a covariate x."""
    rng = np.random.default_rng(seed)
    g, h = rng.integers(0, 9, n), rng.integers(0, 6, n)
    f = np.array(["a", "b", "c"])[rng.integers(0, 3, n)]
    x = rng.normal(size=n)
    y = x + (f == "b") + rng.normal(size=9)[g] * 1.2 + rng.normal(size=6)[h] * (1 + x) + rng.normal(size=n)
    return pd.DataFrame({"g": g, "h": h, "f": f, "x": x, "y": y, "w": rng.uniform(0.5, 2, n)})


def design(fit):
    return fit.spec.y, fit.spec.X


def crossed_V(table, weights=None):
    """V(sd g, sd h, sigma)."""
    n, Zg, Zh = len(table), indicators(table.g.to_numpy()), indicators(table.h.to_numpy())
    R = np.eye(n) if weights is None else np.diag(1 / weights)
    return lambda x: x[0] ** 2 * Zg @ Zg.T + x[1] ** 2 * Zh @ Zh.T + x[2] ** 2 * R


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("weights", [None, "w"])
@pytest.mark.parametrize("engine", ["auto", "dense"])
def test_satterthwaite_of_crossed_factors(reml, weights, engine):
    table = small()
    fit = slm.lmm("y ~ x + f + (1 | g) + (1 | h)", table, reml=reml, weights=weights, engine=engine)
    V = crossed_V(table, None if weights is None else table.w.to_numpy())
    L = np.vstack([np.eye(4), [0.0, 1.0, -2.0, 0.5]])
    expected = naive_ddf.satterthwaite(*design(fit), V, fit.varpar.to_numpy(), L, reml)
    np.testing.assert_allclose(ddf_method(fit, "satterthwaite").degrees(L), expected, rtol=NAIVE_RTOL)


def test_satterthwaite_of_serial_effects_and_of_serial_residuals():
    rng = np.random.default_rng(5)
    series, t = np.repeat(np.arange(8), 9), np.tile(np.arange(9), 8)
    lag = np.abs(t[:, None] - t[None, :]) + 100 * (series[:, None] != series[None, :])
    noise = np.linalg.cholesky(0.6**lag) @ rng.normal(size=72)
    table = pd.DataFrame({"s": series, "t": t, "x": rng.normal(size=72), "e": rng.normal(size=72)})
    table["y"] = 1 + 0.5 * table.x + noise + 0.5 * table.e
    cases = {
        "ar1(0 + t | s)": ({}, lambda p: p[0] ** 2 * p[1] ** lag + p[2] ** 2 * np.eye(72)),
        "(1 | s)": (
            {"residual": "ar1(t | s)"},
            lambda p: p[0] ** 2 * (lag < 100) + p[2] ** 2 * np.where(lag < 100, p[1] ** lag, 0.0),
        ),
    }
    for bar, (options, V) in cases.items():
        fit = slm.lmm(f"y ~ x + t + {bar}", table, **options)
        expected = naive_ddf.satterthwaite(*design(fit), V, fit.varpar.to_numpy(), np.eye(3), True)
        np.testing.assert_allclose(ddf_method(fit, "satterthwaite").degrees(np.eye(3)), expected, rtol=NAIVE_RTOL)
        with pytest.raises(slm.ModelError, match="linear in its parameters"):
            ddf_method(fit, "kenward-roger")


def test_a_correlation_of_one_is_taken_as_known():
    """Groups that do not change with time: ar1 ends at rho = 1, which is a random intercept."""
    rng = np.random.default_rng(4)
    g, t = np.repeat(np.arange(12), 8), np.tile(np.arange(8), 12)
    table = pd.DataFrame({"g": g, "t": t, "x": rng.normal(size=96)})
    table["y"] = table.x + 2 * rng.normal(size=12)[g] + rng.normal(size=96)
    series, plain = (slm.lmm(f"y ~ x + {bar}", table) for bar in ("ar1(0 + t | g)", "(1 | g)"))
    assert series.varpar["rho_ar1(t)|g"] > 1 - 1e-6
    first, second = (ddf_method(fit, "satterthwaite").degrees(np.eye(2)) for fit in (series, plain))
    np.testing.assert_allclose(first, second, rtol=LIMIT_RTOL)


def test_satterthwaite_beside_held_parameters():
    """What is held is known: its row is not in the information. All held: normal distributions."""
    table, formula = small(), "y ~ x + f + (1 | g) + (1 | h)"
    free = slm.lmm(formula, table)
    values = free.varpar
    for held in (["sd_1|g"], ["sigma"], ["sd_1|g", "sigma"]):
        held = [values.index[0] if name.startswith("sd") else name for name in held]
        fit = slm.lmm(formula, table, fixed={name: values[name] for name in held})
        open_ = ~values.index.isin(held)

        def V(x, open_=open_):
            full = values.to_numpy().copy()
            full[open_] = x
            return crossed_V(table)(full)

        expected = naive_ddf.satterthwaite(*design(fit), V, fit.varpar.to_numpy()[open_], np.eye(4), True)
        np.testing.assert_allclose(ddf_method(fit, "satterthwaite").degrees(np.eye(4)), expected, rtol=NAIVE_RTOL)
    known = ddf_method(slm.lmm(formula, table, fixed=dict(values)), "satterthwaite")
    assert np.isinf(known.degrees(np.eye(4))).all() and np.isinf(known.f_test(np.eye(4), np.ones(4)).den_df)


def test_a_model_without_random_effects_has_the_residual_degrees_of_freedom():
    table = small()
    for reml, df in ((True, 56), (False, 60)):  # lm's n - p; ML divides by n
        method = ddf_method(slm.lmm("y ~ x + f", table, reml=reml), "satterthwaite")
        np.testing.assert_allclose(method.degrees(np.eye(4)), df, rtol=SAME_RTOL)
        assert method.f_test(np.eye(4)[2:], np.ones(2)).den_df == pytest.approx(df, rel=SAME_RTOL)
    method = ddf_method(slm.lmm("y ~ x + f", table), "kenward-roger")
    np.testing.assert_allclose(method.degrees(np.eye(4)), 56, rtol=SAME_RTOL)
    np.testing.assert_allclose(method.vcov, slm.lmm("y ~ x + f", table).vcov, rtol=SAME_RTOL)


def check_kenward_roger(fit, G, V, L):
    beta = fit.fixef.to_numpy()[fit.likelihood.kept]
    X = fit.spec.X[:, fit.likelihood.kept]
    method = ddf_method(fit, "kenward-roger")
    adjusted, scale, m, F = naive_ddf.kenward_roger(X, V, G, L, beta)
    np.testing.assert_allclose(method.vcov, adjusted, rtol=KR_RTOL, atol=KR_RTOL * np.abs(adjusted).max())
    found = method.f_test(L, L @ beta)
    np.testing.assert_allclose([found.scale, found.den_df, found.F], [scale, m, F], rtol=KR_RTOL)
    assert found.num_df == len(L)
    single = [naive_ddf.kenward_roger(X, V, G, row[None, :], beta)[2] for row in L]
    np.testing.assert_allclose(method.degrees(L), single, rtol=KR_RTOL)
    repeated = method.f_test(np.vstack([L, L.sum(axis=0)]), np.append(L @ beta, (L @ beta).sum()))
    np.testing.assert_allclose([repeated.F, repeated.den_df], [F, m], rtol=KR_RTOL)


@pytest.mark.parametrize("weights", [None, "w"])
def test_kenward_roger_of_crossed_factors_and_slopes(weights):
    table = small()
    fit = slm.lmm("y ~ x + f + (1 | g) + (1 + x | h)", table, weights=weights)
    R = np.eye(60) if weights is None else np.diag(1 / table.w)
    Zg, Zh = indicators(table.g.to_numpy()), indicators(table.h.to_numpy())
    Zx = Zh * table.x.to_numpy()[:, None]
    G = [Zg @ Zg.T, Zh @ Zh.T, Zh @ Zx.T + Zx @ Zh.T, Zx @ Zx.T, R]
    cov = fit.varcorr.vcov.to_numpy()  # g, h, x, cov, residual
    V = sum(c * M for c, M in zip(cov[[0, 1, 3, 2, 4]], G, strict=True))
    check_kenward_roger(fit, G, V, np.array([[0.0, 1, 0, 0], [0, 0, 1, -1], [0, 0, 1, 2]]))


def test_kenward_roger_of_compound_symmetry_and_of_a_dropped_column():
    table = small().assign(twice=lambda t: 2 * t.x)
    fit = slm.lmm("y ~ x + twice + f + cs(0 + f | g)", table)
    g, f = table.g.to_numpy(), table.f.to_numpy()
    same_g, same_f = g[:, None] == g[None, :], f[:, None] == f[None, :]
    G = [1.0 * (same_g & same_f), 1.0 * (same_g & ~same_f), np.eye(60)]
    values = fit.varcorr.vcov
    variance, covariance = values[(fit.varcorr.group == "g")].iloc[[0, -1]]
    V = variance * G[0] + covariance * G[1] + fit.sigma**2 * G[2]
    check_kenward_roger(fit, G, V, np.array([[0.0, 1, 0, 0], [0, 0, 1, -1]]))


def test_kenward_roger_of_related_levels():
    rng = np.random.default_rng(8)
    root = rng.normal(size=(9, 12))
    K = root @ root.T / 12
    table = small()
    formula = "y ~ x + f + known(1 | g, K) + (1 | h)"
    fit = slm.lmm(formula, table, context={"K": slm.Known(K, kind="covariance", levels=list(range(9)))})
    Zg, Zh = indicators(table.g.to_numpy()), indicators(table.h.to_numpy())
    G = [Zg @ K @ Zg.T, Zh @ Zh.T, np.eye(60)]
    V = sum(c * M for c, M in zip(fit.varcorr.vcov, G, strict=True))
    check_kenward_roger(fit, G, V, np.array([[0.0, 1, 0, 0], [0, 0, 1, -1]]))


def test_kenward_roger_of_the_dense_engine_is_that_of_the_sparse_one():
    table, formula = small(), "y ~ x + f + (1 | g) + (1 | h)"
    sparse, dense = (ddf_method(slm.lmm(formula, table, engine=e), "kenward-roger") for e in ("auto", "dense"))
    np.testing.assert_allclose(sparse.vcov, dense.vcov, rtol=SE_RTOL)
    np.testing.assert_allclose(sparse.degrees(np.eye(4)), dense.degrees(np.eye(4)), rtol=SE_RTOL)


def test_satterthwaite_does_not_depend_on_units():
    table = small()
    fits = [slm.lmm("y ~ x + f + (1 + x | h)", t) for t in (table, table.assign(y=1e6 * table.y, x=1e-4 * table.x))]
    first, second = (ddf_method(fit, "satterthwaite").degrees(np.eye(4)) for fit in fits)
    np.testing.assert_allclose(first, second, rtol=NAIVE_RTOL)


@pytest.mark.parametrize(
    ("formula", "options", "message"),
    [
        ("y ~ x + (1 | g)", {"reml": False}, "needs a REML fit, and this one is by ML"),
        ("y ~ x + (1 | g)", {"fixed": {"sigma": 1.0}}, "sigma held"),
        ("y ~ x + hcs(0 + f | g)", {}, r"hcs\(0 \+ f \| g\) is not"),
        ("y ~ x + (1 | g)", {"residual": "varident(f)"}, "residuals .* are not"),
    ],
)
def test_kenward_roger_refuses_clearly(formula, options, message):
    with pytest.raises(slm.ModelError, match=message):
        ddf_method(slm.lmm(formula, small(), **options), "kenward-roger")


def test_kenward_roger_says_what_it_would_take():
    with pytest.raises(slm.SparselmmError, match=r"7,000 x 7,000 for 7,000 random effects: 1.57 GB .* at most 6,000"):
        kenward_roger._check_size(7000)


def test_an_unknown_method_is_an_error():
    with pytest.raises(slm.ModelError, match="ddf='kr': one of 'satterthwaite', 'kenward-roger', 'wald'"):
        ddf_method(slm.lmm("y ~ x + (1 | g)", small()), "kr")


def test_the_default_is_what_is_affordable(monkeypatch):
    fit = slm.lmm("y ~ x + (1 | g)", small())
    assert ddf_method(fit).name == "satterthwaite"
    monkeypatch.setattr(ddf, "AFFORDABLE", 1.0)
    assert ddf_method(fit).name == "wald"
    large = slm.LinearMixedModel("y ~ x + (1 | g)", small()).likelihood
    assert ddf.satterthwaite_cost(fit) >= 2 * 4 * large.flops


def test_the_last_method_is_kept_and_belongs_to_its_fit():
    table = small()
    fit = slm.lmm("y ~ x + (1 | g)", table)
    assert ddf_method(fit, "satterthwaite") is ddf_method(fit, "satterthwaite")
    ml = slm.LinearMixedModel("y ~ x + (1 | g)", table)
    first, second = ml.fit(reml=True), ml.fit(reml=False)  # one likelihood
    assert ddf_method(first, "wald").vcov[0, 0] != ddf_method(second, "wald").vcov[0, 0]


def test_insteval_is_that_of_lmertest():
    """lmerTest 3.1-3, `as_lmerModLmerTest` of lme4 1.1-31's fit with calc.derivs = FALSE: 15.35944 and 37613.95404."""
    fit = slm.lmm("y ~ service + (1 | s) + (1 | d) + (1 | dept)", golden.load("lme4_InstEval"))
    assert ddf.default_method(fit) == "satterthwaite"
    np.testing.assert_allclose(fit.coef_table().df, [15.35944, 37613.95404], rtol=DF_RTOL)


def conditioned(term, basis):
    """Z basis^-1 of a coded term, (n, m r)."""
    columns = np.ones((term.n_rows, 1)) if term.columns is None else term.columns
    blocks = indicators(term.Z)[:, :, None] * (columns @ np.linalg.inv(basis))[:, None, :]
    return blocks.reshape(term.n_rows, -1)


def test_projected_designs_are_those_of_the_textbook():
    fit = slm.lmm("y ~ x + f + (1 | g) + (1 + x | h)", small())
    at = kenward_roger.factorise(fit)
    A, B = kenward_roger.projected_designs(at)
    Z = [conditioned(t, b) for t, b in zip(fit.spec.terms, at.likelihood.products.bases, strict=True)]
    psi = [np.kron(np.eye(t.n_levels), T @ T.T) for t, T in zip(fit.spec.terms, at.solution.T, strict=True)]
    W, X = naive.marginal_cov(Z, psi, 60), fit.spec.X @ np.linalg.inv(at.likelihood.products.fixed.R)
    np.testing.assert_allclose(A, np.hstack(Z).T @ np.linalg.solve(W, np.hstack(Z)), rtol=KR_RTOL, atol=KR_RTOL)
    np.testing.assert_allclose(B, np.hstack(Z).T @ np.linalg.solve(W, X), rtol=KR_RTOL, atol=KR_RTOL)


@pytest.mark.parametrize("ddf", ["satterthwaite", "kenward-roger", "wald"])
def test_without_coefficients_there_is_nothing_to_test(ddf):
    fit = slm.lmm("y ~ 0 + (1 | g)", small())
    assert fit.coef_table(ddf).shape == (0, 5) and fit.anova(ddf=ddf).empty


def test_kenward_roger_of_a_term_within_the_fixed_effects():
    """X'V^-1X and the criterion do not depend on such a variance, but for the 1e-4 of `x` that leaves it in sight."""
    data = small()
    near = data.assign(x=np.where(np.arange(len(data)) == 0, 1.0001, 1.0))
    fit = slm.lmm("y ~ C(g) + (0 + x | g)", near)
    with pytest.raises(slm.ModelError, match=r"\(0 \+ x \| g\): the fixed effects take up all of it"):
        fit.coef_table("kenward-roger")


@pytest.mark.filterwarnings("ignore:the fit did not converge")
@pytest.mark.parametrize("seed", [3, 6])
def test_a_series_that_takes_up_all_of_the_residual(seed):
    """sigma is a thousandth of the series' standard deviation, whose ratio is 1,000: steps of 1e-4 in it were rounding.

    The limit from the definition, V = s^2 rho^|t - u|: the observed information of s^2 and rho. (50.1 for 55.0 before.)
    """
    rng, m, T = np.random.default_rng(seed), 12, 9
    e = rng.normal(size=(m, T))
    for k in range(1, T):
        e[:, k] = -0.3 * e[:, k - 1] + np.sqrt(0.91) * e[:, k]
    d = pd.DataFrame({"g": np.repeat(np.arange(m), T), "t": np.tile(np.arange(T), m), "x": rng.normal(size=m * T)})
    d["y"] = 1.0 + 0.5 * d["x"] + e.ravel()
    fit = slm.lmm("y ~ x + ar1(0 + t | g)", d)
    s, rho, sigma = fit.varpar
    assert sigma < 2e-3 * s
    same, X = np.equal.outer(d["g"].to_numpy(), d["g"].to_numpy()), np.column_stack([np.ones(len(d)), d["x"]])
    lag, y = np.abs(np.subtract.outer(d["t"].to_numpy(), d["t"].to_numpy())), d["y"].to_numpy()
    first = same * lag * rho ** np.maximum(lag - 1, 0)
    second = same * lag * (lag - 1) * rho ** np.maximum(lag - 2, 0)
    dV = [same * rho**lag, s**2 * first]
    curved = [[0.0 * first, first], [first, s**2 * second]]
    W = np.linalg.inv(s**2 * same * rho**lag)
    C = np.linalg.inv(X.T @ W @ X)
    P = W - W @ X @ C @ X.T @ W
    Py = P @ y
    H = np.zeros((2, 2))
    for a, b in np.ndindex(2, 2):
        A, D, B = dV[a], dV[b], curved[a][b]
        H[a, b] = np.trace(P @ B) - Py @ B @ Py - np.trace(P @ A @ P @ D) + 2.0 * Py @ A @ P @ D @ Py
    g = np.array([np.diag(C @ X.T @ W @ A @ W @ X @ C) for A in dV])
    expected = 2.0 * np.diag(C) ** 2 / np.einsum("ap,ab,bp->p", g, 2.0 * np.linalg.inv(H), g)
    np.testing.assert_allclose(fit.coef_table("satterthwaite")["df"], expected, rtol=1e-4)  # sigma^2/s^2 is 1e-6
