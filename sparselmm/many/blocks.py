"""A block of responses: what cannot be fitted is set aside, gaps are grouped by pattern, the rest is fitted."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import pandas as pd

from .._errors import DataError, SparselmmError
from .._typing import BoolArray, FloatArray, IntArray
from ..engines.threads import blas_threads
from ..kernels.screen import screen
from ..terms import ROUNDING
from .common import fit_common
from .design import Block, Design, residualise
from .estimates import CONSTANT, EXACT, EXTREME, INFINITE, MISSING, Estimates, empty
from .general import General, is_general
from .pool import over_responses
from .ratio import SparseRatio
from .spectral import Spectral, is_decomposable, is_one_ratio
from .structured import Structured

LARGEST = 1e140  # of values whose squares can be summed


class Fitter(Protocol):
    """Fits every response of a block of one design at its own optimum."""

    design: Design

    def fit(self, block: Block) -> Estimates:
        """Estimates in the order of the block's columns."""

    def on(self, design: Design) -> "Fitter":
        """The same method for another design."""


def make_fitter(design: Design, reml: bool, weighted: bool, ddf: bool = True) -> Fitter:
    """The fitter that suits the model; weighted: each response has weights of its own; ddf: degrees of freedom."""
    if is_decomposable(design) and not weighted:
        return Spectral(design, reml, ddf)
    if is_general(design):
        return General(design, reml, ddf)
    return SparseRatio(design, reml, ddf) if is_one_ratio(design) else Structured(design, reml, ddf)


def fit_block(fitter: Fitter, Y: FloatArray, weights: FloatArray | None = None) -> Estimates:
    """As `_fit_block`, with one BLAS thread: the bits of a response must not depend on the process that fits it."""
    with blas_threads(0.0):
        return _fit_block(fitter, Y, weights)


def _fit_block(fitter: Fitter, Y: FloatArray, weights: FloatArray | None) -> Estimates:
    """Estimates of the columns of Y (n, v), which is overwritten. weights: (v, n), each response's own, of which
    those of missing cells are not read.

    A response that is constant, infinite or missing keeps its place in every product, with a stand-in for its
    values, so that the others do not change by a bit.
    """
    v = Y.shape[1]
    (finite, infinite), (least, largest, total) = np.empty((2, v), dtype=np.int64), np.empty((3, v))
    over_responses(screen, v, Y, finite, infinite, least, largest, total)
    constant = (least >= largest) & (finite > 0)
    size = np.maximum(np.abs(least), np.abs(largest))
    extreme = (finite > 0) & ~constant & ((size > LARGEST) | (size < 1.0 / LARGEST))
    partial = np.flatnonzero((finite < len(Y)) & (finite > 0) & (infinite == 0) & ~constant & ~extreme)
    gaps = Y[:, partial]
    if weights is not None:
        weights = np.where(np.isnan(Y.T), 1.0, weights)
        if not ((weights > 0.0) & (weights < np.inf)).all():
            raise DataError("weights must be positive and finite: drop such cells by a missing value in Y")
    aside = constant | extreme | (finite < len(Y))
    Y[:, aside] = fitter.design.spec.y[:, None]
    out = _fit_complete(fitter, Y, np.where(aside, 0.0, size), weights)
    out.blank(constant, CONSTANT)
    out.blank(extreme, EXTREME)
    out.blank(infinite > 0, INFINITE)
    out.blank((finite == 0) & (infinite == 0), MISSING)
    out.nobs[:] = finite
    if len(partial):
        out.put(partial, fit_patterns(fitter, gaps, None if weights is None else weights[partial]))
    with np.errstate(invalid="ignore"):
        out.mean[:] = np.where(infinite > 0, np.nan, total / finite)
    return out


def complete(Y: FloatArray) -> BoolArray:
    """Which columns of Y (n, v) have every value and vary."""
    return np.isfinite(Y).all(axis=0) & (Y.max(axis=0) > Y.min(axis=0))


