"""The front door: formula and table, or arrays, to a fit. Wiring only."""

import difflib
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp

from ._errors import DataError, EngineError, SparselmmWarning
from ._typing import FloatArray, IntArray, Text
from .dense import DenseLikelihood
from .engines import ENGINES
from .engines.threads import blas_threads
from .equations import cross_products
from .fitting import estimate
from .formula import build_spec
from .formula.table import open_table
from .inference.simulate import design_spec, simulate_design
from .likelihood import Likelihood
from .optimize import Options
from .report import describe, not_converged, progress
from .results import Fit
from .structures.base import Residual
from .terms import ModelSpec, RandomTerm, split_columns


class LinearMixedModel:
    """An unfitted linear mixed model y = X beta + Z b + e.

    formula: lme4's grammar, as `y ~ x + (1 + x | g)`. data: any table that narwhals reads (pandas, polars,
    pyarrow). weights, offset: a column's name or an array of len(data). residual: "ar1(t | g)" (integer times t,
    series g), "ou(t | g)" (real times), "varident(f)" (a variance for each level of f), a product
    "ar1(t | g) * varident(f)", or "us(trait | record)" (any covariance among the rows of a record). context: names that
    the formula may use besides the columns. engine: "auto", "absorb", "supernodal" or "cholmod" (sparse), or "dense"
    (n x n).
    Errors: SparselmmError and its children, with the column or term and the way out.
    """

    def __init__(
        self,
        formula: str,
        data: Any,
        *,
        weights: Any = None,
        offset: Any = None,
        residual: str | None = None,
        context: Mapping[str, Any] | None = None,
        engine: str = "auto",
    ):
        _check_engine(engine)
        began = time.perf_counter()
        spec = build_spec(formula, data, weights=weights, offset=offset, residual=residual, context=context)
        self._set_up(spec, engine, {"formula": time.perf_counter() - began})

    @classmethod
    def from_arrays(
        cls,
        y: Any,
        X: Any,
        terms: Sequence[RandomTerm],
        *,
        weights: Any = None,
        offset: Any = None,
        residual: Residual | None = None,
        fixed_names: Sequence[str] | None = None,
        engine: str = "auto",
    ) -> "LinearMixedModel":
        """The model from y (n,), X (n, p) and random terms; no table, no formula, no row is dropped.

        X: an array, or a scipy sparse matrix: its sparse columns (below 20 % filled) stay sparse, behind the others.
        residual: an `AR1Residual`, `OUResidual`, `VarIdentResidual`, `ProductResidual`, `UnstructuredResidual`, or any
        `Residual`.
        fixed_names: of the columns of X, `x0`, `x1`, ... if None.
        """
        _check_engine(engine)
        matrix, S, order = _matrix(X)
        names = _names(fixed_names, len(order))
        spec = ModelSpec(
            y=_vector(y, "y"),
            X=matrix,
            fixed_names=tuple(names[j] for j in order),
            terms=_terms(terms),
            weights=None if weights is None else _vector(weights, "weights"),
            offset=None if offset is None else _vector(offset, "offset"),
            residual=residual,
            S=S,
        )
        self = cls.__new__(cls)
        self._set_up(spec, engine, {"formula": 0.0})
        return self

    def _set_up(self, spec: ModelSpec, engine: str, timings: dict[str, float]) -> None:
        self.spec = spec
        began = time.perf_counter()
        with blas_threads(4.0 * spec.X.size * spec.X.shape[1]):
            products = None if engine == "dense" else cross_products(spec)
        middle = time.perf_counter()
        self.likelihood: Likelihood | DenseLikelihood = (
            DenseLikelihood(spec) if products is None else Likelihood(spec, engine, products)
        )
        end = time.perf_counter()
        self._timings = timings | {"cross-products": middle - began, "analysis": end - middle}

    def loglik(self, theta: Any, *, reml: bool = True) -> float:
        """Log-likelihood (restricted if reml) at theta, sigma and beta profiled out."""
        return -0.5 * self.likelihood(theta, reml=reml).deviance

    def describe(self) -> Text:
        """Sizes, nonzeros of M and of its factor, the engine and why, a memory forecast: before any fit."""
        return describe(self.likelihood)

    def fit(
        self,
        *,
        reml: bool = True,
        fixed: Mapping[str, float] | None = None,
        start: Any = None,
        verbose: int = 0,
        options: Options = Options(),  # noqa: B008 - frozen
    ) -> Fit:
        """Minimise the ML or REML criterion.

        fixed: `varpar` names held at values, such as {"sd_Intercept|g": 2.0, "sigma": 1.0}; with all of them held
        the equations are solved once (BLUE and BLUP). start: theta (k,). verbose=1: a line for every iteration.
        """
        began = time.perf_counter()
        with progress(verbose) as report, blas_threads(self.likelihood.flops):
            found = estimate(self.likelihood, reml=reml, held=fixed, start=start, options=options, report=report)
        timings = self._timings | {"optimisation": time.perf_counter() - began}
        fit = Fit(self.spec, self.likelihood, found, timings | {"total": sum(timings.values())})
        if not fit.converged:
            warnings.warn(f"the fit did not converge: {not_converged(fit)}", SparselmmWarning, stacklevel=2)
        return fit

    def __repr__(self) -> str:
        spec = self.spec
        return f"<sparselmm model: {spec.formula or 'from arrays'}; {spec.n:,} observations, {spec.q:,} random effects>"


