"""Parametric bootstrap: the model fitted again to responses drawn from itself (as lme4's bootMer).

Replicate i has its own stream, the i-th child of one seed, so that neither the number of workers nor an
interruption changes any number.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.special import ndtr, ndtri

from .._errors import ModelError
from .._typing import BoolArray, FloatArray
from .arguments import check_count, check_level
from .profile_paths import scale_of
from .replicates import Header, Replicate, Store
from .samplers import Sampler, make_sampler

if TYPE_CHECKING:
    from ..results import Fit

KINDS = ("percentile", "basic", "normal", "bc", "bca")
TIED = 1e-9  # estimates as close as this to the end of their space are there
SHARE = 64  # replicates that a process is given at a time, at most


@dataclass(frozen=True, slots=True, eq=False)
class Bootstrap:
    """Estimates of n replicates. replicates: a row each, the coefficients and then `varpar`; NaN where a fit failed.

    estimates: those of the fit. converged, singular: (n,) of each replicate. seed: what it began with. fit, effects:
    what was drawn from, and how.
    """

    replicates: pd.DataFrame
    estimates: pd.Series
    converged: BoolArray
    singular: BoolArray
    seed: int
    fit: "Fit | None" = None
    effects: str = "new"

    def __repr__(self) -> str:
        size = f"{len(self.replicates):,} replicates" + (f", {self.n_failed:,} failed" if self.n_failed else "")
        return f"<sparselmm bootstrap: {size}, of {', '.join(self.estimates.index)}>"

    @property
    def n_failed(self) -> int:
        """Replicates that could not be fitted."""
        return int(self.replicates.isna().all(axis=1).sum())

    @property
    def se(self) -> pd.Series:
        """Standard deviations over the replicates."""
        return self.replicates.std()

    @property
    def bias(self) -> pd.Series:
        """Mean of the replicates less the estimate."""
        return self.replicates.mean() - self.estimates

    def confint(self, level: float = 0.95, kind: str = "percentile") -> pd.DataFrame:
        """lower, upper. kind: "percentile" (lme4's "perc"), "basic" (reflected), "normal" (bias taken off), "bc"
        (bias-corrected percentiles) or "bca" (accelerated too, right to second order; see `acceleration`).

        With z0 the normal quantile of the share of replicates below the estimate and a the acceleration, "bca" takes
        the percentiles Phi(z0 + (z0 + z)/(1 - a (z0 + z))), "bc" those of a = 0 (Efron 1987, J. Amer. Statist. Assoc.
        82, sections 2 and 6). Of an estimate at the end of its space, a variance of zero, replicates there count as
        below it at a lower end, as not below at an upper one: z0 is so that of an estimate just inside. Estimates of
        coefficients are symmetric (Kackar & Harville 1984, J. Amer. Statist. Assoc. 79): "bca" has z0 = a = 0 there.

        A correlation is NaN in replicates where a variance is zero, and those do not count. Percentiles are those at
        (n + 1) p, which are beyond the outermost of fewer than 39 replicates (95 %): these end the interval then.
        Davison & Hinkley (1997), Bootstrap Methods and their Application, section 5.2.
        Errors: ModelError for "bca" where effects were kept: the replicates are then not those of the likelihood.
        """
        check_kind(kind, self.effects if self.fit is not None else None)
        check_level(level)
        tail = 0.5 - 0.5 * level
        if kind == "normal":
            centre, half = self.estimates - self.bias, -ndtri(tail) * self.se
            return pd.DataFrame({"lower": centre - half, "upper": centre + half})
        tails, adjust = np.array([tail, 1.0 - tail]), self._adjustment(kind)
        table = [_quantiles(x, adjust(name, x, tails)) for name, x in self.replicates.items()]
        ends = pd.DataFrame(table, index=self.replicates.columns, columns=["lower", "upper"])
        if kind != "basic":
            return ends
        return pd.DataFrame({"lower": 2 * self.estimates - ends["upper"], "upper": 2 * self.estimates - ends["lower"]})

    def _adjustment(self, kind: str) -> Callable[[Any, pd.Series, FloatArray], FloatArray]:
        """(name, replicates, tails) -> the percentiles that are taken."""
        if kind == "bc":
            return lambda name, x, tails: _accelerated(_bias(x, self.estimates[name], str(name)), 0.0, tails)
        if kind != "bca":
            return lambda name, x, tails: tails
        assert self.fit is not None
        from .acceleration import acceleration

        a, coefficients = acceleration(self.fit), self.fit.fixef.index

        def adjusted(name: Any, x: pd.Series, tails: FloatArray) -> FloatArray:
            z0 = 0.0 if name in coefficients else _bias(x, self.estimates[name], name)
            return _accelerated(z0, a[name], tails)

        return adjusted


def check_kind(kind: Any, effects: str | None) -> str:
    """kind; ModelError where it is none of KINDS, or replicates of these effects (None: of no fit) do not have it."""
    if kind not in KINDS:
        raise ModelError(f"kind={kind!r}: one of {', '.join(map(repr, KINDS))}")
    if kind == "bca" and effects != "new":
        raise ModelError(f"kind='bca' needs the fit, and replicates of effects='new', not {effects!r}: use 'bc'")
    return str(kind)


@np.errstate(invalid="ignore")  # a rate that is infinite
def _bias(values: pd.Series, estimate: float, name: str) -> float:
    """z0, Phi(z0) the share of replicates below the estimate, with half of one more on each side of it; 0 for NaN."""
    known = values.dropna().to_numpy()
    if np.isnan(estimate):
        return 0.0
    lower, upper = scale_of(name).limits
    tied = 1.0 if abs(estimate - lower) < TIED else 0.0 if abs(estimate - upper) < TIED else 0.5
    same = np.abs(known - estimate) < TIED if tied != 0.5 else known == estimate
    below = ((known < estimate) & ~same).sum() + tied * same.sum()
    return float(ndtri((below + 0.5) / (len(known) + 1)))


def _accelerated(z0: float, a: float, tails: FloatArray) -> FloatArray:
    """Phi(z0 + w/(1 - a w)), w = z0 + z_tail; 0 or 1 from the pole on."""
    w = z0 + ndtri(tails)
    rest = 1.0 - a * w
    return np.where(rest > 0.0, ndtr(z0 + w / np.where(rest > 0.0, rest, 1.0)), (w > 0.0).astype(float))


def _quantiles(values: pd.Series, at: FloatArray) -> FloatArray:
    """Quantiles at (n+1) p, without NaN; NaN where nothing is left."""
    known = values.dropna().to_numpy()
    return np.quantile(known, at, method="weibull") if len(known) else np.full(len(at), np.nan)


def bootstrap(
    fit: "Fit",
    n: int = 1000,
    seed: int | None = None,
    *,
    workers: int = 1,
    file: Any = None,
    progress: bool = False,
    effects: str = "new",
) -> Bootstrap:
    """n replicates of the estimates of `fit`, by the same criterion.

    With independent levels (`(1 | g)`, `(1 + x | g)`, crossed with few levels besides) and up to 20,000 rows a block of
    them is fitted at a time; else one after another, each search from the fit's own theta. workers: processes; scripts
    that use several need `if __name__ == "__main__":`. file: a path where finished replicates are kept; one that is
    there is continued. effects: "new" or "fitted", as in `simulate`.
    Errors: ModelError for arguments; DataError for a file that belongs to another fit.
    """
    check_count(n, "n")
    check_count(workers, "workers")
    if effects not in ("new", "fitted"):
        raise ModelError(f"effects={effects!r}: one of 'new', 'fitted'")
    estimates = _values(fit)
    store = Store.open(file, Header.of(fit, estimates, effects, seed))
    make = partial(make_sampler, portable(fit) if workers > 1 else fit, effects, store.seed)
    rows = replicates(make, store, n, workers, progress)
    table = pd.DataFrame(np.array([r.values for r in rows]), columns=estimates.index)
    converged, singular = (np.array([getattr(r, k) for r in rows]) for k in ("converged", "singular"))
    return Bootstrap(table, estimates, converged, singular, store.seed, fit, effects)


def _values(fit: "Fit") -> pd.Series:
    return pd.concat([fit.fixef, fit.varpar])


def replicates(make: Callable[[], Sampler], store: Store, n: int, workers: int, progress: bool) -> list[Replicate]:
    """Numbers 0 ... n - 1, of which `store` may have some; make: what each process begins with."""
    missing = [i for i in range(n) if i not in store.done]
    with _showing(progress, n, n - len(missing)) as advance, _run(make, missing, workers) as found:
        for replicate in found:
            store.add(replicate)
            advance()
    return [store.done[i] for i in range(n)]


_sampler: Sampler | None = None


def _begin(make: Callable[[], Sampler]) -> None:
    global _sampler
    _sampler = make()


def _some(numbers: Sequence[int]) -> list[Replicate]:
    assert _sampler is not None
    return _sampler.replicates(numbers)


@contextmanager
def _run(make: Callable[[], Sampler], numbers: Sequence[int], workers: int) -> Iterator[Iterable[Replicate]]:
    """The replicates, in order as they come."""
    workers = min(workers, len(numbers))
    if workers <= 1:
        sampler = make()
        yield chain.from_iterable(map(sampler.replicates, _blocks(numbers, sampler.size)))
        return
    size = max(1, min(SHARE, len(numbers) // (4 * workers)))
    with ProcessPoolExecutor(workers, get_context("spawn"), _begin, (make,)) as pool:
        yield chain.from_iterable(pool.map(_some, _blocks(numbers, size)))


def _blocks(numbers: Sequence[int], size: int) -> list[Sequence[int]]:
    return [numbers[lo : lo + size] for lo in range(0, len(numbers), size)]


def portable(fit: "Fit") -> "Fit":
    """Without the encoding of new rows, whose context may hold functions that cannot travel to a process."""
    spec = replace(fit.spec, encoding=None)
    likelihood = copy.copy(fit.likelihood)
    likelihood.spec = spec
    return replace(fit, spec=spec, likelihood=likelihood)


@contextmanager
def _showing(progress: bool, total: int, done: int) -> Iterator[Callable[[], None]]:
    """A bar on the screen where `progress`; what is yielded moves it on by one."""
    if not progress:
        yield lambda: None
        return
    from rich.progress import Progress

    with Progress(transient=True) as bar:
        task = bar.add_task("bootstrap", total=total, completed=done)
        yield lambda: bar.advance(task)
