"""What of a fit gives the standard errors of predictions later: the mixed-model equations, solved."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.linalg as sla
import scipy.sparse as sp

from .._errors import ModelError
from .._typing import FloatArray, IntArray
from ..coefficients import Functionals, Inverse
from ..engines import Pattern, make_engine
from .factorised import sparse_likelihood
from .posterior import Posterior
from .residual_scales import ResidualFacts

if TYPE_CHECKING:
    from ..results import Fit


@dataclass(frozen=True, eq=False)  # without slots, which a cached property needs
class Uncertainty:
    """The joint covariance of beta_hat and b_hat - b, exactly: M is factorised again where it is asked for.

    indptr, indices, values: the lower triangle of M. E: (q, p), RX, R: (p, p), as in `coefficients`. kept: columns of
    X. sizes: random effects of each term. T: with b = T v, in the effects' units. factors: T of effects that the fit
    does not have.
    """

    indptr: IntArray
    indices: IntArray
    values: FloatArray
    E: FloatArray
    RX: FloatArray
    R: FloatArray
    kept: IntArray
    sizes: tuple[int, ...]
    T: tuple[FloatArray, ...]
    factors: tuple[FloatArray, ...]
    residual: ResidualFacts

    @classmethod
    def of(cls, fit: "Fit", factors: Sequence[FloatArray]) -> "Uncertainty":
        """Errors: ModelError for sparse fixed effects and precisions with a null space, whose equations are larger."""
        likelihood, theta = sparse_likelihood(fit), fit.estimate.evaluation.theta
        fixed, p = likelihood.products.fixed, len(likelihood.kept)
        if fit.spec.S is not None or likelihood.n_fixed != p:
            raise ModelError(
                "save(se=True) is not there for sparse fixed effects and for precisions with a null space; save() "
                "keeps the estimates, and fit.predict(se=True) has the standard errors"
            )
        at, pattern = likelihood.solution(theta), likelihood.equations.pattern
        return cls(
            pattern.indptr, pattern.indices, likelihood._values(at.theta, at.products, at.T), at.E[:, :p], at.RX,
            fixed.R, likelihood.kept, tuple(t.n_random for t in fit.spec.terms), tuple(likelihood._own_factors(theta)),
            tuple(factors), ResidualFacts.of(fit),
        )  # fmt: skip

    @cached_property
    def posterior(self) -> Posterior:
        """Costs an analysis and a factorisation of M."""
        pattern = Pattern(self.indptr, self.indices)
        engine = make_engine("auto", pattern)
        engine.factorize(self.values)
        none: FloatArray = np.zeros((pattern.q, 0))
        inverse = Inverse(engine.solve, self.E, self.RX)
        return Posterior(engine, pattern, self.kept, partial(functionals, self), inverse, none, none)


def functionals(stored: Uncertainty, x: Any, Z: Sequence[sp.csr_array | None]) -> Functionals:
    """K of x'beta + sum_k Z_k b_k: Kv = (I x T_k)'Z_k' and Kb = R^-T x'."""
    n = sp.csr_array(x).shape[0]
    parts = [
        sp.csr_array((n, size)) if Zk is None else sp.csr_array(Zk @ sp.kron(sp.eye_array(size // len(T)), T, "csr"))
        for Zk, T, size in zip(Z, stored.T, stored.sizes, strict=True)
    ]
    S = sp.csr_array(sp.hstack(parts, format="csr")) if parts else sp.csr_array((n, 0))
    Kb = sla.solve_triangular(stored.R, sp.csr_array(x).toarray().T, trans="T")
    return Functionals(S, np.zeros((n, 0)), Kb)
