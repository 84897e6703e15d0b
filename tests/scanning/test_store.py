"""Scans that are interrupted and continued; what a folder of finished blocks refuses."""

import json
import sys

import pandas as pd
import pytest

import sparselmm as slm
from tests.scanning.simulated import study

pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(scope="module")
def made():
    return study()


@pytest.fixture(scope="module")
def null(made):
    return slm.lmm("y ~ x + (1 | id)", made.data)


def stream(made, until=None, size=4):
    """Blocks of the study; ends with an interruption before block `until`."""
    for number, first in enumerate(range(0, 12, size)):
        if number == until:
            raise KeyboardInterrupt
        part = made.frame.iloc[:, first : first + size]
        yield list(part.columns), part.to_numpy()


def test_an_interrupted_scan_goes_on_where_it_was(made, null, tmp_path):
    out, options = tmp_path / "scan", {"samples": made.ids, "sample": "id", "interact": "x", "reestimate": 0.5}
    with pytest.raises(KeyboardInterrupt):
        slm.scan(null, stream(made, until=2), out=out, **options)
    parts = sorted(out.glob("part-*.parquet"))
    assert [p.name for p in parts] == ["part-000000.parquet", "part-000001.parquet"]
    before = [p.stat().st_mtime_ns for p in parts]
    found = slm.scan(null, stream(made), out=out, **options)
    assert [p.stat().st_mtime_ns for p in parts] == before and len(list(out.glob("part-*"))) == 3
    whole = slm.scan(null, stream(made), **options)
    pd.testing.assert_frame_equal(found.table, whole.table, check_exact=True)


def test_a_part_that_was_not_finished_is_made_again(made, null, tmp_path):
    slm.scan(null, made.frame, sample="id", out=tmp_path / "scan", block=4)
    part = tmp_path / "scan" / "part-000001.parquet"
    part.rename(part.with_suffix(".tmp"))
    again = slm.scan(null, made.frame, sample="id", out=tmp_path / "scan", block=4)
    pd.testing.assert_frame_equal(again.table, slm.scan(null, made.frame, sample="id").table, rtol=1e-12)


def test_another_model_other_markers_or_options_are_refused(made, null, tmp_path):
    out = tmp_path / "scan"
    slm.scan(null, made.frame, sample="id", out=out)
    other = slm.lmm("y ~ 1 + (1 | id)", made.data)
    shifted = slm.lmm("y ~ x + (1 | id)", made.data.assign(y=made.data.y + made.data.x**2))
    changed = made.frame.copy()
    changed.iloc[0, 0] = 2.0 - (changed.iloc[0, 0] == 2.0)
    for fit, frame, options, what in (
        (other, made.frame, {}, "another null model"),
        (shifted, made.frame, {}, "another null model"),
        (null, changed, {}, "another genotypes"),
        (null, made.frame.rename(columns={"rs0": "rs99"}), {}, "another genotypes"),
        (null, made.frame, {"missing": "drop"}, "another options"),
        (null, made.frame, {"interact": "x"}, "another interactions"),
    ):
        with pytest.raises(slm.DataError, match=what):
            slm.scan(fit, frame, sample="id", out=out, **options)


def test_rows_that_belong_to_other_samples_are_refused(made, null, tmp_path):
    slm.scan(null, made.frame, sample="id", out=tmp_path / "scan")
    with pytest.raises(slm.DataError, match="another sample"):
        slm.scan(null, made.frame, sample=made.data.id[::-1], out=tmp_path / "scan")


def test_the_same_model_fitted_again_goes_on(made, null, tmp_path):
    first = slm.scan(null, made.frame, sample="id", out=tmp_path / "scan").table
    again = slm.lmm("y ~ x + (1 | id)", made.data, start=null.theta * 1.5)
    pd.testing.assert_frame_equal(slm.scan(again, made.frame, sample="id", out=tmp_path / "scan").table, first)


def test_without_pyarrow_the_error_says_what_to_install(made, null, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(slm.ModelError, match=r'pip install "sparselmm\[arrow\]"'):
        slm.scan(null, made.frame, sample="id", out=tmp_path / "scan")


def test_blocks_of_an_iterator_must_come_again(made, null, tmp_path):
    options = {"samples": made.ids, "sample": "id", "out": tmp_path / "scan"}
    slm.scan(null, stream(made), **options)

    def other():
        yield next(stream(made))
        yield (["rs9", "rs8"], made.genotypes[:, [9, 8]])

    with pytest.raises(slm.DataError, match="other markers than block 1"):
        slm.scan(null, other(), **options)


def test_a_folder_of_something_else_is_left_alone(made, null, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(slm.DataError, match="is not empty and has no scan to continue"):
        slm.scan(null, made.frame, sample="id", out=tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(slm.DataError, match="no manifest of a scan"):
        slm.scan(null, made.frame, sample="id", out=tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(slm.DataError, match="cannot be read"):
        slm.scan(null, made.frame, sample="id", out=tmp_path)


def test_the_table_as_parquet(made, null, tmp_path):
    scan = slm.scan(null, made.frame, sample="id")
    scan.to_parquet(tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(pq.read_table(tmp_path / "t.parquet").to_pandas(), scan.to_frame(), check_exact=True)
