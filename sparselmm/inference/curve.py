"""The curve of a series or a random walk over its times, with its band."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.stats import norm

from .._errors import ModelError
from .._typing import FloatArray, IntArray
from ..formula.latent import LatentEncoding
from .arguments import check_level
from .new_rows import TermRows, states_at
from .predict import PredictionRows, Predictor, term_facts

if TYPE_CHECKING:
    from ..results import Fit

POINTS = 200  # of a curve that is known between its states


def curve(
    fit: "Fit", term: str | None = None, *, series: Sequence[Any] | None = None, fixed: bool = True, level: float = 0.95
) -> pd.DataFrame:
    """series, time, fit, se, lower, upper: a term's effect over its times, and its band of pointwise intervals.

    fixed: with the fixed part, whose terms that read only the times move along, the others being at their means over
    the rows. Other random effects are zero. term: its text or group, the first series if None. series: labels, all if
    None. Times are those of the states; where the process is known between them (`ou`, `rw1`) also a grid.
    Errors: ModelError for a term that is no series, or an unknown label.
    """
    check_level(level)
    k = series_term(fit, term)
    how, facts = fit.spec.encoding.terms[k], term_facts(fit)[k]
    labels = ["all"] if how.levels is None else how.levels.labels()
    chosen = _chosen(labels, series, facts.text)
    owners, at = _states(how)
    grids = [_times(at[owners == s], facts.bridge in ("ou", "rw1")) for s in chosen]
    owner, times = np.repeat(chosen, [len(g) for g in grids]), np.concatenate(grids)
    A, fresh = states_at(how, facts, owner, times[:, None])
    parts: list[TermRows | None] = [None] * len(fit.spec.terms)
    parts[k] = TermRows(A, fresh[:, None], np.zeros(len(times), dtype=np.bool_))
    rows = PredictionRows(_fixed_rows(fit, how, times, fixed), np.zeros(len(times)), tuple(parts))
    mean = rows.mean(np.nan_to_num(fit.fixef.to_numpy()), fit.estimate.evaluation.b)
    se = fit.sigma * np.sqrt(rows.variances(Predictor.of(fit)))
    half = norm.isf(0.5 - 0.5 * level) * se
    names = pd.Index(labels, dtype=object)[owner]
    return pd.DataFrame(
        {"series": names, "time": times, "fit": mean, "se": se, "lower": mean - half, "upper": mean + half}
    )


def series_term(fit: "Fit", term: str | None) -> int:
    """Place of a series term, by its text or group; the first one if None."""
    encoding = fit.spec.encoding
    if encoding is None:
        raise ModelError("a model from arrays does not say when its states are: plot its ranef()")
    found = [k for k, how in enumerate(encoding.terms) if isinstance(how, LatentEncoding) and how.is_series]
    named = [k for k in found if term is None or term in (fit.spec.terms[k].name, fit.spec.terms[k].describe())]
    if not named:
        known = ", ".join(repr(fit.spec.terms[k].describe()) for k in found) or "none"
        raise ModelError(f"curve: no series {'' if term is None else repr(term) + ' '}in this model; it has {known}")
    return named[0]


def _chosen(labels: Sequence[Any], wanted: Sequence[Any] | None, text: str) -> IntArray:
    if wanted is None:
        return np.arange(len(labels))
    places = pd.Index(labels, dtype=object).get_indexer(pd.Index(list(wanted), dtype=object))
    if (places < 0).any():
        lost = list(wanted)[int((places < 0).argmax())]
        raise ModelError(f"{text}: no series {lost!r}; it has {', '.join(map(repr, labels[:5]))}, ...")
    return places.astype(np.int64)


def _states(how: LatentEncoding) -> tuple[IntArray, FloatArray]:
    """Series and time of each state, (m,)."""
    at = how.labels.get_level_values(-1).to_numpy(dtype=np.float64)
    return how.state_series(), at


def _times(at: FloatArray, between: bool) -> FloatArray:
    return np.union1d(at, np.linspace(at.min(), at.max(), POINTS)) if between else at


def _fixed_rows(fit: "Fit", how: LatentEncoding, times: FloatArray, fixed: bool) -> Any:
    """Rows of the fixed part (c, p): terms of the times at them, other columns at their means; zero without it."""
    spec = fit.spec
    if not fixed:
        return sp.csr_array((len(times), len(spec.fixed_names)))
    x = np.tile(np.asarray(spec.design.mean(axis=0)).ravel(), (len(times), 1))
    ((_, text),) = how.times
    part = spec.encoding.fixed_design.reading_only(how.columns if how.columns == (text,) else ())
    frame = _frame(fit, how.columns, times) if part.columns else pd.DataFrame(index=range(len(times)))
    made = part.matrix(frame, spec.encoding.context)
    x[:, [spec.fixed_names.index(name) for name in part.names]] = made.toarray() if sp.issparse(made) else made
    return x


def _frame(fit: "Fit", columns: Sequence[str], times: FloatArray) -> pd.DataFrame:
    """The column of times; the codes of ordered categories become what they stand for."""
    (column,) = columns
    categories = fit.spec.encoding.categories[column]
    values = times if categories is None else pd.Categorical.from_codes(times.astype(int), categories=categories)
    return pd.DataFrame({column: values})
