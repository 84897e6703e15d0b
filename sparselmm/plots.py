"""Pictures of a fit, as matplotlib Axes that the user may restyle; matplotlib is imported when asked for."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ._errors import ModelError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .results import Fit

BARS = 60  # up to so many levels are labelled


def caterpillar(fit: "Fit", group: str | None = None, effect: str | None = None, ax: Any = None) -> "Axes":
    """BLUPs of one effect in ascending order with 95 % intervals (1.96 conditional standard deviations).

    group: a key of `fit.ranef()`, the first if None. effect: a column of it, the first if None.
    """
    frames = fit.ranef(se=True)
    if not frames:
        raise ModelError("the model has no random effects to plot")
    group = next(iter(frames)) if group is None else group
    if group not in frames:
        raise ModelError(f"no group '{group}': this fit has {', '.join(frames)}")
    effects = list(fit.ranef()[group].columns)
    effect = effects[0] if effect is None else effect
    if effect not in effects:
        raise ModelError(f"no effect '{effect}' of '{group}': it has {', '.join(effects)}")
    frame = frames[group].sort_values(effect)
    place, many = np.arange(len(frame)), len(frame) > BARS
    ax = _axes((6.0, 7.0 if many else 1.2 + 0.22 * len(frame))) if ax is None else ax
    ax.errorbar(
        frame[effect], place, xerr=1.96 * frame[f"{effect}_se"], fmt=".", color="#1f4e79", ecolor="#9bb8d3",
        elinewidth=0.6 if many else 1.4, markersize=2 if many else 6,
    )  # fmt: skip
    ax.axvline(0.0, color="#888888", linewidth=0.8, zorder=0)
    ax.set_yticks([] if many else place, [] if many else [str(x) for x in frame.index])
    ax.set_ylabel(f"{group}: {len(frame):,} levels" if many else group)
    ax.set_xlabel(f"{effect}, with 95 % intervals")
    ax.set_ylim(-0.7 - 0.01 * len(frame), len(frame) * 1.01 - 0.3)
    return ax


def _axes(size: tuple[float, float]) -> "Axes":
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ModelError('plots need matplotlib: pip install "sparselmm[plots]"') from error
    return plt.subplots(figsize=size, layout="constrained")[1]
