"""Fields by group against block_diag and kron of dense matrices."""

import numpy as np
import pytest
from scipy.linalg import block_diag

from sparselmm import ModelError
from sparselmm.structures import AR1, OU, Fields, Kronecker
from sparselmm.structures.rw import RW1

from .precisions import check, dense

TIMES = [0.0, 0.4, 1.0, 5.0, 2.0, 2.5, 4.0, 7.0]
FACTORS = {
    "ar1": AR1([3, 1, 4]),
    "free": AR1([2, 2, 1], start="free"),
    "ou": OU(TIMES, [3, 1, 4]),
}


def blocks(Q, rho):
    """One dense matrix a series."""
    ends = np.cumsum(Q.lengths)
    full = dense(Q, rho)
    return [full[b - n : b, b - n : b] for n, b in zip(Q.lengths, ends, strict=True)]


@pytest.mark.parametrize("second", FACTORS)
@pytest.mark.parametrize("first", FACTORS)
def test_fields_are_products_block_by_block(first, second):
    one, two = FACTORS[first], FACTORS[second]
    fields = Fields(one, two)
    rho = np.random.default_rng(5).normal(size=fields.n_params)
    parts = blocks(one, rho[: one.n_params]), blocks(two, rho[one.n_params :])
    expected = block_diag(*(np.kron(a, b) for a, b in zip(*parts, strict=True)))
    np.testing.assert_allclose(dense(fields, rho), expected, rtol=1e-13)
    check(fields, rho)
    i, j = fields.parts()
    np.testing.assert_array_equal(fields.level(i, j), np.arange(fields.n_levels))


def test_one_field_is_a_product():
    pair = AR1([4]), OU([0.0, 0.5, 2.0], [3])
    fields, product, rho = Fields(*pair), Kronecker(*pair), np.array([0.4, -0.3])
    np.testing.assert_array_equal(dense(fields, rho), dense(product, rho))
    assert fields.logdet(rho) == pytest.approx(product.logdet(rho), rel=1e-14)
    assert fields.null_dim == product.null_dim == 0 and fields.unit_variance


def test_what_makes_no_fields():
    with pytest.raises(ModelError, match="two proper series, AR1 or OU, not RW1"):
        Fields(RW1([0.0, 1.0], [2]), AR1([2]))
    with pytest.raises(ModelError, match="3 series in one factor and 1 in the other"):
        Fields(FACTORS["ar1"], AR1([2]))
