"""Who takes part: how each is asked for the same model, what it cannot do, and whether it is installed.

A fit goes from a table in memory to estimates with the standard errors of the coefficients. Only the process that
fits imports the package in question.
"""

import importlib
import importlib.metadata
import importlib.util
import shutil
import subprocess
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import tables
from .problems import RaceProblem

WORKER_R = Path(__file__).with_name("worker.R")


@dataclass(frozen=True, slots=True)
class Fitted:
    """-2 log-likelihood (ML, or the REML criterion), standard errors (p,), and what the software says of itself."""

    deviance: float
    se: Any
    converged: bool = True


@dataclass(frozen=True, slots=True)
class Contender:
    """One software. package: what is imported or loaded; fit(problem, table, reml): None for R's.

    cannot(problem, reml): why it takes no part, or None. exact: no approximation of the likelihood by design.
    """

    name: str
    package: str
    fit: Callable[[RaceProblem, Any, bool], Fitted] | None = None
    read: Callable[[Path], Any] = tables.pandas
    cannot: Callable[[RaceProblem, bool], str | None] = lambda problem, reml: None
    exact: bool = True
    apt: str = ""

    def installed(self) -> bool:
        """Look for the package without loading it (R's: in a process of its own)."""
        if self.fit is not None:
            return importlib.util.find_spec(self.package) is not None
        test = f"quit(status = if (requireNamespace('{self.package}', quietly = TRUE)) 0 else 1)"
        return shutil.which("Rscript") is not None and subprocess.run(["Rscript", "-e", test]).returncode == 0

    def hint(self) -> str:
        """How to install it."""
        return f"apt install {self.apt}" if self.apt else f"pip install {self.name}"

    def version(self) -> str:
        """Of a Python package, by its installation or its own word; R's report their own."""
        try:
            return importlib.metadata.version(self.name)
        except importlib.metadata.PackageNotFoundError:
            return str(importlib.import_module(self.package).__version__)


def sparselmm(problem: RaceProblem, table: Any, reml: bool) -> Fitted:
    """`lmm`, and the standard errors, which it computes when asked."""
    import sparselmm as slm

    fit = slm.lmm(problem.formula, table, reml=reml)
    return Fitted(fit.deviance, fit.fixef_se.to_numpy(), fit.converged)


def statsmodels(problem: RaceProblem, table: Any, reml: bool) -> Fitted:
    """`MixedLM`: slopes by re_formula, nested factors as variance components within the outermost."""
    import statsmodels.formula.api as smf

    (outer_effects, outer), *inner = problem.random
    components = {group: f"0 + C({group})" for _, group in inner}
    model = smf.mixedlm(
        problem.fixed, table, groups=outer, re_formula=f"~{outer_effects}", vc_formula=components or None
    )
    fit = model.fit(reml=reml)
    return Fitted(-2 * fit.llf, fit.bse_fe.to_numpy(), bool(fit.converged))


def no_crossing(problem: RaceProblem, reml: bool) -> str | None:
    """statsmodels takes crossed factors only as one group of all rows, with matrices n x n."""
    return None if len(problem.random) == 1 or problem.nested else "crossed effects only through dense n x n matrices"


def mixedlm(problem: RaceProblem, table: Any, reml: bool) -> Fitted:
    """`lmer` without the derivatives after the fit, as lme4 is asked too."""
    from mixedlm import lmer, lmerControl

    fit = lmer(problem.formula, table, REML=reml, control=lmerControl(calc_derivs=False))
    return Fitted(fit.get_deviance(), np.sqrt(np.diag(fit.vcov())), bool(fit.converged))


def mixedlm_rs(problem: RaceProblem, table: Any, reml: bool) -> Fitted:
    """`mixedlm` in the manner of statsmodels."""
    from mixedlm_rs import mixedlm

    ((effects, group),) = problem.random
    fit = mixedlm(problem.fixed, table, groups=group, re_formula=f"~{effects}").fit(reml=reml)
    return Fitted(-2 * fit.llf, np.asarray(fit.bse_fe), bool(fit.converged))


def one_factor(problem: RaceProblem, reml: bool) -> str | None:
    """mixedlm-rs has one grouping factor."""
    return None if len(problem.random) == 1 else "one grouping factor only"


def lme_python(problem: RaceProblem, table: Any, reml: bool) -> Fitted:
    """`lmer` on a polars table; standard errors come with every fit."""
    import lme_python as lme

    fit = lme.lmer(problem.formula, data=table, reml=reml)
    return Fitted(fit.reml_criterion if reml else fit.deviance, np.asarray(fit.beta_se), bool(fit.converged))


def gpboost(problem: RaceProblem, table: Any, reml: bool) -> Fitted:
    """`GPModel` with its default: Krylov methods for several factors, Cholesky for one; X from formulaic."""
    import gpboost as gpb
    from formulaic import model_matrix

    X = model_matrix(problem.fixed.split("~")[1], table, output="numpy")
    groups = np.column_stack([_labels(table, group) for _, group in problem.random])
    model = gpb.GPModel(group_data=groups, likelihood="gaussian")
    model.fit(y=table[problem.response].to_numpy(), X=np.asarray(X, float))
    se = model.get_coef(std_err=True, format_pandas=False)[1]
    return Fitted(2 * model.get_current_neg_log_likelihood(), se)


def _labels(table: Any, group: str) -> np.ndarray:
    """Codes of the levels of a factor, or of the combinations a:b."""
    out = np.zeros(len(table), dtype=np.int64)
    for name in group.split(":"):
        codes = np.asarray(table[name], dtype=np.int64)
        out = out * (codes.max() + 1) + codes
    return out


def ml_and_independent(problem: RaceProblem, reml: bool) -> str | None:
    """gpboost maximises the likelihood, and its slopes are independent of their intercepts."""
    if reml:
        return "no REML"
    slopes = any(effects != "1" for effects, _ in problem.random)
    return "no correlation of intercept and slope" if slopes else None


CONTENDERS = {
    c.name: c
    for c in [
        Contender("sparselmm", "sparselmm", sparselmm),
        Contender("lme4", "lme4", apt="r-cran-lme4"),
        Contender("glmmTMB", "glmmTMB", apt="r-cran-glmmtmb"),
        Contender("statsmodels", "statsmodels", statsmodels, cannot=no_crossing),
        Contender("mixedlm", "mixedlm", mixedlm),
        Contender("mixedlm-rs", "mixedlm_rs", mixedlm_rs, cannot=one_factor),
        Contender("lme-python", "lme_python", lme_python, read=tables.polars),
        Contender("gpboost", "gpboost", gpboost, cannot=ml_and_independent, exact=False),
    ]
}


def quiet(contender: Contender, problem: RaceProblem, table: Any, reml: bool) -> Fitted:
    """A fit whose warnings are not the race's business: `converged` says what matters."""
    assert contender.fit is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return contender.fit(problem, table, reml)
