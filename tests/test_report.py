"""What a person reads: summaries, descriptions, progress."""

import io
import re
import sys
import time

import numpy as np
import pandas as pd
import pytest

import sparselmm as slm
from sparselmm import report
from sparselmm.datasets import load_dataset
from sparselmm.optimize import Iteration, Options

PRINTED_ATOL, PRINTED_RTOL = 0.02, 2e-4  # lme4 stops its search a little earlier than we do
LAST_DIGIT = 1e-7  # eight decimals are printed, of a deviance computed again at the end
SLEEPSTUDY = """\
Linear mixed model fit by REML
Formula: Reaction ~ Days + (Days | Subject)

REML criterion: 1743.6283    AIC 1755.6, BIC 1774.8, 6 parameters

Scaled residuals:  Min -3.954  1Q -0.4634  Median 0.02312  3Q 0.4634  Max 5.179

Random effects:
  Group     Effect     Variance  Std.Dev.  Corr
  Subject   Intercept   612.10    24.7405
            Days         35.07     5.9221   0.07
  Residual              654.94    25.5918
Observations: 180; groups: Subject, 18

Fixed effects (Satterthwaite's degrees of freedom):
             Estimate  Std. Error    df  t value   p value
  Intercept   251.405      6.8246  17.0   36.838    <2e-16
  Days         10.467      1.5458  17.0    6.771  3.26e-06
"""  # numbers: lme4 1.1 (Bates et al. 2015, section 5.2), which prints 612.10, 35.07, 654.94; 0.07; 251.405, 10.467;
# degrees of freedom and p values: lmerTest 3.1-3 (tests/golden, sleep_us_REML)


def summary(formula, data, **options):
    return slm.lmm(formula, load_dataset(data) if isinstance(data, str) else data, **options).summary()


def numbers(text):
    return [float(x) for x in re.findall(r"(?<![\w.])-?\d+\.?\d*(?:e-?\d+)?", text)]


def part(text, start, end):
    """The lines between two lines that begin so."""
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith(start))
    return lines[first + 1 : next(i for i, line in enumerate(lines) if i > first and line.startswith(end))]


def test_the_layout_is_that_of_lme4():
    text = summary("Reaction ~ Days + (Days | Subject)", "sleepstudy")
    head, tail = text.split("\n\nConverged in ")
    for got, expected in zip(head.splitlines(), SLEEPSTUDY.splitlines(), strict=True):
        assert got.split()[:1] == expected.split()[:1]
        assert numbers(got) == pytest.approx(numbers(expected), abs=PRINTED_ATOL, rel=PRINTED_RTOL)
    assert re.match(r"\d iterations, scaled gradient \d\.\de-\d\d; engine absorb, \d+ factorisations\n", tail)
    assert tail.splitlines()[-1].startswith("Seconds: formula 0.")


def test_maximum_likelihood_says_so():
    text = summary("Yield ~ 1 + (1 | Batch)", "Dyestuff", reml=False)
    assert text.startswith("Linear mixed model fit by maximum likelihood\n")
    assert "-2 log-likelihood: 327.3271    AIC 333.3, BIC 337.5, 3 parameters" in text  # lme4's Dyestuff, ML


@pytest.mark.parametrize(
    ("formula", "data"),
    [
        ("Reaction ~ Days + (Days | Subject)", "sleepstudy"),
        ("strength ~ 1 + (1 | batch/cask)", "Pastes"),
        ("diameter ~ 1 + (1 | plate) + (1 | sample)", "Penicillin"),
        ("score ~ Machine + (Machine || Worker)", "Machines"),
        ("score ~ Machine + hcs(0 + Machine | Worker)", "Machines"),
        ("Yield ~ 1 + (1 | Batch)", "Dyestuff2"),
        ("Reaction ~ I(Days * 1e-6) + I(Days**2 * 1e6) + (Days | Subject)", "sleepstudy"),
    ],
)
def test_numbers_of_a_column_end_together(formula, data):
    text = summary(formula, data)
    ends = {"Variance": ("Random effects", "Observations"), "Estimate": ("Fixed effects", "Converged")}
    for first, (start, end) in ends.items():
        table = [line for line in part(text, start, end) if line]
        right = table[0].index(first) + len(first)
        assert all(line[right - 1] not in " " and line[right : right + 1] in ("", " ") for line in table)
        assert all(line == line.rstrip() for line in table)


