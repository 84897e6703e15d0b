"""Standard errors and intervals of predictions against a dense computation.

Universal kriging: with the joint covariance of the data and of the new rows' random parts, flat coefficients and flat
null spaces, tau_hat = x'beta + c'V^-1 (y - X beta) has the variance

    v - c'V^-1 c + (x - X'V^-1 c)'(X'V^-1 X)^-1 (x - X'V^-1 c).
"""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

import sparselmm as slm
from sparselmm.datasets import load_dataset
from sparselmm.inference import posterior
from sparselmm.structures.rw import RW1, RW2
from tests.structures.precisions import dense

MEAN = 1e-7  # of predictions, through explicit inverses and pseudo-inverses
ERROR = 1e-6  # of standard errors, the same
EXACT = 1e-12  # the same sums in another order
COVERAGE = 0.03  # 800 subjects: 0.8 % by chance, and 4 % of error in the estimated variances are 1 % of coverage


class Part:
    """A random part by its prior: covariance of all its effects (m, m), flat directions N (m, d), rows -> loadings."""

    def __init__(self, cov, Z, new, null=None):
        self.cov, self.Z, self.new = cov, np.asarray(Z, float), np.asarray(new, float)
        self.null = np.zeros((len(cov), 0)) if null is None else null


def kriging(fit, X, x, parts, R=None):
    """Predictions and standard errors of the new rows x (c, p) with the parts' loadings."""
    y = fit.spec.y if fit.spec.offset is None else fit.spec.y - fit.spec.offset
    V = fit.sigma**2 * (np.eye(len(y)) if R is None else R) + sum(p.Z @ p.cov @ p.Z.T for p in parts)
    X = np.hstack([X, *(p.Z @ p.null for p in parts)])
    x = np.hstack([x, *(p.new @ p.null for p in parts)])
    V_inv = np.linalg.inv(V)
    cov_beta = np.linalg.pinv(X.T @ V_inv @ X, rcond=1e-10, hermitian=True)
    beta = cov_beta @ X.T @ V_inv @ y
    c = sum(p.Z @ p.cov @ p.new.T for p in parts)
    prior = sum(p.new @ p.cov @ p.new.T for p in parts)
    rest = x - (X.T @ V_inv @ c).T
    variance = np.diag(prior - c.T @ V_inv @ c + rest @ cov_beta @ rest.T)
    return x @ beta + c.T @ V_inv @ (y - X @ beta), np.sqrt(variance)


def onehot(keys, levels):
    places = {key: i for i, key in enumerate(levels)}
    out = np.zeros((len(keys), len(levels)))
    out[np.arange(len(keys)), [places[key] for key in keys]] = 1.0
    return out


def independent(fit, name, old, new, columns=None, new_columns=None):
    """Levels old and new, G of the fit."""
    levels = list(dict.fromkeys([*old, *new]))
    G = next(c for t, c in zip(fit.spec.terms, covariances(fit), strict=True) if t.name == name)
    columns = np.ones((len(old), 1)) if columns is None else columns
    new_columns = np.ones((len(new), 1)) if new_columns is None else new_columns
    spread = lambda H, z: (H[:, :, None] * z[:, None]).reshape(len(z), -1)  # noqa: E731
    cov = np.kron(np.eye(len(levels)), G)
    return Part(cov, spread(onehot(old, levels), columns), spread(onehot(new, levels), new_columns))


def covariances(fit):
    parts = fit.likelihood.parameters.parts(fit.theta.to_numpy())
    roots = [fit.sigma * t.covariance.factor(p) for t, p in zip(fit.spec.terms, parts, strict=True)]
    return [T @ T.T for T in roots]


def series(old, new, cov, null=None):
    """States of all times of all series: old and new are (series, time) of the rows; cov(times) within a series."""
    keys = sorted({*old, *new})
    owners, times = np.array([s for s, _ in keys], dtype=object), np.array([t for _, t in keys], float)
    out, columns = np.zeros((len(keys), len(keys))), []
    for s in sorted(set(owners)):
        mine = np.flatnonzero(owners == s)
        out[np.ix_(mine, mine)] = cov(times[mine])
        if null is not None:
            column = np.zeros((len(keys), null))
            column[mine] = times[mine, None] ** np.arange(null)
            columns.append(column)
    return Part(out, onehot(old, keys), onehot(new, keys), np.hstack(columns) if columns else None)


