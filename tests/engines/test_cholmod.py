"""CHOLMOD against LAPACK on one pattern, the choice of the ordering, and what is said when it cannot run."""

import importlib
import pickle

import numpy as np
import pytest
import scipy.sparse as sp

import sparselmm as slm
from sparselmm._errors import EngineError
from sparselmm.engines import Pattern, cholmod, make_engine
from sparselmm.engines.cholmod import Cholmod, predicted_tree
from tests.kernels.test_selinv import WIDE
from tests.kernels.test_symbolic import PATTERNS, eliminate, forest, grid
from tests.problems import PROBLEMS

RTOL = 1e-11  # two factorisations of a matrix of condition below 100


def lower_pattern(A):
    """`Pattern` of a boolean matrix."""
    csc = sp.csc_array(np.tril(A | np.eye(len(A), dtype=bool)).astype(float))
    csc.sort_indices()
    return Pattern(csc.indptr.astype(np.int64), csc.indices.astype(np.int64))


def values_on(pattern, seed):
    """Values of a positive definite matrix, and that matrix."""
    q, rng = pattern.q, np.random.default_rng(seed)
    cols = np.repeat(np.arange(q), np.diff(pattern.indptr))
    M = np.zeros((q, q))
    M[pattern.indices, cols] = rng.normal(size=pattern.nnz)
    M = np.tril(M, -1) + np.tril(M, -1).T
    M += np.diag(1.0 + np.abs(M).sum(axis=1))
    return M[pattern.indices, cols], M


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=RTOL * np.abs(expected).max())


CASES = {name: A for name, A in (PATTERNS | WIDE).items() if len(A) > 1} | {"large grid": grid(24)}


@pytest.mark.parametrize("name", CASES)
def test_equals_lapack_at_every_refactorisation(name):
    pattern = lower_pattern(CASES[name])
    engine = make_engine("cholmod", pattern)
    cols = np.repeat(np.arange(pattern.q), np.diff(pattern.indptr))
    for seed in range(3):
        values, M = values_on(pattern, seed)
        engine.factorize(values)
        right = np.random.default_rng(9).normal(size=(pattern.q, 3))
        close(engine.solve(right), np.linalg.solve(M, right))
        assert engine.logdet() == pytest.approx(np.linalg.slogdet(M)[1], rel=RTOL)
        inverse = np.linalg.inv(M)
        close(engine.selected_inverse(pattern.indices, cols), inverse[pattern.indices, cols])
        diagonal = np.arange(pattern.q)
        close(engine.selected_inverse(diagonal, diagonal), np.diag(inverse))


# --- the ordering ---------------------------------------------------------------------------------------


@pytest.fixture
def quick_metis(monkeypatch):
    """METIS takes no time by its forecast, and is looked at everywhere."""
    monkeypatch.setattr(cholmod, "METIS_COLUMN", 0.0)
    monkeypatch.setattr(cholmod, "METIS_ENTRY", 0.0)


@pytest.mark.parametrize("name", ["grid", "forest", "random 1", "band"])
def test_predicted_tree_are_those_of_elimination(name):
    A = (PATTERNS | WIDE)[name]
    perm = np.random.default_rng(2).permutation(len(A))
    expected = eliminate(A[np.ix_(perm, perm)]).sum(axis=0)
    np.testing.assert_array_equal(predicted_tree(lower_pattern(A), perm)[1], expected)


@pytest.mark.parametrize("A", [grid(22), forest(500, 3)], ids=["grid", "forest"])
def test_the_ordering_with_less_fill_is_chosen(A, quick_metis):
    pattern = lower_pattern(A)
    make = cholmod._factor_maker(cholmod._load())
    csc = sp.csc_matrix((np.ones(pattern.nnz), pattern.indices, pattern.indptr), shape=A.shape)
    fills = {}
    for ordering in ("amd", "metis"):
        perm = make(csc, ordering).perm
        fills[ordering] = int(eliminate(A[np.ix_(perm, perm)]).sum())
    engine = Cholmod(pattern)
    assert engine.nnz_factor == min(fills.values()) == fills[engine.ordering]
    other = next(k for k in fills if k != engine.ordering)
    assert engine.reason == (
        f"{engine.ordering} ordering, {min(fills.values()):,} nonzeros in L; {other} would need {fills[other]:,}"
    )


@pytest.mark.parametrize("best", ["amd", "metis"])
def test_either_ordering_can_win(monkeypatch, quick_metis, best):
    """With made-up fills, so that both ways are taken whatever METIS finds."""
    fills = iter([5, 9] if best == "amd" else [9, 5])
    tree = lambda pattern, perm: (np.full(pattern.q, -1), np.full(pattern.q, next(fills)))  # noqa: E731
    monkeypatch.setattr(cholmod, "predicted_tree", tree)
    engine = Cholmod(pattern := lower_pattern(grid(21)))
    assert (engine.ordering, engine.nnz_factor) == (best, 5 * pattern.q)
    values, M = values_on(pattern, 1)
    engine.factorize(values)
    assert engine.logdet() == pytest.approx(np.linalg.slogdet(M)[1], rel=RTOL)


