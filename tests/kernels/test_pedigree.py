"""Kernels of pedigrees against the tabular method and dense inverses."""

from itertools import pairwise
from time import perf_counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparselmm.kernels import pedigree as kernels

from .naive_pedigree import any_pedigree, herd, ignoring_inbreeding, tabular

EXACT = 1e-12  # sums of a few hundred positive terms of size one
INVERSE = 1e-9  # against numpy's inverse of A, whose condition number reaches 1e4
SLOW = 3.0  # seconds; 0.1 when nothing else runs


def sorted_by_generation(parents):
    """The same pedigree, with generation and bounds as the kernels want them."""
    n = len(parents)
    generation = np.empty(n, np.int64)
    assert kernels.number_generations(parents, np.empty(n, np.int64), generation) == 0
    order = np.argsort(generation, kind="stable")
    place = np.empty(n + 1, np.int64)
    place[order], place[-1] = np.arange(n), -1
    generation = generation[order]
    return place[parents[order]], generation, np.searchsorted(generation, np.arange(generation[-1] + 2))


def dense(rows, cols, values, size):
    full = np.zeros((size, size))
    full[rows, cols] = full[cols, rows] = values
    return full


@st.composite
def pedigrees(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, unknown = draw(st.integers(1, 60)), draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    return any_pedigree(rng, n, unknown, draw(st.booleans()))


@settings(max_examples=60, deadline=None)
@given(pedigrees())
def test_any_pedigree_is_the_tabular_one(parents):
    parents, generation, bounds = sorted_by_generation(parents)
    A = tabular(parents)
    F, d = kernels.inbreeding(parents, generation, bounds)
    np.testing.assert_allclose(1 + F, np.diag(A), atol=EXACT)
    everyone = np.arange(len(A))
    np.testing.assert_allclose(kernels.relationships(everyone, parents, generation, bounds, d), A, atol=EXACT)
    inverse = dense(*kernels.henderson_inverse(parents, d, len(A)), len(A))
    np.testing.assert_allclose(inverse @ A, np.eye(len(A)), atol=INVERSE)
    assert np.log(d).sum() == pytest.approx(np.linalg.slogdet(A)[1], abs=INVERSE)


@pytest.mark.parametrize("sires", [0.05, 1.0])
def test_herds_with_many_parents_take_several_batches(sires):
    parents, generation, bounds = sorted_by_generation(herd(np.random.default_rng(1), 600, 6, sires))
    F, _ = kernels.inbreeding(parents, generation, bounds)
    np.testing.assert_allclose(1 + F, np.diag(tabular(parents)), atol=EXACT)
    F, _ = kernels.inbreeding(np.ascontiguousarray(parents[:, ::-1]), generation, bounds)  # then by dams
    np.testing.assert_allclose(1 + F, np.diag(tabular(parents)), atol=EXACT)


WAYS = {"table": (1e9, 1e9), "ancestors": (0, 1e9), "passes": (0, 0)}  # WIDEST_TABLE, MOST_ANCESTORS


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pedigrees())
def test_every_way_to_inbreeding_is_the_tabular_one(monkeypatch, way, parents):
    """Overlapping generations, unknown parents, selfing."""
    for name, value in zip(("WIDEST_TABLE", "MOST_ANCESTORS"), WAYS[way], strict=True):
        monkeypatch.setattr(kernels, name, value)
    parents, generation, bounds = sorted_by_generation(parents)
    F, d = kernels.inbreeding(parents, generation, bounds)
    A = tabular(parents)
    np.testing.assert_allclose(1 + F, np.diag(A), atol=EXACT)
    assert np.log(d).sum() == pytest.approx(np.linalg.slogdet(A)[1], abs=INVERSE)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("sires", [0.05, 1.0])
def test_every_way_finds_the_inbreeding_of_herds(monkeypatch, way, sires):
    for name, value in zip(("WIDEST_TABLE", "MOST_ANCESTORS"), WAYS[way], strict=True):
        monkeypatch.setattr(kernels, name, value)
    parents, generation, bounds = sorted_by_generation(herd(np.random.default_rng(2), 600, 6, sires))
    for order in (parents, np.ascontiguousarray(parents[:, ::-1])):
        F, _ = kernels.inbreeding(order, generation, bounds)
        np.testing.assert_allclose(1 + F, np.diag(tabular(parents)), atol=EXACT)


