"""New responses drawn from a fitted model, or from a design and given parameters."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from .._errors import ModelError
from .._typing import FloatArray
from ..charts import SIGMA, make_chart
from ..engines import Pattern, sparse_pattern
from ..engines.cholmod import Cholmod
from ..equations import destinations, fitted_values
from ..formula import build_spec
from ..formula.table import open_table
from ..parameters import Parameters
from ..structures import Precision
from ..structures.base import Residual
from ..terms import ModelSpec, RandomTerm
from .arguments import check_count, generator

if TYPE_CHECKING:
    from ..results import Fit

EFFECTS = ("new", "fitted", "none")


def simulate(fit: "Fit", n: int = 1, seed: Any = None, *, effects: str = "new") -> FloatArray:
    """n responses y = X beta + offset + Z b + e, (nobs, n), at the estimates of `fit`.

    effects: "new" draws b too (lme4's re.form=NA), "fitted" keeps the BLUPs (re.form=NULL), "none" leaves b out.
    seed: anything that numpy.random.default_rng takes. Errors: ModelError for an unknown word.
    """
    check_count(n, "n")
    if effects not in EFFECTS:
        raise ModelError(f"effects={effects!r}: one of {', '.join(map(repr, EFFECTS))}")
    return Simulator.of(fit, effects).draw(n, generator(seed))


@dataclass(frozen=True, slots=True, eq=False)
class Simulator:
    """Draws of one model at one set of parameters; every precision is factorised once.

    mean: (n,) what is fixed. roots: T_k times sigma of each term that is drawn, none where there is none.
    """

    spec: ModelSpec
    mean: FloatArray
    sigma: float
    roots: tuple[FloatArray, ...]
    across: tuple[Cholmod | None, ...]
    along: Cholmod | None

    @classmethod
    def of(cls, fit: "Fit", effects: str = "new") -> "Simulator":
        """At the estimates of `fit`; effects as in `simulate`."""
        evaluation = fit.estimate.evaluation
        zeros = [np.zeros((t.n_levels, t.n_effects)) for t in fit.spec.terms]
        b = list(evaluation.b) if effects == "fitted" else zeros
        mean = fitted_values(fit.spec, fit.fixef.to_numpy(), b)
        return cls.at(fit.spec, mean, evaluation.theta, fit.sigma, drawn=effects == "new")

    @classmethod
    def at(cls, spec: ModelSpec, mean: FloatArray, theta: FloatArray, sigma: float, drawn: bool = True) -> "Simulator":
        """At theta (k,) and sigma; drawn: whether random effects are."""
        parameters = Parameters(spec)
        rho = theta[parameters.residual_slice]
        along = None if spec.residual is None else _of_rows(spec.residual, rho)
        if not drawn:
            return cls(spec, mean, sigma, (), (), along)
        owners = zip(parameters.structures, parameters.parts(theta), parameters.scales, strict=True)
        roots = tuple(sigma * scale * structure.factor(part) for structure, part, scale in owners)
        triples = zip(spec.terms, parameters.precisions, parameters.rho_slices, strict=True)
        across = tuple(None if Q is None else _of_levels(term, Q, theta[part]) for term, Q, part in triples)
        return cls(spec, mean, sigma, roots, across, along)

    def draw(self, n: int, rng: np.random.Generator) -> FloatArray:
        """Responses (nobs, n): the random effects of each term in turn, then e."""
        out = self.mean[:, None] + self._noise(rng.standard_normal((self.spec.n, n)))
        triples = zip(self.spec.terms, self.roots, self.across, strict=True) if self.roots else ()
        for term, root, engine in triples:
            z = rng.standard_normal((term.n_levels, term.n_effects * n))
            v = z if engine is None else engine.sample(z)
            _add_effects(term, root @ v.reshape(term.n_levels, term.n_effects, n), out)
        return out

    def _noise(self, z: FloatArray) -> FloatArray:
        """e ~ N(0, sigma^2 R / w) from standard normal z (nobs, n)."""
        e = self.sigma * (z if self.along is None else self.along.sample(z))
        return e if self.spec.weights is None else e / np.sqrt(self.spec.weights)[:, None]


def _add_effects(term: RandomTerm, b: FloatArray, out: FloatArray) -> None:
    """out (n, c) += Z b, b (m, r, c): effect by effect, so that nothing larger than out is made."""
    if sp.issparse(term.Z):
        out += term.Z @ b.reshape(-1, out.shape[1])
        return
    for j in range(term.n_effects):
        effect = b[term.Z, j]
        out += effect if term.columns is None else term.columns[:, j, None] * effect


def _of_levels(term: RandomTerm, Q: Precision, rho: FloatArray) -> Cholmod:
    """Q_k at rho, factorised."""
    if term.Q is not None and term.Q.null_dim:
        raise ModelError(
            f"{term.describe()}: an intrinsic precision has no distribution to draw from; effects='fitted' keeps the "
            "estimated effects"
        )
    rows, cols = Q.pattern()
    pattern = sparse_pattern(rows, cols, Q.n_levels)
    values = np.empty(pattern.nnz)
    values[destinations(pattern, rows, cols)] = Q.values(rho)
    return _factorised(pattern, values)


def _of_rows(residual: Residual, rho: FloatArray) -> Cholmod:
    """R^-1 at rho, tridiagonal along each series, factorised."""
    d, o = residual.values(rho)
    n, ends = residual.n_rows, (residual.later, residual.earlier)
    everyone = np.arange(n)
    rows, cols = (np.concatenate([everyone, f(*ends)]) for f in (np.maximum, np.minimum))
    entries = np.concatenate([d[residual.row_class], o[residual.link_class]])
    K = sp.csc_array((entries, (rows, cols)), shape=(n, n))
    K.sort_indices()
    return _factorised(Pattern(K.indptr.astype(np.int64), K.indices.astype(np.int64)), K.data)


def _factorised(pattern: Pattern, values: FloatArray) -> Cholmod:
    engine = Cholmod(pattern)
    engine.factorize(values)
    return engine


def simulate_design(spec: ModelSpec, params: Mapping[str, float], n: int = 1, seed: Any = None) -> FloatArray:
    """n responses (rows, n) of a design at given parameters: coefficients and `varpar` names, each with its value.

    Errors: ModelError for a name that is missing or unknown, or values that no covariance has.
    """
    check_count(n, "n")
    parameters = Parameters(spec)
    variances = (*parameters.natural_names, SIGMA)
    _check_names(params, (*spec.fixed_names, *variances))
    try:
        chart = make_chart(parameters, np.eye(parameters.count), {name: params[name] for name in variances}, 1.0)
        theta, sigma = chart.model(np.zeros(0))
    except ModelError as error:
        raise ModelError(str(error).replace("fixed:", "params:", 1)) from error
    assert sigma is not None
    beta = np.array([_number(params[name], name) for name in spec.fixed_names])
    mean = fitted_values(spec, beta, [np.zeros((t.n_levels, t.n_effects)) for t in spec.terms])
    return Simulator.at(spec, mean, theta, sigma).draw(n, generator(seed))


def _check_names(params: Mapping[str, float], names: tuple[str, ...]) -> None:
    """ModelError unless `params` has exactly these names."""
    if not isinstance(params, Mapping):
        raise ModelError(f"params: a mapping from {', '.join(names)} to their values, not {params!r}")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ModelError(f"params: '{twice}' is a coefficient and a variance parameter: rename the column")
    missing = [name for name in names if name not in params]
    unknown = [name for name in params if name not in names]
    if missing or unknown:
        what = f"'{missing[0]}' is missing" if missing else f"no parameter '{unknown[0]}'"
        raise ModelError(f"params: {what}. This model has {', '.join(names)}")


def _number(value: Any, name: str) -> float:
    if not isinstance(value, (int, float, np.number)) or not np.isfinite(value):
        raise ModelError(f"params: {name} cannot be {value!r}: a coefficient is a finite number")
    return float(value)


def design_spec(formula: str, data: Any, **options: Any) -> ModelSpec:
    """The model of a formula with or without a response, whose y is the number of each row that is used.

    options: those of `build_spec`. A response in the formula is not read.
    """
    table = open_table(data)
    name = "simulated"
    while name in table.columns:
        name += "_"
    left, tilde, right = formula.partition("~")
    return build_spec(f"{name} ~ {right if tilde else left}", table.with_row_index(name), **options)
