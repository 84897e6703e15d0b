"""Parametric bootstrap: replicates that depend on nothing but the seed, files that go on, intervals."""

import json

import numpy as np
import pandas as pd
import pytest
from rich.progress import Progress
from scipy.stats import norm

import sparselmm as slm
from sparselmm.datasets import load_dataset
from sparselmm.inference import confint, samplers
from sparselmm.inference.bootstrap import Bootstrap
from tests.problems import PROBLEMS

Z_LIMIT = 5.0  # standard errors of a Monte-Carlo figure
WARM = 1e-5  # parameters of two searches from different starts, relative to their standard errors


@pytest.fixture(scope="module")
def fit():
    return PROBLEMS["one_factor"].model().fit()


@pytest.fixture(scope="module")
def few(fit):
    return fit.bootstrap(4, seed=11)


def test_a_replicate_is_a_fit_of_a_simulated_response(fit, few):
    for i in range(4):
        seed = np.random.SeedSequence(11, spawn_key=(i,))
        fresh = fit.refit(fit.simulate(1, seed)[:, 0])
        expected = pd.concat([fresh.fixef, fresh.varpar])
        assert ((few.replicates.loc[i] - expected).abs() <= WARM * few.se).all()
        assert few.converged[i] and few.singular[i] == fresh.is_singular


def test_workers_change_nothing(fit, few):
    pd.testing.assert_frame_equal(fit.bootstrap(4, seed=11, workers=2).replicates, few.replicates, check_exact=True)


def test_workers_of_a_model_with_the_users_own_function():
    """One after another, in processes to which the function cannot travel."""
    rng = np.random.default_rng(2)
    table = pd.DataFrame({"g": np.repeat(np.arange(8), 5), "t": np.tile(np.arange(5), 8), "x": rng.normal(size=40)})
    table["y"] = table.x + rng.normal(size=8)[table.g] + rng.normal(size=40)
    fit = slm.lmm("y ~ f(x) + ar1(0 + t | g)", table, context={"f": lambda x: x + 1.0})
    one, two = (fit.bootstrap(3, seed=1, workers=workers) for workers in (1, 2))
    pd.testing.assert_frame_equal(one.replicates, two.replicates, check_exact=True)


def test_a_file_is_continued(fit, few, tmp_path):
    path = tmp_path / "replicates.jsonl"
    fit.bootstrap(2, seed=11, file=path)
    text = path.read_text()
    path.write_text(text + '{"i": 2, "values": [1.0')  # a run that was killed while it wrote
    again = fit.bootstrap(4, file=path)
    assert again.seed == 11
    pd.testing.assert_frame_equal(again.replicates, few.replicates, check_exact=True)
    lines = path.read_text().splitlines()
    assert [json.loads(line)["i"] for line in lines[1:]] == [0, 1, 2, 3] and path.read_text().startswith(text)
    marked = [line.replace('"converged": true', '"converged": false') for line in lines]
    path.write_text("\n".join(marked) + "\n")
    assert not fit.bootstrap(4, file=path).converged.any()  # read, not made again


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [], "is no file of bootstrap replicates"),
        (lambda lines: ["{}", *lines[1:]], "is no file of bootstrap replicates"),
        (lambda lines: [lines[0].replace('"version": 1', '"version": 2'), *lines[1:]], "version 2"),
        (lambda lines: [lines[0].replace('"nobs": 144', '"nobs": 7'), *lines[1:]], "another fit: nobs is 7"),
        (lambda lines: [lines[0].replace('"estimates": [', '"estimates": [1'), *lines[1:]], "other estimates"),
        (lambda lines: [lines[0], "[]", *lines[2:]], "line 2, is no replicate"),
        (lambda lines: lines, "begun with seed=11, not 3"),
    ],
)
def test_files_that_do_not_belong_here_are_refused(fit, tmp_path, change, message):
    path = tmp_path / "replicates.jsonl"
    fit.bootstrap(1, seed=11, file=path)
    path.write_text("".join(line + "\n" for line in change(path.read_text().splitlines())))
    with pytest.raises(slm.DataError, match=message):
        fit.bootstrap(1, seed=3 if "begun" in message else None, file=path)


@pytest.mark.parametrize("unit", [1.0, 1e-9])
def test_another_response_is_refused_in_any_unit(tmp_path, unit):
    """Estimates of 1e-9 were all the same, and replicates of one response went on as those of another."""
    table = load_dataset("Dyestuff").assign(other=lambda t: unit * t.Yield[::-1].to_numpy() ** 1.1)
    table["Yield"] = unit * table.Yield
    path = tmp_path / "replicates.jsonl"
    slm.lmm("Yield ~ 1 + (1 | Batch)", table).bootstrap(2, seed=1, file=path)
    with pytest.raises(slm.DataError, match="a fit with other estimates"):
        slm.lmm("other ~ 1 + (1 | Batch)", table).bootstrap(3, file=path)


def test_a_header_without_its_end_of_line(fit, few, tmp_path):
    path = tmp_path / "replicates.jsonl"
    fit.bootstrap(1, seed=11, file=path)
    path.write_text(path.read_text().splitlines()[0])
    fit.bootstrap(2, file=path)
    pd.testing.assert_frame_equal(fit.bootstrap(4, file=path).replicates, few.replicates, check_exact=True)


def test_a_file_that_cannot_be_read(fit, tmp_path):
    with pytest.raises(slm.DataError, match="replicates cannot be read from"):
        fit.bootstrap(1, file=tmp_path)


