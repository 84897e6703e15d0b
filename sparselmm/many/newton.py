"""Damped Newton for many small smooth functions at once, each with its own step, radius and learnt curvature.

The method is that of `optimize`, vectorised over functions; no function sees another's numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .._typing import FloatArray, IntArray

MAX_STEPS = 200  # of one function; simulated genes with two factors take 6 on average, with slopes 9; 60 in a valley
TOLERANCE = 1e-6  # scaled gradient: in standard errors of x
ROUNDING = 1e-9  # of the value: below it steps are judged by the gradient
SHRINKS = 12  # steps in a row that did not lower the function: there is no further decrease

Evaluate = Callable[[IntArray, FloatArray], tuple[FloatArray, FloatArray, FloatArray]]


@dataclass(slots=True)
class Searches:
    """The state of v searches in k coordinates. x, gradient: (v, k). hessian, learnt: (v, k, k). norm: (v,)."""

    x: FloatArray
    value: FloatArray
    gradient: FloatArray
    hessian: FloatArray
    learnt: FloatArray
    norm: FloatArray
    radius: FloatArray
    failures: IntArray

    def put(self, where: IntArray, other: "Searches", which: IntArray) -> None:
        """The end of other searches in place of some of these."""
        self.x[where], self.value[where], self.norm[where] = other.x[which], other.value[which], other.norm[which]


def minimise_many(evaluate: Evaluate, x: FloatArray) -> Searches:
    """Minimise from x (v, k). evaluate(which (a,), x (a, k)) -> value, gradient and approximate Hessian of those."""
    v, k = x.shape
    value, gradient, hessian = evaluate(np.arange(v), x)
    norm = scaled_gradients(gradient, hessian)
    radius = np.maximum(1.0, 0.7 * np.linalg.norm(x, axis=1))
    state = Searches(x.copy(), value, gradient, hessian, np.zeros((v, k, k)), norm, radius, np.zeros(v, dtype=np.int64))
    for _ in range(MAX_STEPS):
        active = np.flatnonzero((state.norm > TOLERANCE) & (state.failures < SHRINKS))
        if not len(active):
            break
        _step(evaluate, state, active)
    return state


def _step(evaluate: Evaluate, state: Searches, active: IntArray) -> None:
    model = _models(state.hessian[active], state.learnt[active])
    step = trust_region_steps(state.gradient[active], model, state.radius[active])
    predicted = -np.einsum("vi,vi->v", state.gradient[active], step) - 0.5 * np.einsum(
        "vi,vij,vj->v", step, model, step
    )
    value, gradient, hessian = evaluate(active, state.x[active] + step)
    change = state.value[active] - value
    norm = scaled_gradients(gradient, _models(hessian, state.learnt[active]))
    small = np.maximum(predicted, np.abs(change)) <= np.maximum(ROUNDING, 1e-13 * np.abs(value))
    with np.errstate(invalid="ignore"):
        good = np.where(small, norm < state.norm[active], (predicted > 0) & (change > 1e-4 * predicted))
    ratio = np.where(small, 0.5, change / np.where(predicted > 0, predicted, 1.0))
    length = np.linalg.norm(step, axis=1)
    bad = active[~good]
    state.radius[bad] = 0.25 * np.minimum(state.radius[bad], length[~good])
    state.failures[bad] += np.where(small[~good], SHRINKS // 2, 1)
    state.learnt[bad[small[~good]]] = 0.0  # a second try without it, where steps are lost in rounding
    taken = active[good]
    _learn(state, taken, step[good], gradient[good], hessian[good])
    state.x[taken] += step[good]
    state.value[taken], state.gradient[taken], state.hessian[taken] = value[good], gradient[good], hessian[good]
    state.failures[taken] = 0
    state.radius[taken] = np.where(
        (ratio[good] > 0.75) & (length[good] > 0.9 * state.radius[taken]), 3.0 * length[good],
        np.where(ratio[good] < 0.25, 0.5 * length[good], state.radius[taken]),
    )  # fmt: skip
    state.norm[taken] = scaled_gradients(state.gradient[taken], _models(state.hessian[taken], state.learnt[taken]))


def _learn(state: Searches, taken: IntArray, step: FloatArray, gradient: FloatArray, hessian: FloatArray) -> None:
    """Symmetric rank-one update of what the approximate Hessian misses, from the change of the gradient."""
    middle = 0.5 * (state.hessian[taken] + hessian) + state.learnt[taken]
    rest = gradient - state.gradient[taken] - np.einsum("vij,vj->vi", middle, step)
    scale = np.einsum("vi,vi->v", rest, step)
    size = np.linalg.norm(rest, axis=1) * np.linalg.norm(step, axis=1)
    update = np.abs(scale) > 1e-8 * size
    safe = np.where(update, scale, 1.0)
    state.learnt[taken] += np.where(update, 1.0 / safe, 0.0)[:, None, None] * rest[:, :, None] * rest[:, None, :]


def _models(hessian: FloatArray, learnt: FloatArray) -> FloatArray:
    """hessian + learnt, without what was learnt where that spoils a positive definite matrix."""
    full = hessian + learnt
    with np.errstate(invalid="ignore"):
        spoilt = (_lowest(full) <= 0.0) & (_lowest(hessian) > 0.0)
    return np.where(spoilt[:, None, None], hessian, full)


def _lowest(A: FloatArray) -> FloatArray:
    return np.linalg.eigvalsh(np.nan_to_num(A))[:, 0]


def scaled_gradients(gradient: FloatArray, hessian: FloatArray) -> FloatArray:
    """sqrt(g'H^-1 g) of each, as `optimize.scaled_gradient`: |H| for an indefinite H, and at least 1 there."""
    values, vectors = np.linalg.eigh(np.nan_to_num(hessian))
    largest = np.maximum(np.abs(values).max(axis=1), 1e-300)
    sizes = np.maximum(np.abs(values), 1e-12 * largest[:, None])
    norm = np.sqrt((np.einsum("vij,vi->vj", vectors, gradient) ** 2 / sizes).sum(axis=1))
    return np.where(np.isnan(norm), np.inf, np.where(values[:, 0] > -1e-8 * largest, norm, np.maximum(norm, 1.0)))


def _shifts(g: FloatArray, gap: FloatArray, most: FloatArray, floor: FloatArray, radius: FloatArray) -> FloatArray:
    """mu (v,) with |g/(gap + mu)| = radius, at most most + floor."""
    low, high = 1e-14 * np.maximum(most, floor), most + floor
    for _ in range(60):
        middle = np.sqrt(low * high)
        long = np.linalg.norm(g / (gap + middle[:, None]), axis=1) > radius
        low, high = np.where(long, middle, low), np.where(long, high, middle)
    return high


def trust_region_steps(gradient: FloatArray, hessian: FloatArray, radius: FloatArray) -> FloatArray:
    """Minimisers of g's + s'Hs/2 in |s| <= radius, (v, k): -(H + mu I)^-1 g, mu >= 0 by bisection of its logarithm.

    In the hard case, g without a part along a negative eigenvector, a sliver of it is put there.
    """
    values, vectors = np.linalg.eigh(hessian)
    g = np.einsum("vij,vi->vj", vectors, gradient)
    floor = 1e-12 * np.maximum(np.abs(values).max(axis=1), 1e-300)
    size = np.linalg.norm(g, axis=1)
    hard = (values[:, 0] < -floor) & (np.abs(g[:, 0]) < 1e-8 * size + 1e-300)
    g[hard, 0] = 1e-8 * size[hard] + 1e-12
    gap = values - np.minimum(values[:, :1], 0.0)
    least = np.where(values[:, 0] > floor, 0.0, floor)
    inside = np.linalg.norm(g / np.maximum(gap + least[:, None], floor[:, None]), axis=1) <= radius
    mu, far = least, ~inside
    if far.any():
        mu[far] = _shifts(g[far], gap[far], size[far] / radius[far], floor[far], radius[far])
    return np.einsum("vij,vj->vi", vectors, -g / np.maximum(gap + mu[:, None], floor[:, None]))
