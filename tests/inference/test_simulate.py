"""Simulated responses: their mean and covariance are those of a dense computation; designs without a response."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import sparselmm as slm
from sparselmm.datasets import load_dataset
from sparselmm.engines import sparse_pattern
from sparselmm.engines.cholmod import Cholmod
from sparselmm.kernels.triangular import solve_transposed
from tests.problems import PROBLEMS

DRAWS = 5_000
Z_LIMIT = 5.5  # standard errors of a Monte-Carlo moment: 0.1 % for the largest of 30,000 moments
EXACT = 1e-10  # the same numbers by two linear solvers


def assert_moments(draws, mean, V):
    """Sample mean and covariance of the columns of draws (n, N) within Monte-Carlo error (Wishart variances)."""
    N = draws.shape[1]
    sd = np.sqrt(np.diag(V))
    assert (np.abs(draws.mean(axis=1) - mean) <= Z_LIMIT * sd / np.sqrt(N)).all()
    S = np.cov(draws)
    error = np.sqrt((V**2 + np.outer(sd, sd) ** 2) / (N - 1))
    assert (np.abs(S - V) <= Z_LIMIT * error).all()


def series(n=48):
    rng = np.random.default_rng(3)
    t, g = np.tile(np.arange(12), n // 12), np.repeat(np.arange(n // 12), 12)
    return pd.DataFrame({
        "y": rng.normal(size=n), "x": rng.normal(size=n), "t": t + (t > 5) * 2.0, "g": g, "f": t % 3, "w": 1.0 + t % 2,
        "id": [f"i{k}" for k in rng.integers(0, 12, n)],
    })  # fmt: skip


def pedigree():
    names = [f"i{k}" for k in range(12)]
    sire = [None] * 4 + ["i0", "i0", "i2", "i2", "i4", "i4", "i6", "i6"]
    dam = [None] * 4 + ["i1", "i1", "i3", "i3", "i7", "i7", "i5", "i5"]
    return slm.Pedigree(names, sire, dam)


CASES = {
    "slopes": ("y ~ x + (1 + x | g) + (1 | f)", {}),
    "weights": ("y ~ x + (1 | g)", {"weights": "w", "offset": "t"}),
    "ar1 effects": ("y ~ x + ar1(0 + t | g)", {}),
    "ou effects": ("y ~ x + ou(0 + t | g)", {}),
    "pedigree": ("y ~ x + ped(1 + x | id, P)", {"context": {"P": pedigree()}}),
    "a matrix of large variances": (
        "y ~ x + known(1 | f, K)",
        {"context": {"K": slm.Known(900.0 * (0.5 * np.eye(3) + 0.5), kind="covariance")}},
    ),
    "ar1 residual": ("y ~ x + (1 | g)", {"residual": "ar1(t | g)", "weights": "w"}),
    "strata": ("y ~ x + (1 | g)", {"residual": "varident(f)"}),
    "product": ("y ~ x + (1 | g)", {"residual": "ou(t | g) * varident(f)"}),
}


def given(fit):
    """Parameters away from every edge."""
    values = {"cor": 0.4, "sd": 1.3, "rho": 0.6, "kappa": 0.3, "ratio": 1.7, "sigma": 0.8}
    return {name: values[name.split("_")[0]] for name in fit.varpar.index}


@pytest.mark.parametrize("case", CASES)
def test_moments_are_those_of_the_dense_covariance(case):
    formula, options = CASES[case]
    data = series()
    fit = slm.lmm(formula, data, fixed=given(slm.lmm(formula, data, **options)), **options)
    dense = slm.lmm(formula, data, fixed=given(fit), engine="dense", **options).likelihood
    theta = fit.theta.to_numpy()
    psi, noise = dense._psi(theta), dense._noise(theta)
    noise = np.diag(1.0 / data[options["weights"]] if "weights" in options else np.ones(48)) if noise is None else noise
    Z = dense._marginal.Z
    V = fit.sigma**2 * (noise + sum(z @ P @ z.T for z, P in zip(Z, psi, strict=True)))
    population = fit.predict(re=False)
    assert_moments(fit.simulate(DRAWS, seed=1), population, V)
    assert_moments(fit.simulate(DRAWS, seed=2, effects="fitted"), fit.fitted, fit.sigma**2 * noise)
    assert_moments(fit.simulate(DRAWS, seed=3, effects="none"), population, fit.sigma**2 * noise)


@pytest.mark.parametrize("q", [1, 7, 30])
def test_draws_of_a_precision(q):
    """P'L^-T of unit vectors is a square root of the inverse."""
    rng = np.random.default_rng(q)
    A = sp.random_array((q, q), density=0.2, rng=rng).toarray()
    M = A @ A.T + np.eye(q)
    rows, cols = np.nonzero(np.tril(M))
    pattern = sparse_pattern(rows, cols, q)
    engine = Cholmod(pattern)
    engine.factorize(M[pattern.indices, np.repeat(np.arange(q), np.diff(pattern.indptr))])
    root = engine.sample(np.eye(q))
    np.testing.assert_allclose(root @ root.T, np.linalg.inv(M), rtol=EXACT, atol=EXACT)


