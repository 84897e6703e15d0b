"""Predicted means of new rows."""

from typing import TYPE_CHECKING, Any

import numpy as np

from .._errors import DataError, ModelError
from .._typing import FloatArray, IntArray

if TYPE_CHECKING:
    from ..results import Fit


def predict(fit: "Fit", newdata: Any = None, *, re: bool = True, new_levels: str = "population") -> FloatArray:
    """X beta + offset (+ Z b) of the rows of newdata, (n,); of the rows used where newdata is None."""
    if new_levels not in ("population", "error"):
        raise ModelError(f"new_levels={new_levels!r}: one of 'population', 'error'")
    beta, b = np.nan_to_num(fit.fixef.to_numpy()), fit.estimate.evaluation.b
    if newdata is None:
        if re:
            return fit.fitted
        return fit.spec.design @ beta + (0.0 if fit.spec.offset is None else fit.spec.offset)
    encoding = fit.spec.encoding
    if encoding is None:
        raise ModelError("a model from arrays cannot encode new rows: multiply your new X and Z with fixef and ranef")
    mean = encoding.fixed(newdata) @ beta + encoding.offset(newdata)
    if re:
        for term, effects, (codes, columns) in zip(fit.spec.terms, b, encoding.random(newdata), strict=True):
            levels = codes[:, None] if codes.ndim == 1 else codes
            unknown = int((levels < 0).any(axis=1).sum())
            if unknown and new_levels == "error":
                raise DataError(
                    f"{term.describe()}: {unknown} of {len(codes)} rows have a level of '{term.name}' that was not in "
                    "the data of the fit; new_levels='population' predicts them without this term"
                )
            mean = mean + _contribution(effects, levels, columns)
    return mean


def _contribution(effects: FloatArray, levels: IntArray, columns: FloatArray | None) -> FloatArray:
    """Z b of new rows, (n,), without the effects of unknown levels. effects (m, r); levels (n, 1) or (n, r)."""
    values = effects[levels, np.arange(effects.shape[1])]
    values = values if columns is None else values * columns
    return np.asarray(np.where(levels < 0, 0.0, values).sum(axis=1))