def test_long_names_widen_the_table():
    long = "a_very_long_name_of_a_grouping_factor_indeed"
    table = load_dataset("sleepstudy").rename(columns={"Subject": long, "Days": "days_of_deprivation_of_sleep"})
    text = summary(f"Reaction ~ (days_of_deprivation_of_sleep | {long})", table)
    lines = part(text, "Random effects", "Observations")
    assert lines[1].startswith(f"  {long}  Intercept  ") and lines[2].split()[0] == "days_of_deprivation_of_sleep"
    right = lines[0].index("Variance") + len("Variance")
    assert all(line[right - 1] != " " and line[right] == " " for line in lines)


def test_correlations_stand_below_each_other():
    lines = part(summary("score ~ Machine + (0 + Machine | Worker)", "Machines"), "Random effects", "Observations")
    corr = lines[0].index("Corr")
    first, second = lines[2][corr:].split(), lines[3][corr:].split()
    assert first == ["0.80"] and second == ["0.62", "0.77"]  # lme4's machines_us3 (tests/golden)
    assert lines[2].index("0.80") == lines[3].index("0.62")


def test_terms_on_one_factor_keep_their_rows():
    lines = part(summary("score ~ Machine + (Machine || Worker)", "Machines"), "Random effects", "Observations")
    assert [line.split()[:2] for line in lines[1:4]] == [
        ["Worker", "Intercept"],
        ["Worker", "Machine[A]"],
        ["Machine[B]", lines[3].split()[1]],
    ]
    corr = lines[0].index("Corr")
    assert [len(line[corr:].split()) for line in lines[1:]] == [0, 0, 1, 2, 0]


def test_a_correlation_with_nothing_is_a_dash():
    fixed = {"sd_Days|Subject": 0.0}
    text = summary("Reaction ~ Days + (Days | Subject)", "sleepstudy", fixed=fixed)
    assert "nan" not in text.lower() and part(text, "Random effects", "Obs")[2].endswith("  -")


def test_rows_columns_weights_and_singularity_are_reported():
    table = load_dataset("sleepstudy").assign(twice=lambda t: 2 * t.Days, w=lambda t: 1 + t.Days / 9)
    table.loc[[3, 7], "Reaction"] = np.nan
    text = summary("Reaction ~ Days + twice + (1 | Subject)", table, weights="w")
    assert "\nRows with missing values dropped: 2\n" in text and "Observations: 178; " in text
    assert "\nFixed effects dropped as linearly dependent: twice\n" in text
    assert "\nWeights: 1 to 2\n" in text
    assert re.search(r"^  twice +dropped$", text, re.MULTILINE) and "nan" not in text.lower()
    clean = summary("Reaction ~ Days + (1 | Subject)", "sleepstudy")
    assert not any(word in clean for word in ("dropped", "Weights", "Singular", "Held", "COBYQA", "NOT"))


def test_models_without_one_kind_of_effect():
    assert "Fixed effects:\n  none\n" in summary("Reaction ~ 0 + (Days | Subject)", "sleepstudy")
    text = summary("Reaction ~ 1", "sleepstudy")
    assert part(text, "Random effects", "Observations")[0].split() == ["Group", "Variance", "Std.Dev."]
    assert "\nObservations: 180\n" in text and "Nothing to optimise" in text


