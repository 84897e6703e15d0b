"""Estimated marginal means on a reference grid, and their comparisons (Searle, Speed & Milliken 1980; R's emmeans)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats

from .._errors import ModelError
from .._tables import Table
from .._typing import FloatArray
from ..formula.names import suggest
from .arguments import check_level
from .coef_table import contrast_table
from .contrasts import ESTIMABLE, null_space
from .ddf import Method, ddf_method
from .grid import average, reference_grid
from .tests import with_interval

if TYPE_CHECKING:
    from ..results import Fit


@dataclass(frozen=True, slots=True, eq=False)
class MarginalMeans:
    """Means L beta of the rows of `levels`, and what their tests need.

    levels: (m, factors), `by` last. L: (m, columns of X). level: of intervals.
    """

    fit: "Fit"
    levels: pd.DataFrame
    by: tuple[str, ...]
    L: FloatArray
    method: Method
    level: float

    @property
    def table(self) -> pd.DataFrame:
        """A row a mean: its levels, emmean, std_error, df, lower, upper; NaN where the data do not determine it.

        Here and below levels of a column that is called as one of these, as `t`, are called `t_`.
        """
        columns = ["estimate", "std_error", "df", "lower", "upper"]
        numbers = with_interval(self._estimates(self.L), self.level)[columns].rename(columns={"estimate": "emmean"})
        return Table(pd.concat([self.levels.rename(columns=lambda name: _apart(name, numbers)), numbers], axis=1))

    def pairs(self, adjust: str = "tukey") -> pd.DataFrame:
        """All differences within each group of `by`: contrast, estimate, std_error, df, t (or z), p_value.

        adjust: "tukey" (studentised range), "holm", "bonferroni" or "none"; a group is a family.
        """
        return self._compare(self._differences, adjust, ADJUSTMENTS)

    def contrast(self, weights: Mapping[str, Sequence[float]], adjust: str = "none") -> pd.DataFrame:
        """Combinations of the means of each group of `by`: name -> a weight for each mean, in the order of `table`.

        adjust: "holm", "bonferroni" or "none".
        """
        known = {name: f for name, f in ADJUSTMENTS.items() if name != "tukey"}
        return self._compare(lambda labels: _weights(weights, labels), adjust, known)

    def _compare(
        self, make: Callable[[list[str]], dict[str, FloatArray]], adjust: str, known: Mapping[str, "Adjustment"]
    ) -> pd.DataFrame:
        if adjust not in known:
            raise ModelError(f"adjust={adjust!r}: one of {', '.join(map(repr, known))}")
        groups = self.levels.groupby(list(self.by), sort=False, observed=True).indices if self.by else {(): slice(None)}
        parts = []
        for rows in groups.values():
            levels = self.levels.iloc[rows].reset_index(drop=True)
            made = make(_labels(levels.drop(columns=list(self.by))))
            weights = np.array(list(made.values())).reshape(len(made), len(levels))
            table = self._estimates(weights @ self.L[rows])
            table["p_value"] = known[adjust](table, len(levels))
            table.insert(0, "contrast", list(made))
            for j, name in enumerate(self.by):
                table.insert(1 + j, _apart(name, table), levels[name].iloc[0])
            parts.append(table)
        return Table(pd.concat(parts, ignore_index=True))

    def _differences(self, labels: list[str]) -> dict[str, FloatArray]:
        unit = np.eye(len(labels))
        return {f"{labels[i]} - {labels[j]}": unit[i] - unit[j] for i, j in combinations(range(len(labels)), 2)}

    def _estimates(self, L: FloatArray) -> pd.DataFrame:
        """estimate, std_error, df, t, p_value of the rows of L; NaN where one cannot be estimated."""
        kept = self.fit.likelihood.kept
        outside = np.abs(L @ null_space(self.fit)).max(axis=1, initial=0.0)
        known = outside <= ESTIMABLE * np.abs(L).max(axis=1, initial=0.0)
        rows = L[known][:, kept]
        table = contrast_table(rows @ self.fit.fixef.to_numpy()[kept], rows, self.method)
        table.index = pd.Index(np.flatnonzero(known))
        return table.reindex(range(len(L)))

    def __str__(self) -> str:
        return self.table.to_string(index=False)

    def __repr__(self) -> str:
        return str(self)


def emmeans(
    fit: "Fit",
    specs: str | Sequence[str],
    by: str | Sequence[str] | None = None,
    *,
    at: Mapping[str, Any] | None = None,
    ddf: str | Method | None = None,
    level: float = 0.95,
) -> MarginalMeans:
    """Means of the response for the levels of `specs`, the other factors averaged with equal weights.

    Covariates are at the means of the rows used (one that has two values at both), or at what `at` gives, a value or
    several; a function such as `poly(x, 2)` is taken of the mean. by: columns within whose levels means are compared.
    An offset is left out. Errors: ModelError for a column that is not in the fixed part, or a model from arrays.
    """
    check_level(level)
    wanted, within = _names(specs), _names(() if by is None else by)
    values = reference_grid(fit, {} if at is None else at)
    for name in (*wanted, *within):
        if name not in values:
            raise ModelError(
                f"'{name}' is not in the fixed part, which reads {', '.join(values)}{suggest(name, values)}"
            )
    shown = tuple(dict.fromkeys((*wanted, *within)))
    levels, L = average(fit, values, shown)
    return MarginalMeans(fit, levels, within, L, ddf_method(fit, ddf), level)


def _apart(name: str, table: pd.DataFrame) -> str:
    """The name, with an underscore where the table has such a column."""
    return name + "_" if name in table else name


def _names(given: Any) -> tuple[str, ...]:
    names = (given,) if isinstance(given, str) else given
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise ModelError(f"emmeans: names of columns, one or several, not {given!r}")
    return tuple(names)


Adjustment = Callable[[pd.DataFrame, int], FloatArray]


def _none(table: pd.DataFrame, m: int) -> FloatArray:
    return table.p_value.to_numpy()


def _bonferroni(table: pd.DataFrame, m: int) -> FloatArray:
    """p times their number."""
    return np.minimum(1.0, table.p_value.to_numpy() * int(table.p_value.notna().sum()))


def _holm(table: pd.DataFrame, m: int) -> FloatArray:
    """The i-th smallest of c p values times c - i + 1, never below an earlier one (Holm 1979)."""
    p = table.p_value.to_numpy()
    order = np.argsort(p)[: int(table.p_value.notna().sum())]
    out = np.full(len(p), np.nan)
    steps = p[order] * np.arange(len(order), 0, -1)
    out[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return out


def _tukey(table: pd.DataFrame, m: int) -> FloatArray:
    """P(studentised range of m means > sqrt(2) |t|); the p value itself for two means."""
    t = np.abs(table.iloc[:, 3].to_numpy()) * np.sqrt(2.0)
    if m <= 2:
        return _none(table, m)
    return np.asarray(stats.studentized_range.sf(t, m, table.df.to_numpy()))


ADJUSTMENTS: dict[str, Adjustment] = {"tukey": _tukey, "holm": _holm, "bonferroni": _bonferroni, "none": _none}


def _labels(levels: pd.DataFrame) -> list[str]:
    return [" ".join(map(str, row)) for row in levels.itertuples(index=False)]


def _weights(weights: Mapping[str, Sequence[float]], labels: list[str]) -> dict[str, FloatArray]:
    if not isinstance(weights, Mapping):
        raise ModelError(f"contrast: a mapping name -> weights, such as {{'first': [1, -1]}}, not {weights!r}")
    out = {}
    for name, values in weights.items():
        row = np.asarray(values, dtype=np.float64)
        if row.shape != (len(labels),):
            raise ModelError(f"contrast '{name}': {len(labels)} weights, for {', '.join(labels)}; not {values!r}")
        out[str(name)] = row
    return out
