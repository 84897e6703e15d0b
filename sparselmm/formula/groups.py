"""Grouping factors: integer codes of columns, their interactions, and the codes of new rows."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from .._errors import DataError
from .._typing import AnyArray, IntArray
from ..kernels.codes import code_integers, interaction_codes
from ..terms import GroupingFactor

DENSE = 4  # integers with gaps are counted in a table while it has at most so many places a row


class GroupCoder:
    """Codes the grouping columns of a frame, each only once however many terms use it."""

    def __init__(self, frame: pd.DataFrame):
        self._frame = frame
        self._coded: dict[str, tuple[AnyArray, tuple[Any, ...]]] = {}

    def factor(self, names: Sequence[str]) -> GroupingFactor:
        """The factor of one column, or the interaction of several; levels in sorted (category) order."""
        for name in names:
            if name not in self._coded:
                self._coded[name] = code_column(self._frame[name])
        factors, labels = zip(*(self._coded[name] for name in names), strict=True)
        codes, part_codes = interaction_codes(factors, [len(part) for part in labels])
        return GroupingFactor(":".join(names), codes.astype(np.int32, copy=False), labels, part_codes)


def code_column(values: pd.Series) -> tuple[AnyArray, tuple[Any, ...]]:
    """Codes (n,) and the labels of the levels; `values` has no missing value and no unused category."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        return values.cat.codes.to_numpy(dtype=np.int32, copy=True), tuple(values.cat.categories.tolist())
    if values.dtype.kind == "i" and len(values):
        numbers = values.to_numpy(dtype=np.int64)
        low, span = int(numbers.min()), int(numbers.max()) - int(numbers.min()) + 1
        if span <= DENSE * len(numbers):
            code_of, codes = np.full(span, -1, dtype=np.int32), np.empty(len(numbers), dtype=np.int32)
            code_integers(numbers, low, code_of, codes)
            return codes, tuple((low + np.flatnonzero(code_of >= 0)).tolist())
    codes, levels = pd.factorize(values, sort=True)
    return codes.astype(np.int32), tuple(levels.tolist())


def code_new_column(labels: Sequence[Any], values: pd.Series) -> IntArray:
    """Codes of `values` among known `labels`, -1 where a value is none of them.

    Errors: DataError when one is text and the other is not, so that nothing could ever match.
    """
    codes, found = code_column(values)
    if found and isinstance(found[0], str) != isinstance(labels[0], str):
        raise DataError(
            f"column '{values.name}': its levels were like {labels[0]!r} in the fit and are like {found[0]!r} now; "
            "convert the column"
        )
    return pd.Index(labels).get_indexer(pd.Index(found))[codes].astype(np.int64)


def code_new_rows(levels: GroupingFactor, parts: Sequence[IntArray]) -> IntArray:
    """Levels of new rows from the codes of their components, -1 where the combination is unknown."""
    known = np.logical_and.reduce([part >= 0 for part in parts])
    joined = [np.concatenate([levels.part_codes[:, j], part[known]]) for j, part in enumerate(parts)]
    codes, combinations = interaction_codes(joined, [len(labels) for labels in levels.parts])
    level = np.full(len(combinations), -1, dtype=np.int64)
    level[codes[: levels.n_levels]] = np.arange(levels.n_levels)
    out = np.full(len(known), -1, dtype=np.int64)
    out[known] = level[codes[levels.n_levels :]]
    return out
