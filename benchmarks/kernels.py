"""Engines, and kernels that the shapes of models do not show alone, for asv; `assembly` has those before the equations.

`covers` names the modules of `sparselmm/kernels` and `sparselmm/engines` whose work a class measures.
"""

from typing import Any, ClassVar

import numpy as np
import pandas as pd

import sparselmm as slm
from sparselmm.dense import DenseLikelihood
from sparselmm.engines import Blocks, Pattern, make_engine, sparse_pattern, tiles
from sparselmm.equations import Equations
from sparselmm.kernels.chains import chain_product, markov_product
from sparselmm.kernels.series import band_pattern, latent_states

from . import scan
from .selected_inverse import dominant_values, insteval, lattice, pedigree
from .shapes import model, problem, problems

SIZE = 20_000  # rows of the equations, about
INSTEVAL_BLOCKS = ((2972, 1), (1128, 1), (14, 1))


def chain(n: int) -> tuple[Pattern, Blocks]:
    """An AR(1): each state meets the next."""
    return sparse_pattern(*band_pattern(np.array([n]), 1), n), ()


def crossed(n: int) -> tuple[Pattern, Blocks]:
    """Two factors of which the smaller one fills."""
    spec = problem("crossed").spec(n)
    return Equations(spec).pattern, tuple((t.n_levels, t.n_effects) for t in spec.terms)


