"""BCa intervals: the acceleration against dense traces and closed forms, the ends against exact intervals."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2, f, norm

import sparselmm as slm
from sparselmm.datasets import load_dataset
from sparselmm.inference.acceleration import _informations, _off_edge, acceleration
from sparselmm.inference.bootstrap import Bootstrap
from sparselmm.inference.factorised import sparse_likelihood
from sparselmm.inference.simulate import Simulator

Z_LIMIT = 5.0  # standard errors of a Monte-Carlo figure
DRAW_RTOL = 1e-7  # y'P V_i P V_j P y with dV by differences of 1e-6
DRAWS, NOISE = 3000, 0.13  # five standard errors of a, relative: 1.41/sqrt(DRAWS) each


def slopes():
    """7 unequal groups, intercept and slope, weights; V at (sd, sd, cor, sigma)."""
    rng = np.random.default_rng(2)
    g = np.repeat(np.arange(7), rng.integers(4, 12, 7))
    n = len(g)
    x, w = rng.normal(size=n), rng.uniform(0.5, 2.0, n)
    Z = np.column_stack([np.eye(7)[g], np.eye(7)[g] * x[:, None]])
    y = 2 + x + Z @ rng.normal(size=14) + rng.normal(size=n) / np.sqrt(w)

    def V(v):
        G = np.array([[v[0] ** 2, v[0] * v[1] * v[2]], [v[0] * v[1] * v[2], v[1] ** 2]])
        return Z @ np.kron(G, np.eye(7)) @ Z.T + v[3] ** 2 * np.diag(1 / w)

    return "y ~ x + (x | g)", {"weights": "w"}, pd.DataFrame({"y": y, "x": x, "g": g, "w": w}), V


def series():
    """5 series of 9 times and residuals with two variances; V at (sd, rho, ratio, sigma)."""
    rng = np.random.default_rng(4)
    t, s = np.tile(np.arange(9), 5), np.repeat(np.arange(5), 9)
    h, x = np.where(rng.random(45) < 0.5, "a", "b"), rng.normal(size=45)
    lags, same = np.abs(np.subtract.outer(t, t)), np.equal.outer(s, s)
    V = lambda v: v[0] ** 2 * same * v[1] ** lags + v[3] ** 2 * np.diag(np.where(h == "b", v[2], 1.0) ** 2)  # noqa: E731
    y = rng.multivariate_normal(x, V(np.array([1.2, 0.5, 1.6, 0.8])))
    table = pd.DataFrame({"y": y, "x": x, "t": t, "s": s, "h": h})
    return "y ~ x + ar1(0 + t | s)", {"residual": "varident(h)"}, table, V


def dense(fit, table, V):
    """P and dV/d(varpar), (k, n, n), at the estimates."""
    v, X = fit.varpar.to_numpy(), np.column_stack([np.ones(len(table)), table.x])
    K = np.linalg.inv(V(v))
    P = K - K @ X @ np.linalg.solve(X.T @ K @ X, X.T @ K)
    h = 1e-6 * np.maximum(np.abs(v), 0.1)
    return P, np.array([(V(v + e) - V(v - e)) / (2 * e.max()) for e in np.diag(h)])


@pytest.mark.parametrize("problem", [slopes, series])
def test_the_acceleration_is_that_of_the_traces(problem):
    formula, options, table, V = problem()
    fit = slm.lmm(formula, table, **options)
    assert not fit.is_singular
    P, dV = dense(fit, table, V)
    PV = P @ dV
    information = 0.5 * np.einsum("iab,jba->ij", PV, PV)
    expected = []
    for mu in np.linalg.inv(information):
        along = np.einsum("i,iab->ab", mu, PV)
        expected.append(np.trace(along @ along @ along) / (0.5 * np.trace(along @ along)) ** 1.5 / 6)
    found = acceleration(fit, DRAWS)
    assert (found[fit.fixef.index] == 0.0).all()
    np.testing.assert_allclose(found[fit.varpar.index], expected, atol=NOISE * np.abs(expected).max())


@pytest.mark.parametrize("problem", [slopes, series])
def test_what_is_averaged_is_exact(problem):
    """A_ij = y'P V_i P V_j P y of each response that is drawn, by theta and log sigma^2."""
    formula, options, table, V = problem()
    fit = slm.lmm(formula, table, **options)
    P, dV = dense(fit, table, V)
    parameters, theta = fit.likelihood.parameters, fit.theta.to_numpy()
    x = np.append(theta, 2 * np.log(fit.sigma))

    def natural(x):
        sigma = np.exp(0.5 * x[-1])
        values = parameters.to_natural(x[:-1])
        return np.append(np.where([n.startswith("sd_") for n in parameters.natural_names], sigma, 1.0) * values, sigma)

    J = np.array([(natural(x + e) - natural(x - e)) / 2e-6 for e in np.eye(len(x)) * 1e-6])  # dnatural/dx
    found = _informations(fit, sparse_likelihood(fit), theta, 3, 9)
    for A, y in zip(found, Simulator.of(fit).draw(3, np.random.default_rng(9)).T, strict=True):
        along = np.einsum("iab,b->ia", dV, P @ y)
        expected = J @ (along @ P @ along.T) @ J.T
        np.testing.assert_allclose(A, expected, rtol=DRAW_RTOL, atol=DRAW_RTOL * np.abs(expected).max())


