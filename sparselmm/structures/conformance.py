"""The contract of `Covariance`, `Precision` and `Residual` as checks: whoever writes a structure runs them on it.

Everything is held against dense matrices and central differences. A broken promise raises ModelError, which says
which one, where and by how much.
"""

import pickle
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .._errors import ModelError
from .._typing import FloatArray
from .base import Covariance, Precision, Residual
from .limits import bounds_of

STEP = 1e-5  # of central differences: truncation and rounding near 1e-10 for entries of order one
DIFFERENCES = 1e-6  # relative to the largest entry
EXACT = 1e-10  # one matrix computed in two ways
DENSE = 1e-8  # log-determinants against eigenvalues, at condition numbers up to 1e6
SIZE = 1e-3  # scale parameters below this count as near the edge where `edges` is checked


def check_covariance(structure: Covariance, effects: Sequence[str] | None = None, *, seed: int = 0) -> None:
    """Check `structure` at random theta, at theta = 0 and with one coordinate at zero.

    effects: names of its effects. ModelError names the promise that does not hold.
    """
    kit = _CovarianceKit(structure)
    r, k = structure.n_effects, structure.n_params
    effects = tuple(effects) if effects else tuple(f"x{i}" for i in range(r))
    rng = np.random.default_rng(seed)
    theta = rng.normal(size=k)
    points = [theta, rng.normal(size=k), np.zeros(k), *(np.where(np.arange(k) == i, 0.0, theta) for i in range(k))]
    kit.names(effects)
    for point in points:
        kit.factor(point)
        kit.derivatives(point)
        kit.same_covariance(point)
    for point in points[:2]:
        kit.natural(point, effects)
    kit.scaling(rng)
    kit.nearest(rng)
    kit.edges(points[0])
    kit.pickles(points[0])


def check_precision(precision: Precision, *points: Any, seed: int = 0) -> None:
    """Check `precision` (small: its matrices are made dense) at its start, near it, at rho = 0 and at `points`.

    ModelError names the promise that does not hold.
    """
    kit = _PrecisionKit(precision)
    start, rng = precision.start(), np.random.default_rng(seed)
    kit.names()
    kit.pattern()
    places = _places(start, rng, points)
    for rho in places:
        kit.matrix(rho)
        kit.derivatives(rho)
        kit.natural(rho)
    kit.bounds(start)
    kit.pickles(places[1])


def _places(start: FloatArray, rng: np.random.Generator, points: Sequence[Any]) -> list[FloatArray]:
    """The start, a point near it, zero, and the points of the user."""
    near = start + 0.3 * rng.normal(size=start.shape)
    return [start, near, np.zeros(len(start)), *(np.asarray(p, dtype=np.float64) for p in points)]


def check_residual(residual: Residual, *points: Any, seed: int = 0) -> None:
    """Check `residual` (small: its matrices are made dense) at its start, near it, at rho = 0 and at `points`.

    ModelError names the promise that does not hold.
    """
    kit = _ResidualKit(residual)
    start, rng = residual.start(), np.random.default_rng(seed)
    kit.names()
    kit.links()
    places = _places(start, rng, points)
    for rho in places:
        kit.matrix(rho)
        kit.products(rho, rng.normal(size=(residual.n_rows, 2)))
        kit.derivatives(rho)
        kit.natural(rho)
    kit.bounds(start)
    kit.pickles(places[1])


