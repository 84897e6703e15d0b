"""Starting values from the cross-products: moments of the least-squares residual, then EM while it pays."""

import numpy as np

from ._typing import FloatArray
from .likelihood import Likelihood

FLOOR, CEILING = 0.2, 1e4  # of a variance ratio: near zero the criterion is flat in T, so do not start there
EM_STEPS, EM_GAIN = 2, 2.0  # a second EM step only where the first lowered the deviance by this much
RELATIVE = 1e-14  # rounding of a slope, or of a coefficient that has come to zero
FEW_ROWS = 2.5  # a level: such a term among correlated levels looks like the residual to moments, which ignore Q


def moment_ratios(likelihood: Likelihood) -> list[FloatArray]:
    """Variance ratios to sigma^2 of each effect in its conditioned basis, (r,) for each term.

    Equates sums of squares of Z_k'W e and of e, e the least-squares residual, to their expectations without the
    fixed effects' part (Rao 1971, MINQUE at zero ratios), with no negative solution. Terms whose levels are correlated
    and have FEW_ROWS share what is left of the variance evenly with the residual.
    """
    products = likelihood.products
    sizes = [t.n_effects for t in likelihood.spec.terms]
    ends = np.cumsum(sizes)
    place = [slice(end - r, end) for end, r in zip(ends, sizes, strict=True)]
    last, p = int(ends[-1]), products.fixed.p
    A, u = np.zeros((last + 1, last + 1)), np.zeros(last + 1)
    for b in products.blocks:
        if b.row_term >= len(sizes):  # the sparse fixed effects, already taken off the response
            continue
        row, col = place[b.row_term], place[b.col_term]
        squares = (b.values**2).sum(axis=0)
        A[row, col] += squares
        if b.row_term != b.col_term:
            A[col, row] += squares.T
            continue
        A[row, last] += np.diag(b.values[b.rows == b.cols].sum(axis=0))
    A[last, :last] = A[:last, last]
    A[last, last] = products.n - products.fixed.n_columns
    for where, Zxy in zip(place, products.Zxy, strict=False):
        u[where] = (Zxy[:, :, p] ** 2).sum(axis=0)
    u[last] = products.xy[p, p]
    scale = 1.0 / np.sqrt(np.diag(A))
    weak = [_has_few_rows(likelihood, k) for k in range(len(sizes))]
    told = np.append(np.repeat(~np.array(weak), sizes), True)
    variances = np.zeros(last + 1)
    A, u = scale[:, None] * A * scale, scale * u
    variances[told] = scale[told] * nonnegative(A[np.ix_(told, told)], u[told])
    sigma2 = max(variances[last], 1e-2 * u[last] * scale[last]) / (1 + sum(weak))
    variances[~told] = sigma2
    return [np.clip(variances[where] / sigma2, FLOOR, CEILING) for where in place]


def nonnegative(A: FloatArray, b: FloatArray) -> FloatArray:
    """x >= 0 that makes |A x - b| smallest (Lawson & Hanson 1974); A (n, n).

    SciPy's loads all of its optimisers, 0.2 s of the first fit.
    """
    x, free, tolerance = np.zeros(len(b)), np.zeros(len(b), dtype=bool), RELATIVE * float(np.abs(A.T @ b).max())
    for _ in range(3 * len(b)):
        slope = np.where(free, -np.inf, A.T @ (b - A @ x))
        if slope.max() <= tolerance:
            break
        free[slope.argmax()] = True
        while True:
            y = np.zeros(len(b))
            y[free] = np.linalg.lstsq(A[:, free], b, rcond=None)[0]
            below = free & (y <= 0.0)
            if not below.any():
                break
            x += (y - x) * (x[below] / (x[below] - y[below])).min()
            free &= x > RELATIVE * x.max()
            x[~free] = 0.0
        x = y
    return x


def _has_few_rows(likelihood: Likelihood, k: int) -> bool:
    """Whether term k has a precision and FEW_ROWS for each level that has any."""
    if likelihood.spec.terms[k].Q is None:
        return False
    own = next(b for b in likelihood.products.blocks if b.row_term == b.col_term == k)
    used = own.values[own.rows == own.cols].any(axis=(1, 2)).sum()
    return bool(likelihood.spec.n < FEW_ROWS * used)


def starting_theta(likelihood: Likelihood, *, reml: bool) -> tuple[FloatArray, int]:
    """theta to start from, (k,), and how many EM steps led there."""
    if not likelihood.spec.terms:
        return likelihood.parameters.start([]), 0
    theta = _nearest(likelihood, [np.diag(np.sqrt(r)) for r in moment_ratios(likelihood)])
    if any(t.Q is not None for t in likelihood.spec.terms):  # EM is slow along correlated levels, Newton is not
        return theta, 0
    before = np.inf
    for step in range(EM_STEPS):
        now = likelihood(theta, reml=reml).deviance
        if before - now < EM_GAIN:
            return theta, step
        before, theta = now, _nearest(likelihood, list(likelihood.derivatives(theta, reml=reml).em))
    return theta, EM_STEPS


def _nearest(likelihood: Likelihood, roots: list[FloatArray]) -> FloatArray:
    """theta from roots of G in the conditioned bases."""
    pairs = zip(likelihood.bases, roots, strict=True)
    return likelihood.parameters.start([np.linalg.solve(basis, root).astype(np.float64) for basis, root in pairs])
