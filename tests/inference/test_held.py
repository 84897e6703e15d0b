"""Parameters held at values: Henderson's equations solved once, and optima under constraint."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy.optimize import minimize

import sparselmm as slm
from sparselmm.datasets import load_dataset
from tests import naive

EQUATIONS_RTOL = 1e-9  # one linear system solved in two ways
OPTIMUM_ATOL = 1e-6  # deviance of two optimisers; ours must not be above the other by more
ESTIMATE_RTOL = 1e-4  # parameters of two optimisers, the other one without derivatives
ESTIMATE_ATOL = 1e-5  # the same for correlations near zero
BLUP_RTOL = 1e-7  # effects near zero
SLOPES = "Reaction ~ Days + (Days | Subject)"
NAMES = ["sd_Intercept|Subject", "sd_Days|Subject", "cor_Intercept.Days|Subject", "sigma"]


@pytest.fixture(scope="module")
def sleepstudy():
    """Two of three rows: unbalanced, and small enough for n x n matrices."""
    table = load_dataset("sleepstudy")
    return table[np.arange(len(table)) % 3 != 0].reset_index(drop=True)


def slopes(table):
    """y, X and Z (n x 36, intercept and slope of each subject side by side) as in a textbook."""
    X = np.column_stack([np.ones(len(table)), table.Days])
    subjects = pd.get_dummies(table.Subject).to_numpy(dtype=float)
    Z = (subjects[:, :, None] * X[:, None, :]).reshape(len(table), -1)
    return table.Reaction.to_numpy(dtype=float), X, Z


def covariance(sd0, sd1, cor):
    return np.array([[sd0**2, cor * sd0 * sd1], [cor * sd0 * sd1, sd1**2]])


def henderson(y, X, Z, G, sigma, weights=None):
    """[X'R^-1X, X'R^-1Z; Z'R^-1X, Z'R^-1Z + G^-1] [beta; b] = [X'R^-1y; Z'R^-1y], and the inverse (Henderson 1975)."""
    R_inv = np.diag(np.ones(len(y)) if weights is None else weights) / sigma**2
    W = np.hstack([X, Z])
    C = W.T @ R_inv @ W
    C[X.shape[1] :, X.shape[1] :] += np.linalg.inv(G)
    inverse = np.linalg.inv(C)
    return np.split(inverse @ W.T @ R_inv @ y, [X.shape[1]]), inverse


@pytest.mark.parametrize("engine", ["absorb", "cholmod", "dense"])
@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("weighted", [False, True])
def test_all_held_is_hendersons_blue_and_blup(sleepstudy, engine, reml, weighted):
    values = dict(zip(NAMES, [20.0, 5.0, -0.3, 30.0], strict=True))
    weights = 1.0 + np.arange(len(sleepstudy)) % 4 if weighted else None
    fit = slm.lmm(SLOPES, sleepstudy, fixed=values, engine=engine, reml=reml, weights=weights)
    y, X, Z = slopes(sleepstudy)
    (beta, b), inverse = henderson(y, X, Z, np.kron(np.eye(18), covariance(20.0, 5.0, -0.3)), 30.0, weights)
    errors = np.sqrt(np.diag(inverse))
    np.testing.assert_allclose(fit.fixef, beta, rtol=EQUATIONS_RTOL)
    np.testing.assert_allclose(fit.fixef_se, errors[:2], rtol=EQUATIONS_RTOL)
    np.testing.assert_allclose(fit.vcov, inverse[:2, :2], rtol=EQUATIONS_RTOL)
    frame = fit.ranef(se="prediction")["Subject"]
    np.testing.assert_allclose(frame[["Intercept", "Days"]], b.reshape(18, 2), rtol=BLUP_RTOL, atol=EQUATIONS_RTOL)
    np.testing.assert_allclose(frame[["Intercept_se", "Days_se"]], errors[2:].reshape(18, 2), rtol=EQUATIONS_RTOL)
    np.testing.assert_allclose(fit.varpar, list(values.values()), rtol=EQUATIONS_RTOL)
    assert fit.converged and fit.n_iter == 0 and fit.method == "held" and fit.gradient_norm == 0.0
    assert fit.varpar_se.isna().all() and fit.n_params == 2


@pytest.mark.parametrize("reml", [True, False])
def test_the_deviance_of_held_values_is_that_of_the_normal_density(sleepstudy, reml):
    fit = slm.lmm(SLOPES, sleepstudy, fixed=dict(zip(NAMES, [20.0, 5.0, -0.3, 30.0], strict=True)), reml=reml)
    y, X, Z = slopes(sleepstudy)
    V = Z @ np.kron(np.eye(18), covariance(20.0, 5.0, -0.3)) @ Z.T + 30.0**2 * np.eye(len(y))
    assert fit.deviance == pytest.approx(naive.deviance(y, X, V, reml), rel=EQUATIONS_RTOL)
    assert fit.aic == pytest.approx(fit.deviance + 2 * 2, rel=EQUATIONS_RTOL)
    assert fit.bic == pytest.approx(fit.deviance + 2 * np.log(len(y)), rel=EQUATIONS_RTOL)


def test_the_sire_model_of_mrode():
    """Mrode (2014), Linear Models for the Prediction of Animal Breeding Values, 3rd ed., example 3.2, as printed.

    Pre-weaning gains of five calves by sex and sire, sigma_s^2 = 5, sigma_e^2 = 55; sire 4 is a son of sire 1.
    The relationship A among sires enters through Z chol(A).
    """
    gain = np.array([4.5, 2.9, 3.9, 3.5, 5.0])
    male = np.array([1.0, 0.0, 0.0, 1.0, 1.0])
    sire = np.eye(3)[[0, 1, 0, 2, 1]]
    root = np.linalg.cholesky(np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.0], [0.5, 0.0, 1.0]]))
    term = slm.RandomTerm(sp.csc_array(sire @ root), name="sire", levels=[1, 3, 4])
    model = slm.LinearMixedModel.from_arrays(gain, np.column_stack([male, 1 - male]), [term])
    fit = model.fit(fixed={"sd_Intercept|sire": np.sqrt(5.0), "sigma": np.sqrt(55.0)})
    np.testing.assert_array_equal(np.round(fit.fixef, 3), [4.336, 3.382])
    np.testing.assert_array_equal(np.round(root @ fit.ranef()["sire"].Intercept, 3), [0.022, 0.014, -0.043])


def constrained(sleepstudy, held, reml):
    """Nelder-Mead from two starts on the textbook's criterion in the parameters that are not held."""
    y, X, Z = slopes(sleepstudy)
    free = [n for n in NAMES if n not in held]

    def deviance(x):
        sd0, sd1, cor, sigma = ({**held, **dict(zip(free, x, strict=True))}[n] for n in NAMES)
        if min(sd0, sd1, sigma - 1.0) < 0 or abs(cor) > 1:
            return 1e10
        V = Z @ np.kron(np.eye(18), covariance(sd0, sd1, cor)) @ Z.T + sigma**2 * np.eye(len(y))
        V_inv, (_, logdet) = np.linalg.inv(V), np.linalg.slogdet(V)
        XVX = X.T @ V_inv @ X
        e = y - X @ np.linalg.solve(XVX, X.T @ V_inv @ y)
        out = logdet + e @ V_inv @ e + (len(y) - 2 * reml) * np.log(2 * np.pi)
        return out + np.linalg.slogdet(XVX)[1] if reml else out

    default = dict(zip(NAMES, [25.0, 6.0, 0.0, 25.0], strict=True))
    options = {"xatol": 1e-9, "fatol": 1e-10, "maxfev": 4000}
    best = minimize(deviance, [default[n] for n in free], method="Nelder-Mead", options=options)
    return best.fun, dict(zip(free, best.x, strict=True))


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize(
    "held",
    [
        {"sigma": 25.0},
        {"sd_Intercept|Subject": 30.0},
        {"sd_Intercept|Subject": 30.0, "sigma": 30.0},
        {"cor_Intercept.Days|Subject": 0.5},
        {"cor_Intercept.Days|Subject": -0.9, "sd_Days|Subject": 3.0},
        {"sd_Intercept|Subject": 30.0, "sd_Days|Subject": 3.0, "cor_Intercept.Days|Subject": 0.0},
    ],
)
def test_some_held_is_the_optimum_under_constraint(sleepstudy, held, reml):
    fit = slm.lmm(SLOPES, sleepstudy, fixed=held, reml=reml)
    deviance, estimates = constrained(sleepstudy, held, reml)
    assert fit.converged and fit.deviance == pytest.approx(deviance, abs=OPTIMUM_ATOL)
    found, expected = fit.varpar[list(estimates)], list(estimates.values())
    np.testing.assert_allclose(found, expected, rtol=ESTIMATE_RTOL, atol=ESTIMATE_ATOL)
    np.testing.assert_allclose(fit.varpar[list(held)], list(held.values()), rtol=EQUATIONS_RTOL)
    assert fit.varpar_se[list(held)].isna().all() and fit.varpar_se[list(estimates)].notna().all()
    assert fit.n_params == 2 + 4 - len(held)
    assert fit.aic == pytest.approx(fit.deviance + 2 * fit.n_params, rel=EQUATIONS_RTOL)


