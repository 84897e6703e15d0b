"""Likelihood ratios of responses drawn from the smaller of two models: their distribution by parametric bootstrap."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .._typing import FloatArray
from .arguments import check_count
from .bootstrap import portable, replicates
from .replicates import Header, Replicate, Store
from .samplers import OneByOne, Together, make_sampler

if TYPE_CHECKING:
    from ..results import Fit

ROUNDING = 1e-9  # of a deviance, relative: what two searches for one optimum differ by


def likelihood_ratios(
    small: "Fit",
    large: "Fit",
    n: int = 1000,
    seed: int | None = None,
    *,
    workers: int = 1,
    file: Any = None,
    progress: bool = False,
) -> FloatArray:
    """n differences of the two deviances, each of one response drawn from `small`, (n,); NaN where a fit failed.

    The arguments are those of `bootstrap`. Both models are fitted by the criterion of their fits.
    """
    check_count(n, "n")
    check_count(workers, "workers")
    estimates = pd.concat([small.fixef, small.varpar, large.fixef, large.varpar])
    store = Store.open(file, Header.of(small, estimates, "new", seed))
    if workers > 1:
        small, large = portable(small), portable(large)
    found = replicates(partial(Ratios, small, large, store.seed), store, n, workers, progress)
    return np.array([r.values[0] for r in found])


def tail_share(observed: float, drawn: FloatArray, deviance: float) -> float:
    """(1 + #{drawn >= observed}) / (1 + n), NaN left out (Davison & Hinkley 1997, section 4.2); deviance: its size."""
    known = drawn[~np.isnan(drawn)]
    return float((1 + (known >= observed - ROUNDING * max(1.0, abs(deviance))).sum()) / (1 + len(known)))


class Ratios:
    """Draws from the smaller model and fits both, a block at a time where both can."""

    def __init__(self, small: "Fit", large: "Fit", seed: int):
        self.small, self.large = (make_sampler(fit, "new", seed) for fit in (small, large))
        self.size = min(self.small.size, self.large.size)

    def replicates(self, numbers: Sequence[int]) -> list[Replicate]:
        """value: the deviance of the smaller model less that of the larger one, zero at least."""
        draw = _alone(self.small).draw
        Y = np.column_stack([draw(i) for i in numbers])
        below, above = self.large.deviances(Y), self.small.deviances(Y)
        allowed = ROUNDING * np.abs(above)
        for j in np.flatnonzero(below > above + allowed):  # the larger model's search ended at another minimum
            below[j] = np.fmin(below[j], _alone(self.large).deviance(Y[:, j]))
        ratio = np.where(below > above + allowed, np.nan, np.maximum(above - below, 0.0))
        return [Replicate(i, (float(x),), not np.isnan(x), False) for i, x in zip(numbers, ratio, strict=True)]


def _alone(sampler: OneByOne | Together) -> OneByOne:
    return sampler.alone if isinstance(sampler, Together) else sampler
