"""Every text and table that a person reads: summary, describe, tidy, glance, progress."""

import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ._tables import Table
from ._typing import FloatArray, Text
from .charts import SIGMA
from .engines.dense import forecast_bytes
from .inference.coef_table import coef_table
from .inference.ddf import ddf_method
from .inference.vanishing import vanishing
from .inference.varpar import at_edge, term_covariances
from .likelihood import Likelihood
from .optimize import Iteration
from .structures.base import correlations

if TYPE_CHECKING:
    from .dense import DenseLikelihood
    from .results import Fit
    from .terms import ModelSpec

# Bytes beside the engine's: an entry of M (where it lies, its values), an effect (right sides, moments, derivatives).
BYTES_PER_ENTRY, BYTES_PER_EFFECT = 40.0, 450.0
PATIENCE = 3.0  # seconds before a terminal shows a progress line
LIMITS = {
    ("rho", 1.0): "each series is one number, or a random walk where its standard deviation is huge",
    ("rho", -1.0): "each series is one number of alternating sign",
    ("kappa", 0.0): "each series is one number, or a random walk where its standard deviation is huge",
    ("kappa", np.inf): "no correlation",
}
WIDEST = 7  # decimals of a table's column
MOST_SHOWN = 60  # coefficients in a summary
SMALLEST_P = 2e-16  # the machine's epsilon: tail areas below it are not printed
METHOD_NAMES = {"satterthwaite": "Satterthwaite's degrees of freedom", "wald": "Wald tests, normal distribution"}


def summary(fit: "Fit") -> Text:
    """lme4's layout: criterion, scaled residuals, variances, fixed effects, and the facts of the fit."""
    lines = [f"Linear mixed model fit by {'REML' if fit.reml else 'maximum likelihood'}"]
    if fit.spec.formula:
        lines.append(f"Formula: {' '.join(fit.spec.formula.split())}")
    lines += ["", _criterion(fit), "", _scaled_residuals(fit), "", "Random effects:", _random_table(fit)]
    lines += [*_structure_parameters(fit), *_residual_line(fit), _sizes(fit)]
    lines += ["", *_fixed_table(fit), "", *_facts(fit)]
    return Text("\n".join(lines))


def _criterion(fit: "Fit") -> str:
    name = "REML criterion" if fit.reml else "-2 log-likelihood"
    return f"{name}: {fit.deviance:.4f}    AIC {fit.aic:.1f}, BIC {fit.bic:.1f}, {count(fit.n_params, 'parameter')}"


def _scaled_residuals(fit: "Fit") -> str:
    quantiles = np.quantile(fit.resid / (fit.sigma * _scales(fit)), [0, 0.25, 0.5, 0.75, 1])
    names = ("Min", "1Q", "Median", "3Q", "Max")
    return "Scaled residuals:  " + "  ".join(f"{n} {q:.4g}" for n, q in zip(names, quantiles, strict=True))


def _scales(fit: "Fit") -> FloatArray:
    """Standard deviation of each residual over sigma, (n,)."""
    weights, residual = fit.spec.weights, fit.spec.residual
    out = np.ones(fit.nobs) if weights is None else 1 / np.sqrt(weights)
    if residual is None:
        return out
    return out * residual.scales(fit.estimate.evaluation.theta[fit.likelihood.parameters.residual_slice])


def _residual_line(fit: "Fit") -> Iterator[str]:
    """The structure of the residuals and its parameters."""
    if fit.spec.residual is not None:
        values = fit.varpar[list(fit.spec.residual.natural_names())]
        shown = ", ".join(f"{name} {value:.5g}" for name, value in values.items())
        yield f"Residuals {fit.spec.residual.label}: {shown}"


