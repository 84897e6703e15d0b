"""The public conformance kit over everything registered, and that it notices what is broken."""

import numpy as np
import pytest

import sparselmm.structures as structures
from sparselmm._errors import ModelError
from sparselmm.structures import (
    CompoundSymmetry,
    Diagonal,
    Unstructured,
    check_covariance,
    check_precision,
    covariance_words,
)
from sparselmm.structures.ar1 import AR1
from sparselmm.structures.fields import Fields
from sparselmm.structures.known import Known
from sparselmm.structures.kronecker import Kronecker
from sparselmm.structures.ou import OU
from sparselmm.structures.rw import RW1, RW2

LEGAL = [
    (word, r) for word in covariance_words() for r in range(1, 5) if word not in ("cs", "hcs") or r > 1
]  # a correlation needs two effects


@pytest.mark.parametrize(("word", "r"), LEGAL)
@pytest.mark.parametrize("seed", range(3))
def test_every_registered_covariance(word, r, seed):
    check_covariance(structures.make_covariance(word, r, "f"), seed=seed)


@pytest.mark.parametrize("word", ["cs", "hcs"])
def test_a_correlation_needs_two_effects(word):
    with pytest.raises(ModelError, match=rf"{word}\(...\) needs two or more effects"):
        structures.make_covariance(word, 1)


def test_unknown_word():
    with pytest.raises(ModelError, match="unknown structure 'uns': known are cs, diag, hcs, us"):
        structures.make_covariance("uns", 2)


# --- what a precision promises --------------------------------------------------------------------------

PRECISIONS = {
    "ar1": (AR1([5, 1, 3]), [[-1.2], [2.0]]),
    "ar1 with a free start": (AR1([4, 3], "free"), [[0.4, -0.7]]),
    "ou": (OU([0.0, 0.3, 1.0, 2.5, 0.0, 0.2, 0.9], [4, 3]), [[-1.0], [1.0]]),
    "rw1": (RW1([0.0, 1.0, 2.0, 3.5, 4.0, 0.0, 1.0], [5, 2]), []),
    "rw2": (RW2([0.0, 1.0, 2.0, 3.5, 4.0, 0.0, 1.0, 2.5], [5, 3]), []),
    "known": (Known(np.array([[2.0, -0.5, 0.0], [-0.5, 1.0, 0.3], [0.0, 0.3, 1.5]])), []),
    "kronecker": (Kronecker(AR1([3]), AR1([4])), [[0.3, -0.8]]),
    "fields": (Fields(AR1([3, 1, 2]), OU([0.0, 0.3, 1.0, 1.5, 2.0, 0.5], [2, 3, 1])), [[0.3, -0.8], [-1.0, 0.4]]),
}


@pytest.mark.parametrize("name", PRECISIONS)
def test_every_precision(name):
    precision, points = PRECISIONS[name]
    check_precision(precision, *points)


# --- broken structures ----------------------------------------------------------------------------------


class _Changed:
    """A structure with one method replaced; pickles as long as the replacement does."""

    def __init__(self, structure, **methods):
        members = {name: getattr(structure, name) for name in dir(structure) if not name.startswith("_")}
        self.__dict__.update(members | methods)


US, DIAG, AR = Unstructured(2), Diagonal(2), AR1([5, 3])
BROKEN_COVARIANCES = {
    "gradient is not the derivative": (US, {"gradient": lambda t: 1.01 * US.gradient(t)}),
    "of the gradient is not symmetric": (US, {"gradient": lambda t: np.triu(US.gradient(t))}),
    "hessian is not the derivative": (US, {"hessian": lambda t: 0 * US.hessian(t)}),
    "the hessian is not symmetric": (
        US,
        {"hessian": lambda t: US.hessian(t) + np.triu(np.ones((3, 3)), 1)[..., None, None]},
    ),
    "gradient has shape": (DIAG, {"gradient": lambda t: DIAG.gradient(t)[:1]}),
    "factor is not finite": (DIAG, {"factor": lambda t: DIAG.factor(t) + np.nan}),
    r"G\(0\) is not zero": (DIAG, {"factor": lambda t: DIAG.factor(t) + 1e-3 * np.eye(2) * (not t.any())}),
    "canonical changes G": (DIAG, {"canonical": lambda t: np.maximum(t, 0)}),
    "canonical twice": (DIAG, {"canonical": lambda t: -t}),
    "nearest to a member": (US, {"nearest": lambda root: US.nearest(2 * root)}),
    "names gives 1 names for 2": (DIAG, {"names": lambda e, g: ("a",)}),
    "names gives a name twice": (DIAG, {"names": lambda e, g: ("a", "a")}),
    "must begin with sd_ or cor_": (DIAG, {"natural_names": lambda e, g: ("var_a", "var_b")}),
    "to_natural. changes G": (DIAG, {"from_natural": lambda n: 2 * n}),
    "sd_x0|g = -": (DIAG, {"to_natural": lambda t: t - 5, "from_natural": lambda n: n + 5}),
    r"scaling\(I\) is not I": (DIAG, {"scaling": lambda b: 2 * np.eye(2)}),
    "is not singular": (DIAG, {"edges": lambda t, s: [t + 1] if s else []}),
    "edges finds nothing": (DIAG, {"edges": lambda t, s: []}),
    "nearer than 0": (DIAG, {"edges": lambda t, s: [0 * t]}),
}


@pytest.mark.parametrize("message", BROKEN_COVARIANCES)
def test_a_broken_covariance_is_caught(message):
    structure, methods = BROKEN_COVARIANCES[message]
    with pytest.raises(ModelError, match=f"_Changed.*{message}"):
        check_covariance(_Changed(structure, **methods))


BROKEN_PRECISIONS = {
    "logdet is not log": {"logdet": lambda rho: AR.logdet(rho) + 1e-3},
    "logdet_gradient is not the derivative": {"logdet_gradient": lambda rho: -AR.logdet_gradient(rho)},
    "gradient is not the derivative": {"gradient": lambda rho: 0 * AR.gradient(rho)},
    "values has shape": {"values": lambda rho: AR.values(rho)[:-1]},
    "dimension 0, null_dim is 1": {"null_dim": 1},
    "Q has the eigenvalue -": {"values": lambda rho: -AR.values(rho)},
    "above the diagonal": {"pattern": lambda: AR.pattern()[::-1]},
    "an entry twice": {"pattern": lambda: tuple(np.append(x, x[-1]) for x in AR.pattern())},
    "lacks entries of the diagonal": {"pattern": lambda: tuple(x[1:] for x in AR.pattern())},
    "is another rho": {"from_natural": lambda natural: AR.from_natural(natural) + 0.1},
    "names gives 2 names for 1": {"names": lambda effect, group: ("a", "b")},
}


@pytest.mark.parametrize("message", BROKEN_PRECISIONS)
def test_a_broken_precision_is_caught(message):
    with pytest.raises(ModelError, match=f"_Changed.*{message}"):
        check_precision(_Changed(AR, **BROKEN_PRECISIONS[message]))


class _Unpicklable(Diagonal):
    def __reduce__(self):
        return CompoundSymmetry, (2,)


def test_a_copy_that_differs_is_caught():
    with pytest.raises(ModelError, match="_Unpicklable.*a pickled copy differs"):
        check_covariance(_Unpicklable(2))


def test_what_is_no_structure_is_caught():
    with pytest.raises(ModelError, match="int: it lacks a member of the protocol Covariance"):
        check_covariance(3)
    with pytest.raises(ModelError, match="Diagonal: it lacks a member of the protocol Precision"):
        check_precision(Diagonal(2))
