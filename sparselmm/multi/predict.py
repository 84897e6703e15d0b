"""Predicted means of all traits in new rows."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .._errors import ModelError
from ..inference.new_rows import TermFacts
from ..inference.posterior import Posterior
from ..inference.predict import Predictor, term_facts
from ..inference.residual_scales import new_residual_scales

if TYPE_CHECKING:
    from .result import MultiFit

POLICIES = ("population", "error")


def predict(multi: "MultiFit", newdata: Any, re: bool | str | Sequence[str], new_levels: str) -> pd.DataFrame:
    """X beta + Z b, rows by traits. Errors: ModelError for an unknown word; those of `Fit.predict`."""
    if new_levels not in POLICIES:
        raise ModelError(f"new_levels={new_levels!r}: one of {', '.join(map(repr, POLICIES))}")
    facts, fit = _facts(multi), multi.fit

    def predictor(t: int) -> Predictor:
        beta = np.nan_to_num(multi.fixef.to_numpy()[t])
        return Predictor(
            multi.stacked.wide.encoding, facts, (), beta, multi.effects(t), fit.sigma, None,
            lambda rows: new_residual_scales(fit, rows), lambda: Posterior.of(fit),
        )  # fmt: skip

    columns = [predictor(t).predict(newdata, re=re, new_levels=new_levels) for t in range(len(multi.traits))]
    index = newdata.index if isinstance(newdata, pd.DataFrame) else None
    return pd.DataFrame(np.column_stack(columns), index=index, columns=list(multi.traits))


def _facts(multi: "MultiFit") -> list[TermFacts]:
    """Of the terms as the user wrote them."""
    stacked = term_facts(multi.fit)
    whole = [k for k, _ in multi.stacked.source]
    terms = enumerate(multi.stacked.wide.terms)
    return [replace(stacked[whole.index(k)], n_effects=term.n_effects) for k, term in terms]
