"""Absorption against LAPACK on whole matrices: any place of the absorbed term, any tail, any number of threads."""

import multiprocessing
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import sparselmm as slm
from sparselmm._errors import EngineError
from sparselmm.engines import absorb, make_engine, tails, threads
from sparselmm.engines.absorb import Absorb
from sparselmm.engines.supernodal import Supernodal
from sparselmm.engines.tails import DenseTail, SparseTail
from sparselmm.likelihood import Likelihood
from tests.engines.test_cholmod import close, lower_pattern, values_on
from tests.problems import PROBLEMS

RTOL = 1e-11  # two factorisations of a matrix of condition below 100
THREADS_RTOL = 1e-12  # sums run in the same order; BLAS may cut its own differently


def meeting(blocks, joined, share, seed=0):
    """Boolean M: full r x r blocks; levels of different terms meet with probability `share`, those of terms in
    `joined` are neighbours in a chain within the term too."""
    rng, levels = np.random.default_rng(seed), []
    for k, (m, _) in enumerate(blocks):
        levels += [(k, i) for i in range(m)]
    meets = np.eye(len(levels), dtype=bool)
    for a, (k, i) in enumerate(levels):
        for b, (l, j) in enumerate(levels[:a]):  # noqa: E741
            meets[a, b] = rng.random() < share if k != l else k in joined and abs(i - j) == 1
    sizes = [blocks[k][1] for k, _ in levels]
    rows = np.repeat(np.arange(len(levels)), sizes)
    return (meets | meets.T)[np.ix_(rows, rows)]


def nest(a, b, c):
    """Boolean M of c levels in b levels in a levels, coarse ones first."""
    outer, middle = np.arange(b) % a, np.arange(c) % b
    Z = np.hstack([np.eye(a)[outer[middle]], np.eye(b)[middle], np.eye(c)])
    return Z.T @ Z > 0


CASES = {
    "one term": ([(9, 2)], meeting([(9, 2)], (), 0)),
    "scalars, absorbed first": (((30, 1), (8, 1)), meeting(((30, 1), (8, 1)), (), 0.3)),
    "scalars, absorbed last": (((8, 1), (30, 1)), meeting(((8, 1), (30, 1)), (), 0.3)),
    "in the middle": (((5, 2), (20, 3), (6, 1)), meeting(((5, 2), (20, 3), (6, 1)), (), 0.4)),
    "beside a chain": (((40, 1), (15, 2)), meeting(((40, 1), (15, 2)), (0,), 0.1)),
    "a chain in the middle": (((9, 1), (40, 1), (12, 2)), meeting(((9, 1), (40, 1), (12, 2)), (1,), 0.05)),
    "levels that meet nothing": (((30, 2), (8, 1)), meeting(((30, 2), (8, 1)), (), 0.03)),
    "nested": (((3, 1), (12, 1), (50, 1)), nest(3, 12, 50)),
    "no meetings": (((4, 1), (9, 2)), meeting(((4, 1), (9, 2)), (), 0.0)),
}


@pytest.fixture
def sparse_tails(monkeypatch):
    """S is kept sparse at any size above 2 and whatever a dense one would take."""
    monkeypatch.setattr(absorb, "SMALL_TAIL", 2)
    monkeypatch.setattr(absorb, "FILLED", 2.0)
    monkeypatch.setattr(tails, "PER_FLOP", 1.0)


@pytest.fixture(params=["dense", "sparse"])
def tail(request):
    """Both kinds of tail at any size."""
    if request.param == "sparse":
        request.getfixturevalue("sparse_tails")
    return request.param


@pytest.fixture(params=[1, 3])
def many(request, monkeypatch):
    """One thread and more threads than cores, with pieces of any size."""
    monkeypatch.setattr(tails, "GRAIN", 1.0)
    monkeypatch.setattr(absorb, "GRAIN", 1.0)
    threads.set_threads(request.param)
    yield request.param
    threads.set_threads(None)


