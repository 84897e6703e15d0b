"""The supernodal engine against LAPACK and CHOLMOD, and what it refuses."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.linalg as sla

from sparselmm._errors import EngineError
from sparselmm.engines import cholmod, make_engine
from sparselmm.engines.cholmod import Cholmod, _largest_last, predicted_tree
from sparselmm.engines.supernodal import Supernodal
from sparselmm.kernels.supernodal import CHUNK, NARROW
from tests.engines.test_cholmod import CASES, RTOL, close, lower_pattern, values_on
from tests.kernels.test_symbolic import forest, grid


def held(name, seed):
    """An engine that holds values on a pattern, the pattern and the matrix."""
    pattern = lower_pattern(CASES[name])
    engine, (values, M) = make_engine("supernodal", pattern), values_on(pattern, seed)
    engine.factorize(values)
    return engine, pattern, M


@pytest.mark.parametrize("name", CASES)
def test_equals_lapack_at_every_refactorisation(name):
    engine, pattern, _ = held(name, 0)
    cols, diagonal = np.repeat(np.arange(pattern.q), np.diff(pattern.indptr)), np.arange(pattern.q)
    for seed in range(3):
        values, M = values_on(pattern, seed)
        engine.factorize(values)
        assert engine.logdet() == pytest.approx(np.linalg.slogdet(M)[1], rel=RTOL)
        inverse = np.linalg.inv(M)
        close(engine.selected_inverse(pattern.indices, cols), inverse[pattern.indices, cols])
        close(engine.selected_inverse(diagonal, diagonal), np.diag(inverse))


@pytest.mark.parametrize("columns", [1, 3, 200])
@pytest.mark.parametrize("name", ["grid", "large grid", "one dense block"])
def test_solves_of_few_and_many_columns(name, columns):
    engine, pattern, M = held(name, 3)
    right = np.random.default_rng(9).normal(size=(pattern.q, columns))
    close(engine.solve(right), np.linalg.solve(M, right))
    close(engine.solve(np.asfortranarray(right)), np.linalg.solve(M, right))
    close(engine.solve(right[:, 0]), np.linalg.solve(M, right[:, 0]))
    close(engine.squares(right), np.diag(right.T @ np.linalg.solve(M, right)))


def test_threads_do_not_disturb_each_other():
    """BLAS reads its sizes from memory: two threads that share it would see each other's."""
    engine, pattern, _ = held("large grid", 3)
    rights = [np.random.default_rng(i).normal(size=(pattern.q, 100 + 20 * i)) for i in range(8)]
    expected = [engine.squares(right) for right in rights]
    with ThreadPoolExecutor(4) as pool:
        for i, found in enumerate(pool.map(engine.squares, rights * 10)):
            np.testing.assert_array_equal(found, expected[i % 8])


def test_updates_in_several_pieces():
    """30 columns that meet all of 2,100 others: what they send and ask for is longer than one piece."""
    pattern = lower_pattern(np.ones((2130, 2130), bool) & ~np.pad(~np.eye(30, dtype=bool), ((0, 2100), (0, 2100))))
    assert 2100 > max(NARROW, CHUNK // 2130)
    engine, (values, M) = Supernodal(pattern), values_on(pattern, 1)
    engine.factorize(values)
    inverse, cols = np.linalg.inv(M), np.repeat(np.arange(pattern.q), np.diff(pattern.indptr))
    assert engine.logdet() == pytest.approx(np.linalg.slogdet(M)[1], rel=RTOL)
    close(engine.selected_inverse(pattern.indices, cols), inverse[pattern.indices, cols])


def test_the_largest_tree_of_a_forest_goes_last():
    """Where threads look for a block to share: here one of 450 columns between loose columns and small trees."""
    blocks = [np.ones((k, k), bool) for k in (1, 1, 3, 450, 2, 1, 1)]
    pattern = lower_pattern(sla.block_diag(*blocks))
    perm, tree = np.arange(pattern.q), predicted_tree(pattern, np.arange(pattern.q))
    moved, (parent, counts) = _largest_last(perm, *tree)
    np.testing.assert_array_equal(moved[-450:], np.arange(5, 455))
    for found, expected in zip((parent, counts), predicted_tree(pattern, moved), strict=True):
        np.testing.assert_array_equal(found, expected)
    engine = Supernodal(pattern)
    assert engine._panels.size[-1] == 450
    assert engine._has_root


@pytest.mark.parametrize("A", [grid(40), forest(3000, 3)], ids=["grid", "forest"])
def test_equals_the_factor_of_cholmod(A):
    """Where the matrix is singular but for 1e-9 of its size: rounding must not be larger than CHOLMOD's."""
    pattern = lower_pattern(A)
    values, _ = values_on(pattern, 5)
    values[pattern.indptr[:-1]] = 0.0
    off, cols = np.abs(values), np.repeat(np.arange(pattern.q), np.diff(pattern.indptr))
    rows_sum = np.bincount(pattern.indices, off, pattern.q) + np.bincount(cols, off, pattern.q)
    values = -off
    values[pattern.indptr[:-1]] = rows_sum * (1 + 1e-9)
    ours, theirs = Supernodal(pattern), Cholmod(pattern)
    ours.factorize(values)
    theirs.factorize(values)
    assert ours.logdet() == pytest.approx(theirs.logdet(), rel=1e-9)
    assert ours.reason == theirs.reason


@pytest.mark.parametrize("name", ["grid", "large grid", "one dense block"])
@pytest.mark.parametrize("change", [-1.0, np.nan, np.inf, 0.0])
def test_not_positive_definite(name, change):
    engine, pattern, M = held(name, 1)
    values, _ = values_on(pattern, 1)
    bad = values.copy()
    bad[pattern.indptr[pattern.q // 2]] *= change
    with np.errstate(invalid="ignore"), pytest.raises(EngineError, match="not positive definite at these parameters"):
        engine.factorize(bad)
    engine.factorize(values)
    assert engine.logdet() == pytest.approx(np.linalg.slogdet(M)[1], rel=RTOL)


def test_entries_outside_the_pattern_are_refused():
    engine, pattern, _ = held("band", 1)
    far = np.array([pattern.q - 1]), np.array([0])
    with pytest.raises(EngineError, match="outside the pattern of L"):
        engine.selected_inverse(*far)


def test_what_does_not_fit_is_refused_with_figures(monkeypatch):
    pattern = lower_pattern(grid(22))
    need = Supernodal(pattern).memory
    monkeypatch.setattr(cholmod, "available_memory", lambda: 0.5 * need)
    with pytest.raises(EngineError, match=rf"has [\d,]+ nonzeros and needs about {need / 1e9:.3g} GB; .* GB are free"):
        Supernodal(pattern)


def test_pickled_engine_analyses_again():
    engine, pattern, M = held("grid", 4)
    again = pickle.loads(pickle.dumps(engine))
    assert again.reason == engine.reason
    again.factorize(values_on(pattern, 4)[0])
    assert again.logdet() == pytest.approx(np.linalg.slogdet(M)[1], rel=RTOL)
