"""Every reference fit of an ordinary mixed model, reproduced (tests/golden/PROVENANCE.md says who made them).

Tolerances are those agreed for the collection. A log-likelihood may be higher than the reference, never lower.
"""

import re
from functools import cache

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.linalg import cholesky

import sparselmm as slm
from sparselmm.optimize import Options
from tests import golden

DENSE_RTOL = 1e-9  # one criterion by two factorisations
LOGLIK_LOSS = 1e-6  # relative; higher is a success
FIXEF_RTOL = 1e-5  # of the larger of the value and its standard error; se and sigma too
SD_RTOL = 1e-4  # standard deviations; where the fit is singular, of the larger of sd and sigma
COR_ATOL = 1e-3
CRITERION_RTOL = 1e-8  # at lme4's own theta; it prints 15 digits
RANEF_RTOL = 1e-4  # of the larger of a BLUP and its root mean square: BLUPs follow the standard deviations
FITTED_RTOL = 1e-5  # of the larger of the value and sigma
MAX_ITER = 10
INSTEVAL_GAIN = 5.0  # the deviance that lme4 missed in insteval_3_ML

FITS = {f["id"]: f for f in golden.fits() if f["needs"] in ([], ["bad-scaling"])}
OUR_MAXIMUM_IS_ELSEWHERE = {"insteval_3_ML"}  # lme4 stopped at a singular point; see the last test
NOT_IDENTIFIED = {"machines_dbar_ML", "machines_dbar_REML"}  # an intercept and a level effect each: theta not unique

COMPARABLE = [i for i in FITS if i not in OUR_MAXIMUM_IS_ELSEWHERE]
IDENTIFIED = [i for i in COMPARABLE if i not in NOT_IDENTIFIED]


# --- R's words and ours ---------------------------------------------------------------------------------


def formula(ref):
    """R's formula, with polynomial contrasts where R gives them to an ordered factor of the fixed part."""
    fixed, *bars = re.split(r"( \+ \w*\([^()]*(?:\([^()]*\)[^()]*)*\|.*)", ref["formula"], maxsplit=1)
    data = golden.load(ref["dataset"])
    for name in data.columns[[getattr(t, "ordered", False) for t in data.dtypes]]:
        fixed = re.sub(rf"\b{name}\b", f"C({name}, contr.poly)", fixed)
    return "".join([fixed, *bars])


def r_name(name):
    """`nutf[T.8]` -> `nutf8`, `C(f, contr.poly)[.L]` -> `f.L`, `I(x ** 2)` -> `I(x^2)`."""
    if name == "Intercept":
        return "(Intercept)"
    parts = [re.sub(r"\[(?:T\.)?(.*)\]$", r"\1", part) for part in name.split(":")]
    return ":".join(re.sub(r"C\((\w+), contr\.poly\)", r"\1", part).replace(" ** ", "^") for part in parts)


def group(name):
    """`Date:Subject`, `Subject:Date` and the second term of a group, `Subject.1`, are one group each."""
    return tuple(sorted(re.sub(r"\.\d+$", "", name).split(":")))


def relabel(ours, theirs, label):
    """The label of a level of `Subject:Date` as one of `Date:Subject`."""
    if ours == theirs:
        return str(label)
    parts = dict(zip(ours.split(":"), label.split(":"), strict=True))
    return ":".join(parts[name] for name in theirs.split(":"))


def place(fit, block):
    """Which of our terms, and which of its effects, a block of lme4's is."""
    for k, term in enumerate(fit.spec.terms):
        effects = [r_name(e) for e in term.effects]
        if group(term.name) == group(block["group"]) and set(block["names"]) <= set(effects):
            return k, [effects.index(e) for e in block["names"]]
    raise AssertionError(f"no term for {block}")


def our_theta(fit, ref):
    """lme4's theta (terms by number of levels, each lower triangle by columns) in the order of our terms."""
    roots = [np.zeros((t.n_effects, t.n_effects)) for t in fit.spec.terms]
    values = iter(ref["theta"])
    for block in ref["cnms"]:
        k, at = place(fit, block)
        for j in range(len(at)):
            for i in range(j, len(at)):
                roots[k][at[i], at[j]] = next(values)
    return np.concatenate([t.covariance.nearest(root) for t, root in zip(fit.spec.terms, roots, strict=True)])


@cache
def fitted(fit_id):
    ref = FITS[fit_id]
    data = golden.load(ref["dataset"])
    model = slm.LinearMixedModel(formula(ref), data, weights=ref.get("weights"), offset=ref.get("offset"))
    return model.fit(reml=ref["REML"], options=Options(fallback=False))