def _random_table(fit: "Fit") -> str:
    """A row an effect; the correlations with the effects above it in the same term."""
    names: list[list[str]] = []
    cors: list[list[str]] = []
    for term, cov, correlated in term_covariances(fit):
        cor = correlations(cov)
        for i, effect in enumerate(term.effects):
            names.append(["" if i else term.name, effect])
            cors.append([f"{c:5.2f}".replace("nan", "  -") for c in cor[i, :i]] if correlated else [])
    variances = fit.varcorr[fit.varcorr.effect2.isna()]
    columns = [decimals(variances.vcov), decimals(variances.sdcor)]
    width = max(map(len, cors), default=0)
    rows = [[*n, v, s, *c, *[""] * (width - len(c))] for n, v, s, c in zip(
        [*names, ["Residual", ""]], *columns, [*cors, []], strict=True
    )]  # fmt: skip
    return aligned(["Group", "Effect", "Variance", "Std.Dev.", *["Corr", *[""] * width][:width]], rows, "<<>>")


def _structure_parameters(fit: "Fit") -> Iterator[str]:
    """The parameters that are neither standard deviations nor correlations within a level: `rho_...`, `kappa_...`."""
    for name, value in fit.varpar.items():
        if not str(name).startswith(("sd_", "cor_", "sigma")) and not str(name).endswith("residual"):
            yield f"  {name} = {value:.5g}"


def _sizes(fit: "Fit") -> str:
    groups = {t.name if t.Q is None else t.describe(): t.n_levels for t in fit.spec.terms}
    levels = "; ".join(f"{name}, {m:,}" for name, m in groups.items())
    return f"Observations: {fit.nobs:,}" + (f"; groups: {levels}" if groups else "")


def _fixed_table(fit: "Fit") -> Iterator[str]:
    """The method of the tests, and a row a coefficient."""
    if not fit.spec.fixed_names:
        yield "Fixed effects:\n  none"
        return
    names, more = fit.spec.fixed_names[:MOST_SHOWN], len(fit.spec.fixed_names) - MOST_SHOWN
    name = "wald" if more > 0 else ddf_method(fit).name
    table = wald_table(fit, names) if more > 0 else coef_table(fit, name)
    kept = table.drop([dropped for dropped in fit.dropped_columns if dropped in table.index])
    cells = [decimals(kept.estimate), decimals(kept.std_error), [f"{x:.1f}" for x in kept.df]]
    cells += [[f"{x:.3f}" for x in kept.iloc[:, 3]], [p_value(p) for p in kept.p_value]]
    known = dict(zip(kept.index, zip(*cells, strict=True), strict=True))
    rows = [[column, *known.get(column, ("dropped", "", "", "", ""))] for column in names]
    header = ["", "Estimate", "Std. Error", "df", f"{kept.columns[3]} value", "p value"]
    shown = [j for j in range(6) if j != 3 or name != "wald"]
    header, *rows = [[row[j] for j in shown] for row in [header, *rows]]
    yield f"Fixed effects ({METHOD_NAMES[name]}):"
    yield aligned(header, rows, "<" + ">" * (len(header) - 1))
    if more > 0:
        yield f"  and {more:,} more, in fixef and fixef_se"


def wald_table(fit: "Fit", names: Sequence[str]) -> pd.DataFrame:
    """Some coefficients with z and its p value, from their standard errors alone."""
    from scipy.special import ndtr  # a fit alone need not load it

    estimate, error = fit.fixef[list(names)], fit.fixef_se[list(names)]
    z = estimate / error
    columns = {"estimate": estimate, "std_error": error, "df": np.inf, "z": z, "p_value": 2.0 * ndtr(-z.abs())}
    return pd.DataFrame(columns)


def p_value(p: float) -> str:
    """Three digits; `<2e-16` where R says so too."""
    return "<2e-16" if p < SMALLEST_P else f"{p:.3g}"


