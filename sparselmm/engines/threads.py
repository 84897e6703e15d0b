"""One knob for threads: kernels that release the GIL run in a pool of Python threads, and BLAS follows.

Numba's own parallel loops are not used: its OpenMP layer ends a process that forks after a fit, its workqueue layer
one that fits in two threads. Each piece of work writes what no other writes and adds in a fixed order, so the
numbers do not depend on how many threads there are.
"""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import count, pairwise
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from .._errors import EngineError
from .._typing import IntArray

MANY_FLOPS = 3e9  # InstEval (2e8) on two cores: 0.56 s with one thread, 0.9 to 3 s with two; fronts must be far larger
MOST_PIECES = 64  # of one call
PER_THREAD = 8  # runs of pieces, so that an unlucky thread does not hold up the others
ROWS = 30_000  # rows of a piece, at least: about 0.1 ms
VARIABLE = "SPARSELMM_THREADS"
SAMPLES, PAUSE = 8, 0.001  # of the tasks that run, seconds apart

_chosen: int | None = None
_lock, _open = Lock(), 0  # of `blas_threads`
_found: Any = None  # what the first of those that are open found


def set_threads(n: int | None) -> None:
    """Use n threads in kernels and BLAS; None: the environment's SPARSELMM_THREADS, or every core (BLAS: its own)."""
    global _chosen
    if n is not None and (not isinstance(n, int) or isinstance(n, bool) or n < 1):
        raise EngineError(f"set_threads needs a whole number of at least 1, or None, not {n!r}")
    _chosen = n


@contextmanager
def default_threads(n: int) -> Iterator[None]:
    """n threads inside, where nobody asked for another number."""
    global _chosen
    before = _chosen
    _chosen = _asked() or n
    try:
        yield
    finally:
        _chosen = before


def get_threads() -> int:
    """Threads that kernels use."""
    return _asked() or _cores()


def _asked() -> int | None:
    """What the user asked for, if anything."""
    if _chosen is not None:
        return _chosen
    text = os.environ.get(VARIABLE, "")
    if text and (not text.isdecimal() or int(text) < 1):
        raise EngineError(f"{VARIABLE} must be a whole number of at least 1, it is '{text}'")
    return int(text) if text else None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def idle_cores() -> int:
    """Cores of this process that no other is running on now, at least 1; all where the system does not tell."""
    others = min(_running_elsewhere() for _ in range(SAMPLES))  # a short task shows in some samples, a busy one in all
    return int(np.clip((os.cpu_count() or 1) - others, 1, _cores()))


def _running_elsewhere() -> int:
    """Tasks outside this process that run or want to at this moment; its own BLAS threads may still be spinning."""
    time.sleep(PAUSE)
    try:
        running = int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0])
        own = [task.read_text().rpartition(")")[2].split()[0] for task in Path("/proc/self/task").glob("*/stat")]
    except (OSError, IndexError, ValueError):
        return 0
    return max(0, running - own.count("R"))


@cache
def _pool(process: int, n: int) -> ThreadPoolExecutor:
    """Threads of one process: those of a parent do not survive a fork."""
    return ThreadPoolExecutor(n, thread_name_prefix="sparselmm")


def pieces(work: IntArray, grain: float) -> IntArray:
    """Bounds of pieces of about equal work, at least `grain` each; work (n+1,) is cumulative. Not of the threads."""
    count = int(np.clip(work[-1] / grain, 1, MOST_PIECES))
    inner = np.searchsorted(work, np.linspace(0, work[-1], count + 1)[1:-1])
    return np.unique(np.concatenate([[0], inner, [len(work) - 1]])).astype(np.int64)


def parallel(kernel: Callable[..., Any], bounds: IntArray, *args: Any) -> list[Any]:
    """[kernel(begin, end, *args) for pieces, or runs of pieces], at the same time; the kernel releases the GIL.

    Who calls works too, and need not wait for a thread that the system has not let run yet: 13 microseconds a call
    beside 340 of a pool that does it all.
    """
    n, most = get_threads(), len(bounds) - 1
    if min(n, most) <= 1:
        return [kernel(bounds[0], bounds[-1], *args)]
    ends = bounds[np.linspace(0, most, min(most, PER_THREAD * n) + 1).astype(np.int64)]
    turn, out = count(), [None] * (len(ends) - 1)

    def work() -> None:
        while (k := next(turn)) < len(out):
            out[k] = kernel(ends[k], ends[k + 1], *args)

    helpers = [_pool(os.getpid(), n - 1).submit(work) for _ in range(min(n, len(out)) - 1)]
    try:
        work()
    finally:
        errors = [helper.exception() for helper in helpers if not helper.cancel()]
    for error in filter(None, errors):
        raise error
    return out


def row_pieces(n: int) -> IntArray:
    """Bounds of pieces of n rows for kernels that take a few nanoseconds a row."""
    count = min(max(n // ROWS, 1), MOST_PIECES // 4)
    return np.arange(count + 1) * n // count


def by_pieces(kernel: Callable[..., Any], bounds: IntArray, *args: Any) -> list[Any]:
    """As `parallel`, but one thread goes piece by piece too: for sums over pieces, which have to add up the same."""
    within = lambda first, last: [kernel(*p, *args) for p in pairwise(bounds[first : last + 1])]  # noqa: E731
    return [out for some in parallel(within, np.arange(len(bounds))) for out in some]


@cache
def _controller() -> ThreadpoolController:
    """Finds the BLAS libraries of the process once (NumPy's, SciPy's and CHOLMOD's are three)."""
    return ThreadpoolController()


def find_libraries() -> None:
    """Look for BLAS libraries again: one has been loaded since, and would keep its own number of threads."""
    _controller.cache_clear()


@contextmanager
def blas_threads(flops: float) -> Iterator[None]:
    """BLAS threads inside: one for few flops a factorisation, else what the user set, or as many as cores are idle.

    BLAS threads wait for each other in a loop: with another process on one of two cores, a fit of 100,000 animals took
    147 s with two threads and 33 s with one. Whoever leaves last restores what the first one found.
    """
    global _open, _found
    limit = 1 if flops < MANY_FLOPS else _asked() or idle_cores()
    with _lock:
        limiter = _controller().limit(limits=limit, user_api="blas")
        _open, _found = _open + 1, _found if _open else limiter
    try:
        with limiter:
            yield
    finally:
        with _lock:
            _open -= 1
            if not _open:
                _found.restore_original_limits()
