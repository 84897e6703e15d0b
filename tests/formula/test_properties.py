"""What must not matter: the order of the rows, the names of the levels."""

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from sparselmm.formula import build_spec

FORMULA = "y ~ x + f + (1 + x | g) + (1 | g:h)"
EXAMPLES = 20  # each builds two specs, about 20 ms


@st.composite
def tables(draw) -> pd.DataFrame:
    n = draw(st.integers(12, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    data = pd.DataFrame({"y": rng.normal(size=n), "x": rng.normal(size=n)})
    for name, size in (("f", 3), ("g", 3), ("h", 2)):
        data[name] = np.r_[np.arange(size), rng.integers(0, size, n - size)]
    return data.astype({"f": str})


def levels_of_rows(term) -> list:
    labels = term.labels()
    return [labels[code] for code in term.Z]


@settings(max_examples=EXAMPLES)
@given(tables(), st.randoms(use_true_random=False))
def test_order_of_the_rows(data, random):
    order = random.sample(range(len(data)), len(data))
    a, b = (build_spec(FORMULA, d, weights=1 + d.index) for d in (data, data.iloc[order]))
    np.testing.assert_array_equal(a.X[order], b.X)
    for left, right in zip(a.terms, b.terms, strict=True):
        np.testing.assert_array_equal(left.Z[order], right.Z)
        assert left.labels() == right.labels()


@settings(max_examples=EXAMPLES)
@given(tables(), st.permutations(["u", "v", "w"]))
def test_names_of_the_levels(data, names):
    renamed = data.assign(g=[names[code] for code in data.g])
    a, b = (build_spec(FORMULA, d, weights=1 + d.index) for d in (data, renamed))
    np.testing.assert_array_equal(a.X, b.X)
    assert [names[i] for i in levels_of_rows(a.terms[0])] == levels_of_rows(b.terms[0])
    nested = [f"{names[int(g)]}:{h}" for g, _, h in (label.partition(":") for label in levels_of_rows(a.terms[1]))]
    assert nested == levels_of_rows(b.terms[1])


@settings(max_examples=EXAMPLES)
@given(tables())
def test_new_rows_that_are_the_old_rows(data):
    spec = build_spec(FORMULA, data, weights=1 + data.index)
    np.testing.assert_array_equal(spec.encoding.fixed(data), spec.X)
    for term, (codes, columns) in zip(spec.terms, spec.encoding.random(data).values(), strict=True):
        np.testing.assert_array_equal(codes, term.Z)
        assert (columns is None) == (term.columns is None)


@settings(max_examples=EXAMPLES)
@given(tables())
def test_nested_codes_are_the_sorted_pairs(data):
    nested = build_spec(FORMULA, data, weights=1 + data.index).terms[1]
    pairs, codes = np.unique(data[["g", "h"]].to_numpy(), axis=0, return_inverse=True)
    np.testing.assert_array_equal(nested.Z, codes.ravel())
    assert nested.labels() == [f"{g}:{h}" for g, h in pairs]
