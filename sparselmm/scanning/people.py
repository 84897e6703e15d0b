"""Which sample of the genotypes each row of a model belongs to, and covariates of interactions over its rows."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from .._errors import DataError, ModelError
from .._typing import FloatArray, IntArray
from ..formula import build_spec
from ..formula.table import open_table
from ..results import Fit
from ..terms import ROUNDING, ModelSpec

SHOWN = 3  # ids that an error names


def align(
    fit: Fit, sample: Any, samples: pd.Index | None, n_samples: int, data: Any = None
) -> tuple[IntArray, IntArray]:
    """codes (n,) of the person of each row, and people (m,): the place of each person among the samples.

    sample: a column of `data`, a grouping factor of the model by its name, labels of the rows (nobs,), or None where
    rows are samples in their order. Labels are compared as text, those of `fam` files being text.
    Errors: DataError, ModelError with the ids that have no match.
    """
    if sample is None:
        return _in_order(fit, samples, n_samples)
    labels = _labels(fit, sample) if data is None else _column_of(data, fit, sample)
    codes, unique = pd.factorize(labels)
    if (codes < 0).any():
        raise DataError(f"sample: {int((codes < 0).sum())} of {len(codes)} rows have no label; leave these rows out")
    known = pd.Index(map(str, range(n_samples))) if samples is None else samples.map(str)
    _check_unique(known)
    people = known.get_indexer(pd.Index(unique).map(str))
    if (people < 0).any():
        missing = [str(x) for x in pd.Index(unique)[people < 0]]
        raise DataError(
            f"{len(missing)} of {len(unique)} samples of the model are not among the {n_samples} of the genotypes: "
            f"{_some(missing)} (there: {_some(known)}). Leave their rows out of the fit, or give sample= that matches"
        )
    return codes.astype(np.int64), people.astype(np.int64)


def _in_order(fit: Fit, samples: pd.Index | None, n_samples: int) -> tuple[IntArray, IntArray]:
    if samples is not None:
        raise ModelError(
            f"the genotypes have ids ({_some(samples)}): say which sample each row of the model is, by sample='g', a "
            f"grouping factor of the model, or by an array of {fit.nobs} ids"
        )
    if n_samples != fit.nobs:
        raise DataError(
            f"the genotypes have {n_samples} samples and the model {fit.nobs} rows ({fit.spec.n_dropped} rows of the "
            "table were dropped): say by sample= which sample each row is"
        )
    return np.arange(n_samples), np.arange(n_samples)


def _labels(fit: Fit, sample: Any) -> Any:
    """Labels of the rows, (n,)."""
    if not isinstance(sample, str):
        labels = np.asarray(sample)
        if labels.ndim != 1:
            raise ModelError(f"sample: a name or {fit.nobs} labels are needed, not an array of shape {labels.shape}")
        if len(labels) != fit.nobs:
            raise DataError(f"sample: {len(labels)} labels for the {fit.nobs} rows of the model")
        return pd.Index(labels)
    for term in fit.spec.terms:
        if term.name == sample and isinstance(term.Z, np.ndarray):
            return pd.Index(term.labels())[term.Z]
    names = [t.name for t in fit.spec.terms if isinstance(t.Z, np.ndarray)]
    raise ModelError(
        f"sample='{sample}' is no grouping factor of the model ({', '.join(names) or 'it has none'}); give the ids of "
        f"its {fit.nobs} rows as an array"
    )


def _column_of(data: Any, fit: Fit, sample: Any) -> pd.Index:
    """A column of the table that the model was fitted to, in the rows that it used."""
    table, coding = open_table(data), fit.spec.encoding
    if coding is None:
        raise ModelError(f"data= is for models from formulas; give the ids of the {fit.nobs} rows as sample=")
    if not isinstance(sample, str) or sample not in table.columns:
        raise ModelError(f"sample={sample!r} with data=: a column of data is needed; it has {', '.join(table.columns)}")
    names = {*coding.categories, coding.weights_column, coding.offset_column} & set(table.columns)
    keep = ~np.any([pd.isna(table.get_column(name).to_pandas()) for name in sorted(names)], axis=0)
    if keep.sum() != fit.nobs or not _is_table_of(fit.spec, table.filter(keep.tolist())):
        raise DataError(
            f"data: {keep.sum()} of {len(table)} rows have all that the model reads, which has {fit.nobs}, these or "
            "others; give the table of the fit as it was, or the ids of the rows that it used as sample="
        )
    return pd.Index(table.get_column(sample).to_pandas()[keep])


def _is_table_of(spec: ModelSpec, table: Any) -> bool:
    """Whether its rows have the response and the fixed effects of the model, in this order."""
    response, coding = str(spec.formula).partition("~")[0], spec.encoding
    y = build_spec(f"{response} ~ 1", table, context=coding.context).y
    pairs = [(y[:, None], spec.y[:, None]), (coding.fixed(table), spec.design)]
    return all(abs(a - b).max() <= ROUNDING * (1.0 + abs(b).max()) for a, b in pairs if b.shape[1])


def _check_unique(samples: pd.Index) -> None:
    if not samples.is_unique:
        twice = samples[samples.duplicated()]
        raise DataError(
            f"{len(twice)} ids of samples stand twice among the genotypes: {_some(twice)}; give samples=, "
            "a different one for each"
        )


def _some(labels: Any) -> str:
    shown = ", ".join(repr(str(x)) for x in list(labels[:SHOWN]))
    return shown + (", ..." if len(labels) > SHOWN else "")


def covariates(spec: ModelSpec, interact: Any) -> tuple[FloatArray, tuple[str, ...]]:
    """[1, c_1, ...] (n, c) and names of all but the first.

    interact: a coefficient's name or several, whose columns of X are taken, or a mapping from names to arrays (n,).
    Errors: ModelError, DataError.
    """
    if interact is None:
        return np.ones((spec.n, 1)), ()
    given = {interact: None} if isinstance(interact, str) else interact
    if not np.iterable(given):
        raise ModelError(f"interact={interact!r}: names of coefficients, or a mapping from names to arrays")
    names = tuple(map(str, given))
    values = [given[name] if isinstance(given, Mapping) else None for name in given]
    columns = [_column(spec, name, v) for name, v in zip(names, values, strict=True)]
    out = np.column_stack([np.ones(spec.n), *columns])
    if np.linalg.matrix_rank(out / np.abs(out).max(axis=0).clip(1e-300)) < out.shape[1]:
        raise ModelError(f"interact: {', '.join(names)} and a constant depend on each other linearly; leave one out")
    return out, names


def _column(spec: ModelSpec, name: str, values: Any) -> FloatArray:
    if values is None:
        if name not in spec.fixed_names[: spec.X.shape[1]]:
            raise ModelError(f"interact: no coefficient '{name}'; there are {', '.join(spec.fixed_names)}")
        return spec.X[:, spec.fixed_names.index(name)]
    try:
        out = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        out = np.zeros(0)
    if out.shape != (spec.n,) or not np.isfinite(out).all():
        raise DataError(f"interact: '{name}' must be {spec.n} finite numbers, one a row of the model")
    return out
