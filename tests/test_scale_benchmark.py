"""The benchmark of large structures: cases and bars are the issue's, each has a process of its own, and is written."""

import json

import pytest
from typer.testing import CliRunner

from benchmarks import scale
from benchmarks.racing.processes import Outcome

SMALL = 0.01
SIZES = {  # random effects of each case: of the whole, as its title says, and of a hundredth
    "many_series": (160 * 12_000, 160 * 120),
    "crossed_series": (2_000 * 100 + 1_000 + 200, 20 * 100 + 10 + 4),
    "field": (100 * 200 + 2_000, 10 * 20 + 20),
    "herds": (100_000 + 1_000, 1_010),
    "permanent": (200_000 + 100_000 + 4_000, 2_000 + 1_000 + 40),
    "million": (1_000_000, 10_000),
}
BARS = {"many_series": "4 GB", "herds": "15 s, 24 GB", "million": "900 s, 12 GB", "pedigree_million": "10 s, 24 GB",
        "pedigree_deep": "1 s, 24 GB"}  # fmt: skip


def run(*arguments):
    found = CliRunner().invoke(scale.app, [*arguments, "--scale", str(SMALL)])
    assert found.exit_code == 0, found.output
    return found


def test_the_bars_are_the_issue_s():
    assert {name: case.bar for name, case in scale.CASES.items() if case.bar != "24 GB"} == BARS
    assert set(scale.CASES) == {*SIZES, *BARS, "long_series"}


@pytest.mark.parametrize("name", scale.CASES)
def test_every_case_is_fitted_with_standard_errors(name):
    """In this process: the kernels are compiled for the other tests anyway."""
    row = scale.Row(name, **scale.measure(scale.CASES[name].make(SMALL)))
    assert row.met and row.converged and not row.note
    assert row.processor > 0.0 and row.pedigree + row.fit > 0.0
    if name in SIZES:
        assert row.effects == SIZES[name][1] and row.nonzeros > row.effects
        assert 0 < row.iterations <= row.evaluations


def test_a_process_of_its_own_and_the_page(monkeypatch, tmp_path):
    page, results = tmp_path / "speed.md", tmp_path / "scale.json"
    page.write_text("above\n<!-- scale -->\nold\n<!-- /scale -->\nbelow\n")
    results.write_text(json.dumps({"million": kept("million")}))
    monkeypatch.setattr(scale, "DOCS", page)
    monkeypatch.setattr(scale, "RESULTS", results)
    monkeypatch.setattr(scale, "WRITTEN", SMALL)
    run("herds", "pedigree_deep", "--write")
    text, found = page.read_text(), json.loads(results.read_text())
    assert text.startswith("above\n") and text.endswith("below\n") and "old" not in text
    assert [text.count(scale.CASES[name].title) for name in scale.CASES] == [int(name in found) for name in scale.CASES]
    assert set(found) == {"herds", "pedigree_deep", "million"} and found["million"] == kept("million")
    assert found["herds"]["peak"] > 50e6 and found["herds"]["effects"] == 1_010 and found["herds"]["scale"] == SMALL
    assert "Sizes times 0.01." in text


def kept(name, **changes):
    return scale.asdict(scale.Row(name, fit=1.0, evaluations=5)) | scale.circumstances(SMALL) | changes


def test_what_misses_its_bar_says_so():
    late, large = scale.Row("herds", pedigree=10.0, fit=6.0, evaluations=5), scale.Row("many_series", peak=int(4.1e9))
    not_converged, failed = scale.Row("field", converged=False, evaluations=9), scale.Row("field", note="over 24 GB")
    assert not any(row.met for row in (late, large, not_converged, failed))
    assert scale.Row("herds", pedigree=9.0, fit=5.0).met
    assert "**missed**, not converged |" in scale.line(not_converged)
    assert "**missed**, over 24 GB |" in scale.line(failed)


def test_a_process_that_fails_leaves_a_note(monkeypatch):
    monkeypatch.setattr(scale, "run", lambda *given: Outcome(None, 7, "over 24 GB"))
    assert scale.in_a_process("field", SMALL) == scale.Row("field", peak=7, note="over 24 GB")


@pytest.mark.parametrize(
    ("given", "said"), [(["sheep"], "no case is called sheep"), (["herds", "--write"], "full sizes")]
)
def test_what_is_refused(given, said):
    found = CliRunner().invoke(scale.app, [*given, "--scale", "0.5"])
    assert found.exit_code == 2 and said in found.output


def test_the_documentation_has_the_table():
    text = scale.DOCS.read_text()
    assert text.count("<!-- scale -->") == text.count("<!-- /scale -->") == 1
    kept = scale.read(scale.RESULTS)
    assert all(kept[name]["scale"] == 1.0 and scale.CASES[name].title in text for name in kept)
