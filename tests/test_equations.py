"""Cross-products and the equations M, C of DESIGN section 2 against dense matrices made from the design."""

import numpy as np
import pytest
import scipy.linalg as sla
import scipy.sparse as sp

import sparselmm as slm
from sparselmm._errors import ModelError
from sparselmm.designs import effect_basis
from sparselmm.equations import Block, Equations, cross_products, fitted_values
from sparselmm.fixed import independent_columns
from sparselmm.likelihood import Likelihood
from tests.problems import PROBLEMS
from tests.test_likelihood import designs, thetas

RTOL = 1e-11  # the same sums of some hundred terms in another order and basis
NAMES = [name for name in PROBLEMS if name != "large_response"]  # y'y = 1e20 has no digits left for its spread
every = pytest.mark.parametrize("name", NAMES)


def close(actual, expected, rtol=RTOL):
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=rtol * np.abs(expected).max(initial=1.0))


def full(pattern, values):
    lower = sp.csc_array((values, pattern.indices, pattern.indptr), shape=(pattern.q, pattern.q)).toarray()
    return lower + np.tril(lower, -1).T


def conditioned(spec, products):
    """Z in the conditioned bases, the kept columns of X in theirs, and what is left of y."""
    weights = np.ones(spec.n) if spec.weights is None else spec.weights
    Z = [
        Zk @ np.kron(np.eye(t.n_levels), np.linalg.inv(basis))
        for Zk, t, basis in zip(designs(spec), spec.terms, products.bases, strict=True)
    ]
    X = spec.X[:, products.fixed.kept]
    y = spec.y - (0 if spec.offset is None else spec.offset) - X @ products.fixed.start
    return Z, X @ np.linalg.inv(products.fixed.R), y, weights


@every
def test_M_and_right_side(name):
    spec = PROBLEMS[name].spec()
    likelihood = Likelihood(spec)
    equations, products = likelihood.equations, likelihood.products
    Z, X, y, weights = conditioned(spec, products)
    for theta in thetas(likelihood):
        T = likelihood.factors(theta)
        Lambda = sla.block_diag(*[np.kron(np.eye(t.n_levels), Tk) for t, Tk in zip(spec.terms, T, strict=True)])
        ZL = np.hstack(Z) @ Lambda
        close(
            full(equations.pattern, equations.fill(products, T, likelihood.precisions(theta))),
            (ZL.T * weights) @ ZL + np.eye(spec.q),
        )
        close(equations.right_side(products, T), (ZL.T * weights) @ np.column_stack([X, y]))


@every
def test_gram_times(name):
    """Z'WZ C without Lambda, in blocks."""
    spec = PROBLEMS[name].spec()
    equations = Equations(spec)
    Z, _, _, weights = conditioned(spec, equations.products)
    C = np.random.default_rng(1).normal(size=(spec.q, 2))
    out = equations.gram_times(equations.products, [np.ascontiguousarray(part) for part in equations.split(C)])
    close(np.concatenate([part.reshape(-1, 2) for part in out]), (np.hstack(Z).T * weights) @ (np.hstack(Z) @ C))


@every
def test_fixed_part(name):
    """X'WX = R'R, X is orthonormal in its basis, y is orthogonal to it, and nothing got lost."""
    spec = PROBLEMS[name].spec()
    products = cross_products(spec)
    Z, X, y, weights = conditioned(spec, products)
    p = X.shape[1]
    close((X.T * weights) @ X, np.eye(p))
    close(products.xy[:p, :p], np.eye(p))
    close(products.xy[p, p], y @ (weights * y))
    assert np.abs(products.xy[p, :p]).max(initial=0.0) < RTOL * np.sqrt(products.xy[p, p])
    kept = spec.X[:, products.fixed.kept]
    gram = (kept.T * weights) @ kept
    close(products.fixed.R.T @ products.fixed.R, gram)
    assert products.fixed.logdet == pytest.approx(np.linalg.slogdet(gram)[1] if p else 0.0, rel=RTOL)
    assert products.sum_log_weights == pytest.approx(np.log(weights).sum(), rel=RTOL)


@every
def test_fitted_values(name):
    spec = PROBLEMS[name].spec()
    rng = np.random.default_rng(2)
    beta = np.where(np.arange(spec.X.shape[1]) == 1, np.nan, rng.normal(size=spec.X.shape[1]))
    b = [rng.normal(size=(t.n_levels, t.n_effects)) for t in spec.terms]
    expected = spec.X @ np.nan_to_num(beta) + np.hstack(designs(spec)) @ np.concatenate([x.ravel() for x in b])
    close(fitted_values(spec, beta, b), expected + (0 if spec.offset is None else spec.offset))


@every
def test_pattern_of_M_does_not_depend_on_theta(name):
    """Nothing is added or dropped, at T = 0 and at a singular T neither; M = I at zero."""
    likelihood = Likelihood(PROBLEMS[name].spec())
    equations = likelihood.equations
    indptr, indices = equations.pattern.indptr.copy(), equations.pattern.indices.copy()
    theta = thetas(likelihood, 1)[0]
    for at in (theta, np.zeros_like(theta), np.where(np.arange(len(theta)) == 0, 0.0, theta)):
        values = equations.fill(likelihood.products, likelihood.factors(at), likelihood.precisions(at))
        assert values.shape == (len(indices),)
        likelihood.derivatives(at)
    np.testing.assert_array_equal(equations.pattern.indptr, indptr)
    np.testing.assert_array_equal(equations.pattern.indices, indices)
    none = np.zeros_like(theta)
    values = equations.fill(likelihood.products, likelihood.factors(none), likelihood.precisions(none))
    zero = full(equations.pattern, values)
    np.testing.assert_array_equal(zero, np.eye(equations.q))


