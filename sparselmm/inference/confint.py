"""Confidence intervals of fixed effects and variance parameters, by one of three methods."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.special import ndtri

from .._errors import ModelError
from .arguments import check_level
from .bootstrap import bootstrap, check_kind
from .profile import free_names, profile
from .profile_paths import IDENTITY, Scale, scale_of

if TYPE_CHECKING:
    from ..results import Fit

METHODS = ("wald", "profile", "boot")
OPTIONS = {"profile": ("reml",), "boot": ("n", "seed", "workers", "file", "progress", "effects", "kind")}
STEP = 1e-6  # of central differences through a scale


def confint(
    fit: "Fit", method: str = "wald", level: float = 0.95, which: str | Iterable[str] | None = None, **options: Any
) -> pd.DataFrame:
    """lower, upper of each parameter: fixed effects, then `varpar`; which: names, "fixef", "varpar", None for all.

    wald: normal quantiles on the scale of `wald_scale`, NaN on the boundary. profile: by ML, or with reml=True of
    variance parameters by REML; see `profile`. boot: of `bootstrap`, whose arguments (n, seed, workers, file, progress,
    effects) go in options, as does kind, "percentile" if none; see `Bootstrap.confint`.
    Errors: ModelError for an unknown method, name or option.
    """
    check_level(level)
    if method not in METHODS:
        raise ModelError(f"method={method!r}: one of {', '.join(map(repr, METHODS))}")
    allowed = OPTIONS.get(method, ())
    unknown = [key for key in options if key not in allowed]
    if unknown:
        known = f"it has {', '.join(allowed)}" if allowed else "it has none"
        raise ModelError(f"confint(method={method!r}) has no option '{unknown[0]}'; {known}")
    if method == "profile":
        return profile(fit, which, level=level, **options).confint(level)
    names = free_names(fit, which)
    if method == "boot":
        kind = check_kind(options.pop("kind", "percentile"), options.get("effects", "new"))
        return bootstrap(fit, **options).confint(level, kind).loc[names]
    return wald(fit, level).loc[names]


def wald(fit: "Fit", level: float = 0.95) -> pd.DataFrame:
    """estimate +- z se on the scale of each parameter, and back: lower, upper by name."""
    z = float(-ndtri(0.5 - 0.5 * level))
    rows = {name: _ends(fit.fixef[name], fit.fixef_se[name], z, IDENTITY) for name in fit.fixef.index}
    errors = fit.varpar_se
    rows |= {name: _ends(value, errors[name], z, wald_scale(name)) for name, value in fit.varpar.items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["lower", "upper"])


def wald_scale(name: str) -> Scale:
    """Logarithms of standard deviations, rates and ratios, arctanh of correlations (as nlme's `intervals`)."""
    word = name.split("_")[0]
    return scale_of({"sd": "sigma", "cor": "rho"}.get(word, name))


@np.errstate(over="ignore", invalid="ignore")  # a limit that is infinite, a correlation at its edge
def _ends(value: float, error: float, z: float, scale: Scale) -> tuple[float, float]:
    """NaN where there is no standard error."""
    if not np.isfinite(error):
        return np.nan, np.nan
    centre = scale.to(value)
    step = STEP * max(1.0, abs(centre))
    half = z * error * 2 * step / (scale.back(centre + step) - scale.back(centre - step))
    return scale.back(centre - half), scale.back(centre + half)