def test_back_substitution_is_that_of_numpy():
    rng = np.random.default_rng(0)
    L = sp.csc_array(
        np.tril(rng.normal(size=(9, 9)) * (rng.uniform(size=(9, 9)) < 0.4), -1) + np.diag(1 + rng.random(9))
    )
    L.sort_indices()
    z = rng.normal(size=(9, 3))
    out = z.copy()
    solve_transposed(L.indptr, L.indices, L.data, out)
    np.testing.assert_allclose(out, np.linalg.solve(L.toarray().T, z), rtol=EXACT)


def test_a_seed_decides():
    fit = PROBLEMS["crossed"].model().fit()
    np.testing.assert_array_equal(fit.simulate(3, seed=7), fit.simulate(3, seed=7))
    assert not np.array_equal(fit.simulate(1, seed=7), fit.simulate(1, seed=8))
    assert fit.simulate().shape == (fit.nobs, 1)


PARAMS = {
    "Intercept": 250.0, "Days": 10.0, "sd_Intercept|Subject": 25.0, "sd_Days|Subject": 6.0,
    "cor_Intercept.Days|Subject": 0.1, "sigma": 25.0,
}  # fmt: skip


@pytest.mark.parametrize(
    "formula", ["~ Days + (Days | Subject)", "Days + (Days | Subject)", "any ~ Days + (Days | Subject)"]
)
def test_a_design_without_a_response(formula):
    design = load_dataset("sleepstudy").drop(columns="Reaction")
    y = slm.simulate(formula, design, PARAMS, seed=4, n=DRAWS)
    X = np.column_stack([np.ones(180), design.Days])
    Z = (pd.get_dummies(design.Subject).to_numpy(float)[:, :, None] * X[:, None]).reshape(180, -1)
    G = np.array([[625.0, 15.0], [15.0, 36.0]])
    V = Z @ np.kron(np.eye(18), G) @ Z.T + 625 * np.eye(180)
    assert_moments(y, X @ [250.0, 10.0], V)


def test_other_tables_and_missing_values():
    polars = pytest.importorskip("polars")
    design = load_dataset("sleepstudy").drop(columns="Reaction").astype({"Subject": str, "Days": float})
    formula = "~ Days + (Days | Subject)"
    expected = slm.simulate(formula, design, PARAMS, seed=4)
    np.testing.assert_array_equal(
        slm.simulate(formula, polars.DataFrame(design.to_dict("list")), PARAMS, seed=4), expected
    )
    design.loc[5, "Days"] = np.nan
    with_gap = slm.simulate(formula, design, PARAMS, seed=4)
    assert np.flatnonzero(np.isnan(with_gap[:, 0])).tolist() == [5] and with_gap.shape == (180, 1)


def test_a_design_with_sparse_fixed_effects_and_what_goes_with_every_row():
    """Coefficients by name, offsets added, weights that divide the variance."""
    rng = np.random.default_rng(6)
    data = pd.DataFrame({"f": rng.permutation(600) // 4, "g": np.arange(600) % 7, "off": rng.normal(size=600)})
    data["w"] = np.where(data.index < 300, 1.0, 100.0)
    levels = np.unique(data.f.map("l{:03d}".format))
    beta = dict(zip(levels, rng.normal(size=150), strict=True))
    params = {"Intercept": 2.0, **{f"f[T.{name}]": value for name, value in list(beta.items())[1:]}}
    params |= {"sd_Intercept|g": 0.0, "sigma": 1e-9}
    data["f"] = data.f.map("l{:03d}".format)
    y = slm.simulate("~ f + (1 | g)", data, params, seed=1, offset="off")[:, 0]
    mean = 2.0 + data.f.map(beta | {levels[0]: 0.0}) + data.off
    np.testing.assert_allclose(y, mean, atol=1e-8)
    e = slm.simulate("~ f + (1 | g)", data, params | {"sigma": 1.0}, seed=1, offset=data.off, weights="w")[:, 0] - mean
    assert e[:300].std() == pytest.approx(1.0, rel=0.25) and e[300:].std() == pytest.approx(0.1, rel=0.25)  # 6 errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigma": None}, "'sigma' is missing"),
        ({"Hours": 1.0}, "no parameter 'Hours'"),
        ({"sigma": -1.0}, "params: sigma cannot be -1"),
        ({"sd_Days|Subject": -1.0}, "params: sd_Days"),
        ({"Days": np.nan}, "params: Days cannot be nan: a coefficient is a finite number"),  # was taken for zero
        ({"Days": np.inf}, "params: Days cannot be inf"),
        ({"Days": "10"}, "params: Days cannot be '10'"),
        ({"cor_Intercept.Days|Subject": 2.0}, "params: cor_"),
    ],
)
def test_bad_parameters_are_refused(change, message):
    params = {k: v for k, v in (PARAMS | change).items() if v is not None}
    with pytest.raises(slm.ModelError, match=message):
        slm.simulate("~ Days + (Days | Subject)", load_dataset("sleepstudy"), params)


def test_bad_arguments_are_refused():
    fit = PROBLEMS["one_factor"].model().fit()
    with pytest.raises(slm.ModelError, match="one of 'new', 'fitted', 'none'"):
        fit.simulate(effects="old")
    for n in (0, 1.5, "2"):
        with pytest.raises(slm.ModelError, match="a whole number from 1 on"):
            fit.simulate(n)