def test_a_formula_on_several_lines_is_printed_on_one():
    text = summary("Reaction ~ Days\n   + (1 | Subject)", "sleepstudy")
    assert "\nFormula: Reaction ~ Days + (1 | Subject)\n" in text


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([612.0908, 35.0717, 654.9410], ["612.091", "35.072", "654.941"]),
        ([0.105998, 0.00691193, 1.3865], ["0.1059980", "0.0069119", "1.3865000"]),
        ([0.0, 13.8063], ["0.000", "13.806"]),
        ([12345.678, 23456.7], ["12346", "23457"]),
        ([7.43409e6, 255.449, 3.37022e-7], ["7.43409e+06", "255.449", "3.37022e-07"]),
        ([1e-9, 2e-9], ["1e-09", "2e-09"]),
        ([-1.5, np.nan], ["-1.5000", "nan"]),
        ([0.0], ["0"]),
        ([], []),
    ],
)
def test_decimals(values, expected):
    assert report.decimals(values) == expected


@pytest.mark.parametrize(("n", "expected"), [(0, "0 terms"), (1, "1 term"), (2, "2 terms"), (73421, "73,421 terms")])
def test_count(n, expected):
    assert report.count(n, "term") == expected


def describe(formula, data, **options):
    return slm.LinearMixedModel(formula, load_dataset(data), **options).describe()


def test_describe_before_a_fit():
    lines = describe("y ~ service + (1 | s) + (1 | d) + (1 | dept)", "InstEval").splitlines()
    assert lines[:5] == [
        "Formula: y ~ service + (1 | s) + (1 | d) + (1 | dept)",
        "73,421 observations, 2 fixed effects, 4,114 random effects in 3 terms, 3 variance parameters beside sigma",
        "  (1 | s): 2,972 levels, 1 effect a level",
        "  (1 | d): 1,128 levels, 1 effect a level",
        "  (1 | dept): 14 levels, 1 effect a level",
    ]
    assert re.fullmatch(r"M: 4,114 x 4,114, [\d,]+ nonzeros in its lower triangle", lines[5])
    left = r"1,142 columns with [\d,]+ nonzeros left for supernodal: \w+ ordering, [\d,]+ nonzeros in L.*"
    assert re.fullmatch(rf"Engine: absorb \(2,972 levels of 1 absorbed, {left}\)", lines[6])
    assert re.fullmatch(r"Memory forecast beside the data: [\d.]+ MB", lines[7])


def test_describe_of_absorption():
    text = describe("Reaction ~ Days + (Days | Subject)", "sleepstudy")
    assert "\nEngine: absorb (18 levels of 2 absorbed, nothing is left)\n" in text


def test_describe_counts_the_nonzeros_that_there_are():
    """Pastes: a batch meets 3 of 30 casks, so M has 10 + 30 diagonal and 30 other entries below it."""
    text = describe("strength ~ 1 + (1 | batch/cask)", "Pastes")
    assert "M: 40 x 40, 70 nonzeros in its lower triangle" in text


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("(Machine | Worker)", "(1 + Machine | Worker)"),
        ("us(0+Machine | Worker)", "us(0 + Machine | Worker)"),
        ("cs(0 + Machine|Worker)", "cs(0 + Machine | Worker)"),
        ("hcs(0 + Machine | Worker)", "hcs(0 + Machine | Worker)"),
        ("diag(1 + Machine | Worker)", "diag(1 + Machine | Worker)"),
        ("(1 | Worker:Machine)", "(1 | Worker:Machine)"),
    ],
)
def test_describe_shows_terms_as_they_were_written(written, shown):
    assert f"\n  {shown}: " in describe(f"score ~ Machine + {written}", "Machines")


def test_describe_of_uncorrelated_effects_and_of_the_dense_engine():
    text = describe("Reaction ~ Days + (Days || Subject)", "sleepstudy", engine="dense")
    assert "\n  (1 + Days || Subject): 18 levels, 2 effects a level\n" in text
    assert "\nEngine: dense (V is 180 x 180)\n" in text and " in 1 term, 2 variance parameters " in text


