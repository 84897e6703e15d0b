"""Starting values from the cross-products: moments of the least-squares residual, then steps until Newton is near."""

from collections.abc import Callable

import numpy as np

from ._typing import FloatArray
from .likelihood import Derivatives, Likelihood

# Of a variance ratio. Near zero the criterion is flat in T, so do not start there; STANDARD_ERRORS of the residual
# variance, sqrt(2/n) each, are enough.
FLOOR, CEILING, STANDARD_ERRORS = 0.2, 1e4, 3.0
STEPS, TRUST = 2, 5.0  # at most; Newton is trusted where it promises to lower the deviance by less than this
FARTHEST = 0.9  # part of a variance by which a step may move it: then it is ten times as large
SINGULAR = 1e-8  # lowest eigenvalue of a Hessian with a diagonal of ones
RELATIVE = 1e-14  # rounding of a slope, or of a coefficient that has come to zero
PROBES = 8  # random vectors for the traces of relationships
FEW_ROWS = 2.5  # a level: such a term among correlated levels looks like the residual to moments, which ignore Q


def moment_ratios(likelihood: Likelihood) -> list[FloatArray]:
    """Variance ratios to sigma^2 of each effect in its conditioned basis, (r,) for each term.

    Equates sums of squares of Z_k'W e and of e, e the least-squares residual, to their expectations without the
    fixed effects' part (Rao 1971, MINQUE at zero ratios), with no negative solution. A pedigree's own relationships
    take part; other terms whose levels are correlated and have FEW_ROWS share what is left of the variance evenly with
    the residual.
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
    related = [k for k in range(len(sizes)) if _relationships(likelihood, k) is not None]
    for k in related:
        _add_related(likelihood, k, place, A, u)
    scale = 1.0 / np.sqrt(np.diag(A))
    weak = [k not in related and _has_few_rows(likelihood, k) for k in range(len(sizes))]
    told = np.append(np.repeat(~np.array(weak), sizes), True)
    variances = np.zeros(last + 1)
    A, u = scale[:, None] * A * scale, scale * u
    variances[told] = scale[told] * nonnegative(A[np.ix_(told, told)], u[told])
    sigma2 = max(variances[last], 1e-2 * u[last] * scale[last]) / (1 + sum(weak))
    variances[~told] = sigma2
    floor = min(FLOOR, STANDARD_ERRORS * np.sqrt(2.0 / products.n))
    return [np.clip(variances[where] / sigma2, floor, CEILING) for where in place]


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


def _relationships(likelihood: Likelihood, k: int) -> Callable[[FloatArray], FloatArray] | None:
    """x -> Q^-1 x of term k where that needs no factorisation."""
    term = likelihood.spec.terms[k]
    cheap = term.n_effects == 1 and term.Q is not None and term.Q.null_dim == 0 and term.Q.n_params == 0
    return getattr(term.Q, "covariance_times", None) if cheap else None


def _add_related(likelihood: Likelihood, k: int, place: list[slice], A: FloatArray, u: FloatArray) -> None:
    """The equation of term k with K_k = Z_k Q_k^-1 Z_k' in place of Z_k Z_k': traces by PROBES random signs.

    u_k = e'K_k e, A_kl = tr(K_k P K_l P), with the projection P off X.
    """
    products, p, times = likelihood.products, likelihood.products.fixed.p, _relationships(likelihood, k)
    assert times is not None
    signs = np.random.default_rng(k).choice([-1.0, 1.0], size=(likelihood.spec.terms[k].n_levels, PROBES))
    plain, moved = (_projected_gram(likelihood, k, z) for z in (signs, times(signs)))
    for other, where in enumerate(place):
        also = _relationships(likelihood, other)
        seen = plain[other] if also is None else also(plain[other][:, 0])[:, None]
        A[place[k], where] = (moved[other] * seen).sum(axis=0).mean(axis=1)
        A[where, place[k]] = A[place[k], where].T
    A[place[k], -1] = A[-1, place[k]] = (signs * moved[k][:, 0]).sum(axis=0).mean()
    sums = products.Zxy[k][:, 0, p : p + 1]
    u[place[k]] = (sums * times(sums)).sum()


def _projected_gram(likelihood: Likelihood, k: int, z: FloatArray) -> list[FloatArray]:
    """Z_l'W P Z_k z for every term l, (m_l, r_l, c), P off the basis of X."""
    products, p = likelihood.products, likelihood.products.fixed.p
    C = [np.zeros((t.n_levels, t.n_effects, z.shape[1])) for t in likelihood.equations.terms]
    C[k][:, 0] = z
    along = products.Zxy[k][:, 0, :p].T @ z
    return [
        g - (x[:, :, :p].reshape(-1, p) @ along).reshape(g.shape)
        for g, x in zip(likelihood.equations.gram_times(products, C), products.Zxy, strict=True)
    ]


