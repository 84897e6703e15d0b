"""The command `sparselmm`: fit a model, predict new rows, describe a model before fitting, print versions."""

import importlib.metadata
import json
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ._errors import DataError, SparselmmError, SparselmmWarning

if TYPE_CHECKING:
    import pandas as pd

    from .results import Fit

STDIN = Path("-")
COMPRESSED = {".gz", ".bz2", ".xz", ".zip"}

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Linear mixed models, large and sparse.")

Formula = Annotated[
    str, typer.Argument(metavar="FORMULA", help="A model in lme4's grammar, such as 'y ~ x + (1 | g)'.")
]
Table = Annotated[
    Path,
    typer.Argument(
        metavar="FILE", help="A table: .csv, .tsv (also .csv.gz, .csv.xz) or .parquet; - is CSV from stdin."
    ),
]
Ml = Annotated[bool, typer.Option("--ml", help="Maximum likelihood in place of REML.")]
Weights = Annotated[str | None, typer.Option(metavar="COLUMN", help="The column of prior weights.")]
Residual = Annotated[
    str | None, typer.Option(metavar="STRUCTURE", help="Of the residuals, such as 'ar1(t | g)' or 'varident(f)'.")
]
Json = Annotated[str | None, typer.Option("--json", metavar="OUT", help="Write the results as JSON (- for stdout).")]
Save = Annotated[Path | None, typer.Option(metavar="OUT", help="Save the fit for `sparselmm predict` and slm.load.")]
Errors = Annotated[bool, typer.Option("--errors", help="Save what standard errors of predictions need, too.")]
Saved = Annotated[Path, typer.Argument(metavar="FIT", help="What `sparselmm fit --save` or fit.save() wrote.")]
Population = Annotated[bool, typer.Option("--population", help="Without random effects.")]
Interval = Annotated[
    str | None, typer.Option(metavar="KIND", help="confidence or prediction: columns se, lower, upper as well.")
]
Out = Annotated[str, typer.Option(metavar="OUT", help="The CSV to write (- for stdout).")]


@app.command("fit")
def fit_command(
    formula: Formula,
    file: Table,
    ml: Ml = False,
    weights: Weights = None,
    residual: Residual = None,
    json_out: Json = None,
    save: Save = None,
    errors: Errors = False,
) -> None:
    """Fit a model to a table and print its summary."""
    with clear_errors():
        if errors and not save:
            raise DataError("--errors is part of what --save writes: give --save OUT too")
        table = read(file)
        import sparselmm as slm

        fit = slm.lmm(formula, table, reml=not ml, weights=weights, residual=residual)
        if json_out != "-":
            typer.echo(fit.summary())
        if json_out:
            write(as_json(formula, fit), json_out)
        if save:
            fit.save(save, se=errors)


@app.command()
def predict(
    saved: Saved, file: Table, population: Population = False, interval: Interval = None, out: Out = "-"
) -> None:
    """Predict the rows of a table from a saved fit: the table as CSV with a column `fit` behind the others."""
    with clear_errors():
        table = read(file)
        import sparselmm as slm

        values = slm.load(saved).predict(table, re=not population, interval=interval)
        made = {"fit": values} if interval is None else dict(values)
        write(table.assign(**made).to_csv(index=False).rstrip("\n"), out)


@app.command()
def describe(formula: Formula, file: Table, weights: Weights = None, residual: Residual = None) -> None:
    """Show sizes, nonzeros, engine and memory of a model, without fitting it."""
    with clear_errors():
        table = read(file)
        import sparselmm as slm

        typer.echo(slm.LinearMixedModel(formula, table, weights=weights, residual=residual).describe())


@app.command()
def version() -> None:
    """Print the versions that a result depends on."""
    for name, number in versions().items():
        typer.echo(f"{name:<14}{number}")


@contextmanager
def clear_errors() -> Iterator[None]:
    """Print an error of the package or of the file system as one message, and leave with code 1.

    What the package warns of stands in the summary, where it is read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SparselmmWarning)
            yield
    except (SparselmmError, OSError) as error:
        typer.secho(f"Error: {error}", err=True, fg="red")
        raise typer.Exit(1) from error


def read(file: Path) -> "pd.DataFrame":
    """Read a table by its extension. Raises DataError for an unknown one, or a file that cannot be parsed."""
    import pandas as pd

    if file == STDIN:
        return _parsed(pd.read_csv, sys.stdin, "what came from stdin")
    if not file.is_file():
        hint = ": the formula comes first, then the file" if "~" in str(file) else ""
        raise DataError(f"there is no file {file}{hint}")
    readers = {".csv": pd.read_csv, ".tsv": partial(pd.read_csv, sep="\t"), ".parquet": pd.read_parquet}
    suffix = next((s.lower() for s in reversed(file.suffixes) if s.lower() not in COMPRESSED), "")
    if suffix not in readers:
        raise DataError(f"{file.name}: tables are read from {', '.join(readers)} files, not from {suffix!r}")
    return _parsed(readers[suffix], file, file.name)


def _parsed(reader: Callable[[Any], "pd.DataFrame"], source: Any, name: str) -> "pd.DataFrame":
    try:
        table = reader(source)
    except ValueError as error:
        raise DataError(f"{name} cannot be read: {error}") from error
    except ImportError as error:
        raise DataError("reading Parquet needs pyarrow: pip install 'sparselmm[arrow]'") from error
    if len(table.columns) == 1 and {";", "\t"}.intersection(str(table.columns[0])):
        raise DataError(f"{name} has one column, {table.columns[0]!r}: separate its columns by commas")
    return table


def as_json(formula: str, fit: "Fit") -> str:
    """Render the numbers of a fit as JSON; NaN and infinity become null."""
    table = {
        "formula": formula,
        "reml": fit.reml,
        "coefficients": fit.fixef.to_dict(),
        "standard_errors": fit.fixef_se.to_dict(),
        "varpar": fit.varpar.to_dict(),
        **{name: getattr(fit, name) for name in ("sigma", "loglik", "deviance", "aic", "bic", "nobs")},
        "converged": bool(fit.converged),
        "is_singular": bool(fit.is_singular),
        "versions": versions(),
    }
    return json.dumps(plain(table), indent=2, allow_nan=False)


def plain(value: Any) -> Any:
    """Turn NumPy numbers into Python's, and what JSON cannot hold into None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write(text: str, target: str) -> None:
    """Write a text to a file, or to stdout where the target is `-`."""
    if target == "-":
        typer.echo(text)
    else:
        Path(target).write_text(text + "\n", encoding="utf-8")


def versions() -> dict[str, str]:
    """Give the versions of the package, of what it computes with, and the BLAS libraries of the process."""
    found = {name: _installed(name) for name in ("sparselmm", "numpy", "scipy", "scikit-sparse")}
    return found | {"BLAS": ", ".join(_blas()) or "unknown"}


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        from . import __version__

        return f"{__version__}, not installed" if name == "sparselmm" else "not installed"


def _blas() -> list[str]:
    import scipy.linalg  # noqa: F401  # threadpoolctl sees the libraries that are loaded
    import threadpoolctl

    pools = threadpoolctl.threadpool_info()
    return sorted({f"{pool['internal_api']} {pool['version']}" for pool in pools if pool["user_api"] == "blas"})
