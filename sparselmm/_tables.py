"""Tables whose text shows every column."""

from collections.abc import Callable

import pandas as pd

WIDTH = 100  # characters of a line


class Table(pd.DataFrame):
    """A DataFrame that a console shows with all of its columns, below each other where a line would be too long."""

    @property
    def _constructor(self) -> Callable[..., pd.DataFrame]:
        return Table

    def __repr__(self) -> str:
        with pd.option_context("display.max_columns", None, "display.width", WIDTH):
            return super().__repr__()