def _has_few_rows(likelihood: Likelihood, k: int) -> bool:
    """Whether term k has a precision and FEW_ROWS for each level that has any."""
    if likelihood.spec.terms[k].Q is None:
        return False
    own = next(b for b in likelihood.products.blocks if b.row_term == b.col_term == k)
    used = own.values[own.rows == own.cols].any(axis=(1, 2)).sum()
    return bool(likelihood.spec.n < FEW_ROWS * used)


def starting_theta(likelihood: Likelihood, *, reml: bool) -> tuple[FloatArray, int]:
    """theta to start from, (k,), and how many steps led there."""
    if not likelihood.spec.terms:
        return likelihood.parameters.start([]), 0
    theta = _nearest(likelihood, [np.diag(np.sqrt(r)) for r in moment_ratios(likelihood)])
    if any(t.Q is not None for t in likelihood.spec.terms):  # EM is slow along correlated levels, Newton is not
        return theta, 0
    for step in range(STEPS):
        likelihood(theta, reml=reml)  # says so where nothing is left of the response
        derivatives = likelihood.derivatives(theta, reml=reml)
        if _is_near(derivatives):
            return theta, step
        theta = _nearest(likelihood, _straight_in_precisions(likelihood, theta, derivatives) or list(derivatives.em))
    return theta, STEPS


def _straight_in_precisions(likelihood: Likelihood, theta: FloatArray, at: Derivatives) -> list[FloatArray] | None:
    """Roots of each G after the step by the average information, taken along a straight line in G^-1.

    For one variance v of m effects that are seen without noise -2l = m log v + S/v, the average information is S/v^3,
    and the step ends at the optimum S/m wherever it began (docs/explanation/criterion.md, 9). With dG the step,
    G becomes (G^-1 - G^-1 dG G^-1)^-1. None where that is not positive definite, or FARTHEST.
    """
    size = np.sqrt(np.maximum(np.diag(at.information), 0.0))
    if not (size > 0.0).all():
        return None
    values, vectors = np.linalg.eigh(at.information / np.outer(size, size))
    if values[0] < SINGULAR:
        return None
    step = -(vectors @ ((vectors.T @ (at.gradient / size)) / values)) / size
    parameters, roots = likelihood.parameters, []
    for basis, structure, part in zip(likelihood.bases, parameters.structures, parameters.slices, strict=True):
        T = structure.factor(theta[part])
        inverse, change = np.linalg.inv(T), np.tensordot(step[part], structure.gradient(theta[part]), 1)
        growth, axes = np.linalg.eigh(inverse @ change @ inverse.T)
        if growth[-1] > FARTHEST:
            return None
        roots.append(np.asarray(basis @ T @ axes / np.sqrt(1.0 - growth)))
    return roots


def _is_near(at: Derivatives) -> bool:
    """Whether a Newton step goes downhill to a minimum that is TRUST lower at most."""
    size = np.sqrt(np.maximum(np.diag(at.hessian), 0.0))
    if not (size > 0.0).all():
        return False
    values, vectors = np.linalg.eigh(at.hessian / np.outer(size, size))
    return bool(values[0] > SINGULAR and ((vectors.T @ (at.gradient / size)) ** 2 / values).sum() < 2.0 * TRUST)


def _nearest(likelihood: Likelihood, roots: list[FloatArray]) -> FloatArray:
    """theta from roots of G in the conditioned bases."""
    pairs = zip(likelihood.bases, roots, strict=True)
    return likelihood.parameters.start([np.linalg.solve(basis, root).astype(np.float64) for basis, root in pairs])
