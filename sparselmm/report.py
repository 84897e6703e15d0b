"""Every text and table that a person reads: summary, describe, tidy, glance, progress."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .engines.dense import forecast_bytes
from .likelihood import Likelihood
from .optimize import Iteration

if TYPE_CHECKING:
    from .dense import DenseLikelihood
    from .results import Fit

PATIENCE = 3.0  # seconds before a terminal shows a progress line


def summary(fit: "Fit") -> str:
    """lme4's layout: criterion, scaled residuals, variances, fixed effects, and the facts of the fit."""
    kind = "REML" if fit.reml else "maximum likelihood"
    lines = [f"Linear mixed model fit by {kind}"]
    if fit.spec.formula:
        lines.append(f"Formula: {fit.spec.formula}")
    lines += ["", _criterion(fit), "", _scaled_residuals(fit), "", "Random effects:", _random_table(fit), _sizes(fit)]
    lines += ["", "Fixed effects:", _fixed_table(fit), "", *_facts(fit)]
    return "\n".join(lines)


def _criterion(fit: "Fit") -> str:
    name = "REML criterion" if fit.reml else "-2 log-likelihood"
    return f"{name}: {fit.deviance:.4f}    AIC {fit.aic:.1f}, BIC {fit.bic:.1f}, {fit.n_params} parameters"


def _scaled_residuals(fit: "Fit") -> str:
    weights = 1.0 if fit.spec.weights is None else np.sqrt(fit.spec.weights)
    quantiles = np.quantile(fit.resid * weights / fit.sigma, [0, 0.25, 0.5, 0.75, 1])
    names = ("Min", "1Q", "Median", "3Q", "Max")
    return "Scaled residuals:  " + "  ".join(f"{n} {q:.4g}" for n, q in zip(names, quantiles, strict=True))


def _random_table(fit: "Fit") -> str:
    rows, table = [], fit.varcorr
    variances = table[table.effect2.isna()]
    pairs = {(r.group, r.effect1, r.effect2): r.sdcor for r in table[table.effect2.notna()].itertuples()}
    seen: list[tuple[str, str]] = []
    for row in variances.itertuples():
        new = not seen or seen[-1][0] != row.group
        known = [e for g, e in seen if g == row.group]
        cors = [f"{pairs[(row.group, e, row.effect1)]:6.2f}" for e in known if (row.group, e, row.effect1) in pairs]
        rows.append([row.group if new else "", row.effect1 or "", f"{row.vcov:.6g}", f"{row.sdcor:.5g}", " ".join(cors)])
        seen.append((row.group, row.effect1))
    return _aligned(["Group", "Effect", "Variance", "Std.Dev.", "Corr"], rows, left=2)


def _sizes(fit: "Fit") -> str:
    groups = {t.name: t.n_levels for t in fit.spec.terms}
    levels = "; ".join(f"{name}, {m:,}" for name, m in groups.items())
    return f"Observations: {fit.nobs:,}" + (f"; groups: {levels}" if groups else "")


def _fixed_table(fit: "Fit") -> str:
    if not fit.spec.fixed_names:
        return "  none"
    rows = []
    for name, value, se in zip(fit.fixef.index, fit.fixef, fit.fixef_se, strict=True):
        rows.append([name, *(f"{v:.6g}" for v in (value, se)), f"{value / se:.3f}"])
    return _aligned(["", "Estimate", "Std. Error", "t value"], rows, left=1)


def _facts(fit: "Fit") -> Iterator[str]:
    yield _search(fit)
    if fit.is_singular:
        yield "Singular fit: a variance is zero or a correlation is +-1."
    if fit.method == "cobyqa":
        yield "Newton's method stopped short; the derivative-free search COBYQA went on from there."
    if fit.estimate.held:
        yield "Held: " + ", ".join(f"{k} = {v:g}" for k, v in fit.estimate.held.items())
    if fit.spec.n_dropped:
        yield f"Rows with missing values dropped: {fit.spec.n_dropped:,}"
    if fit.dropped_columns:
        yield f"Fixed effects dropped as linearly dependent: {', '.join(fit.dropped_columns)}"
    yield "Seconds: " + ", ".join(f"{stage} {seconds:.3f}" for stage, seconds in fit.timings.items())


def _search(fit: "Fit") -> str:
    where = f"engine {fit.engine}, {fit.likelihood.n_evaluations} factorisations"
    if fit.estimate.optimum is None:
        return f"Nothing to optimise; {where}"
    verdict = "Converged" if fit.converged else f"NOT CONVERGED ({fit.estimate.optimum.message})"
    return f"{verdict} in {fit.n_iter} iterations, scaled gradient {fit.gradient_norm:.1e}; {where}"


