"""A marker without the people whose genotype is missing, exactly: their rows get an indicator each.

To leave rows out of a generalised least-squares fit is to give each of them a coefficient of its own. With J their
indicators beside the marker's columns U (zero in these rows),

    U'P*U = U'P U - U'P J (J'P J)^- J'P U,        y'P*y = y'P y - y'P J (J'P J)^- J'P y.

The degrees of freedom fall by the rank of J'P J: by less than the rows where a fixed effect goes with them.
"""

import numpy as np
import scipy.sparse as sp

from .._errors import ModelError
from .._typing import BoolArray, FloatArray
from .projection import NullModel, Products

LARGEST = 100_000_000  # numbers of [U, J], rows by columns: 0.8 GB
RANK = 1e-10  # eigenvalues of J'P J, on the scale of J'V^-1 J, below this part of the largest are zero


def products_without(null: NullModel, U: FloatArray, gone: BoolArray) -> tuple[Products, float, int]:
    """Products of one marker, y'P*y and the rank that went, without the rows `gone` (n,). U (n, c) is zero there.

    Errors: ModelError where so many rows are gone that this is not the way.
    """
    rows = np.flatnonzero(gone)
    if U.shape[0] * (U.shape[1] + len(rows)) > LARGEST:
        raise ModelError(f"missing in {len(rows):,} of {len(U):,} rows, each a solve: too many for missing='drop'")
    c = U.shape[1]
    J = np.zeros((len(U), len(rows)))
    J[rows, np.arange(len(rows))] = 1.0
    gram, score, size = null.gram(np.hstack([U, J]))
    scale = np.sqrt(size[c:])
    values, vectors = np.linalg.eigh(gram[c:, c:] / np.outer(scale, scale))
    used = values > RANK * values[-1]
    half = (vectors[:, used] / np.sqrt(values[used])).T / scale
    cross, alone = half @ gram[c:, :c], half @ score[c:]
    P = gram[:c, :c] - cross.T @ cross
    products = Products(P[None], (score[:c] - cross.T @ alone)[None], size[None, :c])
    return products, float(null.ss - alone @ alone), int(used.sum())


def indicators(gone: BoolArray) -> sp.csc_array:
    """J, n x rows."""
    rows = np.flatnonzero(gone)
    return sp.csc_array((np.ones(len(rows)), (rows, np.arange(len(rows)))), shape=(len(gone), len(rows)))
