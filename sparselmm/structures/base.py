"""The two slots of a random term: T within a level (dense, r x r), Q across levels (sparse, m x m).

A structure is one small file with one class; `register_covariance` makes its word known to formulas, and
`check_covariance` / `check_precision` (in `conformance`) say whether it keeps the contract below.
"""

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import numpy as np

from .._errors import ModelError
from .._typing import FloatArray, IntArray


@runtime_checkable
class Covariance(Protocol):
    """G(theta) = T T', the r x r covariance of one level's effects relative to sigma^2.

    `theta` has length `n_params`. Its coordinates are unconstrained; an edge of the parameter space (a
    variance of zero, a correlation of +-1) is an interior point of `theta` about which G is even, so that a
    Newton method needs no bounds.
    """

    n_effects: int
    n_params: int

    def names(self, effects: tuple[str, ...], group: str) -> tuple[str, ...]:
        """Names of the coordinates of `theta`, length n_params."""

    def factor(self, theta: FloatArray) -> FloatArray:
        """T with T T' = G, shape (r, r)."""

    def gradient(self, theta: FloatArray) -> FloatArray:
        """dG/dtheta_i, shape (n_params, r, r), each symmetric."""

    def hessian(self, theta: FloatArray) -> FloatArray:
        """d2G/dtheta_i dtheta_j, shape (n_params, n_params, r, r)."""

    def scaling(self, basis: FloatArray) -> FloatArray:
        """Matrix S (n_params x n_params), x = S theta: the optimiser's coordinates.

        `basis` (r x r, lower triangular) turns the effects into ones of unit size: G -> basis G basis'.
        """

    def nearest(self, root: FloatArray) -> FloatArray:
        """theta of a member close to root root' (root r x c): a start, or the end of an EM step."""

    def natural_names(self, effects: tuple[str, ...], group: str) -> tuple[str, ...]:
        """Names on the natural scale: `sd_...` (relative to sigma until multiplied) and `cor_...`."""

    def to_natural(self, theta: FloatArray) -> FloatArray:
        """Relative standard deviations and correlations, length n_params."""

    def from_natural(self, natural: FloatArray) -> FloatArray:
        """Inverse of `to_natural`; ModelError where no covariance matrix has these values."""

    def edges(self, theta: FloatArray, size: float) -> list[FloatArray]:
        """theta with what is smaller than `size` put to exactly zero; none where nothing is near the edge."""

    def canonical(self, theta: FloatArray) -> FloatArray:
        """The representative of `theta` with the same G that is reported (diagonals of T >= 0)."""


@runtime_checkable
class Precision(Protocol):
    """Q(rho), the m x m sparse precision across levels at unit scale.

    `rho` has length `n_params`, in unconstrained coordinates (a correlation as its arctanh, a rate as its
    logarithm). null_dim: dimension of the null space of an intrinsic Q, 0 for a positive definite one.
    """

    n_levels: int
    n_params: int
    null_dim: int

    def names(self, effect: str, group: str) -> tuple[str, ...]:
        """Names of the coordinates of `rho`."""

    def start(self) -> FloatArray:
        """rho to start from, (n_params,)."""

    def pattern(self) -> tuple[IntArray, IntArray]:
        """Rows and columns of the lower triangle (row >= column) with the whole diagonal, fixed for every rho."""

    def values(self, rho: FloatArray) -> FloatArray:
        """Values of Q on `pattern()`, (nnz,)."""

    def gradient(self, rho: FloatArray) -> FloatArray:
        """dQ/drho_i on `pattern()`, (n_params, nnz)."""

    def logdet(self, rho: FloatArray) -> float:
        """log|Q|, the generalised determinant where Q is intrinsic."""

    def logdet_gradient(self, rho: FloatArray) -> FloatArray:
        """dlog|Q|/drho_i, (n_params,)."""

    def natural_names(self, effect: str, group: str) -> tuple[str, ...]:
        """Names on the natural scale: `rho_ar1(t)|g`, `kappa_ou(t)|g`."""

    def to_natural(self, rho: FloatArray) -> FloatArray:
        """Correlations, rates, ... (n_params,)."""

    def from_natural(self, natural: FloatArray) -> FloatArray:
        """Inverse of `to_natural`; ModelError outside the parameter space."""


