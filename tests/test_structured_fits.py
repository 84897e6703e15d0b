"""Correlated levels from formula to fit: against dense matrices, other people's numbers and a Kalman filter."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import sparselmm as slm
from sparselmm.dense import DenseLikelihood
from sparselmm.formula import build_spec
from sparselmm.likelihood import Likelihood
from tests import golden

RTOL = 1e-9  # criterion, sparse against n x n
GRADIENT_RTOL = 1e-6  # of the largest entry: central differences of a criterion of size 1e2 to 1e3
AI_RTOL = 1e-7
DEVIANCE_RTOL = 1e-8  # the reference fits are polished to a flat gradient
SD_RTOL = 1e-4  # as the reference collection asks
KALMAN_RTOL = 1e-8
SHARED = Path(__file__).resolve().parents[2] / "shared" / "reference"


def field(n=120, seed=1):
    """Rows of a longitudinal field: series g with gaps, a crossed factor h, rows and columns, relatives."""
    rng = np.random.default_rng(seed)
    t = rng.integers(0, 9, n)
    frame = pd.DataFrame(
        {"g": rng.choice(list("abcdef"), n), "h": rng.integers(0, 7, n), "t": t, "x": rng.normal(size=n)}
    )
    frame["when"] = t + rng.choice([0.0, 0.25, 0.5], n)
    frame["row"], frame["col"] = rng.integers(1, 6, n), rng.integers(1, 8, n)
    frame["id"] = rng.integers(3, 11, n)
    frame["y"] = rng.normal(size=n) + 0.3 * frame.t + frame.h
    return frame


def context():
    P = slm.Pedigree(
        range(1, 11), [None, None, 1, 1, 3, 3, 5, 6, 7, 8], [None, None, 2, 2, 4, 2, 4, 4, 6, 9], monoecious=True
    )
    related = P.relationship(range(1, 11)).to_numpy()
    return {"P": P, "A": slm.Known(related, kind="covariance", levels=range(1, 11))}


MODELS = {
    "ar1 beside crossed": "y ~ x + (1 | h) + ar1(0 + t | g)",
    "ar1 free": "y ~ x + ar1(0 + t | g, start='free')",
    "one series": "y ~ ar1(0 + t) + (1 + x | h)",
    "ou": "y ~ x + ou(0 + when | g) + (1 | h)",
    "ped slopes": "y ~ 1 + ped(1 + x | id, P)",
    "known": "y ~ x + known(1 | id, A) + (1 | h)",
    "product": "y ~ x + ar1(0 + row):ar1(0 + col)",
    "fields": "y ~ x + ar1(0 + row | g):ou(0 + col | g)",
}
RESIDUALS = {"ar1 beside crossed": "varident(h)"}


def both(name):
    spec = build_spec(MODELS[name], field(), context=context(), residual=RESIDUALS.get(name))
    return Likelihood(spec), DenseLikelihood(spec)


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_sparse_is_dense(name, reml):
    sparse, dense = both(name)
    rng = np.random.default_rng(3)
    for sigma in (None, 1.3):
        theta = rng.uniform(0.3, 1.0, sparse.parameters.count)
        one, two = sparse(theta, reml=reml, sigma=sigma), dense(theta, reml=reml, sigma=sigma)
        assert one.deviance == pytest.approx(two.deviance, rel=RTOL)
        np.testing.assert_allclose(one.beta, two.beta, rtol=1e-8, atol=1e-10)
        for a, b in zip(one.b, two.b, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9)
        d, e = (likelihood.derivatives(theta, reml=reml, sigma=sigma) for likelihood in (sparse, dense))
        scale = np.abs(e.information).max()
        np.testing.assert_allclose(d.information, e.information, atol=AI_RTOL * scale, rtol=0)
        np.testing.assert_allclose(d.gradient, e.gradient, atol=1e-7 * np.abs(e.gradient).max(), rtol=0)
        steps = np.eye(len(theta)) * 1e-5
        difference = [
            (sparse(theta + h, reml=reml, sigma=sigma).deviance - sparse(theta - h, reml=reml, sigma=sigma).deviance)
            / 2e-5
            for h in steps
        ]
        np.testing.assert_allclose(d.gradient, difference, rtol=0, atol=GRADIENT_RTOL * np.abs(difference).max() + 1e-6)


# Deviance, standard deviations and correlation or rate: an independent dense marginal likelihood with glmmTMB 1.1.5
# as a cross-check, R 4.2.2 (the reference collection's ids)
REFERENCE = {
    "simar1_full_REML": (5549.93742331567, [0.823906867353974, 1.290904412381, 0.720599406068468, 0.584346743863775]),
    "simar1_full_ML": (5541.69734117714, [0.817155050939176, 1.29088331477403, 0.720509347662332, 0.583707690576442]),
    "sleep_ar1_REML": (1734.1864679415, [47.3404947186042, 0.883499323005352, 15.1304448894033]),
    "sleep_ar1_ML": (1743.06186557443, [46.0828747543647, 0.878912087528074, 15.2287662815709]),
    "bodyweight_ou_ML": (1142.89565402482, [33.7392223734632, 0.00118768093931854, 2.52533518660436]),
    "bodyweight_ou_REML": (1129.53346168965, [37.4469164828258, 0.00102427850590271, 2.46326495635486]),
}
FORMULAS = {
    "simar1": ("sim_ar1", "y ~ x + (1 | g) + ar1(0 + t | g)"),
    "sleep": ("lme4_sleepstudy", "Reaction ~ Days + ar1(0 + Days | Subject)"),
    "bodyweight": ("nlme_BodyWeight", "weight ~ Time * Diet + ou(0 + Time | Rat)"),
}


@pytest.mark.parametrize("name", REFERENCE)
def test_reference_fit(name):
    """varpar in its order: standard deviations, then the correlation or the rate, then sigma."""
    dataset, formula = FORMULAS[name.split("_")[0]]
    deviance, varpar = REFERENCE[name]
    fit = slm.lmm(formula, golden.load(dataset), reml=name.endswith("REML"))
    assert fit.converged
    assert fit.deviance == pytest.approx(deviance, rel=DEVIANCE_RTOL)
    np.testing.assert_allclose(fit.varpar, varpar, rtol=SD_RTOL)


MILK = {
    "milk_animal_ML": "sdMilk ~ lact + log(dim)",
    "milk_animal_REML": "sdMilk ~ lact + log(dim)",
    "milk_scs_REML": "scs ~ lact",
    "milk_animal_raw_REML": "milk ~ factor(lact) + log(dim)",
}


@pytest.mark.skipif(not SHARED.exists(), reason="the pedigree data of pedigreemm may not be shipped")
@pytest.mark.parametrize("name", MILK)
def test_animal_model_of_pedigreemm(name):
    reference = next(r for r in json.loads((SHARED / "reference.json").read_text()) if r["id"] == name)
    pedigree = pd.read_csv(SHARED / "data" / "pedigreemm_pedCowsR.csv")
    P = slm.Pedigree(pedigree.label, pedigree.sire, pedigree.dam)
    fit = slm.lmm(
        f"{MILK[name]} + ped(1 | id, P) + (1 | herd)",
        pd.read_csv(SHARED / "data" / "pedigreemm_milk.csv"),
        reml=reference["REML"],
        context={"P": P},
    )
    assert fit.deviance == pytest.approx(reference["deviance"], rel=DEVIANCE_RTOL)
    assert fit.sigma == pytest.approx(reference["sigma"], rel=1e-5)
    sds = {v["group"]: v["sd"][0] for v in reference["varcorr"]}
    assert fit.varpar["sd_ped(Intercept)|id"] == pytest.approx(sds["id"], rel=SD_RTOL)
    assert fit.varpar["sd_Intercept|herd"] == pytest.approx(sds["herd"], rel=SD_RTOL)


def kalman_deviance(y, a, sd, sigma):
    """-2 log-likelihood of a stationary AR(1) plus noise by the Kalman filter (Durbin & Koopman 2012, section 4.3)."""
    mean, variance, total = 0.0, sd**2, 0.0
    for value in y:
        F = variance + sigma**2
        total += np.log(2 * np.pi * F) + (value - mean) ** 2 / F
        gain = variance / F
        mean, variance = mean + gain * (value - mean), variance * (1 - gain)
        mean, variance = a * mean, a**2 * variance + sd**2 * (1 - a**2)
    return total


def test_ar1_and_noise_is_the_kalman_filter():
    """At given parameters and at the optimum, where the filter's numeric minimum is no lower."""
    rng = np.random.default_rng(5)
    u = np.empty(200)
    u[0] = rng.normal()
    for i in range(1, 200):
        u[i] = 0.8 * u[i - 1] + 0.6 * rng.normal()
    y = u + 0.5 * rng.normal(size=200)
    frame = pd.DataFrame({"y": y, "t": np.arange(200)})
    held = {"sd_ar1(t)|t": 1.1, "rho_ar1(t)|t": 0.7, "sigma": 0.6}
    at = slm.lmm("y ~ 0 + ar1(0 + t)", frame, reml=False, fixed=held)
    assert at.deviance == pytest.approx(kalman_deviance(y, 0.7, 1.1, 0.6), rel=KALMAN_RTOL)
    fit = slm.lmm("y ~ 0 + ar1(0 + t)", frame, reml=False)
    best = fit.varpar
    value = kalman_deviance(y, best["rho_ar1(t)|t"], best["sd_ar1(t)|t"], best["sigma"])
    assert fit.deviance == pytest.approx(value, rel=KALMAN_RTOL)
    for change in np.eye(3) * 1e-3:
        a, sd, sigma = best[["rho_ar1(t)|t", "sd_ar1(t)|t", "sigma"]].to_numpy() + change
        assert kalman_deviance(y, a, sd, sigma) > value
        a, sd, sigma = best[["rho_ar1(t)|t", "sd_ar1(t)|t", "sigma"]].to_numpy() - change
        assert kalman_deviance(y, a, sd, sigma) > value
