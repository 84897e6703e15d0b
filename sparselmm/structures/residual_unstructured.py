"""Any covariance among the residuals of one record: several traits of an animal, several visits of a patient."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from .._errors import DataError, EngineError, ModelError
from .._typing import FloatArray, IntArray
from ..kernels.chains import chain_product
from .limits import Bounds
from .residual_varident import joint_codes

MOST_TRAITS = 60  # a set of traits is the bits of one integer
LARGEST_RATIO = 1e3  # of a standard deviation to the one it starts from: beyond it the residual variance is zero
LARGEST_Z = float(np.arctanh(1.0 - 1e-6))  # nearer to a partial correlation of 1 the criterion loses more than it gains
SMALLEST_PIVOT = 1e-5  # of a standard deviation given other traits, over its guess: below it the criterion is rounding
SINGULAR = 1e-12  # of a unit variance: what is left of a trait that others determine


class _Inverses(NamedTuple):
    """Of each set of traits: R^-1 (S, T, T) and w of each z (S, pairs, T), zero at other traits; log|R| (S,)."""

    K: FloatArray
    w: FloatArray
    logdet: FloatArray


class UnstructuredResidual:
    """R = D C D among the rows of one record, C any correlation matrix of T traits and D their standard deviations.

    A record without some of the traits has the rest of R. rho: log ratios of the standard deviations to that of the
    first trait, then for each pair j < i of traits that some record has both of, z_ij in

        C = L L',   L_ij = tanh(z_ij) prod_{k<j} sech(z_ik),   L_ii = prod_{k<i} sech(z_ik),

    so that tanh(z_ij) is the partial correlation of i and j given 0 ... j-1 (Lewandowski, Kurowicka & Joe 2009). Of a
    pair that never meets it is zero: no row says anything about it.

    trait, record: (n,) codes. traits, records: labels. guess: (T, T) covariance to start from, also the middle of the
    bounds. linear: V is linear in the entries of R, so that average information is as good as it is for G.
    Errors: DataError for a trait twice in a record; ModelError where there is one trait, or no pair meets.
    """

    linear = True

    def __init__(
        self,
        trait: Any,
        record: Any,
        traits: Sequence[Any] | None = None,
        records: Sequence[Any] | None = None,
        label: str = "",
        guess: Any = None,
    ):
        self.label = label or "us(trait | record)"
        self.trait = np.asarray(trait, dtype=np.int64)
        self.n_rows, self.n_traits = len(self.trait), int(self.trait.max()) + 1
        self.traits = tuple(range(self.n_traits) if traits is None else traits)
        self.record = record = np.asarray(record, dtype=np.int64)
        self._check(record)
        order = np.lexsort((self.trait, record))
        self._check_twice(order, record, records)
        self.later, self.earlier = _pairs_within(order, record)
        self.pairs = self._met()
        self.n_params = self.n_traits - 1 + len(self.pairs)
        self._guess = np.eye(self.n_traits) if guess is None else np.asarray(guess, dtype=np.float64)
        self._sets, of_record, own = _sets_of_traits(self.trait, record)
        self._count = np.bincount(of_record)
        self._rows, self.row_class = joint_codes(own, self.trait)
        self._kept: tuple[bytes, _Inverses] | None = None
        ends = self.trait[self.later], self.trait[self.earlier]
        self._links, self.link_class = joint_codes(own[self.later], *ends)

    def _check(self, record: IntArray) -> None:
        if len(record) != self.n_rows:
            raise DataError(f"residual {self.label}: {self.n_rows} traits for {len(record)} codes of records")
        unused = np.flatnonzero(np.bincount(self.trait) == 0)
        if len(unused):
            raise DataError(f"residual {self.label}: code {unused[0]} of the traits does not occur")
        if not 2 <= self.n_traits <= MOST_TRAITS:
            raise ModelError(f"residual {self.label}: {self.n_traits} traits; it is for 2 to {MOST_TRAITS}")

    def _check_twice(self, order: IntArray, record: IntArray, records: Sequence[Any] | None) -> None:
        same = record[order[1:]] == record[order[:-1]]
        if not same.any():
            raise ModelError(
                f"residual {self.label}: no record has two traits, so there is no correlation to estimate; "
                "varident(trait) has a variance for each"
            )
        twice = np.flatnonzero(same & (self.trait[order[1:]] == self.trait[order[:-1]]))
        if len(twice):
            row = order[twice[0]]
            name, trait = record[row] if records is None else records[record[row]], self.traits[self.trait[row]]
            raise DataError(
                f"residual {self.label}: record {name!r} has '{_text(trait)}' twice ({len(twice)} such pairs of rows). "
                "A record has one row a trait: name it by a finer group, us(trait | id:visit)"
            )

    def _met(self) -> list[tuple[int, int]]:
        """Pairs of traits, j < i, that some record has both of."""
        met = np.zeros((self.n_traits, self.n_traits), dtype=bool)
        met[self.trait[self.earlier], self.trait[self.later]] = True
        return [(j, i) for j, i in combinations(range(self.n_traits), 2) if met[j, i]]

    def rows(self, keep: IntArray) -> "UnstructuredResidual":
        left = np.bincount(self.trait[keep], minlength=self.n_traits)
        if not left.all():
            lost = _text(self.traits[int(left.argmin())])
            raise DataError(f"residual {self.label}: no row of '{lost}' is left, so it has no variance")
        new = UnstructuredResidual(self.trait[keep], self.record[keep], self.traits, None, self.label, self._guess)
        if new.pairs != self.pairs:
            raise DataError(f"residual {self.label}: two traits have no record of both left, so no correlation")
        return new

    def names(self) -> tuple[str, ...]:
        split = self.n_traits - 1
        natural = self.natural_names()
        return (*(f"log_{n}" for n in natural[:split]), *(f"atanh_partial_{n}" for n in natural[split:]))

    def natural_names(self) -> tuple[str, ...]:
        texts = [_text(t) for t in self.traits]
        ratios = (f"ratio_{text}|residual" for text in texts[1:])
        return (*ratios, *(f"cor_{texts[j]}.{texts[i]}|residual" for j, i in self.pairs))

    def start(self) -> FloatArray:
        """That of `guess`, with moderate correlations."""
        sd = np.sqrt(np.diag(self._guess))
        cor = self._guess / np.outer(sd, sd)
        z = np.clip(self._partial(cor), -1.0, 1.0)
        return np.append(np.log(sd[1:] / sd[0]), z)

    def bounds(self) -> Bounds:
        """Where a correlation is 1 or -1, or a variance zero beside another, for double precision."""
        ratios = self.start()[: self.n_traits - 1]
        ends = np.full(len(self.pairs), LARGEST_Z)
        reach = np.log(LARGEST_RATIO)
        return np.append(ratios - reach, -ends), np.append(ratios + reach, ends)

    def to_natural(self, rho: FloatArray) -> FloatArray:
        C = self._correlations(rho)
        return np.append(self._split(rho)[0][1:], [C[pair] for pair in self.pairs])

    def limit(self, rho: FloatArray) -> FloatArray:
        """`relative` where a bound stands for what lies behind it: a correlation of +-1, a variance of zero."""
        sd, (low, high) = self._split(rho)[0], self.bounds()
        ratios = slice(0, self.n_traits - 1)
        sd[1:][rho[ratios] <= low[ratios]] = 0.0
        if (rho[ratios] >= high[ratios]).all():
            sd[0] = 0.0
        return np.outer(sd, sd) * self._correlations(rho) + 0.0  # no -0

    def _correlations(self, rho: FloatArray) -> FloatArray:
        """C (T, T), with +-1 at the bounds."""
        z = self._split(rho)[1]
        ended = np.abs(z) >= LARGEST_Z
        L = self._factor(np.where(ended, np.sign(z), np.tanh(z)), np.where(ended, 0.0, 1 / np.cosh(z)))
        return np.asarray(L @ L.T)

    def from_natural(self, natural: FloatArray) -> FloatArray:
        split = self.n_traits - 1
        for name, value in zip(self.natural_names()[:split], natural[:split], strict=True):
            if not 0.0 < value < np.inf:
                raise ModelError(f"{name} = {value:g}: a ratio of standard deviations is positive")
        cor = np.eye(self.n_traits)
        for pair, value in zip(self.pairs, natural[split:], strict=True):
            cor[pair] = cor[pair[::-1]] = value
        return np.append(np.log(natural[:split]), self._partial(cor))

    def relative(self, rho: FloatArray) -> FloatArray:
        """R of a record with all traits, (T, T), the first trait's variance 1."""
        L = self._root(rho)
        return np.asarray(L @ L.T)

    def values(self, rho: FloatArray) -> tuple[FloatArray, FloatArray]:
        K = self._inverses(rho).K
        s, t = self._rows
        return K[s, t, t], K[tuple(self._links)]

    def gradient(self, rho: FloatArray) -> tuple[FloatArray, FloatArray]:
        """dK_ab = -(1[a = t] + 1[b = t]) K_ab for a log ratio t, -(K_ai w_b + w_a K_bi) for z_ij.

        -K dR K itself would cancel where R is nearly singular.
        """
        at, (s, t) = self._inverses(rho), self._rows
        return self._slope(at, s, t, t), self._slope(at, *self._links)

    def _slope(self, at: "_Inverses", s: IntArray, a: IntArray, b: IntArray) -> FloatArray:
        """dK_ab of the set s, (n_params, classes)."""
        K, ratio = at.K[s, a, b], np.arange(1, self.n_traits)[:, None]
        i = np.array([pair[1] for pair in self.pairs], dtype=np.int64)[:, None]
        z = np.arange(len(self.pairs))[:, None]
        by_z = at.K[s, a, i] * at.w[s, z, b] + at.w[s, z, a] * at.K[s, b, i]
        return -np.vstack([((a == ratio) * 1.0 + (b == ratio)) * K, by_z])

    def logdet(self, rho: FloatArray) -> float:
        return float(self._count @ self._inverses(rho).logdet)

    def logdet_gradient(self, rho: FloatArray) -> FloatArray:
        """Twice the rows of a trait, and 2 w_i for z_ij."""
        w, rows = self._inverses(rho).w, np.bincount(self.trait)[1:]
        by_z = [2.0 * self._count @ w[:, k, i] for k, (_, i) in enumerate(self.pairs)]
        return np.append(2.0 * rows, by_z)

    def times(self, rho: FloatArray, V: FloatArray) -> FloatArray:
        R, out = self.relative(rho), np.empty_like(V)
        beside = R[self.trait[self.later], self.trait[self.earlier]]
        chain_product(self.later, self.earlier, np.diag(R)[self.trait], beside, np.ascontiguousarray(V), out)
        return out

    def scales(self, rho: FloatArray) -> FloatArray:
        return self._split(rho)[0][self.trait]

    def covariance(self, rho: FloatArray) -> FloatArray:
        return self._dense(self.relative(rho))

    def covariance_gradient(self, rho: FloatArray) -> FloatArray:
        return np.array([self._dense(d) for d in self._slopes(rho)])

    def _dense(self, among: FloatArray) -> FloatArray:
        """(n, n) of a matrix (T, T): its entries among the rows of a record, zero elsewhere."""
        out = np.diag(among[self.trait, self.trait])
        entries = among[self.trait[self.later], self.trait[self.earlier]]
        out[self.later, self.earlier] = out[self.earlier, self.later] = entries
        return out

    def _split(self, rho: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Standard deviations (T,) and z."""
        split = self.n_traits - 1
        return np.exp(np.append(0.0, rho[:split])), rho[split:]

    def _factor(self, partial: FloatArray, rest: FloatArray) -> FloatArray:
        """L (T, T) from tanh z and sech z of the pairs."""
        T = self.n_traits
        p, q = np.zeros((T, T)), np.ones((T, T))
        j, i = np.array(self.pairs).T
        p[i, j], q[i, j] = partial, rest
        np.fill_diagonal(p, 1.0)
        before = np.cumprod(np.column_stack([np.ones(T), q[:, :-1]]), axis=1)
        return np.tril(p * before)

    def _root(self, rho: FloatArray) -> FloatArray:
        """D L."""
        sd, z = self._split(rho)
        with np.errstate(over="ignore"):
            return sd[:, None] * self._factor(np.tanh(z), 1 / np.cosh(z))

    def _root_slopes(self, rho: FloatArray) -> FloatArray:
        """Row i of d(D L)/dz_ij, (pairs, T): sech^2 for tanh at j, and -tanh(z_ij) L_im behind it."""
        sd, z = self._split(rho)
        root, out = self._root(rho), np.zeros((len(z), self.n_traits))
        before = self._factor(np.ones(len(z)), 1 / np.cosh(z))  # products of sech before each entry
        for k, ((j, i), zk) in enumerate(zip(self.pairs, z, strict=True)):
            out[k, j] = sd[i] * before[i, j] / np.cosh(zk) ** 2
            out[k, j + 1 : i + 1] = -np.tanh(zk) * root[i, j + 1 : i + 1]
        return out

    def _slopes(self, rho: FloatArray) -> FloatArray:
        """dR/drho, (n_params, T, T)."""
        root, T = self._root(rho), self.n_traits
        R, half = root @ root.T, np.zeros((self.n_params, T, T))
        half[np.arange(T - 1), np.arange(1, T)] = R[1:]
        for k, ((_, i), slope) in enumerate(zip(self.pairs, self._root_slopes(rho), strict=True), start=T - 1):
            half[k, i] = root @ slope
        return half + half.transpose(0, 2, 1)

    def _inverses(self, rho: FloatArray) -> "_Inverses":
        """Of each set of traits; the last ones are kept."""
        key = np.asarray(rho, dtype=np.float64).tobytes()
        if self._kept is None or self._kept[0] != key:
            self._kept = key, self._invert(rho)
        return self._kept[1]

    def _invert(self, rho: FloatArray) -> "_Inverses":
        """By a QR of the rows B of D L in a set: B' = Q H, R = H'H, w = dB (Q H^-T); sets of one size at once."""
        root, slopes, T = self._root(rho), self._root_slopes(rho), self.n_traits
        K, w = np.zeros((len(self._sets), T, T)), np.zeros((len(self._sets), len(self.pairs), T))
        there = (self._sets[:, None] >> np.arange(T)) & 1 == 1
        size, logdet = there.sum(axis=1), np.empty(len(self._sets))
        guess = np.sqrt(np.diag(self._guess) / self._guess[0, 0])
        later = np.array([i for _, i in self.pairs], dtype=np.int64)
        for d in np.unique(size):
            which = np.flatnonzero(size == d)
            at = np.nonzero(there[which])[1].reshape(-1, d)
            Q, H = np.linalg.qr(root[at].transpose(0, 2, 1))
            diagonal = np.abs(np.einsum("sdd->sd", H))
            if not (diagonal > SMALLEST_PIVOT * guess[at]).all():
                raise EngineError(f"residual {self.label}: R is singular to rounding")
            inverse = np.linalg.inv(H)
            K[which[:, None, None], at[:, :, None], at[:, None, :]] = inverse @ inverse.transpose(0, 2, 1)
            w[which[:, None, None], np.arange(len(later))[:, None], at[:, None, :]] = slopes @ (
                Q @ inverse.transpose(0, 2, 1)
            )
            logdet[which] = 2 * np.log(diagonal).sum(axis=1)
        w *= there[:, later, None]
        return _Inverses(K, w, logdet)

    def _partial(self, cor: FloatArray) -> FloatArray:
        """z of the pairs for a correlation matrix (T, T), in which pairs that do not meet are not read."""
        L, met, out = np.eye(self.n_traits), set(self.pairs), dict[tuple[int, int], float]()
        for i in range(1, self.n_traits):
            rest = 1.0
            for j in range(i):
                left, scale = cor[i, j] - L[i, :j] @ L[j, :j], np.sqrt(rest) * L[j, j]
                out[j, i] = p = _partial_correlation(left, scale) if (j, i) in met else 0.0
                L[i, j] = p * np.sqrt(rest)
                rest *= 1.0 - p * p
            L[i, i] = np.sqrt(rest)
        with np.errstate(divide="ignore"):
            z = np.arctanh(np.array([out[pair] for pair in self.pairs]))
        return np.clip(z, -LARGEST_Z, LARGEST_Z)


def _text(label: Any) -> str:
    return f"{label:g}" if isinstance(label, float) else str(label)


def _partial_correlation(covariance: float, scale: float) -> float:
    """covariance / scale; zero where nothing is left that could vary. ModelError beyond +-1."""
    if scale <= SINGULAR:
        if abs(covariance) > np.sqrt(SINGULAR):
            raise ModelError("cor_...|residual: no correlation matrix has these values")
        return 0.0
    if abs(covariance) > scale * (1.0 + np.sqrt(SINGULAR)):
        raise ModelError("cor_...|residual: no correlation matrix has these values")
    return float(np.clip(covariance / scale, -1.0, 1.0))


def _sets_of_traits(trait: IntArray, record: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """Sets of traits that occur together, as bits; the set of each record and of each row."""
    used, record = np.unique(record, return_inverse=True)
    masks = np.zeros(len(used), dtype=np.int64)
    np.bitwise_or.at(masks, record, np.int64(1) << trait)
    sets, of_record = np.unique(masks, return_inverse=True)
    return sets, of_record, of_record[record]


def _pairs_within(order: IntArray, record: IntArray) -> tuple[IntArray, IntArray]:
    """All pairs of rows of one record, (L,) each: the one with the higher trait, and the other; order: by both."""
    later, earlier, step = [], [], 1
    while step < len(order):
        same = record[order[step:]] == record[order[:-step]]
        if not same.any():
            break
        later.append(order[step:][same])
        earlier.append(order[:-step][same])
        step += 1
    none = np.zeros(0, dtype=np.int64)
    return np.concatenate([none, *later]), np.concatenate([none, *earlier])
