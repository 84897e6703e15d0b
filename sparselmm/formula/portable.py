"""An `Encoding` as plain JSON values, and back: records by name and arrays, nothing that runs.

Expressions of the formula stay text. They are evaluated when rows are encoded, so only those that call what formulas
know (or what the user hands over again) are written or read.
"""

import ast
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

import formulaic
import numpy as np
import pandas as pd
from formulaic.formula import SimpleFormula
from formulaic.materializers.base import EncodedTermStructure
from formulaic.materializers.types import EvaluatedFactor, ScopedFactor, ScopedTerm
from formulaic.parser.types import Factor, Term
from formulaic.transforms import TRANSFORMS

from .._errors import DataError, ModelError
from ..terms import GroupingFactor
from .design import Design
from .encode import Encoding, OffsetEncoding, TermEncoding
from .latent import LatentEncoding
from .names import FUNCTIONS, evaluation_context
from .tokens import Expr, Name

_RECORDS = (Design, Encoding, OffsetEncoding, TermEncoding, LatentEncoding, GroupingFactor, Expr, Name)
RECORDS: dict[str, Any] = {record.__name__: record for record in _RECORDS}
MODULES = {"np": FUNCTIONS, "contr": dict.fromkeys(n for n in dir(TRANSFORMS["contr"]) if not n.startswith("_"))}


def write_encoding(encoding: Encoding) -> Any:
    """Plain values of `encoding`, without codes of rows and without the context.

    Errors: ModelError for a function that is the user's own method call, or state that has no plain form.
    """
    for text, columns in _expressions(encoding):
        check_expression(text, columns, encoding.context)
    terms = tuple(_without_rows(t) for t in encoding.terms)
    return plain(replace(encoding, context={}, terms=terms))


def read_encoding(values: Any, context: Mapping[str, Any] | None) -> Encoding:
    """Inverse of `write_encoding`; context: the user's own names of the formula, as in the fit.

    Errors: DataError for values that are none of its kind, ModelError for an expression that needs more than it has.
    """
    encoding = read(values)
    if not isinstance(encoding, Encoding):
        raise DataError("no encoding of a formula is there")
    known = evaluation_context(context)
    for text, columns in _expressions(encoding):
        check_expression(text, columns, known)
    return replace(encoding, context=known)


def _without_rows(term: TermEncoding | LatentEncoding) -> TermEncoding | LatentEncoding:
    if term.levels is None:
        return term
    return replace(term, levels=replace(term.levels, codes=np.zeros(0, np.int64)))


def _expressions(encoding: Encoding) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every text that is evaluated as Python, with the columns that it may read."""
    designs = [encoding.fixed_design, *(t.design for t in encoding.terms if t.design is not None)]
    for design in designs:
        for term in design.spec.formula if design.spec is not None else ():
            python = [f.expr for f in term.factors if f.eval_method is Factor.EvalMethod.PYTHON]
            yield from ((text, design.columns) for text in python)
    yield from ((offset.text, offset.columns) for offset in encoding.offsets)
    for term in encoding.terms:
        if isinstance(term, LatentEncoding):
            yield from ((text, term.columns) for _, text in term.times)


def check_expression(text: str, columns: tuple[str, ...], context: Mapping[str, Any]) -> None:
    """ModelError unless `text` is arithmetic on columns, numbers and functions of formulas or of the context."""
    try:
        tree = ast.parse(re.sub(r"`[^`]*`", "_quoted_", text.strip()), mode="eval")
    except SyntaxError as error:
        raise ModelError(f"'{text}' cannot be read") from error
    own = {"_quoted_", "True", "False", "None", *columns, *FUNCTIONS, *TRANSFORMS}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            root = node.value.id if isinstance(node.value, ast.Name) else ""
            if node.attr not in MODULES.get(root, ()):
                raise ModelError(f"'{text}' reads '.{node.attr}', which a saved fit cannot: make a column of it first")
        elif isinstance(node, ast.Name) and node.id not in own and node.id not in context:
            raise ModelError(f"'{text}' needs '{node.id}': give it in context={{'{node.id}': ...}}")
        elif isinstance(node, (ast.Lambda, ast.comprehension, ast.NamedExpr, ast.Await, ast.JoinedStr)):
            raise ModelError(
                f"'{text}' is more than arithmetic, which a saved fit cannot hold: make a column of it first"
            )


def plain(value: Any) -> Any:
    """`value` in terms of None, booleans, numbers, text, lists, and objects with one tag."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else {"float": str(float(value))}
    if isinstance(value, np.bool_):
        return bool(value)
    return _plain_object(value)


