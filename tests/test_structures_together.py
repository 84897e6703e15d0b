"""Several structures beside each other at known parameters, from their definitions: criterion, BLUE, BLUP, errors."""

import numpy as np
import pandas as pd
import pytest

import sparselmm as slm
from tests import naive

EXACT = 1e-8  # relative: two ways to one answer, by inverses of 60 x 60 matrices of condition up to 1e5
KEYS = ["n7", "b", "10", "9", "zz", "a1", "q", "M"]  # animals, parents first
PARENTS = {
    "10": ("n7", "b"),
    "9": ("n7", None),
    "zz": ("10", "b"),
    "a1": ("10", "9"),
    "q": ("zz", "b"),
    "M": ("q", "9"),
}
LABELS = [31, 4, 15, 9, 2, 6]  # of a given covariance


def table(seed, n=60):
    """Rows in no order, with gaps and times twice; g and h unbalanced, not all animals and labels seen."""
    rng = np.random.default_rng(seed)
    data = pd.DataFrame({
        "g": rng.choice(list("rspq"), n, p=[0.5, 0.3, 0.15, 0.05]), "h": rng.integers(-3, 3, n),
        "t": rng.choice([-4, -2, -1, 0, 3, 7], n), "x": rng.normal(size=n), "f": rng.choice(["lo", "hi", "mid"], n),
        "animal": rng.choice(KEYS[1:], n), "id": rng.choice(LABELS[1:], n), "row": rng.integers(2, 6, n),
        "col": rng.integers(0, 4, n), "w": rng.uniform(0.3, 3.0, n),
    })  # fmt: skip
    data["when"] = (0.4 * data.t + rng.uniform(0, 1, n)).round(2)
    data["visit"] = data.groupby("g").cumcount() * 2
    return data.assign(y=3.0 + data.x + 2.0 * rng.normal(size=n))


def relationship():
    """The tabular method: a_ij = (a_is + a_id)/2 with the parents s, d of the younger, a_ii = 1 + a_sd/2."""
    A = np.eye(len(KEYS))
    for i, key in enumerate(KEYS):
        parents = [KEYS.index(p) for p in PARENTS.get(key, ()) if p is not None]
        A[i, :i] = A[:i, i] = A[parents, :i].sum(axis=0) / 2
        A[i, i] += A[parents[0], parents[1]] / 2 if len(parents) == 2 else 0.0
    return A


def given():
    B = np.random.default_rng(9).normal(size=(len(LABELS), 9))
    return B @ B.T / 9


def states(series, times, steps):
    """(series, time) in order; every step between the first and the last where `steps`."""
    out = []
    for s in sorted(set(series)):
        seen = sorted({t for a, t in zip(series, times, strict=True) if a == s})
        out += [(s, t) for t in (range(seen[0], seen[-1] + 1) if steps else seen)]
    return out


def within(levels, correlation):
    """correlation(|t - s|) within a series, zero between series."""
    return np.array([[correlation(abs(b[1] - a[1])) if a[0] == b[0] else 0.0 for b in levels] for a in levels])


def crossed(d):
    levels = sorted(set(d.h))
    return "(1 | h)", {"sd_Intercept|h": 0.8}, d.h, levels, 0.64 * np.eye(len(levels)), "Intercept"


def ar1(d):
    levels, held = states(d.g, d.t, True), {"sd_ar1(t)|g": 1.5, "rho_ar1(t)|g": -0.6}
    return (
        "ar1(0 + t | g)",
        held,
        zip(d.g, d.t, strict=True),
        levels,
        2.25 * within(levels, lambda k: (-0.6) ** k),
        "ar1(t)",
    )


def ou(d):
    levels, held = states(d.h, d.when, False), {"sd_ou(when)|h": 0.7, "kappa_ou(when)|h": 0.9}
    K = 0.49 * within(levels, lambda k: np.exp(-0.9 * k))
    return "ou(0 + when | h)", held, zip(d.h, d.when, strict=True), levels, K, "ou(when)"


def animals(d):
    return (
        "ped(1 | animal, P)",
        {"sd_ped(Intercept)|animal": 1.2},
        d.animal,
        KEYS,
        1.44 * relationship(),
        "ped(Intercept)",
    )


def known(d):
    return "known(1 | id, K)", {"sd_known(Intercept)|id": 0.9}, d.id, LABELS, 0.81 * given(), "known(Intercept)"


def product(d):
    rows, cols = (range(int(x.min()), int(x.max()) + 1) for x in (d.row, d.col))
    power = lambda r, x: r ** np.abs(np.subtract.outer(x, x))  # noqa: E731
    name = "ar1(row):ar1(col)"
    held = {f"sd_{name}|row:col": 1.1, "rho_ar1(row)|row:col": 0.7, "rho_ar1(col)|row:col": -0.3}
    K = 1.21 * np.kron(power(0.7, rows), power(-0.3, cols))
    return (
        "ar1(0 + row):ar1(0 + col)",
        held,
        zip(d.row, d.col, strict=True),
        [(a, b) for a in rows for b in cols],
        K,
        name,
    )


