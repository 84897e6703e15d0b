"""residual="us(trait | record)" in fits: a published example, nlme's gls, and what the edges of R do."""

import numpy as np
import pandas as pd
import pytest

import sparselmm as slm
from sparselmm.datasets import load_dataset
from sparselmm.likelihood import Likelihood
from sparselmm.structures import UnstructuredResidual
from sparselmm.terms import ModelSpec, RandomTerm
from tests import naive

PRINTED = 6e-4  # three decimals of a book
DENSE_RTOL = 1e-9  # the same equations, dense, of condition 1e2
LOGLIK_LOSS = 1e-9  # relative
NLME_RTOL = 1e-5
GRADIENT_RTOL = 1e-5  # central differences of a criterion of order 1e2
GROWTH = "distance ~ I(age - 11) * Sex"

# gls(corSymm + varIdent by age) of nlme 3.1-162 on Orthodont, polished on the dense likelihood
GLS = {
    True: (-212.273400097208, [2.32921312976022, 2.04709761474966, 2.5026342789819, 2.23297471873612]),
    False: (-209.73852405497, [2.2625648011563, 1.98190506832928, 2.44536258855608, 2.14894954997682]),
}
CORRELATIONS = {  # of ages 8.10, 8.12, 8.14, 10.12, 10.14, 12.14
    True: [
        0.568195073287787, 0.658949020033038, 0.522036076687009, 0.580603494677199, 0.724917567856489, 0.73961839340109,
    ],
    False: [
        0.544335167366301, 0.652565782558738, 0.518751969977739, 0.560719451817677, 0.719027765574222, 0.72759071029298,
    ],
}  # fmt: skip


@pytest.mark.parametrize("reml", [True, False])
def test_visits_of_a_child(reml):
    table = load_dataset("Orthodont").sample(frac=1.0, random_state=1)
    fit = slm.lmm(GROWTH, table, residual="us(age | Subject)", reml=reml)
    loglik, sd = GLS[reml]
    assert fit.converged and fit.loglik >= loglik - LOGLIK_LOSS * abs(loglik)
    ratios = fit.varpar.filter(like="ratio")
    np.testing.assert_allclose(fit.sigma * np.append(1.0, ratios), sd, rtol=NLME_RTOL)
    np.testing.assert_allclose(fit.varpar.filter(like="cor_"), CORRELATIONS[reml], rtol=NLME_RTOL)
    assert fit.varpar.index[3] == "cor_8.10|residual"
    assert fit.n_params == 14


def test_a_published_example_of_two_traits():
    """Mrode (2014), Linear Models for the Prediction of Animal Breeding Values, 3rd ed., example 5.1.

    The records (its table 5.1) and all solutions below, to three decimals, were compared with the print. The same
    solutions come here from the mixed-model equations, dense, with A by the tabular method.
    """
    calves = pd.DataFrame({
        "calf": [4, 5, 6, 7, 8],
        "sire": [1, 3, 1, 4, 3],
        "dam": [None, 2, 2, 5, 6],
        "sex": ["male", "female", "female", "male", "male"],
        "wwg": [4.5, 2.9, 3.9, 3.5, 5.0],
        "pwg": [6.8, 5.0, 6.8, 6.0, 7.5],
    })  # fmt: skip
    P = slm.Pedigree(calves["calf"], calves["sire"], calves["dam"])
    long = calves.melt(["calf", "sex"], ["wwg", "pwg"], "trait", "gain")
    long["trait"] = pd.Categorical(long["trait"], ["wwg", "pwg"])
    held = {
        "sd_ped(trait[wwg])|calf": np.sqrt(20),
        "sd_ped(trait[pwg])|calf": np.sqrt(40),
        "cor_ped(trait[wwg]).ped(trait[pwg])|calf": 18 / np.sqrt(800),
        "sigma": np.sqrt(40),
        "ratio_pwg|residual": np.sqrt(0.75),
        "cor_wwg.pwg|residual": 11 / np.sqrt(1200),
    }
    formula = "gain ~ 0 + trait:sex + ped(0 + trait | calf, P)"
    fit = slm.lmm(formula, long, residual="us(trait | calf)", context={"P": P}, fixed=held)
    sexes = [3.397, 5.880, 4.361, 6.800]
    np.testing.assert_allclose(fit.fixef, sexes, atol=PRINTED)
    values = [
        (0.151, 0.280), (-0.015, -0.008), (-0.078, -0.170), (-0.010, -0.013), (-0.270, -0.478), (0.276, 0.517),
        (-0.316, -0.479), (0.244, 0.392),
    ]  # fmt: skip
    found = fit.ranef()["calf"].sort_index()
    np.testing.assert_allclose(found, values, atol=PRINTED)
    beta, u = dense_calves(calves)
    np.testing.assert_allclose(fit.fixef, beta, rtol=DENSE_RTOL)
    np.testing.assert_allclose(found, u, rtol=DENSE_RTOL, atol=1e-12)


