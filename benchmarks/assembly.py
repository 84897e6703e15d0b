"""Kernels between the table and the mixed-model equations, each alone, one thread; and peak memory of them all."""

import numpy as np
import pandas as pd

import sparselmm as slm
from sparselmm.designs import Design, cross_blocks
from sparselmm.equations import Equations, cross_products, sparse_pattern
from sparselmm.fixed import fixed_design, row_weights
from sparselmm.formula import build_spec
from sparselmm.kernels.blocks import half_moment, locate, times_transposed
from sparselmm.likelihood import Likelihood

FORMULA = "y ~ x + f + (1 + x | g) + (1 | h)"


def table(n: int, order: str) -> pd.DataFrame:
    """A tenth as many groups as rows, 2,000 levels that cross them (or fewer), a factor and a number."""
    rng = np.random.default_rng(1)
    g = np.arange(n) // 10
    return pd.DataFrame(
        {
            "y": rng.normal(size=n),
            "x": rng.normal(size=n),
            "f": pd.Categorical.from_codes(rng.integers(0, 4, n), list("abcd")),
            "g": rng.permutation(g) if order == "shuffled" else g,
            "h": rng.integers(0, min(2_000, n // 20), n),
        }
    )


class _Rows:
    params = ["by group", "shuffled"]
    param_names = ["rows"]
    n = 1_000_000

    def setup(self, order):
        slm.set_threads(1)
        self.table = table(self.n, order)
        self.spec = build_spec(FORMULA, self.table)
        cross_products(build_spec(FORMULA, table(2_000, order)))  # so that nothing is compiled while the clock runs

    def teardown(self, order):
        slm.set_threads(None)


class Columns(_Rows):
    """Table -> ModelSpec -> [X y]: plain columns, codes of groups, QR by slabs, projections."""

    def time_spec(self, order):
        build_spec(FORMULA, self.table)

    def time_fixed_design(self, order):
        fixed_design(self.spec, row_weights(self.spec))


class CrossProducts(_Rows):
    """Z'WZ between and within terms, Z'W[X y]."""

    def setup(self, order):
        super().setup(order)
        self.designs = [Design(t, np.zeros(0)) for t in self.spec.terms]
        self.V = np.random.default_rng(2).normal(size=(self.n, 6))

    def time_blocks(self, order):
        cross_blocks([Design(t, np.zeros(0)) for t in self.spec.terms])

    def time_sums(self, order):
        for design in self.designs:
            design.sums(self.V)

    def peakmem_cross_products(self, order):
        cross_products(self.spec)


class Places(_Rows):
    """The pattern of M, and where entries stand in it."""

    def setup(self, order):
        super().setup(order)
        self.products = cross_products(self.spec)
        self.equations = Equations(self.spec, self.products)
        rows, cols = self.equations.places()
        some = np.random.default_rng(3).permutation(len(rows))
        self.in_order, self.mixed = (rows, cols), (rows[some], cols[some])
        self.out = np.empty(len(rows), dtype=np.int64)

    def time_equations(self, order):
        Equations(self.spec, self.products)

    def time_pattern(self, order):
        sparse_pattern(*self.mixed, self.equations.q)

    def time_locate_in_order(self, order):
        locate(self.equations.pattern.indptr, self.equations.pattern.indices, *self.in_order, self.out)

    def time_locate_mixed(self, order):
        locate(self.equations.pattern.indptr, self.equations.pattern.indices, *self.mixed, self.out)


class Levels:
    """What an evaluation does with 100,000 levels of two effects besides the engine's part."""

    m = 100_000

    def setup(self):
        rng, levels = np.random.default_rng(4), np.arange(self.m)
        self.blocks, self.effects = rng.normal(size=(self.m, 2, 2)), rng.normal(size=(self.m, 2, 3))
        self.T, self.out = rng.normal(size=(2, 2)), np.empty_like(self.effects)
        self.pairs = levels, levels, np.ones(self.m)
        x = rng.normal(size=(10 * self.m, 1))
        columns = np.hstack([np.ones_like(x), x])
        term = slm.RandomTerm(np.repeat(levels, 10), columns=columns, effects=("Intercept", "x"))
        self.likelihood = Likelihood(slm.ModelSpec(rng.normal(size=len(x)), columns, ("Intercept", "x"), (term,)))
        self.theta = np.array([0.5, 0.1, 0.4])
        self.time_derivatives()

    def time_times_transposed(self):
        times_transposed(0, self.m, self.T, self.effects, self.out)

    def time_half_moment(self):
        half_moment(0, self.m, *self.pairs, self.blocks, self.effects)

    def time_criterion(self):
        self.theta = self.theta * (1.0 + 1e-6)
        self.likelihood(self.theta)

    def time_derivatives(self):
        self.theta = self.theta * (1.0 + 1e-6)
        self.likelihood.derivatives(self.theta)