EQUATIONS = {
    "InstEval": lambda n: (insteval(), INSTEVAL_BLOCKS),
    "crossed": crossed,
    "pedigree": lambda n: (pedigree(n), ()),
    "lattice": lambda n: (lattice(n // 200, 100), ()),
    "chain": chain,
}


class _Timed:
    timeout = 300


class Engines(_Timed):
    """Analysis, factor, solves and selected inverse of the same equations by every engine that takes them."""

    params: ClassVar = [["absorb", "supernodal", "cholmod"], list(EQUATIONS)]
    param_names: ClassVar = ["engine", "equations"]
    covers = (
        "absorb", "absorb_inverse", "base", "blas", "blocks", "choose", "cholmod", "selinv", "shared", "supernodal",
        "symbolic", "tails", "threads",
    )  # fmt: skip

    def setup(self, engine, equations):
        pattern, blocks = EQUATIONS[equations](SIZE)
        if engine == "absorb" and not blocks:
            raise NotImplementedError("nothing can be absorbed")
        self.make = lambda: make_engine(engine, pattern, blocks)
        self.engine, (self.values, cols) = self.make(), dominant_values(pattern)
        self.entries = pattern.indices, cols
        self.right = np.random.default_rng(1).normal(size=(pattern.q, 4))
        self.engine.factorize(self.values)
        self.engine.selected_inverse(*self.entries)
        self.engine.solve(self.right)

    def time_analysis(self, engine, equations):
        self.make()

    def time_factorize(self, engine, equations):
        self.engine.factorize(self.values)

    def time_solve(self, engine, equations):
        self.engine.solve(self.right)

    def time_selected_inverse(self, engine, equations):
        self.engine.selected_inverse(*self.entries)

    def peakmem_all(self, engine, equations):
        self.time_factorize(engine, equations)
        self.time_selected_inverse(engine, equations)

    def track_nonzeros_of_L(self, engine, equations):
        return self.engine.nnz_factor

    track_nonzeros_of_L.unit = "nonzeros"  # type: ignore[attr-defined]


class Dense(_Timed):
    """The oracle, n x n: the criterion and its derivatives."""

    n = 600
    covers = ("dense",)

    def setup(self):
        self.likelihood = DenseLikelihood(problem("slope").spec(self.n))
        self.theta = np.array([0.7, 0.1, 0.5])

    def time_criterion(self):
        self.theta = self.theta * (1 + 1e-6)
        self.likelihood(self.theta)

    def time_derivatives(self):
        self.theta = self.theta * (1 + 1e-6)
        self.likelihood.derivatives(self.theta)


class Tiles(_Timed):
    """Factor and inverse of a dense matrix by the package's threads."""

    n = 2_000
    covers = ("tiles",)

    def setup(self):
        A = np.random.default_rng(2).normal(size=(self.n, self.n))
        self.S = A @ A.T + self.n * np.eye(self.n)
        self.L, self.Z = self.S.copy(), np.empty_like(self.S)
        tiles.factorise(self.L)

    def time_factorise(self):
        tiles.factorise(self.S.copy())

    def time_invert(self):
        tiles.invert(self.L, self.Z)


class Pedigrees(_Timed):
    """Inbreeding, inverse and relationships: many generations take a table, few wide ones lists of ancestors."""

    params: ClassVar = [[10, 25]]
    param_names: ClassVar = ["generations"]
    n = 100_000
    covers = ("kinship", "pedigree")

    def setup(self, generations):
        parents = problems().mating(self.n, generations, 10)
        table = pd.DataFrame({"id": np.arange(self.n)} | parents).sample(frac=1.0, random_state=1)
        self.columns = table.id + 1, table.sire + 1, table.dam + 1
        self.pedigree = slm.Pedigree(*self.columns)
        self.some = np.linspace(1, self.n, 300).astype(int)
        self.pedigree.inverse()
        self.pedigree.relationship(self.some)

    def time_pedigree(self, generations):
        slm.Pedigree(*self.columns)

    def time_inverse(self, generations):
        self.pedigree.inverse()

    def time_relationship(self, generations):
        self.pedigree.relationship(self.some)


class Series(_Timed):
    """States of 1,000 series with gaps, their precision's pattern and what AR(1) residuals multiply by."""

    n, m = 200_000, 1_000
    covers = ("chains", "series")

    def setup(self):
        rng = np.random.default_rng(3)
        self.series = np.repeat(np.arange(self.m), self.n // self.m)
        self.times = np.cumsum(rng.integers(1, 3, self.n))
        self.lengths = np.bincount(self.series)
        self.later = np.flatnonzero(np.diff(self.series) == 0) + 1
        self.earlier, self.diagonal = self.later - 1, np.ones(self.n)
        self.V, self.cor = rng.normal(size=(self.n, 4)), rng.uniform(0.2, 0.9, len(self.later))
        self.out = np.empty_like(self.V)
        for run in (self.time_latent_states, self.time_band_pattern, self.time_markov_product, self.time_chain_product):
            run()

    def time_latent_states(self):
        latent_states(self.times, self.series, self.m)

    def time_band_pattern(self):
        band_pattern(self.lengths, 1)

    def time_markov_product(self):
        markov_product(self.later, self.earlier, self.cor, self.V, self.out)

    def time_chain_product(self):
        chain_product(self.later, self.earlier, self.diagonal, self.cor, self.V, self.out)


MANY: dict[str, tuple[str, dict[str, Any]]] = {
    "one factor": ("~ age + (1 | donor)", {}),
    "crossed": ("~ age + (1 | donor) + (1 | batch)", {}),
    "slopes": ("~ age + (1 + age | donor)", {}),
    "weights": ("~ age + (1 | donor)", {"weights": True}),
    "gaps": ("~ age + (1 | donor)", {"gaps": True}),
}


class Responses(_Timed):
    """`lmm_many` by its paths: a decomposition for one ratio, blocks of responses for the others."""

    params: ClassVar = [list(MANY)]
    param_names: ClassVar = ["model"]
    v = 2_000
    covers = ("response_products", "response_score", "responses", "screen", "spectral")

    def setup(self, model):
        rng, n = np.random.default_rng(4), 200
        donor, batch = np.repeat(np.arange(n // 5), 5), rng.integers(0, 10, n)
        self.table = pd.DataFrame({"donor": donor, "batch": batch, "age": rng.normal(size=n)})
        self.formula, options = MANY[model]
        self.Y = rng.normal(size=(n, self.v)) + rng.normal(size=(n // 5, self.v))[donor]
        if "gaps" in options:
            self.Y[:: n // 4, ::2] = np.nan
        self.options = {"weights": rng.uniform(0.5, 2.0, (self.v, n))} if "weights" in options else {}
        self.fit(32)

    def fit(self, v):
        options = {name: W[:v] for name, W in self.options.items()}
        slm.lmm_many(self.formula, self.table, self.Y[:, :v], **options)

    def time_fit(self, model):
        self.fit(self.v)

    def peakmem_fit(self, model):
        self.fit(self.v)


class Markers(_Timed):
    """`scan` in families, and through a general sparse factor."""

    params: ClassVar = [["families", "general"]]
    param_names: ClassVar = ["path"]
    people, markers = 5_000, 200
    covers = ("families",)

    def setup(self, path):
        data, kinship, self.genotypes = scan.problem(self.people, self.markers)
        formula = "y ~ age + known(1 | id, Q)" + (" + (1 | centre)" if path == "general" else "")
        self.fit, self.samples = slm.lmm(formula, data, context={"Q": kinship}), np.arange(self.people)
        slm.scan(self.fit, self.genotypes[:, :2], samples=self.samples, sample="id")

    def time_scan(self, path):
        slm.scan(self.fit, self.genotypes, samples=self.samples, sample="id")


class Samples(_Timed):
    """New responses from correlated levels: L^-T z."""

    replicates = 20
    covers = ("triangular",)

    def setup(self):
        self.fit = model("pedigree").fit()
        self.fit.simulate(1, seed=1)

    def time_simulate(self):
        self.fit.simulate(self.replicates, seed=1)
