"""Likelihood-ratio tests of nested models, with AIC and BIC."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from textwrap import fill
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from scipy import stats

from .._errors import ModelError
from .._tables import WIDTH, Table
from .._typing import FloatArray
from ..charts import SIGMA
from ..fitting import estimate
from ..fixed import design_matrix
from ..terms import ModelSpec, RandomTerm
from .contrasts import need_dense
from .likelihood_ratios import likelihood_ratios, tail_share

if TYPE_CHECKING:
    from ..results import Fit

SPANNED = 1e-7  # as R's lm: a column whose part outside a space is relatively smaller lies in it
METHODS = ("chi2", "boot")
UNTESTED = 5  # columns of a table without tests
OPTIONS = ("n", "seed", "workers", "file", "progress")
DIGITS = dict.fromkeys(["loglik", "deviance", "aic", "bic", "chisq"], ".2f") | {"p_value": ".3g"}
NOISE = 1e-6  # relative: a larger model's deviance higher by more has not been searched to its minimum


class Comparison(Table):
    """What `compare` returns: a row a model. replicates: (n, tests) likelihood ratios of the bootstrap, or None."""

    _metadata: ClassVar[list[str]] = ["replicates"]
    replicates: pd.DataFrame | None

    def __repr__(self) -> str:
        """Models by number, the table, and what each test is."""
        if "n_params" not in self:
            return super().__repr__()
        numbers = range(1, len(self) + 1)
        models = [_wrapped(f"  {i}  {name}", 5) for i, name in zip(numbers, self.index, strict=True)]
        table = self.drop(columns=["reference", "checked"], errors="ignore").set_axis(numbers)
        cells = {name: ["" if pd.isna(x) else format(x, DIGITS.get(name, "")) for x in table[name]] for name in table}
        lines = [*models, "", pd.DataFrame(cells, numbers).to_string()]
        if {"reference", "checked"} <= set(self.columns):
            texts = self.reference.str.cat(self.checked, sep="; ")
            lines += [_wrapped(f"{i + 1} against {i}: {texts.iloc[i]}", 2) for i in numbers[:-1]]
            lines.insert(0, f"Models ({self.checked.iloc[0]})")
        return "\n".join(lines)


def _wrapped(text: str, indent: int) -> str:
    return fill(text, WIDTH, subsequent_indent=" " * indent)


def compare(*fits: "Fit", refit: bool = True, test: bool = True, method: str = "chi2", **options: Any) -> Comparison:
    """A row a model, by number of parameters: n_params, loglik, deviance, aic, bic, chisq, df, p_value, and how.

    Each model is tested against the row above it. `reference` is the distribution of chisq: chi2(df), or where the
    larger model has one more variance (zero under the smaller, at the edge) 0.5 chi2(df-1) + 0.5 chi2(df) (Self &
    Liang 1987, Stram & Lee 1994). `checked` says what was found about the two models.

    method: "boot" takes the distribution of chisq over fits of both models to responses drawn from the smaller one
    (parametric bootstrap): p = (1 + number not below chisq)/(1 + n), right for variances at the edge and with few
    groups. Its options are those of `bootstrap`: n (1000), seed, workers, file, progress; `.replicates` has the
    ratios.
    refit: fits by REML are fitted again by ML, as lme4 does; False compares REML criteria, for which all fixed parts
    must span one space. test: False gives the table of AIC and BIC for models that are not nested.
    Errors: ModelError for different rows or responses, for models that are not nested, and for unknown options.
    """
    _check_arguments(fits, method, options)
    _check_rows(fits)
    again = refit and any(fit.reml for fit in fits)
    ordered = sorted((by_ml(fit) if again else fit for fit in fits), key=lambda fit: fit.n_params)
    _check_criteria(ordered)
    rows, drawn = [_facts(fit, again) for fit in ordered], {}
    labels = _labels(ordered)
    for i in range(1, len(rows) if test else 0):
        small, large = ordered[i - 1 : i + 1]
        rows[i].update(_likelihood_ratio(small, large))
        if method == "boot":
            drawn[labels[i]] = likelihood_ratios(small, large, **options)
            rows[i].update(_simulated(rows[i], drawn[labels[i]], large))
    table = Comparison(rows, index=pd.Index(labels), columns=None if test else list(rows[0])[:UNTESTED])
    table.replicates = pd.DataFrame(drawn) if drawn else None
    return table


def _check_arguments(fits: Sequence["Fit"], method: str, options: Mapping[str, Any]) -> None:
    if len(fits) < 2 or not all(hasattr(fit, "spec") for fit in fits):
        raise ModelError("compare needs two fits or more: slm.compare(fit1, fit2)")
    if method not in METHODS:
        raise ModelError(f"method={method!r}: one of {', '.join(map(repr, METHODS))}")
    allowed = OPTIONS if method == "boot" else ()
    unknown = [key for key in options if key not in allowed]
    if unknown:
        known = f"it has {', '.join(allowed)}" if allowed else "it has none; method='boot' has some"
        raise ModelError(f"compare(method={method!r}) has no option '{unknown[0]}'; {known}")
    if options.get("file") is not None and len(fits) > 2:
        raise ModelError(f"file= keeps the replicates of one test, and {len(fits)} models make {len(fits) - 1}")


def _simulated(row: Mapping[str, Any], drawn: FloatArray, large: "Fit") -> dict[str, object]:
    """p_value, reference and checked by simulation."""
    lost = int(np.isnan(drawn).sum())
    if lost == len(drawn):
        raise ModelError("none of the replicates could be fitted by both models")
    return {
        "p_value": tail_share(row["chisq"], drawn, large.deviance),
        "reference": f"bootstrap of {len(drawn) - lost:,}",
        "checked": f"{row['checked']}{f'; {lost:,} replicates could not be fitted' if lost else ''}",
    }


def by_ml(fit: "Fit") -> "Fit":
    """The same model fitted by maximum likelihood, from the theta that REML found; the fit itself if it is by ML."""
    if not fit.reml:
        return fit
    found = estimate(fit.likelihood, reml=False, held=fit.estimate.held, start=fit.theta.to_numpy())
    return replace(fit, estimate=found)


def _facts(fit: "Fit", again: bool) -> dict[str, object]:
    return {
        "n_params": fit.n_params, "loglik": fit.loglik, "deviance": fit.deviance, "aic": fit.aic, "bic": fit.bic,
        "chisq": np.nan, "df": pd.NA, "p_value": np.nan, "reference": "",
        "checked": "same rows and response" + ("; fitted again by ML" if again else ""),
    }  # fmt: skip


def _likelihood_ratio(small: "Fit", large: "Fit") -> dict[str, object]:
    """chisq, df, p_value, reference, checked of two models, the second the larger."""
    df = large.n_params - small.n_params
    if df == 0:
        raise ModelError(
            f"'{_label(small)}' and '{_label(large)}' have {small.n_params} parameters each, so that neither is nested "
            "in the other: test=False compares their AIC and BIC"
        )
    notes = [_nested_fixed(small, large), _nested_random(small, large)]
    chisq = small.deviance - large.deviance
    if chisq < -NOISE * abs(large.deviance):
        raise ModelError(
            f"the deviance of '{_label(large)}' is {-chisq:.3g} higher than that of '{_label(small)}', which is nested "
            "in it: one of the searches did not end at the minimum"
        )
    chisq = max(chisq, 0.0)
    p_value, reference = _tail(chisq, df, small, large)
    return {
        "chisq": chisq, "df": df, "p_value": p_value, "reference": reference, "checked": "; ".join(notes),
    }  # fmt: skip


def _tail(chisq: float, df: int, small: "Fit", large: "Fit") -> tuple[float, str]:
    """p value and its distribution; with several more variances chi2(df), which is conservative."""
    held = small.estimate.held
    new = {name for name in _free(large) - _free(small) if held.get(name, 0.0) == 0.0}
    variances = [name for name in new if name.startswith("sd_")]
    others = new - set(variances) - _correlations(variances, new, _free(small)) - set(held)
    p_value = float(stats.chi2.sf(chisq, df))
    if len(variances) == 1 and not others:
        below = float(stats.chi2.sf(chisq, df - 1)) if df > 1 else float(chisq == 0.0)
        return 0.5 * below + 0.5 * p_value, f"0.5 chi2({df - 1}) + 0.5 chi2({df})"
    if "kappa_residual" in new:
        return p_value, f"chi2({df}), conservative: a rate at the edge"
    return p_value, f"chi2({df})" + (", conservative: variances at the edge" if variances else "")


def _correlations(variances: Sequence[str], new: set[str], old: set[str]) -> set[str]:
    """New correlations of a new effect with effects of its group that were there before."""
    groups = {name.rpartition("|")[2] for name in variances}
    known = {name.rpartition("|")[2] for name in old if name.startswith("sd_")}
    return {name for name in new if name.startswith("cor_") and name.rpartition("|")[2] in groups & known}


def _nested_fixed(small: "Fit", large: "Fit") -> str:
    """What the spaces of X have to do with each other; ModelError where the smaller is not in the larger."""
    for fit in (small, large):
        need_dense(fit, "a check of nesting (test=False leaves it out)")
    p_small, p_large = len(small.likelihood.kept), len(large.likelihood.kept)
    X, inner = large.spec.X[:, large.likelihood.kept], small.spec.X[:, small.likelihood.kept]
    if _outside(inner, X):
        raise ModelError(
            f"'{_label(small)}' is not nested in '{_label(large)}': its fixed effects span columns that the larger "
            "model does not have; test=False compares their AIC and BIC"
        )
    return "same fixed part" if p_small == p_large else f"fixed parts nested, {p_small} in {p_large} columns"


def _outside(inner: FloatArray, X: FloatArray) -> bool:
    """Whether a column of `inner` has a part outside the space of X."""
    if not inner.shape[1]:
        return False
    scale = np.abs(X).max(axis=0, initial=0.0)
    Q = np.linalg.qr(X / np.where(scale > 0.0, scale, 1.0))[0]
    rest = inner - Q @ (Q.T @ inner)
    return bool((np.linalg.norm(rest, axis=0) > SPANNED * np.linalg.norm(inner, axis=0)).any())


def _nested_random(small: "Fit", large: "Fit") -> str:
    """Whether the smaller model is the larger one with some variance parameters at fixed values; ModelError else.

    Parameters are compared by name, terms by their designs and precisions.
    """
    missing, kept = _free(small) - _free(large), large.estimate.held
    if missing - set(kept):
        raise _not_seen(small, large, f"has no {', '.join(sorted(missing))}")
    other = [name for name, value in kept.items() if _fixed_at(small, name) != value]
    if other:
        raise _not_seen(small, large, f"holds {', '.join(f'{name} = {kept[name]:g}' for name in other)}")
    for term in small.spec.terms:
        others = [t for t in large.spec.terms if t.name == term.name]
        if not all(any(_same_effect(term, j, t) for t in others) for j in range(term.n_effects)):
            raise _not_seen(small, large, f"has other groups, covariates or precisions in {term.describe()}")
    residual, wider = small.spec.residual, large.spec.residual
    if residual is not None and (wider is None or residual.label != wider.label):
        raise _not_seen(small, large, f"has no residual {residual.label}")
    return "same random part" if _free(small) == _free(large) else "variance parameters nested by name"


def _not_seen(small: "Fit", large: "Fit", why: str) -> ModelError:
    return ModelError(
        f"'{_label(small)}' is not seen to be nested in '{_label(large)}': the larger model {why}; test=False compares "
        "their AIC and BIC"
    )


def _free(fit: "Fit") -> set[str]:
    """Variance parameters that were estimated."""
    return {*fit.likelihood.parameters.natural_names, SIGMA} - set(fit.estimate.held)


def _fixed_at(fit: "Fit", name: str) -> float | None:
    """The value of a parameter that was held, or of one that the model does not have; None of an estimated one."""
    if name in _free(fit):
        return None
    return fit.estimate.held.get(name, 1.0 if name.startswith("ratio_") else 0.0)


def _same_effect(term: RandomTerm, j: int, other: RandomTerm) -> bool:
    """Whether `other` has effect j of `term`: the same columns of Z and the same precision."""
    if term.effects[j] not in other.effects or term.n_levels != other.n_levels or not _same_precision(term, other):
        return False
    i = other.effects.index(term.effects[j])
    a, b = design_matrix(term)[:, j :: term.n_effects], design_matrix(other)[:, i :: other.n_effects]
    return (a != b).nnz == 0


def _same_precision(a: RandomTerm, b: RandomTerm) -> bool:
    if a.Q is None or b.Q is None:
        return a.Q is b.Q
    values = [Q.values(Q.start()) for Q in (a.Q, b.Q)]
    pairs = zip([*a.Q.pattern(), values[0]], [*b.Q.pattern(), values[1]], strict=True)
    return type(a.Q) is type(b.Q) and all(np.array_equal(x, y) for x, y in pairs)


def _check_rows(fits: Sequence["Fit"]) -> None:
    first = _data(fits[0].spec)
    for fit in fits[1:]:
        for what, values in _data(fit.spec).items():
            if not np.array_equal(values, first[what]):
                raise ModelError(
                    f"'{_label(fits[0])}' and '{_label(fit)}' differ in their {what}"
                    f"{_counts(fits[0], fit)}: likelihoods of different data cannot be compared"
                )


def _data(spec: ModelSpec) -> dict[str, FloatArray]:
    """What a likelihood is of."""
    weights, offset = (default if x is None else x for x, default in ((spec.weights, 1.0), (spec.offset, 0.0)))
    each = np.ones(spec.n)
    return {"rows": np.array([float(spec.n)]), "response": spec.y, "weights": weights * each, "offset": offset * each}


def _counts(a: "Fit", b: "Fit") -> str:
    """How many rows each used, where that differs."""
    if a.nobs == b.nobs:
        return ""
    dropped = f", {a.spec.n_dropped:,} and {b.spec.n_dropped:,} dropped for missing values"
    return f" ({a.nobs:,} and {b.nobs:,}{dropped}; drop them from the table first)"


def _check_criteria(fits: Sequence["Fit"]) -> None:
    if len({fit.reml for fit in fits}) > 1:
        raise ModelError("some fits are by REML and some by ML: give refit=True, or fit all of them alike")
    if not fits[0].reml:
        return
    for fit in fits:
        need_dense(fit, "a comparison of REML criteria")
    for small, large in zip(fits, fits[1:], strict=False):
        spaces = [fit.spec.X[:, fit.likelihood.kept] for fit in (small, large)]
        if _outside(*spaces) or _outside(*reversed(spaces)):
            raise ModelError(
                f"'{_label(small)}' and '{_label(large)}' have different fixed effects: their REML criteria are of "
                "different data; refit=True compares them by ML"
            )


def _label(fit: "Fit") -> str:
    return " ".join(fit.spec.formula.split()) or "from arrays"


def _labels(fits: Sequence["Fit"]) -> list[str]:
    """Formulas; with a number where two are the same."""
    labels = [_label(fit) for fit in fits]
    return [x if labels.count(x) == 1 else f"{x} [{i + 1}]" for i, x in enumerate(labels)]
