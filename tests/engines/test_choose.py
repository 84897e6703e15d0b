"""engine="auto": what is taken, and what is looked at before."""

import numpy as np
import pytest

import sparselmm as slm
from sparselmm._errors import EngineError
from sparselmm.engines import absorb, choose, make_engine
from sparselmm.engines.absorb import Absorb
from sparselmm.engines.supernodal import Supernodal
from tests.engines.test_absorb import CASES, meeting
from tests.engines.test_cholmod import lower_pattern
from tests.problems import PROBLEMS

CROSSED = ((90, 1), (40, 1))


@pytest.fixture
def slow(monkeypatch):
    """Nothing is quick enough to be taken as it is."""
    monkeypatch.setattr(choose, "ANALYSIS", 0.0)
    monkeypatch.setattr(choose, "RATES", (0.0, 0.0, 0.0))


@pytest.fixture
def nothing_whole(monkeypatch):
    """A factor of the whole is refused; says how often it was asked for."""
    asked = []

    def refuse(pattern):
        asked.append(pattern)
        raise EngineError("not installed")

    monkeypatch.setattr(choose, "Supernodal", refuse)
    return asked


@pytest.mark.parametrize("name", ["one_factor", "slope", "crossed", "nested", "partially_crossed"])
def test_quick_absorption_is_taken_without_a_look_at_the_whole(name, nothing_whole):
    model = PROBLEMS[name].model(2000)
    assert model.likelihood.engine_name == "absorb" and not nothing_whole
    assert "forecast" not in model.likelihood.engine_reason


def crossed_and(hub):
    """Crossed levels that meet 3 in 10 of each other; hub: sparsely, and one level of the larger term meets all."""
    A = meeting(CROSSED, (), 0.05 if hub else 0.3)
    A[0, 90:] = A[90:, 0] = hub or A[0, 90:]
    return lower_pattern(A)


def test_where_everything_fills_the_whole_is_not_looked_at(slow, nothing_whole):
    assert isinstance(make_engine("auto", crossed_and(hub=False), CROSSED), Absorb)
    assert not nothing_whole


def test_a_look_at_the_whole_that_takes_longer_than_it_saves_is_not_taken(slow, nothing_whole, monkeypatch):
    pattern = crossed_and(hub=True)
    absorbed = Absorb(pattern, CROSSED).seconds
    for analysis, looks in ((1.01 * choose.SAVED, 0), (0.99 * choose.SAVED, 1)):
        monkeypatch.setattr(choose, "ANALYSIS", analysis * absorbed / pattern.nnz)
        assert isinstance(make_engine("auto", pattern, CROSSED), Absorb) and len(nothing_whole) == looks


def test_one_level_that_meets_all_does_not_make_every_order_fill(slow):
    engine = make_engine("auto", crossed_and(hub=True), CROSSED)
    assert Absorb(crossed_and(hub=True), CROSSED).plan.density == 1.0
    assert "; forecast " in engine.reason


def test_a_chain_beside_three_levels_is_factorised_whole():
    """Absorbing them would join all 700 links of the chain."""
    blocks = ((700, 1), (3, 1))
    A = np.zeros((703, 703), bool)
    link = np.arange(699)
    A[link, link + 1] = A[link + 1, link] = True
    A[:700, 700:] = A[700:, :700] = True
    engine = make_engine("auto", lower_pattern(A), blocks)
    assert isinstance(engine, Supernodal)
    other = Absorb(lower_pattern(A), blocks)
    assert engine.reason.endswith(f"; forecast {1e3 * engine.seconds:.3g} ms, absorb {1e3 * other.seconds:.3g} ms")
    assert engine.seconds < other.seconds


@pytest.mark.parametrize("better", ["absorb", "supernodal"])
def test_the_smaller_forecast_wins(slow, monkeypatch, better):
    monkeypatch.setattr(absorb, "PER_EFFECT", 1e-12 if better == "absorb" else 1.0)
    engine = make_engine("auto", crossed_and(hub=True), CROSSED)
    assert engine.name == better and f"; forecast {1e3 * engine.seconds:.3g} ms" in engine.reason


def test_without_scikit_sparse_what_can_be_absorbed_is(slow, nothing_whole):
    assert isinstance(make_engine("auto", crossed_and(hub=True), CROSSED), Absorb)
    assert nothing_whole


def test_a_first_step_that_fills_a_sparse_tail_is_not_taken(monkeypatch):
    blocks, A = CASES["beside a chain"]
    monkeypatch.setattr(absorb, "SMALL_TAIL", 2)
    monkeypatch.setattr(absorb, "FILLED", 2.0)
    monkeypatch.setattr(choose, "GROWTH", 0.01)
    assert isinstance(make_engine("auto", lower_pattern(A), blocks), Supernodal)
    monkeypatch.setattr(choose, "GROWTH", 1e9)
    assert isinstance(make_engine("auto", lower_pattern(A), blocks), Absorb)


def test_nothing_to_absorb():
    A = meeting(((6, 2),), (0,), 0.0)
    assert isinstance(make_engine("auto", lower_pattern(A), ((6, 2),)), Supernodal)
    assert isinstance(make_engine("auto", lower_pattern(A)), Supernodal)


def test_absorption_that_does_not_fit(monkeypatch):
    monkeypatch.setattr(absorb, "available_memory", lambda: 1e3)
    assert isinstance(make_engine("auto", crossed_and(hub=False), CROSSED), Supernodal)


def test_the_engine_is_named_in_the_fit():
    assert slm.lmm("y ~ x + (1 | g)", PROBLEMS["one_factor"].data()).engine == "absorb"
    assert slm.lmm("y ~ x + (1 | g)", PROBLEMS["one_factor"].data(), engine="cholmod").engine == "cholmod"
