"""BLUPs of the random effects and their standard errors."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .._errors import ModelError
from ..terms import RandomTerm

if TYPE_CHECKING:
    from ..results import Fit

KINDS = {False: None, True: "conditional", "conditional": "conditional", "prediction": "prediction"}


def random_effects(fit: "Fit", se: bool | str = False) -> dict[str, pd.DataFrame]:
    """Group -> levels by effects; terms on one factor share a frame. With se, `<effect>_se` beside each."""
    if se not in KINDS:
        raise ModelError(f"ranef(se={se!r}): one of False, True, 'conditional', 'prediction'")
    kind = KINDS[se]
    errors = None
    if kind is not None:
        cov = fit.likelihood.random_vcov(fit.estimate.evaluation.theta, fit.sigma, prediction=kind == "prediction")
        errors = [np.sqrt(np.einsum("lii->li", c)) for c in cov]
    frames: dict[str, pd.DataFrame] = {}
    for k, term in enumerate(fit.spec.terms):
        frame = _frame(term, fit.estimate.evaluation.b[k], None if errors is None else errors[k])
        shared = frames.get(term.name)
        if shared is None:
            frames[term.name] = frame
        elif len(shared) == len(frame) and not set(shared.columns) & set(frame.columns):
            frames[term.name] = pd.concat([shared, frame], axis=1)
        else:
            frames[term.describe().strip("()")] = frame
    return frames


def _frame(term: RandomTerm, b: np.ndarray, errors: np.ndarray | None) -> pd.DataFrame:
    index = pd.Index(term.labels(), name=term.name)
    frame = pd.DataFrame(b, index=index, columns=list(term.effects))
    if errors is not None:
        for j, effect in enumerate(term.effects):
            frame[f"{effect}_se"] = errors[:, j]
    return frame