def test_a_table_in_pieces_gives_the_same_numbers():
    parents, generation, bounds = sorted_by_generation(herd(np.random.default_rng(3), 6000, 4, 0.5))
    pieces = []

    def backwards(kernel, rows, *args):
        pieces.append(len(rows) - 1)
        for begin, end in reversed([*pairwise(rows)]):
            kernel(begin, end, *args)

    F, _ = kernels.inbreeding(parents, generation, bounds, backwards)
    assert max(pieces) > 2 and F.any()
    np.testing.assert_array_equal(F, kernels.inbreeding(parents, generation, bounds)[0])


def test_selfing_halves_what_is_left():
    parents = np.column_stack([np.arange(-1, 9), np.arange(-1, 9)])
    F, d = kernels.inbreeding(parents, np.arange(10), np.arange(11))
    np.testing.assert_array_equal(F, 1 - 0.5 ** np.arange(10))  # Falconer & Mackay 1996, eq. 5.2
    np.testing.assert_array_equal(d[1:], (1 - F[:-1]) / 2)


@settings(max_examples=30, deadline=None)
@given(pedigrees())
def test_without_inbreeding_d_depends_on_the_number_of_parents(parents):
    n = len(parents)
    d = np.empty(n)
    kernels.mendelian_variances(parents, np.zeros(n), 0, n, d)
    inverse = dense(*kernels.henderson_inverse(parents, d, n), n)
    np.testing.assert_allclose(inverse @ ignoring_inbreeding(parents), np.eye(n), atol=INVERSE)


def test_entries_are_sorted_and_stand_once():
    parents, generation, bounds = sorted_by_generation(any_pedigree(np.random.default_rng(3), 200, 0.2))
    rows, cols, values = kernels.henderson_inverse(parents, kernels.inbreeding(parents, generation, bounds)[1], 200)
    assert rows.dtype == cols.dtype == np.int64 and len(rows) == len(values)
    assert (rows >= cols).all() and (np.diff(cols * 200 + rows) > 0).all()


def test_generations_are_longest_paths_and_any_order_will_do():
    parents = np.array([[3, 1], [-1, 2], [-1, -1], [-1, -1], [0, -1], [-1, -1]])
    out = np.empty(6, np.int64)
    assert kernels.number_generations(parents, np.empty(6, np.int64), out) == 0
    np.testing.assert_array_equal(out, [2, 1, 0, 0, 3, 0])


@pytest.mark.parametrize("n", [1, 2, 7])
def test_loops_are_found(n):
    sire = np.append(np.roll(np.arange(n), 1), [0, -1])  # a ring, then one that hangs on it, and a founder
    parents = np.column_stack([np.full(n + 2, -1), sire])
    stack = np.empty(n + 2, np.int64)
    assert kernels.number_generations(parents, stack, np.empty(n + 2, np.int64)) == n
    np.testing.assert_array_equal(sire[stack[:n]], np.roll(stack[:n], -1))


def test_a_chain_of_a_hundred_thousand_is_no_recursion():
    n = 100_000
    parents = np.column_stack([np.arange(1, n + 1), np.full(n, -1)])
    parents[-1, 0] = -1
    out = np.empty(n, np.int64)
    assert kernels.number_generations(parents, np.empty(n, np.int64), out) == 0
    np.testing.assert_array_equal(out, np.arange(n)[::-1])


def test_a_hundred_thousand_animals_in_25_generations_are_quick():
    parents, generation, bounds = sorted_by_generation(herd(np.random.default_rng(4), 100_000, 25, 0.05))
    kernels.inbreeding(parents[:4000], generation[:4000], bounds[:2])  # compiled before the clock starts
    start = perf_counter()
    F, d = kernels.inbreeding(parents, generation, bounds)
    kernels.henderson_inverse(parents, d, len(F))
    assert perf_counter() - start < SLOW
    last = np.arange(len(F) - 20, len(F))
    A = kernels.relationships(last, parents, generation, bounds, d)
    np.testing.assert_allclose(np.diag(A), 1 + F[last], atol=EXACT)
