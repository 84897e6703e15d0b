"""Degrees of freedom of tests of the fixed effects: which methods there are, and which one is affordable.

A method holds the covariance of the coefficients that goes with it and answers for any contrast. Coefficients are
those in the model, in the order of `fit.vcov`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import numpy as np

from .._errors import ModelError
from .._typing import FloatArray
from ..likelihood import Likelihood
from .kenward_roger import kenward_roger
from .satterthwaite import n_evaluations, satterthwaite
from .wald import FTest, wald

if TYPE_CHECKING:
    from ..results import Fit

AFFORDABLE = 3e10  # floating-point operations that a default may cost beside a fit: 3 to 10 s on two cores


@runtime_checkable
class Method(Protocol):
    """Tests of linear functions of the coefficients, with the covariance of which standard errors are made."""

    @property
    def name(self) -> str:
        """Of the method."""

    @property
    def vcov(self) -> FloatArray:
        """(p, p)."""

    def degrees(self, L: FloatArray) -> FloatArray:
        """Degrees of freedom of each row of L (c, p) as a contrast of its own, (c,); infinite for a normal one."""

    def f_test(self, L: FloatArray, difference: FloatArray) -> FTest:
        """F test of all rows at once; difference: L beta - rhs, (c,)."""


METHODS: dict[str, Callable[["Fit"], Method]] = {
    "satterthwaite": satterthwaite,
    "kenward-roger": kenward_roger,
    "wald": wald,
}
_LAST: "WeakKeyDictionary[Any, tuple[Any, Method]]" = WeakKeyDictionary()


def ddf_method(fit: "Fit", ddf: "str | Method | None" = None) -> Method:
    """The method called `ddf`; None takes Satterthwaite's where it is affordable, else Wald's. The last one is kept.

    ddf: "satterthwaite", "kenward-roger", "wald", None, or a method from an earlier call.
    Errors: ModelError for an unknown name, and what the method itself refuses.
    """
    if isinstance(ddf, Method):
        return ddf
    name = default_method(fit) if ddf is None else ddf
    if not isinstance(name, str) or name not in METHODS:
        raise ModelError(f"ddf={ddf!r}: one of {', '.join(map(repr, METHODS))}, or None")
    estimate = fit.estimate
    key = (name, estimate.reml, estimate.evaluation.theta.tobytes(), fit.sigma, tuple(estimate.held.items()))
    last = _LAST.get(fit.likelihood)
    if last is None or last[0] != key:
        last = key, METHODS[name](fit)
        _LAST[fit.likelihood] = last
    return last[1]


def default_method(fit: "Fit") -> str:
    """ "satterthwaite" where `satterthwaite_cost` is at most AFFORDABLE; "wald" where it is more, and where there is
    no information to take: every variance is held, or the search did not converge.
    """
    known = bool(fit.estimate.held) and fit.estimate.optimum is None
    if known or not fit.converged or satterthwaite_cost(fit) > AFFORDABLE:
        return "wald"
    return "satterthwaite"


def satterthwaite_cost(fit: "Fit") -> float:
    """Floating-point operations that Satterthwaite's method is forecast to take.

    Two evaluations a parameter, each a factorisation, a selected inverse (measured: 1 to 2 factorisations), the
    covariance of the coefficients and work in proportion to the nonzeros of M and, where the residual has parameters,
    to the rows.
    """
    likelihood = fit.likelihood
    one = 4.0 * likelihood.flops + 4.0 * len(likelihood.kept) ** 3
    if isinstance(likelihood, Likelihood):
        one += 500.0 * likelihood.equations.pattern.nnz
        if likelihood.parameters.residual is not None:
            one += 500.0 * fit.nobs * max(1, len(likelihood.kept))
    else:
        one *= 1 + likelihood.parameters.count
    return n_evaluations(fit) * float(np.float64(one))
