"""Blocks in this process and on two workers of Dask, one of which dies: the same numbers, however Y was cut."""

import os
import signal
from dataclasses import fields
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import sparselmm as slm
from sparselmm.kernels.spectral import bracketed_newton
from sparselmm.many.blocks import fit_block
from sparselmm.mapping import map_blocks
from tests.many.references import ONE, responses, samples
from tests.scanning.simulated import study

SAME = 1e-12  # a worker's BLAS has other threads: sums in another order
WAIT = 90  # seconds for a new worker: on a machine that others use, 20 were too few
AT_ROUNDING = 1e-11  # of a scaled gradient after a last step of Newton's
KINDS = {
    "one ratio": (ONE, {}),
    "slopes": ("~ age + (1 + age | donor)", {}),
    "weights": (ONE, {"weights": np.random.default_rng(2).uniform(0.5, 2.0, (24, 500))}),
    "structured": ("~ age + (1 | donor)", {"residual": "varident(sex)"}),
    "shrunk": (ONE, {"mode": "shrunk"}),
}


@pytest.fixture(scope="module")
def Y():
    """24 responses; one with a gap, one constant."""
    noise = np.random.default_rng(1).normal(size=(2, 500, 12))
    out = np.hstack([responses() + 0.1 * e for e in noise])
    out[3, 5], out[:, 9] = np.nan, 1.0
    return out


@pytest.fixture(scope="module")
def client():
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def assert_same(found, expected, tolerance):
    for field in fields(expected.estimates):
        a, b = (getattr(fits.estimates, field.name) for fits in (found, expected))
        if tolerance and a.dtype.kind == "f":
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, err_msg=field.name)
        else:
            np.testing.assert_array_equal(a, b, err_msg=field.name)
    assert list(found.responses) == list(expected.responses)


@pytest.mark.parametrize("kind", KINDS)
def test_a_response_has_the_same_bits_in_a_block_of_any_size(kind, Y):
    formula, options = KINDS[kind]
    expected = slm.lmm_many(formula, samples(), Y, **options)
    tolerance = SAME if kind == "shrunk" else 0.0  # whose prior is a sum over all responses
    for block in (1, 7, 1000):
        assert_same(slm.lmm_many(formula, samples(), Y, block=block, **options), expected, tolerance)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_an_iterator_may_cut_as_it_likes(size, Y):
    blocks = [Y[:, lo : lo + size] for lo in range(0, 24, size)]
    assert_same(slm.lmm_many(ONE, samples(), iter(blocks), block=5), slm.lmm_many(ONE, samples(), Y, block=5), 0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_workers_find_what_this_process_finds(kind, Y, client):
    formula, options = KINDS[kind]
    expected = slm.lmm_many(formula, samples(), Y, **options)
    assert_same(slm.lmm_many(formula, samples(), Y, block=7, client=client, **options), expected, SAME)


def first_time(flag):
    """Whether nobody asked before, in whichever process."""
    try:
        Path(flag).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def fit_or_die(flag, fitter, block):
    """As `lmm_many`'s own task; the first process that meets the constant response is killed over it."""
    if (block[0] == 1.0).all(axis=0).any() and first_time(flag):
        os.kill(os.getpid(), signal.SIGKILL)
    return fit_block(fitter, *block)


def test_a_worker_that_is_killed_at_work_changes_nothing(Y, client, tmp_path, monkeypatch):
    expected = slm.lmm_many(ONE, samples(), Y, block=3)
    before = set(client.run(os.getpid).values())
    monkeypatch.setattr("sparselmm.many.fit._fit", partial(fit_or_die, tmp_path / "killed"))
    found = slm.lmm_many(ONE, samples(), Y, block=3, client=client)
    assert (tmp_path / "killed").exists()
    assert_same(found, expected, SAME)
    client.wait_for_workers(2, timeout=WAIT)
    assert before - set(client.run(os.getpid).values())


def test_a_scan_whose_worker_is_killed_halfway(client, tmp_path):
    data = study(markers=30)
    fit = slm.lmm("y ~ x + (1 | id) + (1 | centre)", data.data)
    expected = slm.scan(fit, data.frame, sample="id").table

    def blocks():
        for lo in range(0, 30, 3):
            if lo == 18:
                os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)
            part = data.frame.iloc[:, lo : lo + 3]
            yield list(part.columns), part.to_numpy()

    folder = tmp_path / "scan"
    found = slm.scan(fit, blocks(), samples=data.ids, sample="id", client=client, out=folder).table
    pd.testing.assert_frame_equal(found, expected, rtol=SAME, atol=SAME)
    assert len(list(folder.glob("part-*.parquet"))) == 10
    client.wait_for_workers(2, timeout=WAIT)


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_a_scan_in_blocks_of_any_size(block, client):
    data = study(markers=20)
    fit = slm.lmm("y ~ x + (1 | id) + (1 | centre)", data.data)
    loco = [{"1": fit, "2": slm.lmm("y ~ x + (1 | id)", data.data)}, fit]
    markers = pd.DataFrame({"marker": data.frame.columns, "chromosome": np.repeat(["1", "2"], 10)})
    given = dict(samples=data.ids, markers=markers, sample="id", missing="drop", reestimate=0.2)
    expected = slm.scan(loco, data.genotypes, **given).table.sort_values(["trait", "marker"], ignore_index=True)
    for where in (None, client):
        found = slm.scan(loco, data.genotypes, block=block, client=where, **given).table
        found = found.sort_values(["trait", "marker"], ignore_index=True)
        pd.testing.assert_frame_equal(found, expected, rtol=SAME, atol=SAME)


