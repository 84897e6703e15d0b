"""The mixed-model equations solved at the estimates, with a factor of M that nobody else refills."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import scipy.linalg as sla

from .._typing import FloatArray
from ..engines import Engine, make_engine
from ..equations import Equations
from ..likelihood import Likelihood, Solution

if TYPE_CHECKING:
    from ..results import Fit


@dataclass(frozen=True, slots=True, eq=False)
class Factorised:
    """likelihood: sparse. solution: at the estimates. engine: M factorised there, and kept so."""

    likelihood: Likelihood
    solution: Solution
    engine: Engine

    @property
    def equations(self) -> Equations:
        """The equations and their pattern."""
        return self.likelihood.equations

    def values(self) -> FloatArray:
        """M on its pattern, (nnz,)."""
        return self.likelihood._values(self.solution.theta, self.solution.products, self.solution.T)

    @property
    def fixed_part(self) -> FloatArray:
        """N (q, p) with (C^-1)_vv = M^-1 + N N'."""
        E, RX = self.solution.E, self.solution.RX
        return sla.solve_triangular(RX, E[:, : len(RX)].T, lower=True).T


def sparse_likelihood(fit: "Fit") -> Likelihood:
    """The fit's own, or one made of its model where the fit used n x n matrices."""
    return fit.likelihood if isinstance(fit.likelihood, Likelihood) else Likelihood(fit.spec)


def factorise(fit: "Fit") -> Factorised:
    """Solve and factorise at the estimates; costs an analysis and a factorisation."""
    likelihood, theta = sparse_likelihood(fit), fit.estimate.evaluation.theta
    solution, equations = likelihood.solution(theta), likelihood.equations
    engine = make_engine("auto", equations.pattern)
    out = Factorised(likelihood, solution, engine)
    engine.factorize(out.values())
    return out