def lmm(
    formula: str,
    data: Any,
    *,
    reml: bool = True,
    weights: Any = None,
    offset: Any = None,
    residual: str | None = None,
    context: Mapping[str, Any] | None = None,
    fixed: Mapping[str, float] | None = None,
    engine: str = "auto",
    start: Any = None,
    verbose: int = 0,
) -> Fit:
    """Fit a linear mixed model: `lmm("Reaction ~ Days + (1 + Days | Subject)", sleepstudy)`.

    formula: lme4's grammar. data: a pandas, polars or pyarrow table; rows with a missing value are dropped and counted.
    reml: False for maximum likelihood. weights, offset: a column's name, or an array of len(data). residual: a
    structure, such as "ar1(t | g)". context: names for the formula besides columns: functions, pedigrees.
    fixed: `varpar` names held at values, such as {"sigma": 1.0}. engine: "auto" chooses by a forecast. start: theta to
    start from. verbose=1: a line for every iteration. `LinearMixedModel` and its `fit` say more of each.
    `print(fit)` is the summary; `fit.fixef`, `fit.varpar`, `fit.ranef()`, `fit.predict(new)` are where most begin.
    Errors: SparselmmError and its children, with the column or term and the way out.
    """
    model = LinearMixedModel(
        formula, data, weights=weights, offset=offset, residual=residual, context=context, engine=engine
    )
    return model.fit(reml=reml, fixed=fixed, start=start, verbose=verbose)


def simulate(
    formula: str,
    data: Any,
    params: Mapping[str, float],
    seed: Any = None,
    *,
    n: int = 1,
    weights: Any = None,
    offset: Any = None,
    residual: str | None = None,
    context: Mapping[str, Any] | None = None,
) -> FloatArray:
    """n responses (rows, n) of a design that has none yet: `simulate("~ x + (1 | g)", table, params, seed=1)`.

    params: every coefficient and every name of `varpar` with its value. A response in the formula is not read. NaN in
    rows of the table with a missing value. seed: anything that numpy.random.default_rng takes.
    """
    spec = design_spec(formula, data, weights=weights, offset=offset, residual=residual, context=context)
    y = simulate_design(spec, params, n, seed)
    out = np.full((len(open_table(data)), n), np.nan)
    out[spec.y.astype(np.int64)] = y
    return out


def _check_engine(engine: Any) -> None:
    if engine not in ENGINES:
        close = difflib.get_close_matches(str(engine), ENGINES, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise EngineError(f"unknown engine {engine!r}.{hint} Known are {', '.join(ENGINES)}")


def _terms(terms: Any) -> tuple[RandomTerm, ...]:
    if not isinstance(terms, Iterable) or not all(isinstance(t, RandomTerm) for t in terms):
        raise DataError("terms must be a list of RandomTerm, as in [RandomTerm(codes, name='g')]")
    return tuple(terms)


def _names(names: Sequence[str] | None, p: int) -> tuple[str, ...]:
    out = tuple(f"x{j}" for j in range(p)) if names is None else tuple(names)
    if len(out) != p or len(set(out)) != p:
        given = ", ".join(map(repr, out))
        raise DataError(f"fixed_names: {p} columns of X need {p} different names, not {given}")
    return out


def _vector(values: Any, what: str) -> FloatArray:
    out = _numbers(values, what)
    if out.ndim != 1:
        raise DataError(f"{what} must be a vector, not of shape {out.shape}")
    return out


def _matrix(X: Any) -> tuple[FloatArray, Any, IntArray]:
    """X (n, p) dense, sparse columns (n, s) or None, and the given columns in their order."""
    if sp.issparse(X):
        matrix = sp.csc_array(X, dtype=np.float64)
        dense, sparse = split_columns(matrix)
        return matrix[:, dense].toarray(), matrix[:, sparse] if len(sparse) else None, np.append(dense, sparse)
    out = _numbers(X, "X")
    out = out[:, None] if out.ndim == 1 else out
    if out.ndim != 2:
        raise DataError(f"X must be a matrix (n, p), not of shape {out.shape}")
    return out, None, np.arange(out.shape[1])


def _numbers(values: Any, what: str) -> FloatArray:
    array = np.asarray(values)
    try:
        return array.astype(np.float64, casting="unsafe" if array.dtype.kind == "O" else "same_kind")
    except (TypeError, ValueError) as error:
        raise DataError(f"{what} is not numeric: {error}") from error
