"""The table of bars: every row runs, a better optimum of R ends the race, and the documentation has the table."""

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks import many

SMALL = ["--responses", "0", "--voxels", "200", "--animals", "300", "--people", "200"]


def test_rows_beside_nobody(monkeypatch, tmp_path):
    page = tmp_path / "speed.md"
    page.write_text("above\n<!-- race-many -->\nold\n<!-- /race-many -->\nbelow\n")
    monkeypatch.setattr(many, "DOCS", page)
    found = CliRunner().invoke(many.app, [*SMALL, "--write"])
    assert found.exit_code == 0, found.output
    text = page.read_text()
    assert text.startswith("above\n") and text.endswith("below\n") and "old" not in text
    for problem in ("200 responses (voxels)", "scan, 200 people in families", "100 traits on a pedigree of 300"):
        assert f"| {problem}" in text


@pytest.mark.parametrize("gap", [0.0, 1.0])
def test_a_race_needs_the_same_optimum(monkeypatch, tmp_path, gap):
    """R's loop stood in for: a second a response, and our log-likelihoods plus a gap."""
    data, Y, _ = many.problem(100)
    race = many.RACES[2]
    ours = many.slm.lmm_many(f"{many.FIXED} + {race.term}", data, Y[:, :3], ddf="wald").loglik
    monkeypatch.setattr(many, "loop", lambda *given: np.array([1e9, 1e9, *(ours + gap)]))
    run = lambda: many.against(race, data, Y, None, str(tmp_path), 1)  # noqa: E731
    if gap:
        with pytest.raises(SystemExit, match="below lmer's"):
            run()
        return
    row = run()
    assert row.met and row.bar == "30 x lmer" and row.measured.endswith("x lmer")


def test_the_documentation_has_the_table():
    text = many.DOCS.read_text()
    assert text.count("<!-- race-many -->") == text.count("<!-- /race-many -->") == 1
    assert all(race.problem in text for race in many.RACES)