class _Kit:
    """What both kinds promise. `what` begins every message."""

    def __init__(self, structure: Any):
        self.what = type(structure).__name__

    def demand(self, holds: Any, promise: str, at: Any = None) -> None:
        """ModelError unless `holds`."""
        if not holds:
            where = "" if at is None else f" at {np.asarray(at).tolist()}"
            raise ModelError(f"{self.what}{where}: {promise}")

    def shaped(self, values: Any, shape: tuple[int, ...], method: str, at: Any) -> None:
        """An array of finite numbers of this shape."""
        found = np.shape(values)
        self.demand(found == shape, f"{method} has shape {found}, not {shape}", at)
        self.demand(np.isfinite(values).all(), f"{method} is not finite", at)

    def equal(self, found: Any, expected: Any, rtol: float, promise: str, at: Any) -> None:
        """Within rtol of the largest expected entry, or of 1 where that is smaller."""
        error = float(np.abs(np.asarray(found) - expected).max(initial=0.0))
        size = max(1.0, float(np.abs(expected).max(initial=0.0)))
        self.demand(error <= rtol * size, f"{promise} (off by {error:.2g} where entries reach {size:.2g})", at)

    def named(self, names: Sequence[str], count: int, method: str) -> None:
        """As many different strings as parameters."""
        self.demand(len(names) == count, f"{method} gives {len(names)} names for {count} parameters: {names}")
        self.demand(len(set(names)) == count, f"{method} gives a name twice: {names}")
        self.demand(all(isinstance(n, str) for n in names), f"{method} gives {names}, not strings")


class _RhoKit(_Kit):
    """What precisions and residuals promise of their parameters."""

    structure: Any
    k: int

    def natural(self, rho: FloatArray) -> None:
        natural = self.structure.to_natural(rho)
        self.shaped(natural, (self.k,), "to_natural", rho)
        self.equal(self.structure.from_natural(natural), rho, DENSE, "from_natural(to_natural) is another rho", rho)

    def bounds(self, start: FloatArray) -> None:
        """Around the start; each limit on the natural scale leads back to it."""
        low, high = bounds_of(self.structure)
        self.demand(low.shape == high.shape == (self.k,), f"bounds have shapes {low.shape} and {high.shape}")
        self.demand(
            ((low < start) & (start < high)).all(), f"the start is not inside the bounds {low} and {high}", start
        )
        for i, ends in enumerate(zip(low, high, strict=True)):
            for end in ends:
                rho = np.where((np.arange(self.k) == i) & np.isfinite(end), end, start)
                back = self.structure.from_natural(self.structure.to_natural(rho))
                self.equal(back, rho, DENSE, "from_natural(to_natural) is not the bound", rho)