def keys(frame, group, time):
    return list(zip(["all"] * len(frame) if group is None else frame[group], frame[time], strict=True))


def check(fit, new, expected, **options):
    mean, error = expected
    table = fit.predict(new, se=True, **options)
    np.testing.assert_allclose(table["fit"], mean, rtol=MEAN, atol=MEAN)
    np.testing.assert_allclose(table["se"], error, rtol=ERROR)
    np.testing.assert_allclose(fit.predict(new, **options), table["fit"], rtol=EXACT)


def repeated(seed=0, m=6, steps=9):
    """m series over integer times with gaps, a covariate."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"g": np.repeat([f"s{i}" for i in range(m)], steps), "t": np.tile(np.arange(steps), m)})
    frame["x"] = rng.normal(size=len(frame))
    frame["u"] = np.round(frame["t"] + rng.uniform(0, 0.8, len(frame)), 2)
    frame["y"] = 1 + frame["x"] + rng.normal(size=m).repeat(steps) + np.sin(frame["t"]) + rng.normal(size=len(frame))
    return frame[rng.uniform(size=len(frame)) < 0.8].reset_index(drop=True)


@pytest.mark.parametrize("engine", ["auto", "cholmod", "dense"])
def test_slopes_of_known_and_new_subjects(engine):
    table = load_dataset("sleepstudy").astype({"Subject": str})
    fit = slm.lmm("Reaction ~ Days + (Days | Subject)", table, engine=engine)
    new = pd.DataFrame({"Subject": ["308", "308", "x", "337", "x"], "Days": [0.0, 12.5, 3.0, 4.0, 4.0]})
    X, x = (np.column_stack([np.ones(len(f)), f.Days]) for f in (table, new))
    check(fit, new, kriging(fit, X, x, [independent(fit, "Subject", table.Subject, new.Subject, X, x)]))
    check(fit, new, kriging(fit, X, x, [independent(fit, "Subject", table.Subject, new.Subject, X, 0 * x)]), re=False)


def test_crossed_terms_some_of_them_and_rows_that_repeat():
    table = load_dataset("Penicillin").astype({"plate": str, "sample": str})
    fit = slm.lmm("diameter ~ 1 + (1 | plate) + (1 | sample)", table)
    new = pd.DataFrame({"plate": ["a", "a", "new", "a", "b"], "sample": ["A", "new", "B", "A", "F"]})
    ones, one = np.ones((len(table), 1)), np.ones((len(new), 1))
    parts = [independent(fit, name, table[name], new[name]) for name in ("plate", "sample")]
    check(fit, new, kriging(fit, ones, one, parts))
    parts[1].new[:] = 0.0
    check(fit, new, kriging(fit, ones, one, parts), re=["plate"])
    check(fit, new, kriging(fit, ones, one, parts), re="(1 | plate)")


def test_all_rows_by_the_selected_inverse_and_by_solving(monkeypatch):
    """InstEval's shape in small: students by lecturers, the rows used and pairs that never met."""
    rng = np.random.default_rng(5)
    table = pd.DataFrame({"s": rng.integers(0, 40, 400), "d": rng.integers(0, 30, 400), "x": rng.normal(size=400)})
    table["y"] = rng.normal(size=40)[table.s] + rng.normal(size=30)[table.d] * (1 + table.x) + rng.normal(size=400)
    fit = slm.lmm("y ~ x + (1 | s) + (x | d)", table)
    new = pd.DataFrame({"s": rng.integers(0, 44, 300), "d": rng.integers(0, 33, 300), "x": rng.normal(size=300)})
    for rows in (None, table, new):
        found = {}
        for few in (0, 10**6):
            monkeypatch.setattr(posterior, "FEW", few)
            found[few] = fit.predict(rows, se=True)
        pd.testing.assert_frame_equal(found[0], found[10**6], rtol=1e-9)
    X, x = (np.column_stack([np.ones(len(f)), f.x]) for f in (table, new))
    parts = [independent(fit, "s", table.s, new.s), independent(fit, "d", table.d, new.d, X, x)]
    check(fit, new, kriging(fit, X, x, parts))