def fields(d):
    """ar1 by ou in every g: a cell for each step of the rows and each column that is there."""
    name = "ar1(row):ou(col)"
    held = {f"sd_{name}|g": 0.9, "rho_ar1(row)|g": -0.5, "kappa_ou(col)|g": 0.4}
    levels = [
        (g, row, col)
        for g, part in d.groupby("g")
        for row in range(part.row.min(), part.row.max() + 1)
        for col in sorted(set(part.col))
    ]
    K = [
        [0.81 * (a[0] == b[0]) * (-0.5) ** abs(a[1] - b[1]) * np.exp(-0.4 * abs(a[2] - b[2])) for b in levels]
        for a in levels
    ]
    return "ar1(0 + row | g):ou(0 + col | g)", held, zip(d.g, d.row, d.col, strict=True), levels, np.array(K), name


def residual(d, word):
    """held, covariance: `sigma` 1.3 times ratios, correlated in time within g."""
    held, R, scale = {"sigma": 1.3}, np.eye(len(d)), 1.3 / np.sqrt(d.w.to_numpy())
    if "ar1" in word:
        lag = np.abs(np.subtract.outer(d.visit.to_numpy(), d.visit.to_numpy()))
        R, held["rho_residual"] = np.where(np.equal.outer(d.g.to_numpy(), d.g.to_numpy()), 0.8**lag, 0.0), 0.8
    if "varident" in word:
        held |= {"ratio_lo|residual": 0.5, "ratio_mid|residual": 2.0}
        scale = scale * d.f.map({"hi": 1.0, "lo": 0.5, "mid": 2.0}).to_numpy()
    return held, np.outer(scale, scale) * R


CASES = [
    ((ar1, animals, crossed), None),
    ((ou, known), "varident(f)"),
    ((product, crossed), "ar1(visit | g) * varident(f)"),
    ((animals, product, ou), "ar1(visit | g)"),
    ((known, ar1), "varident(f)"),
    ((fields, product, crossed), None),
    ((fields, ar1), "ar1(visit | g) * varident(f)"),
]


@pytest.mark.parametrize("reml", [True, False], ids=["REML", "ML"])
@pytest.mark.parametrize(("makers", "word"), CASES, ids=["+".join(m.__name__ for m in c[0]) for c in CASES])
def test_as_defined(makers, word, reml):
    d = table(len(makers) + 10 * (word is None))
    parents = pd.DataFrame([(k, *PARENTS.get(k, (None, None))) for k in reversed(KEYS)])
    context = {
        "P": slm.Pedigree(parents[0], parents[1], parents[2], monoecious=True),
        "K": slm.Known(given(), kind="covariance", levels=LABELS),
    }
    terms = [make(d) for make in makers]
    held, R = residual(d, word or "")
    for term in terms:
        held |= term[1]
    formula = "y ~ x + " + " + ".join(term[0] for term in terms)
    fit = slm.lmm(formula, d, reml=reml, residual=word, weights="w", context=context, fixed=held)
    Z = [(np.array([levels.index(row) for row in rows])[:, None] == np.arange(len(levels))) * 1.0
         for _, _, rows, levels, _, _ in terms]  # fmt: skip
    psi, X, y = [term[4] for term in terms], np.column_stack([np.ones(len(d)), d.x]), d.y.to_numpy()
    V = R + sum(z @ K @ z.T for z, K in zip(Z, psi, strict=True))
    beta, cov = naive.gls(y, X, V)
    assert fit.deviance == pytest.approx(naive.deviance(y, X, V, reml), rel=EXACT)
    np.testing.assert_allclose(fit.fixef, beta, rtol=EXACT)
    np.testing.assert_allclose(fit.vcov, cov, rtol=EXACT, atol=EXACT * cov.max())
    b, errors = naive.blup(y, X, Z, psi, V), np.sqrt(np.diag(naive.blup_error_cov(X, Z, psi, V, 1.0)))
    tables = list(fit.ranef(se="prediction").values())
    ends = np.cumsum([0, *(len(term[3]) for term in terms)])
    for k, (_, _, _, levels, _, effect) in enumerate(terms):
        found = next(t for t in tables if effect in t.columns).loc[levels]
        np.testing.assert_allclose(found[effect], b[k], rtol=EXACT, atol=EXACT)
        np.testing.assert_allclose(found[f"{effect}_se"], errors[ends[k] : ends[k + 1]], rtol=EXACT)
