"""What a scan gives: one table, a row a marker (and trait)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from .._errors import ModelError
from .._typing import AnyArray

MEDIAN = float(stats.chi2.median(1))


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """Association of markers with the response of a null model, or of several.

    table: a row a marker and trait, with `marker`, what is known of `chromosome`, `position`, `allele`, then `n`
    (people with a genotype), `mean`, `effect`, `se`, `statistic`, `p_value`, `minus_log10_p` (of p-values below
    1e-308 too, which are zero), `reason` (why a row has none, or what was wrong when it was estimated again).
    traits: names of the responses. effects: ("",) and a suffix for each interaction.
    """

    table: pd.DataFrame
    traits: tuple[str, ...]
    effects: tuple[str, ...] = ("",)

    def to_frame(self) -> pd.DataFrame:
        """A copy of the table."""
        return self.table.copy()

    def to_parquet(self, path: Any) -> None:
        """Write the table; pyarrow is needed."""
        pa, pq = parquet()
        pq.write_table(pa.Table.from_pandas(self.table, preserve_index=False), path)

    def lambda_gc(self, trait: str | None = None) -> float:
        """Median chi^2 (1 df) of the p-values over its expectation (Devlin & Roeder 1999)."""
        return lambda_gc(self.of(trait)["p_value"].to_numpy())

    def of(self, trait: str | None = None) -> pd.DataFrame:
        """Rows of one trait. Errors: ModelError where it is not there, or None and there are several."""
        if trait is None and len(self.traits) == 1:
            return self.table
        if trait not in self.traits:
            raise ModelError(f"trait={trait!r}: one of {', '.join(map(repr, self.traits))}")
        return self.table[self.table["trait"] == trait]

    def __repr__(self) -> str:
        tested = int(self.table["p_value"].notna().sum())
        return f"<sparselmm scan: {len(self.table):,} rows, {tested:,} tested; traits: {', '.join(self.traits)}>"


def lambda_gc(p: AnyArray) -> float:
    """Median of the chi^2 (1 df) that belong to p-values over the expected one; NaN are left out."""
    known = p[~np.isnan(p)]
    return float(np.median(stats.chi2.isf(known, 1))) / MEDIAN if len(known) else float("nan")


def parquet() -> tuple[Any, Any]:
    """pyarrow and pyarrow.parquet. Errors: ModelError where they are missing."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ModelError('Parquet needs pyarrow: pip install "sparselmm[arrow]"') from error
    return pa, pq
