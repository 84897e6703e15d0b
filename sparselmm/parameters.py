"""theta of a model: which structure owns which part of it, and what the parts are called."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from ._errors import ModelError
from ._typing import FloatArray
from .structures import Covariance, Precision
from .structures.base import Residual
from .structures.intrinsic import proper
from .structures.limits import Bounds, bounds_of
from .terms import ModelSpec, is_rival


class Parameters:
    """theta of a model: the structures' parameters one term after another, then R's, with names and slices.

    precisions: as the equations use them, positive definite, levels of variance one; scales: the standard deviation
    that they had, so that b = scale T v. rivals: terms that could stand for the residuals.
    """

    def __init__(self, spec: ModelSpec):
        self.structures: list[Covariance] = [t.covariance for t in spec.terms]
        made = [proper(t.Q) for t in spec.terms]
        self.precisions: list[Precision | None] = [Q for Q, _ in made]
        self.scales = [scale for _, scale in made]
        self.slices: list[slice] = []
        self.rho_slices: list[slice] = []
        self.count = 0
        names: list[str] = []
        natural: list[str] = []
        for term, T, Q in zip(spec.terms, self.structures, self.precisions, strict=True):
            self.slices.append(self._take(T.n_params))
            self.rho_slices.append(self._take(0 if Q is None else Q.n_params))
            names += T.names(term.effects, term.name)
            natural += T.natural_names(term.effects, term.name)
            if Q is not None:
                names += Q.names(term.effects[0], term.name)
                natural += Q.natural_names(term.effects[0], term.name)
        self.rivals = [] if spec.residual is not None else [k for k, t in enumerate(spec.terms) if is_rival(t)]
        self.residual = spec.residual
        self.residual_slice = self._take(0 if spec.residual is None else spec.residual.n_params)
        if spec.residual is not None:
            names += spec.residual.names()
            natural += spec.residual.natural_names()
        self.names, self.natural_names = tuple(names), tuple(natural)

    def _take(self, size: int) -> slice:
        self.count += size
        return slice(self.count - size, self.count)

    def with_structures(self, structures: list[Covariance]) -> "Parameters":
        """The same parameters where T of each term has other coordinates, as many."""
        out = copy.copy(self)
        out.structures = structures
        return out

    def check(self, theta: Any) -> FloatArray:
        """theta as a vector of the right length; ModelError names the parameters."""
        try:
            out = np.asarray(theta, dtype=np.float64)
        except (TypeError, ValueError):
            out = np.full(1, np.nan)
        if out.shape != (self.count,) or not np.isfinite(out).all():
            names = f", for {', '.join(self.names)}" if self.names else ""
            raise ModelError(f"theta must be {self.count} finite numbers{names}; not {theta}")
        return out

    def parts(self, theta: FloatArray) -> list[FloatArray]:
        """theta of each term."""
        return [theta[s] for s in self.slices]

    def blocks(self) -> list[tuple[Covariance | Precision | Residual, slice]]:
        """Every structure that has parameters, with its place in theta."""
        structures = [*self.structures, *self.precisions, self.residual]
        parts = [*self.slices, *self.rho_slices, self.residual_slice]
        pairs = zip(structures, parts, strict=True)
        return [(s, part) for s, part in pairs if s is not None and part.stop > part.start]

    def bounds(self) -> Bounds:
        """Where the parameters of precisions and of the residual have come to an end of their space, (k,) each."""
        low, high = np.full(self.count, -np.inf), np.full(self.count, np.inf)
        for structure, part in self.blocks():
            low[part], high[part] = bounds_of(structure)
        return low, high

    def to_natural(self, theta: FloatArray) -> FloatArray:
        """Relative standard deviations, correlations, parameters of the precisions, (k,)."""
        out = np.empty(self.count)
        for structure, part in self.blocks():
            out[part] = structure.to_natural(theta[part])
        return out

    def canonical(self, theta: FloatArray) -> FloatArray:
        """theta with the same covariances that is reported."""
        out = theta.copy()
        for structure, part in zip(self.structures, self.slices, strict=True):
            out[part] = structure.canonical(theta[part])
        return out

    def start(self, roots: Sequence[FloatArray]) -> FloatArray:
        """theta from a root of each G, (r, r); the precisions and the residual at their own start."""
        out = np.empty(self.count)
        for structure, part, root in zip(self.structures, self.slices, roots, strict=True):
            out[part] = structure.nearest(root)
        for Q, part in zip(self.precisions, self.rho_slices, strict=True):
            if Q is not None:
                out[part] = Q.start()
        if self.residual is not None:
            out[self.residual_slice] = self.residual.start()
        return out
