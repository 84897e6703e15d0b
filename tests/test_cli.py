"""The command line, by what it prints, writes and returns."""

import json
from io import StringIO

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from sparselmm.cli import app, as_json, plain
from sparselmm.datasets import load_dataset
from tests import golden

FORMULA = "Reaction ~ Days + (Days | Subject)"
LOGLIK_RTOL = 1e-6  # the reference's own tolerance for a log-likelihood
ESTIMATE_RTOL = 1e-5  # the same for coefficients, standard errors and sigma


@pytest.fixture(scope="module")
def sleepstudy(tmp_path_factory):
    """The table as CSV, with a numeric subject, as R users export it."""
    path = tmp_path_factory.mktemp("cli") / "sleepstudy.csv"
    load_dataset("sleepstudy").assign(w=1.0).to_csv(path, index=False)
    return path


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def reference(fit_id):
    return next(fit for fit in golden.fits() if fit["id"] == fit_id)


def message(result):
    """What an error printed: one message on stderr, nothing on stdout, exit code 1, no traceback."""
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert result.stdout == "" and "Traceback" not in result.stderr
    return result.stderr


def check_against_lme4(written, fit_id):
    expected = reference(fit_id)
    assert written["nobs"] == expected["n"] and written["reml"] == expected["REML"]
    assert written["loglik"] == pytest.approx(expected["loglik"], rel=LOGLIK_RTOL)
    for key, other in (("deviance", "deviance"), ("aic", "AIC"), ("bic", "BIC")):
        assert written[key] == pytest.approx(expected[other], rel=LOGLIK_RTOL)
    assert written["sigma"] == pytest.approx(expected["sigma"], rel=ESTIMATE_RTOL)
    assert list(written["coefficients"].values()) == pytest.approx(list(expected["fixef"].values()), rel=ESTIMATE_RTOL)
    errors = list(written["standard_errors"].values())
    assert errors == pytest.approx(list(expected["se"].values()), rel=ESTIMATE_RTOL)


@pytest.mark.parametrize(("options", "fit_id"), [((), "sleep_us_REML"), (("--ml",), "sleep_us_ML")])
def test_fit_as_json_has_the_numbers_of_lme4(sleepstudy, options, fit_id):
    result = run("fit", FORMULA, sleepstudy, "--json", "-", *options)
    assert result.exit_code == 0, result.output
    written = json.loads(result.stdout)
    check_against_lme4(written, fit_id)
    assert written["formula"] == FORMULA and written["converged"] and not written["is_singular"]
    assert list(written["coefficients"]) == ["Intercept", "Days"]
    assert set(written["varpar"]) == {
        *("sd_Intercept|Subject", "cor_Intercept.Days|Subject", "sd_Days|Subject", "sigma"),
    }


def test_correlated_residuals(sleepstudy):
    structure = "ar1(Days | Subject)"
    result = run("fit", FORMULA, sleepstudy, "--residual", structure, "--json", "-")
    assert result.exit_code == 0, result.output
    check_against_lme4(json.loads(result.stdout), "sleep_us_ar1_REML")
    assert f"residuals {structure}: 1 parameter" in run("describe", FORMULA, sleepstudy, "--residual", structure).stdout


def test_fit_prints_the_summary_and_writes_json_beside_it(sleepstudy, tmp_path):
    target = tmp_path / "fit.json"
    result = run("fit", FORMULA, sleepstudy, "--json", target)
    assert result.exit_code == 0, result.output
    assert "Subject" in result.stdout and "Days" in result.stdout
    check_against_lme4(json.loads(target.read_text()), "sleep_us_REML")


def test_unit_weights_change_nothing(sleepstudy):
    result = run("fit", FORMULA, sleepstudy, "--weights", "w", "--json", "-")
    check_against_lme4(json.loads(result.stdout), "sleep_us_REML")


@pytest.mark.parametrize("name", ["table.parquet", "table.csv.gz", "TABLE.CSV"])
def test_other_extensions(tmp_path, name):
    path = tmp_path / name
    table = load_dataset("sleepstudy")
    if name.endswith("parquet"):
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False)
    check_against_lme4(json.loads(run("fit", FORMULA, path, "--json", "-").stdout), "sleep_us_REML")


def test_describe_fits_nothing_and_shows_sizes(sleepstudy):
    result = run("describe", FORMULA, sleepstudy)
    assert result.exit_code == 0, result.output
    assert "180" in result.stdout and "Subject" in result.stdout


def test_version_names_what_a_result_depends_on():
    result = run("version")
    names = [line.split()[0] for line in result.stdout.splitlines()]
    assert result.exit_code == 0 and names == ["sparselmm", "numpy", "scipy", "scikit-sparse", "BLAS"]
    assert np.__version__ in result.stdout


def test_an_unknown_column_is_one_clear_message(sleepstudy):
    assert "Days" in message(run("fit", "Reaction ~ Dys + (1 | Subject)", sleepstudy))


