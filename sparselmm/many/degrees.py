"""Satterthwaite's degrees of freedom (1946) from the information of (x, log sigma^2), x the search's coordinates.

With f = sigma^2 c(x) the variance of a coefficient, H the Hessian of -2l and 2 H^-1 the covariance of its estimates,
2 f^2/var(f) = 1/(g'H^-1 g), g = (c'/c, 1).
"""

import numpy as np

from .._errors import ModelError
from .._typing import FloatArray

METHODS = ("satterthwaite", "wald")
STEP = 1e-4  # of central differences of the exact score: errors of 1e-8 both ways
WIDE_STEP = 3e-3  # beside a correlation of 1 - 1e-8, where the score is only known to 1e-6
RCOND = 1e-10  # of the information: a direction that the data say nothing about has no part in the variances


def whitened(hessian: FloatArray, slopes: FloatArray) -> FloatArray:
    """H^-1/2 slopes, (v, k, P): of covariances along the profile, whose Hessian of -2l is H (v, k, k).

    With s the one of a variance f, 1/df = 1/nu + s's/f^2: the same as `satterthwaite`, log sigma^2 eliminated.
    """
    d, U = np.linalg.eigh(hessian)
    inside = d > RCOND * d.max(axis=1, keepdims=True, initial=0.0)
    root = np.where(inside, 1.0, 0.0) / np.sqrt(np.where(inside, d, 1.0))
    return root[:, :, None] * (U.transpose(0, 2, 1) @ slopes)


def wanted(ddf: str | None) -> bool:
    """Whether there are to be degrees of freedom. Errors: ModelError."""
    if ddf is not None and ddf not in METHODS:
        raise ModelError(f"ddf={ddf!r}: {', '.join(map(repr, METHODS))} or None, which is the first")
    return ddf != "wald"


def satterthwaite(H: FloatArray, relative: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Degrees of freedom (v, c) of coefficients, and (v,) of sigma^2; NaN where -2l does not curve upwards.

    H: (v, k + 1, k + 1), log sigma^2 last. relative: (v, k, c), derivatives of log c(x).
    """
    inverse = np.linalg.pinv(H, rcond=RCOND, hermitian=True)
    g = np.concatenate([relative, np.ones((len(H), 1, relative.shape[2]))], axis=1)
    spread, residual = np.einsum("vic,vij,vjc->vc", g, inverse, g), inverse[:, -1, -1]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(spread > 0, 1.0 / spread, np.nan), np.where(residual > 0, 1.0 / residual, np.nan)