def _facts(fit: "Fit") -> Iterator[str]:
    yield _search(fit)
    if fit.is_singular:
        names = [name for name, there in at_edge(fit).items() if there]
        edge = [f"{name} = {fit.varpar[name]:.4g}{_meaning(name, fit)}" for name in names]
        yield f"Singular fit: {', '.join(edge) or 'a covariance matrix is not of full rank'}"
    if fit.method == "cobyqa":
        yield "Newton's method stopped short; the derivative-free search COBYQA went on from there."
    if fit.estimate.held:
        yield "Held: " + ", ".join(f"{k} = {v:g}" for k, v in fit.estimate.held.items())
    if fit.spec.weights is not None:
        yield f"Weights: {fit.spec.weights.min():g} to {fit.spec.weights.max():g}"
    yield from _losses(fit.spec, fit.dropped_columns)
    yield "Seconds: " + ", ".join(f"{stage} {seconds:.3f}" for stage, seconds in fit.timings.items())


def _meaning(name: Any, fit: "Fit") -> str:
    """What a limit of a correlation, a rate or sigma says, in brackets."""
    if name == SIGMA:
        where = "sigma is computed at a thousandth of its Std.Dev., or less"
        return f" (zero: a term takes the place of the residuals, and {where})"
    words = LIMITS.get((str(name).split("_")[0], float(np.round(fit.varpar[name]))))
    return f" ({words})" if words else ""


def _search(fit: "Fit") -> str:
    where = f"engine {fit.engine}, {count(fit.estimate.n_factorisations, 'factorisation')}"
    if fit.estimate.optimum is None:
        return f"Nothing to optimise; {where}"
    if not fit.converged:
        return f"NOT CONVERGED: {not_converged(fit)}; {where}"
    return f"Converged in {count(fit.n_iter, 'iteration')}, scaled gradient {fit.gradient_norm:.1e}; {where}"


def not_converged(fit: "Fit") -> str:
    """Why the search stopped, how far from an optimum, and what may help."""
    message = "" if fit.estimate.optimum is None else fit.estimate.optimum.message
    way_out = vanishing(fit) or "simplify the random effects, or give start="
    return f"{message}, scaled gradient {fit.gradient_norm:.1e}; {way_out}"


def _losses(spec: "ModelSpec", dropped: Sequence[str]) -> Iterator[str]:
    """What of the data is not in the model."""
    if spec.n_dropped:
        yield f"Rows with missing values dropped: {spec.n_dropped:,}"
    if dropped:
        yield f"Fixed effects dropped as linearly dependent: {', '.join(dropped)}"


def aligned(header: list[str], rows: list[list[str]], sides: str) -> str:
    """Columns padded to their widest cell, `<` to the left and `>` to the right; left where `sides` ends."""
    table = [header, *rows]
    widths = [max(len(row[j]) for row in table) for j in range(len(header))]
    keep = [j for j in range(len(header)) if j == 0 or any(row[j] for row in rows)]
    pads = [f"{{:{side}{width}}}" for side, width in zip(sides.ljust(len(header), "<"), widths, strict=True)]
    return "\n".join("  " + "  ".join(pads[j].format(row[j]) for j in keep).rstrip() for row in table)


def decimals(values: Iterable[float]) -> list[str]:
    """As many decimals as give the smallest number five digits; six digits each where that is too wide."""
    numbers = np.array(list(values), dtype=float)
    sizes = np.abs(numbers[np.isfinite(numbers) & (numbers != 0.0)])
    if not sizes.size:
        return [f"{x:g}" for x in numbers]
    places = max(0, 4 - int(np.floor(np.log10(sizes.min()))))
    wide = places > WIDEST or sizes.max() >= 10.0 ** (WIDEST + 4 - places)
    return [f"{x:.6g}" if wide else f"{x:.{places}f}" for x in numbers]


def count(n: int, word: str) -> str:
    """`1 term`, `2 terms`."""
    return f"{n:,} {word}" + ("" if n == 1 else "s")