def test_a_formula_that_cannot_be_read_is_underlined(sleepstudy):
    assert "^" in message(run("describe", "Reaction ~ Days + (1 | ", sleepstudy))


def test_files_that_cannot_be_read(tmp_path):
    assert "there is no file" in message(run("fit", FORMULA, tmp_path / "none.csv"))
    for name, content, expected in [
        ("table.xlsx", b"x", ".csv, .tsv, .parquet files, not from '.xlsx'"),
        ("table", b"x", "not from ''"),
        ("empty.csv", b"", "cannot be read"),
        ("bad.parquet", b"not parquet", "cannot be read"),
        ("latin.csv", "g\xe4\n1\n".encode("latin-1"), "cannot be read"),
    ]:
        path = tmp_path / name
        path.write_bytes(content)
        assert expected in message(run("fit", FORMULA, path))


def test_json_that_cannot_be_written(sleepstudy, tmp_path):
    result = run("fit", FORMULA, sleepstudy, "--json", tmp_path / "missing" / "fit.json")
    assert result.exit_code == 1 and "No such file" in result.stderr and "Traceback" not in result.stderr


def test_a_dropped_column_is_null_in_json(tmp_path):
    import sparselmm as slm

    fit = slm.lmm("Reaction ~ Days + twice + (1 | Subject)", load_dataset("sleepstudy").eval("twice = 2 * Days"))
    coefficients = json.loads(as_json("formula", fit))["coefficients"]
    assert coefficients["twice"] is None and coefficients["Days"] is not None


def test_numpy_numbers_become_plain_ones():
    table = {"a": np.float64(1.5), "b": np.bool_(True), "c": {"d": np.nan, "e": -np.inf}, "f": np.int64(3), "g": "x"}
    assert plain(table) == {"a": 1.5, "b": True, "c": {"d": None, "e": None}, "f": 3, "g": "x"}
    assert type(plain(np.bool_(True))) is bool and type(plain(np.int64(3))) is int


def test_no_command_shows_the_help():
    assert all(command in run().output for command in ("fit", "describe", "version"))


def test_predict_gives_the_rows_of_the_table_with_what_the_fit_predicts(sleepstudy, tmp_path):
    import sparselmm as slm

    saved, new = tmp_path / "fit.json", tmp_path / "new.csv"
    assert run("fit", FORMULA, sleepstudy, "--save", saved, "--errors").exit_code == 0
    pd.DataFrame({"Days": [9, 12, 9], "Subject": [308, 308, 999]}).to_csv(new, index=False)
    fit, rows = slm.lmm(FORMULA, pd.read_csv(sleepstudy)), pd.read_csv(new)
    found = pd.read_csv(StringIO(run("predict", saved, new).stdout))
    assert list(found.columns) == ["Days", "Subject", "fit"]
    blup = fit.ranef()["Subject"].loc[308]
    by_hand = fit.fixef["Intercept"] + blup["Intercept"] + 9 * (fit.fixef["Days"] + blup["Days"])
    assert found["fit"][0] == pytest.approx(by_hand, rel=1e-9)
    mean = fit.fixef["Intercept"] + 9 * fit.fixef["Days"]
    assert found["fit"][2] == pytest.approx(mean, rel=1e-9)
    target = tmp_path / "out.csv"
    assert run("predict", saved, new, "--population", "--interval", "prediction", "--out", target).exit_code == 0
    table = pd.read_csv(target)
    expected = fit.predict(rows.assign(Subject=308), re=False, interval="prediction")
    np.testing.assert_allclose(table[expected.columns], expected, rtol=1e-9)


def test_predict_without_what_it_needs_is_one_message(sleepstudy, tmp_path):
    saved = tmp_path / "fit.json"
    run("fit", FORMULA, sleepstudy, "--save", saved)
    assert "no covariances" in message(run("predict", saved, sleepstudy, "--interval", "prediction"))
    assert "there is no file" in message(run("predict", tmp_path / "none.json", sleepstudy))
    assert "level" not in message(run("predict", sleepstudy, sleepstudy))


def test_other_ways_to_a_table(sleepstudy, tmp_path):
    tabs, semicolons = tmp_path / "t.tsv", tmp_path / "s.csv"
    pd.read_csv(sleepstudy).to_csv(tabs, sep="\t", index=False)
    check_against_lme4(json.loads(run("fit", FORMULA, tabs, "--json", "-").stdout), "sleep_us_REML")
    piped = CliRunner().invoke(app, ["fit", FORMULA, "-", "--json", "-"], input=sleepstudy.read_text())
    check_against_lme4(json.loads(piped.stdout), "sleep_us_REML")
    pd.read_csv(sleepstudy).to_csv(semicolons, sep=";", index=False)
    assert "separate its columns by commas" in message(run("fit", FORMULA, semicolons))
    assert "the formula comes first" in message(run("fit", sleepstudy, FORMULA))


def test_errors_without_a_file_to_save_them_in(sleepstudy):
    result = run("fit", FORMULA, sleepstudy, "--errors")
    assert result.exit_code == 1 and "--errors is part of what --save writes" in result.output