def close(actual, expected, tolerance, scale=0.0):
    """Each within tolerance times the larger of its size and `scale`."""
    actual, expected = np.asarray(actual, dtype=float), np.asarray(expected, dtype=float)
    assert actual.shape == expected.shape
    excess = np.abs(actual - expected) - tolerance * np.maximum(np.abs(expected), scale)
    assert (excess <= 0).all(), f"beyond {tolerance:g}:\n{actual}\n{expected}"


every = pytest.mark.parametrize("fit_id", FITS)
comparable = pytest.mark.parametrize("fit_id", COMPARABLE)
identified = pytest.mark.parametrize("fit_id", IDENTIFIED)


# --- the tests ------------------------------------------------------------------------------------------


@every
def test_loglik(fit_id):
    ref, fit = FITS[fit_id], fitted(fit_id)
    assert fit.loglik >= ref["loglik"] - LOGLIK_LOSS * abs(ref["loglik"])
    assert fit.aic == pytest.approx(fit.deviance + 2 * ref["npar"], rel=1e-14)
    if fit_id not in OUR_MAXIMUM_IS_ELSEWHERE:
        close([fit.loglik, fit.aic, fit.bic], [ref["loglik"], ref["AIC"], ref["BIC"]], LOGLIK_LOSS)


@every
def test_facts(fit_id):
    ref, fit = FITS[fit_id], fitted(fit_id)
    assert fit.converged
    assert fit.method == "newton"
    assert fit.n_iter <= MAX_ITER
    assert (fit.nobs, len(fit.vcov), fit.n_params) == (ref["n"], ref["p"], ref["npar"])
    assert fit.spec.q == ref.get("q", fit.spec.q)
    if ref.get("singular") is not None and fit_id not in OUR_MAXIMUM_IS_ELSEWHERE:
        assert fit.is_singular == ref["singular"]


@comparable
def test_fixed_effects_and_sigma(fit_id):
    ref, fit = FITS[fit_id], fitted(fit_id)
    kept = fit.fixef.dropna()
    names = [r_name(name) for name in kept.index]
    assert sorted(names) == sorted(ref["fixef"])
    se = np.array([ref["se"][name] for name in names])
    close(kept, [ref["fixef"][name] for name in names], FIXEF_RTOL, scale=se)
    close(fit.fixef_se.dropna(), se, FIXEF_RTOL)
    close(fit.sigma, ref["sigma"], FIXEF_RTOL)
    if ref.get("vcov_fixef"):
        order = [list(ref["fixef"]).index(name) for name in names]
        close(fit.vcov, np.array(ref["vcov_fixef"])[np.ix_(order, order)], 2 * FIXEF_RTOL, scale=np.outer(se, se))


@identified
def test_standard_deviations_and_correlations(fit_id):
    ref, fit = FITS[fit_id], fitted(fit_id)
    parts = fit.likelihood.parameters.parts(fit.theta.to_numpy())
    for block in ref.get("varcorr") or [{"group": "Worker", "names": ref["ranef"]["names"], **ref["params"]}]:
        k, at = place(fit, block)
        T = fit.sigma * fit.spec.terms[k].covariance.factor(parts[k])[at]
        sd, expected = np.linalg.norm(T, axis=1), np.array(block.get("sd", block.get("re_sd")))
        close(sd, expected, SD_RTOL, scale=ref["sigma"] if ref.get("singular") else 0.0)
        if block.get("corr"):
            np.testing.assert_allclose(
                T @ T.T / np.outer(sd, sd), np.array(block["corr"], float), rtol=0, atol=COR_ATOL
            )


@pytest.mark.parametrize("fit_id", [i for i, ref in FITS.items() if ref.get("theta")])
def test_criterion_at_the_theta_of_lme4(fit_id):
    """The criterion, and its parts log|M| (ldL2) and r^2 (pwrss)."""
    ref, fit = FITS[fit_id], fitted(fit_id)
    theta = our_theta(fit, ref)
    at = fit.likelihood(theta, reml=ref["REML"])
    close([at.deviance, at.r2, at.sigma], [ref["deviance"], ref["pwrss"], ref["sigma"]], CRITERION_RTOL)
    close(fit.likelihood.solution(theta).logdet_M, ref["ldL2"], CRITERION_RTOL, scale=1.0)


