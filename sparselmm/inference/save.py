"""A fit in a JSON file, without the data: estimates, names, and the encoding of new rows. Nothing runs on load."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .._errors import DataError, ModelError
from .._typing import FloatArray, Text
from ..formula.encode import Encoding
from ..formula.portable import plain, read, read_encoding, write_encoding
from .arguments import check_flag
from .new_rows import TermFacts
from .posterior import Posterior
from .predict import Predictor, factors, term_facts
from .residual_scales import ResidualFacts
from .stored import Uncertainty

if TYPE_CHECKING:
    from ..results import Fit

FORMAT, VERSION = "sparselmm fit", 1
FACTS = (
    "reml", "nobs", "sigma", "deviance", "loglik", "aic", "bic", "n_params", "converged", "is_singular",
    "gradient_norm", "n_iter", "method", "engine",
)  # fmt: skip
TABLES = ("fixef", "fixef_se", "vcov", "varpar", "varpar_se", "varcorr", "theta")


@dataclass(frozen=True, slots=True, eq=False)
class SavedTerm:
    """A random term: what predictions need to know of it, and its BLUPs (m, r)."""

    facts: TermFacts
    b: FloatArray


@dataclass(frozen=True, eq=False)  # without slots, for the same reason as `Fit`
class SavedFit:
    """What `load` gives: a fit without its data. Its tables and facts have the names that they have in `Fit`.

    facts: numbers of the fit by name. tables: Series and DataFrames by name. effects: group -> BLUPs.
    encoding: None where the model came from arrays. versions: of what wrote the file. uncertainty: for standard errors
    of predictions, None where the file has none.
    """

    formula: str
    response: str
    facts: Mapping[str, Any]
    tables: Mapping[str, Any]
    terms: tuple[SavedTerm, ...]
    effects: Mapping[str, pd.DataFrame]
    text: str
    versions: Mapping[str, str]
    encoding: Encoding | None
    uncertainty: Uncertainty | None

    def __dir__(self) -> list[str]:
        return [*object.__dir__(self), *FACTS, *TABLES]

    def __getattr__(self, name: str) -> Any:
        """A table (a copy) or a number by the name that it has in `Fit`."""
        if name in FACTS:
            return self.facts[name]
        if name in TABLES:
            return self.tables[name].copy()
        raise AttributeError(f"a saved fit has no '{name}': the data are not in it; it has {', '.join(FACTS + TABLES)}")

    def ranef(self) -> dict[str, pd.DataFrame]:
        """BLUPs of the random effects: group -> DataFrame, levels by effects."""
        return {group: frame.copy() for group, frame in self.effects.items()}

    def summary(self) -> Text:
        """The text of `Fit.summary`."""
        return Text(self.text)

    def predict(
        self,
        newdata: Any,
        *,
        re: bool | str | Sequence[str] = True,
        new_levels: str = "population",
        se: bool = False,
        interval: str | None = None,
        level: float = 0.95,
        seed: Any = None,
    ) -> FloatArray | pd.DataFrame:
        """Predictions of new rows, as `Fit.predict` gives them; se, interval and draws need a file with se=True."""
        stored = self.uncertainty
        if stored is None and (se or interval is not None or new_levels == "sample"):
            raise ModelError(
                "predict: the file has no covariances, only estimates; write it with fit.save(path, se=True)"
            )
        source = Predictor(
            self.encoding, [t.facts for t in self.terms], stored.factors if stored else (),
            np.nan_to_num(self.fixef.to_numpy()), [t.b for t in self.terms], self.sigma, None,
            partial(_scales, self), partial(_posterior, self),
        )  # fmt: skip
        return source.predict(
            newdata, re=re, new_levels=new_levels, se=se, interval=interval, level=level, seed=seed
        )  # fmt: skip

    def __str__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()

    def __repr__(self) -> str:
        return f"<saved sparselmm fit: {self.formula or 'from arrays'}; deviance {self.facts['deviance']:.4f}>"


def _scales(saved: SavedFit, newdata: Any) -> FloatArray:
    assert saved.uncertainty is not None and saved.encoding is not None
    return saved.uncertainty.residual.scales(saved.encoding, newdata)


def _posterior(saved: SavedFit) -> Posterior:
    assert saved.uncertainty is not None
    return saved.uncertainty.posterior


def save(fit: "Fit", path: Any, *, se: bool = False) -> None:
    """Write `fit` to a JSON file. se: with the equations, which standard errors of predictions are made of.

    Errors: ModelError for a transformation whose state has no plain form, or with se for a model whose equations
    `Uncertainty` does not hold.
    """
    from .. import __version__

    check_flag(se, "se")
    effects = zip(term_facts(fit), fit.estimate.evaluation.b, strict=True)
    terms = [{"b": plain(b)} | {f.name: plain(getattr(facts, f.name)) for f in fields(facts)} for facts, b in effects]
    body = {
        "formula": fit.spec.formula,
        "response": fit.spec.response,
        "facts": {name: plain(getattr(fit, name)) for name in FACTS},
        "tables": {name: _write_table(getattr(fit, name)) for name in TABLES},
        "terms": terms,
        "effects": [[group, _write_table(frame)] for group, frame in fit.ranef().items()],
        "text": fit.summary(),
        "versions": {"sparselmm": __version__, "numpy": np.__version__, "pandas": pd.__version__},
        "encoding": None if fit.spec.encoding is None else write_encoding(fit.spec.encoding),
        "uncertainty": _write_uncertainty(fit) if se else None,
    }
    text = json.dumps(body, allow_nan=False)
    head = json.dumps({"format": FORMAT, "version": VERSION, "sha256": _digest(text)})
    try:
        Path(path).write_text(f'{head[:-1]}, "fit": {text}}}\n', encoding="utf-8")
    except (OSError, TypeError) as error:
        raise DataError(f"the fit cannot be written to {path!r}: {error}") from error


def load(path: Any, context: Mapping[str, Any] | None = None) -> SavedFit:
    """The fit that `Fit.save` wrote. context: functions of your own that the formula uses, as in the fit.

    A file holds text and numbers. Expressions of its formula are evaluated when `predict` encodes rows, and may call
    no more than formulas know. Errors: DataError for a file of another kind, of a newer format, or damaged.
    """
    body = _body(path)
    try:
        return SavedFit(
            formula=body["formula"],
            response=body["response"],
            facts={name: read(body["facts"][name]) for name in FACTS},
            tables={name: _read_table(body["tables"][name]) for name in TABLES},
            terms=tuple(_read_term(t) for t in body["terms"]),
            effects={group: _read_table(table) for group, table in body["effects"]},
            text=body["text"],
            versions=body["versions"],
            encoding=None if body["encoding"] is None else read_encoding(body["encoding"], context),
            uncertainty=_read_uncertainty(body.get("uncertainty")),
        )
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise DataError(f"{path} is damaged: {type(error).__name__}: {error}") from error


def _write_uncertainty(fit: "Fit") -> Any:
    stored = Uncertainty.of(fit, factors(fit))
    return {f.name: plain(getattr(stored, f.name)) for f in fields(stored) if f.name != "residual"} | {
        "residual": {f.name: plain(getattr(stored.residual, f.name)) for f in fields(stored.residual)}
    }


def _read_uncertainty(given: Any) -> Uncertainty | None:
    if given is None:
        return None
    residual = ResidualFacts(**{f.name: read(given["residual"][f.name]) for f in fields(ResidualFacts)})
    names = [f.name for f in fields(Uncertainty) if f.name != "residual"]
    return Uncertainty(**{name: read(given[name]) for name in names}, residual=residual)


def _read_term(given: Any) -> SavedTerm:
    return SavedTerm(TermFacts(**{f.name: read(given[f.name]) for f in fields(TermFacts)}), read(given["b"]))


def _body(path: Any) -> dict[str, Any]:
    """What is below the head, after its checks."""
    try:
        given = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, TypeError) as error:
        missing = isinstance(error, FileNotFoundError)
        raise DataError(f"there is no file {path}" if missing else f"{path!r} cannot be read: {error}") from error
    except ValueError as error:
        raise DataError(f"{path} is no file of a fit, or is cut off: {error}") from error
    if not isinstance(given, dict) or given.get("format") != FORMAT:
        raise DataError(f"{path} is no file of a fit; Fit.save writes them")
    if not isinstance(given.get("version"), int) or given["version"] > VERSION:
        raise DataError(
            f"{path} has version {given.get('version')!r} of the format, and this sparselmm reads up to {VERSION}: "
            "install a newer one"
        )
    if _digest(json.dumps(given.get("fit"))) != given.get("sha256"):
        raise DataError(f"{path} is damaged: its checksum is not that of its contents")
    return dict(given["fit"])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _write_table(table: pd.Series | pd.DataFrame) -> Any:
    """Index and columns with their values; a Series has the columns None."""
    if isinstance(table, pd.Series):
        return {"index": plain(table.index), "columns": None, "values": plain(table.to_numpy(float))}
    values = [plain([None if v is None else v for v in table[c].tolist()]) for c in table]
    return {"index": plain(table.index), "columns": [str(c) for c in table], "values": values}


def _read_table(given: Any) -> pd.Series | pd.DataFrame:
    index = read(given["index"])
    if given["columns"] is None:
        return pd.Series(read(given["values"]), index=index)
    columns = zip(given["columns"], given["values"], strict=True)
    return pd.DataFrame({name: pd.Series(read(values), index=index, dtype=_kind(values)) for name, values in columns})


def _kind(values: list[Any]) -> Any:
    return object if any(v is None or isinstance(v, str) for v in values) else float
