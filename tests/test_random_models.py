"""Models that nobody wrote by hand: random tables and formulas, every engine against n x n matrices.

600 such models were compared with lme4 1.1-31 by a larger generator of this kind; what that found is at the end.
"""

import re
from functools import cache

import numpy as np
import pandas as pd
import pytest

import sparselmm as slm
from sparselmm.dense import DenseLikelihood
from sparselmm.likelihood import Likelihood

FIXED = ("x", "z", "f", "x:z", "f:x", "f*x", "(f + x + z)^2", "I(x^2)", "scale(x)", "poly(x, 2)", "bs(x, df=4)", "flag",
         "copy", "C(f, contr.sum)", "C(u, contr.helmert)", "C(u, contr.poly)", "log(abs(x) + 1)")  # fmt: skip
LEFT = ("1", "1", "x", "0 + x", "f", "0 + f", "x + z", "scale(z)", "flag")
GROUPS = ("g", "h", "k", "g:k", "h/k", "flag")
SEEDS = range(40)

CRITERION_RTOL = 1e-9  # one number by the sparse equations and by n x n matrices
ESTIMATES = 1e-7  # in standard errors: T of 1e3 and more costs both ways digits
SCORE = 1e-6  # of the largest entry: T is lifted by 1e-4 where a variance is zero
FITTED_RTOL = 1e-8  # lme4's optimum, at rhoend = 1e-9


def codes(rng, n, m):
    """Unbalanced, some levels with one row, some with none."""
    return rng.choice(m, n, p=rng.dirichlet(np.full(m, rng.choice([0.5, 2.0, 20.0]))))


def table(rng):
    """15 to 90 rows of any scale: text, integer, boolean and categorical columns, unused categories, gaps."""
    n = int(rng.integers(15, 90))
    x = rng.normal(size=n) * 10 ** rng.uniform(-4, 4) + rng.choice([0.0, 10.0])
    frame = pd.DataFrame({"x": x, "z": rng.uniform(size=n), "flag": rng.random(n) < 0.4, "w": rng.uniform(0.2, 4.0, n)})
    frame["copy"] = 2.0 * frame.x - frame.z
    frame["f"] = np.array(list("cab"))[rng.permutation(np.arange(n) % 3)]
    frame["u"] = pd.Categorical(np.array(list("zyx"))[rng.permutation(np.arange(n) % 3)], categories=list("zqyx"))
    frame["g"] = np.array([f"s {i}é" for i in range(12)])[codes(rng, n, 12)]
    frame["h"] = 7 * codes(rng, n, 5) - 14
    frame["k"] = pd.Categorical.from_codes(codes(rng, n, 6), categories=list("fedcbaX"))
    noise = rng.normal(size=(3, 20)) * rng.choice([0.0, 1.0, 3.0], (3, 1))
    y = sum(noise[i][pd.factorize(frame[c])[0]] for i, c in enumerate("ghk")) + rng.normal(size=n)
    frame["y"] = (y + rng.choice([0.0, 1e3])) * 10 ** rng.uniform(-5, 5)
    if rng.random() < 0.3:
        frame.loc[rng.random(n) < 0.05, ["x", "g"]] = np.nan
    return frame


@cache
def random_fit(seed):
    """The fit of a random model, and the generator; None where the package says that it is no model."""
    rng = np.random.default_rng([1, seed])
    data = table(rng)
    parts = [str(int(rng.random() > 0.15)), *rng.choice(FIXED, int(rng.integers(0, 3)))]
    groups = rng.choice(GROUPS, int(rng.integers(1, 4)), replace=False)
    bars = [f"({rng.choice(LEFT)} {rng.choice(['|', '||'])} {group})" for group in groups]
    weights = "w" if rng.random() < 0.3 else None
    try:
        return slm.lmm("y ~ " + " + ".join([*parts, *bars]), data, reml=bool(rng.random() < 0.6), weights=weights), rng
    except slm.SparselmmError as error:
        assert re.search("[Dd]rop|give|hold", str(error)), error
        return None


def points(fit, rng):
    """theta of the optimum, and far from it, some of it zero."""
    size = np.abs(np.diag(fit.likelihood.scaling()))
    far = rng.normal(size=len(size)) * np.exp(rng.normal()) / np.where(size > 0.0, size, 1.0)
    return np.asarray(fit.theta), np.where(rng.random(len(size)) < 0.2, 0.0, far)


def largest(left, right, scale):
    """Largest difference in units of scale."""
    return np.max(np.abs(np.asarray(left) - np.asarray(right)) / scale, initial=0.0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("seed", SEEDS)
def test_engines_and_dense_matrices_agree(seed):
    made = random_fit(seed)
    if made is None:
        return
    fit, rng = made
    assert fit.converged
    dense, reml = DenseLikelihood(fit.spec), fit.reml
    for theta in points(fit, rng):
        expected, score = dense(theta, reml=reml), dense.derivatives(theta, reml=reml)
        units = np.linalg.inv(dense.scaling())
        for engine in ("absorb", "supernodal", "cholmod"):
            likelihood = Likelihood(fit.spec, engine)
            at = likelihood(theta, reml=reml)
            assert at.deviance == pytest.approx(expected.deviance, rel=CRITERION_RTOL)
            assert at.sigma == pytest.approx(expected.sigma, rel=CRITERION_RTOL)
            errors = np.sqrt(likelihood.fixed_variances(theta, at.sigma))
            assert largest(at.beta, expected.beta, errors) < ESTIMATES
            for b, other in zip(at.b, expected.b, strict=True):
                assert largest(b, other, np.abs(other).max(axis=0) + 1e-300) < ESTIMATES
            assert largest(errors, np.sqrt(dense.fixed_variances(theta, at.sigma)), errors) < ESTIMATES
            gradient = units.T @ likelihood.derivatives(theta, reml=reml).gradient
            assert largest(gradient, units.T @ score.gradient, max(1.0, np.abs(gradient).max(initial=0.0))) < SCORE


def test_most_of_the_random_models_are_models():
    assert sum(random_fit(seed) is not None for seed in SEEDS) > 0.7 * len(SEEDS)


def test_uncorrelated_effects_are_more_than_the_rows():
    """`(x || g)` has 32 effects for 30 rows, and is `(1 | g) + (0 + x | g)`; it was refused.

    lmer(y ~ 1 + (x || g), d, REML = r, control = lmerControl("bobyqa", optCtrl = list(rhoend = 1e-9))), lme4 1.1-31.
    """
    i = np.arange(1, 31)
    x, g = np.sin(i * i).round(3), i * i % 37 // 2
    data = pd.DataFrame(
        {"y": (np.cos(3 * i) + x * np.sin(5 * g) + np.sin(7 * g)).round(3), "x": x, "g": g, "k": i // 2}
    )
    for reml, expected in ((True, 85.1556682747366), (False, 83.6424330802996)):
        fit = slm.lmm("y ~ 1 + (x || g)", data, reml=reml)
        assert fit.deviance == pytest.approx(expected, rel=FITTED_RTOL)
    for formula in ("y ~ 1 + (x | g)", "y ~ 1 + diag(0 + f | k)"):
        with pytest.raises(slm.SparselmmError, match="32 random effects for 30 observations"):
            slm.lmm(formula, data.assign(f=np.where(i % 2, "a", "b")))
