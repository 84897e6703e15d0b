"""Likelihood ratios by parametric bootstrap: where the ratio is a function of F, the share is its exact tail."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import sparselmm as slm
from sparselmm._tables import WIDTH
from sparselmm.datasets import load_dataset
from sparselmm.inference.likelihood_ratios import Ratios, likelihood_ratios, tail_share
from sparselmm.inference.samplers import Together, make_sampler
from tests.problems import PROBLEMS

N = 1500
DEVIATIONS = 4.0  # of a binomial share: a wrong distribution is many more away
DEVIANCE = 1e-8  # relative: quadratic in two certificates of 1e-5
ZERO = 1e-7  # a ratio that is zero but for rounding


def share_is(found, exact, n):
    assert abs(found - exact) < DEVIATIONS * np.sqrt(exact * (1.0 - exact) / n) + 1.0 / n


@pytest.fixture(scope="module")
def one_way():
    """12 groups of 5, F = 2.24."""
    rng = np.random.default_rng(1)
    g = np.repeat(np.arange(12), 5)
    return pd.DataFrame({"g": g, "y": rng.normal(size=60) + 0.45 * rng.normal(size=12)[g], "x": rng.normal(size=60)})


@pytest.mark.parametrize("reml", [False, True])
def test_one_variance_of_a_balanced_layout_has_the_p_value_of_f(one_way, reml):
    """The ratio rises with F and is zero below m/(m - 1) (ML) or 1 (REML), Searle, Casella & McCulloch (1992)."""
    small, large = (slm.lmm(f, one_way, reml=reml) for f in ("y ~ 1", "y ~ 1 + (1 | g)"))
    table = slm.compare(large, small, refit=False, method="boot", n=N, seed=4)
    exact = stats.f_oneway(*(y for _, y in one_way.groupby("g").y)).pvalue
    share_is(table.p_value.iloc[1], exact, N)
    if not reml:  # 0.5 chi2(0) + 0.5 chi2(1) needs many groups
        assert slm.compare(large, small, refit=False).p_value.iloc[1] > 1.7 * exact
    zero = stats.f.cdf(1.0 if reml else 12 / 11, 11, 48)
    share_is((table.replicates.iloc[:, 0] < ZERO).mean(), zero, N)


def test_coefficients_of_a_linear_model_have_the_p_value_of_f(one_way):
    small, large = (slm.lmm(f, one_way) for f in ("y ~ 1", "y ~ x + I(x**2)"))
    table = slm.compare(small, large, method="boot", n=N, seed=5)
    share_is(table.p_value.iloc[1], large.test([[0, 1, 0], [0, 0, 1]], ddf="kenward-roger").p_value.iloc[0], N)
    assert table.reference.iloc[1] == f"bootstrap of {N:,}" and "fitted again by ML" in table.checked.iloc[0]


def test_fixed_effects_of_few_groups_have_pbkrtest_s_p_value():
    """PBmodcomp of pbkrtest 0.5.2, 1,000 simulations with seed 1: 0.6873; four replicates of lme4's cake."""
    cake = load_dataset("cake")
    cake = cake[cake.replicate.astype(int) <= 4]
    fits = [slm.lmm(f"angle ~ recipe {sign} temp + (1 | replicate)", cake) for sign in "+*"]
    row = slm.compare(*fits, method="boot", n=N, seed=1).iloc[1]
    assert row.chisq == pytest.approx(0.8036, abs=5e-5)
    share_is(row.p_value, 0.6873, 600)  # 1/600 = 1/1000 + 1/1500


def test_the_share_counts_ties_and_leaves_failures_out():
    """pbkrtest's (1 + #)/(1 + n), over all replicates: its PBmodcomp leaves those of zero out."""
    drawn = np.array([0.0, 1.0, 2.0, 2.0, 3.0, np.nan])
    assert tail_share(2.0, drawn, 1.0) == (1 + 3) / (1 + 5)
    assert tail_share(0.0, drawn, 1.0) == 1.0 and tail_share(9.0, drawn, 1.0) == 1 / 6
    assert tail_share(2.0 + 1e-8, drawn, 100.0) == (1 + 3) / (1 + 5)  # rounding of the deviances


@pytest.mark.parametrize("name", ["one_factor", "slope", "crossed", "weighted"])
@pytest.mark.parametrize("reml", [False, True])
def test_a_block_has_the_deviances_of_each_search(name, reml):
    sampler = make_sampler(PROBLEMS[name].model().fit(reml=reml), "new", 3)
    assert isinstance(sampler, Together)
    Y = np.column_stack([sampler.alone.draw(i) for i in range(5)])
    np.testing.assert_allclose(sampler.deviances(Y), sampler.alone.deviances(Y), rtol=DEVIANCE)