@pytest.mark.parametrize("fit_id", [i for i in IDENTIFIED if FITS[i].get("ranef")])
def test_random_effects(fit_id):
    ref, fit = FITS[fit_id], fitted(fit_id)
    groups = ref["ranef"] if "values" not in ref["ranef"] else {"Worker": ref["ranef"]}
    conditional = fit.ranef(se=True)
    for name, expected in groups.items():
        frame = next(f for f in conditional.values() if group(f.index.name) == group(name))
        frame = frame.set_axis([relabel(frame.index.name, name, label) for label in frame.index])
        columns = [next(c for c in frame.columns if r_name(c) == effect) for effect in expected["names"]]
        scale = np.sqrt((frame[columns] ** 2).mean().to_numpy())
        first = frame.loc[expected["levels"]]
        close(first[columns], expected["values"], RANEF_RTOL, scale=scale)
        if "colsumsq" in expected:
            assert len(frame) == expected["nlev"]
            close((frame[columns] ** 2).sum(), expected["colsumsq"], 2 * RANEF_RTOL)
        if "condsd" in expected:
            close(first[[f"{c}_se" for c in columns]], expected["condsd"], RANEF_RTOL, scale=scale)


@pytest.mark.parametrize("fit_id", [i for i in COMPARABLE if FITS[i].get("fitted5")])
def test_fitted(fit_id):
    ref, fit = FITS[fit_id], fitted(fit_id)
    close(fit.fitted[:5], ref["fitted5"], FITTED_RTOL, scale=ref["sigma"])
    if ref.get("resid5"):
        close(fit.resid[:5], ref["resid5"], FITTED_RTOL, scale=np.maximum(ref["sigma"], np.abs(ref["fitted5"])))


# --- compound symmetry ----------------------------------------------------------------------------------

# `score ~ Machine + ...(0 + Machine | Worker)`, nlme's Machines: hcs by a dense marginal likelihood checked against
# glmmTMB, cs by nlme's pdCompSymm (the reference collection's machines_hcs and machines_pdcs).
COMPOUND_SYMMETRY = [
    ("hcs", False, -108.749297464057, [3.74816152206901, 7.68635334742048, 4.06530027709137, 0.738086090655403]),
    ("hcs", True, -104.61022115717, [4.11448719929642, 8.41974442318485, 4.46180291652262, 0.735710232484675]),
    ("cs", False, -112.634723469886, [5.53069158265601, 0.622739688148]),
    ("cs", True, -107.84378400411, [6.06365411566081, 0.621695655091375]),
]


@pytest.mark.parametrize(("word", "reml", "loglik", "expected"), COMPOUND_SYMMETRY)
def test_compound_symmetry(word, reml, loglik, expected):
    fit = slm.lmm(f"score ~ Machine + {word}(0 + Machine | Worker)", golden.load("nlme_Machines"), reml=reml)
    assert fit.loglik == pytest.approx(loglik, rel=LOGLIK_LOSS)
    assert fit.converged and fit.n_iter <= MAX_ITER
    close(fit.varpar.iloc[:-1], expected, SD_RTOL)


# --- where ours is better -------------------------------------------------------------------------------


def deviance_by_lapack(spec, factors):
    """-2 l_ML from one dense (q + p + 1)^2 Cholesky of [Z Lambda, X, y]'[Z Lambda, X, y] + [I, 0, 0]; codes only."""
    parts = []
    for term, T in zip(spec.terms, factors, strict=True):
        n, r = spec.n, term.n_effects
        columns = np.ones((n, 1)) if term.columns is None else term.columns
        cols = term.Z[:, None] * r + np.arange(r)
        Z = sp.csr_array(((columns @ T).ravel(), cols.ravel(), np.arange(n + 1) * r), shape=(n, term.n_random))
        parts.append(Z)
    full = sp.hstack([*parts, sp.csr_array(spec.X), sp.csr_array(spec.y[:, None])], format="csr")
    C = (full.T @ full).toarray()
    C[np.arange(spec.q), np.arange(spec.q)] += 1.0
    diagonal = np.diag(cholesky(C, lower=True, overwrite_a=True, check_finite=False))
    return 2 * np.log(diagonal[: spec.q]).sum() + spec.n * (1 + np.log(2 * np.pi * diagonal[-1] ** 2 / spec.n))


def test_insteval_with_a_better_maximum_than_the_reference():
    """lme4's answer is singular, ours is not; a computation without our equations says that ours is better."""
    ref, fit = FITS["insteval_3_ML"], fitted("insteval_3_ML")
    structures = [t.covariance for t in fit.spec.terms]
    factors = lambda theta: [s.factor(part) for s, part in zip(structures, fit.likelihood.parameters.parts(theta))]  # noqa: E731, B905
    ours = deviance_by_lapack(fit.spec, factors(fit.theta.to_numpy()))
    theirs = deviance_by_lapack(fit.spec, factors(our_theta(fit, ref)))
    assert ours == pytest.approx(fit.deviance, rel=DENSE_RTOL)
    assert theirs == pytest.approx(ref["deviance"], rel=CRITERION_RTOL)
    assert ours < theirs - INSTEVAL_GAIN
    assert ref["singular"] and not fit.is_singular