def test_holding_the_estimates_changes_nothing(sleepstudy):
    free = slm.lmm(SLOPES, sleepstudy)
    held = slm.lmm(SLOPES, sleepstudy, fixed=free.varpar.to_dict())
    assert held.deviance == pytest.approx(free.deviance, rel=EQUATIONS_RTOL)
    np.testing.assert_allclose(held.fixef, free.fixef, rtol=EQUATIONS_RTOL)
    np.testing.assert_allclose(held.fitted, free.fitted, rtol=EQUATIONS_RTOL)


def test_a_variance_held_at_zero_leaves_its_term_out(sleepstudy):
    without = slm.lmm("Reaction ~ Days + (1 | Subject)", sleepstudy)
    fit = slm.lmm("Reaction ~ Days + (Days || Subject)", sleepstudy, fixed={"sd_Days|Subject": 0.0})
    assert fit.deviance == pytest.approx(without.deviance, abs=OPTIMUM_ATOL)
    assert fit.varpar["sigma"] == pytest.approx(without.sigma, rel=ESTIMATE_RTOL)
    assert fit.is_singular and fit.n_params == without.n_params
    assert (fit.ranef()["Subject"].Days == 0).all()


def test_one_term_held_of_two():
    """Crossed terms: holding plate at its estimate leaves sample and sigma where they were."""
    formula, data = "diameter ~ 1 + (1 | plate) + (1 | sample)", load_dataset("Penicillin")
    free = slm.lmm(formula, data)
    name = "sd_Intercept|plate"
    held = slm.lmm(formula, data, fixed={name: free.varpar[name]})
    np.testing.assert_allclose(held.varpar, free.varpar, rtol=ESTIMATE_RTOL)
    assert held.deviance == pytest.approx(free.deviance, abs=OPTIMUM_ATOL)
    assert held.n_params == free.n_params - 1