def test_metis_is_not_asked_where_that_takes_longer_than_a_factorisation():
    assert Cholmod(lower_pattern(grid(24))).seconds < 0.002
    assert "metis" not in Cholmod(lower_pattern(grid(24))).reason
    full = Cholmod(lower_pattern(np.ones((900, 900), bool)))
    assert full.seconds < 0.1 and "metis" not in full.reason
    line, i = np.eye(12, k=1, dtype=bool) | np.eye(12, k=-1, dtype=bool), np.eye(12, dtype=bool)
    cube = np.kron(np.kron(line, i), i) | np.kron(np.kron(i, line), i) | np.kron(np.kron(i, i), line)
    assert "metis" in Cholmod(lower_pattern(cube)).reason


def test_metis_is_not_asked_where_nothing_separates_the_graph(quick_metis, monkeypatch):
    """Twenty random neighbours each: nearly all operations are in one dense block, by METIS in a larger one."""
    near = np.random.default_rng(1).random((1000, 1000)) < 0.01
    pattern = lower_pattern(near | near.T)
    chosen = Cholmod(pattern)
    assert "metis" not in chosen.reason
    monkeypatch.setattr(cholmod, "ONE_BLOCK", 1.0)
    asked = Cholmod(pattern)
    assert asked.ordering == "amd" and asked.nnz_factor == chosen.nnz_factor and "metis would need" in asked.reason


def test_small_patterns_are_analysed_once():
    assert Cholmod(lower_pattern(grid(8))).reason.startswith("amd ordering, ")
    assert "metis" not in Cholmod(lower_pattern(grid(8))).reason


# --- refusals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["grid", "large grid", "one dense block"])
@pytest.mark.parametrize("change", [-1.0, np.nan, np.inf, 0.0])
def test_not_positive_definite(name, change):
    """Whether CHOLMOD takes its simplicial L D L', which does not mind a negative pivot, or its supernodal L L'."""
    pattern = lower_pattern(CASES[name])
    engine = make_engine("auto", pattern)
    values, M = values_on(pattern, 1)
    bad = values.copy()
    bad[pattern.indptr[pattern.q // 2]] *= change
    with np.errstate(invalid="ignore"), pytest.raises(EngineError, match="not positive definite at these parameters"):
        engine.factorize(bad)
    engine.factorize(values)
    assert engine.logdet() == pytest.approx(np.linalg.slogdet(M)[1], rel=RTOL)


def test_a_missing_scikit_sparse_names_the_install_line(monkeypatch):
    real = importlib.import_module

    def import_module(name, package=None):
        if name.startswith("sksparse"):
            raise ImportError(f"No module named '{name}'")
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", import_module)
    data = PROBLEMS["one_factor"].data()
    with pytest.raises(EngineError) as caught:
        slm.lmm("y ~ x + (1 | g)", data, engine="cholmod")
    message = str(caught.value)
    assert message.startswith("scikit-sparse cannot be imported (No module named 'sksparse.cholmod')")
    assert "apt-get install libsuitesparse-dev" in message
    assert 'pip install "scikit-sparse==0.4.16"' in message
    assert 'pip install "scikit-sparse>=0.5"' in message
    assert 'engine="absorb"' in message and 'engine="dense"' in message
    assert slm.lmm("y ~ x + (1 | g)", data, engine="dense").converged
    assert slm.lmm("y ~ x + (1 | g)", data).engine == "absorb"


def test_a_factor_that_does_not_fit_is_refused_with_figures(monkeypatch):
    pattern = lower_pattern(grid(22))
    need = Cholmod(pattern).memory
    monkeypatch.setattr(cholmod, "available_memory", lambda: 0.5 * need)
    with pytest.raises(EngineError, match=rf"has [\d,]+ nonzeros and needs about {need / 1e9:.3g} GB; .* GB are free"):
        Cholmod(pattern)


@pytest.mark.parametrize("name", ["large grid", "grid", "one dense block"])
def test_a_factor_too_large_for_short_indices_gets_long_ones(monkeypatch, name):
    """CHOLMOD's error made up: 2^31 entries of L do not fit into a test."""
    module = cholmod._load()
    if not hasattr(module, "analyze"):
        pytest.skip("scikit-sparse 0.5 chooses by itself")
    real = module.analyze

    def analyze(A, use_long=None, **options):
        if not use_long:
            raise module.CholmodTooLargeError("problem too large (code -3)")
        assert A.indices.dtype == A.indptr.dtype == np.int64
        return real(A, use_long=use_long, **options)

    monkeypatch.setattr(module, "analyze", analyze)
    pattern = lower_pattern(CASES[name])
    engine = Cholmod(pattern)
    for seed in range(2):
        values, M = values_on(pattern, seed)
        engine.factorize(values)
        inverse = np.linalg.inv(M)
        diagonal = np.arange(pattern.q)
        close(engine.selected_inverse(diagonal, diagonal), np.diag(inverse))
        close(engine.solve(np.eye(pattern.q)[:, :2]), inverse[:, :2])


def test_unknown_engine():
    with pytest.raises(
        EngineError, match="unknown engine 'cholesky': known are auto, absorb, supernodal, cholmod, dense"
    ):
        make_engine("cholesky", lower_pattern(grid(3)))
    with pytest.raises(EngineError, match="unknown engine 'cholesky'"):
        slm.lmm("y ~ x + (1 | g)", PROBLEMS["one_factor"].data(), engine="cholesky")


def test_pickled_engine_analyses_again():
    engine = make_engine("cholmod", pattern := lower_pattern(grid(22)))
    values, M = values_on(pattern, 4)
    engine.factorize(values)
    again = pickle.loads(pickle.dumps(engine))
    assert again.reason == engine.reason
    again.factorize(values)
    assert again.logdet() == pytest.approx(np.linalg.slogdet(M)[1], rel=RTOL)
