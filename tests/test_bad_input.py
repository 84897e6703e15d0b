"""Bad input gives one clear error that names the column or term and the way out, the same at every door."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
from typer.testing import CliRunner

import sparselmm as slm
from sparselmm import DataError, EngineError, FormulaError, ModelError, SparselmmError
from sparselmm.cli import app
from sparselmm.datasets import load_dataset

EXACT_RTOL = 1e-9  # two ways to one answer
F = "Reaction ~ Days + (1 | Subject)"
SLEEP = load_dataset("sleepstudy").assign(Subject=lambda t: t.Subject.astype(str))
CODES, DAYS, REACTION = (SLEEP[c].to_numpy() for c in ("Subject", "Days", "Reaction"))
CODES = np.unique(CODES, return_inverse=True)[1]
X = np.column_stack([np.ones(180), DAYS])
GAP = np.where(np.arange(180) < 3, np.nan, 1.0)


def table(**columns):
    return SLEEP.assign(**columns)


def rows(y, g, **columns):
    return pd.DataFrame({"y": y, "g": list(g), **columns})


# formula, table, the class of the error, and what its message says; every one goes through the three doors below
FORMULAS = {
    "unknown column": ("Reaction ~ Dais + (1 | Subject)", SLEEP, DataError, "column 'Dais' .* did you mean 'Days'?"),
    "unknown group": ("Reaction ~ Days + (1 | subjet)", SLEEP, DataError, "'subjet' .* did you mean 'Subject'?"),
    "unknown response": ("reaction ~ 1", SLEEP, DataError, "'reaction' .* did you mean 'Reaction'?"),
    "unknown function": ("Reaction ~ lgo(Days)", SLEEP, FormulaError, r"'lgo' .*'log'.*\n\n.*\n {15}\^\^\^$"),
    "open bracket": ("Reaction ~ Days + (1 | Subject", SLEEP, FormulaError, r"never closed\n\n.*Subject\n {22}\^$"),
    "no group": ("Reaction ~ Days + (1 | )", SLEEP, FormulaError, r"grouping factor is missing.*\n\n.*\n {25}\^$"),
    "empty left side": ("Reaction ~ (| Subject)", SLEEP, FormulaError, r"left side of the bar is empty; write \(1"),
    "no effect": ("Reaction ~ (0 | Subject)", SLEEP, FormulaError, r"no effect is left before the bar\n\n.*\n {16}\^$"),
    "stray bar": ("Reaction ~ Days * (1 | Subject)", SLEEP, FormulaError, "stands alone between '\\+' signs"),
    "no tilde": ("Reaction + Days", SLEEP, FormulaError, "needs a '~'"),
    "no right side": ("Reaction ~", SLEEP, FormulaError, "nothing follows '~'; write y ~ 1"),
    "empty formula": ("", SLEEP, FormulaError, "needs a '~': y ~ x"),
    "unknown structure": ("Reaction ~ su(1 + Days | Subject)", SLEEP, FormulaError, "structure 'su': .* cs, diag, "),
    "one effect in cs": ("Reaction ~ cs(1 | Subject)", SLEEP, ModelError, r"cs\(...\) needs two .* write cs\(0 \+ f"),
    "a term twice": (f"{F} + (1|Subject)", SLEEP, FormulaError, r"\(1 \| Subject\) is there twice\n"),
    "an effect twice": (f"{F} + (Days | Subject)", SLEEP, ModelError, r"both have sd_Intercept\|Subject: .* Drop one"),
    "no rows": (F, SLEEP.iloc[:0], DataError, "the table has no rows"),
    "only missing": (F, table(Days=np.nan), DataError, "nothing left to fit: all 180 .* 'Days' .180 of 180"),
    "text response": (F, table(Reaction="high"), DataError, "'Reaction' is not numeric, it holds text .* of numbers"),
    "constant response": (F, table(Reaction=3.5), DataError, r"'Reaction' is constant \(3.5\): there is nothing"),
    "exact response": (F, table(Reaction=2.0 * DAYS + 1), ModelError, "fixed effects fit the .* 'Reaction' exactly"),
    "exact groups": (F, table(Reaction=1.0 * CODES), ModelError, r"\(1 \| Subject\): .* exactly, .* Drop a term"),
    "infinite response": (F, table(Reaction=1 / GAP - np.inf), DataError, "'Reaction' has 177 infinite .*: drop or"),
    "infinite covariate": (F, table(Days=np.where(DAYS > 8, np.inf, DAYS)), DataError, "'Days' has 18 infinite"),
    "log of zero": ("Reaction ~ log(Days)", SLEEP, DataError, r"'log\(Days\)': 18 of 180 values are infinite or"),
    "root of negatives": ("sqrt(Reaction - 250) ~ 1", SLEEP, DataError, r"'sqrt\(Reaction - 250\)': \d+ of 180 values"),
    "one level": (F, table(Subject="all"), ModelError, r"\(1 \| Subject\): 'Subject' has one level, .* drop the term"),
    "a level a row": ("Reaction ~ (1 | row)", table(row=range(180)), ModelError, r"\(1 \| row\) has 180 .* for 180"),
    "rows by interaction": ("Reaction ~ (1 | Subject:Days)", SLEEP, ModelError, r"\(1 \| Subject:Days\) has 180 "),
    "slopes for pairs": ("Reaction ~ (Days | pair)", table(pair=np.arange(180) // 2), ModelError, "has 180 .* Drop a"),
    "zero left side": ("Reaction ~ (0 + z | Subject)", table(z=0.0), DataError, r"\(0 \+ z \| Subject\): 'z' is zero"),
    "zero slope": ("Reaction ~ (1 + z | Subject)", table(z=0), DataError, r"\(1 \+ z \| Subject\): 'z' is zero in"),
    "too many columns": ("Reaction ~ C(Subject) * C(Days)", SLEEP, ModelError, "180 fixed effects for 180 obs"),
    "two rows": ("y ~ 1 + (1 | g)", rows([1.0, 2.0], "ab"), ModelError, "2 random effects for 2 observations"),
    "one row": ("y ~ 1 + (1 | g)", rows([1.0], "a"), ModelError, "'g' has one level"),
    "one row alone": ("y ~ 1", rows([1.0], "a"), ModelError, "1 fixed effect for 1 observation: nothing is"),
}


def check(error, call, kind, message):
    with pytest.raises(kind, match=message) as caught:
        call()
    assert error is None or type(caught.value) is error
    return str(caught.value)


@pytest.mark.parametrize("name", FORMULAS)
def test_formula_and_table(name):
    formula, data, error, message = FORMULAS[name]
    texts = {
        check(error, lambda: slm.lmm(formula, data), error, message),
        check(error, lambda: slm.lmm(formula, pl.from_pandas(data)), error, message),
    }
    if "exact groups" not in name:  # that one shows only when fitting
        texts.add(check(error, lambda: slm.LinearMixedModel(formula, data), error, message))
        texts.add(check(error, lambda: slm.LinearMixedModel(formula, data, engine="dense"), error, message))
    assert len(texts) == 1


@pytest.mark.parametrize("name", FORMULAS)
def test_the_command_line_prints_the_message_only(name, tmp_path):
    formula, data, error, message = FORMULAS[name]
    data.to_csv(path := tmp_path / "table.csv", index=False)
    result = CliRunner().invoke(app, ["fit", formula, str(path)])
    with pytest.raises(SparselmmError) as caught:
        slm.lmm(formula, pd.read_csv(path))
    assert result.exit_code == 1 and result.stdout == ""
    assert result.stderr == f"Error: {caught.value}\n"


WEIGHTS = {
    "negative": (np.where(DAYS == 4, -1.0, 1.0), "weights must be positive: 18 of 180 are not, the smallest is -1"),
    "zero": (1.0 * DAYS, "weights must be positive: 18 of 180 are not, the smallest is 0"),
    "infinite": (np.where(DAYS == 4, np.inf, 1.0), "18 (of 180 values are infinite|infinite values)"),
    "missing": (GAP, "weights: 3 of 180 values of .* are missing; give every row one, or drop these rows"),
    "text": (np.full(180, "heavy"), "weights"),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights(name, tmp_path):
    weights, message = WEIGHTS[name]
    data = table(w=weights)
    for given in ("w", weights, pd.Series(weights), weights.tolist()):
        check(DataError, lambda given=given: slm.lmm(F, data, weights=given), DataError, message)
    data.to_csv(path := tmp_path / "table.csv", index=False)
    result = CliRunner().invoke(app, ["fit", F, str(path), "--weights", "w"])
    assert result.exit_code == 1 and result.stderr.startswith("Error: ") and result.stdout == ""


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"weights": "ww"}, DataError, "column 'ww' is not in the table"),
        ({"weights": np.ones(5)}, DataError, r"unequal lengths: weights has shape \(5,\), the table has 180 rows"),
        ({"weights": 2.0}, DataError, r"unequal lengths: weights has shape \(\)"),
        ({"offset": np.ones((180, 1))}, DataError, r"unequal lengths: offset has shape \(180, 1\)"),
        ({"offset": "Subject"}, DataError, "offset: column 'Subject' holds text"),
        ({"engine": "cholmud"}, EngineError, "unknown engine 'cholmud'. Did you mean 'cholmod'"),
        ({"engine": "fast"}, EngineError, "unknown engine 'fast'. Known are auto, absorb, supernodal, cholmod, dense"),
        ({"engine": None}, EngineError, "unknown engine None"),
        ({"residual": "arma(Days | Subject)"}, FormulaError, "arma"),
        ({"start": [1.0, 2.0]}, ModelError, r"theta must be 1 finite number.*, for Intercept\|Subject; not \[1.0, 2.0"),
        ({"start": "good"}, ModelError, "theta must be 1 finite number.*; not good"),
        ({"start": [np.nan]}, ModelError, "theta must be 1 finite number"),
        ({"fixed": {"sd_Intercpt|Subject": 1}}, ModelError, r"no parameter .* Did you mean 'sd_Intercept\|Subject'"),
        ({"fixed": {"rho": 1}}, ModelError, r"no parameter 'rho'. This model has sd_Intercept\|Subject, sigma"),
        ({"fixed": {3: 1}}, ModelError, "no parameter '3'"),
        ({"fixed": {"sigma": 0}}, ModelError, "sigma cannot be 0; .* sigma above 0"),
        ({"fixed": {"sigma": np.inf}}, ModelError, "sigma cannot be inf"),
        ({"fixed": {"sigma": "large"}}, ModelError, "sigma cannot be 'large'"),
        ({"fixed": {"sigma": None}}, ModelError, "sigma cannot be None"),
        ({"fixed": {"sd_Intercept|Subject": -1.0}}, ModelError, r"sd_Intercept\|Subject cannot be -1.0; .* at least 0"),
        ({"fixed": ["sigma"]}, ModelError, "fixed: names with values"),
    ],
)
def test_options(options, error, message):
    check(error, lambda: slm.lmm(F, SLEEP, **options), error, message)


@pytest.mark.parametrize("value", [1.5, -1.01, np.nan])
def test_a_correlation_beyond_one(value):
    fixed = {"cor_Intercept.Days|Subject": value}
    with pytest.raises(ModelError, match="a correlation lies between -1 and 1"):
        slm.lmm("Reaction ~ (Days | Subject)", SLEEP, fixed=fixed)


def test_correlations_that_no_covariance_has():
    machines = load_dataset("Machines")
    values = (("A", "B", 0.9), ("A", "C", 0.9), ("B", "C", -0.9))
    us = {f"cor_Machine[{a}].Machine[{b}]|Worker": c for a, b, c in values}
    with pytest.raises(ModelError, match=r"not a covariance matrix \(not positive semi-definite\)"):
        slm.lmm("score ~ Machine + (0 + Machine | Worker)", machines, fixed=us)
    with pytest.raises(ModelError, match=r"cor_cs\(Machine\) = -0.9: with 3 effects it lies between -0.5 and 1"):
        slm.lmm("score ~ cs(0 + Machine | Worker)", machines, fixed={"cor_cs(Machine)|Worker": -0.9})


@pytest.mark.parametrize("data", [None, 3, {"Reaction": [1.0]}, np.ones((3, 3)), SLEEP.Reaction, [SLEEP]])
def test_what_is_no_table(data):
    check(DataError, lambda: slm.lmm(F, data), DataError, "data must be a table .pandas, polars or pyarrow")


def test_a_lazy_table_is_collected_first():
    check(DataError, lambda: slm.lmm(F, pl.from_pandas(SLEEP).lazy()), DataError, "collect it first")


@pytest.mark.parametrize("formula", [None, 3, ["y ~ x"], b"y ~ x"])
def test_what_is_no_formula(formula):
    check(FormulaError, lambda: slm.lmm(formula, SLEEP), FormulaError, "a formula is a string such as")


@pytest.mark.parametrize(
    ("name", "hint"), [("sleepstdy", "sleepstudy"), ("INSTEVALL", "InstEval"), ("iris", ""), (3, "")]
)
def test_data_sets(name, hint):
    expected = f"there is no data set '{name}'.*" + (f"Did you mean {hint}" if hint else "There are: sleepstudy, ")
    check(DataError, lambda: slm.load_dataset(name), DataError, expected)


def missing_everywhere():
    return SLEEP.assign(Days=[np.nan if i % 2 else 1.0 for i in range(180)], Subject=[None, "a"] * 90)


def test_columns_that_lack_values_in_turn():
    check(None, lambda: slm.lmm(F, missing_everywhere()), DataError, "all 180 rows have missing values; most are in")


ARRAYS = {
    "y text": (dict(y=["a"] * 180), DataError, "y is not numeric"),
    "y numbers as text": (dict(y=["1"] * 180), DataError, "y is not numeric"),
    "y complex": (dict(y=REACTION + 1j), DataError, "y is not numeric"),
    "y a matrix": (dict(y=X), DataError, r"y must be a vector, not of shape \(180, 2\)"),
    "y missing": (dict(y=REACTION * GAP), DataError, "response 'y': 3 of 180 values are infinite or missing; drop"),
    "y constant": (dict(y=np.ones(180)), DataError, r"response 'y' is constant \(1\)"),
    "y exact": (dict(y=X @ [1.0, 2.0]), ModelError, "fixed effects fit the response 'y' exactly"),
    "no rows": (dict(y=[], X=np.ones((0, 1)), terms=[]), DataError, "no rows to fit"),
    "X missing": (dict(X=X * GAP[:, None]), DataError, "fixed effect 'x0' has infinite or missing values; drop"),
    "X short": (dict(X=X[:5]), DataError, "unequal lengths: the response has 180 rows, X has 5"),
    "X a cube": (dict(X=X[:, :, None]), DataError, r"X must be a matrix \(n, p\), not of shape \(180, 2, 1\)"),
    "X none": (dict(X=None), DataError, "X must be a matrix"),
    "X wide": (dict(y=REACTION[:2], X=X[:2], terms=[]), ModelError, "2 fixed effects for 2 observations"),
    "names": (dict(fixed_names=["a"]), DataError, "fixed_names: 2 columns of X need 2 different names, not 'a'"),
    "names twice": (dict(fixed_names=["a", "a"]), DataError, "need 2 different names, not 'a', 'a'"),
    "weights negative": (dict(weights=-np.ones(180)), DataError, "weights must be positive: 180 of 180"),
    "weights missing": (dict(weights=GAP), DataError, "weights: 3 of 180 values are infinite or missing"),
    "weights short": (dict(weights=np.ones(3)), DataError, "the response has 180 rows, weights has 3"),
    "offset short": (dict(offset=np.ones(3)), DataError, "the response has 180 rows, offset has 3"),
    "offset missing": (dict(offset=GAP), DataError, "offset: 3 of 180 values are infinite or missing"),
    "term an array": (dict(terms=[CODES]), DataError, r"a list of RandomTerm, as in \[RandomTerm\(codes"),
    "term alone": (dict(terms=slm.RandomTerm(CODES)), DataError, "terms must be a list of RandomTerm"),
    "terms none": (dict(terms=None), DataError, "terms must be a list of RandomTerm"),
    "one name twice": (dict(terms=[slm.RandomTerm(CODES), slm.RandomTerm(DAYS.astype(int))]), ModelError, "own name"),
    "term short": (dict(terms=[slm.RandomTerm(CODES[:90])]), DataError, "180 rows, term 'g' has 90"),
    "one level": (dict(terms=[slm.RandomTerm(np.zeros(180, int))]), ModelError, "'g' has one level"),
    "a level a row": (dict(terms=[slm.RandomTerm(np.arange(180))]), ModelError, r"\(1 \| g\) has 180 random effects"),
    "engine": (dict(engine="chol"), EngineError, "unknown engine 'chol'"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays(name):
    given, error, message = ARRAYS[name]
    call = {"y": REACTION, "X": X, "terms": [slm.RandomTerm(CODES)]} | given
    check(error, lambda: slm.LinearMixedModel.from_arrays(**call), error, message)


@pytest.mark.parametrize("engine", ["absorb", "cholmod", "dense"])
def test_weights_that_are_all_one_do_not_save_a_term_with_a_level_a_row(engine):
    """Only weights that differ tell sigma apart from such effects (known sampling variances)."""
    y, weights = REACTION[:20], 1.0 + np.arange(20)
    terms = [slm.RandomTerm(np.arange(20))]
    with pytest.raises(ModelError, match="Drop a term or give weights that differ"):
        slm.LinearMixedModel.from_arrays(y, np.ones(20), terms, weights=np.full(20, 2.0), engine=engine)
    model = slm.LinearMixedModel.from_arrays(y, np.ones(20), terms, weights=weights, engine=engine)
    assert model.fit(fixed={"sigma": 60.0}).converged


TERMS = {
    "float codes": (dict(Z=CODES * 1.0), DataError, "Z must be a vector of integer codes .* numpy.unique"),
    "text codes": (dict(Z=SLEEP.Subject), DataError, "integer codes or a scipy sparse matrix"),
    "dense Z": (dict(Z=X), DataError, r"not float64 of shape \(180, 2\)"),
    "negative codes": (dict(Z=CODES - 1), DataError, "term 'g': codes must be 0 ... m-1, the smallest is -1"),
    "gaps": (dict(Z=CODES * 2, name="subject"), DataError, "term 'subject': 17 of the codes 0 ... 34 do not occur"),
    "no columns": (dict(Z=sp.csc_array((180, 0))), ModelError, "Z has 0 columns"),
    "odd columns": (dict(Z=sp.csc_array((180, 3)), effects=("a", "b")), ModelError, "3 columns, not a multiple of 2"),
    "missing Z": (dict(Z=sp.csc_array(X * np.nan)), DataError, "Z has infinite, missing or complex values"),
    "complex Z": (dict(Z=sp.csc_array(X * 1j)), DataError, "complex"),
    "zero Z": (dict(Z=sp.csc_array((180, 4))), DataError, r"\(1 \| g\): 'Intercept' is zero in every row; drop it"),
    "columns with Z": (dict(Z=sp.csc_array(X), columns=X), ModelError, "columns= with integer codes"),
    "text columns": (dict(Z=CODES, columns=[["a"]] * 180), DataError, "columns are not numeric"),
    "short columns": (dict(Z=CODES, columns=X[:4]), DataError, r"columns have shape \(4, 2\) for 180 codes"),
    "missing columns": (dict(Z=CODES, columns=X * GAP[:, None]), DataError, "columns have infinite or missing"),
    "zero column": (dict(Z=CODES, columns=X * [1, 0]), DataError, r"\(0 \+ x0 \+ x1 \| g\): 'x1' is zero in every"),
    "structure": (dict(Z=CODES, structure="uss"), ModelError, "unknown structure 'uss': known are .*us"),
    "no structure": (dict(Z=CODES, structure=None), ModelError, "structure is a word such as 'us' .* not NoneType"),
    "cs of one": (dict(Z=CODES, structure="cs"), ModelError, "cs.* needs two or more effects"),
    "labels": (dict(Z=CODES, levels=["a", "b"]), DataError, "2 labels in levels= for 18 levels"),
    "effects": (dict(Z=CODES, effects=("a", "b")), ModelError, "2 names in effects=, but .* 1 effect"),
}


@pytest.mark.parametrize("name", TERMS)
def test_random_terms(name):
    given, error, message = TERMS[name]
    check(error, lambda: slm.RandomTerm(**given), error, message)


@pytest.mark.parametrize("theta", [[1.0], "big", [1.0, 2.0, np.inf], None])
def test_loglik_at_what_is_no_theta(theta):
    model = slm.LinearMixedModel("Reaction ~ Days + (Days | Subject)", SLEEP)
    message = r"theta must be 3 finite numbers, for Intercept\|Subject, Days.Intercept\|Subject, Days\|Subject; not"
    check(ModelError, lambda: model.loglik(theta), ModelError, message)


def test_three_rows_are_enough():
    """The smallest table with a variance of its own; all engines find the same one."""
    data = rows([1.0, 2.0, 4.0], "abb")
    fits = [slm.lmm("y ~ 1 + (1 | g)", data, engine=engine) for engine in ("absorb", "cholmod", "dense")]
    assert [fit.deviance for fit in fits] == pytest.approx([fits[2].deviance] * 3, rel=EXACT_RTOL)
    assert all(fit.converged for fit in fits)


@pytest.mark.parametrize("outlier", [1e6, 1e12])
def test_one_wild_value_is_fitted_without_a_word(outlier):
    """A variance of zero: the wild value is as likely in any group, and the rest is nearly constant."""
    data = table(Reaction=np.where(np.arange(180) == 77, outlier, REACTION))
    fit = slm.lmm(F, data)
    X1 = np.column_stack([np.ones(180), DAYS])
    beta = np.linalg.lstsq(X1, data.Reaction.to_numpy())[0]
    assert fit.converged and fit.is_singular
    np.testing.assert_allclose(fit.fixef, beta, rtol=EXACT_RTOL)


def test_a_fit_that_does_not_converge_warns_once_and_the_command_line_says_so_in_the_summary(tmp_path):
    """A level a row, and weights that differ too little to tell sigma apart: it goes to zero without end."""
    data = rows([0.4, -0.4, 1.9, 0.3, -1.6], "abcde", w=[1.0, 2.0, 3.0, 4.0, 5.0])
    with pytest.warns(slm.SparselmmWarning, match="the fit did not converge") as caught:
        slm.lmm("y ~ 1 + (1 | g)", data, weights="w")
    assert len(caught) == 1
    data.to_csv(path := tmp_path / "table.csv", index=False)
    result = CliRunner().invoke(app, ["fit", "y ~ 1 + (1 | g)", str(path), "--weights", "w"])
    assert result.exit_code == 0 and result.stderr == "" and "NOT CONVERGED" in result.stdout


def test_nothing_is_left_behind_by_an_error():
    """A model that was refused a fit can be fitted."""
    model = slm.LinearMixedModel(F, SLEEP)
    expected = model.fit().deviance
    for options in ({"fixed": {"sigma": -1}}, {"start": [np.nan]}):
        with pytest.raises(SparselmmError):
            model.fit(**options)
    assert model.fit().deviance == expected


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("change", "formula", "options", "message"),
    [
        ({"x": 1e-100}, "y ~ 1 + (x | g)", {}, r"\(1 \+ x \| g\): 'x': the largest value is 2e-100"),
        ({"x": 1e100}, "y ~ 1 + (x || g)", {}, r"\(1 \+ x \|\| g\): 'x': the largest value is 2e\+100"),
        ({"w": 1e100}, "y ~ 1 + (1 | g)", {"weights": "w"}, r"weights: the largest value is 2e\+100"),
        ({"x": 1e150}, "y ~ 1 + (1 | g) + offset(x)", {}, "range of 4e"),
    ],
)
def test_numbers_whose_squares_are_none(change, formula, options, message):
    """These were warnings of numpy, eigenvalues that did not converge, or a ValueError of scipy."""
    i = np.arange(40)
    data = pd.DataFrame({"y": 2.0 * (-1.0) ** i, "x": 2.0 * (-1.0) ** (i // 2), "w": 1.0 + i % 2, "g": i % 5})
    for column, factor in change.items():
        data[column] *= factor
    with pytest.raises(DataError, match=message):
        slm.lmm(formula, data, **options)


def test_more_variance_parameters_than_an_information_matrix_can_hold():
    """Numbers that came as text, left of a bar: 40 GB were asked for."""
    i = np.arange(2_000)
    data = pd.DataFrame({"y": np.sin(i), "u": [f"{k % 150}.5" for k in i], "g": i % 7})
    with pytest.raises(ModelError, match="150 effects of each level have 11,325 variance parameters"):
        slm.lmm("y ~ 1 + (u | g)", data)
