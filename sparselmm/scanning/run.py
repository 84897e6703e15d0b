"""`scan`: null models and genotypes -> a table of associations, block by block."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from .._errors import DataError, ModelError, SparselmmError
from .._typing import AnyArray, FloatArray
from ..kernels.families import mark_missing
from ..mapping import map_blocks
from ..results import Fit
from .association import CONFOUNDED, PERFECT, TESTS, TOO_FEW, Statistics, statistics
from .gaps import products_without
from .markers import MarkerBlock, MarkerSource, open_markers
from .moments import Moments, moments
from .people import align, covariates
from .projection import NullModel, PeopleProducts
from .refit import refit_with
from .result import Scan
from .store import Store, describe_fit, digest

GENOTYPES = 16_000_000  # of a block: 128 MB in floats, 16 in bytes
EVERY = ""  # chromosome


@dataclass(frozen=True, slots=True)
class Options:
    """What a scan does with each marker. reestimate: p-values below it get their own variance parameters."""

    test: str
    missing: str
    reestimate: float | None
    block: int | None = None

    def __post_init__(self) -> None:
        count = isinstance(self.block, (int, np.integer)) and not isinstance(self.block, bool)
        if self.block is not None and not (count and self.block > 0):
            raise ModelError(f"block={self.block!r}: a number of markers, or None")
        for name, value, allowed in (("test", self.test, TESTS), ("missing", self.missing, ("mean", "drop"))):
            if value not in allowed:
                raise ModelError(f"{name}={value!r}: one of {', '.join(map(repr, allowed))}")
        number = isinstance(self.reestimate, (int, float, np.number)) and not isinstance(self.reestimate, bool)
        if self.reestimate is not None and not (number and 0.0 < self.reestimate <= 1.0):
            raise ModelError(f"reestimate={self.reestimate!r}: a p-value above 0 and up to 1, or None")


def scan(
    fit: Any,
    genotypes: Any,
    *,
    sample: Any = None,
    data: Any = None,
    interact: Any = None,
    test: str = "wald",
    missing: str = "mean",
    reestimate: float | None = None,
    samples: Any = None,
    markers: Any = None,
    out: Any = None,
    block: int | None = None,
    progress: bool = False,
    client: Any = None,
) -> Scan:
    """Test each marker given a fitted null model: exact generalised least squares at the null's variance parameters.

    fit: the null model, with any random effects; a list of them tests several traits in one pass over the genotypes; a
    mapping chromosome -> fit leaves one chromosome out of the kinship of each (LOCO).
    genotypes: a path of PLINK 1 files, a DataFrame (samples in rows), an array (samples, markers), or an iterator of
    (ids, array) blocks; bytes with -127 for missing, or floats with NaN. samples: ids of the samples, where the
    genotypes have none or others. markers: ids for tables and arrays, or a table with `marker`, `chromosome`,
    `position`. sample: which sample each row of the model is: a grouping
    factor of the model by its name, a column of `data`, the table that it was fitted to, or labels (nobs,); rows are
    samples in order if None.
    interact: tests g and g x covariate together, for coefficients by name or a mapping name -> (nobs,).
    test: "wald" estimates sigma with each marker at the null's ratios (t or F), "score" holds it too (z or chi^2 / df).
    missing: "mean" imputes, "drop" leaves people without a genotype out of that marker's model. reestimate: markers
    with a p-value below get variance parameters of their own, columns `effect_lmm`, `se_lmm`, `p_lmm`.
    out: a folder for finished blocks; the same call continues an interrupted scan. block: markers of a block.
    client: a `dask.distributed.Client` over whose workers the blocks go; the numbers are the same.
    Markers that cannot be tested have NaN and a `reason`. Errors: DataError, ModelError.
    """
    options = Options(test, missing, reestimate, block)
    source = open_markers(genotypes, samples, markers)
    traits = [_Trait(name, fits, source, (sample, data), interact, options) for name, fits in _traits(fit).items()]
    size = int(block or 0) or max(1, min(4096, GENOTYPES // max(1, source.n_samples)))
    store = None if out is None else Store(out, _manifest(traits, source, options, size))
    with _progress(progress, None if source.info is None else len(source.info)) as advance:
        tables = _all_tables(traits, source.blocks(size), store, advance, client)
    if not tables:
        raise DataError("the genotypes have no markers")
    suffixes = ("", *(f"_{name}" for name in traits[0].interactions))
    return Scan(pd.concat(tables, ignore_index=True), tuple(t.name for t in traits), suffixes)


def _all_tables(
    traits: list["_Trait"],
    blocks: Iterator[MarkerBlock],
    store: Store | None,
    advance: Callable[[int], Any],
    client: Any,
) -> list[pd.DataFrame]:
    """Tables of the blocks, in order; those that the store has are not made again."""
    tables: dict[int, pd.DataFrame] = {}
    checksums: dict[int, str] = {}

    def unfinished() -> Iterator[tuple[list[str], tuple[int, MarkerBlock]]]:
        for number, part in enumerate(block for block in blocks if len(block.raw)):
            names = part.info["marker"].tolist()
            table = None
            if store is not None:
                checksums[number] = part.checksum()
                table = store.load(number, checksums[number])
            if table is None:
                yield names, (number, part)
            else:
                tables[number] = table
                advance(len(names))

    for names, (number, table) in map_blocks(_table, traits, unfinished(), client):
        if store is not None:
            store.save(number, checksums[number], table)
        tables[number] = table
        advance(len(names))
    return [tables[number] for number in sorted(tables)]


def _table(traits: list["_Trait"], block: tuple[int, MarkerBlock]) -> tuple[int, pd.DataFrame]:
    number, part = block
    return number, pd.concat([t.table(part) for t in traits], ignore_index=True)


def _traits(fit: Any) -> dict[str, dict[str, Fit]]:
    """Fits by chromosome, or one for EVERY, of each name; a name that comes again gets a number."""
    out: dict[str, dict[str, Fit]] = {}
    for one in fit if isinstance(fit, Sequence) else [fit]:
        fits = {str(k): f for k, f in one.items()} if isinstance(one, Mapping) else {EVERY: one}
        if not fits or not all(isinstance(f, Fit) for f in fits.values()):
            raise ModelError("fit is a fitted model, a list of them, or a mapping chromosome -> fit")
        name = next(iter(fits.values())).spec.response
        while name in out:
            name += f".{len(out) + 1}"
        out[name] = fits
    if not out:
        raise ModelError("fit is an empty list; give at least one fitted model")
    return out


def _manifest(traits: Sequence["_Trait"], source: MarkerSource, options: Options, size: int) -> dict[str, Any]:
    return {
        "null model": {t.name: t.describe() for t in traits},
        "genotypes": source.fingerprint(),
        "options": [options.test, options.missing, options.reestimate, size],
        "interactions": list(traits[0].interactions),
        "sample": [t.rows for t in traits],
    }


class _Trait:
    """One response: its null model, or one for each chromosome, of which the last one used is kept."""

    def __init__(
        self,
        name: str,
        fits: Mapping[str, Fit],
        source: MarkerSource,
        sample: tuple[Any, Any],
        interact: Any,
        options: Options,
    ):
        self.name, self._fits, self._options = name, fits, options
        self._samples = source.samples, source.n_samples
        self._sample, self._interact = sample, interact
        if source.info is not None and EVERY not in fits:
            for name in dict.fromkeys(_chromosomes(source.info)):
                self._fit(name)
        first = next(iter(fits))
        self.interactions = covariates(fits[first].spec, interact)[1]
        self._at: tuple[str, _Null] | None = None
        self._null(first)

    def __getstate__(self) -> dict[str, Any]:
        """The factor of a null model does not travel; it is made again."""
        return self.__dict__ | {"_at": None}

    def describe(self) -> dict[str, Any]:
        """Digests of the fits."""
        return {chromosome: describe_fit(fit) for chromosome, fit in self._fits.items()}

    @property
    def rows(self) -> str:
        """A digest of which row belongs to which sample, and of the covariates."""
        assert self._at is not None
        null = self._at[1]
        return digest(null.codes, null.people, null.X)

    def table(self, block: MarkerBlock) -> pd.DataFrame:
        """Rows of a block, in its order."""
        runs = [(EVERY, block)] if EVERY in self._fits else _by_chromosome(block)
        table = pd.concat([self._null(chromosome).table(part) for chromosome, part in runs], ignore_index=True)
        table.insert(0, "trait", self.name)
        return table

    def _null(self, chromosome: str) -> "_Null":
        if self._at is None or self._at[0] != chromosome:
            fit = self._fit(chromosome)
            self._at = chromosome, _Null(fit, self._samples, self._sample, self._interact, self._options)
        return self._at[1]

    def _fit(self, chromosome: str) -> Fit:
        if chromosome not in self._fits:
            known = ", ".join(self._fits)
            raise ModelError(f"there is no fit for chromosome '{chromosome}' of the genotypes; there are {known}")
        return self._fits[chromosome]


def _chromosomes(info: pd.DataFrame) -> AnyArray:
    if "chromosome" not in info.columns:
        raise ModelError("a mapping chromosome -> fit needs markers with a chromosome: give a table as markers=")
    return np.asarray(info["chromosome"].map(str))


def _by_chromosome(block: MarkerBlock) -> Iterator[tuple[str, MarkerBlock]]:
    """Runs of markers of one chromosome."""
    names = _chromosomes(block.info)
    starts = np.flatnonzero(np.append(True, names[1:] != names[:-1]))
    for first, last in zip(starts, np.append(starts[1:], len(names)), strict=True):
        yield names[first], MarkerBlock(block.info.iloc[first:last], block.raw[first:last])


class _Null:
    """One null model with its people: a block of markers -> a table."""

    def __init__(
        self, fit: Fit, samples: tuple[pd.Index | None, int], sample: tuple[Any, Any], interact: Any, options: Options
    ):
        if options.missing == "drop" and options.reestimate is not None and not fit.reml:
            raise ModelError("missing='drop' with reestimate= needs a fit by REML; fit so, or impute by the mean")
        self.fit, self.options = fit, options
        self.codes, self.people = align(fit, sample[0], *samples, sample[1])
        self.X, names = covariates(fit.spec, interact)
        self.suffixes = ("", *(f"_{name}" for name in names))
        self.null = NullModel(fit)
        self.products = PeopleProducts(self.null, self.codes, self.people, self.X)
        self.df = float(fit.nobs - self.null.n_fixed - self.X.shape[1])
        held = options.test == "score" or "sigma" in fit.estimate.held
        self.sigma2 = fit.sigma**2 if held else None
        if self.sigma2 is None and self.df <= 0:
            raise ModelError(
                f"{fit.nobs} rows are too few for {self.null.n_fixed} fixed effects, {self.X.shape[1]} of each marker "
                "and sigma; test='score' takes sigma from the null model"
            )

    def table(self, block: MarkerBlock) -> pd.DataFrame:
        of = moments(block.raw, self.people, self.products.centred)
        known, reason = of.known, of.reason
        found = statistics(self.products(block.raw, of.centre, of.fill), self.null.ss, self.df, self.sigma2)
        if self.options.missing == "drop":
            for k in np.flatnonzero((reason == "") & (known < len(self.people))).tolist():
                reason[k] = self._without(block.raw[k], of.centre[k], k, found)
        out = [found.beta, found.se, found.p_effect]
        for array in (*out, found.statistic, found.p, found.minus_log10_p):
            array[reason != ""] = np.nan
        untold = (reason == "") & np.isnan(found.p)
        reason[untold] = np.where(np.isnan(found.beta[untold]).any(axis=1), CONFOUNDED, PERFECT)
        columns = {"n": known, "mean": np.where(known > 0, of.mean, np.nan), **self._effects(*out)}
        columns |= {"statistic": found.statistic, "p_value": found.p, "minus_log10_p": found.minus_log10_p}
        columns["reason"] = reason
        table = _beside(block.info.reset_index(drop=True), columns)
        return table if self.options.reestimate is None else self._again(table, block.raw, of)

    def _effects(self, beta: FloatArray, se: FloatArray, p: FloatArray) -> dict[str, FloatArray]:
        """Columns `effect`, `se` and those of interactions; with these also `p_effect`, of each alone."""
        kinds = {"effect": beta, "se": se} | ({"p_effect": p} if beta.shape[1] > 1 else {})
        return {f"{kind}{s}": a[:, j] for j, s in enumerate(self.suffixes) for kind, a in kinds.items()}

    def _columns(self, raw: AnyArray, centre: float, fill: float) -> tuple[FloatArray, AnyArray]:
        """U (n, c) of one marker less `centre`, `fill` where it is missing, and the rows (n,) where that is so."""
        gone = np.empty(len(self.people), bool)
        mark_missing(raw, self.people, gone)
        g = np.where(gone, fill, raw[self.people].astype(np.float64) - centre)
        return g[self.codes][:, None] * self.X, gone[self.codes]

    def _without(self, raw: AnyArray, centre: float, k: int, found: Statistics) -> str:
        """Marker k's statistics without the people whose genotype is missing, in place; why there are none, or ""."""
        U, gone = self._columns(raw, centre, 0.0)
        try:
            products, ss, rank = products_without(self.null, U, gone)
        except ModelError as error:
            return str(error)
        if self.sigma2 is None and self.df <= rank:
            return TOO_FEW
        alone = statistics(products, np.array([ss]), np.array([self.df - rank]), self.sigma2)
        for name in Statistics.__slots__:
            getattr(found, name)[k] = getattr(alone, name)[0]
        return ""

    def _again(self, table: pd.DataFrame, raw: AnyArray, of: Moments) -> pd.DataFrame:
        """With columns of models with variance parameters of their own, NaN where p_value is not below the limit."""
        drop = self.options.missing == "drop"
        names = [f"{kind}_lmm{s}" for s in self.suffixes for kind in ("effect", "se")]
        names += ["statistic_lmm", "p_lmm"]
        out, reason = np.full((len(table), len(names)), np.nan), table["reason"].to_numpy(dtype=object, copy=True)
        for k in np.flatnonzero(table["p_value"] < self.options.reestimate).tolist():
            U, gone = self._columns(raw[k], of.centre[k], 0.0 if drop else of.fill[k])
            try:
                again = refit_with(self.fit, U, self.suffixes, gone if drop else None, self.options.test)
            except SparselmmError as error:
                reason[k] = f"re-estimation: {error}"
                continue
            out[k] = *np.column_stack([again.beta, again.se]).ravel(), again.statistic, again.p
            reason[k] = "" if again.converged else "re-estimation did not converge"
        return _beside(table.assign(reason=reason), dict(zip(names, out.T, strict=True)))


def _beside(info: pd.DataFrame, columns: Mapping[str, AnyArray]) -> pd.DataFrame:
    """Both. Errors: DataError where a column of `info` has the name of a scan's own."""
    taken = [name for name in info.columns if name == "trait" or name in columns]
    if taken:
        raise DataError(f"markers: a scan has columns {', '.join(taken)} of its own; leave them out or rename them")
    return info.assign(**columns)


@contextmanager
def _progress(wanted: bool, total: int | None) -> Iterator[Any]:
    """A bar of markers; a function that does nothing where none is wanted."""
    if not wanted:
        yield lambda count: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    with Progress(*columns) as bar:
        task = bar.add_task("markers", total=total)
        yield lambda count: bar.advance(task, count)
