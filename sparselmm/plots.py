"""Pictures of a fit, as matplotlib Axes that the user may restyle; matplotlib is imported when asked for."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ._errors import ModelError
from ._typing import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .results import Fit
    from .scanning.result import Scan

BARS = 60  # up to so many levels are labelled
GENOME_WIDE = 5e-8  # a million independent tests at 0.05
COLOURS = ("#1f4e79", "#7fa6c9")


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


def manhattan(scan: "Scan", trait: str | None = None, threshold: float | None = GENOME_WIDE, ax: Any = None) -> "Axes":
    """-log10 p along the genome, chromosomes in turn; in the order of the table where there are no positions.

    threshold: a p-value at which a line stands, None for none. trait: of `scan.traits`, the only one if None.
    """
    table = scan.of(trait)
    ax = _axes((9.0, 3.6)) if ax is None else ax
    chromosome = table["chromosome"].astype(str).to_numpy() if "chromosome" in table else np.full(len(table), "")
    height, start, ticks = _heights(table["p_value"].to_numpy()), 0.0, {}
    for number, name in enumerate(dict.fromkeys(chromosome)):
        mine = np.flatnonzero(chromosome == name)
        place = np.arange(len(mine), dtype=float)
        if "position" in table and "chromosome" in table:
            place = table["position"].to_numpy(dtype=float)[mine]
        place = place - np.nanmin(place) + start
        ax.scatter(place, height[mine], s=6, color=COLOURS[number % 2], linewidths=0, rasterized=len(mine) > 10_000)
        start, ticks[(place.min() + place.max()) / 2] = float(np.nanmax(place)) * 1.01 + 1.0, name
    if threshold is not None:
        ax.axhline(-np.log10(threshold), color="#b03030", linewidth=0.8, linestyle="--")
    ax.set_xticks(list(ticks), list(ticks.values()))
    ax.set_xlabel("chromosome" if "chromosome" in table else "marker")
    ax.set_ylabel("-log10 p")
    return ax


def qq(scan: "Scan", trait: str | None = None, ax: Any = None) -> "Axes":
    """-log10 p in order against the expectation of uniform p-values, with its 95 % band and lambda_GC in the corner."""
    from scipy import stats

    p = scan.of(trait)["p_value"].dropna().to_numpy()
    if not len(p):
        raise ModelError("no marker has a p-value: there is nothing to plot")
    observed, rank = np.sort(_heights(p))[::-1], np.arange(1, len(p) + 1)
    expected = -np.log10((rank - 0.5) / len(p))
    low, high = (-np.log10(stats.beta.ppf(q, rank, len(p) + 1 - rank)) for q in (0.975, 0.025))
    ax = _axes((4.2, 4.2)) if ax is None else ax
    ax.fill_between(expected, low, high, color="#d8e4ef", linewidth=0)
    ax.plot([0.0, expected[0]], [0.0, expected[0]], color="#888888", linewidth=0.8)
    ax.scatter(expected, observed, s=8, color=COLOURS[0], linewidths=0)
    ax.text(0.05, 0.93, f"$\\lambda_{{GC}}$ = {scan.lambda_gc(trait):.3f}", transform=ax.transAxes)
    ax.set_xlabel("expected -log10 p")
    ax.set_ylabel("-log10 p")
    return ax


def _heights(p: FloatArray) -> FloatArray:
    """-log10 p; a p of zero as the smallest number there is."""
    return np.asarray(-np.log10(np.maximum(p, np.finfo(np.float64).tiny)))


def _axes(size: tuple[float, float]) -> "Axes":
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ModelError('plots need matplotlib: pip install "sparselmm[plots]"') from error
    return plt.subplots(figsize=size, layout="constrained")[1]