@pytest.mark.parametrize("name", CASES)
def test_equals_lapack_at_every_refactorisation(name, tail, many):
    blocks, A = CASES[name]
    engine = make_engine("absorb", pattern := lower_pattern(A), blocks)
    assert isinstance(engine.tail, DenseTail if tail == "dense" or len(blocks) == 1 else SparseTail)
    cols = np.repeat(np.arange(pattern.q), np.diff(pattern.indptr))
    for seed in range(3):
        values, M = values_on(pattern, seed)
        engine.factorize(values)
        inverse = np.linalg.inv(M)
        for k in (0, 1, 3):
            right = np.random.default_rng(9).normal(size=(pattern.q, k))
            close(engine.solve(right), inverse @ right) if k else np.testing.assert_equal(engine.solve(right), right)
        assert engine.logdet() == pytest.approx(np.linalg.slogdet(M)[1], rel=RTOL)
        close(engine.selected_inverse(pattern.indices, cols), inverse[pattern.indices, cols])
        diagonal = np.arange(pattern.q)
        close(engine.selected_inverse(diagonal, diagonal), np.diag(inverse))


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_equations_of_every_problem(problem, tail):
    """M of real designs, filled at theta = 1 in unit-size effects."""
    likelihood = Likelihood(problem.spec(), "absorb")
    theta = np.linalg.solve(likelihood.scaling(), np.ones(likelihood.parameters.count))
    values = likelihood.equations.fill(likelihood.products, likelihood.factors(theta), likelihood.precisions(theta))
    rows, cols = likelihood.equations.places()
    M = np.zeros((likelihood.equations.q,) * 2)
    M[rows, cols] = M[cols, rows] = values
    engine = likelihood.engine
    engine.factorize(values)
    inverse = np.linalg.inv(M)
    close(engine.selected_inverse(rows, cols), inverse[rows, cols])
    close(engine.solve(np.eye(len(M))[:, :2]), inverse[:, :2])
    assert engine.logdet() == pytest.approx(np.linalg.slogdet(M)[1], rel=RTOL)


def test_any_number_of_threads_gives_the_same_numbers(monkeypatch):
    monkeypatch.setattr(tails, "GRAIN", 100.0)
    monkeypatch.setattr(absorb, "GRAIN", 100.0)
    found = []
    for n in (1, 2, 5):
        threads.set_threads(n)
        likelihood = Likelihood(PROBLEMS["partially_crossed"].spec(4000), "absorb")
        at = likelihood.derivatives(np.array([0.7, 0.5]))
        found.append(np.hstack([likelihood(np.array([0.7, 0.5])).deviance, at.gradient, at.hessian.ravel()]))
    threads.set_threads(None)
    np.testing.assert_allclose(found[1], found[0], rtol=THREADS_RTOL)
    np.testing.assert_allclose(found[2], found[0], rtol=THREADS_RTOL)


# --- which term, which tail -----------------------------------------------------------------------------


def test_the_largest_block_diagonal_term_is_absorbed():
    blocks, A = CASES["a chain in the middle"]
    assert Absorb(lower_pattern(A), blocks).meetings.lo == 49
    blocks, A = CASES["in the middle"]
    assert (m := Absorb(lower_pattern(A), blocks).meetings).lo == 10 and m.hi == 70


def test_nested_families_are_absorbed_level_by_level(sparse_tails):
    blocks, A = CASES["nested"]
    engine = Absorb(lower_pattern(A), blocks)
    inner = engine.tail.engine
    assert isinstance(inner, Absorb) and inner.pattern.q == 15
    assert isinstance(inner.tail.engine, Absorb) and inner.tail.engine.pattern.q == 3
    assert engine.nnz_factor == 50 + 2 * 50 + 12 + 12 + 3
    assert engine.reason == (
        "50 levels of 1 absorbed, 15 columns with 27 nonzeros left for absorb: 12 levels of 1 absorbed, "
        "3 columns with 3 nonzeros left for absorb: 3 levels of 1 absorbed, nothing is left"
    )


def test_what_cannot_be_absorbed_again_is_factorised(sparse_tails):
    blocks = ((40, 1), (60, 1))
    engine = Absorb(lower_pattern(meeting(blocks, (0,), 0.01)), blocks)
    assert isinstance(engine.tail.engine, Supernodal)


def test_a_sparse_tail_that_takes_longer_is_not_kept(sparse_tails, monkeypatch):
    blocks = ((40, 1), (60, 1))
    pattern = lower_pattern(meeting(blocks, (0,), 0.01))
    monkeypatch.setattr(tails, "PER_FLOP", 0.0)
    monkeypatch.setattr(tails, "PER_ENTRY", 0.0)
    assert isinstance(Absorb(pattern, blocks).tail, DenseTail)
    monkeypatch.setattr(absorb, "available_memory", lambda: 12_000.0)  # a dense S and its inverse take 87,040
    assert isinstance(Absorb(pattern, blocks).tail, SparseTail)