class _CovarianceKit(_Kit):
    def __init__(self, structure: Covariance):
        super().__init__(structure)
        self.demand(isinstance(structure, Covariance), "it lacks a member of the protocol Covariance")
        self.structure, self.r, self.k = structure, structure.n_effects, structure.n_params

    def covariance(self, theta: FloatArray) -> FloatArray:
        """G = T T'."""
        T = self.structure.factor(theta)
        return T @ T.T

    def names(self, effects: tuple[str, ...]) -> None:
        self.named(self.structure.names(effects, "g"), self.k, "names")
        natural = self.structure.natural_names(effects, "g")
        self.named(natural, self.k, "natural_names")
        ok = all(n.startswith(("sd_", "cor_")) for n in natural)
        self.demand(ok, f"natural_names must begin with sd_ or cor_: {natural}")

    def factor(self, theta: FloatArray) -> None:
        before = theta.copy()
        self.shaped(self.structure.factor(theta), (self.r, self.r), "factor", theta)
        self.demand(np.array_equal(theta, before), "factor changes its argument", before)
        if not theta.any():
            self.equal(self.covariance(theta), np.zeros((self.r, self.r)), EXACT, "G(0) is not zero", theta)

    def derivatives(self, theta: FloatArray) -> None:
        gradient, hessian = self.structure.gradient(theta), self.structure.hessian(theta)
        self.shaped(gradient, (self.k, self.r, self.r), "gradient", theta)
        self.shaped(hessian, (self.k, self.k, self.r, self.r), "hessian", theta)
        self.equal(gradient, gradient.transpose(0, 2, 1), EXACT, "a matrix of the gradient is not symmetric", theta)
        self.equal(hessian, hessian.transpose(1, 0, 2, 3), EXACT, "the hessian is not symmetric", theta)
        slope = differences(self.covariance, theta)
        self.equal(gradient, slope, DIFFERENCES, "gradient is not the derivative of G = T T'", theta)
        bend = differences(self.structure.gradient, theta)
        self.equal(hessian, bend, DIFFERENCES, "hessian is not the derivative of gradient", theta)

    def same_covariance(self, theta: FloatArray) -> None:
        """canonical and nearest lead to a theta with the same G."""
        G, canonical = self.covariance(theta), self.structure.canonical(theta)
        self.shaped(canonical, (self.k,), "canonical", theta)
        self.equal(self.covariance(canonical), G, EXACT, "canonical changes G", theta)
        self.equal(self.structure.canonical(canonical), canonical, EXACT, "canonical twice is not canonical", theta)
        nearest = self.structure.nearest(self.structure.factor(theta))
        self.shaped(nearest, (self.k,), "nearest", theta)
        self.equal(self.covariance(nearest), G, EXACT, "nearest to a member is not that member", theta)

    def natural(self, theta: FloatArray, effects: tuple[str, ...]) -> None:
        natural = self.structure.to_natural(theta)
        self.shaped(natural, (self.k,), "to_natural", theta)
        back = self.structure.from_natural(natural)
        self.equal(self.covariance(back), self.covariance(theta), EXACT, "from_natural(to_natural) changes G", theta)
        for name, value in zip(self.structure.natural_names(effects, "g"), natural, strict=True):
            legal = abs(value) <= 1 + EXACT if name.startswith("cor_") else value >= 0
            self.demand(legal, f"{name} = {value:g}", theta)

    def scaling(self, rng: np.random.Generator) -> None:
        self.equal(self.structure.scaling(np.eye(self.r)), np.eye(self.k), EXACT, "scaling(I) is not I", None)
        basis = np.tril(rng.normal(size=(self.r, self.r)), -1) + np.diag(rng.uniform(0.5, 2.0, self.r))
        S = self.structure.scaling(basis)
        self.shaped(S, (self.k, self.k), "scaling", basis)
        self.demand(np.linalg.cond(S) < 1 / EXACT, "scaling is singular", basis)

    def nearest(self, rng: np.random.Generator) -> None:
        """Any root r x c, also of a singular covariance, gives a theta."""
        for root in (rng.normal(size=(self.r, self.r + 2)), rng.normal(size=(self.r, 1)), np.zeros((self.r, self.r))):
            self.shaped(self.structure.nearest(root), (self.k,), "nearest", root)

    def edges(self, theta: FloatArray) -> None:
        """Candidates are close to theta and exactly singular, and there are some just where something is small."""
        self.demand(not self.structure.edges(theta, 0.0), "edges finds an edge nearer than 0", theta)
        for i in range(self.k):
            small = np.where(np.arange(self.k) == i, SIZE / 10, theta)
            for candidate in self.structure.edges(small, SIZE):
                self._edge(small, candidate)
        tiny = theta * SIZE / (10 * np.abs(theta).max())
        found = self.structure.edges(tiny, SIZE)
        self.demand(found, "edges finds nothing where everything is small", tiny)
        self.demand(not self.covariance(found[0]).any(), "the first edge of a tiny theta is not G = 0", tiny)

    def _edge(self, theta: FloatArray, candidate: FloatArray) -> None:
        self.shaped(candidate, (self.k,), "edges", theta)
        s = np.linalg.svd(self.structure.factor(candidate), compute_uv=False)
        self.demand(s[-1] <= np.finfo(float).eps * self.r * s[0], f"the edge {candidate} is not singular", theta)
        change = np.abs(self.covariance(candidate) - self.covariance(theta)).max()
        reach = 2 * self.r * SIZE * max(1.0, float(np.abs(theta).max()))
        self.demand(change <= reach, f"an edge changes G by {change:.2g}", theta)

    def pickles(self, theta: FloatArray) -> None:
        again = pickle.loads(pickle.dumps(self.structure))
        self.equal(again.factor(theta), self.structure.factor(theta), 0.0, "a pickled copy differs", theta)