def test_describe_names_what_is_not_in_the_model():
    table = load_dataset("sleepstudy").assign(twice=lambda t: 2 * t.Days)
    table.loc[0, "Days"] = np.nan
    text = slm.LinearMixedModel("Reaction ~ Days + twice + (1 | Subject)", table).describe()
    assert "179 observations, 2 fixed effects" in text
    assert "Rows with missing values dropped: 1\n" in text and "dropped as linearly dependent: twice\n" in text


def test_verbose_prints_a_line_for_every_iteration(capsys):
    fit = slm.lmm("Reaction ~ Days + (Days | Subject)", load_dataset("sleepstudy"), verbose=1)
    lines = capsys.readouterr().out.splitlines()
    found = [re.fullmatch(r"iteration +(\d+)  deviance ([\d.]+)  scaled gradient (\S+)  step \S+", x) for x in lines]
    assert [int(m[1]) for m in found] == list(range(len(lines))) and len(lines) == len(fit.estimate.optimum.log)
    assert float(found[-1][2]) == pytest.approx(fit.deviance, abs=LAST_DIGIT)
    assert float(found[-1][3]) <= Options().tolerance
    deviances = [float(m[2]) for m in found]
    assert deviances == sorted(deviances, reverse=True)


def test_nothing_is_printed_otherwise(capsys, monkeypatch):
    monkeypatch.setattr(report, "PATIENCE", 0.0)
    model = slm.LinearMixedModel("Reaction ~ Days + (Days | Subject)", load_dataset("sleepstudy"))
    model.fit().ranef(se=True)
    model.describe()
    assert capsys.readouterr() == ("", "")


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


def terminal(monkeypatch):
    """stderr as a terminal; a fixture would be too early, pytest sets the streams again before the test."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return stream


def wait_for(found, seconds=5.0):
    end = time.monotonic() + seconds
    while not found() and time.monotonic() < end:
        time.sleep(0.01)
    return found()


def test_a_long_fit_shows_a_line_on_a_terminal_and_takes_it_away(monkeypatch):
    stream = terminal(monkeypatch)
    monkeypatch.setattr(report, "PATIENCE", 0.01)
    with report.progress() as tell:
        assert wait_for(lambda: "fitting" in stream.getvalue())
        tell(Iteration(3, 1743.62827, 0.5, 0.1))
        assert wait_for(lambda: "iteration 3: deviance 1743.6283, scaled gradient 5.0e-01" in stream.getvalue())
    assert stream.getvalue().endswith("\x1b[?25h\r\x1b[1A\x1b[2K")  # the cursor is back, the line is cleared


def test_a_short_fit_shows_nothing_on_a_terminal(monkeypatch):
    stream = terminal(monkeypatch)
    slm.lmm("Yield ~ 1 + (1 | Batch)", load_dataset("Dyestuff"))
    assert stream.getvalue() == ""


def test_progress_ends_when_a_fit_fails(monkeypatch):
    stream = terminal(monkeypatch)
    monkeypatch.setattr(report, "PATIENCE", 0.01)
    with pytest.raises(slm.ModelError), report.progress():
        assert wait_for(lambda: "fitting" in stream.getvalue())
        raise slm.ModelError("on purpose")
    length = len(stream.getvalue())
    time.sleep(0.2)
    assert len(stream.getvalue()) == length


def test_the_table_of_groups_counts_each_factor_once():
    table = pd.DataFrame({"g": np.repeat(np.arange(10), 6), "x": np.tile(np.arange(6.0), 10)})
    table["y"] = np.sin(np.arange(60.0)) + 0.1 * table.g * table.x
    assert "Observations: 60; groups: g, 10\n" in summary("y ~ x + (1 | g) + (0 + x | g)", table)
