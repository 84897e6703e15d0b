"""Markers and null models that are unusual, against explicit inverses."""

import numpy as np
import pandas as pd
import pytest

import sparselmm as slm
from tests import naive
from tests.scanning.simulated import indicator

EXACT_RTOL = 1e-9  # explicit inverses of n x n matrices on the other side
HARD_RTOL = 1e-6  # where the fixed effects leave 1e-8 of a marker: half of the digits are gone, on both sides
PEOPLE = 60
UNTESTED = {"sex": "depends linearly on the fixed effects", "constant": "no variation"}
MODELS = {
    "weights": ("y ~ sex + age + (1 | id)", {"weights": "w"}),
    "weights, offset, maximum likelihood": (
        "y ~ sex + age + (1 | id) + (1 | c)", {"weights": "w", "offset": "off", "reml": False},
    ),
    "variances of zero": ("noise ~ sex + age + (1 | id) + (1 | c)", {}),
    "no intercept by name": ("y ~ 0 + sex + age + (1 | id)", {}),
}  # fmt: skip


@pytest.fixture(scope="module")
def made():
    """Genotypes (people, markers) by name, and one to four records of each person, shuffled."""
    rng = np.random.default_rng(12)
    who = rng.permutation(np.repeat(np.arange(PEOPLE), rng.integers(1, 5, PEOPLE)))
    n, male = len(who), rng.random(PEOPLE) < 0.5
    data = pd.DataFrame({"id": who, "sex": np.where(male[who], "m", "f"), "age": rng.normal(50, 10, n)})
    data = data.assign(w=rng.uniform(0.2, 5, n), off=rng.normal(size=n), c=rng.integers(0, 5, n))
    data = data.assign(y=rng.normal(size=PEOPLE)[who] + rng.normal(size=5)[data.c], noise=rng.normal(size=n))
    data["y"] += 0.02 * data.age + rng.normal(size=n) / np.sqrt(data.w)
    counts = rng.binomial(2, 0.3, PEOPLE).astype(float)
    markers = {
        "X chromosome": np.where(male, 2.0 * rng.binomial(1, 0.3, PEOPLE), counts),
        "one carrier": np.eye(PEOPLE)[0],
        "skewed": rng.lognormal(0.0, 3.0, PEOPLE),
        "tiny": 1e-8 * rng.normal(size=PEOPLE),
        "huge": 1e8 * rng.normal(size=PEOPLE) + 1e9,
        "mostly missing": np.where(rng.random(PEOPLE) < 0.6, np.nan, counts),
        "known in three": np.append([0.0, 1.0, 2.0], np.full(PEOPLE - 3, np.nan)),
        "nearly sex": male + 1e-3 * np.eye(PEOPLE)[5],
        "sex": 3.0 - male,
        "constant": np.full(PEOPLE, 2.0),
    }
    return pd.DataFrame(markers), data


def test_too_few_people_for_sigma():
    rng = np.random.default_rng(0)
    fit = slm.lmm("y ~ x", pd.DataFrame({"x": rng.normal(size=30), "y": rng.normal(size=30)}))
    G = np.full((30, 2), np.nan)
    G[:3, 0], G[:4, 1] = [0, 1, 2], [0, 1, 2, 0]
    table = slm.scan(fit, G, missing="drop", reestimate=1.0).table
    assert table.reason.tolist() == ["too few people with a genotype to estimate sigma", ""]
    assert table.effect.isna().tolist() == [True, False]
    assert slm.scan(fit, G, missing="drop", test="score").table.p_value.notna().all()
    few = slm.lmm("y ~ x", pd.DataFrame({"x": [0.0, 1.0, 3.0], "y": [0.0, 1.0, 1.0]}))
    with pytest.raises(slm.ModelError, match="3 rows are too few for 2 fixed effects, 1 of each marker and sigma"):
        slm.scan(few, np.array([[0], [1], [1]]))