def _plain_object(value: Any) -> Any:
    if RECORDS.get(type(value).__name__) is type(value):
        names = [f.name for f in fields(value)]
        return {"record": type(value).__name__, "fields": {n: plain(getattr(value, n)) for n in names}}
    if isinstance(value, np.ndarray) and value.dtype.kind in "iufb":
        return {"array": plain(value.tolist()), "dtype": value.dtype.str, "shape": list(value.shape)}
    if isinstance(value, list):
        return [plain(v) for v in value]
    if isinstance(value, tuple):
        return {"tuple": [plain(v) for v in value]}
    if isinstance(value, Mapping):
        return {"dict": [[plain(k), plain(v)] for k, v in value.items()]}
    if isinstance(value, pd.MultiIndex):
        parts = [plain(value.get_level_values(i)) for i in range(value.nlevels)]
        return {"multiindex": parts, "names": plain(list(value.names))}
    if isinstance(value, pd.Index):
        return {"index": plain(value.tolist()), "dtype": str(value.dtype), "name": plain(value.name)}
    if isinstance(value, (pd.Timestamp, np.datetime64)):
        return {"date": pd.Timestamp(value).isoformat()}
    if isinstance(value, formulaic.ModelSpec):
        return {"design": _plain_spec(value)}
    raise ModelError(
        f"{type(value).__name__} cannot be stored without pickle: make text of such labels, columns of transformations"
    )


def _plain_spec(spec: formulaic.ModelSpec) -> Any:
    """Terms with their factors and columns, the state of transforms, the categories of factors."""
    factors = {f.expr: f.eval_method.value for term in spec.formula for f in term.factors}
    structure = [
        {
            "factors": [f.expr for f in s.term.factors],
            "columns": list(s.columns),
            "scoped": [
                {"scale": plain(t.scale), "factors": [[f.factor.expr, f.reduced] for f in t.factors]}
                for t in s.scoped_terms
            ],
        }
        for s in spec.structure
    ]
    kinds = {
        expr: [kind.value, plain({k: v for k, v in state.items() if k != "contrasts"})]
        for expr, (kind, state) in spec.encoder_state.items()
    }
    return {
        "factors": factors, "structure": structure, "transforms": plain(spec.transform_state), "kinds": kinds,
        "materializer": spec.materializer, "output": spec.output, "na_action": spec.na_action.value,
    }  # fmt: skip


def read(value: Any) -> Any:
    """Inverse of `plain`. Errors: DataError for a tag that is not known; others for values of the wrong kind."""
    if isinstance(value, list):
        return [read(v) for v in value]
    if not isinstance(value, dict):
        return value
    for tag, reader in _READERS.items():
        if tag in value:
            return reader(value)
    raise DataError(f"an object with {', '.join(map(repr, value)) or 'nothing'} in it is not known")


def _read_record(value: dict[str, Any]) -> Any:
    return RECORDS[value["record"]](**{k: read(v) for k, v in value["fields"].items()})


def _read_array(value: dict[str, Any]) -> Any:
    return np.array(read(value["array"]), dtype=np.dtype(value["dtype"])).reshape(value["shape"])


def _read_index(value: dict[str, Any]) -> pd.Index:
    return pd.Index(read(value["index"]), dtype=value["dtype"], name=read(value["name"]), tupleize_cols=False)


def _read_multiindex(value: dict[str, Any]) -> pd.MultiIndex:
    return pd.MultiIndex.from_arrays([read(p) for p in value["multiindex"]], names=read(value["names"]))


def _read_spec(value: dict[str, Any]) -> formulaic.ModelSpec:
    given = value["design"]
    factors = {expr: Factor(expr, eval_method=method) for expr, method in given["factors"].items()}
    terms = [Term([factors[e] for e in s["factors"]]) for s in given["structure"]]
    structure = [
        EncodedTermStructure(term, [_scoped(t, factors) for t in s["scoped"]], list(s["columns"]))
        for term, s in zip(terms, given["structure"], strict=True)
    ]
    return formulaic.ModelSpec(
        formula=SimpleFormula(terms, _ordering="none"),
        materializer=given["materializer"],
        materializer_params={},
        output=given["output"],
        na_action=given["na_action"],
        structure=structure,
        transform_state=read(given["transforms"]),
        encoder_state={expr: (Factor.Kind(kind), read(state)) for expr, (kind, state) in given["kinds"].items()},
    )


def _scoped(given: dict[str, Any], factors: Mapping[str, Factor]) -> ScopedTerm:
    parts = [ScopedFactor(EvaluatedFactor(factors[expr], None), reduced) for expr, reduced in given["factors"]]
    return ScopedTerm(parts, scale=given["scale"])


_READERS = {
    "float": lambda v: float(v["float"]),
    "record": _read_record,
    "array": _read_array,
    "tuple": lambda v: tuple(read(v["tuple"])),
    "dict": lambda v: {read(k): read(x) for k, x in v["dict"]},
    "multiindex": _read_multiindex,
    "index": _read_index,
    "date": lambda v: pd.Timestamp(v["date"]),
    "design": _read_spec,
}
