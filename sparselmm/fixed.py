"""Effects without a prior: which columns are in the model, dense and sparse, and how their coefficients are reported.

Dense columns X are few and are profiled out by a p x p Schur complement. Sparse ones D are part of the sparse system,
as a term whose Q is zero: first the null spaces Z N of intrinsic terms, then the sparse columns of the user.
"""

from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg as sla
import scipy.sparse as sp

from ._typing import BoolArray, FloatArray, IntArray
from .engines import Cholmod, Pattern
from .engines.threads import by_pieces, parallel, row_pieces
from .kernels import columns as kernels
from .structures.intrinsic import Intrinsic, check_intrinsic
from .terms import ModelSpec, RandomTerm

RANK_TOLERANCE = 1e-7  # as R's lm: a column whose part outside the earlier ones is relatively smaller is dropped
RIDGE = 1e-12  # on the unit diagonal of D'WD: pivots of dependent columns come out as small as this
PIVOT = 1e-10  # smaller pivots are dependence: 1e-5 in length; rounding and RIDGE stay 1e-2 of it
CONSTANT_DIGITS = 12  # a combination of columns of X that is one to so many decimals is a constant


@dataclass(frozen=True, slots=True, eq=False)
class Diffuse:
    """D (n, d), sparse columns of W-length one without a prior, linearly independent.

    size: (d,) what each was divided by. n_null: the leading columns from null spaces; column j of these is column
    null_column[j] of N (x) I of term null_term[j]. kept: the user's sparse columns among the rest, in order.
    dropped: those that depend on others.
    """

    D: sp.csc_array
    size: FloatArray
    null_term: IntArray
    null_column: IntArray
    kept: IntArray
    dropped: IntArray

    @property
    def n_null(self) -> int:
        """Columns that come from null spaces: integrated out under ML too."""
        return len(self.null_term)

    @property
    def n_columns(self) -> int:
        """d."""
        return len(self.size)

    def null_space(self, k: int, term: RandomTerm) -> sp.csc_array:
        """N (x) I of term k for the columns that are kept, (m r, d): zero in every other column."""
        mine = np.flatnonzero(self.null_term == k)
        own = null_basis(term)[:, self.null_column[mine]]
        place = sp.csc_array((np.ones(len(mine)), (np.arange(len(mine)), mine)), shape=(len(mine), self.n_columns))
        return sp.csc_array(own @ place)


@dataclass(frozen=True, slots=True, eq=False)
class FixedDesign:
    """X = basis R on the columns in the equations, W-orthonormal: basis' W basis = I (so R'R = X'WX).

    Columns are numbered as reported: those of X, then the user's sparse ones. kept, dropped: of all.
    used: (p,) columns of X in the equations. confounded: (c,) columns of X in the model through the null space alone,
    X_c = D B + X_used C, B (d, c), zero outside null spaces, C (p, c). R: (p, p) upper triangular. start: least-squares
    coefficients that were taken off the response, of `used`; start_D: (d,) those of D's columns of length one.
    """

    kept: IntArray
    dropped: IntArray
    used: IntArray
    confounded: IntArray
    R: FloatArray
    B: FloatArray
    C: FloatArray
    start: FloatArray
    start_D: FloatArray
    diffuse: Diffuse | None = None

    @property
    def p(self) -> int:
        """Dense columns in the equations."""
        return len(self.used)

    @property
    def n_null(self) -> int:
        """Directions without a prior that are no coefficients."""
        return 0 if self.diffuse is None else self.diffuse.n_null

    @property
    def n_sparse(self) -> int:
        """The user's sparse columns in the model."""
        return 0 if self.diffuse is None else len(self.diffuse.kept)

    @property
    def n_columns(self) -> int:
        """All directions without a prior, p + d."""
        return self.p + (0 if self.diffuse is None else self.diffuse.n_columns)

    @property
    def logdet(self) -> float:
        """log|X'WX| of the dense columns."""
        return 2.0 * float(np.log(np.abs(np.diag(self.R))).sum())

    @property
    def logdet_share(self) -> float:
        """log|B'B| in the units of the null space: REML is of X and an orthonormal basis of what X leaves of it."""
        if not len(self.confounded):
            return 0.0
        assert self.diffuse is not None
        B = self.B[: self.n_null] / self.diffuse.size[: self.n_null, None]
        return float(np.linalg.slogdet(B.T @ B)[1])

    def logdet_diffuse(self, leading: int | None = None) -> float:
        """log of the squared lengths of D's columns (of the first `leading`): what making them one took away."""
        return 0.0 if self.diffuse is None else 2.0 * float(np.log(self.diffuse.size[:leading]).sum())


