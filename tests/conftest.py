"""Settings shared by all tests."""

import os

# before NumPy loads: on small matrices two BLAS threads that wait for a busy machine took 50 times as long as one
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import matplotlib  # noqa: E402
from hypothesis import settings  # noqa: E402

matplotlib.use("Agg")
settings.register_profile("sparselmm", deadline=None, derandomize=True)  # the first call of a kernel compiles it
settings.load_profile("sparselmm")
