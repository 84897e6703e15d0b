"""A task over blocks in order: here, its kernels in the package's threads, or on the workers of a Dask cluster.

What all blocks share travels once; a block goes to whichever worker is free, and again to another one if that worker
dies, for the scheduler keeps what it was made of. A process works on one block at a time with as many threads as its
worker has: tasks may use and change what they share.
"""

import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from functools import lru_cache
from threading import Lock
from typing import Any, TypeAlias

from ._errors import EngineError, ModelError, SparselmmError
from .engines.threads import default_threads

Task: TypeAlias = Callable[[Any, Any], Any]
Named: TypeAlias = tuple[Any, Any]  # names, in a sequence, and what they are of

AHEAD = 2  # blocks a worker: one it works on, one that waits there
WARN_ABOUT = {"distributed.admin.large-graph-warning-threshold": "10 GB"}  # blocks are meant to travel with their task
_one_at_a_time = Lock()


def map_blocks(task: Task, shared: Any, blocks: Iterable[Named], client: Any = None) -> Iterator[Named]:
    """(names, task(shared, block)) for each (names, block), in their order.

    client: a `dask.distributed.Client`, or None for this process. blocks are read when there is room for them:
    `AHEAD` for each worker are under way. Errors: a task's own, the first in order, with the names of its block;
    EngineError where Dask gives up; ModelError for another client.
    """
    if client is None:
        return _map_here(task, shared, blocks)
    if not all(hasattr(client, name) for name in ("submit", "nthreads", "cancel")) or client.asynchronous:
        raise ModelError(f"client is a dask.distributed.Client that is not asynchronous, not {client!r}")
    return _map_there(task, shared, blocks, client)


def _map_here(task: Task, shared: Any, blocks: Iterable[Named]) -> Iterator[Named]:
    for names, block in blocks:
        try:
            result = task(shared, block)
        except SparselmmError as error:
            raise _with_names(error, names) from error
        yield names, result


def _map_there(task: Task, shared: Any, blocks: Iterable[Named], client: Any) -> Iterator[Named]:
    waiting: deque[Named] = deque()
    everywhere = _submit(client, _same, _dumps(shared))
    try:
        for names, block in blocks:
            waiting.append((names, _submit(client, _work, task, everywhere, _dumps(block))))
            while len(waiting) >= AHEAD * max(1, len(client.nthreads())):
                yield _result(*waiting.popleft())
        while waiting:
            yield _result(*waiting.popleft())
    finally:
        client.cancel([future for _, future in waiting])


def _submit(client: Any, *call: Any) -> Any:
    import dask

    with dask.config.set(WARN_ABOUT):
        return client.submit(*call, pure=False)


def _result(names: Any, future: Any) -> Named:
    try:
        error = future.exception()
    except CancelledError as lost:
        error = lost
    if error is not None:
        raise _with_names(error, names) from error
    return names, future.result()


def _with_names(error: BaseException, names: Any) -> SparselmmError:
    """The package's errors stay what they are."""
    where = " to ".join(dict.fromkeys(map(str, [*names[:1], *names[-1:]])))
    if isinstance(error, SparselmmError):
        return type(error)(f"block {where}: {error}")
    return EngineError(f"block {where}: {type(error).__name__}: {error}")


def _dumps(x: Any) -> bytes:
    """Classes of the user's own script by their code; arrays among the rest, so that workers may write into them."""
    from cloudpickle import dumps

    return bytes(dumps(x))


@lru_cache(maxsize=1)
def _shared(text: bytes) -> Any:
    return pickle.loads(text)


def _same(text: bytes) -> bytes:
    """A task and no scattered data: what a dead worker held is made again."""
    return text


def _work(task: Task, shared: bytes, block: bytes) -> Any:
    from distributed import get_worker

    with _one_at_a_time, default_threads(get_worker().state.nthreads):
        return task(_shared(shared), pickle.loads(block))