@pytest.mark.parametrize("missing", ["mean", "drop"])
def test_a_marker_that_explains_all_of_the_response(missing):
    """It used to be said to depend on the fixed effects, or to have a t value of rounding errors."""
    rng = np.random.default_rng(4)
    G = rng.binomial(2, 0.5, (30, 12)).astype(float)
    x = rng.normal(size=30)
    fit = slm.lmm("y ~ x", pd.DataFrame({"x": x, "y": x + 2.0 * G[:, 0]}))
    G[3, 1:] = np.nan
    G = np.column_stack([G, G[:, :1] @ np.array([[2.0, -0.1, 7.0]]) + x[:, None]])
    if missing == "drop":
        G[7, [0, 12]] = np.nan
    reason = slm.scan(fit, G, missing=missing).table.reason
    assert (reason[[0, 12, 13, 14]] == "explains the response but for rounding").all()
    assert (reason[1:12] == "").all()


def test_rows_of_very_different_weights_that_are_left_out():
    """Rows of small weight used to stay in, and a degree of freedom each: 1 % of the standard error here."""
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"x": rng.normal(size=60), "y": rng.normal(size=60), "w": 10.0 ** rng.uniform(-7, 7, 60)})
    g = rng.binomial(2, 0.4, 60).astype(float)
    g[rng.random(60) < 0.3] = np.nan
    rows = ~np.isnan(g)
    row = slm.scan(slm.lmm("y ~ x", data, weights="w"), g[:, None], missing="drop").table.iloc[0]
    y, design, V = data.y.to_numpy()[rows], np.column_stack([np.ones(60), data.x, g])[rows], np.diag(1.0 / data.w[rows])
    beta, cov = naive.gls(y, design, V)
    sigma = naive.profile_sigma(y, design, V, True)
    assert row.effect == pytest.approx(beta[2], rel=EXACT_RTOL)
    assert row.se == pytest.approx(sigma * np.sqrt(cov[2, 2]), rel=EXACT_RTOL)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("missing", ["mean", "drop"])
@pytest.mark.parametrize("test", ["wald", "score"])
@pytest.mark.parametrize("interact", [None, "age"])
def test_hard_markers_are_the_textbooks(made, model, missing, test, interact):
    frame, data = made
    formula, options = MODELS[model]
    fit = slm.lmm(formula, data, **options)
    table = slm.scan(fit, frame, sample="id", missing=missing, test=test, interact=interact).table.set_index("marker")
    ratios = (fit.varpar / fit.sigma) ** 2
    terms = {"sd_Intercept|id": indicator(data.id, PEOPLE), "sd_Intercept|c": indicator(data.c, 5)}
    used = [name for name in terms if name in ratios]
    W = naive.marginal_cov([terms[n] for n in used], [ratios[n] * np.eye(terms[n].shape[1]) for n in used], len(data))
    W += np.diag(1.0 / (data.w if "weights" in options else np.ones(len(data))) - 1.0)
    y = fit.spec.y - (data.off if "offset" in options else 0.0)
    X = np.column_stack([np.ones(len(data)), data.sex == "m", data.age])
    C = np.column_stack([np.ones(len(data)), data.age])[:, : 1 if interact is None else 2]
    for name, g in frame.items():
        row, rows = table.loc[name], np.ones(len(data), bool) if missing == "mean" else g.notna().to_numpy()[data.id]
        U = (g - g.mean()).fillna(0.0).to_numpy()[data.id][:, None] * C
        design = np.column_stack([X, U])[rows]
        V = W[np.ix_(rows, rows)]
        if name in UNTESTED:
            assert row.reason == UNTESTED[name] and np.isnan(row.p_value)
            continue
        beta, cov = naive.gls(y[rows], design, V)
        sigma = naive.profile_sigma(y[rows], design, V, True) if test == "wald" else fit.sigma
        names, se = ["effect", "effect_age"][: C.shape[1]], sigma * np.sqrt(np.diag(cov))[3:]
        rtol = HARD_RTOL if name == "nearly sex" else EXACT_RTOL
        np.testing.assert_allclose((row[names].astype(float) - beta[3:]) / se, 0.0, atol=rtol, err_msg=name)
        np.testing.assert_allclose(row[[n.replace("effect", "se") for n in names]].astype(float), se, rtol=rtol)