class _PrecisionKit(_RhoKit):
    def __init__(self, precision: Precision):
        super().__init__(precision)
        self.demand(isinstance(precision, Precision), "it lacks a member of the protocol Precision")
        self.structure = precision
        self.precision, self.m, self.k = precision, precision.n_levels, precision.n_params
        self.rows, self.cols = precision.pattern()

    def names(self) -> None:
        self.named(self.precision.names("f(t)", "g"), self.k, "names")
        self.named(self.precision.natural_names("f(t)", "g"), self.k, "natural_names")
        self.shaped(self.precision.start(), (self.k,), "start", None)

    def pattern(self) -> None:
        """The lower triangle, each entry once, with the whole diagonal, and always the same."""
        rows, cols = self.rows, self.cols
        self.demand(len(rows) == len(cols), f"pattern gives {len(rows)} rows and {len(cols)} columns")
        inside = (cols >= 0).all() and (rows < self.m).all()
        self.demand(inside, f"pattern has entries outside {self.m} x {self.m}")
        self.demand((rows >= cols).all(), "pattern has an entry above the diagonal")
        key = np.sort(rows.astype(np.int64) * self.m + cols)
        self.demand((np.diff(key) > 0).all(), "pattern has an entry twice")
        self.demand((rows == cols).sum() == self.m, "pattern lacks entries of the diagonal")
        again = self.precision.pattern()
        same = np.array_equal(rows, again[0]) and np.array_equal(cols, again[1])
        self.demand(same, "pattern is not the same when asked again")

    def dense(self, rho: FloatArray) -> FloatArray:
        """Q(rho), m x m."""
        values = self.precision.values(rho)
        self.shaped(values, (len(self.rows),), "values", rho)
        Q = np.zeros((self.m, self.m))
        Q[self.rows, self.cols] = values
        Q[self.cols, self.rows] = values
        return Q

    def matrix(self, rho: FloatArray) -> None:
        """Positive definite off a null space of the promised dimension, and log|Q| there."""
        eigenvalues = np.linalg.eigvalsh(self.dense(rho))
        zero = eigenvalues[-1] * EXACT
        d = self.precision.null_dim
        null = int((np.abs(eigenvalues) <= zero).sum())
        self.demand(null == d, f"Q has a null space of dimension {null}, null_dim is {d}", rho)
        self.demand(eigenvalues[d:].min(initial=np.inf) > 0, f"Q has the eigenvalue {eigenvalues[0]:.3g}", rho)
        expected = float(np.log(eigenvalues[d:]).sum())
        self.equal(self.precision.logdet(rho), expected, DENSE, "logdet is not log|Q|", rho)

    def derivatives(self, rho: FloatArray) -> None:
        gradient, slope = self.precision.gradient(rho), self.precision.logdet_gradient(rho)
        self.shaped(gradient, (self.k, len(self.rows)), "gradient", rho)
        self.shaped(slope, (self.k,), "logdet_gradient", rho)
        if self.k:
            expected = differences(self.precision.values, rho)
            self.equal(gradient, expected, DIFFERENCES, "gradient is not the derivative of values", rho)
            expected = differences(self.precision.logdet, rho)
            self.equal(slope, expected, DIFFERENCES, "logdet_gradient is not the derivative of logdet", rho)

    def pickles(self, rho: FloatArray) -> None:
        again = pickle.loads(pickle.dumps(self.precision))
        self.equal(again.values(rho), self.precision.values(rho), 0.0, "a pickled copy differs", rho)


