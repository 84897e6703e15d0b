"""Tests of linear hypotheses about the fixed effects: contrasts of the user's, and terms of the formula."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats

from .._errors import ModelError
from .._tables import Table
from .._typing import FloatArray
from .arguments import check_level
from .coef_table import contrast_table
from .contrasts import numbers, read_contrasts
from .ddf import Method, ddf_method
from .hypotheses import term_hypotheses
from .wald import FTest

if TYPE_CHECKING:
    from ..results import Fit


def test(
    fit: "Fit", L: Any, rhs: Any = 0.0, *, joint: bool = True, ddf: str | Method | None = None, level: float = 0.95
) -> pd.DataFrame:
    """Test L beta = rhs. joint: one F test of all rows; else a t test with an interval for each row.

    L: (p,) or (c, p) over `fit.fixef`, a mapping coefficient -> weight, or a DataFrame with a column a coefficient.
    rhs: a number, or c of them. Columns: num_df, den_df, F, p_value; or estimate, std_error, df, t, p_value, lower,
    upper at `level`. Errors: ModelError for unknown coefficients, wrong shapes, contrasts that cannot be estimated.
    """
    contrasts, method = read_contrasts(fit, L), ddf_method(fit, ddf)
    target = _right_side(rhs, len(contrasts.L))
    difference = contrasts.L @ fit.fixef.to_numpy()[fit.likelihood.kept] - target
    if not joint:
        table = contrast_table(difference, contrasts.L, method, target)
        table.index = pd.Index(contrasts.names)
        return with_interval(table, level)
    if not contrasts.L.any():
        raise ModelError("L is zero: there is nothing to test")
    _check_consistent(contrasts.L, target)
    found = method.f_test(contrasts.L, difference)
    row = {"num_df": found.num_df, "den_df": found.den_df, "F": found.F, "p_value": f_tail(found)}
    return Table([row], index=pd.Index([", ".join(contrasts.names)]))


def anova(fit: "Fit", type: int = 3, *, ddf: str | Method | None = None) -> pd.DataFrame:
    """F test of each term of the fixed part: sum_sq, mean_sq, num_df, den_df, F, p_value, as lmerTest's anova.

    type: 3 (hypotheses that do not depend on the contrasts), 2 (marginal) or 1 (sequential). mean_sq: F sigma^2.
    Errors: ModelError for another type or a model from arrays.
    """
    method, beta = ddf_method(fit, ddf), fit.fixef.to_numpy()[fit.likelihood.kept]
    rows = {name: _term_row(fit, L, method, beta) for name, L in term_hypotheses(fit, type).items()}
    columns = ["sum_sq", "mean_sq", "num_df", "den_df", "F", "p_value"]
    return Table.from_dict(rows, orient="index", columns=columns).astype({"num_df": int})


def _term_row(fit: "Fit", L: FloatArray, method: Method, beta: FloatArray) -> tuple[float, ...]:
    if not len(L):
        return np.nan, np.nan, 0, np.nan, np.nan, np.nan
    found = method.f_test(L, L @ beta)
    mean = found.F / found.scale * fit.sigma**2
    return mean * found.num_df, mean, found.num_df, found.den_df, found.F, f_tail(found)


def f_tail(found: FTest) -> float:
    """P(F with these degrees of freedom > F); of chi-squared over its degrees of freedom where den_df is infinite."""
    if np.isinf(found.den_df):
        return float(stats.chi2.sf(found.F * found.num_df, found.num_df))
    return float(stats.f.sf(found.F, found.num_df, found.den_df))


def with_interval(table: pd.DataFrame, level: float) -> pd.DataFrame:
    """The table with lower and upper: estimate -+ t quantile of its df times its std_error."""
    check_level(level)
    half = stats.t.ppf(0.5 + level / 2, table.df) * table.std_error
    return table.assign(lower=table.estimate - half, upper=table.estimate + half)


def _right_side(rhs: Any, c: int) -> FloatArray:
    out = numbers(rhs, "rhs")
    if out.shape not in ((), (c,)):
        raise ModelError(f"rhs has shape {out.shape} for {c} contrasts: a number, or one for each")
    return np.full(c, out) if out.ndim == 0 else out


def _check_consistent(L: FloatArray, rhs: FloatArray) -> None:
    """ModelError where rows of L contradict each other."""
    if np.linalg.norm(L @ np.linalg.lstsq(L, rhs)[0] - rhs) > 1e-8 * max(1.0, float(np.linalg.norm(rhs))):
        raise ModelError("the rows of L depend linearly on each other and their right sides contradict: drop some")
