"""A small study with families, two records a person and gaps, and the textbook's answer for one marker."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from tests import naive

KIN = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.5, 0.5, 1.0]])


@dataclass(frozen=True)
class Study:
    """genotypes (people, markers), NaN where missing; data: `id`, `x`, `centre`, `y`; K: covariance of people."""

    genotypes: np.ndarray
    data: pd.DataFrame
    K: np.ndarray
    ids: list

    @property
    def frame(self):
        return pd.DataFrame(self.genotypes, index=self.ids, columns=[f"rs{j}" for j in range(self.genotypes.shape[1])])


def study(families=25, records=2, markers=12, seed=3, gaps=0.03, effect=0.0):
    """Families of three, `records` rows a person, shuffled; marker 4 does not vary, marker 5 is all missing."""
    rng = np.random.default_rng(seed)
    m = 3 * families
    G = rng.binomial(2, rng.uniform(0.2, 0.5, markers), (m, markers)).astype(float)
    K = np.kron(np.eye(families), KIN)
    u = np.linalg.cholesky(K) @ rng.normal(size=m)
    who = rng.permutation(np.repeat(np.arange(m), records))
    data = pd.DataFrame({"id": [f"p{i}" for i in who], "x": rng.normal(size=len(who))})
    data["centre"] = rng.integers(0, 6, len(who))
    data["y"] = 1 + 0.5 * data.x + effect * G[who, 0] + u[who] + 0.4 * data.centre + rng.normal(size=len(who))
    G[rng.random(G.shape) < gaps] = np.nan
    if markers > 5:
        G[:, 4], G[:, 5] = 2.0, np.nan
    return Study(G, data, K, [f"p{i}" for i in range(m)])


def indicator(codes, m):
    return np.eye(m)[codes]


def people(data):
    return data.id.str[1:].astype(int).to_numpy()


def dense_marker(fit, W, U, rows, test):
    """beta, se of the columns U, and F (statistic / c) by explicit inverses, on the rows where `rows`."""
    y, X, W = fit.spec.y[rows], np.column_stack([fit.spec.X, U])[rows], W[np.ix_(rows, rows)]
    beta, cov = naive.gls(y, X, W)
    sigma = naive.profile_sigma(y, X, W, True) if test == "wald" else fit.sigma
    c = U.shape[1]
    V = sigma**2 * cov[-c:, -c:]
    b = beta[-c:]
    return b, np.sqrt(np.diag(V)), b @ np.linalg.solve(V, b) / c
