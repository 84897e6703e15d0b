"""What every precision is held against: dense matrices, slogdet and central differences."""

import pickle

import numpy as np

# values against a dense inverse at condition numbers up to 1e4
DENSE = 1e-9
# central differences with step 1e-6: rounding 1e-10, truncation 1e-12, both relative to entries of size 1-1e3
DIFFERENCES = 1e-7


def dense(precision, rho):
    """Q(rho) as a full symmetric matrix; each place of the pattern may occur once."""
    rows, cols = precision.pattern()
    assert (rows >= cols).all()
    assert len(set(zip(rows.tolist(), cols.tolist(), strict=True))) == len(rows)
    assert {(i, i) for i in range(precision.n_levels)} <= set(zip(rows.tolist(), cols.tolist(), strict=True))
    Q = np.zeros((precision.n_levels, precision.n_levels))
    Q[rows, cols] = precision.values(rho)
    return Q + np.tril(Q, -1).T


def pseudo_logdet(Q, null_dim):
    """log of the product of the eigenvalues after the null_dim smallest, which must be zero."""
    eigenvalues = np.linalg.eigvalsh(Q)
    size = max(eigenvalues[-1], 1e-300)
    assert np.abs(eigenvalues[:null_dim]).max(initial=0.0) < 1e-12 * len(Q) * size
    assert eigenvalues[null_dim:].min(initial=np.inf) > 1e-12 * len(Q) * size
    return np.log(eigenvalues[null_dim:]).sum()


def differences(function, rho, step=1e-6):
    """Central differences of `function` along every coordinate, (n_params, ...)."""
    ends = [(function(rho + step * e), function(rho - step * e)) for e in np.eye(len(rho))]
    return np.array([(np.asarray(up) - np.asarray(down)) / (2 * step) for up, down in ends])


def check(precision, *points):
    """The contract of `Precision` at each rho of `points` (and the start)."""
    for rho in (precision.start(), *map(np.asarray, points)):
        assert rho.shape == (precision.n_params,)
        Q = dense(precision, rho)
        logdet = pseudo_logdet(Q, precision.null_dim)
        np.testing.assert_allclose(precision.logdet(rho), logdet, rtol=DENSE, atol=DENSE)
        nnz = len(precision.pattern()[0])
        gradient, slope = precision.gradient(rho), precision.logdet_gradient(rho)
        assert gradient.shape == (precision.n_params, nnz) and slope.shape == (precision.n_params,)
        if precision.n_params:
            scale = np.abs(gradient).max()
            np.testing.assert_allclose(gradient / scale, differences(precision.values, rho) / scale, atol=DIFFERENCES)
            np.testing.assert_allclose(slope, differences(precision.logdet, rho), rtol=DIFFERENCES, atol=DIFFERENCES)
        np.testing.assert_allclose(precision.from_natural(precision.to_natural(rho)), rho, atol=1e-12)
    assert len(precision.names("f(t)", "g")) == len(precision.natural_names("f(t)", "g")) == precision.n_params
    again = pickle.loads(pickle.dumps(precision))
    np.testing.assert_array_equal(again.values(precision.start()), precision.values(precision.start()))