def dense_calves(calves):
    """Solutions of [X'R^-1X, X'R^-1Z; Z'R^-1X, Z'R^-1Z + G^-1 x A^-1] for G0, R0 of the book."""
    G, R = np.array([[20.0, 18.0], [18.0, 40.0]]), np.array([[40.0, 11.0], [11.0, 30.0]])
    parents = {4: (1, None), 5: (3, 2), 6: (1, 2), 7: (4, 5), 8: (3, 6)}
    A = np.eye(8)
    for i, (sire, dam) in parents.items():
        A[i - 1, : i - 1] = sum(A[p - 1, : i - 1] / 2 for p in (sire, dam) if p)
        A[: i - 1, i - 1] = A[i - 1, : i - 1]
        A[i - 1, i - 1] += A[sire - 1, dam - 1] / 2 if dam else 0.0
    female = calves["sex"].to_numpy() == "female"
    X = np.kron(np.eye(2), np.column_stack([female, ~female]))
    Z = np.kron(np.eye(2), np.eye(8)[calves["calf"] - 1])
    W, K = np.hstack([X, Z]), np.kron(np.linalg.inv(R), np.eye(5))
    C = W.T @ K @ W
    C[4:, 4:] += np.kron(np.linalg.inv(G), np.linalg.inv(A))
    solved = np.linalg.solve(C, W.T @ K @ np.concatenate([calves["wwg"], calves["pwg"]]))
    return solved[[0, 2, 1, 3]], solved[4:].reshape(2, 8).T


def long_data(n=60, traits=3, seed=4):
    rng = np.random.default_rng(seed)
    record, trait = np.repeat(np.arange(n), traits), np.tile(np.arange(traits), n)
    keep = rng.uniform(size=len(record)) < 0.8
    y = rng.normal(size=n)[record] + rng.normal(size=len(record))
    return record[keep], trait[keep], y[keep]


@pytest.mark.parametrize(
    "ends", [(0.0, 0.0, 0.0), (4.0, 0.5, -1.0), (0.3, -0.2, 6.0), (7.2, 0.4, 0.2), (-0.4, 0.3, 7.2)]
)
def test_score_near_singular_residuals(ends):
    """By partial correlations of up to 1 - 1e-6; differences of the criterion, whose rounding grows to 1e-8 there."""
    record, trait, y = long_data()
    residual = UnstructuredResidual(trait, record)
    X = np.eye(3)[trait]
    term = RandomTerm(record % 7, columns=np.eye(3)[trait], effects=("a", "b", "c"))
    likelihood = Likelihood(ModelSpec(y, X, ("a", "b", "c"), (term,), residual=residual))
    theta = likelihood.parameters.start([0.7 * np.eye(3) + 0.2])
    theta[-3:] = ends
    for reml in (True, False):
        found = likelihood.derivatives(theta, reml=reml).gradient
        step = 1e-4
        expected = naive.numeric_gradient(lambda t: likelihood(t, reml=reml).deviance, theta, step)  # noqa: B023
        loss = 1e-7 / step if max(ends) > 7 else 0.0
        np.testing.assert_allclose(found, expected, rtol=GRADIENT_RTOL, atol=1e-4 + loss)


def test_verbs_of_a_fit():
    table = load_dataset("Orthodont")
    fit = slm.lmm(GROWTH, table, residual="us(age | Subject)")
    assert fit.simulate(400, seed=2).shape == (108, 400)
    R = np.cov(fit.simulate(4000, seed=3)[:4])
    expected = fit.sigma**2 * fit.spec.residual.relative(fit.theta.to_numpy())
    np.testing.assert_allclose(R, expected, rtol=0.15, atol=0.1)  # 4,000 draws: errors of 2 % of a variance
    assert fit.leverage().sum() == pytest.approx(4.0)
    assert fit.refit(fit.spec.y).deviance == pytest.approx(fit.deviance, rel=1e-9)
    assert "Residuals us(age | Subject)" in fit.summary()
    with pytest.raises(slm.ModelError, match="the residual of a new row is correlated"):
        fit.predict(table.head(), interval="prediction")
    lower = slm.lmm(GROWTH, table, residual="us(age | Subject)", fixed={"cor_8.10|residual": 0.0})
    assert lower.deviance > fit.deviance and lower.varpar["cor_8.10|residual"] == 0.0
