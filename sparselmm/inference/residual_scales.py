"""Standard deviation of each residual over sigma: prior weights and strata, of the rows of the fit and of new ones."""

from typing import TYPE_CHECKING, Any

import numpy as np

from .._errors import DataError, ModelError
from .._typing import FloatArray
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


def new_residual_scales(fit: "Fit", newdata: Any) -> FloatArray:
    """The same of new rows, by the columns that the fit read; of the rows used where newdata is None.

    Errors: ModelError where residuals are correlated in time; DataError for an unknown stratum, or weights that were an
    array.
    """
    residual = fit.spec.residual
    if residual is not None and len(residual.later):
        raise ModelError(
            f"residual {residual.label}: the residual of a new row is correlated with those of the data, which "
            "interval='prediction' does not count; se and interval='confidence' are those of the mean"
        )
    if newdata is None:
        return residual_scales(fit)
    encoding, out = fit.spec.encoding, np.ones(1)
    if fit.spec.weights is not None:
        out = 1.0 / np.sqrt(encoding.weights(newdata))
    if isinstance(residual, VarIdentResidual):
        stratum = encoding.stratum(newdata)
        if (stratum < 0).any():
            raise DataError(
                f"residual {residual.label}: {int((stratum < 0).sum())} of {len(stratum)} rows are of a stratum that "
                "was not in the data of the fit, so that their residual variance is not known"
            )
        rho = fit.estimate.evaluation.theta[fit.likelihood.parameters.residual_slice]
        out = out * residual.ratios(rho)[stratum]
    return out
