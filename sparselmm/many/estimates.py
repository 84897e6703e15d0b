"""What a fitter gives back for a block of responses: arrays, one row a response."""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from .._typing import AnyArray, BoolArray, FloatArray, IntArray

if TYPE_CHECKING:
    from .design import Design

CONSTANT = "the response is constant"
MISSING = "every value is missing"
INFINITE = "some values are infinite"
EXTREME = "values beyond 1e140, or all within 1e-140: their squares are no numbers; use another unit"
EXACT = "the fixed effects fit the response exactly"
RUNAWAY = "no minimum: sigma goes to zero"
NOT_CONVERGED = "the search did not converge"


@dataclass(frozen=True, slots=True, eq=False)
class Estimates:
    """v responses, c coefficients and contrasts, k variance parameters besides sigma, P pairs of coefficients.

    beta, se, df: (v, c). varpar: (v, k) on the natural scale. theta: (v, k). sigma, loglik, df_residual (twice over
    the variance of log sigma^2), gradient_norm: (v,). mean, inverse_weight: of the values and of 1/weight over a
    response's rows, (v,). vcov: (v, P) covariances of the coefficients in `Design.pairs`; spread: (v, k, P) their
    derivatives along the profile, whitened by its Hessian (`degrees.whitened`). nu: n - p or, by ML, n, (v,). nobs:
    (v,). reason: (v,) text, empty where all is well.
    """

    beta: FloatArray
    se: FloatArray
    df: FloatArray
    varpar: FloatArray
    theta: FloatArray
    sigma: FloatArray
    loglik: FloatArray
    df_residual: FloatArray
    gradient_norm: FloatArray
    mean: FloatArray
    inverse_weight: FloatArray
    vcov: FloatArray
    spread: FloatArray
    nu: FloatArray
    nobs: IntArray
    converged: BoolArray
    is_singular: BoolArray
    reason: AnyArray

    def put(self, where: IntArray | slice, other: "Estimates") -> None:
        """Copy the rows of `other` to these places."""
        for field in fields(self):
            getattr(self, field.name)[where] = getattr(other, field.name)

    def blank(self, where: BoolArray, reason: str) -> None:
        """NaN and a reason for some responses."""
        for field in fields(self):
            values = getattr(self, field.name)
            if values.dtype.kind == "f":
                values[where] = np.nan
        self.converged[where] = self.is_singular[where] = False
        self.reason[where] = reason


def empty(design: "Design", v: int) -> Estimates:
    """Estimates of v responses: nothing known yet."""
    c, k, P = len(design.L), design.parameters.count, len(design.pairs[0])
    made: dict[str, Any] = {name: np.full((v, c), np.nan) for name in ("beta", "se", "df")}
    made |= {name: np.full((v, k), np.nan) for name in ("varpar", "theta")}
    numbers = ("sigma", "loglik", "df_residual", "gradient_norm", "mean", "inverse_weight", "nu")
    made |= {name: np.full(v, np.nan) for name in numbers}
    made |= {"vcov": np.full((v, P), np.nan), "spread": np.full((v, k, P), np.nan)}
    made |= {name: np.zeros(v, dtype=bool) for name in ("converged", "is_singular")}
    return Estimates(**made, nobs=np.zeros(v, dtype=np.int64), reason=np.full(v, "", dtype=object))


def concatenate(parts: list[Estimates]) -> Estimates:
    """Estimates of several blocks, in order."""
    names = [field.name for field in fields(Estimates)]
    joined: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return Estimates(**joined)
