"""Peak memory from a table to a fit: at most twice the columns that are used, and the equations.

The problems have few levels for their rows, so that the equations do not count. The table itself is not counted.
"""

import tracemalloc

import numpy as np
import pandas as pd
import pytest

import sparselmm as slm

N = 400_000


def table(n, order):
    rng = np.random.default_rng(3)
    g = rng.integers(0, 1_000, n)
    g = np.sort(g) if order == "by group" else g
    return pd.DataFrame({"y": rng.normal(size=n), "x": rng.normal(size=n), "g": g, "h": rng.integers(0, 20, n)})


@pytest.mark.parametrize(
    ("formula", "columns"), [("y ~ x + (x | g)", 3), ("y ~ x + (x | g) + (1 | h)", 4), ("y ~ 1 + (1 | g)", 2)]
)
@pytest.mark.parametrize("order", ["by group", "shuffled"])
def test_a_fit_takes_twice_its_columns_and_the_equations(order, formula, columns):
    slm.lmm(formula, table(2_000, order))  # what is loaded or compiled once is not counted
    data = table(N, order)
    tracemalloc.start()
    try:
        slm.lmm(formula, data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * columns * 8 * N
