"""The benchmark of what is done with a fit: every verb runs, and the table sets it beside lme4."""

import pytest

from benchmarks import inference
from tests.problems import PROBLEMS


def test_every_verb_can_be_timed(monkeypatch):
    given = PROBLEMS["crossed"]
    monkeypatch.setattr(inference, "arguments", lambda shape: ((given.formula, given.data()), {}))
    monkeypatch.setattr(inference, "REPLICATES", 2)
    found = inference.here()
    assert list(found) == list(inference.WHAT) and min(found.values()) > 0.0


def test_the_table_has_ratios():
    ours, theirs = dict.fromkeys(inference.WHAT, 0.5), {"fit": 4.0, "bootstrap": 400.0}
    lines = inference.table(ours, theirs, 10).splitlines()
    assert lines[2] == "| fit, from the table | 0.5 | 4 | 8 |" and lines[3].endswith("| 0.5 |")
    assert lines[-2:] == ["| bootstrap, 100 replicates | 0.5 | 400 | 800 |", "lme4's bootstrap from 10 replicates."]
    assert inference.table(ours, {}, 0).splitlines()[2] == "| fit, from the table | 0.5 |"


def test_what_r_prints_is_read(monkeypatch):
    class Run:
        stdout = "fit 4.4 \nLinear mixed model fit by REML.\nsummary 5.3 \nService 1\n"

    monkeypatch.setattr(inference.subprocess, "run", lambda *_, **__: Run())
    assert inference.in_r(1) == pytest.approx({"fit": 4.4, "summary": 5.3})