def test_a_sparse_tail_that_cannot_be_had_is_dense_where_that_fits(sparse_tails, monkeypatch):
    blocks = ((40, 1), (60, 1))
    pattern = lower_pattern(meeting(blocks, (0,), 0.01))

    def refuse(pattern):
        raise EngineError("not installed")

    monkeypatch.setattr(absorb, "Supernodal", refuse)
    assert isinstance(Absorb(pattern, blocks).tail, DenseTail)
    monkeypatch.setattr(absorb, "available_memory", lambda: 12_000.0)
    with pytest.raises(EngineError, match="not installed"):
        Absorb(pattern, blocks)


@pytest.mark.parametrize("what", ["a chain", "part of a block", "parts of blocks meet"])
def test_no_term_to_absorb(what):
    A = meeting(((6, 2),), (0,) if what == "a chain" else (), 0.0)
    blocks = ((6, 2),)
    if what == "part of a block":
        A[1, 0] = A[0, 1] = False
    if what == "parts of blocks meet":
        A[4, 2] = A[2, 4] = True
    with pytest.raises(EngineError, match='engine="absorb" needs a term with independent levels.*engine="cholmod"'):
        make_engine("absorb", lower_pattern(A), blocks)


# --- refusals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", [0, 60], ids=["absorbed", "tail"])
@pytest.mark.parametrize("change", [-1.0, np.nan, np.inf, 0.0])
def test_not_positive_definite(column, change, tail):
    blocks = ((30, 2), (8, 1))
    pattern = lower_pattern(meeting(blocks, (), 0.2))
    engine = Absorb(pattern, blocks)
    values, M = values_on(pattern, 1)
    bad = values.copy()
    bad[pattern.indptr[column]] *= change
    with np.errstate(invalid="ignore"), pytest.raises(EngineError, match="not positive definite at these parameters"):
        engine.factorize(bad)
    engine.factorize(values)
    assert engine.logdet() == pytest.approx(np.linalg.slogdet(M)[1], rel=RTOL)


@pytest.mark.parametrize("allowed", [2, 1], ids=["Schur complement", "absorbed levels"])
def test_what_does_not_fit_is_refused_with_figures(monkeypatch, allowed):
    blocks, A = CASES["scalars, absorbed first"]
    answers = iter([1e9] * (2 * allowed - 3) + [1e3] * 9)
    monkeypatch.setattr(absorb, "available_memory", lambda: next(answers))
    what = "the Schur complement, 8 x 8 left, dense," if allowed == 2 else "30 absorbed levels with .* meetings"
    with pytest.raises(EngineError, match=rf'engine="absorb": {what} need about .* GB; 1e-06 GB are free'):
        Absorb(lower_pattern(A), blocks)


def test_pickled_engine_analyses_again():
    blocks, A = CASES["in the middle"]
    engine = Absorb(pattern := lower_pattern(A), blocks)
    values, M = values_on(pattern, 4)
    engine.factorize(values)
    again = pickle.loads(pickle.dumps(engine))
    assert again.reason == engine.reason
    again.factorize(values)
    assert again.logdet() == pytest.approx(np.linalg.slogdet(M)[1], rel=RTOL)


# --- threads and processes ------------------------------------------------------------------------------

FITS = """
import multiprocessing, sys
import sparselmm as slm
from sparselmm.engines import absorb, tails
from tests.problems import PROBLEMS

absorb.GRAIN = tails.GRAIN = 50.0
slm.set_threads(2)

def fit(seed):
    return PROBLEMS["partially_crossed"].model(1000, engine="absorb").fit().deviance

if __name__ == "__main__":
    before = fit(0)
    with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
        assert pool.map(fit, range(4), chunksize=1) == [before] * 4
    sys.stdout.write("same")
"""


@pytest.mark.parametrize("method", [m for m in ("fork", "spawn") if m in multiprocessing.get_all_start_methods()])
def test_a_process_that_has_fitted_can_have_children_that_fit(tmp_path, method):
    """Numba's own parallel loops end such a child ("fork() called from a process already using GNU OpenMP")."""
    script = tmp_path / "fits.py"
    script.write_text(FITS)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), method], capture_output=True, text=True, timeout=300,
        cwd=slm.__path__[0] + "/..", env={**__import__("os").environ, "PYTHONPATH": slm.__path__[0] + "/.."},
    )  # fmt: skip
    assert done.stdout == "same", done.stderr


def test_fits_in_several_threads_at_once():
    with ThreadPoolExecutor(4) as pool:
        fits = list(pool.map(lambda _: PROBLEMS["crossed"].model(2000, engine="absorb").fit().deviance, range(8)))
    assert fits == [fits[0]] * 8
