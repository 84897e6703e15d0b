"""The table of fixed effects: estimates, standard errors, degrees of freedom, tests."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .._tables import Table
from .._typing import FloatArray
from .ddf import Method, ddf_method

if TYPE_CHECKING:
    from ..results import Fit


def coef_table(fit: "Fit", ddf: str | Method | None = None) -> pd.DataFrame:
    """A row a coefficient: estimate, std_error, df, t (z for "wald"), p_value; NaN for a dropped one.

    ddf: "satterthwaite", "kenward-roger" (with its adjusted standard errors), "wald", or None for what is affordable.
    """
    method = ddf_method(fit, ddf)
    kept = fit.likelihood.kept
    errors = np.sqrt(np.diag(method.vcov))
    table = contrast_table(fit.fixef.to_numpy()[kept], np.eye(len(kept)), method, errors=errors)
    table.index = pd.Index([fit.spec.fixed_names[j] for j in kept])
    return table.reindex(list(fit.spec.fixed_names))


def contrast_table(
    difference: FloatArray,
    L: FloatArray,
    method: Method,
    rhs: FloatArray | float = 0.0,
    errors: FloatArray | None = None,
) -> pd.DataFrame:
    """estimate, std_error, df, t or z, p_value of L beta - rhs = difference, (c,), for each row of L (c, p)."""
    if errors is None:
        errors = np.sqrt(np.einsum("cp,pq,cq->c", L, method.vcov, L, optimize=True))
    df, name = method.degrees(L), "z" if method.name == "wald" else "t"
    with np.errstate(divide="ignore", invalid="ignore"):
        t = difference / errors
    columns = {"estimate": difference + rhs, "std_error": errors, "df": df, name: t}
    from scipy.special import stdtr  # a fit alone need not load it

    return Table(columns | {"p_value": 2.0 * stdtr(df, -np.abs(t))})
