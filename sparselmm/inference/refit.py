"""The same model for another response: pattern, analysis, Z'WZ and the basis of X are had once."""

import copy
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from .._errors import DataError
from .._typing import FloatArray
from ..banded import Banded
from ..coefficients import Coefficients
from ..dense import DenseLikelihood
from ..designs import Design
from ..engines.shared import SharedEngine
from ..engines.threads import blas_threads
from ..equations import CrossProducts, all_terms
from ..fitting import estimate
from ..fixed import fixed_basis, take_off
from ..likelihood import Likelihood
from ..terms import ModelSpec, check_residual

if TYPE_CHECKING:
    from ..results import Fit


def refit(fit: "Fit", y: Any, *, start: FloatArray | None = None) -> "Fit":
    """The model of `fit` with another response y (nobs,), on the scale of the model's own (after its `log()`).

    The same criterion, the same parameters held. start: theta, by moments and a step if None, as in a first fit.
    Errors: DataError for a wrong length or values that are infinite or missing.
    """
    from ..results import Fit

    began = perf_counter()
    with blas_threads(float(fit.spec.X.size)):
        likelihood = Responses(fit.likelihood).likelihood(response(y, fit.nobs))
    middle = perf_counter()
    with blas_threads(likelihood.flops):
        found = estimate(likelihood, reml=fit.reml, held=fit.estimate.held, start=start)
    seconds = {"cross-products": middle - began, "optimisation": perf_counter() - middle}
    return Fit(likelihood.spec, likelihood, found, seconds | {"total": sum(seconds.values())})


def response(y: Any, n: int) -> FloatArray:
    """y as n finite numbers; DataError where it is none of the kind."""
    kind = np.asarray(y).dtype
    if kind.kind not in "biufO":
        raise DataError(f"the new response is not numeric: it has dtype {kind}")
    try:
        out = np.array(y, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"the new response is not numeric: {error}") from error
    if out.shape != (n,):
        raise DataError(
            f"the new response has shape {out.shape} for {n} rows: one value for each row that the fit used, without "
            "the rows that it dropped"
        )
    if not np.isfinite(out).all():
        bad = int((~np.isfinite(out)).sum())
        raise DataError(f"the new response: {bad} of {n} values are infinite or missing; fit the other rows with lmm()")
    return out


def of_same_pattern(likelihood: Likelihood, spec: ModelSpec, products: CrossProducts) -> Likelihood:
    """A likelihood of other numbers on the pattern of `likelihood`; from now on both share the engine."""
    shared = _share(likelihood)
    out = copy.copy(likelihood)
    out.spec, out.products, out.engine = spec, products, shared.another()
    out.equations = copy.copy(likelihood.equations)
    out.equations.products = products
    out.coefficients = Coefficients(out.equations)
    out.n_evaluations, out._solved, out._derived, out._held, out._inverse = 0, None, None, None, None
    return out


def _share(likelihood: Likelihood) -> SharedEngine:
    """The engine of `likelihood`, from now on one that others may use too."""
    shared = SharedEngine.of(likelihood.engine)
    if shared is not likelihood.engine:
        likelihood.engine, likelihood._held = shared, None
    return shared


def anchored(likelihood: Likelihood) -> Likelihood:
    """`likelihood` for searches that all begin at one theta: the first factor of all is kept, and its inverse."""
    out = copy.copy(likelihood)
    out.engine, out._held = _share(likelihood).anchored(), None
    return out


class Responses:
    """Likelihoods of one design for response after response. They share an engine: use them in turn.

    The basis of X (n, p) and the conditioned columns of Z are kept, so that a response costs one pass over the rows.
    """

    def __init__(self, likelihood: Likelihood | DenseLikelihood):
        self._model = likelihood
        if isinstance(likelihood, Likelihood):
            self._read(likelihood.spec, likelihood.products)

    def _read(self, spec: ModelSpec, products: CrossProducts) -> None:
        self._weights = np.ones(spec.n) if spec.weights is None else spec.weights
        self._basis = fixed_basis(spec, products.fixed)
        terms = all_terms(spec, products.fixed) if products.banded is None else ()
        self._designs = [Design(t, self._weights) for t in terms]

    def likelihood(self, y: FloatArray, offset: FloatArray | None = None) -> Likelihood | DenseLikelihood:
        """Of the response y (n,); offset: instead of the model's own."""
        model = self._model
        spec = replace(model.spec, y=y, offset=model.spec.offset if offset is None else offset)
        if isinstance(model, DenseLikelihood):
            return DenseLikelihood(spec)
        return of_same_pattern(model, spec, self.products(model.products, spec))

    def products(self, products: CrossProducts, spec: ModelSpec) -> CrossProducts:
        """`products` with the response of `spec` in place of theirs: Z'Wy, [X y]'Wy and the coefficients taken off."""
        fixed, y = take_off(spec, products.fixed, self._basis, self._weights)
        check_residual(y, fixed.n_columns, spec)
        if products.banded is not None:
            banded = banded_response(products.banded, y * np.sqrt(self._weights))
            return replace(_uncorrelated(products, banded), fixed=fixed)
        sums = [d.sums(y[:, None]) for d in self._designs]
        Zxy = tuple(_last(old, new) for old, new in zip(products.Zxy, sums, strict=True))
        cross = np.append(self._basis.T @ (self._weights * y), y @ (self._weights * y))
        return replace(products, fixed=fixed, Zxy=Zxy, xy=_border(products.xy, cross))


def _last(sums: FloatArray, y: FloatArray) -> FloatArray:
    """Z'W[X y] (..., p+1) with another last column (..., 1)."""
    return np.concatenate([sums[..., :-1], y], axis=-1)


def _border(square: FloatArray, cross: FloatArray) -> FloatArray:
    """[X y]'W[X y] (..., p+1, p+1) with another last row and column (..., p+1)."""
    out = square.copy()
    out[..., -1, :] = out[..., :, -1] = cross
    return out


def banded_response(banded: Banded, y: FloatArray) -> Banded:
    """The same with another last column of V: y (n,), which comes times sqrt(weight)."""
    out = copy.copy(banded)
    out.V = np.column_stack([banded.V[:, :-1], y])
    if banded._stored is None:
        return out
    blocks, sums, squares = banded._stored
    Ky = [out._product(d, o, y[:, None]) for d, o in _classes(banded)]
    new = [np.stack([design.sums(k) for k in Ky]) for design in banded.designs]
    cross = np.stack([out.V.T @ k[:, 0] for k in Ky])
    pairs = zip(sums, new, strict=True)
    out._stored = blocks, [_last(a, b) for a, b in pairs], _border(squares, cross)
    return out


def _classes(banded: Banded) -> list[tuple[FloatArray, FloatArray]]:
    """K by rows and links that is one on each class and zero elsewhere, in the order of what is stored."""
    rows, links = banded.residual.row_class, banded.residual.link_class
    none = np.zeros(len(rows)), np.zeros(len(links))
    each = [(1.0 * (rows == c), none[1]) for c in range(int(rows.max()) + 1)]
    return each + [(none[0], 1.0 * (links == c)) for c in range(int(links.max(initial=-1)) + 1)]


def _uncorrelated(products: CrossProducts, banded: Banded) -> CrossProducts:
    """`products` at K = I from another `banded`."""
    residual = banded.residual
    sizes = int(residual.row_class.max()) + 1, int(residual.link_class.max(initial=-1)) + 1
    return replace(products, banded=banded).at(np.ones(sizes[0]), np.zeros(sizes[1]))