def _aligned(header: list[str], rows: list[list[str]], left: int) -> str:
    """Columns padded to their widest cell, the first `left` of them to the left."""
    table = [header, *rows]
    keep = [j for j in range(len(header)) if any(r[j] for r in rows) or j == 0]
    widths = {j: max(len(r[j]) for r in table) for j in keep}
    cells = [[r[j].ljust(widths[j]) if j < left else r[j].rjust(widths[j]) for j in keep] for r in table]
    return "\n".join("  " + "  ".join(row).rstrip() for row in cells)


def tidy(fit: "Fit") -> pd.DataFrame:
    """effect ("fixed" or "ran_pars"), group, term, estimate, std_error, statistic: one row a parameter."""
    fixed = pd.DataFrame({"term": fit.fixef.index, "estimate": fit.fixef.values, "std_error": fit.fixef_se.values})
    fixed["statistic"] = fixed.estimate / fixed.std_error
    fixed.insert(0, "effect", "fixed")
    fixed.insert(1, "group", None)
    varpar = fit.varpar
    names = [str(n).split("|", 1) for n in varpar.index]
    random = pd.DataFrame({
        "effect": "ran_pars",
        "group": [n[1] if len(n) == 2 else "Residual" for n in names],
        "term": [n[0] for n in names],
        "estimate": varpar.values,
        "std_error": fit.varpar_se.values,
        "statistic": np.nan,
    })  # fmt: skip
    return pd.concat([fixed.astype({"group": object}), random], ignore_index=True)


def glance(fit: "Fit") -> pd.DataFrame:
    """One row of facts."""
    names = ("nobs", "n_params", "sigma", "loglik", "deviance", "aic", "bic", "reml", "converged", "is_singular")
    names += ("n_iter", "gradient_norm", "engine")
    return pd.DataFrame({name: [getattr(fit, name)] for name in names})


def describe(likelihood: "Likelihood | DenseLikelihood") -> str:
    """Sizes, nonzeros, engine and why, memory forecast; nothing is factorised."""
    spec = likelihood.spec
    lines = [
        f"{spec.n:,} observations, {len(likelihood.kept)} fixed effects, {spec.q:,} random effects in "
        f"{len(spec.terms)} terms, {likelihood.parameters.count} variance parameters beside sigma"
    ]
    if spec.n_dropped:
        lines.append(f"  {spec.n_dropped:,} rows with missing values dropped")
    for term in spec.terms:
        per = "1 effect" if term.n_effects == 1 else f"{term.n_effects} effects"
        lines.append(f"  {term.describe()}: {term.n_levels:,} levels, {per} a level")
    if isinstance(likelihood, Likelihood):
        pattern, engine = likelihood.equations.pattern, likelihood.engine
        lines.append(f"M: {pattern.q:,} x {pattern.q:,}, {pattern.nnz:,} nonzeros in its lower triangle")
        memory = engine.memory + 40.0 * pattern.nnz
    else:
        memory = forecast_bytes(spec.n, spec.q)
    lines.append(f"Engine: {likelihood.engine_name} ({likelihood.engine_reason})")
    lines.append(f"Memory forecast beside the data: {_bytes(memory)}")
    return "\n".join(lines)


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"


@contextmanager
def progress(verbose: int = 0) -> Iterator[Callable[[Iteration], None] | None]:
    """What is told while a fit runs: a line an iteration if verbose; else a line on a terminal after some seconds."""
    if verbose:
        yield _iteration_line
    elif sys.stderr.isatty():
        with _Status() as status:
            yield status
    else:
        yield None


def _iteration_line(it: Iteration) -> None:
    sys.stdout.write(
        f"iteration {it.number:3d}  deviance {it.value:.8f}  scaled gradient {it.gradient_norm:.2e}  step {it.step:.2e}\n"
    )


class _Status:
    """A line on the terminal that appears after `PATIENCE` seconds and disappears at the end."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._status = None

    def __enter__(self) -> "_Status":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._status is not None:
            self._status.stop()

    def __call__(self, it: Iteration) -> None:
        if time.perf_counter() - self._began < PATIENCE:
            return
        if self._status is None:
            from rich.console import Console

            self._status = Console(stderr=True).status("fitting")
            self._status.start()
        self._status.update(f"iteration {it.number}: deviance {it.value:.4f}, scaled gradient {it.gradient_norm:.1e}")
