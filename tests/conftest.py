"""Settings shared by all tests."""

import matplotlib
from hypothesis import settings

matplotlib.use("Agg")
settings.register_profile("sparselmm", deadline=None, derandomize=True)  # the first call of a kernel compiles it
settings.load_profile("sparselmm")
