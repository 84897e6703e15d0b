"""The shapes of models that are timed: problems shared with the tests, at sizes that take a while, and InstEval."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import sparselmm as slm

INSTEVAL = "y ~ service + (1 | s) + (1 | d) + (1 | dept)"
SIZES = {
    "one_factor": 100_000,
    "slope": 100_000,
    "nested": 100_000,
    "crossed": 20_000,
    "crossed_slope": 10_000,
    "cs": 20_000,
    "partially_crossed": 100_000,
    "ar1": 20_000,
    "ar1_crossed": 5_000,
    "ou": 20_000,
    "pedigree": 10_000,
    "maternal": 10_000,
    "permanent": 20_000,
    "known": 20_000,
    "field_trial": 2_000,
    "residual_ar1": 20_000,
    "residual_ou": 20_000,
    "residual_varident": 20_000,
    "residual_product": 20_000,
    "two_traits": 20_000,
    "rw1": 20_000,
    "rw2": 20_000,
}
SHAPES = [*SIZES, "InstEval"]


def problems() -> ModuleType:
    """tests/problems.py, by its path: the checkout on sys.path would hide the installed package from asv."""
    if "problems" not in sys.modules:
        path = Path(__file__).parents[1] / "tests" / "problems.py"
        spec = importlib.util.spec_from_file_location("problems", path)
        assert spec is not None and spec.loader is not None
        sys.modules["problems"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["problems"])
    return sys.modules["problems"]


def problem(shape: str) -> Any:
    """The problem of that name, with independent levels or with correlated ones."""
    found = problems()
    return (found.PROBLEMS | found.STRUCTURED | found.INTRINSIC)[shape]


def arguments(shape: str) -> tuple[tuple[str, Any], dict[str, Any]]:
    """What a user would have in hand: formula and table, and what `lmm` takes besides."""
    if shape == "InstEval":
        return (INSTEVAL, slm.load_dataset("InstEval")), {}
    given = problem(shape)
    return (given.formula, given.data(SIZES[shape])), given.options(SIZES[shape])


def model(shape: str) -> slm.LinearMixedModel:
    """The unfitted model."""
    given, options = arguments(shape)
    return slm.LinearMixedModel(*given, **options)


def warm_up(shape: str) -> None:
    """A small fit of the same shape, so that no kernel is compiled while the clock runs."""
    problem("crossed" if shape == "InstEval" else shape).model().fit()
