"""A saved fit predicts as the fit does, holds what it held, and a file that is none is refused."""

import builtins
import hashlib
import json
import subprocess
import sys
from dataclasses import FrozenInstanceError

import numpy as np
import pandas as pd
import pytest

import sparselmm as slm
from sparselmm.formula.portable import check_expression, plain, read
from sparselmm.inference.save import FACTS, TABLES
from tests.problems import PROBLEMS

EXACT = 1e-14  # the same sums of the same numbers
FACTOR = 1e-9  # another factorisation of the same equations


def table(n=120, seed=0):
    rng = np.random.default_rng(seed)
    k = np.arange(n)
    x, effects = rng.uniform(1, 4, n), rng.normal(size=(2, n))
    return pd.DataFrame({
        "y": rng.normal(size=n) + effects[0, k // 10] + effects[1, k // 10] * x,
        "x": x, "f": rng.permutation(list("abc") * (n // 3)), "k": k % 4,
        "b": rng.uniform(size=n) < 0.5, "g": k // 10, "h": [f"h{i}" for i in rng.integers(0, 8, n)], "t": k % 10,
        "when": pd.Timestamp("2020-01-01") + pd.to_timedelta(k % 6, unit="D"), "off": rng.normal(size=n),
        "o": pd.Categorical(rng.permutation(["low", "mid", "high"] * (n // 3)), ["low", "mid", "high"], ordered=True),
        "Sepal.Length": rng.normal(size=n), "p": [f"i{i}" for i in rng.integers(0, 12, n)],
    })  # fmt: skip


def pedigree():
    names = [f"i{k}" for k in range(14)]
    none = [None] * 6
    return slm.Pedigree(names, none + ["i0", "i0", "i2", "i2", "i0", "i2", "i0", "i2"], none + ["i1", "i3"] * 4)


FORMULAS = {
    "plain": ("y ~ x + (1 | g)", {}),
    "scale, center": ("y ~ scale(x) + center(off) + (scale(x) | g)", {}),
    "poly": ("y ~ poly(x, 3) + (poly(x, 2) || g)", {}),
    "splines": ("y ~ bs(x, df=5) + cr(off, df=4) + (1 | g)", {}),
    "factors": ("y ~ f * x + C(k) + b + o + C(f, contr.sum):off + (0 + f | g)", {}),
    "functions": ("y ~ log(x) + np.sqrt(x) + I(x**2) + abs(off) + (1 | g)", {}),
    "quoted": ("y ~ Sepal.Length + np.exp(`Sepal.Length`) + Q('x') + (1 | g)", {}),
    "offset": ("y ~ x + offset(scale(off)) + (1 | g)", {"offset": "t"}),
    "dates": ("y ~ x + (1 | when) + (1 | g/f)", {}),
    "ar1": ("y ~ x + ar1(0 + t | g)", {}),
    "one series": ("y ~ x + ou(0 + off)", {"fixed": {"sigma": 0.8, "sd_ou(off)|off": 1.5, "kappa_ou(off)|off": 2.0}}),
    "pedigree": ("y ~ x + ped(1 + x | p, P)", {"context": {"P": pedigree()}}),
    "residual": ("y ~ x + (1 | g)", {"residual": "ar1(t | g)", "weights": "x"}),
    "own function": ("y ~ half(x) + (half(x) | g)", {"context": {"half": lambda x: x / 2}}),
    "dropped": ("y ~ x + I(2 * x) + (1 | g)", {}),
    "strata": ("y ~ x + (x | g) + (1 | h)", {"residual": "varident(f)", "weights": "x"}),
    "no variance": ("y ~ x + (1 | g) + (1 | h)", {"fixed": {"sd_Intercept|h": 0.0}}),
}


@pytest.fixture(scope="module")
def fits():
    return {name: slm.lmm(formula, table(), **options) for name, (formula, options) in FORMULAS.items()}


@pytest.mark.parametrize("name", FORMULAS)
def test_a_loaded_fit_predicts_the_same(fits, name, tmp_path):
    fit, options = fits[name], FORMULAS[name][1]
    fit.save(tmp_path / "fit.json")
    saved = slm.load(tmp_path / "fit.json", options.get("context"))
    new = table(seed=1)
    new.loc[3, "x"] = np.nan
    if "g" in fit.ranef():
        new.loc[5, "g"] = 99
    for rows in (table(), new, new.iloc[:1], new.iloc[7:]):
        for re in (True, False):
            expected = fit.predict(rows, re=re)
            np.testing.assert_allclose(saved.predict(rows, re=re), expected, rtol=EXACT, atol=EXACT)
    if "g" in fit.ranef() and "t | g" not in fit.spec.formula:
        with pytest.raises(slm.DataError, match="1 of 120 rows have a level of 'g'"):
            saved.predict(new, new_levels="error")


@pytest.mark.parametrize("name", FORMULAS)
def test_standard_errors_and_intervals_are_those_of_the_fit(fits, name, tmp_path):
    fit, options = fits[name], FORMULAS[name][1]
    fit.save(tmp_path / "fit.json", se=True)
    saved = slm.load(tmp_path / "fit.json", options.get("context"))
    new = table(seed=1)
    new.loc[3, "x"] = np.nan
    if "g" in fit.ranef():
        new.loc[5, "g"] = 99
    kinds = ["confidence"] if name == "residual" else ["confidence", "prediction"]
    for rows, interval in [(new, None), *((rows, kind) for rows in (new, new.iloc[7:9]) for kind in kinds)]:
        for re in (True, False, [fit.spec.terms[0].name]):
            expected = fit.predict(rows, re=re, se=True, interval=interval)
            found = saved.predict(rows, re=re, se=True, interval=interval)
            pd.testing.assert_frame_equal(found, expected, rtol=FACTOR)
    if name == "residual":
        with pytest.raises(slm.ModelError, match="residual of a new row is correlated"):
            saved.predict(new, interval="prediction")
    if name == "plain":
        drawn = saved.predict(new, new_levels="sample", seed=3)
        np.testing.assert_allclose(drawn, fit.predict(new, new_levels="sample", seed=3), rtol=EXACT)


def test_standard_errors_that_a_file_cannot_give(fits, tmp_path):
    path = tmp_path / "fit.json"
    fits["plain"].save(path)
    for options in ({"se": True}, {"interval": "confidence"}, {"new_levels": "sample"}):
        with pytest.raises(slm.ModelError, match=r"only estimates; write it with fit.save\(path, se=True\)"):
            slm.load(path).predict(table(), **options)
    with pytest.raises(slm.ModelError, match="the data of the fit are not here"):
        slm.load(path).predict(None)
    walk = slm.lmm("y ~ x + rw1(0 + t | g)", table())
    with pytest.raises(slm.ModelError, match="not there for sparse fixed effects and for precisions with a null space"):
        walk.save(path, se=True)
    given = json.loads(path.read_text())
    del given["fit"]["uncertainty"]  # as files were before
    given["sha256"] = hashlib.sha256(json.dumps(given["fit"]).encode()).hexdigest()
    path.write_text(json.dumps(given))
    assert len(slm.load(path).predict(table())) == 120


@pytest.mark.parametrize("name", ["factors", "dates", "ar1", "dropped"])
def test_tables_and_facts_are_those_of_the_fit(fits, name, tmp_path):
    fit = fits[name]
    fit.save(tmp_path / "fit.json")
    saved = slm.load(tmp_path / "fit.json")
    for key in FACTS:
        assert getattr(saved, key) == getattr(fit, key)
    for key in TABLES:
        expected = getattr(fit, key)
        compare = pd.testing.assert_series_equal if isinstance(expected, pd.Series) else pd.testing.assert_frame_equal
        compare(getattr(saved, key), expected, check_exact=True, check_index_type=False, check_names=False)
    assert saved.ranef().keys() == fit.ranef().keys()
    for group, frame in fit.ranef().items():
        found = saved.ranef()[group]
        pd.testing.assert_frame_equal(found, frame, check_exact=True, check_index_type=False, check_column_type=False)
    assert saved.summary() == str(saved) == fit.summary() and saved.formula in repr(saved)
    assert saved.versions["sparselmm"] == slm.__version__
    with pytest.raises(AttributeError, match="the data are not in it"):
        saved.resid  # noqa: B018


def test_a_fresh_process_reads_it(fits, tmp_path):
    path = tmp_path / "fit.json"
    fits["poly"].save(path)
    table().to_pickle(tmp_path / "table.pkl")
    code = (
        "import sys, pandas as pd, sparselmm as slm\n"
        "print(repr(float(slm.load(sys.argv[1]).predict(pd.read_pickle(sys.argv[2]))[17])))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, path, tmp_path / "table.pkl"], capture_output=True, text=True, check=True
    )
    assert float(run.stdout) == pytest.approx(fits["poly"].predict(table())[17], rel=EXACT)


def test_the_file_is_free_of_data(fits, tmp_path):
    """Neither the response nor a covariate, nor anything of the length of the data."""
    fits["scale, center"].save(tmp_path / "fit.json")
    text = (tmp_path / "fit.json").read_text()
    data = table()
    assert not any(repr(float(v)) in text for c in ("y", "x", "off") for v in data[c])
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_from_arrays(tmp_path):
    fit = PROBLEMS["sparse_slopes"].model().fit()
    fit.save(tmp_path / "fit.json")
    saved = slm.load(tmp_path / "fit.json")
    pd.testing.assert_series_equal(saved.varpar, fit.varpar, check_exact=True, check_index_type=False)
    with pytest.raises(slm.ModelError, match="from arrays cannot encode"):
        saved.predict(table())


def test_nothing_runs_on_load(fits, tmp_path, monkeypatch):
    fits["functions"].save(tmp_path / "fit.json")
    forbidden = lambda *_, **__: pytest.fail("evaluated")  # noqa: E731
    monkeypatch.setattr(builtins, "eval", forbidden)
    monkeypatch.setattr(builtins, "exec", forbidden)
    slm.load(tmp_path / "fit.json")


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('ls')", "eval('1')", "open('f')", "np.load('f')", "x.__class__", "().__class__",
        "np.os.system('ls')", "[c for c in x]", "(lambda: 1)()", "f'{x}'", "contr.__class__", "x.to_pickle('f')", "x y",
    ],
)  # fmt: skip
def test_expressions_that_do_more_than_arithmetic_are_refused(text):
    with pytest.raises(slm.ModelError):
        check_expression(text, ("x",), {})


@pytest.mark.parametrize(
    "text", ["log(x)", "np.log(x) + 1", "C(x, contr.sum)", "x**2 > 3", "half(x, n=2)", "`a.b` + x"]
)
def test_arithmetic_is_not_refused(text):
    check_expression(text, ("x", "a.b"), {"half": None})


def test_a_malicious_file_is_refused(fits, tmp_path):
    """With a valid checksum: as anybody could write it."""
    path = tmp_path / "fit.json"
    fits["functions"].save(path)
    given = json.loads(path.read_text().replace("np.sqrt(x)", "__import__('os').getcwd()"))
    given["sha256"] = hashlib.sha256(json.dumps(given["fit"]).encode()).hexdigest()
    path.write_text(json.dumps(given))
    with pytest.raises(slm.ModelError, match="reads '.getcwd'|needs '__import__'"):
        slm.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[: len(text) // 2], "is cut off"),
        (lambda text: "", "no file of a fit"),
        (lambda text: "[]", "no file of a fit"),
        (lambda text: '{"format": "other"}', "no file of a fit"),
        (lambda text: text.replace('"version": 1', '"version": 2', 1), "version 2.*reads up to 1"),
        (lambda text: text.replace('"reml": true', '"reml": false', 1), "checksum"),
    ],
)
def test_files_that_are_none_are_refused(fits, tmp_path, change, message):
    path = tmp_path / "fit.json"
    fits["plain"].save(path)
    path.write_text(change(path.read_text()))
    with pytest.raises(slm.DataError, match=message):
        slm.load(path)


def test_a_file_that_is_not_there():
    with pytest.raises(slm.DataError, match="there is no file"):
        slm.load("nowhere.json")


def test_own_functions_are_asked_for(fits, tmp_path):
    fits["own function"].save(tmp_path / "fit.json")
    with pytest.raises(slm.ModelError, match="needs 'half': give it in context="):
        slm.load(tmp_path / "fit.json")


def test_what_has_no_plain_form_is_refused_at_once(tmp_path):
    fit = slm.lmm("y ~ x.abs() + (1 | g)", table())
    with pytest.raises(slm.ModelError, match="make a column of it first"):
        fit.save(tmp_path / "fit.json")
    with pytest.raises(slm.ModelError, match="object cannot be stored"):
        plain({"a": object()})
    assert not (tmp_path / "fit.json").exists()


@pytest.mark.parametrize(
    "value",
    [None, True, 3, -0.1, float("inf"), "a", [1, "b"], (1, (2.5,)), {0: "x", "y": [1.0]}, pd.Timestamp("2020-02-03")],
)
def test_plain_values_come_back(value):
    assert read(json.loads(json.dumps(plain(value), allow_nan=False))) == value


def test_arrays_and_indices_come_back():
    for array in (np.arange(6.0).reshape(2, 3), np.zeros((0, 3), np.int64), np.array([np.nan, 1.0])):
        found = read(json.loads(json.dumps(plain(array))))
        np.testing.assert_array_equal(found, array)
        assert found.dtype == array.dtype
    for index in (
        pd.Index(["a", "b"], name="g"),
        pd.Index([1, 2]),
        pd.MultiIndex.from_product([["a"], [1, 2]], names=["g", "t"]),
    ):
        pd.testing.assert_index_equal(read(json.loads(json.dumps(plain(index)))), index)


def test_what_is_there_can_be_listed_and_nothing_set(fits, tmp_path):
    fit = next(iter(fits.values()))
    fit.save(tmp_path / "fit.json")
    saved = slm.load(tmp_path / "fit.json")
    assert {"predict", "ranef", "summary", *FACTS, *TABLES} <= set(dir(saved))
    with pytest.raises(FrozenInstanceError, match="cannot assign to field 'mine'"):
        saved.mine = 1


def test_labels_that_are_tuples_stay_labels(tmp_path):
    """pandas makes a MultiIndex of them, for which `ranef` and `load` had no names."""
    rng = np.random.default_rng(9)
    code = rng.integers(0, 6, 60)
    pairs = pd.Series([(int(k), "a") for k in code], dtype=object)
    table = pd.DataFrame({"y": rng.normal(size=6)[code] + rng.normal(size=60), "g": code, "pair": pairs})
    fit, plain = (slm.lmm(f"y ~ (1 | {g})", table) for g in ("pair", "g"))
    assert fit.ranef()["pair"].index.to_list() == [(k, "a") for k in range(6)]
    np.testing.assert_array_equal(fit.ranef()["pair"], plain.ranef()["g"])
    fit.save(tmp_path / "pairs.json")
    np.testing.assert_array_equal(slm.load(tmp_path / "pairs.json").predict(table), plain.predict(table))