def test_workers_interruptions_and_blocks_change_nothing(one_way, tmp_path):
    small, large = (slm.lmm(f, one_way, reml=False) for f in ("y ~ x + (1 | g)", "y ~ x + (x | g)"))
    expected = likelihood_ratios(small, large, 8, 3)
    np.testing.assert_array_equal(likelihood_ratios(small, large, 8, 3, workers=2), expected)
    file = tmp_path / "ratios.jsonl"
    likelihood_ratios(small, large, 3, 3, file=file)
    np.testing.assert_array_equal(likelihood_ratios(small, large, 8, file=file), expected)
    with pytest.raises(slm.SparselmmError, match="replicates of another fit: names"):
        likelihood_ratios(small, slm.lmm("y ~ (1 | g)", one_way, reml=False), 8, file=file)
    other = slm.lmm("y ~ x + (1 | g)", one_way.assign(x=one_way.x + 1.0), reml=False)
    assert other.deviance == pytest.approx(small.deviance, rel=1e-9)  # by which files used to be told apart
    with pytest.raises(slm.SparselmmError, match="replicates of a fit with other estimates"):
        likelihood_ratios(other, large, 8, file=file)


def test_a_larger_model_that_ends_elsewhere_is_searched_again(one_way, monkeypatch):
    small, large = (slm.lmm(f, one_way, reml=False) for f in ("y ~ x + (1 | g)", "y ~ x + (x | g)"))
    expected = Ratios(small, large, 3).replicates(range(4))
    pair = Ratios(small, large, 3)
    found = Together.deviances
    monkeypatch.setattr(Together, "deviances", lambda self, Y: found(self, Y) + 50.0 * (self is pair.large))
    again = pair.replicates(range(4))
    for one, other in zip(again, expected, strict=True):
        assert one.values[0] == pytest.approx(other.values[0], abs=1e-6)


def test_options_are_checked(one_way):
    small, large = (slm.lmm(f, one_way) for f in ("y ~ 1", "y ~ 1 + (1 | g)"))
    third = slm.lmm("y ~ x + (1 | g)", one_way)
    for match, arguments in {
        "method='bootstrap': one of 'chi2', 'boot'": {"method": "bootstrap"},
        r"has no option 'n'; it has none; method='boot' has some": {"n": 10},
        "has no option 'reml'; it has n, seed": {"method": "boot", "reml": True},
        "n = 0": {"method": "boot", "n": 0},
        "seed=1.5": {"method": "boot", "seed": 1.5},
    }.items():
        with pytest.raises(slm.SparselmmError, match=match):
            slm.compare(small, large, **arguments)
    with pytest.raises(slm.SparselmmError, match="file= keeps the replicates of one test, and 3 models make 2"):
        slm.compare(small, large, third, method="boot", file="x.jsonl")


def test_the_text_is_whole():
    sleep = load_dataset("sleepstudy")
    formulas = [
        "Reaction ~ Days + (1 | Subject)",
        "Reaction ~ Days + (Days || Subject)",
        "Reaction ~ Days + I(Days**2) + ",
    ]
    formulas[2] += " + ".join(f"I(Days**{k})" for k in range(3, 8)) + " + (Days | Subject)"
    table = slm.compare(*(slm.lmm(f, sleep) for f in formulas))
    lines = str(table).splitlines()
    assert max(map(len, lines)) <= WIDTH and "..." not in str(table)
    assert lines[:2] == ["Models (same rows and response; fitted again by ML)", f"  1  {formulas[0]}"]
    header = next(line for line in lines if "n_params" in line)
    assert header.split() == ["n_params", "loglik", "deviance", "aic", "bic", "chisq", "df", "p_value"]
    assert next(line for line in lines if line.startswith("1 ")).split() == [
        *("1", "4", "-897.04", "1794.08", "1802.08", "1814.85")
    ]
    assert lines[-2].startswith("3 against 2: chi2(7)") or lines[-1].startswith("3 against 2: chi2(7)")
    assert "reference" not in str(slm.compare(*(slm.lmm(f, sleep) for f in formulas[:2]), test=False))
    assert isinstance(table.iloc[:, :2], pd.DataFrame) and "n_params" in str(table.iloc[:, :2])
