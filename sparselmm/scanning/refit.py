"""The model of a marker with its own variance parameters: the null's design and the marker in X, from a warm start."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp
from scipy import stats

from .._typing import BoolArray, FloatArray
from ..engines.threads import blas_threads
from ..fitting import estimate
from ..likelihood import Likelihood
from ..results import Fit
from .association import two_sided
from .gaps import indicators


@dataclass(frozen=True, slots=True, eq=False)
class Refitted:
    """beta, se (c,); statistic and p as in `Statistics`; converged: of the search."""

    beta: FloatArray
    se: FloatArray
    statistic: float
    p: float
    converged: bool


def refit_with(fit: Fit, U: FloatArray, names: Sequence[str], gone: BoolArray | None, test: str) -> Refitted:
    """The model of `fit` with the columns U (n, c) beside X, all variance parameters estimated again.

    gone: (n,) rows that are left out, by a coefficient each (under REML, whose likelihood is then that of the other
    rows); None for none. Errors: those of a fit.
    """
    spec = fit.spec
    columns = tuple(f"marker {name}" for name in names)
    p = spec.X.shape[1]
    S, behind = spec.S, spec.fixed_names[p:]
    if gone is not None and gone.any():
        J = indicators(gone)
        S, behind = J if S is None else sp.hstack([S, J]), (*behind, *(f"row {i}" for i in np.flatnonzero(gone)))
    wider = replace(spec, X=np.hstack([spec.X, U]), S=S, fixed_names=(*spec.fixed_names[:p], *columns, *behind))
    likelihood = Likelihood(wider)
    with blas_threads(likelihood.flops):
        start = fit.estimate.evaluation.theta
        found = estimate(likelihood, reml=fit.reml, held=fit.estimate.held or None, start=start)
    return _tests(Fit(wider, likelihood, found, {}), columns, test)


def _tests(fit: Fit, columns: Sequence[str], test: str) -> Refitted:
    names, c = list(columns), len(columns)
    beta = fit.fixef[names].to_numpy()
    V = fit.vcov.reindex(index=names, columns=names).to_numpy()
    df = np.inf if test == "score" else float(fit.nobs - fit.likelihood.n_fixed)
    se = np.sqrt(np.diag(V))
    if c == 1:
        return Refitted(beta, se, float(beta[0] / se[0]), float(two_sided(beta / se, df)[0]), fit.converged)
    statistic = float(beta @ np.linalg.solve(V, beta)) / c
    return Refitted(beta, se, statistic, float(stats.f.sf(statistic, c, min(df, 1e300))), fit.converged)