def fittable(design: Design, Y: FloatArray) -> tuple[Block, BoolArray, BoolArray, BoolArray]:
    """The responses of Y (n, v) that can be fitted together, and which (v,) they are; those out of range, and exact."""
    whole = complete(Y)
    size = np.abs(np.where(whole, Y, 1.0)).max(axis=0)
    extreme = (size > LARGEST) | (size < 1.0 / LARGEST)
    whole &= ~extreme
    block = residualise(design, Y[:, whole])
    exact = np.zeros_like(whole)
    exact[whole] = is_exact(design, block, size[whole])
    return block.only(~exact[whole]), whole & ~exact, extreme, exact


def is_exact(design: Design, block: Block, size: FloatArray) -> BoolArray:
    """Which responses (v,) with largest values `size` the fixed effects fit up to rounding."""
    return np.asarray(block.ss <= design.weights.sum() * (ROUNDING * size) ** 2)


def fit_together(
    design: Design, Y: FloatArray, reml: bool, names: pd.Index
) -> tuple[pd.Index, Estimates, Mapping[str, Any]]:
    """`fit_common` of the responses that can take part; the others get a reason."""
    out = empty(design, Y.shape[1])
    out.blank(~complete(Y), "constant, or with gaps, which mode='common' does not take")
    mean = Y.mean(axis=0)
    block, whole, extreme, exact = fittable(design, Y)
    out.blank(extreme, EXTREME)
    out.blank(exact, EXACT)
    if not whole.any():
        raise DataError("mode='common': every response is constant, fitted exactly, or has gaps")
    found, extra = fit_common(design, block, reml, names[whole])
    found.inverse_weight[:] = (1.0 / design.weights).mean()
    found.mean[:] = mean[whole]
    out.put(np.flatnonzero(whole), found)
    return names, out, extra


def _fit_complete(fitter: Fitter, Y: FloatArray, size: FloatArray, weights: FloatArray | None) -> Estimates:
    """Y without gaps; size (v,) of the largest value: a residual of its rounding is an exact fit."""
    design = fitter.design
    block = replace(residualise(design, Y), weights=weights)
    exact = is_exact(design, block, size)
    if exact.any():
        stand_in = residualise(design, design.spec.y[:, None].copy())
        block.residual[:, exact] = stand_in.residual
        block.ss[exact] = stand_in.ss
    out = fitter.fit(block)
    out.inverse_weight[:] = (1.0 / (design.weights if weights is None else weights)).mean(axis=-1)
    out.blank(exact, EXACT)
    return out


def fit_patterns(fitter: Fitter, Y: FloatArray, weights: FloatArray | None = None) -> Estimates:
    """Responses (n, v) with gaps: one design for each set of rows that are there, however many responses share it."""
    bits = np.packbits(np.isfinite(Y), axis=0).T
    _, first, group = np.unique(bits, axis=0, return_index=True, return_inverse=True)
    out = empty(fitter.design, Y.shape[1])
    for g, example in enumerate(first):
        where = np.flatnonzero(group.ravel() == g)
        keep = np.flatnonzero(np.isfinite(Y[:, example]))
        own = None if weights is None else weights[np.ix_(where, keep)]
        out.put(where, _fit_rows(fitter, keep, np.ascontiguousarray(Y[np.ix_(keep, where)]), own))
    return out


def _fit_rows(fitter: Fitter, keep: IntArray, Y: FloatArray, weights: FloatArray | None) -> Estimates:
    """The model on some rows; where it has none, its error is every response's reason."""
    try:
        part = fitter.on(fitter.design.rows(keep))
        return _fit_complete(part, Y, np.abs(Y).max(axis=0), weights)
    except SparselmmError as error:
        out = empty(fitter.design, Y.shape[1])
        everything: BoolArray = np.ones(Y.shape[1], dtype=bool)
        out.blank(everything, str(error))
        out.nobs[:] = len(keep)
        return out