def test_bca_of_effects_that_stay_is_refused_before_the_fits(fit, monkeypatch):
    monkeypatch.setattr(confint, "bootstrap", None)
    with pytest.raises(slm.ModelError, match="kind='bca' needs the fit, and replicates of effects='new'"):
        fit.confint("boot", kind="bca", effects="fitted")


def test_the_standard_error_is_that_of_theory():
    """Balanced one-way layout: beta is the mean, of variance (tau^2 + sigma^2/5)/6."""
    fit = slm.lmm("Yield ~ 1 + (1 | Batch)", load_dataset("Dyestuff"))
    n = 300
    found = fit.bootstrap(n, seed=2)
    tau, sigma = fit.varpar
    expected = np.sqrt((tau**2 + sigma**2 / 5) / 6)
    assert abs(found.se["Intercept"] / expected - 1) < Z_LIMIT / np.sqrt(2 * n)


def test_effects_may_stay_as_they_are(fit):
    found = fit.bootstrap(3, seed=1, effects="fitted")
    y = fit.simulate(1, np.random.SeedSequence(1, spawn_key=(2,)), effects="fitted")[:, 0]
    assert found.replicates["sigma"].iloc[2] == pytest.approx(fit.refit(y).sigma, rel=WARM)


def test_replicates_that_cannot_be_fitted(fit, tmp_path, monkeypatch):
    """NaN, counted, kept in a file, and left out of errors and intervals."""
    fitted = samplers.OneByOne.fitted

    def failing(self, i, y):
        with monkeypatch.context() as patch:
            if i in (1, 2):
                patch.setattr(samplers, "estimate", refuse)
            return fitted(self, i, y)

    def refuse(*arguments, **options):
        raise slm.ModelError("no way")

    monkeypatch.setattr(samplers, "_is_for_many", lambda fit: False)
    expected = fit.bootstrap(5, seed=11)
    monkeypatch.setattr(samplers.OneByOne, "fitted", failing)
    path = tmp_path / "replicates.jsonl"
    for found in (fit.bootstrap(5, seed=11, file=path), fit.bootstrap(5, file=path)):
        assert found.n_failed == 2 and repr(found).startswith("<sparselmm bootstrap: 5 replicates, 2 failed")
        assert found.replicates.isna().all(axis=1).tolist() == [False, True, True, False, False]
        assert not found.converged[1:3].any()
        known = expected.replicates.iloc[[0, 3, 4]]
        pd.testing.assert_frame_equal(found.replicates.iloc[[0, 3, 4]], known, check_exact=True)
        pd.testing.assert_series_equal(found.se, known.std())
        np.testing.assert_allclose(found.confint(0.5)["lower"], known.min())  # (3 + 1) * 0.25: the first of three


def record():
    rng = np.random.default_rng(1)
    table = pd.DataFrame({"a": rng.normal(size=99), "b": np.append(np.nan, np.arange(1.0, 99.0))})
    return Bootstrap(table, pd.Series({"a": 0.5, "b": 40.0}), np.ones(99, bool), np.zeros(99, bool), 1)


def test_intervals_by_their_definitions():
    boot = record()
    a = np.sort(boot.replicates["a"])
    low, high = boot.confint(0.9).loc["a"]
    assert (low, high) == pytest.approx((a[4], a[94]))  # (99 + 1) * 0.05 = 5th, 95th of the sorted values
    assert tuple(boot.confint(0.9, "basic").loc["a"]) == pytest.approx((1.0 - a[94], 1.0 - a[4]))
    half = 1.6448536269514722 * a.std(ddof=1)
    assert tuple(boot.confint(0.9, "normal").loc["a"]) == pytest.approx((1 - a.mean() - half, 1 - a.mean() + half))
    assert tuple(boot.confint(0.5).loc["b"]) == pytest.approx((24.75, 74.25))  # of the 98 that are there
    share = (a < 0.5).sum() + 0.5  # bias-corrected: 2 z0 -+ 1.645, as quantiles of the 100 numbers between 99 values
    ends = norm.cdf(2 * norm.ppf(share / 100) + np.array([-1.0, 1.0]) * 1.6448536269514722) * 100
    expected = np.interp(ends, np.arange(1, 100), a)
    assert tuple(boot.confint(0.9, "bc").loc["a"]) == pytest.approx(tuple(expected))
    assert boot.n_failed == 0 and boot.bias["a"] == pytest.approx(a.mean() - 0.5)


def test_progress_is_shown(fit, tmp_path, monkeypatch):
    """A bar that begins with what the file has, and moves by each replicate; none unless it is asked for."""
    seen = []
    add, advance = Progress.add_task, Progress.advance
    monkeypatch.setattr(Progress, "add_task", lambda self, *a, **k: seen.append(k) or add(self, *a, **k))
    monkeypatch.setattr(Progress, "advance", lambda self, *a: seen.append("moved") or advance(self, *a))
    fit.bootstrap(1, seed=1, file=tmp_path / "f")
    assert not seen
    fit.bootstrap(3, file=tmp_path / "f", progress=True)
    assert seen == [{"total": 3, "completed": 1}, "moved", "moved"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "n = 0"),
        ({"workers": 0}, "workers = 0"),
        ({"seed": "a"}, "seed='a'"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": True}, "seed=True"),
        ({"effects": "none"}, "one of 'new', 'fitted'"),
    ],
)
def test_bad_arguments_are_refused(fit, arguments, message):
    with pytest.raises(slm.ModelError, match=message):
        fit.bootstrap(**arguments)
    for bad in ({"level": 1.0}, {"kind": "bca"}):
        with pytest.raises(slm.ModelError):
            record().confint(**bad)