def row_weights(spec: ModelSpec) -> FloatArray:
    """(n,) weights, or (0,) where all are one."""
    return np.zeros(0) if spec.weights is None else spec.weights


def fixed_design(spec: ModelSpec, weights: FloatArray) -> tuple[FixedDesign, FloatArray]:
    """The fixed effects of a model, and [X y] (n, p+1): the basis of the dense columns, y less its projection on all.

    Of dependent columns the later is dropped; sparse columns come before dense ones, except that a column of X within
    a null space is kept, and takes its share of it when it is reported. weights: as `row_weights` gives them.
    """
    full, size = _triangular(spec.X, weights)
    own = _independent_of(full)
    diffuse = _diffuse(spec, weights)
    none = np.zeros(0, dtype=np.int64)
    if diffuse is None:
        used, confounded, lost, B, C = own, none, none, np.zeros((0, 0)), np.zeros((len(own), 0))
    else:
        used, confounded, lost, B, C = _beside(diffuse, spec.X[:, own] / size[own], _spelt_out(weights, spec.n))
        B, C = B * size[own][confounded], C * size[own][confounded] / size[own][used][:, None]
        used, confounded, lost = own[used], own[confounded], own[lost]
    kept, dropped = _numbering(spec, own, lost, diffuse)
    R = np.asarray(np.linalg.qr(full[:, used], mode="r")) * size[used]
    fixed = FixedDesign(kept, dropped, used, confounded, R, B, C, np.zeros(0), np.zeros(0), diffuse)
    V = np.empty((spec.n, fixed.p + 1))
    basis = _basis_into(spec, fixed, V[:, :-1])
    fixed, y = take_off(spec, fixed, basis, weights, V[:, -1])
    if y.base is not V:
        V[:, -1] = y
    return fixed, V


def fixed_basis(spec: ModelSpec, fixed: FixedDesign) -> FloatArray:
    """The W-orthonormal basis of the dense columns in the equations, (n, p)."""
    return _basis_into(spec, fixed, np.empty((spec.n, fixed.p)))


def _basis_into(spec: ModelSpec, fixed: FixedDesign, out: FloatArray) -> FloatArray:
    parallel(kernels.orthonormal_rows, row_pieces(spec.n), spec.X, fixed.used, fixed.R, out)
    return out


def take_off(
    spec: ModelSpec, fixed: FixedDesign, basis: FloatArray, weights: FloatArray, out: FloatArray | None = None
) -> tuple[FixedDesign, FloatArray]:
    """`fixed` with the coefficients of the response on the fixed effects, and what they leave of it, (n,).

    out: (n,) memory for the latter where there is no sparse column.
    """
    y = np.subtract(spec.y, 0.0 if spec.offset is None else spec.offset, out=out)
    start = _residualise(y, spec.X, fixed, basis, weights)
    if fixed.diffuse is None:
        return replace(fixed, start=start), y
    rest, step, start_D = _residualise_sparse(y[:, None], basis, fixed.diffuse, _spelt_out(weights, spec.n))
    start = start + sla.solve_triangular(fixed.R, step[:, 0])
    return replace(fixed, start=start, start_D=start_D[:, 0]), rest[:, 0]


def beside_diffuse(spec: ModelSpec, fixed: FixedDesign, reml: bool, V: FloatArray) -> FloatArray:
    """V (n, c) less its W-projection on the fixed effects of a model with sparse ones; ML: on null spaces alone."""
    weights = _spelt_out(row_weights(spec), spec.n)
    assert fixed.diffuse is not None
    if reml:
        return _residualise_sparse(V, fixed_basis(spec, fixed), fixed.diffuse, weights)[0]
    N = fixed.diffuse.D[:, : fixed.n_null]
    return V - N @ _Gram(N, weights).project(V)[1] if fixed.n_null else V


def _spelt_out(weights: FloatArray, n: int) -> FloatArray:
    return weights if len(weights) else np.ones(n)


def _numbering(spec: ModelSpec, own: IntArray, lost: IntArray, diffuse: Diffuse | None) -> tuple[IntArray, IntArray]:
    """Columns as reported: kept and dropped."""
    p = spec.X.shape[1]
    kept = np.setdiff1d(own, lost)
    if diffuse is not None:
        kept = np.concatenate([kept, p + diffuse.kept])
    return kept, np.setdiff1d(np.arange(len(spec.fixed_names)), kept)