@pytest.mark.parametrize("rho", [0.7, -0.6, 0.0])
def test_ar1_goes_on_beyond_its_times(rho):
    table = repeated()
    held = {"sd_ar1(t)|g": 1.3, "rho_ar1(t)|g": rho}
    fit = slm.lmm("y ~ x + ar1(0 + t | g)", table, fixed=held)
    new = pd.DataFrame({"g": ["s0", "s0", "s1", "s2", "none", "s3"], "t": [4, 11, -3, 9, 2, 40], "x": 0.5})
    cov = lambda t: 1.3**2 * np.sign(rho + 1e-300) ** np.abs(t[:, None] - t) * abs(rho) ** np.abs(t[:, None] - t)  # noqa: E731
    X, x = (np.column_stack([np.ones(len(f)), f.x]) for f in (table, new))
    check(fit, new, kriging(fit, X, x, [series(keys(table, "g", "t"), keys(new, "g", "t"), cov)]))


def test_ar1_with_a_free_start_goes_forwards_only():
    table = repeated().query("t < 8 or g != 's0'")
    first = table.groupby("g")["t"].min().to_dict()
    held = {"sd_ar1(t)|g": 0.9, "rho_ar1(t)|g": 0.8, "start_ar1(t)|g": 3.0}
    fit = slm.lmm("y ~ x + ar1(0 + t | g, start='free')", table, fixed=held)
    new = pd.DataFrame({"g": ["s0", "s1"], "t": [12, 15], "x": 0.5})
    old_keys, new_keys = keys(table, "g", "t"), keys(new, "g", "t")

    def cov(t):
        """var_1 = w sd^2, var_t = a^2 var_(t-1) + sd^2 from the first time on; cov(s, t) = a^(t-s) var_s."""
        steps = t - t.min()
        variance = 0.81 * (0.8 ** (2 * steps) * 3.0 + (1 - 0.8 ** (2 * steps)) / (1 - 0.64))
        earlier = np.minimum.outer(np.arange(len(t)), np.arange(len(t)))
        return 0.8 ** np.abs(t[:, None] - t) * variance[earlier]

    X, x = (np.column_stack([np.ones(len(f)), f.x]) for f in (table, new))
    check(fit, new, kriging(fit, X, x, [series(old_keys, new_keys, cov)]))
    assert np.isfinite(fit.predict(new.assign(g="none"))).all()
    with pytest.raises(slm.DataError, match="how it varies"):
        fit.predict(new.assign(g="none"), se=True)
    with pytest.raises(slm.DataError, match="no state at 2 times of the rows, the first is -5"):
        fit.predict(new.assign(t=min(first.values()) - 5))


@pytest.mark.parametrize("kappa", [0.4, 3.0])
def test_ou_between_and_beyond_its_times(kappa):
    table = repeated()
    fit = slm.lmm("y ~ x + ou(0 + u | g)", table, fixed={"sd_ou(u)|g": 1.1, "kappa_ou(u)|g": kappa})
    new = pd.DataFrame({"g": ["s0", "s1", "s2", "s3", "none"], "u": [3.333, 20.0, -1.5, table.u[0], 2.0], "x": -0.2})
    cov = lambda t: 1.1**2 * np.exp(-kappa * np.abs(t[:, None] - t))  # noqa: E731
    X, x = (np.column_stack([np.ones(len(f)), f.x]) for f in (table, new))
    check(fit, new, kriging(fit, X, x, [series(keys(table, "g", "u"), keys(new, "g", "u"), cov)]))


def inverse_of(walk, scale):
    """Covariance of an intrinsic walk's states off its null space."""
    return lambda t: scale**2 * np.linalg.pinv(dense(walk(t, [len(t)]), np.zeros(0)), rcond=1e-12, hermitian=True)


@pytest.mark.parametrize("fixed", ["1 + x", "0 + x", "x + g"])
def test_a_random_walk_between_and_beyond_its_times(fixed):
    """Also where the intercept, or a level of each series, is confounded with the walk's own."""
    table = repeated()
    fit = slm.lmm(f"y ~ {fixed} + rw1(0 + u | g)", table, fixed={"sd_rw1(u)|g": 0.6})
    new = pd.DataFrame({"g": ["s0", "s1", "s2", "s3"], "u": [3.333, 20.0, -1.5, table.u[0] + 0.005], "x": -0.2})
    design = fit.spec.encoding.fixed_design
    parts = [series(keys(table, "g", "u"), keys(new, "g", "u"), inverse_of(RW1, 0.6), null=1)]
    x = design.matrix(new.assign(g=pd.Categorical(new.g, categories=sorted(set(table.g)))), {})
    check(fit, new, kriging(fit, fit.spec.X, x, parts))
    if "g" not in fixed:
        for se in (False, True):
            with pytest.raises(slm.DataError, match="the level of a new series is not known"):
                fit.predict(new.assign(g="none"), se=se)


