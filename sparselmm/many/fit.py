"""`lmm_many`: formula, table and Y -> arrays of estimates."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from .._errors import DataError, FormulaError, ModelError
from .._typing import FloatArray, IntArray
from ..formula import build_spec
from ..formula.table import open_table
from ..mapping import map_blocks
from ..terms import ModelSpec
from .blocks import Fitter, fit_block, fit_together, fittable, make_fitter
from .degrees import wanted
from .design import Design, contrast_matrix
from .estimates import Estimates, concatenate
from .general import is_general
from .responses import CELLS, Source, in_order, match, open_responses, regroup
from .result import ManyFits
from .shrunk import fit_prior, profiles, shrunken
from .spectral import DECOMPOSED, Spectral, is_decomposable, is_one_ratio

Outcome = tuple[pd.Index, Estimates, Mapping[str, Any]]
NO_RESPONSES = "Y has no responses"
MODES = ("per-response", "common", "shrunk")


def lmm_many(
    formula: str,
    data: Any,
    Y: Any,
    *,
    reml: bool = True,
    mode: str = "per-response",
    weights: Any = None,
    offset: Any = None,
    residual: str | None = None,
    context: Mapping[str, Any] | None = None,
    contrasts: Mapping[str, Any] | None = None,
    ddf: str | None = None,
    samples: str | None = None,
    layer: str | None = None,
    block: int | None = None,
    client: Any = None,
) -> ManyFits:
    """Fit one model to every column of Y: `lmm_many("~ age + trt + (1 | donor)", samples, Y)`.

    formula: the response may be left out; a name for it is ignored. data: a table, one row a sample; None takes
    `Y.obs` of AnnData. Y: samples by responses, see `responses`; an iterator of blocks is consumed once and need not
    fit into memory. weights: a column's name or (n,), the same for all; or (v, n), each response's own (voom), columns
    like the rows of Y, by label where both have labels. offset: a column's name or (n,). The labels of
    a Series are matched with those of the samples, where there are any.
    mode: "per-response": each response has its own variances. "common": one V for all of them, the matrix-normal model.
    "shrunk": its own, with a prior on the log ratio that all responses give. contrasts: name -> {coefficient: weight}.
    ddf: "satterthwaite" (None is the same), or "wald", without degrees of freedom, faster with several ratios.
    samples: the column of labels by which the rows of `data` and of Y are matched; without it the index of both, if
    they have one. A response that cannot be fitted gets NaN and a `reason`, and nothing else changes.
    block: responses of a block, by default what 32 MB hold. client: a `dask.distributed.Client` over whose workers
    the blocks go; the numbers are the same.
    Errors: SparselmmError and its children.
    """
    if mode not in MODES:
        raise ModelError(f"mode={mode!r}: one of {', '.join(map(repr, MODES))}")
    if not isinstance(reml, (bool, np.bool_, int)) or reml not in (True, False):
        raise ModelError(f"reml={reml!r}: True for REML, False for maximum likelihood")
    own = each_responses_own(weights)
    shared = weights if own is None else None
    degrees = wanted(ddf)
    spec, keep, source = _read(formula, data, Y, shared, offset, residual, context, samples, layer)
    design = Design(spec, contrast_matrix(contrasts, spec.fixed_names))
    if own is not None:
        own = check_weights(by_labels(weights, own, source), source, design, keep)
    size = block_size(design) if block is None else check_size(block)
    run = _Run(design, source, keep, reml, degrees, own, size, client)
    names, estimates, extra = {"per-response": run.each, "common": run.common, "shrunk": run.shrunk}[mode]()
    return ManyFits(spec, design, names, tuple(contrasts or ()), estimates, reml, mode, extra)


def each_responses_own(weights: Any) -> FloatArray | None:
    """weights as (v, n) where they are a matrix, None where they are shared. Errors: DataError."""
    if weights is None or isinstance(weights, str) or np.ndim(weights) != 2:
        return None
    try:
        return np.asarray(weights, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"weights of each response are numbers, responses by samples: {error}") from error


def by_labels(given: Any, weights: FloatArray, source: Source) -> FloatArray:
    """weights (v, n) of a table `given` in the order of Y's responses and samples, where both have labels.

    Errors: DataError for labels that Y does not have.
    """
    if not isinstance(given, pd.DataFrame):
        return weights
    for axis, (index, known) in enumerate(((given.index, source.names), (given.columns, source.samples))):
        if known is None or isinstance(index, pd.RangeIndex) or isinstance(known, pd.RangeIndex):
            continue
        what = ("responses", "samples")[axis]
        if not (index.is_unique and known.is_unique) or len(index) != len(known) or not index.isin(known).all():
            lost = index[~index.isin(known)]
            raise DataError(
                f"weights: their {what} are not those of Y" + (f"; Y has no {lost[0]!r}" if len(lost) else "")
            )
        weights = np.take(weights, index.get_indexer(known), axis=axis)
    return weights


def check_weights(weights: FloatArray, source: Source, design: Design, keep: IntArray | None) -> FloatArray:
    """Rows like the responses, columns like the rows of Y, of which those that are used stay. Errors: DataError,
    ModelError.
    """
    if source.names is None:
        raise DataError("weights of each response go with Y in memory, not with an iterator of blocks")
    n = design.n if keep is None else source.n_rows
    if weights.shape != (len(source.names), n):
        raise DataError(f"weights of {len(source.names)} responses and {n} samples, not of shape {weights.shape}")
    if not is_general(design):
        raise ModelError(
            "weights of each response need terms over independent levels, such as (1 | g), and no residual structure; "
            "give one weight a sample"
        )
    return weights if keep is None else weights[:, keep]


def check_size(block: Any) -> int:
    """Errors: ModelError."""
    if isinstance(block, bool) or not isinstance(block, (int, np.integer)) or block < 1:
        raise ModelError(f"block={block!r}: a whole number of responses from 1 on, or None")
    return int(block)


def block_size(design: Design) -> int:
    """Responses of a block: multiples of 64, for products of whole tiles; more where they share factors."""
    cells = CELLS if is_decomposable(design) or not is_one_ratio(design) else 8 * CELLS
    return max(64, cells // max(design.n, design.spec.q) // 64 * 64)


def _read(
    formula: str,
    data: Any,
    Y: Any,
    weights: Any,
    offset: Any,
    residual: str | None,
    context: Mapping[str, Any] | None,
    samples: str | None,
    layer: str | None,
) -> tuple[ModelSpec, IntArray | None, Source]:
    """The model, rows of Y that it uses (None: all, in order) and the responses."""
    if data is None and not hasattr(Y, "obs"):
        raise DataError("data=None takes the table of AnnData, Y.obs; give a table with one row a sample")
    data = Y.obs if data is None else data
    table = open_table(data)
    n_rows = len(table)
    name = _response_name(formula, table.columns)
    text = f"{name} ~ {formula.partition('~')[2].strip()}"
    labels = _labels(data, table, samples)
    source = open_responses(Y, samples, layer, labels, n_rows)
    known = source.samples if labels is None or isinstance(labels, pd.RangeIndex) else labels
    weights, offset = in_order(weights, known, "weights"), in_order(offset, known, "offset")
    spec = build_spec(
        text, table.with_row_index(name), weights=weights, offset=offset, residual=residual, context=context
    )
    rows, order = spec.y.astype(np.int64), match(source, labels, n_rows)
    if order is None and len(rows) == n_rows:
        return spec, None, source
    return spec, rows if order is None else order[rows], source


def _response_name(formula: Any, columns: list[str]) -> str:
    """What stands before '~' if it is a name that no column has, else one that is free."""
    if not isinstance(formula, str) or "~" not in formula:
        raise FormulaError("a formula is a string such as '~ x + (1 | g)'; the response is each column of Y")
    name = formula.partition("~")[0].strip()
    if name and not name.isidentifier():
        raise FormulaError(f"the response is each column of Y, not '{name}': transform Y, and write '~ x + (1 | g)'")
    name = name or "y"
    while name in columns:
        name += "_"
    return name


def _labels(data: Any, table: Any, samples: str | None) -> pd.Index | None:
    """Labels of the table's rows, which a RangeIndex only numbers; None where it has none."""
    if samples is not None:
        if samples not in table.columns:
            raise DataError(f"samples='{samples}': the table has no such column")
        return pd.Index(table.get_column(samples).to_list())
    index = getattr(data, "index", None)
    return index if isinstance(index, pd.Index) else None


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """The three modes. ddf: whether to find degrees of freedom. own: (v, n) weights or None. size: of a block."""

    design: Design
    source: Source
    keep: IntArray | None
    reml: bool
    ddf: bool
    own: FloatArray | None
    size: int
    client: Any

    def each(self, fitter: Fitter | None = None) -> Outcome:
        """Every response at its own optimum, block by block."""
        fitter = fitter or make_fitter(self.design, self.reml, self.own is not None, self.ddf)
        found = list(map_blocks(_fit, fitter, self._with_weights(), self.client))
        if not found:
            raise DataError(NO_RESPONSES)
        names = [labels for labels, _ in found]
        return names[0].append(names[1:]), concatenate([part for _, part in found]), {}

    def common(self) -> Outcome:
        """All responses at one V."""
        if self.client is not None:
            raise ModelError("mode='common' is one search over all responses, nothing for a client: leave it out")
        if self.own is not None:
            raise ModelError("mode='common' has one V for all responses: give one weight a sample, not one a cell")
        blocks = list(self._blocks())
        if not blocks:
            raise DataError(NO_RESPONSES)
        names = blocks[0][0].append([labels for labels, _ in blocks[1:]])
        names, found, extra = fit_together(self.design, np.hstack([Y for _, Y in blocks]), self.reml, names)
        if not self.ddf:
            found.df[:] = found.df_residual[:] = np.nan
        return names, found, extra

    def shrunk(self) -> Outcome:
        """Every response with a prior on its ratio; two passes over Y."""
        if not is_decomposable(self.design) or self.own is not None:
            raise ModelError(
                "mode='shrunk' is for one variance ratio, such as (1 | g), over up to "
                f"{DECOMPOSED:,} levels, and weights that all share"
            )
        if self.source.names is None:
            raise DataError("mode='shrunk' reads Y twice: give it in memory, not as an iterator of blocks")
        fitter = Spectral(self.design, self.reml, self.ddf)
        found = map_blocks(_profiles, fitter, self._blocks(), self.client)
        mu, tau = fit_prior(np.concatenate([part for _, part in found]))
        names, estimates, _ = self.each(shrunken(fitter, mu, tau))
        return names, estimates, {"log_ratio_mean": mu - np.log(fitter.scale), "log_ratio_sd": tau}

    def _blocks(self) -> Iterator[tuple[pd.Index, FloatArray]]:
        return regroup(self.source.blocks(self.keep, self.size), self.size)

    def _with_weights(self) -> Iterator[tuple[pd.Index, tuple[FloatArray, FloatArray | None]]]:
        done = 0
        for names, Y in self._blocks():
            yield names, (Y, None if self.own is None else self.own[done : done + len(names)])
            done += len(names)


def _fit(fitter: Fitter, block: tuple[FloatArray, FloatArray | None]) -> Estimates:
    return fit_block(fitter, *block)


def _profiles(fitter: Spectral, Y: FloatArray) -> FloatArray:
    return profiles(fitter, fittable(fitter.design, Y)[0])