def test_an_error_names_its_block(client):
    data = study(markers=9)
    fit = slm.lmm("y ~ x + (1 | id)", data.data)
    codes = np.where(np.isnan(data.genotypes), -127, data.genotypes).astype(np.int8)
    codes[0, 4] = codes[0, 8] = -3
    for where in (None, client):
        with pytest.raises(slm.DataError, match="block m3 to m5: genotypes have the whole number -3"):
            slm.scan(fit, codes, samples=data.ids, sample="id", block=3, client=where)


def divide(shared, block):
    return shared / block


def test_any_other_error_names_its_block_too(client):
    blocks = [(["a"], 1), (["b", "c"], 2), (["d", "e", "f"], 0), (["g"], 0)]
    mapped = map_blocks(divide, 3.0, iter(blocks), client)
    assert [next(mapped), next(mapped)] == [(["a"], 3.0), (["b", "c"], 1.5)]
    with pytest.raises(slm.EngineError, match="block d to f: ZeroDivisionError"):
        next(mapped)


def test_blocks_are_read_when_there_is_room(client):
    read = []
    blocks = (([i], read.append(i) or i + 1) for i in range(20))
    mapped = map_blocks(divide, 1.0, blocks, client)
    next(mapped)
    assert len(read) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [({"client": 3}, "dask.distributed.Client"), ({"block": 0}, "block=0"), ({"block": 2.5}, "block=2.5")],
)
def test_what_cannot_be(options, message, Y):
    with pytest.raises(slm.ModelError, match=message):
        slm.lmm_many(ONE, samples(), Y, **options)


def test_one_search_for_all_is_not_for_workers(Y):
    with pytest.raises(slm.ModelError, match="leave it out"):
        slm.lmm_many(ONE, samples(), Y[:, :3], mode="common", client=3)


def test_newton_ends_where_its_step_is_lost_in_rounding():
    """It used to bisect there, and now and then stopped behind such a step, 1e-10 away."""
    rng = np.random.default_rng(0)
    norms = []
    for _ in range(2000):
        lam = rng.uniform(0.5, 2.0, 60)
        s2 = rng.chisquare(1, 60) * (1.0 + lam)
        norms.append(bracketed_newton(1e-6, 10.0, s2, 300.0, lam, lam, 360.0, 1.0, np.zeros(2))[2])
    assert max(norms) < AT_ROUNDING
