"""Each stage of a fit alone, then the whole: seconds, peak memory, and what must not drift."""

from itertools import cycle

import numpy as np

import sparselmm as slm
from sparselmm.equations import Equations
from sparselmm.formula import build_spec
from sparselmm.likelihood import Likelihood

from .shapes import SHAPES, arguments, model, warm_up


class _Shapes:
    params = SHAPES
    param_names = ["shape"]
    timeout = 300


class Formula(_Shapes):
    """Formula and table -> ModelSpec."""

    def setup(self, shape):
        warm_up(shape)
        self.given, self.options = arguments(shape)

    def time_formula(self, shape):
        build_spec(*self.given, **self.options)


class Assembly(_Shapes):
    """ModelSpec -> cross-products -> equations on their frozen pattern."""

    def setup(self, shape):
        warm_up(shape)
        self.spec = model(shape).spec

    def time_assembly(self, shape):
        Equations(self.spec)

    def peakmem_assembly(self, shape):
        Equations(self.spec)


class Evaluation(_Shapes):
    """The criterion, and the criterion with its derivatives, at changing theta."""

    engine = "auto"

    def setup(self, shape):
        warm_up(shape)
        likelihood = Likelihood(model(shape).spec, self.engine)
        ones = np.linalg.solve(likelihood.scaling(), np.ones(likelihood.parameters.count))
        self.likelihood: Likelihood = likelihood
        self.thetas = cycle([1.1 * ones, ones])
        self.values = likelihood.equations.fill(
            likelihood.products, likelihood.factors(ones), likelihood.precisions(ones)
        )  # fmt: skip
        likelihood.derivatives(ones)
        likelihood.engine.factorize(self.values)

    def time_criterion(self, shape):
        self.likelihood(next(self.thetas))

    def time_derivatives(self, shape):
        self.likelihood.derivatives(next(self.thetas))

    def time_factorize(self, shape):
        self.likelihood.engine.factorize(self.values)

    def time_selected_inverse(self, shape):
        self.likelihood.equations.level_blocks(self.likelihood.engine.selected_inverse)


class EvaluationCholmod(Evaluation):
    """The same with CHOLMOD on the whole of M, whatever the forecast says."""

    engine = "cholmod"


class Fit(_Shapes):
    """From table to estimates."""

    def setup(self, shape):
        warm_up(shape)
        self.given, self.options = arguments(shape)

    def time_fit(self, shape):
        slm.lmm(*self.given, **self.options)

    def peakmem_fit(self, shape):
        slm.lmm(*self.given, **self.options)


class Predict(_Shapes):
    """Predictions of all rows with their standard errors, from the table."""

    def setup(self, shape):
        warm_up(shape)
        self.fit, self.table = model(shape).fit(), arguments(shape)[0][1]
        self.fit.predict(se=True)

    def time_predict(self, shape):
        self.fit.predict(self.table, se=True)

    def peakmem_predict(self, shape):
        self.fit.predict(self.table, se=True)


class Facts(_Shapes):
    """What a faster version must leave alone, or lower."""

    def setup_cache(self):
        return {shape: self._facts(shape) for shape in SHAPES}

    setup_cache.timeout = 300

    def _facts(self, shape):
        fit = model(shape).fit()
        return {"deviance": fit.deviance, "iterations": fit.n_iter, "nnz": fit.likelihood.engine.nnz_factor}

    def track_deviance(self, facts, shape):
        return facts[shape]["deviance"]

    def track_iterations(self, facts, shape):
        return facts[shape]["iterations"]

    def track_nonzeros_of_L(self, facts, shape):
        return facts[shape]["nnz"]

    track_deviance.unit = "-2 log-likelihood"
    track_iterations.unit = "iterations"
    track_nonzeros_of_L.unit = "nonzeros"