class _ResidualKit(_RhoKit):
    def __init__(self, residual: Residual):
        super().__init__(residual)
        self.demand(isinstance(residual, Residual), "it lacks a member of the protocol Residual")
        self.structure = self.residual = residual
        self.n, self.k = residual.n_rows, residual.n_params

    def names(self) -> None:
        self.named(self.residual.names(), self.k, "names")
        self.named(self.residual.natural_names(), self.k, "natural_names")
        self.shaped(self.residual.start(), (self.k,), "start", None)
        self.demand(isinstance(self.residual.label, str), "label is not a string")

    def links(self) -> None:
        """A link joins two rows, once, in one order or the other; each row and link has a class."""
        r = self.residual
        self.demand(len(r.row_class) == self.n, f"row_class has {len(r.row_class)} entries for {self.n} rows")
        same = len(r.later) == len(r.earlier) == len(r.link_class)
        self.demand(same, f"{len(r.later)} later, {len(r.earlier)} earlier rows and {len(r.link_class)} link classes")
        for what, rows in (("later", r.later), ("earlier", r.earlier)):
            self.demand(((rows >= 0) & (rows < self.n)).all(), f"{what} has rows outside 0 ... {self.n - 1}")
        self.demand((r.later != r.earlier).all(), "a link joins a row with itself")
        pairs = np.maximum(r.later, r.earlier) * self.n + np.minimum(r.later, r.earlier)
        self.demand(len(np.unique(pairs)) == len(pairs), "two rows are linked twice")

    def dense(self, values: tuple[FloatArray, FloatArray]) -> FloatArray:
        """K (or a derivative of it) from the values of the classes, n x n."""
        r = self.residual
        K = np.diag(values[0][r.row_class])
        K[r.later, r.earlier] = K[r.earlier, r.later] = values[1][r.link_class]
        return K

    def _values(self, rho: FloatArray) -> FloatArray:
        d, o = self.residual.values(rho)
        self.demand(np.isfinite(d).all() and np.isfinite(o).all(), "values are not finite", rho)
        rows, links = self.residual.row_class.max() + 1, self.residual.link_class.max(initial=-1) + 1
        self.demand(
            (len(d), len(o)) == (rows, links), f"values of {len(d)}, {len(o)} classes, not {rows}, {links}", rho
        )
        return self.dense((d, o))

    def matrix(self, rho: FloatArray) -> None:
        """K positive definite and the inverse of R; log|R|; the standard deviations."""
        K, R = self._values(rho), self.residual.covariance(rho)
        self.shaped(R, (self.n, self.n), "covariance", rho)
        self.equal(R, R.T, EXACT, "covariance is not symmetric", rho)
        lowest = np.linalg.eigvalsh(K)[0]
        self.demand(lowest > 0, f"R^-1 has the eigenvalue {lowest:.3g}", rho)
        self.equal(K @ R, np.eye(self.n), DENSE, "values are not those of the inverse of covariance", rho)
        self.equal(self.residual.logdet(rho), np.linalg.slogdet(R)[1], DENSE, "logdet is not log|R|", rho)

    def products(self, rho: FloatArray, V: FloatArray) -> None:
        R, before = self.residual.covariance(rho), V.copy()
        self.equal(self.residual.times(rho, V), R @ before, EXACT, "times is not R V", rho)
        self.demand(np.array_equal(V, before), "times changes its argument", rho)
        scales = self.residual.scales(rho)
        self.shaped(scales, (self.n,), "scales", rho)
        self.equal(scales, np.sqrt(np.diag(R)), EXACT, "scales are not the square roots of the diagonal of R", rho)

    def derivatives(self, rho: FloatArray) -> None:
        r = self.residual
        drows, dlinks = r.gradient(rho)
        self.demand(len(drows) == len(dlinks) == self.k, f"gradient of {len(drows)} and {len(dlinks)} parameters", rho)
        self.shaped(r.logdet_gradient(rho), (self.k,), "logdet_gradient", rho)
        if not self.k:
            return
        gradient = np.array([self.dense(pair) for pair in zip(drows, dlinks, strict=True)])
        self.equal(gradient, differences(self._values, rho), DIFFERENCES, "gradient is not that of values", rho)
        slope = differences(r.logdet, rho)
        self.equal(r.logdet_gradient(rho), slope, DIFFERENCES, "logdet_gradient is not the derivative of logdet", rho)
        slope = differences(r.covariance, rho)
        dR = r.covariance_gradient(rho)
        self.equal(dR, slope, DIFFERENCES, "covariance_gradient is not the derivative of covariance", rho)

    def pickles(self, rho: FloatArray) -> None:
        again = pickle.loads(pickle.dumps(self.residual)).values(rho)
        for found, expected in zip(again, self.residual.values(rho), strict=True):
            self.equal(found, expected, 0.0, "a pickled copy differs", rho)


def differences(function: Callable[[FloatArray], Any], x: FloatArray) -> FloatArray:
    """Central differences of an array-valued function along each coordinate, (k, ...)."""
    steps = STEP * np.eye(len(x))
    return np.array([(np.asarray(function(x + e)) - np.asarray(function(x - e))) / (2 * STEP) for e in steps])
