"""Replicates of a bootstrap: a block of responses at a time where `many` knows the model, else one after another."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np

from .._errors import SparselmmError
from .._typing import FloatArray
from ..dense import DenseLikelihood
from ..engines.threads import blas_threads
from ..fitting import Estimate, estimate
from ..likelihood import Likelihood
from ..many.blocks import Fitter, fit_block
from ..many.design import Design
from ..many.factors import linear_units
from ..many.general import General, is_general
from ..many.spectral import Spectral, is_one_ratio
from .refit import Responses, anchored
from .replicates import Replicate
from .simulate import Simulator
from .varpar import natural_values

if TYPE_CHECKING:
    from ..results import Fit

TOGETHER, CELLS = 256, 4_000_000  # responses of a block, values of a block, at most
FEW_ROWS = 20_000  # beyond them one after another is as fast (100,000 rows: 65 ms together, 15 to 60 alone)
KEPT_BYTES = 1e9  # of an engine: smaller ones have a second one for the factor where all searches begin
DECOMPOSED = 500  # levels whose kernel is decomposed, q^3 once: 0.1 s


class Sampler(Protocol):
    """Draws and fits replicates."""

    @property
    def size(self) -> int:
        """How many at a time."""

    def replicates(self, numbers: Sequence[int]) -> list[Replicate]:
        """Those with these numbers."""


class OneByOne:
    """Number i is drawn and fitted by a search from the fit's own theta; all that this needs is had once."""

    size = 1

    def __init__(self, fit: "Fit", effects: str, seed: int):
        self.fit, self.seed = fit, seed
        self.simulator = Simulator.of(fit, effects)
        self.start = None if fit.is_singular else fit.estimate.evaluation.theta

    @cached_property
    def responses(self) -> Responses:
        """The model for any response; with a factor of its own for where all searches begin."""
        likelihood, one_start = self.fit.likelihood, self.start is not None and not self.fit.estimate.held
        if one_start and isinstance(likelihood, Likelihood) and likelihood.engine.memory <= KEPT_BYTES:
            return Responses(anchored(likelihood))
        return Responses(likelihood)

    def replicates(self, numbers: Sequence[int]) -> list[Replicate]:
        """Those with these numbers."""
        with blas_threads(self.fit.likelihood.flops):
            return [self.fitted(i, self.draw(i)) for i in numbers]

    def draw(self, i: int) -> FloatArray:
        """The response of number i, (nobs,)."""
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(i,)))
        return self.simulator.draw(1, rng)[:, 0]

    def fitted(self, i: int, y: FloatArray) -> Replicate:
        """Number i, whose response is y; NaN where it cannot be fitted."""
        fit, beta = self.fit, np.full(len(self.fit.spec.fixed_names), np.nan)
        found = self._search(y, self.start)
        if found is None:
            count = len(beta) + fit.likelihood.parameters.count + 1
            return Replicate(i, (np.nan,) * count, False, False)
        at = found.evaluation
        beta[fit.likelihood.kept] = at.beta
        values = np.append(beta, natural_values(fit.likelihood.parameters, at.theta, at.sigma))
        return Replicate(i, tuple(values.tolist()), found.converged, found.is_singular)

    def _search(self, y: FloatArray, start: FloatArray | None) -> Estimate | None:
        """None where y cannot be fitted."""
        fit = self.fit
        try:
            return estimate(self.responses.likelihood(y), reml=fit.reml, held=fit.estimate.held, start=start)
        except SparselmmError:
            return None

    def deviances(self, Y: FloatArray) -> FloatArray:
        """The lowest deviance of each column of Y (nobs, v); NaN where it cannot be fitted."""
        with blas_threads(self.fit.likelihood.flops):
            return np.array([self.deviance(y, self.start) for y in Y.T])

    def deviance(self, y: FloatArray, start: FloatArray | None = None) -> float:
        """Where a search for the response y from `start` ended, by moments if None."""
        found = self._search(y, start)
        return np.nan if found is None else found.evaluation.deviance


@dataclass(frozen=True, slots=True, eq=False)
class Together:
    """Blocks of responses through `many`, in which no response's numbers depend on the others.

    One that does not converge there is fitted alone.
    """

    alone: OneByOne
    fitter: Fitter
    size: int

    def replicates(self, numbers: Sequence[int]) -> list[Replicate]:
        """Those with these numbers."""
        Y = np.column_stack([self.alone.draw(i) for i in numbers])
        found = fit_block(self.fitter, Y.copy(order="K"))
        values = np.column_stack([found.beta, found.varpar, found.sigma]).tolist()
        return [
            Replicate(i, tuple(values[j]), True, bool(found.is_singular[j]))
            if found.converged[j]
            else self.alone.fitted(i, Y[:, j])
            for j, i in enumerate(numbers)
        ]

    def deviances(self, Y: FloatArray) -> FloatArray:
        """As `OneByOne.deviances`."""
        found = fit_block(self.fitter, Y.copy(order="K"))
        out = -2.0 * found.loglik
        out[~found.converged] = self.alone.deviances(Y[:, ~found.converged])
        return out


def make_sampler(fit: "Fit", effects: str, seed: int) -> OneByOne | Together:
    """The sampler that suits the model."""
    alone = OneByOne(fit, effects, seed)
    if not _is_for_many(fit):
        return alone
    design = Design(fit.spec)
    if is_one_ratio(design) and fit.spec.q <= DECOMPOSED:
        fitter: Fitter = Spectral(design, fit.reml, ddf=False)
    elif is_general(design):
        fitter = General(design, fit.reml, ddf=False)
        fitter.starts = np.vstack([fit.estimate.evaluation.theta, fitter.starts])
    else:
        return alone
    return Together(alone, fitter, int(np.clip(CELLS // fit.nobs, 1, TOGETHER)))


def _is_for_many(fit: "Fit") -> bool:
    """Few rows, nothing held, every T linear in theta (`hcs` has local optima), and not the user's dense engine."""
    spec, structures = fit.spec, fit.likelihood.parameters.structures
    if fit.estimate.held or spec.S is not None or spec.n > FEW_ROWS or isinstance(fit.likelihood, DenseLikelihood):
        return False
    proper = all(t.Q is None or not t.Q.null_dim for t in spec.terms)
    return proper and all(linear_units(s) is not None for s in structures)