def one_way(tau2, sigma2, m, n):
    """a of tau and of sigma: they are functions of two independent mean squares, whose cumulants are known."""
    between, within = sigma2 + n * tau2, sigma2
    k2 = 2 * between**2 / (m - 1) + 2 * within**2 / (m * (n - 1))
    k3 = 8 * between**3 / (m - 1) ** 2 - 8 * within**3 / (m * (n - 1)) ** 2
    return np.array([k3 / k2**1.5, np.sqrt(8 / (m * (n - 1)))]) / 6


@pytest.mark.parametrize("name", ["Dyestuff", "Dyestuff2"])
def test_the_acceleration_of_a_balanced_layout(name):
    """Of Dyestuff2 at a variance of zero, by the derivative with respect to the variance."""
    fit = slm.lmm("Yield ~ 1 + (1 | Batch)", load_dataset(name))
    expected = one_way(*fit.varpar**2, 6, 5)
    np.testing.assert_allclose(acceleration(fit, DRAWS)[fit.varpar.index], expected, rtol=NOISE)
    held = slm.lmm("Yield ~ 1 + (1 | Batch)", load_dataset("Dyestuff"), fixed={"sigma": 50.0})
    assert acceleration(held, 50)["sigma"] == 0.0


def test_the_ends_of_a_residual_are_nearly_exact():
    """sigma^2 with 10 degrees of freedom: exact ends by chi-square; percentiles are off by 19 %."""
    rng = np.random.default_rng(1)
    table = pd.DataFrame({"x": rng.normal(size=12), "y": rng.normal(size=12)})
    fit, n = slm.lmm("y ~ x", table), 4000
    boot = fit.bootstrap(n, seed=3)
    exact = fit.sigma * np.sqrt(10 / chi2.ppf([0.975, 0.025], 10))
    ends = boot.confint(kind="bca").loc["sigma"].to_numpy()
    np.testing.assert_allclose(ends, exact, rtol=0.04)
    assert (np.abs(boot.confint().loc["sigma"] / exact - 1) > 0.15).all()
    pd.testing.assert_frame_equal(
        boot.confint(kind="bca").loc[["Intercept", "x"]], boot.confint().loc[["Intercept", "x"]]
    )


def test_a_variance_of_zero():
    """Of mean squares drawn without our help: z0 from the replicates at zero, a in closed form."""
    fit, n = slm.lmm("Yield ~ 1 + (1 | Batch)", load_dataset("Dyestuff2")), 2000
    found = fit.bootstrap(n, seed=5).confint(kind="bca").loc["sd_Intercept|Batch"]
    rng, a = np.random.default_rng(0), one_way(0.0, fit.sigma**2, 6, 5)[0]
    between, within = (fit.sigma**2 * rng.chisquare(k, 1_000_000) / k for k in (5, 24))
    drawn = np.sqrt(np.maximum(between - within, 0.0) / 5)
    z0 = norm.ppf(f.cdf(1.0, 5, 24))
    w = z0 + norm.isf(0.025)
    share = norm.cdf(z0 + w / (1 - a * w))
    expected, error = np.quantile(drawn, share), np.sqrt(share * (1 - share) / n)
    near = np.quantile(drawn, [share - Z_LIMIT * error, min(share + Z_LIMIT * error, 1.0)])
    assert found["lower"] == 0.0 and near[0] < found["upper"] < near[1]
    assert expected > 1.2 * np.quantile(drawn, 0.975)


def test_counting_at_the_ends():
    """Half of the replicates at the estimate: below it at a lower end, not below at an upper one."""
    values = np.concatenate([np.zeros(50), np.arange(1.0, 50.0)]) / 50
    record = Bootstrap(
        pd.DataFrame({"sd_a|g": values, "cor_a.b|g": 1.0 - values}), pd.Series({"sd_a|g": 0.0, "cor_a.b|g": 1.0}),
        np.ones(99, bool), np.zeros(99, bool), 1,
    )  # fmt: skip
    z = norm.ppf(50.5 / 100)
    share = norm.cdf(2 * z + norm.isf(0.05))
    expected = np.interp(100 * share, np.arange(1, 100), np.sort(values))
    ends = record.confint(0.9, "bc")
    assert ends.loc["sd_a|g"].tolist() == pytest.approx([0.0, expected])
    assert ends.loc["cor_a.b|g"].tolist() == pytest.approx([1.0 - expected, 1.0])


def test_edges_of_all_kinds():
    """A correlation of one, a series without correlation: ends are numbers in the parameter space."""
    rng = np.random.default_rng(0)
    g, t = np.repeat(np.arange(6), 10), np.tile(np.arange(10), 6)
    x = rng.normal(size=60)
    y = rng.normal(size=6)[g] * (1 + x) + rng.normal(size=60)
    table = pd.DataFrame({"y": y, "x": x, "g": g, "t": t})
    for formula in ("y ~ x + (x | g)", "y ~ x + ar1(0 + t | g)"):
        fit = slm.lmm(formula, table)
        ends = fit.confint("boot", n=30, seed=1, kind="bca").loc[fit.varpar.index]
        assert ends.notna().all(axis=None) and (ends["lower"] <= ends["upper"]).all()
    theta = _off_edge(fit.likelihood, np.zeros(len(fit.theta)))
    assert theta[0] > 0.0 and theta[1] == 0.0


def test_refusals():
    fit = slm.lmm("Yield ~ 1 + (1 | Batch)", load_dataset("Dyestuff"))
    with pytest.raises(slm.ModelError, match="kind='bca' needs the fit, and replicates of effects='new', not 'fitted'"):
        fit.bootstrap(2, seed=1, effects="fitted").confint(kind="bca")
