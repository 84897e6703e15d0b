"""The knob for threads: what it says, what it refuses, how work is cut."""

import os
import threading
from itertools import pairwise

import numpy as np
import pytest
from threadpoolctl import threadpool_info

import sparselmm as slm
from sparselmm._errors import EngineError
from sparselmm.engines import threads
from sparselmm.engines.threads import MANY_FLOPS, MOST_PIECES, VARIABLE, blas_threads, get_threads, parallel, pieces


@pytest.fixture(autouse=True)
def untouched(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    slm.set_threads(None)
    yield
    slm.set_threads(None)


def blas():
    """Threads of each BLAS library in the process."""
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def test_every_core_unless_said_otherwise(monkeypatch):
    if hasattr(os, "sched_getaffinity"):
        assert get_threads() == len(os.sched_getaffinity(0))
    monkeypatch.setenv(VARIABLE, "3")
    assert get_threads() == 3
    slm.set_threads(5)
    assert get_threads() == 5
    slm.set_threads(None)
    assert get_threads() == 3


@pytest.mark.parametrize("n", [0, -1, 1.5, "2", True])
def test_what_is_no_number_of_threads(n):
    with pytest.raises(EngineError, match="set_threads needs a whole number of at least 1, or None, not"):
        slm.set_threads(n)


@pytest.mark.parametrize("text", ["0", "two", "-1"])
def test_what_the_environment_cannot_say(monkeypatch, text):
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(EngineError, match=f"{VARIABLE} must be a whole number of at least 1, it is '{text}'"):
        get_threads()


def test_blas_follows(monkeypatch):
    before = blas()
    monkeypatch.setattr(threads, "idle_cores", lambda: max(before))
    with blas_threads(1.0):
        assert blas() == {1}
    with blas_threads(MANY_FLOPS):
        assert blas() == {max(before)}
    slm.set_threads(1)
    with blas_threads(MANY_FLOPS):
        assert blas() == {1}
    assert blas() == before


def test_blas_is_as_before_when_fits_overlap():
    """The second finds the limit of the first and leaves after it."""
    before, first, second = blas(), blas_threads(1.0), blas_threads(1.0)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert blas() == before


@pytest.mark.parametrize("n", [1, 3])
def test_each_piece_once_and_in_order(n):
    slm.set_threads(n)
    found = parallel(lambda begin, end, add: list(range(begin + add, end + add)), np.array([0, 2, 5, 9]), 1)
    assert sum(found, []) == list(range(1, 10)) and len(found) == (1 if n == 1 else 3)


def test_pieces_run_at_the_same_time():
    """Each waits for the other, so one after the other would not end."""
    slm.set_threads(2)
    barrier = threading.Barrier(2, timeout=30)
    assert sorted(parallel(lambda begin, end: barrier.wait(), np.array([0, 1, 2]))) == [0, 1]


@pytest.mark.parametrize("where", [0, 1], ids=["with the caller", "with a helper"])
def test_an_error_in_a_piece_is_seen(where):
    """Each thread has one of the two pieces; the caller is the main thread."""
    slm.set_threads(2)
    barrier = threading.Barrier(2, timeout=30)

    def fails(begin, end):
        barrier.wait()
        if (threading.current_thread() is threading.main_thread()) == (where == 0):
            raise EngineError("this one")

    with pytest.raises(EngineError, match="this one"):
        parallel(fails, np.array([0, 1, 2]))


def test_who_calls_does_not_wait_for_a_thread_that_is_held_up():
    slm.set_threads(2)
    go = threading.Event()
    held = threads._pool(os.getpid(), 1).submit(go.wait, 30)
    assert sum(parallel(lambda begin, end: list(range(begin, end)), np.array([0, 2, 5])), []) == list(range(5))
    assert not held.done()
    go.set()


@pytest.mark.parametrize("n", [1, 2, 5])
def test_many_pieces_go_in_runs_whose_order_stays(n):
    slm.set_threads(n)
    found = parallel(lambda begin, end: (begin, end), np.arange(0, 301, 3))
    assert len(found) == (1 if n == 1 else threads.PER_THREAD * n)
    assert found[0][0] == 0 and found[-1][1] == 300 and all(a[1] == b[0] for a, b in pairwise(found))


def test_pieces_have_about_the_same_work():
    """Within the work of one item of the mean, whatever the number of threads."""
    items = np.random.default_rng(1).integers(0, 100, 5000)
    work = np.concatenate([[0], np.cumsum(items)])
    bounds = pieces(work, 10_000)
    assert bounds[0] == 0 and bounds[-1] == 5000 and (np.diff(bounds) > 0).all()
    assert len(bounds) - 1 == work[-1] // 10_000
    assert np.abs(np.diff(work[bounds]) - work[-1] / (len(bounds) - 1)).max() <= 2 * items.max()
    assert len(pieces(work, 1.0)) - 1 == MOST_PIECES
    np.testing.assert_array_equal(pieces(work, 1e9), [0, 5000])
    np.testing.assert_array_equal(pieces(np.array([0]), 1.0), [0])


@pytest.mark.parametrize(("running", "expected"), [(0, 4), (1, 3), (3, 1), (50, 1)])
def test_blas_leaves_the_cores_of_others_alone(monkeypatch, running, expected):
    """On four cores."""
    monkeypatch.setattr(threads, "_running_elsewhere", lambda: running)
    monkeypatch.setattr(threads, "_cores", lambda: 4)
    monkeypatch.setattr(threads.os, "cpu_count", lambda: 4)
    assert threads.idle_cores() == expected


def test_tasks_that_run_elsewhere_are_counted_and_not_ones_own(monkeypatch, tmp_path):
    assert threads._running_elsewhere() >= 0
    (tmp_path / "loadavg").write_text("0.5 0.5 0.5 7/80 1234")
    for number, state in enumerate("RSRD"):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "stat").write_text(f"{number} (a (b) name) {state} 1 1")
    monkeypatch.setattr(threads, "Path", lambda name: tmp_path / "loadavg" if "loadavg" in name else tmp_path)
    assert threads._running_elsewhere() == 5
    monkeypatch.setattr(threads, "Path", lambda _: tmp_path / "none")
    assert threads._running_elsewhere() == 0
