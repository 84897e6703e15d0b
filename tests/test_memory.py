"""Peak memory from a table to a fit: at most twice the columns that are used, and the equations."""

import tracemalloc

import numpy as np
import pandas as pd
import pytest

import sparselmm as slm

N = 400_000
FORMULA = "y ~ x + (x | g) + (1 | h)"
COLUMNS = 5  # y, the intercept, x, g, h: eight bytes a row each


def table(n, order):
    rng = np.random.default_rng(3)
    g = rng.integers(0, 1_000, n)
    g = np.sort(g) if order == "by group" else g
    return pd.DataFrame({"y": rng.normal(size=n), "x": rng.normal(size=n), "g": g, "h": rng.integers(0, 20, n)})


@pytest.mark.parametrize("order", ["by group", "shuffled"])
def test_a_fit_takes_twice_its_columns_and_the_equations(order):
    slm.lmm(FORMULA, table(2_000, order))  # what is loaded or compiled once is not counted
    data = table(N, order)
    tracemalloc.start()
    try:
        slm.lmm(FORMULA, data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * COLUMNS * 8 * N
