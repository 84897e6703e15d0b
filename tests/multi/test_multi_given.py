"""Predictions of a trait from the other traits of a new record: against the record among the data, by dense V."""

import numpy as np
import pandas as pd
import pytest

import sparselmm as slm
from tests.multi.traits import Dense, herd

RTOL = 1e-6  # at the same G and R: a selected inverse, and a solve, in another order
NAMES = ["t2", "t0", "t1"]


def fitted(formula="~ x + (1 + x | herd) + ped(1 | animal, P)"):
    table, P = herd(n=160, traits=3, missing=0.3)
    table = table.assign(w=np.exp(np.random.default_rng(4).normal(size=160) / 2), t1=1e3 * table.t1)
    return slm.lmm_multi(NAMES, formula, table, context={"P": P}, weights="w"), table, P


def new_rows(table):
    new = table.iloc[[3, 50, 120, 7, 9]].assign(herd=[2, 5, 99, 0, 1], x=[0.3, -2.0, 1.0, 0.5, 0.0])
    return new.assign(
        w=[0.5, 2.0, 1.0, 3.0, 1.0],
        t0=[1.0, np.nan, -2.0, 0.5, np.nan], t1=[500.0, np.nan, np.nan, -900.0, 300.0], t2=np.nan,
    )  # fmt: skip


def dense_prediction(fit, table, P, row):
    """Mean and variance of the new record's unknown values and of their expectations, from the joint V of all."""
    joint = pd.concat([table, row], ignore_index=True)
    filled = joint.assign(**{t: np.append(np.where(np.isnan(table[t]), np.nan, table[t]), 0.0) for t in NAMES})
    X = np.column_stack([np.ones(len(joint)), joint.x])
    Z = np.equal.outer(joint.herd.to_numpy(), np.unique(joint.herd)).astype(float)
    Za = np.equal.outer(joint.animal.to_numpy(), np.unique(table.animal)).astype(float)
    A = P.relationship(np.unique(table.animal)).to_numpy()
    terms = [([Z, Z * X[:, [1]]], np.eye(Z.shape[1])), ([Za], A)]
    dense = Dense(filled, NAMES, X, terms, joint.w)
    G = [fit.G(label).to_numpy() for label in fit.ranef()]
    V = dense.V(G, fit.R)
    records = np.tile(np.arange(len(joint)), 3)[dense.there]
    trait = np.repeat(np.arange(3), len(joint))[dense.there]
    last, known = records == len(table), row[NAMES].notna().to_numpy()[0]
    use = ~last | known[trait]
    want = np.flatnonzero(last & ~known[trait])
    y = dense.y.copy()
    y[last] = row[NAMES].to_numpy(dtype=float)[0][trait[last]]
    W = np.linalg.inv(V[np.ix_(use, use)])
    Xu, Xw, c = dense.X[use], dense.X[want], V[np.ix_(want, use)]
    C = np.linalg.inv(Xu.T @ W @ Xu)
    beta = C @ Xu.T @ W @ y[use]
    mean = Xw @ beta + c @ W @ (y[use] - Xu @ beta)
    D = Xw - c @ W @ Xu
    total = V[np.ix_(want, want)] - c @ W @ c.T + D @ C @ D.T
    R, u = fit.R.to_numpy() / row.w.iloc[0], ~known
    inner = R[np.ix_(u, known)] @ np.linalg.solve(R[np.ix_(known, known)], R[np.ix_(known, u)]) if known.any() else 0.0
    return u, mean, np.diag(total), np.diag(R[np.ix_(u, u)] - inner)


def test_a_known_trait_is_as_a_record_of_the_data():
    fit, table, P = fitted()
    new = new_rows(table)
    found, interval = fit.predict(new, given=True, se=True), fit.predict(new, given=["t0", "t1"], interval="prediction")
    for i in range(len(new)):
        u, mean, total, rest = dense_prediction(fit, table, P, new.iloc[[i]])
        names = [t for t, free in zip(NAMES, u, strict=True) if free]
        np.testing.assert_allclose(found[names].iloc[i], mean, rtol=RTOL)
        errors = found[[f"{t}_se" for t in names]].iloc[i]
        np.testing.assert_allclose(errors, np.sqrt(total - rest), rtol=RTOL)
        upper = interval[[f"{t}_upper" for t in names]].iloc[i].to_numpy() - interval[names].iloc[i].to_numpy()
        np.testing.assert_allclose(upper, 1.959963984540054 * np.sqrt(total), rtol=RTOL)
        for t in set(NAMES) - set(names):
            assert found[t].iloc[i] == new[t].iloc[i] and found[f"{t}_se"].iloc[i] == 0.0
            assert interval[f"{t}_lower"].iloc[i] == interval[f"{t}_upper"].iloc[i] == new[t].iloc[i]


def test_without_known_values_predictions_are_as_before():
    fit, table, _ = fitted("~ x + (1 | herd)")
    new = new_rows(table).assign(t0=np.nan, t1=np.nan)
    plain, other = (fit.predict(new, interval="prediction", **extra) for extra in ({}, {"given": NAMES}))
    np.testing.assert_allclose(other, plain, rtol=1e-10)
    known = new_rows(table)
    alone = fit.predict(known.drop(columns=["t2", "t1"]), given=True)
    np.testing.assert_array_equal(alone, fit.predict(known, given="t0"))
    assert fit.predict(known.assign(x=[np.nan, 1, 1, 1, 1]), given="t0", se=True).iloc[0].isna().all()


def test_traits_that_never_meet_say_nothing_of_each_other():
    table, _ = herd(n=160, traits=2, missing=0.0)
    table.loc[::2, "t0"], table.loc[1::2, "t1"] = np.nan, np.nan
    fit = slm.lmm_multi(["t0", "t1"], "~ x + (1 | herd)", table)
    with pytest.raises(slm.ModelError, match="no record has both 't0' and 't1'"):
        fit.predict(table.iloc[:3], given="t0")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"given": "t9"}, "given='t9': True, or names of traits"),
        ({"given": []}, "names of traits that newdata has, of t2, t0, t1"),
        ({"given": 3}, "given=3"),
        ({"given": "t0", "re": False}, "leave re= out"),
        ({"given": "t2", "drop": "t2"}, "t2"),
        ({"given": "t2", "text": "t2"}, "t2"),
    ],
)
def test_what_cannot_be_given(options, message):
    fit, table, _ = fitted("~ x + (1 | herd)")
    new = new_rows(table).drop(columns=options.pop("drop", []))
    new = new.assign(**{name: "high" for name in [options.pop("text", None)] if name})
    with pytest.raises(slm.SparselmmError, match=message):
        fit.predict(new, **options)
