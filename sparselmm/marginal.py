"""M without the user's sparse fixed effects: what the likelihood, other than the restricted one, integrates out."""

import numpy as np

from ._typing import FloatArray, IntArray
from .engines import Engine, make_engine
from .equations import Equations


class Marginal:
    """The leading block of M with an engine of its own; entries beyond it count as zero."""

    def __init__(self, equations: Equations, engine: str):
        self._q, self._whole = equations.q_marginal, equations.q
        pattern, self._inside = equations.leading(self._q)
        blocks = [(t.n_levels, t.n_effects) for t in equations.terms[:-1]]
        if rest := self._q - int(equations.offsets[-2]):
            blocks.append((rest, 1))  # null spaces
        self._engine = make_engine(engine, pattern, tuple(blocks))

    def at(self, values: FloatArray) -> Engine:
        """The engine, holding the block of M with `values` (nnz,)."""
        self._engine.factorize(values[self._inside])
        return self._engine

    def selected_inverse(self, rows: IntArray, cols: IntArray) -> FloatArray:
        """Entries of the block's inverse at (rows, cols), rows >= cols, on M's pattern."""
        out = np.zeros(rows.shape)
        inside = rows < self._q
        out[inside] = self._engine.selected_inverse(rows[inside], cols[inside])
        return out

    def solve(self, right: FloatArray) -> FloatArray:
        """The block's inverse times the leading rows of `right` (q, c), zeros below."""
        return np.concatenate([self._engine.solve(right[: self._q]), np.zeros((self._whole - self._q, right.shape[1]))])