@pytest.mark.parametrize("fixed", ["x + u", "1 + x", "0 + x"])
def test_a_second_order_walk_at_its_states_and_knots(fixed):
    table = repeated()
    grid = np.array([-1.0, 2.5, 4.25, 10.0])
    fit = slm.lmm(f"y ~ {fixed} + rw2(0 + u, knots=grid)", table, fixed={"sd_rw2(u)|u": 0.4}, context={"grid": grid})
    new = pd.DataFrame({"u": [*grid, table.u[3]], "x": 0.1})
    parts = [series(keys(table, None, "u"), keys(new, None, "u"), inverse_of(RW2, 0.4), null=2)]
    x = fit.spec.encoding.fixed_design.matrix(new, {})
    check(fit, new, kriging(fit, fit.spec.X, x, parts))
    with pytest.raises(slm.DataError, match=r"no state at 5 times .* rw2\(0 \+ u, knots=times\)"):
        fit.predict(new.assign(u=new.u + 0.001))


def test_animals_without_records():
    rng = np.random.default_rng(2)
    sire, dam = [None] * 4 + [0, 0, 2, 2, 4, 4, 6], [None] * 4 + [1, 3, 1, 3, 5, 7, 5]
    P = slm.Pedigree(range(11), sire, dam)
    table = pd.DataFrame({"id": np.repeat(np.arange(9), 3), "x": rng.normal(size=27)})
    table["y"] = table.x + rng.normal(size=9)[table.id] + rng.normal(size=27)
    fit = slm.lmm("y ~ x + ped(1 | id, P)", table, context={"P": P}, fixed={"sd_ped(Intercept)|id": 0.8})
    new = pd.DataFrame({"id": [10, 9, 0], "x": 1.0})
    A = P.relationship(range(11))
    A = np.asarray(A.toarray() if hasattr(A, "toarray") else A)
    part = Part(0.64 * A, onehot(table.id, range(11)), onehot(new.id, range(11)))
    X, x = (np.column_stack([np.ones(len(f)), f.x]) for f in (table, new))
    check(fit, new, kriging(fit, X, x, [part]))
    with pytest.raises(slm.DataError, match="Add it to the levels when fitting"):
        fit.predict(new.assign(id=99), se=True)


def test_many_fixed_levels():
    rng = np.random.default_rng(4)
    table = pd.DataFrame({"f": rng.permutation(np.tile(np.arange(120), 3)), "x": rng.normal(size=360)})
    table["g"] = rng.integers(0, 12, 360)
    table["f"] = table["f"].astype(str)
    table["y"] = table.x + rng.normal(size=12)[table.g] + rng.normal(size=360)
    fit = slm.lmm("y ~ x + f + (1 | g)", table)
    assert fit.spec.S is not None
    new = table.iloc[:5].assign(x=0.3, g=[0, 1, 99, 3, 4])
    x = fit.spec.encoding.fixed(new).toarray()
    check(fit, new, kriging(fit, fit.spec.design.toarray(), x, [independent(fit, "g", table.g, new.g)]))


def test_intervals_add_the_residual_variance():
    table = load_dataset("Orthodont").assign(w=lambda d: 1.0 + (d.age > 10))
    fit = slm.lmm("distance ~ age + (1 | Subject)", table, weights="w", residual="varident(Sex)")
    new = table.iloc[[0, 3, 70, 107]].assign(age=[8.0, 13.0, 9.0, 12.0], w=[1.0, 4.0, 2.0, 0.5])
    mean = fit.predict(new, interval="confidence", level=0.9)
    z = norm.ppf(0.95)
    np.testing.assert_allclose(mean["upper"] - mean["fit"], z * mean["se"], rtol=EXACT)
    ratio = np.where(new.Sex == fit.spec.residual.levels[0], 1.0, fit.varpar.filter(like="ratio").iloc[0])
    half = z * np.sqrt(mean["se"] ** 2 + fit.sigma**2 * ratio**2 / new.w)
    table = fit.predict(new, interval="prediction", level=0.9)
    np.testing.assert_allclose(table["fit"] - table["lower"], half, rtol=1e-10)
    assert list(table.index) == list(new.index) and list(table) == ["fit", "se", "lower", "upper"]
    used = load_dataset("Orthodont").assign(w=fit.spec.weights)
    np.testing.assert_allclose(fit.predict(interval="prediction"), fit.predict(used, interval="prediction"), rtol=1e-10)


