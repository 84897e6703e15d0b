"""Pictures of a fit, as matplotlib Axes that the user may restyle; matplotlib is imported when asked for."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy import stats

from ._errors import ModelError
from ._typing import FloatArray
from .inference.arguments import check_count
from .inference.curve import curve as term_curve
from .inference.curve import series_term
from .inference.residuals import leverage, standardized_effects
from .inference.residuals import residuals as residuals_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .inference.profile import Curve, Profile
    from .results import Fit
    from .scanning.result import Scan

BARS = 60  # up to so many levels are labelled
SERIES = 6  # curves that are drawn unless others are asked for
LONGEST = 28  # characters of a level's name
BINS = 20  # of a running mean
DARK, MIDDLE, LIGHT, RED, GREY = "#1f4e79", "#7fa6c9", "#9bb8d3", "#b5452c", "#888888"
INTERVALS = (0.5, 0.8, 0.9, 0.95, 0.99)
GENOME_WIDE = 5e-8  # a million independent tests at 0.05


def caterpillar(fit: "Fit", group: str | None = None, effect: str | None = None, ax: Any = None) -> "Axes":
    """BLUPs of one effect in ascending order with 95 % intervals (1.96 conditional standard deviations).

    group: a key of `fit.ranef()`, the first if None. effect: a column of it, the first if None.
    """
    frames = fit.ranef(se=True)
    group, effect = _effect(fit, group, effect)
    frame = frames[group].sort_values(effect)
    place, many = np.arange(len(frame)), len(frame) > BARS
    ax = _axes((6.0, 7.0 if many else 1.2 + 0.22 * len(frame))) if ax is None else ax
    ax.errorbar(
        frame[effect], place, xerr=1.96 * frame[f"{effect}_se"], fmt=".", color=DARK, ecolor=LIGHT,
        elinewidth=0.6 if many else 1.4, markersize=2 if many else 6,
    )  # fmt: skip
    ax.axvline(0.0, color=GREY, linewidth=0.8, zorder=0)
    ax.set_yticks([] if many else place, [] if many else [_short(x) for x in frame.index])
    ax.set_ylabel(f"{group}: {len(frame):,} levels" if many else group)
    ax.set_xlabel(f"{effect}, with 95 % intervals")
    ax.set_ylim(-0.7 - 0.01 * len(frame), len(frame) * 1.01 - 0.3)
    return ax


def manhattan(scan: "Scan", trait: str | None = None, threshold: float | None = GENOME_WIDE, ax: Any = None) -> "Axes":
    """-log10 p along the genome, chromosomes by number; markers in the order of the table where there are no positions.

    threshold: a p-value at which a line stands, None for none. trait: of `scan.traits`, the only one if None.
    Markers without a position stand at the end of their chromosome.
    """
    if threshold is not None and not 0.0 < threshold <= 1.0:
        raise ModelError(f"threshold={threshold!r}: a p-value above 0 and up to 1, or None")
    table = scan.of(trait)
    ax = _axes((9.0, 3.6)) if ax is None else ax
    chromosome = table["chromosome"].astype(str).to_numpy() if "chromosome" in table else np.full(len(table), "")
    places = [(name, rows, _places(table, rows)) for name in _in_turn(chromosome) for rows in [chromosome == name]]
    gap = 0.01 * sum(float(x.max()) for _, _, x in places)
    height, start, ticks = _heights(table), 0.0, {}
    for number, (name, rows, place) in enumerate(places):
        ax.scatter(
            start + place,
            height[rows],
            s=6,
            color=(DARK, MIDDLE)[number % 2],
            linewidths=0,
            rasterized=len(place) > 10_000,
        )
        length = float(place.max())
        ticks[start + length / 2], start = name, start + length + gap
    if threshold is not None:
        ax.axhline(-np.log10(threshold), color=RED, linewidth=0.8, linestyle="--")
    ax.set_xticks(list(ticks), list(ticks.values()))
    ax.set_xlabel("chromosome" if "chromosome" in table else "marker")
    ax.set_ylabel("-log10 p")
    return ax


def _in_turn(chromosome: Any) -> list[str]:
    """Names of chromosomes: those with a number by it, then others as they come."""
    names = list(dict.fromkeys(chromosome))
    number = {name: name.lower().removeprefix("chr") for name in names}
    return sorted(names, key=lambda name: int(number[name]) if number[name].isdecimal() else np.inf)


def _places(table: Any, rows: Any) -> FloatArray:
    """Of markers on their chromosome from 0 on: positions, or numbers where none is known."""
    if "position" in table and "chromosome" in table:
        place = pd.to_numeric(table["position"][rows], errors="coerce").to_numpy(dtype=float)
        if not np.isnan(place).all():
            return np.asarray(np.where(np.isnan(place), np.nanmax(place), place) - np.nanmin(place))
    return np.arange(float(rows.sum()))


def qq(scan: "Scan", trait: str | None = None, ax: Any = None) -> "Axes":
    """-log10 p in order against the expectation of uniform p-values, with its 95 % band and lambda_GC in the corner."""
    height = _heights(scan.of(trait))
    observed = np.sort(height[~np.isnan(height)])[::-1]
    n = len(observed)
    if not n:
        raise ModelError("no marker has a p-value: there is nothing to plot")
    rank = np.arange(1, n + 1)
    expected = -np.log10((rank - 0.5) / n)
    low, high = (-np.log10(stats.beta.ppf(q, rank, n + 1 - rank)) for q in (0.975, 0.025))
    ax = _axes((4.2, 4.2)) if ax is None else ax
    ax.fill_between(expected, low, high, color="#d8e4ef", linewidth=0)
    ax.plot([0.0, expected[0]], [0.0, expected[0]], color=GREY, linewidth=0.8)
    ax.scatter(expected, observed, s=8, color=DARK, linewidths=0)
    ax.text(0.05, 0.93, f"$\\lambda_{{GC}}$ = {scan.lambda_gc(trait):.3f}", transform=ax.transAxes)
    ax.set_xlabel("expected -log10 p")
    ax.set_ylabel("-log10 p")
    return ax


def _heights(table: Any) -> FloatArray:
    """-log10 p of the rows of a scan."""
    return np.asarray(table["minus_log10_p"], dtype=np.float64)


def _effect(fit: "Fit", group: str | None, effect: str | None) -> tuple[str, str]:
    """A key of `fit.ranef()` and a column of it, the first ones if None; ModelError for names that are not there."""
    frames = fit.ranef()
    if not frames:
        raise ModelError("the model has no random effects to plot")
    group = next(iter(frames)) if group is None else group
    if group not in frames:
        raise ModelError(f"no group '{group}': this fit has {', '.join(frames)}")
    effects = list(frames[group].columns)
    effect = effects[0] if effect is None else effect
    if effect not in effects:
        raise ModelError(f"no effect '{effect}' of '{group}': it has {', '.join(effects)}")
    return group, effect


def residuals(fit: "Fit", x: Any = None, ax: Any = None) -> "Axes":
    """Standardised residuals against fitted values, with their running mean.

    x: other values, (nobs,), a pandas Series with its name, instead of the fitted ones.
    """
    ax = _axes((6.0, 4.2)) if ax is None else ax
    across = fit.fitted if x is None else _values(fit, x)
    _scatter(ax, across, residuals_of(fit, "standardized"), level=0.0)
    ax.set_xlabel("fitted value" if x is None else str(getattr(x, "name", None) or "x"))
    ax.set_ylabel("standardised residual")
    return ax


def quantiles(fit: "Fit", group: str | None = None, effect: str | None = None, ax: Any = None) -> "Axes":
    """Normal quantiles of the standardised residuals, or with `group` of the BLUPs of an effect, each over its own sd.

    The band holds 95 % of each single point of a normal sample; the line has slope one.
    """
    ax = _axes((4.6, 4.4)) if ax is None else ax
    if group is None and effect is None:
        values, what = residuals_of(fit, "standardized"), "standardised residual"
    else:
        group, effect = _effect(fit, group, effect)
        values, what = standardized_effects(fit, group, effect).to_numpy(), f"{effect} of {group}, over its sd"
    values = np.sort(values[np.isfinite(values)])
    n = len(values)
    if not n:
        raise ModelError(f"{what}: nothing varies, so that there are no quantiles to draw")
    rank = np.arange(1, n + 1)
    normal = stats.norm.ppf((rank - 0.5) / n)
    low, high = (stats.norm.ppf(stats.beta.ppf(p, rank, n + 1 - rank)) for p in (0.025, 0.975))
    ax.fill_between(normal, low, high, color=LIGHT, alpha=0.35, linewidth=0)
    ax.plot(normal, normal, color=GREY, linewidth=0.8)
    ax.plot(normal, values, ".", color=DARK, markersize=_size(n), rasterized=n > 10_000)
    ax.set_xlabel("normal quantile")
    ax.set_ylabel(what)
    return ax


def panel(fit: "Fit", axes: Any = None) -> Any:
    """Four Axes (2, 2): residuals against fitted values, their quantiles, their spread, and against leverage."""
    axes = _grid(2, 2, (9.5, 7.5)) if axes is None else axes
    r = residuals_of(fit, "standardized")
    residuals(fit, ax=axes[0, 0])
    quantiles(fit, ax=axes[0, 1])
    _scatter(axes[1, 0], fit.fitted, np.sqrt(np.abs(r)), level=None)
    axes[1, 0].set(xlabel="fitted value", ylabel="root of |standardised residual|", ylim=(0.0, None))
    _scatter(axes[1, 1], leverage(fit), r, level=0.0)
    axes[1, 1].set(xlabel="leverage", ylabel="standardised residual")
    return axes


def fitted(fit: "Fit", x: Any, group: str | None = None, groups: int = 12, axes: Any = None) -> Any:
    """Data, fitted curve and the population's (dashed) over x for some levels of a group, an Axes each.

    x: a column of the fixed part by name, or values (nobs,). group: of independent levels, the first if None. Levels
    are taken evenly from all; axes: as many as there are to be.
    """
    check_count(groups, "groups")
    across, name = _values(fit, x), x if isinstance(x, str) else str(getattr(x, "name", None) or "x")
    labels, codes = _levels(fit, group)
    count = min(groups if axes is None else np.size(axes), len(labels))
    chosen = np.unique(np.linspace(0, len(labels) - 1, count).astype(int))
    columns = min(len(chosen), 4)
    rows = -(-len(chosen) // columns)
    axes = (
        _grid(rows, columns, (2.3 * columns + 0.6, 2.1 * rows + 0.5), sharex=True, sharey=True)
        if axes is None
        else axes
    )
    population, means = fit.predict(re=False), fit.fitted
    for ax, level in zip(np.ravel(axes), chosen, strict=False):
        mine = np.flatnonzero(codes == level)
        mine = mine[np.argsort(across[mine], kind="stable")]
        ax.plot(across[mine], fit.spec.y[mine], ".", color=DARK, markersize=5)
        ax.plot(across[mine], population[mine], color=GREY, linewidth=0.9, linestyle="--")
        ax.plot(across[mine], means[mine], color=RED, linewidth=1.4)
        ax.set_title(_short(labels[level]), fontsize="small")
    for ax in np.ravel(axes)[len(chosen) :]:
        ax.set_visible(False)
    _label_outside(axes, name, fit.spec.response)
    return axes


def zeta(profile: "Profile", which: str | Iterable[str] | None = None, axes: Any = None) -> Any:
    """Profile zeta of each parameter, an Axes each: a straight line (dashed, through the estimate) if it were normal.

    profile: `fit.profile()`. which: names in it, all if None. Upright lines end intervals of 50, 80, 90, 95 and 99 %,
    as far as the profile goes.
    """
    if not hasattr(profile, "curves"):
        raise ModelError(f"zeta draws a profile, such as fit.profile(), not {profile!r}")
    names = list(profile.curves) if which is None else [which] if isinstance(which, str) else list(which)
    missing = [name for name in names if name not in profile.curves]
    if missing or not names:
        raise ModelError(f"which={which!r}: this profile has {', '.join(profile.curves) or 'no parameters'}")
    columns = min(len(names), 3)
    rows = -(-len(names) // columns)
    axes = _grid(rows, columns, (3.0 * columns + 0.4, 2.7 * rows), sharey=True) if axes is None else axes
    for ax, name in zip(np.ravel(axes), names, strict=False):
        _zeta(profile.curves[name], profile.level, ax)
        ax.set_xlabel(name)
    for ax in np.ravel(axes)[len(names) :]:
        ax.set_visible(False)
    top = 1.05 * max(np.abs(profile.curves[name].zeta).max(initial=1.0) for name in names)
    for ax in np.ravel(axes):
        ax.set_ylim(-top, top)
    for ax in np.atleast_2d(axes)[:, 0]:
        ax.set_ylabel("zeta")
    return axes


def _zeta(curve: "Curve", widest: float, ax: Any) -> None:
    """One curve, its tangent at the estimate, and the ends of intervals; words where there is none."""
    value, height = curve.line()
    if not np.isfinite(height).any():
        ax.set_xticks([])
        ax.text(0.5, 0.6, "no profile", color=GREY, ha="center", transform=ax.transAxes)
        return
    ax.axhline(0.0, color=GREY, linewidth=0.8)
    cutoffs = stats.norm.ppf([0.5 + 0.5 * level for level in INTERVALS if level <= widest])
    for end in (curve.solve(float(sign * z)) for z in cutoffs for sign in (-1, 1)):
        if np.isfinite(curve.at(end)):
            ax.plot([end, end], [0.0, curve.at(end)], color=LIGHT, linewidth=1.0)
    ax.plot(value, height, color=DARK, linewidth=1.5)
    middle, slope = curve.tangent()
    if np.isfinite(slope):
        ax.axline((middle, 0.0), slope=slope, color=RED, linewidth=0.9, linestyle="--")


def curve(
    fit: "Fit", term: str | None = None, *, series: Sequence[Any] | None = None, fixed: bool = True,
    level: float = 0.95, ax: Any = None,
) -> "Axes":  # fmt: skip
    """The curve of a series or random walk with its band of pointwise intervals.

    term: its text or group, the first series if None. series: labels, the first six if None. fixed: with the fixed
    part, its other columns at their means (`sparselmm.inference.curve.curve` says which).
    """
    k = series_term(fit, term)
    how, levels = fit.spec.terms[k], fit.spec.encoding.terms[k].levels
    if series is None and levels is not None:
        series = levels.labels()[:SERIES]
    table = term_curve(fit, how.describe(), series=series, fixed=fixed, level=level)
    names = list(dict.fromkeys(table["series"]))
    ax = _axes((7.0, 4.2)) if ax is None else ax
    for i, name in enumerate(names):
        part = table[table["series"] == name]
        color = DARK if len(names) == 1 else f"C{i % 10}"
        ax.fill_between(part["time"], part["lower"], part["upper"], color=color, alpha=0.18, linewidth=0)
        ax.plot(part["time"], part["fit"], color=color, linewidth=1.5, label=_short(name))
    if len(names) > 1:
        ax.legend(frameon=False, fontsize="small", title=how.name, loc="center left", bbox_to_anchor=(1.0, 0.5))
    ax.set_xlabel(how.levels.names[-1])
    ax.set_ylabel(fit.spec.response if fixed else how.effects[0])
    return ax


def _values(fit: "Fit", x: Any) -> FloatArray:
    """A column of X by name, or values of the rows used."""
    if isinstance(x, str):
        if x not in fit.spec.fixed_names:
            raise ModelError(f"x='{x}': no column of the fixed part; it has {', '.join(fit.spec.fixed_names)}")
        column = fit.spec.design[:, [fit.spec.fixed_names.index(x)]]
        return np.asarray(column.toarray() if sp.issparse(column) else column)[:, 0]
    try:
        out = np.asarray(x, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ModelError(f"x: the name of a column of the fixed part, or {fit.nobs} numbers: {error}") from error
    if out.shape != (fit.nobs,):
        raise ModelError(f"x has shape {out.shape} for {fit.nobs} rows used")
    return out


def _levels(fit: "Fit", group: str | None) -> tuple[list[Any], Any]:
    """Labels of a group of independent levels and the code of each row."""
    found = {t.name: t for t in reversed(fit.spec.terms) if t.Q is None and not sp.issparse(t.Z)}
    if not found or (group is not None and group not in found):
        known = ", ".join(map(repr, found)) or "none"
        raise ModelError(f"group={group!r}: no group of independent levels; there is {known}. curve() draws series")
    term = found[next(reversed(found)) if group is None else group]
    return term.labels(), term.Z


def _scatter(ax: Any, x: FloatArray, y: FloatArray, level: float | None) -> None:
    """Points, a line at `level`, and the running mean of y over x."""
    n = len(x)
    ax.plot(x, y, ".", color=DARK, markersize=_size(n), alpha=float(np.clip(500 / n, 0.05, 0.8)), rasterized=n > 10_000)
    if level is not None:
        ax.axhline(level, color=GREY, linewidth=0.8, zorder=0)
    middle = np.array(list(_means(x, y))).reshape(-1, 2)
    ax.plot(middle[:, 0], middle[:, 1], color=RED, linewidth=1.4)


def _means(x: FloatArray, y: FloatArray) -> Iterator[tuple[float, float]]:
    """Means of x and y in bins of equal numbers of rows."""
    order = np.argsort(x, kind="stable")
    for part in np.array_split(order, max(1, min(BINS, len(x) // 20))):
        yield float(np.mean(x[part])), float(np.nanmean(y[part]))


def _short(label: Any) -> str:
    """Its beginning and its end where it is too long: names often differ in their last characters."""
    text, half = str(label), LONGEST // 2 - 2
    return text if len(text) <= LONGEST else f"{text[:half]}...{text[-half:]}"


def _size(n: int) -> float:
    return 6.0 if n < 500 else 2.5


def _label_outside(axes: Any, x: str, y: str) -> None:
    grid = np.atleast_2d(axes)
    for ax in grid[-1]:
        ax.set_xlabel(x)
    for ax in grid[:, 0]:
        ax.set_ylabel(y)


def _grid(rows: int, columns: int, size: tuple[float, float], **options: Any) -> Any:
    return _pyplot().subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, **options)[1]


def _axes(size: tuple[float, float]) -> "Axes":
    return _pyplot().subplots(figsize=size, layout="constrained")[1]


def _pyplot() -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ModelError('plots need matplotlib: pip install "sparselmm[plots]"') from error
    return plt