def tidy(fit: "Fit") -> pd.DataFrame:
    """effect ("fixed" or "ran_pars"), group, term, estimate, std_error, statistic: one row a parameter."""
    fixed = pd.DataFrame({"term": fit.fixef.index, "estimate": fit.fixef.values, "std_error": fit.fixef_se.values})
    fixed["statistic"] = fixed.estimate / fixed.std_error
    fixed.insert(0, "effect", "fixed")
    fixed.insert(1, "group", None)
    varpar = fit.varpar
    names = [str(n).rsplit("|", 1) for n in varpar.index]
    random = pd.DataFrame({
        "effect": "ran_pars",
        "group": ["Residual" if n[-1] == "residual" or len(n) == 1 else n[1] for n in names],
        "term": [n[0] for n in names],
        "estimate": varpar.values,
        "std_error": fit.varpar_se.values,
        "statistic": np.nan,
    })  # fmt: skip
    return Table(pd.concat([fixed.astype({"group": object}), random], ignore_index=True))


def glance(fit: "Fit") -> pd.DataFrame:
    """One row of facts."""
    names = ("nobs", "n_params", "sigma", "loglik", "deviance", "aic", "bic", "reml", "converged", "is_singular")
    facts = ("n_iter", "gradient_norm", "engine")
    return Table({name: [getattr(fit, name)] for name in (*names, *facts)})


def describe(likelihood: "Likelihood | DenseLikelihood") -> Text:
    """Sizes, nonzeros, engine and why, memory forecast; nothing is factorised."""
    spec, kept = likelihood.spec, set(likelihood.kept.tolist())
    dropped = [name for j, name in enumerate(spec.fixed_names) if j not in kept]
    sizes = [count(spec.n, "observation"), count(len(kept), "fixed effect"), count(spec.q, "random effect")]
    lines = [f"Formula: {' '.join(spec.formula.split())}"] if spec.formula else []
    lines.append(
        f"{', '.join(sizes)} in {count(len(spec.terms), 'term')}, "
        f"{count(likelihood.parameters.count, 'variance parameter')} beside sigma"
    )
    for term in spec.terms:
        lines.append(f"  {term.describe()}: {count(term.n_levels, 'level')}, {count(term.n_effects, 'effect')} a level")
    if spec.residual is not None:
        lines.append(f"  residuals {spec.residual.label}: {count(spec.residual.n_params, 'parameter')}")
    lines += _losses(spec, dropped)
    if isinstance(likelihood, Likelihood):
        pattern, engine = likelihood.equations.pattern, likelihood.engine
        lines.append(f"M: {pattern.q:,} x {pattern.q:,}, {pattern.nnz:,} nonzeros in its lower triangle")
        memory = engine.memory + BYTES_PER_ENTRY * pattern.nnz + BYTES_PER_EFFECT * pattern.q
    else:
        memory = forecast_bytes(spec.n, spec.q)
    lines.append(f"Engine: {likelihood.engine_name} ({likelihood.engine_reason})")
    lines.append(f"Memory forecast beside the data: {_bytes(memory)}")
    return Text("\n".join(lines))


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
    numbers = f"deviance {it.value:.8f}  scaled gradient {it.gradient_norm:.2e}  step {it.step:.2e}"
    sys.stdout.write(f"iteration {it.number:3d}  {numbers}\n")


class _Status:
    """A line on the terminal that appears after `PATIENCE` seconds and disappears at the end."""

    def __init__(self) -> None:
        self._text = "fitting"
        self._status: Any = None
        self._timer = threading.Timer(PATIENCE, self._show)
        self._timer.daemon = True

    def __enter__(self) -> "_Status":
        self._timer.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._timer.cancel()
        self._timer.join()
        if self._status is not None:
            self._status.stop()

    def __call__(self, it: Iteration) -> None:
        self._text = f"iteration {it.number}: deviance {it.value:.4f}, scaled gradient {it.gradient_norm:.1e}"
        if self._status is not None:
            self._status.update(self._text)

    def _show(self) -> None:
        from rich.console import Console

        status = Console(stderr=True).status(self._text)
        status.start()
        self._status = status
