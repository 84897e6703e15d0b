"""Products of precisions against numpy.kron."""

import numpy as np
import pytest

from sparselmm.structures.ar1 import AR1
from sparselmm.structures.known import Known
from sparselmm.structures.kronecker import Kronecker
from sparselmm.structures.ou import OU
from sparselmm.structures.rw import RW1, RW2

from .precisions import check, dense

FACTORS = {
    "ar1": AR1([3, 1]),
    "free": AR1([4], start="free"),
    "ou": OU([0.0, 0.4, 1.0], [3]),
    "rw1": RW1([0.0, 1.0, 3.0], [3]),
    "rw2": RW2([0.0, 1.0, 3.0, 3.5], [4]),
    "known": Known(np.array([[2.0, 0.5], [0.5, 1.0]])),
}


@pytest.mark.parametrize("second", FACTORS)
@pytest.mark.parametrize("first", FACTORS)
def test_product_is_that_of_numpy(first, second):
    one, two = FACTORS[first], FACTORS[second]
    product = Kronecker(one, two)
    rho = np.random.default_rng(5).normal(size=product.n_params)
    expected = np.kron(dense(one, rho[: one.n_params]), dense(two, rho[one.n_params :]))
    np.testing.assert_allclose(dense(product, rho), expected, rtol=1e-13)
    check(product, rho)


def test_three_factors():
    one, two, three = FACTORS["ar1"], FACTORS["ou"], FACTORS["known"]
    nested = Kronecker(Kronecker(one, two), three)
    rho = np.array([0.3, -0.2])
    np.testing.assert_allclose(
        dense(nested, rho),
        np.kron(np.kron(dense(one, rho[:1]), dense(two, rho[1:])), dense(three, rho[2:])),
        rtol=1e-13,
    )


def test_names_of_the_two_parts():
    field = Kronecker(AR1([3]), AR1([4]), ("ar1(row)", "ar1(col)"))
    assert field.natural_names("any", "trial") == ("rho_ar1(row)|trial", "rho_ar1(col)|trial")
    assert field.names("any", "trial") == ("atanh_rho_ar1(row)|trial", "atanh_rho_ar1(col)|trial")
    plain = Kronecker(AR1([3]), AR1([4])).natural_names("f", "g")
    assert len(set(plain)) == 2
    np.testing.assert_allclose(field.to_natural(field.from_natural(np.array([0.2, -0.4]))), [0.2, -0.4])
