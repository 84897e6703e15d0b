"""Replicates by blocks: the numbers of a search for each response, whatever the block."""

import numpy as np
import pytest

from sparselmm.inference import samplers
from sparselmm.inference.samplers import OneByOne, Together, make_sampler
from tests.problems import INTRINSIC, PROBLEMS, STRUCTURED

TOGETHER = [
    "one_factor", "slope", "three_effects", "cs", "nested", "crossed", "crossed_slope", "weighted", "offset",
    "no_fixed", "rank_deficient", "large_response",
]  # fmt: skip
ALONE = ["hcs", "multi_membership", *STRUCTURED, *INTRINSIC]
NUMBERS = range(12)
CLOSE = 1e-4  # of a parameter's own spread: two searches with certificates of 1e-5


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("name", TOGETHER)
def test_a_block_gives_the_numbers_of_each_search(name, reml):
    fit = PROBLEMS[name].model().fit(reml=reml)
    sampler = make_sampler(fit, "new", 3)
    assert isinstance(sampler, Together)
    together, alone = sampler.replicates(NUMBERS), sampler.alone.replicates(NUMBERS)
    found, expected = (np.array([r.values for r in some]) for some in (together, alone))
    assert np.array_equal(np.isnan(found), np.isnan(expected))
    kept = ~np.isnan(expected).all(axis=0)
    spread = np.nanstd(expected[:, kept], axis=0)
    assert (np.nan_to_num(abs(found - expected)[:, kept]) <= CLOSE * spread).all()
    # a search of its own may stop 1e-3 before an edge (three_effects, number 3), where the block goes to it
    assert all(r.singular >= own.singular for r, own in zip(together, alone, strict=True) if own.converged)
    assert all(r.converged for r in together)


@pytest.mark.parametrize("name", ["one_factor", "slope"])
def test_a_replicate_has_the_same_bits_in_any_block(name):
    sampler = make_sampler(PROBLEMS[name].model().fit(), "new", 3)
    assert sampler.replicates([4]) + sampler.replicates([7, 5]) == [sampler.replicates(range(9))[i] for i in (4, 7, 5)]


@pytest.mark.parametrize("name", ALONE)
def test_other_models_go_one_by_one(name):
    fit = (PROBLEMS | STRUCTURED | INTRINSIC)[name].model().fit()
    assert isinstance(make_sampler(fit, "fitted", 1), OneByOne)


@pytest.mark.parametrize("name", ["crossed_slope", "weighted", "multi_membership", *STRUCTURED, *INTRINSIC])
def test_sharing_the_first_factor_changes_no_bit(name, monkeypatch):
    fit, effects = (PROBLEMS | STRUCTURED | INTRINSIC)[name].model().fit(), "fitted" if name in INTRINSIC else "new"
    shared = OneByOne(fit, effects, 5).replicates(range(3))
    monkeypatch.setattr(samplers, "KEPT_BYTES", 0.0)
    assert repr(shared) == repr(OneByOne(fit, effects, 5).replicates(range(3)))  # NaN is NaN


def test_the_first_factor_is_had_once():
    fit = PROBLEMS["crossed_slope"].model().fit()
    assert not fit.is_singular
    sampler = OneByOne(fit, "new", 5)
    sampler.replicates([0])
    anchor = sampler.responses._model.engine._slot.engine
    values, factorised = anchor._values, []
    anchor._first.factorize = factorised.append
    sampler.replicates([1, 2])
    assert anchor._values is values and not factorised


def test_what_is_held_stays_held():
    given = PROBLEMS["one_factor"]
    fit = given.model().fit(fixed={"sigma": 1.5})
    sampler = make_sampler(fit, "new", 1)
    assert isinstance(sampler, OneByOne) and sampler.replicates([0])[0].values[-1] == 1.5


def test_one_that_does_not_converge_is_fitted_alone(monkeypatch):
    sampler = make_sampler(PROBLEMS["slope"].model().fit(), "new", 3)
    expected = sampler.alone.replicates([0, 1])
    fit = sampler.fitter.fit

    def stopped(block):
        out = fit(block)
        out.converged[1], out.sigma[1], out.loglik[1] = False, np.nan, 0.0
        return out

    monkeypatch.setattr(sampler.fitter, "fit", stopped)
    assert sampler.replicates([0, 1])[1] == expected[1]
    Y = np.column_stack([sampler.alone.draw(i) for i in (0, 1)])
    assert sampler.deviances(Y)[1] == sampler.alone.deviances(Y)[1]
