"""The text of a fit of several traits."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..report import MOST_SHOWN, aligned, count, decimals, not_converged, p_value

if TYPE_CHECKING:
    from .result import MultiFit


def summary(multi: "MultiFit") -> str:
    """Criterion; variances, standard errors and correlations of each term; coefficients; the facts of the fit."""
    fit = multi.fit
    lines = [f"Multi-trait linear mixed model fit by {'REML' if multi.reml else 'maximum likelihood'}"]
    lines += [f"Formula: {fit.spec.formula}", ""]
    name = "REML criterion" if multi.reml else "-2 log-likelihood"
    lines.append(
        f"{name}: {multi.deviance:.4f}    AIC {multi.aic:.1f}, BIC {multi.bic:.1f}, "
        f"{count(multi.n_params, 'parameter')}"
    )
    lines += ["", "Variances, and correlations among traits:", *_covariances(multi)]
    lines += ["", "Fixed effects:", *_fixed(multi), "", *_facts(multi)]
    return "\n".join(lines)


def _covariances(multi: "MultiFit") -> Iterator[str]:
    found, header, rows = multi._components, ["Term", "Effect", "Variance", "Std.Err."], []
    width = max(b.size for b in found.blocks) - 1
    for b in found.blocks:
        V, se = found.table(b).to_numpy(), found.errors(b).to_numpy()
        with np.errstate(invalid="ignore", divide="ignore"):
            cor = V / np.sqrt(np.outer(np.diag(V), np.diag(V)))
        for i, effect in enumerate(b.effects):
            cells = [f"{cor[i, j]:6.3f}".replace("nan", "  -") for j in range(i)]
            numbers = [f"{V[i, i]:.5g}", f"{se[i, i]:.3g}".replace("nan", "-")]
            rows.append(["" if i else b.label, effect, *numbers, *cells, *[""] * (width - len(cells))])
    yield aligned([*header, *["Corr", *[""] * width][:width]], rows, "<<>>")


def _fixed(multi: "MultiFit") -> Iterator[str]:
    """A row a trait and coefficient, with a z test where degrees of freedom would take long."""
    if multi.fixef.size == 0:
        yield "  none"
        return
    table = multi.coef_table("wald" if multi.fixef.size > MOST_SHOWN else None)
    shown = table.head(MOST_SHOWN)
    numbers = [decimals(shown["estimate"]), decimals(shown["std_error"])]
    tests = [
        [f"{x:.1f}" for x in shown["df"]],
        [f"{x:.3f}" for x in shown.iloc[:, 3]],
        list(map(p_value, shown.p_value)),
    ]
    cells = zip(shown.index, *numbers, *tests, strict=True)
    rows = [[*labels, *rest] if np.isfinite(e) else [*labels, "dropped", *[""] * 4] for (labels, *rest), e in zip(
        cells, shown["estimate"], strict=True
    )]  # fmt: skip
    yield aligned(
        ["Trait", "", "Estimate", "Std. Error", "df", f"{shown.columns[3]} value", "p value"], rows, "<<>>>>>"
    )
    if len(table) > len(shown):
        yield f"  and {len(table) - len(shown):,} more, in coef_table()"


def _facts(multi: "MultiFit") -> Iterator[str]:
    fit = multi.fit
    if fit.converged:
        yield f"Converged in {count(fit.n_iter, 'iteration')}"
    else:
        yield f"NOT CONVERGED: {not_converged(fit)}"
    if multi.is_singular:
        yield f"Singular fit: {', '.join(_edges(multi)) or 'a covariance matrix is not of full rank'}"
    yield f"Records: {multi.n_records:,}; values: " + ", ".join(f"{t} {n:,}" for t, n in multi.nobs.items())
    for why, n in multi.n_dropped.items():
        if n:
            yield f"Left out: {count(n, 'record')} {'with missing values' if why == 'incomplete' else why}"
    dropped = multi.fixef.isna().to_numpy()
    if dropped.any():
        names = ", ".join(f"{multi.traits[t]}:{multi.fixef.columns[c]}" for t, c in np.argwhere(dropped))
        yield f"Columns that depend on others: {names}"


def _edges(multi: "MultiFit") -> Iterator[str]:
    """Variances of zero and correlations of +-1, in words."""
    for b in multi._components.blocks:
        variances = np.diag(multi._components.table(b))
        yield from (f"no variance of {e} in {b.label}" for e, v in zip(b.effects, variances, strict=True) if v == 0.0)
    table = multi.correlations()
    ends: pd.Series = table.loc[table["boundary"], "estimate"]
    for (term, one, other), r in ends.items():
        yield f"correlation of {one} and {other} in {term} is {r:.0f}"