@runtime_checkable
class Residual(Protocol):
    """R(rho), the n x n covariance of the residuals relative to sigma^2 and to the prior weights, by its inverse K.

    K is a diagonal, and one entry for each link of two rows: of a row with the one before it in a series, of all that
    belong to one record. Rows (and links) of one class have the same value of K at every rho, so that values are
    computed once a class. `rho` is in unconstrained coordinates, of length `n_params`.

    later, earlier: (L,) the two rows of each link, each pair once. row_class: (n,), link_class: (L,).
    label: the words that describe it, `ar1(t | g)`.
    """

    n_rows: int
    n_params: int
    later: IntArray
    earlier: IntArray
    row_class: IntArray
    link_class: IntArray
    label: str

    def names(self) -> tuple[str, ...]:
        """Names of the coordinates of `rho`."""

    def start(self) -> FloatArray:
        """rho to start from, (n_params,)."""

    def values(self, rho: FloatArray) -> tuple[FloatArray, FloatArray]:
        """K of each class of rows and of links; EngineError where R is singular to rounding."""

    def gradient(self, rho: FloatArray) -> tuple[FloatArray, FloatArray]:
        """dK/drho_i: (n_params, classes of rows) and (n_params, classes of links)."""

    def logdet(self, rho: FloatArray) -> float:
        """log|R|."""

    def logdet_gradient(self, rho: FloatArray) -> FloatArray:
        """dlog|R|/drho_i, (n_params,)."""

    def times(self, rho: FloatArray, V: FloatArray) -> FloatArray:
        """R V, (n, c), in O(n c)."""

    def scales(self, rho: FloatArray) -> FloatArray:
        """sqrt of the diagonal of R, (n,)."""

    def covariance(self, rho: FloatArray) -> FloatArray:
        """R as an n x n array, from its definition: for the dense likelihood and for tests."""

    def covariance_gradient(self, rho: FloatArray) -> FloatArray:
        """dR/drho_i, (n_params, n, n)."""

    def rows(self, keep: IntArray) -> "Residual":
        """The same of some of the rows. Errors: DataError, ModelError where a parameter has no rows left."""

    def natural_names(self) -> tuple[str, ...]:
        """Names on the natural scale: `rho_residual`, `kappa_residual`, `ratio_level|residual`."""

    def to_natural(self, rho: FloatArray) -> FloatArray:
        """Correlations, rates, ratios, (n_params,)."""

    def from_natural(self, natural: FloatArray) -> FloatArray:
        """Inverse of `to_natural`; ModelError outside the parameter space."""


CovarianceMaker = Callable[[int, str], Covariance]
_COVARIANCES: dict[str, CovarianceMaker] = {}


def register_covariance(word: str, maker: CovarianceMaker) -> None:
    """Make `word` known to formulas: `word(1 + x | g)`; `maker(n_effects, label)` builds the structure."""
    _COVARIANCES[word] = maker


def covariance_words() -> Mapping[str, CovarianceMaker]:
    """Every registered word."""
    return dict(_COVARIANCES)


def make_covariance(word: str, n_effects: int, label: str = "") -> Covariance:
    """The structure that `word` names, for `n_effects` effects per level."""
    if word not in _COVARIANCES:
        known = ", ".join(sorted(_COVARIANCES))
        raise ModelError(f"unknown structure '{word}': known are {known}")
    return _COVARIANCES[word](n_effects, label)


def zeroed(theta: FloatArray, size: float) -> list[FloatArray]:
    """The one candidate of a structure whose coordinates are all even about zero."""
    small = (np.abs(theta) < size) & (theta != 0.0)
    return [np.where(small, 0.0, theta)] if small.any() else []


def correlations(cov: FloatArray) -> FloatArray:
    """Correlation matrix of `cov` (r x r); NaN where a variance is zero."""
    sd = np.sqrt(np.diag(cov))
    with np.errstate(invalid="ignore", divide="ignore"):
        return cov / np.outer(sd, sd)


def semidefinite_cholesky(cov: FloatArray) -> FloatArray:
    """Lower triangular T with T T' = cov for a positive semi-definite `cov`; ModelError if it is not."""
    r = len(cov)
    T = np.zeros((r, r))
    tiny = 1e-12 * max(1e-300, float(np.abs(np.diag(cov)).max(initial=0.0)))
    for j in range(r):
        left = cov[j:, j] - T[j:, :j] @ T[j, :j]
        if left[0] < -1e3 * tiny or (left[0] <= tiny and np.abs(left).max() > 1e3 * np.sqrt(tiny)):
            raise ModelError(f"not a covariance matrix (not positive semi-definite): {cov.tolist()}")
        if left[0] > tiny:
            T[j:, j] = left / np.sqrt(left[0])
    return T
