"""Simulated records of several traits, and their likelihood as in a textbook: V of all values, by blocks of traits."""

import numpy as np
import pandas as pd
from scipy import optimize

import sparselmm as slm
from tests import naive

SEED = 11


def herd(n=120, missing=0.25, traits=2, founders=30, seed=SEED, per_animal=1):
    """Table and pedigree: traits t0, t1, ... with a herd and an animal effect, and missing cells."""
    rng = np.random.default_rng(seed)
    sire, dam = np.zeros((2, n), dtype=np.int64)
    for i in range(founders, n):
        sire[i], dam[i] = 2 * rng.integers(0, i // 2) + 1, 2 * rng.integers(0, i // 2) + 2
    animals = np.arange(1, n + 1)
    P = slm.Pedigree(animals, sire, dam)
    A = np.linalg.cholesky(P.relationship(animals).to_numpy())
    among = lambda size, r: size * np.linalg.cholesky((1 - r) * np.eye(traits) + r)  # noqa: E731
    u = A @ rng.normal(size=(n, traits)) @ among(1.0, 0.4).T
    of = np.repeat(np.arange(n), per_animal)
    table = pd.DataFrame({"animal": animals[of], "herd": rng.integers(0, 8, len(of)), "x": rng.normal(size=len(of))})
    h = rng.normal(size=(8, traits)) @ among(0.7, 0.3).T
    Y = (
        u[of]
        + h[table.herd]
        + rng.normal(size=(len(of), traits)) @ among(1.0, 0.5).T
        + 0.5 * table.x.to_numpy()[:, None]
    )
    Y[rng.uniform(size=Y.shape) < missing] = np.nan
    return table.assign(**{f"t{j}": Y[:, j] for j in range(traits)}), P


class Dense:
    """Values of all traits below each other, trait by trait: y, X, and the places of the cells with a value.

    kernels: (n, n) of records, one a term, for Kronecker products with its G; loadings (n, n r) where a level has
    several effects.
    """

    def __init__(self, table, traits, X, terms, weights=None):
        Y = table[list(traits)].to_numpy()
        self.there = ~np.isnan(Y.T.ravel())
        self.y, T = Y.T.ravel()[self.there], len(traits)
        self.X = np.kron(np.eye(T), X)[self.there]
        self.terms, self.n = terms, len(table)
        self.root = np.ones(self.n) if weights is None else 1 / np.sqrt(weights)

    def V(self, G, R):
        """G: one (T r, T r) a term, trait by trait; R (T, T)."""
        out = np.kron(np.asarray(R), np.diag(self.root**2))
        for Z, Gk in zip(self.terms, G, strict=True):
            out = out + self.term(Z, np.asarray(Gk))
        return out[np.ix_(self.there, self.there)]

    def term(self, Z, G):
        """sum over effects a, b of G_(ta)(ub) Z_a A Z_b'; Z: list of (Z_a, A)."""
        (designs, A), T = Z, len(G) // len(Z[0])
        r, out = len(designs), np.zeros((len(G) // len(designs) * self.n,) * 2)
        for a, Za in enumerate(designs):
            for b, Zb in enumerate(designs):
                out += np.kron(G.reshape(T, r, T, r)[:, a, :, b], Za @ A @ Zb.T)
        return out

    def deviance(self, G, R, reml=True):
        """-2 log-likelihood in the traits' own units: log|V| + log|X'V^-1X| + (n-p) log 2 pi + y'Py (`naive`)."""
        V, (n, p) = self.V(G, R), self.X.shape
        solved = np.linalg.solve(V, np.column_stack([self.X, self.y]))
        XX, Xy = self.X.T @ solved[:, :p], self.X.T @ solved[:, p]
        rest = self.y @ solved[:, p] - Xy @ np.linalg.solve(XX, Xy)
        value = naive.logdet(V) + rest + (n - p if reml else n) * np.log(2 * np.pi)
        return value + naive.logdet(XX) if reml else value

    def optimum(self, sizes, T, reml=True, starts=3):
        """Lowest -2l by a quasi-Newton search over Cholesky factors; sizes: of each G, then R."""
        shapes = [*sizes, T]
        count = [d * (d + 1) // 2 for d in shapes]

        def matrices(x):
            out = []
            for d, part in zip(shapes, np.split(x, np.cumsum(count)[:-1]), strict=True):
                L = np.zeros((d, d))
                L[np.tril_indices(d)] = part
                out.append(L @ L.T)
            return out

        def value(x):
            *G, R = matrices(x)
            try:
                return self.deviance(G, R, reml)
            except (np.linalg.LinAlgError, AssertionError, ValueError):
                return 1e10

        rng, found = np.random.default_rng(0), []
        for _ in range(starts):
            unit = np.concatenate([np.eye(d)[np.tril_indices(d)] for d in shapes])
            x = unit * rng.uniform(0.5, 1.2, len(unit)) + 0.1 * rng.normal(size=len(unit))
            best = optimize.minimize(value, x, method="BFGS", options={"gtol": 1e-6})
            found.append((best.fun, best.x))
        low = min(found, key=lambda pair: pair[0])
        return low[0], matrices(low[1])


def grouped(labels, columns=None):
    """Z of each effect of a grouping factor, and I."""
    codes = pd.factorize(labels, sort=True)[0]
    Z = np.eye(codes.max() + 1)[codes]
    effects = [Z] if columns is None else [Z * np.asarray(c)[:, None] for c in columns]
    return effects, np.eye(Z.shape[1])


def related(labels, P):
    """Z of the animals of a pedigree, and A."""
    Z = np.eye(len(P.ids))[pd.Index(P.ids).get_indexer(labels)]
    return [Z], P.relationship(P.ids).to_numpy()
