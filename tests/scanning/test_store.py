"""Scans that are interrupted and continued; what a folder of finished blocks refuses."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import sparselmm as slm
from sparselmm.scanning import markers
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


KILLED = """
import os, signal, sys
import sparselmm as slm
from tests.scanning.simulated import study

def replace(source, target, move=os.replace):
    if "part-000002" in str(target):  # it is written, but has not got its name
        os.truncate(source, os.path.getsize(source) // 2)
        os.kill(os.getpid(), signal.SIGKILL)
    move(source, target)

os.replace = replace
made = study()
null = slm.lmm("y ~ x + (1 | id)", made.data)
slm.scan(null, made.frame, sample="id", out=sys.argv[1], block=3, reestimate=0.5)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no signals here")
def test_a_killed_process_goes_on_where_it_was(made, null, tmp_path):
    out, options = tmp_path / "scan", {"sample": "id", "block": 3, "reestimate": 0.5}
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    died = subprocess.run([sys.executable, "-c", KILLED, str(out)], cwd=root, check=False)
    assert died.returncode == -signal.SIGKILL
    assert sorted(p.name for p in out.glob("part*")) == [
        "part-000000.parquet", "part-000001.parquet", "part-000002.tmp",
    ]  # fmt: skip
    found = slm.scan(null, made.frame, out=out, **options)
    pd.testing.assert_frame_equal(found.table, slm.scan(null, made.frame, **options).table, check_exact=True)


def test_a_process_killed_before_its_first_block_goes_on(made, null, tmp_path):
    (tmp_path / "manifest.tmp").write_text("{")
    slm.scan(null, made.frame, sample="id", out=tmp_path)
    assert (tmp_path / "manifest.json").is_file() and not (tmp_path / "manifest.tmp").exists()


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[: len(b) // 2], lambda b: b[:-3], "flip"])
def test_a_damaged_part_is_made_again(made, null, tmp_path, damage):
    """Cut off by a full disk or a lost cache; any byte of its pages that is another one."""
    whole = slm.scan(null, made.frame, sample="id", out=tmp_path / "scan", block=4)
    part = tmp_path / "scan" / "part-000002.parquet"
    data = part.read_bytes()
    if damage == "flip":
        place = data.index(np.float64(whole.table.effect[11]).tobytes()) + 5
        part.write_bytes(data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :])
    else:
        part.write_bytes(damage(data))
    again = slm.scan(null, made.frame, sample="id", out=tmp_path / "scan", block=4)
    pd.testing.assert_frame_equal(again.table, whole.table, check_exact=True)
    assert part.read_bytes() == data


def test_a_genotype_or_an_allele_that_changed_is_refused(made, null, tmp_path, monkeypatch):
    """In the middle of a file, where its fingerprint does not look; of an iterator, in any block."""
    bed_reader = pytest.importorskip("bed_reader")
    monkeypatch.setattr(markers, "_ends", lambda path: np.zeros(1))
    codes = np.where(np.isnan(made.genotypes), -127, made.genotypes).astype(np.int8)

    def scan(G, allele="A"):
        properties = {"iid": made.ids, "sid": list(made.frame), "allele_1": [allele] * 12}
        bed_reader.to_bed(tmp_path / "a.bed", G, properties=properties)
        return slm.scan(null, tmp_path / "a.bed", sample="id", out=tmp_path / "bed", block=4)

    changed = codes.copy()
    changed[7, 6] = (changed[7, 6] + 1) % 3
    first = scan(codes)
    pd.testing.assert_frame_equal(scan(codes).table, first.table, check_exact=True)
    with pytest.raises(slm.DataError, match="of other genotypes than block 1"):
        scan(changed)
    with pytest.raises(slm.DataError, match="of other genotypes than block 0"):
        scan(codes, "G")
    options = {"samples": made.ids, "sample": "id", "out": tmp_path / "blocks"}
    slm.scan(null, stream(made), **options)
    made_of = lambda G: ((list(made.frame)[i : i + 4], G[:, i : i + 4]) for i in (0, 4, 8))  # noqa: E731
    with pytest.raises(slm.DataError, match="of other genotypes than block 1"):
        slm.scan(null, made_of(np.where(changed == -127, np.nan, changed)), **options)


def test_another_kinship_at_the_same_variances_is_refused(made, tmp_path):
    """Nothing but the matrix differs; or the design of effects, which has the same numbers at other places."""
    held = {"sd_known(Intercept)|id": 0.9, "sigma": 1.1}

    def fit(K):
        Q = slm.Known(K, kind="covariance", levels=made.ids)
        return slm.lmm("y ~ x + known(1 | id, Q)", made.data, context={"Q": Q}, fixed=held)

    out = tmp_path / "scan"
    slm.scan(fit(made.K), made.frame, sample="id", out=out)
    slm.scan(fit(made.K), made.frame, sample="id", out=out)
    with pytest.raises(slm.DataError, match="another null model"):
        slm.scan(fit(made.K * (1 + 0.01 * np.eye(75))), made.frame, sample="id", out=out)

    def by_design(codes):
        Z = sp.csr_array((np.ones(150), (np.arange(150), codes)), shape=(150, 6))
        model = slm.LinearMixedModel.from_arrays(made.data.y, np.ones((150, 1)), [slm.RandomTerm(Z, name="c")])
        return model.fit(fixed={"sd_Intercept|c": 0.5, "sigma": 1.0})

    options = {"sample": made.data.id, "out": tmp_path / "other"}
    slm.scan(by_design(made.data.centre), made.frame, **options)
    with pytest.raises(slm.DataError, match="another null model"):
        slm.scan(by_design(np.roll(made.data.centre, 1)), made.frame, **options)


def test_markers_with_names_of_several_kinds(made, null, tmp_path):
    """Whole numbers as ids, chromosomes 1 and X, a category: text, in files and without them."""
    info = pd.DataFrame({"marker": range(12), "chromosome": [1] * 6 + ["X"] * 6, 3: pd.Categorical(["a", None] * 6)})
    options = {"samples": made.ids, "markers": info, "sample": "id", "block": 5}
    scans = [slm.scan(null, made.genotypes, out=out, **options) for out in (None, *[tmp_path / "s"] * 2)]
    one, two, three = (scan.table for scan in scans)
    pd.testing.assert_frame_equal(one, two, check_exact=True)
    pd.testing.assert_frame_equal(one, three, check_exact=True)
    assert one.marker.tolist() == [str(i) for i in range(12)] and one.chromosome.tolist() == ["1"] * 6 + ["X"] * 6
    assert one["3"].isna().tolist() == [False, True] * 6


@pytest.mark.parametrize("taken", ["trait", "p_value", "effect_lmm"])
def test_columns_of_markers_that_are_those_of_a_scan(made, null, taken):
    info = pd.DataFrame({"marker": range(12), taken: 0.0})
    with pytest.raises(slm.DataError, match=f"markers: a scan has columns {taken} of its own"):
        slm.scan(null, made.genotypes, samples=made.ids, markers=info, sample="id", reestimate=1e-9)
    info = pd.DataFrame({"marker": range(12), "effect_allele": "A"})
    table = slm.scan(null, made.genotypes, samples=made.ids, markers=info, sample="id").table
    assert (table.effect_allele == "A").all()
    twice = pd.DataFrame(np.zeros((12, 2)), columns=["marker", "marker"])
    with pytest.raises(slm.DataError, match="columns of different names, not marker, marker"):
        slm.scan(null, made.genotypes, samples=made.ids, markers=twice, sample="id")


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

    with pytest.raises(slm.DataError, match="of other genotypes than block 1"):
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