def test_pattern_is_the_union_of_what_can_be_nonzero():
    """Just the blocks of levels that meet in some row, and the diagonal."""
    spec = PROBLEMS["crossed_slope"].spec()
    Z = np.abs(np.hstack(designs(spec))) > 0
    r = np.repeat([t.n_effects for t in spec.terms], [t.n_levels for t in spec.terms])
    level = np.repeat(np.arange(len(r)), r)
    meets = np.zeros((len(r), len(r)), bool)
    for row in Z:
        at = np.unique(level[row])
        meets[np.ix_(at, at)] = True
    expected = np.tril(meets[np.ix_(level, level)])
    pattern = Equations(spec).pattern
    np.testing.assert_array_equal(np.tril(full(pattern, np.ones(pattern.nnz)) > 0), expected)


# --- fixed effects --------------------------------------------------------------------------------------


def test_later_dependent_columns_are_dropped():
    rng = np.random.default_rng(3)
    x, z = rng.normal(size=(2, 40))
    X = np.column_stack([np.ones(40), x, 3 * x - 2, z, np.zeros(40), x + z])
    assert independent_columns(X, rng.uniform(0.5, 2, 40))[0].tolist() == [0, 1, 3]


@pytest.mark.parametrize("scale", [1e-150, 1e-6, 1.0, 1e6, 1e150])
def test_units_do_not_decide_what_is_dropped(scale):
    rng = np.random.default_rng(3)
    X = np.column_stack([np.ones(40), rng.normal(size=40), rng.normal(size=40)]) * [1.0, scale, 1 / scale]
    assert independent_columns(X, np.ones(40))[0].tolist() == [0, 1, 2]


def test_as_many_fixed_effects_as_rows_are_refused():
    g = np.repeat(np.arange(3), 2)
    with pytest.raises(ModelError, match="6 .*observations: nothing is left to estimate sigma"):
        slm.LinearMixedModel.from_arrays(np.arange(6.0) ** 2, np.vander(np.arange(6.0)), [slm.RandomTerm(g)])


# --- effect bases ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("r", [1, 2, 3, 4])
def test_effect_basis_is_a_lower_triangular_root(r):
    A = np.random.default_rng(r).normal(size=(r + 3, r)) * 10.0 ** np.arange(r)
    gram = A.T @ A
    basis = effect_basis(gram)
    assert not np.triu(basis, 1).any()
    close(basis.T @ basis, gram)
    inverse = np.linalg.inv(basis)
    close((A @ inverse).T @ (A @ inverse), np.eye(r))


def test_dependent_effects_get_a_diagonal_basis():
    x = np.arange(1.0, 6.0)
    A = np.column_stack([x, 2 * x])
    np.testing.assert_allclose(effect_basis(A.T @ A), np.diag(np.linalg.norm(A, axis=0)), rtol=1e-14)


# --- sizes ----------------------------------------------------------------------------------------------


class _Offsets:
    """As much of `Equations` as `_entries` reads."""

    def __init__(self, *offsets):
        self.offsets = np.array(offsets, dtype=np.int64)


def test_rows_and_columns_of_M_beyond_int32():
    """Codes near 2^31 and 3 effects a level: the index of an entry is past 2^33."""
    last = 2**31 + 5
    block = Block(1, 0, np.array([last, 7]), np.array([last - 1, 7]), np.zeros((2, 3, 2)))
    equations = _Offsets(0, 2 * (last + 1), 2 * (last + 1) + 3 * (last + 1))
    rows, cols = Equations._entries(equations, block)
    assert rows.dtype == cols.dtype == np.int64
    start = 2 * (last + 1)
    expected_rows = [[[start + 3 * level + a] * 2 for a in range(3)] for level in (last, 7)]
    expected_cols = [[[2 * level + b for b in range(2)] for _ in range(3)] for level in (last - 1, 7)]
    np.testing.assert_array_equal(rows, np.array(expected_rows, dtype=object).astype(np.int64))
    np.testing.assert_array_equal(cols, np.array(expected_cols, dtype=object).astype(np.int64))
    assert rows.max() == start + 3 * last + 2 > 2**33


def test_entries_above_the_diagonal_are_moved_away():
    block = Block(0, 0, np.array([2**32]), np.array([2**32]), np.zeros((1, 2, 2)))
    rows, cols = Equations._entries(_Offsets(0), block)
    np.testing.assert_array_equal(rows[0] - 2**33, [[0, -1 - 2**33], [1, 1]])
    np.testing.assert_array_equal(cols[0] - 2**33, [[0, -1 - 2**33], [0, 1]])


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64])
def test_codes_of_any_integer_type(dtype):
    """Small types must not overflow when codes are multiplied by the number of effects."""
    rng = np.random.default_rng(4)
    codes = np.concatenate([np.arange(120), rng.integers(0, 120, 300)])
    x, y = rng.normal(size=(2, 420))
    columns = np.column_stack([np.ones(420), x])
    fits = [
        slm.LinearMixedModel.from_arrays(y, np.ones((420, 1)), [slm.RandomTerm(c, columns=columns)])
        for c in (codes, codes.astype(dtype))
    ]
    theta = np.array([0.5, 0.1, 0.3])
    assert fits[0].loglik(theta) == fits[1].loglik(theta)