def independent_columns(X: FloatArray, weights: FloatArray) -> tuple[IntArray, FloatArray]:
    """Columns outside the span of the earlier ones, and the size (p,) of each column: its largest value.

    QR of the whole X first; dependence is then judged on its p x p factor, in the order of the columns
    (LINPACK dqrdc2's limited pivoting, which R uses).
    """
    full, size = _triangular(X, weights)
    return _independent_of(full), size


def _independent_of(full: FloatArray, tolerance: float = RANK_TOLERANCE) -> IntArray:
    norms = np.linalg.norm(full, axis=0)
    Q = np.zeros((len(full), 0))
    kept: list[int] = []
    for j in range(full.shape[1]):
        rest = full[:, j]
        for _ in range(2):
            rest = rest - Q @ (Q.T @ rest)
        if np.linalg.norm(rest) > tolerance * norms[j]:
            kept.append(j)
            Q = np.column_stack([Q, rest / np.linalg.norm(rest)])
    return np.array(kept, dtype=np.int64)


def _triangular(X: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """R with R'R = S X'WX S, S = diag(1/size), size (p,) each column's largest value: QR by slabs of rows."""
    rows = row_pieces(len(X))
    size = np.max(by_pieces(kernels.largest, rows, X), axis=0, initial=0.0)
    size[size == 0.0] = 1.0
    R = np.concatenate(by_pieces(kernels.triangular_factor, rows, X, size, weights))
    return np.asarray(np.linalg.qr(R, mode="r")), size


def _residualise(
    y: FloatArray, X: FloatArray, fixed: FixedDesign, basis: FloatArray, weights: FloatArray
) -> FloatArray:
    """Take its projection on X = basis R off y, in place, twice (what rounding left is less then); the coefficients.

    Where X spans a constant, the mean goes first: y = 1e9 + noise loses it exactly, where a product with the
    basis would round every row differently.
    """
    rows, R, used = row_pieces(len(y)), fixed.R, fixed.used
    along = lambda v: np.sum(by_pieces(kernels.project, rows, basis, v, weights), axis=0)  # noqa: E731
    size = np.max(by_pieces(kernels.largest, rows, X), axis=0, initial=0.0)[used]
    one = np.round(sla.solve_triangular(R, along(np.zeros(0))) * size, CONSTANT_DIGITS) / size
    off = max(by_pieces(kernels.distance_to_one, rows, X, used, one))
    shift = float(y.mean()) if off < 10.0**-CONSTANT_DIGITS else 0.0
    y -= shift
    coefficients = shift * one
    for _ in range(2):
        step = along(y)
        parallel(kernels.take_away, rows, basis, step, y)
        coefficients = coefficients + sla.solve_triangular(R, step)
    return np.asarray(coefficients)


def design_matrix(term: RandomTerm) -> sp.csr_array:
    """Z as a sparse n x (m r) matrix."""
    if sp.issparse(term.Z):
        return sp.csr_array(term.Z)
    n, r = term.n_rows, term.n_effects
    columns = np.ones((n, 1)) if term.columns is None else term.columns
    indices = term.Z[:, None] * r + np.arange(r)
    return sp.csr_array((columns.ravel(), indices.ravel(), np.arange(n + 1) * r), shape=(n, term.n_random))


def null_basis(term: RandomTerm) -> sp.csc_array:
    """N (x) I, (m r, null_dim r); ModelError where the precision does not say what N is."""
    assert term.Q is not None
    check_intrinsic(term.Q, term.describe())
    assert isinstance(term.Q, Intrinsic)
    return sp.csc_array(sp.kron(term.Q.null_space(), sp.eye_array(term.n_effects)))


def _diffuse(spec: ModelSpec, weights: FloatArray) -> Diffuse | None:
    """The sparse columns of a model, those that depend on others left out; None where there are none."""
    weights = _spelt_out(weights, spec.n)
    intrinsic = [k for k, t in enumerate(spec.terms) if t.Q is not None and t.Q.null_dim]
    nulls = [sp.csc_array(design_matrix(spec.terms[k]) @ null_basis(spec.terms[k])) for k in intrinsic]
    if not nulls and spec.S is None:
        return None
    widths = [N.shape[1] for N in nulls]
    term, column = np.repeat(intrinsic, widths), np.concatenate([np.zeros(0, np.int64), *map(np.arange, widths)])
    D = sp.csc_array(sp.hstack([*nulls, *([] if spec.S is None else [spec.S])], format="csc"))
    size = np.sqrt(D.multiply(D).T @ weights)
    D = sp.csc_array(D @ sp.diags_array(1.0 / np.where(size > 0.0, size, 1.0)))
    good = _independent(D, size > 0.0, weights)
    null, rest = np.flatnonzero(good[: len(term)]), np.flatnonzero(good[len(term) :])
    return Diffuse(
        D[:, good], size[good], term[null].astype(np.int64), column[null].astype(np.int64), rest,
        np.flatnonzero(~good[len(term) :]),
    )  # fmt: skip


def _independent(D: sp.csc_array, good: BoolArray, weights: FloatArray) -> BoolArray:
    """Which columns of D (of length one) are independent: those with a pivot in a Cholesky factor of D'WD."""
    places = np.flatnonzero(good)
    gram = _Gram(D[:, places], weights, RIDGE)
    out = good.copy()
    out[places[gram.pivots() < PIVOT]] = False
    return out


class _Gram:
    """D'WD + ridge, factorised."""

    def __init__(self, D: sp.csc_array, weights: FloatArray, ridge: float = 0.0):
        self.D, self.weights = D, weights
        gram = sp.csc_matrix(sp.tril(D.T @ sp.csc_array(D.multiply(weights[:, None])), format="csc"))
        gram = sp.csc_matrix(gram + ridge * sp.eye_array(D.shape[1], format="csc"))
        gram.sort_indices()
        self.engine = Cholmod(Pattern(gram.indptr.astype(np.int64), gram.indices.astype(np.int64)))
        self.engine.factorize(gram.data)

    def pivots(self) -> FloatArray:
        """Squared diagonal of the factor, in the order of the columns."""
        return self.engine.pivots()

    def project(self, V: FloatArray) -> tuple[FloatArray, FloatArray]:
        """D'WV (d, c) and the coefficients (D'WD)^-1 D'WV."""
        right = np.asarray(self.D.T @ (self.weights[:, None] * V))
        return right, self.engine.solve(right)


def _beside(
    diffuse: Diffuse, X: FloatArray, weights: FloatArray
) -> tuple[IntArray, IntArray, IntArray, FloatArray, FloatArray]:
    """Which columns of X (n, p) stand beside D, lie in null spaces, or depend on D and others; then B and C.

    The Schur complement of D'WD in [D X]'W[D X] is factorised in the order of the columns; a pivot of zero is
    dependence on D and the earlier ones.
    """
    right, coefficients = _Gram(diffuse.D, weights).project(X)
    gram = X.T @ (weights[:, None] * X)
    S, size = gram - right.T @ coefficients, np.diag(gram)
    used: list[int] = []
    others: list[int] = []
    for j in range(X.shape[1]):
        on = np.linalg.solve(S[np.ix_(used, used)], S[used, j])
        (used if S[j, j] - S[used, j] @ on > PIVOT * size[j] else others).append(j)
    C = np.linalg.solve(S[np.ix_(used, used)], S[np.ix_(used, others)])
    B = coefficients[:, others] - coefficients[:, used] @ C
    within, near = B[: diffuse.n_null], np.sqrt(PIVOT)
    inside = np.abs(B[diffuse.n_null :]).max(axis=0, initial=0.0) <= near * np.abs(B).max(axis=0, initial=0.0)
    shared = np.flatnonzero(inside)[_independent_of(within[:, inside], near)]
    lost, all_others = np.setdiff1d(np.arange(len(others)), shared), np.array(others, dtype=np.int64)
    B = np.concatenate([within[:, shared], np.zeros((len(B) - diffuse.n_null, len(shared)))])
    return np.array(used, dtype=np.int64), all_others[shared], all_others[lost], B, C[:, shared]


def _residualise_sparse(
    V: FloatArray, basis: FloatArray, diffuse: Diffuse, weights: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """V (n, c) less its projection on [basis, D], twice, and the coefficients of both, (p, c) and (d, c)."""
    gram, p = _Gram(diffuse.D, weights), basis.shape[1]
    right, on = gram.project(basis)
    S = np.eye(p) - right.T @ on
    beta, a = np.zeros((p, V.shape[1])), np.zeros((diffuse.n_columns, V.shape[1]))
    for _ in range(2):
        first = gram.project(V)[1]
        step = np.linalg.solve(S, basis.T @ (weights[:, None] * V) - right.T @ first)
        change = first - on @ step
        V = V - basis @ step - diffuse.D @ change
        beta, a = beta + step, a + change
    return V, beta, a
