"""BLAS threads: one for small fronts, where a second one costs more than it brings."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from threadpoolctl import ThreadpoolController

MANY_FLOPS = 3e9  # InstEval (2e8) on two cores: 0.56 s with one thread, 0.9 to 3 s with two; fronts must be far larger


@cache
def _controller() -> ThreadpoolController:
    """Finds the BLAS libraries of the process once (NumPy's, SciPy's and CHOLMOD's are three)."""
    return ThreadpoolController()


@contextmanager
def blas_threads(flops: float) -> Iterator[None]:
    """One BLAS thread inside where a factorisation takes few flops; the user's setting where it takes many."""
    if flops >= MANY_FLOPS:
        yield
        return
    with _controller().limit(limits=1, user_api="blas"):
        yield
