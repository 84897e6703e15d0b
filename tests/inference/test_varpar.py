"""Variance parameters on the natural scale and their standard errors."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import sparselmm as slm
from sparselmm.datasets import load_dataset
from tests import golden, naive

ERROR_RTOL = 1e-3  # second differences of the textbook's deviance; its rounding / step^2 is 1e-4
SLOPES_RTOL = 2e-3  # the same where the estimate itself is only known to a scaled gradient of 1e-5
AI_RTOL = 1e-5  # the optimum is known to a scaled gradient of 1e-5
SAME_RTOL = 1e-12  # the same numbers
EXACT_RTOL, EXACT_ERROR_RTOL = 1e-9, 1e-6  # closed forms; errors by differences of the natural scale
INTERCEPTS = {
    "Dyestuff": ("Yield ~ 1 + (1 | Batch)", ["Batch"]),
    "Pastes": ("strength ~ 1 + (1 | batch/cask)", ["batch", "batch:cask"]),
    "Penicillin": ("diameter ~ 1 + (1 | plate) + (1 | sample)", ["plate", "sample"]),
}


def indicators(table, group):
    labels = table[group.split(":")].astype(str).agg(":".join, axis=1)
    return pd.get_dummies(labels).to_numpy(dtype=float)


def intercepts(name):
    """Formula, table, X and V(sds, sigma) of a model with intercepts only."""
    formula, groups = INTERCEPTS[name]
    table = load_dataset(name)
    Z = [indicators(table, group) for group in groups]
    V = lambda x: naive.marginal_cov(  # noqa: E731
        Z, [s**2 * np.eye(z.shape[1]) for s, z in zip(x, Z, strict=False)], len(table), np.full(len(table), x[-1] ** -2)
    )
    return formula, table, np.ones((len(table), 1)), V


def slopes(table, x):
    """V of sleepstudy's model at (sd, sd, cor, sigma)."""
    design = np.column_stack([np.ones(len(table)), table.Days])
    Z = (indicators(table, "Subject")[:, :, None] * design[:, None, :]).reshape(len(table), -1)
    cov = x[2] * x[0] * x[1]
    G = np.array([[x[0] ** 2, cov], [cov, x[1] ** 2]])
    return Z @ np.kron(np.eye(Z.shape[1] // 2), G) @ Z.T + x[3] ** 2 * np.eye(len(table))


def observed_errors(y, X, V, x, reml):
    """sqrt of the diagonal of 2 (d2(-2l)/dx2)^-1, by differences, each x in its own size."""
    size = np.where(np.abs(x) > 0.1, np.abs(x), 1.0)
    hessian = naive.numeric_hessian(lambda z: naive.deviance(y, X, V(z * size), reml), x / size, 1e-3)
    return size * np.sqrt(np.diag(2 * np.linalg.inv(hessian)))


@pytest.mark.parametrize(
    ("name", "reml"),
    [("Dyestuff", True), ("Dyestuff", False), ("Pastes", True), ("Pastes", False), ("Penicillin", True)],
)
def test_errors_in_balanced_data_are_those_of_the_observed_information(name, reml):
    formula, table, X, V = intercepts(name)
    fit = slm.lmm(formula, table, reml=reml)
    expected = observed_errors(fit.spec.y, X, V, fit.varpar.to_numpy(), reml)
    np.testing.assert_allclose(fit.varpar_se, expected, rtol=ERROR_RTOL)


@pytest.mark.parametrize("reml", [True, False])
def test_errors_of_correlated_effects_too(reml):
    table = load_dataset("sleepstudy")
    fit = slm.lmm("Reaction ~ Days + (Days | Subject)", table, reml=reml)
    x, X = fit.varpar.to_numpy(), np.column_stack([np.ones(180), table.Days])
    expected = observed_errors(fit.spec.y, X, lambda x: slopes(table, x), x, reml)
    np.testing.assert_allclose(fit.varpar_se, expected, rtol=SLOPES_RTOL)


@pytest.mark.parametrize("reml", [True, False])
def test_errors_in_unbalanced_data_are_those_of_the_average_information(reml):
    """AI_ij = y'P dV_i P dV_j P y, for sds, correlation and sigma by differences of V."""
    table = load_dataset("sleepstudy")
    table = table[np.random.default_rng(1).random(180) < 0.5].reset_index(drop=True)
    fit = slm.lmm("Reaction ~ Days + (Days | Subject)", table, reml=reml)
    x, X = fit.varpar.to_numpy(), np.column_stack([np.ones(len(table)), table.Days])
    steps = 1e-5 * np.eye(4)
    dV = [(slopes(table, x + e) - slopes(table, x - e)) / 2e-5 for e in steps]
    AI = naive.average_information(fit.spec.y, X, slopes(table, x), dV, 1.0)
    np.testing.assert_allclose(fit.varpar_se, np.sqrt(np.diag(2 * np.linalg.inv(AI))), rtol=AI_RTOL)


@pytest.mark.parametrize("held", ["sigma", "sd_Intercept|Subject", "sd_Days|Subject", "cor_Intercept.Days|Subject"])
def test_errors_beside_a_held_parameter(held):
    """At the free optimum: rows and columns of what is held are struck from the information."""
    table = load_dataset("sleepstudy")
    free = slm.lmm("Reaction ~ Days + (Days | Subject)", table, reml=False)
    fit = slm.lmm("Reaction ~ Days + (Days | Subject)", table, reml=False, fixed={held: free.varpar[held]})
    x, X = fit.varpar.to_numpy(), np.column_stack([np.ones(180), table.Days])
    keep = fit.varpar.index != held

    def V(z):
        full = x.copy()
        full[keep] = z
        return slopes(table, full)

    np.testing.assert_allclose(fit.varpar_se[keep], observed_errors(fit.spec.y, X, V, x[keep], False), rtol=SLOPES_RTOL)
    assert np.isnan(fit.varpar_se[held])


def test_names_and_units():
    """Multiplying the response by c multiplies sds and their errors; a correlation stays."""
    table = load_dataset("sleepstudy")
    fit, other = (slm.lmm("y ~ Days + (Days | Subject)", table.assign(y=c * table.Reaction)) for c in (1.0, 1000.0))
    names = ["sd_Intercept|Subject", "sd_Days|Subject", "cor_Intercept.Days|Subject", "sigma"]
    assert list(fit.varpar.index) == list(fit.varpar_se.index) == names
    scale = np.array([1000.0, 1000.0, 1.0, 1000.0])
    np.testing.assert_allclose(other.varpar, fit.varpar * scale, rtol=AI_RTOL)
    np.testing.assert_allclose(other.varpar_se, fit.varpar_se * scale, rtol=AI_RTOL)
    assert fit.varpar["sigma"] == fit.sigma


def test_varcorr_has_a_row_for_every_variance_covariance_and_the_residual():
    held = {"sd_Intercept|Subject": 20.0, "sd_Days|Subject": 5.0, "cor_Intercept.Days|Subject": 0.3, "sigma": 25.0}
    table = slm.lmm("Reaction ~ Days + (Days | Subject)", load_dataset("sleepstudy"), fixed=held).varcorr
    expected = [
        ("Subject", "Intercept", None, 400.0, 20.0),
        ("Subject", "Days", None, 25.0, 5.0),
        ("Subject", "Intercept", "Days", 30.0, 0.3),
        ("Residual", None, None, 625.0, 25.0),
    ]
    assert list(table.columns) == ["group", "effect1", "effect2", "vcov", "sdcor"]
    for row, other in zip(table.itertuples(index=False), expected, strict=True):
        assert tuple(row)[:3] == other[:3]
        np.testing.assert_allclose(tuple(row)[3:], other[3:], rtol=SAME_RTOL)


@pytest.mark.parametrize(
    ("term", "effects"),
    [
        ("(Days || Subject)", [("Intercept", None), ("Days", None)]),
        ("(1 | Subject) + (0 + Days | Subject)", [("Intercept", None), ("Days", None)]),
        ("diag(1 + Days | Subject)", [("Intercept", None), ("Days", None)]),
        ("(Days | Subject)", [("Intercept", None), ("Days", None), ("Intercept", "Days")]),
    ],
)
def test_varcorr_has_covariances_only_where_the_structure_has(term, effects):
    table = slm.lmm(f"Reaction ~ Days + {term}", load_dataset("sleepstudy")).varcorr
    assert list(zip(table.effect1, table.effect2, strict=True)) == [*effects, (None, None)]


@pytest.mark.parametrize("word", ["cs", "hcs"])
def test_varcorr_of_compound_symmetry_repeats_the_common_correlation(word):
    fit = slm.lmm(f"score ~ Machine + {word}(0 + Machine | Worker)", load_dataset("Machines"))
    pairs = fit.varcorr[fit.varcorr.effect2.notna()]
    assert len(pairs) == 3
    np.testing.assert_allclose(pairs.sdcor, fit.varpar[f"cor_{word}(Machine)|Worker"], rtol=SAME_RTOL)
    assert len(fit.varpar) == len(fit.theta) + 1 == {"cs": 3, "hcs": 5}[word]


def everything(fit):
    """All that a user may ask of a fit; returns the texts."""
    frames = [fit.varcorr, fit.tidy(), fit.glance(), fit.vcov, fit.fixef, fit.fixef_se, fit.varpar, fit.varpar_se]
    frames += [*fit.ranef().values(), *fit.ranef(se=True).values(), *fit.ranef(se="prediction").values()]
    return fit.summary(), frames


@pytest.mark.parametrize("engine", ["absorb", "cholmod", "dense"])
@pytest.mark.parametrize("reml", [True, False])
def test_a_variance_of_zero_is_a_legal_answer(engine, reml):
    """lme4's Dyestuff2: Bates et al. (2015), section 5.1; without the batches it is the mean of a normal sample."""
    fit = slm.lmm("Yield ~ 1 + (1 | Batch)", load_dataset("Dyestuff2"), reml=reml, engine=engine)
    text, _ = everything(fit)
    y = fit.spec.y
    assert fit.is_singular and fit.converged and fit.varpar["sd_Intercept|Batch"] == 0.0 == fit.theta.iloc[0]
    assert fit.sigma == pytest.approx(np.std(y, ddof=int(reml)), rel=EXACT_RTOL)
    assert np.isnan(fit.varpar_se["sd_Intercept|Batch"])
    error = fit.sigma / np.sqrt(2 * (len(y) - int(reml)))
    assert fit.varpar_se["sigma"] == pytest.approx(error, rel=EXACT_ERROR_RTOL)
    assert "Singular fit: sd_Intercept|Batch = 0" in text
    assert (fit.ranef(se=True)["Batch"] == 0.0).all().all()


@pytest.mark.parametrize("reml", [True, False])
def test_a_correlation_of_one_is_a_legal_answer(reml):
    """Simulated on that boundary; lme4's fit has a correlation of 1 too (tests/golden)."""
    fit = slm.lmm("y ~ t + (t | g)", golden.load("sim_corr1"), reml=reml)
    text, _ = everything(fit)
    cor = fit.varpar["cor_Intercept.t|g"]
    assert fit.is_singular and fit.converged and abs(cor) == pytest.approx(1.0, abs=SAME_RTOL)
    assert f"Singular fit: cor_Intercept.t|g = {cor:.0f}" in text
    assert list(fit.varpar_se.isna()) == [False, False, True, False]
    assert np.isfinite(fit.ranef(se=True)["g"].to_numpy()).all()


@pytest.mark.parametrize("word", ["cs", "hcs"])
def test_the_lowest_common_correlation_is_a_boundary(word):
    """-1/(r-1): effects that sum to zero in every group. Its error was 0; the others' are those with it given."""
    rng = np.random.default_rng(3)
    g, f = np.repeat(np.arange(15), 6), np.tile(np.arange(3), 30)
    b = rng.normal(size=(15, 3))
    y = (b - b.mean(axis=1, keepdims=True))[g, f] + 0.3 * rng.normal(size=90)
    data = pd.DataFrame({"g": g, "f": list(np.array(list("abc"))[f]), "y": y})
    fit = slm.lmm(f"y ~ f + {word}(0 + f | g)", data)
    name = f"cor_{word}(f)|g"
    assert fit.is_singular and fit.varpar[name] == pytest.approx(-0.5, abs=SAME_RTOL)
    assert list(fit.varpar_se.index[fit.varpar_se.isna()]) == [name]
    assert f"Singular fit: {name} = -0.5" in fit.summary()
    if word == "cs":
        X, same = np.eye(3)[f], np.equal.outer(g, g)
        V = lambda x: x[0] ** 2 * same * (1.5 * X @ X.T - 0.5) + x[1] ** 2 * np.eye(90)  # noqa: E731
        errors = observed_errors(y, X, V, fit.varpar.drop(name).to_numpy(), True)
        np.testing.assert_allclose(fit.varpar_se.drop(name), errors, rtol=ERROR_RTOL)


def test_three_effects_of_rank_two_are_a_legal_answer():
    """The third effect is the sum of the other two: no variance is zero, no correlation +-1."""
    rng = np.random.default_rng(0)
    g = np.repeat(np.arange(12), 15)
    x, z, b = rng.normal(size=180), rng.normal(size=180), rng.normal(size=(2, 12))
    y = b[0, g] + x * b[1, g] + z * b.sum(axis=0)[g] + 2 * rng.normal(size=180)
    fit = slm.lmm("y ~ x + z + (x + z | g)", pd.DataFrame({"g": g, "x": x, "z": z, "y": y}))
    text, _ = everything(fit)
    cov = np.diag(fit.varcorr.vcov[:3] / 2)
    cov[np.triu_indices(3, 1)] = fit.varcorr.vcov[3:6]
    values = np.linalg.eigvalsh(cov + cov.T)
    assert fit.is_singular and fit.converged and values[0] == pytest.approx(0.0, abs=EXACT_RTOL * values[-1])
    assert "Singular fit: a covariance matrix is not of full rank" in text
    assert fit.varpar_se.notna().all()


@pytest.mark.parametrize("engine", ["absorb", "cholmod", "dense"])
def test_covariances_are_those_of_the_average_information(engine):
    """All of the matrix, with correlations between sds, the correlation and sigma."""
    table = load_dataset("sleepstudy")
    table = table[np.random.default_rng(1).random(180) < 0.5].reset_index(drop=True)
    fit = slm.lmm("Reaction ~ Days + (Days | Subject)", table, engine=engine)
    x, X = fit.varpar.to_numpy(), np.column_stack([np.ones(len(table)), table.Days])
    dV = [(slopes(table, x + e) - slopes(table, x - e)) / 2e-5 for e in 1e-5 * np.eye(4)]
    expected = 2 * np.linalg.inv(naive.average_information(fit.spec.y, X, slopes(table, x), dV, 1.0))
    cov = fit.varpar_vcov
    sizes = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    np.testing.assert_allclose(cov / sizes, expected / sizes, atol=AI_RTOL)
    assert list(cov.index) == list(cov.columns) == list(fit.varpar.index)
    np.testing.assert_allclose(np.sqrt(np.diag(cov)), fit.varpar_se, rtol=SAME_RTOL)


def test_covariances_of_what_was_held_are_missing():
    fit = slm.lmm("Reaction ~ Days + (Days | Subject)", load_dataset("sleepstudy"), fixed={"sigma": 25.0})
    known = fit.varpar_vcov.notna().to_numpy()
    assert known[:3, :3].all() and not known[3].any() and not known[:, 3].any()


def series(seed):
    """8 series of 14 times, a fifth of the rows missing; V at (sd, rho, sigma)."""
    rng = np.random.default_rng(seed)
    kept = rng.random(112) < 0.8
    t, s = np.tile(np.arange(14), 8)[kept], np.repeat(np.arange(8), 14)[kept]
    lags, same = np.abs(np.subtract.outer(t, t)), np.equal.outer(s, s)
    V = lambda x: x[0] ** 2 * same * x[1] ** lags + x[2] ** 2 * np.eye(len(t))  # noqa: E731
    y = rng.multivariate_normal(np.zeros(len(t)), V(np.array([1.4, 0.6, 0.7])))
    return pd.DataFrame({"t": t, "s": s, "x": rng.normal(size=len(t)), "y": y}), V


@pytest.mark.parametrize("seed", [1, 4])
@pytest.mark.parametrize("held", [None, "sigma"])
def test_errors_of_series_are_those_of_the_observed_information(seed, held):
    """The average information is off by 47 % and by 23 % for rho here."""
    table, V = series(seed)
    free = slm.lmm("y ~ x + ar1(0 + t | s)", table)
    fit = free if held is None else slm.lmm("y ~ x + ar1(0 + t | s)", table, fixed={held: free.varpar[held]})
    x, X = fit.varpar.to_numpy(), np.column_stack([np.ones(len(table)), table.x])
    keep = fit.varpar.index != held

    def free_V(z):
        full = x.copy()
        full[keep] = z
        return V(full)

    np.testing.assert_allclose(
        fit.varpar_se[keep], observed_errors(fit.spec.y, X, free_V, x[keep], True), rtol=ERROR_RTOL
    )


def test_information_that_is_not_finite_gives_missing_errors(monkeypatch):
    """At the end of a search that got lost: no error from LAPACK, no degrees of freedom out of nothing."""
    table, _ = series(1)
    fit = slm.lmm("y ~ x + ar1(0 + t | s)", table)
    lost = replace(fit.likelihood.derivatives(fit.theta.to_numpy()), gradient=np.full(2, np.nan))
    monkeypatch.setattr(fit.likelihood, "derivatives", lambda *args, **options: lost)
    assert fit.varpar_se.isna().all() and fit.confint("wald", which="varpar").isna().all(axis=None)
    with pytest.raises(slm.ModelError, match="Satterthwaite: the criterion has no curvature"):
        fit.coef_table("satterthwaite")
