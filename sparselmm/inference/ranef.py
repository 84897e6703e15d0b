"""BLUPs of the random effects and their standard errors."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .._errors import ModelError
from .._typing import FloatArray
from ..terms import RandomTerm

if TYPE_CHECKING:
    from ..results import Fit

KINDS = {"False": None, "True": "conditional", "conditional": "conditional", "prediction": "prediction"}


def random_effects(fit: "Fit", se: bool | str = False) -> dict[str, pd.DataFrame]:
    """Group -> levels by effects; terms on one factor share a frame. With se, `<effect>_se` beside each."""
    errors = effect_errors(fit, se)
    frames: dict[str, pd.DataFrame] = {}
    for term, b, error in zip(fit.spec.terms, fit.estimate.evaluation.b, errors, strict=True):
        frame = effect_table(term, b, error)
        shared = frames.get(term.name)
        if shared is None:
            frames[term.name] = frame
        elif shared.index.equals(frame.index) and not set(shared.columns) & set(frame.columns):
            frames[term.name] = pd.concat([shared, frame], axis=1)
        else:
            frames[term.describe()] = frame
    return frames


def effect_errors(fit: "Fit", se: bool | str) -> Sequence[FloatArray | None]:
    """Standard deviations (m, r) of each term's effects; se as in `Fit.ranef`."""
    if str(se) not in KINDS:
        raise ModelError(f"ranef(se={se!r}): one of False, True, 'conditional', 'prediction'")
    kind = KINDS[str(se)]
    if kind is None:
        return [None] * len(fit.spec.terms)
    cov = fit.likelihood.random_vcov(fit.estimate.evaluation.theta, fit.sigma, prediction=kind == "prediction")
    return [np.sqrt(np.maximum(np.einsum("lii->li", c), 0.0)) for c in cov]  # less is rounding


def effect_table(
    term: RandomTerm, b: FloatArray, errors: FloatArray | None = None, effects: Sequence[str] | None = None
) -> pd.DataFrame:
    """b (m, r) as a table, levels by effects; with errors (m, r) `<effect>_se` beside each. effects: other names."""
    effects = term.effects if effects is None else effects
    index = term.levels
    if not isinstance(index, pd.Index):
        index = pd.Index(term.labels(), name=term.name, tupleize_cols=False)
    frame = pd.DataFrame(b, index=index, columns=list(effects), copy=True)
    if errors is None:
        return frame
    names = [name for e in effects for name in (e, f"{e}_se")]
    return frame.assign(**{f"{e}_se": errors[:, j] for j, e in enumerate(effects)})[names]