def test_a_prediction_interval_covers_what_it_says():
    """New subjects and new rows drawn from the model: 95 % of 4,000 responses."""
    rng = np.random.default_rng(11)
    g = np.repeat(np.arange(200), 5)
    draw = lambda m: rng.normal(size=m).repeat(5) + rng.normal(size=5 * m)  # noqa: E731
    fit = slm.lmm("y ~ 1 + (1 | g)", pd.DataFrame({"g": g, "y": draw(200)}))
    table = fit.predict(pd.DataFrame({"g": [-1]}), interval="prediction")
    y = draw(800)
    assert abs(np.mean((y > table.lower[0]) & (y < table.upper[0])) - 0.95) < COVERAGE


def test_draws_of_new_levels():
    table = load_dataset("sleepstudy").astype({"Subject": str})
    fit = slm.lmm("Reaction ~ Days + (Days | Subject)", table)
    new = pd.DataFrame({"Subject": ["308", "a", "a", "b"], "Days": [1.0, 0.0, 1.0, 0.0]})
    mean = fit.predict(new)
    draws = np.array([fit.predict(new, new_levels="sample", seed=i) - mean for i in range(4000)])
    assert not draws[:, 0].any()
    np.testing.assert_array_equal(fit.predict(new, new_levels="sample", seed=1), draws[1] + mean)
    G = covariances(fit)[0]
    z = np.array([[1, 0], [1, 1]])
    np.testing.assert_allclose(
        np.cov(draws[:, 1:3].T), z @ G @ z.T, rtol=0.1, atol=20
    )  # 4,000 draws: 2 % of 600 ... 900
    assert abs(np.corrcoef(draws[:, 1], draws[:, 3])[0, 1]) < 0.06
    with pytest.raises(slm.ModelError, match="draws, which have no standard error"):
        fit.predict(new, new_levels="sample", se=True)


