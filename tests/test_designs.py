"""Cross-products of designs: any order of the rows, any number of threads, against sparse matrices made whole."""

import numpy as np
import pytest

import sparselmm as slm
from sparselmm.designs import Design, cross_blocks
from sparselmm.engines import threads
from sparselmm.equations import cross_products

RTOL = 1e-12  # the same sums in another order
N = 250_000  # several pieces of rows, and of pairs


@pytest.fixture(params=["by subject", "shuffled"])
def terms(request):
    """Codes with ones, with a slope, a factor that the first is nested in, one that crosses them."""
    rng = np.random.default_rng(7)
    subject = np.repeat(np.arange(5_000), N // 5_000)
    if request.param == "shuffled":
        rng.shuffle(subject)
    x = rng.normal(size=N)
    return [
        slm.RandomTerm(subject, name="subject"),
        slm.RandomTerm(rng.integers(0, 40, N), columns=np.column_stack([np.ones(N), x]), name="item"),
        slm.RandomTerm(subject // 100, name="clinic"),
        slm.RandomTerm(subject // 2, columns=x, effects=("x",), name="pair"),
    ]


def whole(block, designs):
    """The blocks as a dense matrix."""
    k, j = block.row_term, block.col_term
    shape = [(designs[t].term.n_levels, designs[t].term.n_effects) for t in (k, j)]
    out = np.zeros((shape[0][0], shape[1][0], shape[0][1], shape[1][1]))
    np.add.at(out, (block.rows, block.cols), block.values)
    return out.transpose(0, 2, 1, 3).reshape(shape[0][0] * shape[0][1], -1)


@pytest.mark.parametrize("weighted", [False, True])
def test_blocks_and_sums_against_matrices(terms, weighted):
    w = np.random.default_rng(1).uniform(0.5, 2.0, N) if weighted else np.zeros(0)
    designs, ones = [Design(t, w) for t in terms], w if weighted else np.ones(N)
    V = np.random.default_rng(2).normal(size=(N, 2))
    for block in cross_blocks(designs):
        left, right = (designs[t].matrix() for t in (block.row_term, block.col_term))
        expected = left.T @ (right.multiply(ones[:, None]).tocsr())
        np.testing.assert_allclose(whole(block, designs), expected.toarray(), rtol=RTOL, atol=1e-9)  # of sums of 1e3
        if block.row_term != block.col_term:
            assert (np.diff(block.cols * N + block.rows) > 0).all()
    for design in designs:
        sums = design.sums(V).reshape(-1, 2)
        np.testing.assert_allclose(sums, design.matrix().T @ (ones[:, None] * V), rtol=RTOL, atol=1e-10)


def test_a_nested_term_has_a_block_a_level(terms):
    found = {(b.row_term, b.col_term): len(b.values) for b in cross_blocks([Design(t, np.zeros(0)) for t in terms])}
    assert found[2, 0] == found[3, 0] == 5_000
    assert found[3, 2] == 2_500


def test_any_number_of_threads_gives_the_same_numbers(terms):
    rng = np.random.default_rng(3)
    X = np.column_stack([np.ones(N), rng.normal(size=N)])
    spec = slm.ModelSpec(y=rng.normal(size=N), X=X, fixed_names=("a", "b"), terms=tuple(terms))
    found = []
    for n in (1, 2, 5):
        threads.set_threads(n)
        found.append(cross_products(spec))
    threads.set_threads(None)
    for other in found[1:]:
        np.testing.assert_array_equal(other.xy, found[0].xy)
        for a, b in zip(other.Zxy, found[0].Zxy, strict=True):
            np.testing.assert_array_equal(a, b)
        for one, two in zip(other.blocks, found[0].blocks, strict=True):
            np.testing.assert_array_equal(one.values, two.values)
