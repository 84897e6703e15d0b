"""Herds for animal models, and their covariance matrices as in a textbook: Mrode's calves, and simulated ones."""

import numpy as np
import pandas as pd

import sparselmm as slm

# Mrode (2014), Linear Models for the Prediction of Animal Breeding Values, 3rd ed., example 7.1: birth weights
CALVES = pd.DataFrame({
    "calf": [5, 6, 7, 8, 9, 10, 11, 12, 13, 14],
    "sire": [1, 3, 4, 3, 1, 3, 3, 8, 9, 3],
    "dam": [2, 2, 6, 5, 6, 2, 7, 7, 2, 6],
    "herd": [1, 1, 1, 1, 2, 2, 2, 3, 3, 3],
    "sex": [1, 2, 2, 1, 1, 2, 2, 2, 1, 2],
    "kg": [35.0, 20.0, 25.0, 40.0, 42.0, 22.0, 35.0, 34.0, 20.0, 40.0],
})  # fmt: skip
MATERNAL = "kg ~ 0 + C(sex) + C(herd) + ped(1 | calf + dam, P) + (1 | dam)"
KNOWN = {
    "sd_ped(calf)|calf+dam": np.sqrt(150),
    "sd_ped(dam)|calf+dam": np.sqrt(90),
    "cor_ped(calf).ped(dam)|calf+dam": -40 / np.sqrt(150 * 90),
    "sd_Intercept|dam": np.sqrt(40),
    "sigma": np.sqrt(350),
}


def calves():
    """The pedigree of `CALVES`: animals 1 ... 14, of which 1-4 have no row."""
    return slm.Pedigree(CALVES.calf, CALVES.sire, CALVES.dam)


def herd_book(n=240, founders=40, seed=3):
    """Records of n animals (two each) of a simulated population: table and pedigree.

    Direct, maternal and permanent effects with variances 4, 2 and 1, covariance -1, residual variance 3.
    """
    rng = np.random.default_rng(seed)
    sire, dam = np.zeros((2, n), dtype=np.int64)
    for i in range(founders, n):
        recent = np.arange(max(0, i - 120), i)
        sire[i], dam[i] = rng.choice(recent[recent % 2 == 1]) + 1, rng.choice(recent[recent % 2 == 0]) + 1
    animals = np.arange(1, n + 1)
    P = slm.Pedigree(animals, sire, dam)
    L = np.linalg.cholesky(P.relationship(animals).to_numpy())
    direct, maternal = (L @ rng.normal(size=(n, 2)) @ np.linalg.cholesky([[4.0, -1.0], [-1.0, 2.0]]).T).T
    recorded = np.repeat(np.arange(founders, n), 2)
    y = direct[recorded] + maternal[dam[recorded] - 1] + rng.normal(size=n)[recorded]
    table = pd.DataFrame({"animal": recorded + 1, "dam": dam[recorded], "herd": rng.integers(0, 9, len(y))})
    return table.assign(y=y + np.sqrt(3) * rng.normal(size=len(y))), P


def indicator(labels, levels):
    """(rows, levels): a one at each row's level."""
    return np.eye(len(levels))[pd.Index(levels).get_indexer(labels)]


def blocks(table, P, animal="animal"):
    """dV by each variance component, (n, n): direct, maternal, their covariance, permanent environment of animals."""
    A, Z, M = (
        P.relationship(P.ids).to_numpy(), indicator(table[animal], P.ids), indicator(table["dam"], P.ids)
    )  # fmt: skip
    return {
        "direct": Z @ A @ Z.T,
        "maternal": M @ A @ M.T,
        "covariance": Z @ A @ M.T + M @ A @ Z.T,
        "permanent": Z @ Z.T,
        "residual": np.eye(len(table)),
    }
