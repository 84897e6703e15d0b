"""Standard deviation of each residual over sigma: prior weights and strata, of the rows of the fit and of new ones."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .._errors import DataError, ModelError
from .._typing import FloatArray
from ..formula.encode import Encoding
from ..structures.residual_varident import VarIdentResidual

if TYPE_CHECKING:
    from ..results import Fit


def residual_scales(fit: "Fit") -> FloatArray:
    """sqrt of the diagonal of R, (n,), of the rows used."""
    weights, residual = fit.spec.weights, fit.spec.residual
    out = np.ones(fit.nobs) if weights is None else 1.0 / np.sqrt(weights)
    if residual is None:
        return out
    return np.asarray(out * residual.scales(fit.estimate.evaluation.theta[fit.likelihood.parameters.residual_slice]))


@dataclass(frozen=True, slots=True)
class ResidualFacts:
    """Of the residual: its text, whether rows are correlated, ratios of its strata, whether there are weights."""

    label: str
    correlated: bool
    ratios: tuple[float, ...]
    weighted: bool

    @classmethod
    def of(cls, fit: "Fit") -> "ResidualFacts":
        """Of a fit."""
        residual, weighted = fit.spec.residual, fit.spec.weights is not None
        if residual is None:
            return cls("", False, (), weighted)
        rho = fit.estimate.evaluation.theta[fit.likelihood.parameters.residual_slice]
        ratios = residual.ratios(rho) if isinstance(residual, VarIdentResidual) else ()
        return cls(residual.label, bool(len(residual.later)), tuple(map(float, ratios)), weighted)

    def check(self) -> None:
        """ModelError where residuals are correlated in time."""
        if self.correlated:
            raise ModelError(
                f"residual {self.label}: the residual of a new row is correlated with those of the data, which "
                "interval='prediction' does not count; se and interval='confidence' are those of the mean"
            )

    def scales(self, encoding: Encoding, newdata: Any) -> FloatArray:
        """sqrt of the diagonal of R of new rows, (n,) or (1,).

        Errors: ModelError where residuals are correlated; DataError for an unknown stratum, or weights that were an
        array.
        """
        self.check()
        out = 1.0 / np.sqrt(encoding.weights(newdata)) if self.weighted else np.ones(1)
        if not self.ratios:
            return out
        stratum = encoding.stratum(newdata)
        if (stratum < 0).any():
            raise DataError(
                f"residual {self.label}: {int((stratum < 0).sum())} of {len(stratum)} rows are of no stratum "
                "that was in the data of the fit, so that their residual variance is not known"
            )
        return out * np.array(self.ratios)[stratum]


def new_residual_scales(fit: "Fit", newdata: Any) -> FloatArray:
    """The same of new rows, by the columns that the fit read; of the rows used where newdata is None."""
    facts = ResidualFacts.of(fit)
    if newdata is not None:
        return facts.scales(fit.spec.encoding, newdata)
    facts.check()
    return residual_scales(fit)
