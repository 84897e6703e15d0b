"""What `benchmarks/selected_inverse.py` times is the inverse of the equations that it means."""

import numpy as np
import pytest

from benchmarks.selected_inverse import dominant_values, lattice, measure, pedigree
from sparselmm.engines import Cholmod, Supernodal

ATOL = 1e-12  # entries of the inverse are below one, condition numbers below 100


@pytest.mark.parametrize("make", [Supernodal, Cholmod])
@pytest.mark.parametrize("pattern", [lattice(5, 6), pedigree(400)], ids=["lattice", "pedigree"])
def test_the_selected_inverse_is_timed_on_the_right_equations(pattern, make):
    engine, factorise, select = measure(pattern, 1, make)
    values, cols = dominant_values(pattern)
    assert factorise > 0.0 and select > 0.0
    M = np.zeros((pattern.q, pattern.q))
    M[pattern.indices, cols] = M[cols, pattern.indices] = values
    expected = np.linalg.inv(M)[pattern.indices, cols]
    np.testing.assert_allclose(engine.selected_inverse(pattern.indices, cols), expected, rtol=0, atol=ATOL)


def test_a_lattice_joins_each_plot_to_its_neighbours():
    assert lattice(5, 6).nnz == 30 + 4 * 6 + 5 * 5 + 2 * 4 * 5