@pytest.mark.parametrize(("word", "sds"), [("cs", ["sd_cs(Machine)"]), ("hcs", [f"sd_Machine[{m}]" for m in "ABC"])])
def test_compound_symmetry_held_without_correlation_is_the_diagonal_model(word, sds):
    data = load_dataset("Machines")
    held = {**{f"{sd}|Worker": 5.0 for sd in sds}, f"cor_{word}(Machine)|Worker": 0.0, "sigma": 1.0}
    fit = slm.lmm(f"score ~ Machine + {word}(0 + Machine | Worker)", data, fixed=held)
    other = {f"sd_Machine[{m}]|Worker": 5.0 for m in "ABC"} | {"sigma": 1.0}
    diagonal = slm.lmm("score ~ Machine + diag(0 + Machine | Worker)", data, fixed=other)
    assert fit.deviance == pytest.approx(diagonal.deviance, rel=EQUATIONS_RTOL)
    np.testing.assert_allclose(fit.fixef, diagonal.fixef, rtol=EQUATIONS_RTOL)


def test_the_summary_names_what_is_held(sleepstudy):
    text = slm.lmm(SLOPES, sleepstudy, fixed={"sigma": 30.0}).summary()
    assert "Held: sigma = 30" in text and ", 5 parameters" in text
    everything = slm.lmm(SLOPES, sleepstudy, fixed=dict(zip(NAMES, [20.0, 5.0, -0.3, 30.0], strict=True))).summary()
    assert "Nothing to optimise" in everything and ", 2 parameters" in everything


@pytest.mark.filterwarnings("ignore:the fit did not converge")
@pytest.mark.parametrize(("name", "value", "least"), [("sd_a[a]|g", 0.5, 1.14631), ("sd_a[a]|g", 0.0, 2.19035)])
def test_three_effects_whose_correlations_end_beside_what_is_held(name, value, least):
    """Differences beyond a singular correlation matrix were an error of the search: "not a covariance matrix".

    least: above the deviance of the free fit, by the dense one in angles of a Cholesky factor, minimised by BFGS. The
    search stops a little before the end, and says so.
    """
    rng = np.random.default_rng(7)
    table = pd.DataFrame({"x": rng.normal(size=120), "g": rng.integers(0, 12, 120), "h": rng.integers(0, 7, 120)})
    table["a"], _, _ = (rng.choice(list(levels), 120) for levels in ("abc", "uv", "123"))
    table["y"] = rng.normal(size=12)[table["g"]] + rng.normal(size=120)
    table["y"] += table["x"] * rng.normal(size=12)[table["g"]]
    formula = "y ~ x + (a || g)"
    free, held = (slm.lmm(formula, table, reml=False, fixed=fixed) for fixed in (None, {name: value}))
    assert held.deviance - free.deviance == pytest.approx(least, abs=1e-3)
