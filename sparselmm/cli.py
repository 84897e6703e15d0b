"""The command `sparselmm`: fit a model, describe it before fitting, print versions."""

import importlib.metadata
import json
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ._errors import DataError, SparselmmError, SparselmmWarning

if TYPE_CHECKING:
    import pandas as pd

    from .results import Fit

COMPRESSED = {".gz", ".bz2", ".xz", ".zip"}

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Linear mixed models, large and sparse.")

Formula = Annotated[str, typer.Argument(help="A model in lme4's grammar, such as 'y ~ x + (1 | g)'.")]
Table = Annotated[Path, typer.Argument(metavar="FILE", help="A table: .csv (also .csv.gz, .csv.xz) or .parquet.")]
Ml = Annotated[bool, typer.Option("--ml", help="Maximum likelihood in place of REML.")]
Weights = Annotated[str | None, typer.Option(metavar="COLUMN", help="The column of prior weights.")]
Residual = Annotated[
    str | None, typer.Option(metavar="STRUCTURE", help="Of the residuals, such as 'ar1(t | g)' or 'varident(f)'.")
]
Json = Annotated[str | None, typer.Option("--json", metavar="OUT", help="Write the results as JSON (- for stdout).")]


@app.command("fit")
def fit_command(
    formula: Formula,
    file: Table,
    ml: Ml = False,
    weights: Weights = None,
    residual: Residual = None,
    json_out: Json = None,
) -> None:
    """Fit a model to a table and print its summary."""
    with clear_errors():
        table = read(file)
        import sparselmm as slm

        fit = slm.lmm(formula, table, reml=not ml, weights=weights, residual=residual)
        if json_out != "-":
            typer.echo(fit.summary())
        if json_out:
            write(as_json(formula, fit), json_out)


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

    if not file.is_file():
        raise DataError(f"there is no file {file}")
    readers = {".csv": pd.read_csv, ".parquet": pd.read_parquet}
    suffix = next((s.lower() for s in reversed(file.suffixes) if s.lower() not in COMPRESSED), "")
    if suffix not in readers:
        raise DataError(f"{file.name}: tables are read from {' and '.join(readers)} files, not from {suffix!r}")
    try:
        return readers[suffix](file)
    except ValueError as error:
        raise DataError(f"{file.name} cannot be read: {error}") from error
    except ImportError as error:
        raise DataError("reading Parquet needs pyarrow: pip install 'sparselmm[arrow]'") from error


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
        return "not installed"


def _blas() -> list[str]:
    import scipy.linalg  # noqa: F401  # threadpoolctl sees the libraries that are loaded
    import threadpoolctl

    pools = threadpoolctl.threadpool_info()
    return sorted({f"{pool['internal_api']} {pool['version']}" for pool in pools if pool["user_api"] == "blas"})