def test_a_missing_value_gives_missing_numbers():
    fit = slm.lmm("y ~ x + ou(0 + u | g)", repeated())
    new = pd.DataFrame({"g": "s1", "u": [1.0, np.nan, 2.0], "x": [np.nan, 1.0, 1.0]})
    assert np.isnan(fit.predict(new, interval="confidence")).all(axis=1).tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"interval": "both"}, slm.ModelError, "interval='both': one of None, 'confidence', 'prediction'"),
        ({"interval": "confidence", "level": 95}, slm.ModelError, "level=95"),
        ({"re": ["plate"]}, slm.ModelError, r"no random term or group 'plate'; this model has '\(1 \| g\)'"),
        ({"new_levels": "zero"}, slm.ModelError, "one of 'population', 'error', 'sample'"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        slm.lmm("y ~ x + (1 | g)", repeated()).predict(**options)


def test_residual_variances_that_are_not_known():
    table = repeated()
    weights = np.linspace(1, 2, len(table))
    fit = slm.lmm("y ~ x + (1 | g)", table, weights=weights)
    assert np.isfinite(fit.predict(interval="prediction")).all(axis=None)
    with pytest.raises(slm.DataError, match="fit with weights= the name of a column"):
        fit.predict(table, interval="prediction")
    named = slm.lmm("y ~ x + (1 | g)", table.assign(w=weights), weights="w")
    with pytest.raises(slm.DataError, match="weights must be positive: 2 of 3 new rows have others, as -1"):
        named.predict(table.head(3).assign(w=[0.0, 1.0, -1.0]), interval="prediction")
    serial = slm.lmm("y ~ x + (1 | g)", table, residual="ar1(t | g)")
    assert np.isfinite(serial.predict(table, interval="confidence")).all(axis=None)
    with pytest.raises(slm.ModelError, match="is correlated with those of the data"):
        serial.predict(table, interval="prediction")
    strata = slm.lmm("y ~ x", table.assign(h=table.g == "s0"), residual="varident(g)")
    with pytest.raises(slm.DataError, match="1 of 2 rows are of no stratum that was in the data"):
        strata.predict(pd.DataFrame({"x": 1.0, "g": ["s0", "no"]}), interval="prediction")


def plots(seed=1):
    """Plots of three trials in no order, of different sizes, with gaps; real distances beside the columns."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"trial": rng.choice(["A", "B", "C"], 60, p=[0.5, 0.3, 0.2])})
    table["r"], table["c"] = rng.integers(1, 6, 60), rng.integers(0, 4, 60)
    table["far"], table["x"] = table.c * 1.7 + 0.1 * (table.c == 2), rng.normal(size=60)
    return table.assign(y=table.x + rng.normal(size=60))


FIELDS = {
    "ar1(0 + r):ar1(0 + c)": ("r:c", "ar1(r)", "ar1(c)", "c"),
    "ar1(0 + r | trial):ar1(0 + c | trial)": ("trial", "ar1(r)", "ar1(c)", "c"),
    "ar1(0 + r | trial):ou(0 + far | trial)": ("trial", "ar1(r)", "ou(far)", "far"),
    "ou(0 + far | trial):ar1(0 + r | trial)": ("trial", "ou(far)", "ar1(r)", "far"),
}


@pytest.mark.parametrize("term", FIELDS)
@pytest.mark.parametrize("saved", [False, True])
def test_plots_of_fields_that_the_fit_does_not_have(term, saved, tmp_path):
    """Between and beyond rows and columns, in new trials: the prior's covariance of old and new plots, all at once."""
    (group, one, two, second), table = FIELDS[term], plots()
    names = [f"rho_{w}|{group}" if "ar1" in w else f"kappa_{w}|{group}" for w in (one, two)]
    held = {f"sd_{one}:{two}|{group}": 1.2, names[0]: 0.6, names[1]: 0.4, "sigma": 0.7}
    fit = slm.lmm(f"y ~ x + {term}", table, fixed=held)
    new = pd.DataFrame({"trial": ["A", "A", "B", "C", "A", "new", "B", "A"], "r": [-2, 3, 9, 4, 9, 2, 2, 1]})
    new["c"] = [0, 7, 9, 2, -3, 1, 1, 2]
    new["far"], new["x"] = new.c * 1.7 + 0.05, 0.5
    both, n = pd.concat([table, new]), len(table)
    apart = [np.abs(np.subtract.outer(both[k].to_numpy(), both[k].to_numpy())) for k in ("r", second)]
    cov = 1.44 * 0.6 ** apart[0] * 0.4 ** apart[1]
    if second == "far":
        across = 0.6 if one.startswith("ou") else 0.4  # a rate; the other one is the correlation of rows
        cov = 1.44 * np.exp(-across * apart[1]) * (0.4 if one.startswith("ou") else 0.6) ** apart[0]
    if group == "trial":
        cov = cov * np.equal.outer(both.trial.to_numpy(), both.trial.to_numpy())
    ends = np.eye(len(both))
    X, x = (np.column_stack([np.ones(len(d)), d.x]) for d in (table, new))
    mean, se = kriging(fit, X, x, [Part(cov, ends[:n], ends[n:])])
    if saved:
        fit.save(tmp_path / "fit.json", se=True)
        fit = slm.load(tmp_path / "fit.json")
    found = fit.predict(new, se=True)
    np.testing.assert_allclose(found["fit"], mean, rtol=0, atol=MEAN)
    np.testing.assert_allclose(found["se"], se, rtol=ERROR)
    if group == "trial":
        with pytest.raises(slm.DataError, match="1 of 8 rows have a level of 'trial' that was not in the data"):
            fit.predict(new, new_levels="error")


def test_a_plot_of_which_a_field_says_nothing():
    table = plots()
    broken = table.head(2).assign(r=[1.0, 1.5])
    with pytest.raises(slm.DataError, match="1 of 1 rows .* says nothing about it. Leave the term out"):
        slm.lmm("y ~ 1 + ar1(0 + r):ar1(0 + c)", table, fixed={"sigma": 0.5}).predict(broken)
    free = slm.lmm("y ~ 1 + ar1(0 + r, start='free'):ar1(0 + c)", table, fixed={"sigma": 0.5})
    with pytest.raises(slm.DataError, match="says nothing about it. Leave the term out"):
        free.predict(table.head(2).assign(r=[1, 9]))
    lost = free.predict(table.head(2).assign(r=[1.0, np.nan]))
    assert np.isfinite(lost[0]) and np.isnan(lost[1])
