"""One ratio over many levels, by interpolation: against eigenvalues of dense kernels and single fits."""

import numpy as np
import pandas as pd
import pytest

import sparselmm as slm
from sparselmm.many import spectral
from sparselmm.many.blocks import make_fitter
from sparselmm.many.general import General
from sparselmm.many.ratio import SparseRatio, coefficients, jets, nodes
from tests.herdbook import herd_book
from tests.many.references import ONE, responses, samples

EIGEN_RTOL = 1e-7  # interpolation to 1e-10, of which degrees of freedom take second derivatives
BLOCKS_RTOL = 1e-12  # the same sums in products of another width
LOGLIK_ATOL = 1e-7  # two searches for one optimum
SE_RTOL = 1e-5  # as far as a single fit's search goes
FORMULA = "~ x + ped(1 | animal, P)"
ARRAYS = ("fixef", "fixef_se", "fixef_df", "df_residual", "varpar", "sigma", "loglik")


@pytest.fixture(scope="module")
def herd():
    """Records of 200 animals, and responses with no additive variance to 300 times the residuals'."""
    data, P = herd_book()
    rng = np.random.default_rng(0)
    animals = {a: i for i, a in enumerate(P.ids)}
    u = np.linalg.cholesky(P.relationship(P.ids).to_numpy()) @ rng.normal(size=(len(P.ids), 24))
    size = np.concatenate([np.zeros(6), np.geomspace(1e-3, 300, 18)])
    Y = 3.0 + u[[animals[a] for a in data["animal"]]] * size + rng.normal(size=(len(data), 24))
    return data.assign(x=rng.normal(size=len(data))), P, Y


@pytest.fixture
def sparse(monkeypatch):
    monkeypatch.setattr(spectral, "DECOMPOSED", 10)


def assert_same(fits, expected, tolerance):
    for name in ARRAYS:
        a, b = getattr(fits, name), getattr(expected, name)
        scale = np.maximum(np.abs(b), expected.fixef_se if name == "fixef" else 0.0)
        assert (np.abs(a - b) <= tolerance * scale).all(), name
    np.testing.assert_array_equal(fits.is_singular, expected.is_singular)
    assert fits.converged.all() and expected.converged.all()


@pytest.mark.parametrize("reml", [True, False])
def test_every_response_is_that_of_the_dense_kernel(herd, reml, monkeypatch):
    data, P, Y = herd
    weights = np.random.default_rng(1).uniform(0.5, 2.0, len(data))
    contrasts = {"sum": {"Intercept": 1, "x": 1}}
    for options in ({}, {"weights": weights, "contrasts": contrasts}):
        expected = slm.lmm_many(FORMULA, data, Y, context={"P": P}, reml=reml, **options)
        monkeypatch.setattr(spectral, "DECOMPOSED", 10)
        fits = slm.lmm_many(FORMULA, data, Y, context={"P": P}, reml=reml, **options)
        monkeypatch.undo()
        assert_same(fits, expected, EIGEN_RTOL)
        assert fits.is_singular.any() and (fits.varpar[fits.is_singular] == 0.0).all()


def test_it_is_the_single_fit(herd, sparse):
    data, P, Y = herd
    fits = slm.lmm_many(FORMULA, data, Y, context={"P": P})
    for j in (0, 12, 18):
        single = slm.lmm("y" + FORMULA, data.assign(y=Y[:, j]), context={"P": P}, engine="dense")
        np.testing.assert_allclose(fits.loglik[j], single.loglik, atol=LOGLIK_ATOL)
        np.testing.assert_allclose(fits.fixef_se[j], single.fixef_se, rtol=SE_RTOL)


def test_blocks_of_any_size_and_gaps(herd, sparse):
    data, P, Y = herd
    Y = Y[:, ::4].copy()
    expected = slm.lmm_many(FORMULA, data, Y, context={"P": P})
    for block in (1, 4):
        assert_same(slm.lmm_many(FORMULA, data, Y, context={"P": P}, block=block), expected, BLOCKS_RTOL)
    gaps = np.random.default_rng(2).random(len(data)) < 0.1
    Y[gaps, 2], Y[:, 0] = np.nan, 1.0
    fits = slm.lmm_many(FORMULA, data, Y, context={"P": P})
    alone = slm.lmm_many(FORMULA, data[~gaps], Y[~gaps, 2:3], context={"P": P})
    np.testing.assert_allclose(fits.loglik[2], alone.loglik[0], rtol=BLOCKS_RTOL)
    assert fits.reason[0] == "the response is constant" and not fits.converged[0]
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(fits, name)[[1, 3, 4, 5]], getattr(expected, name)[[1, 3, 4, 5]])


def test_a_large_eigenvalue_and_variances_near_zero(sparse, monkeypatch):
    """300 animals as alike as 0.99: an eigenvalue of 300 makes the piece next to zero a short one."""
    rng = np.random.default_rng(3)
    K = 0.99 + 0.01 * np.eye(300)
    data = pd.DataFrame({"id": np.arange(300), "x": rng.normal(size=300)})
    Y = rng.normal(size=(300, 8)) + rng.normal(size=8) * np.geomspace(0.001, 10, 8)
    given = {"context": {"Q": slm.Known(K, kind="covariance", levels=list(range(300)))}}
    fits = slm.lmm_many("~ 0 + x + known(1 | id, Q)", data, Y, **given)
    monkeypatch.setattr(spectral, "DECOMPOSED", 1000)
    expected = slm.lmm_many("~ 0 + x + known(1 | id, Q)", data, Y, **given)
    assert_same(fits, expected, EIGEN_RTOL)
    assert 0 < fits.is_singular.sum() < 8 and 0.0 < fits.varpar[fits.varpar > 0].min() < 0.1


def test_a_response_without_a_minimum_says_so(herd, sparse):
    data, P, Y = herd
    once = data.drop_duplicates("animal").assign(x=0.0)
    rng = np.random.default_rng(0)
    exact = rng.normal(size=(len(once), 1))
    fits = slm.lmm_many("~ 1 + ped(1 | animal, P)", pair(once), np.repeat(exact, 2, axis=0), context={"P": P})
    assert not fits.converged[0] and "sigma goes to zero" in fits.reason[0]


def pair(table):
    """Each row twice."""
    return table.loc[table.index.repeat(2)].reset_index(drop=True)


def test_which_fitter(herd, monkeypatch):
    data, P, Y = herd
    animals = slm.lmm_many(FORMULA, data, Y[:, :1], context={"P": P}).design
    donors = slm.lmm_many(ONE, samples(), responses()[:, :1]).design
    assert [type(make_fitter(d, True, False)) for d in (animals, donors)] == [spectral.Spectral, spectral.Spectral]
    monkeypatch.setattr(spectral, "DECOMPOSED", 10)
    assert [type(make_fitter(d, True, False)) for d in (animals, donors)] == [SparseRatio, General]
    with pytest.raises(slm.ModelError, match="up to"):
        slm.lmm_many(FORMULA, data, Y, context={"P": P}, mode="shrunk")
    with pytest.raises(slm.ModelError, match="mode='common' needs"):
        slm.lmm_many(FORMULA, data, Y, context={"P": P}, mode="common")


def test_polynomials_and_their_derivatives():
    s, at = nodes(20), np.array([-0.97, -0.3, 0.9])
    c = coefficients(np.array([np.exp(s), np.sin(s)]).T)
    for j, expected in enumerate([[np.exp(at)] * 3, [np.sin(at), np.cos(at), -np.sin(at)]]):
        np.testing.assert_allclose(jets(c[:, j], at), expected, rtol=1e-10, atol=1e-10)
