"""The race judges before it times, generates what it says, skips who is absent, and writes what it found."""

import importlib.util
import json
import sys

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from benchmarks import race as command
from benchmarks.racing import report, tables, worker
from benchmarks.racing.agreement import AGREE, judge
from benchmarks.racing.bars import Faster, Within
from benchmarks.racing.contenders import CONTENDERS, Contender
from benchmarks.racing.course import Entry, Result, Rules, check, check_and_time, entrants, environment, levels_of
from benchmarks.racing.problems import RACE, activity, ratings
from benchmarks.racing.processes import Outcome, run

SCALE = 0.01
LEVELS = {  # numbers of rows and levels at full size, as issue and docs/explanation/speed.md give them
    "visits": (1_000_000, {"subject": 100_000}),
    "units": (500_264, {"unit": 125_066, "cat1": 3, "cat2": 4}),
    "nested": (360_000, {"region": 200, "school": 4_000, "pupil": 120_000}),
    "crossed": (1_000_000, {"customer": 20_000, "item": 2_000}),
    "movielens1m": (1_000_000, {"user": 6_040, "movie": 3_706}),
    "five": (288_000, {"a": 12, "b": 96, "c": 20, "d": 15, "e": 10}),
    "fixed_factor": (1_000_000, {"herd": 5_000, "sire": 2_000, "classifier": 500}),
    "insteval": (73_421, {"s": 2_972, "d": 1_128, "dept": 14, "service": 2}),
    "sleepstudy": (180, {"Subject": 18}),
}
SMALL = [name for name in RACE if name != "movielens27m"]


def contender(name, **changes):
    given = {"package": name, "fit": lambda problem, table, reml: None} | changes
    return Contender(name, **given)


# generators


@pytest.mark.parametrize("name", LEVELS)
def test_full_size_has_the_rows_and_levels_of_the_table(name):
    rows, levels = LEVELS[name]
    data = RACE[name].data(1.0)
    assert {len(column) for column in data.values()} == {rows}
    assert {key: len(np.unique(data[key])) for key in levels} == levels
    assert {key: (data[key].min(), data[key].max() + 1) for key in levels} == {k: (0, m) for k, m in levels.items()}


@pytest.mark.parametrize("name", SMALL)
def test_a_seed_makes_the_same_table_again(name):
    first, second = RACE[name].data(SCALE), RACE[name].data(SCALE)
    assert list(first) == list(second)
    assert all(np.array_equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", RACE)
def test_a_table_has_the_columns_of_its_model(name):
    problem = RACE[name]
    some = next(problem.chunks(SCALE))
    groups = {part for _, group in problem.random for part in group.split(":")}
    assert groups | {problem.response} | set(problem.factors) <= set(some)
    assert some[problem.response].dtype == np.float64
    assert all(some[key].dtype.kind == "i" for key in groups)


def test_ratings_come_in_pieces_and_no_pair_comes_twice():
    n, users, movies = 30_000, 300, 400
    chunks = list(ratings(np.random.default_rng(1), n, users, movies, block=70))
    user, movie, stars = (np.concatenate([c[key] for c in chunks]) for key in ("user", "movie", "rating"))
    assert [len(np.unique(c["user"])) for c in chunks] == [70, 70, 70, 70, 20]
    assert len(np.unique(user * movies + movie)) == len(user) == n
    assert len(np.unique(user)) == users and len(np.unique(movie)) == movies
    assert set(np.unique(2 * stars)) <= set(range(1, 11))
    popularity = np.bincount(movie)
    assert popularity[:40].mean() > 5 * popularity[-40:].mean()


def test_activity_adds_up_within_its_limits():
    counts = activity(np.random.default_rng(2), 10_000, 300, 20, 90)
    assert counts.sum() == 10_000 and counts.min() >= 20 and counts.max() <= 90
    with pytest.raises(ValueError, match="cannot add up to 100"):
        activity(np.random.default_rng(2), 100, 300, 20, 90)


def test_nested_factors_lie_within_each_other():
    data = RACE["nested"].data(SCALE)
    for inner, outer in (("pupil", "school"), ("school", "region")):
        pairs = np.unique(np.column_stack([data[inner], data[outer]]), axis=0)
        assert len(pairs) == len(np.unique(data[inner]))


# tables on disk


def test_a_table_survives_the_disk(tmp_path):
    problem = RACE["units"]
    data = problem.data(SCALE)
    halves = [{k: v[:1000] for k, v in data.items()}, {k: v[1000:] for k, v in data.items()}]
    assert tables.write(tmp_path, halves, problem.factors) == len(data["y"])
    assert tables.levels(tmp_path) == {"y": 0, "cat1": 3, "cat2": 4, "x": 0, "unit": 1251}
    frame = tables.pandas(tmp_path)
    assert np.array_equal(frame["y"], data["y"]) and np.array_equal(frame["unit"], data["unit"])
    assert frame["cat1"].cat.categories.tolist() == ["0", "1", "2"]
    assert np.array_equal(frame["cat2"].cat.codes, data["cat2"])


def test_a_level_that_never_occurs_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="g: 2 codes from 0 to 2"):
        tables.write(tmp_path, [{"g": np.array([0, 2])}])


def test_levels_of_an_interaction():
    assert levels_of("dept:service", {"dept": 14, "service": 2}) == 28


# agreement


@pytest.mark.parametrize(
    ("deviances", "words", "stops"),
    [
        ({"sparselmm": 1000.0, "lme4": 1000.0005}, "agrees agrees", ""),
        ({"sparselmm": 1000.0, "lme4": 1000.01}, "agrees above", ""),
        ({"sparselmm": 1000.01, "lme4": 1000.0}, "above agrees", "sparselmm is 1.0e-05 (relative) above lme4"),
        ({"sparselmm": -999.99, "lme4": -1000.0}, "above agrees", "above lme4"),
        ({"sparselmm": 1000.0, "lme4": 1000.0, "x": 999.0}, "agrees agrees below", ""),
        ({"sparselmm": 1000.0, "x": 999.0}, "agrees below", "x below sparselmm, and no lme4"),
        ({"sparselmm": 1000.0, "lme4": 1001.0, "x": 999.0}, "agrees above below", "x below sparselmm"),
        ({"sparselmm": 1000.0, "krylov": 999.0}, "agrees below", ""),
        ({"sparselmm": 1000.0}, "agrees", ""),
        ({"lme4": 1000.0}, "agrees", "no deviance of sparselmm"),
    ],
)
def test_deviances_are_judged(deviances, words, stops):
    verdicts, stopped = judge(deviances, approximate={"krylov"})
    assert " ".join(v.word for v in verdicts.values()) == words
    assert stops in stopped and bool(stops) == bool(stopped)


def test_the_tolerance_is_that_of_the_issue():
    assert AGREE == 1e-6
    verdicts, stopped = judge({"sparselmm": 1e6 + 0.99, "lme4": 1e6})
    assert not stopped and verdicts["sparselmm"].gap == pytest.approx(0.99e-6)
    assert judge({"sparselmm": 1e6 + 1.01, "lme4": 1e6})[1]


# the course


class Track:
    """Outcomes from a list for each contender, in order; remembers who was asked."""

    def __init__(self, **outcomes):
        self.outcomes = {name: list(values) for name, values in outcomes.items()}
        self.asked = []

    def fit(self, contender):
        self.asked.append(contender.name)
        return self.outcomes[contender.name].pop(0)


def outcome(deviance=1000.0, seconds=1.0, peak=10, converged=True):
    answer = {"deviance": deviance, "seconds": seconds, "converged": converged, "version": "1"}
    return Outcome(answer, peak)


def test_rounds_are_interleaved_and_the_first_fit_does_not_count():
    track = Track(sparselmm=map(outcome, [1e3] * 4, [0.1, 3, 2, 4]), lme4=map(outcome, [1e3] * 4, [9, 8, 7, 6]))
    entries, stopped = check_and_time(track, [contender("sparselmm"), contender("lme4")], Rules())
    assert track.asked == ["sparselmm", "lme4"] * 4 and not stopped
    assert entries["sparselmm"].runs == (3, 2, 4) and entries["sparselmm"].seconds == 2
    assert entries["lme4"].seconds == 6


def test_a_worse_optimum_of_ours_is_never_timed():
    track = Track(sparselmm=[outcome(1001.0)], lme4=[outcome(1000.0)])
    entries, stopped = check_and_time(track, [contender("sparselmm"), contender("lme4")], Rules())
    assert "above lme4" in stopped and track.asked == ["sparselmm", "lme4"]
    assert all(entry.runs == () for entry in entries.values())


def test_slow_fits_run_once_and_failures_say_why():
    track = Track(
        sparselmm=[outcome()] * 3, lme4=[outcome(seconds=181.0)], statsmodels=[Outcome(None, 5, "over 900 s")]
    )
    names = ["sparselmm", "lme4", "statsmodels"]
    entries, _ = check_and_time(track, [contender(name) for name in names], Rules(rounds=2))
    assert track.asked == [*names, "sparselmm", "sparselmm"]
    assert entries["lme4"].runs == (181.0,)
    assert entries["statsmodels"].note == "over 900 s" and entries["statsmodels"].seconds is None


def test_nothing_is_timed_without_a_fit_of_ours():
    entries, stopped = check({"sparselmm": Outcome(None, 0, "over 12 GB"), "lme4": outcome()})
    assert stopped == "sparselmm did not fit: over 12 GB" and entries["lme4"].deviance == 1000.0


def test_who_cannot_fit_a_problem_stays_away():
    names = {name: [c.name for c in entrants(RACE[name], CONTENDERS.values(), False)] for name in RACE}
    assert names["movielens27m"] == ["sparselmm"]
    assert set(CONTENDERS) - set(names["crossed"]) == {"statsmodels", "mixedlm-rs"}
    assert set(CONTENDERS) - set(names["nested"]) == {"mixedlm-rs"}
    assert set(CONTENDERS) - set(names["sleepstudy"]) == {"gpboost"}
    assert set(names["units"]) == set(CONTENDERS)
    assert "gpboost" not in [c.name for c in entrants(RACE["units"], CONTENDERS.values(), True)]


# processes


def python(code):
    return [sys.executable, "-c", code]


def test_a_process_tells_its_answer_and_its_peak():
    holds = "import time; x = bytearray(60_000_000); time.sleep(0.3); print('noise'); print('{\"a\": 1}')"
    done = run(python(holds), environment(1), 20, 1e9)
    assert done.answer == {"a": 1} and 60e6 < done.peak < 500e6


def test_limits_end_a_process():
    assert run(python("import time; time.sleep(20)"), environment(1), 0.2, 1e9).why == "over 0.2 s"
    greedy = "import time; x = bytearray(300_000_000); time.sleep(20)"
    assert run(python(greedy), environment(1), 15, 100e6).why == "over 0.1 GB"
    assert run(python("raise ValueError('no such term')"), environment(1), 20, 1e9).why == "ValueError: no such term"
    panic = "import sys; sys.exit('memory allocation failed\\nnote: run with `RUST_BACKTRACE=1`')"
    assert run(python(panic), environment(1), 20, 1e9).why == "memory allocation failed"


def test_our_worker_fits_what_was_written(tmp_path):
    for name in ("warm", "race"):
        assert worker.write("sleepstudy", str(tmp_path / name), "1") == {"rows": 180}
    answer = worker.fit("sparselmm", "sleepstudy", str(tmp_path / "race"), str(tmp_path / "warm"), "ml")
    assert answer["deviance"] == pytest.approx(1751.93934, rel=1e-8)  # lme4 1.1-31, lmer(..., REML = FALSE)
    assert answer["converged"] and answer["seconds"] > 0 and answer["version"]


def test_statsmodels_fits_the_same_model(tmp_path):
    worker.write("units", str(tmp_path), "0.001")
    ours, theirs = (
        worker.fit(name, "units", str(tmp_path), str(tmp_path), "ml") for name in ("sparselmm", "statsmodels")
    )
    assert judge({"sparselmm": ours["deviance"], "lme4": theirs["deviance"]})[1] == ""


# the report


def entry(seconds, **more):
    given = {"runs": (seconds,) * 3, "deviance": 1e3, "peak": 2 * 10**8, "version": "1.0", "verdict": "agrees"}
    return Entry(**given | more)


def result(**entries):
    return Result("units", 5000, 1250, entries, rules={"rounds": 3, "threads": 2, "reml": False, "scale": 1})


def kept(**entries):
    return {"units": report.record(result(**entries)) | {"date": "2026-01-02", "machine": "abacus"}}


def test_the_table_gives_times_ratios_memory_and_notes():
    late, off = Entry(note="over 900 s"), entry(9.0, runs=(9.0,), verdict="above", gap=1e-4)
    text = report.markdown(kept(sparselmm=entry(0.25), lme4=entry(5.0), statsmodels=late, mixedlm=off))
    assert "| problem | rows | random effects | sparselmm | lme4 | statsmodels | mixedlm |" in text
    row = "| 250 ms, 200 MB | 5 s, 20 x, 200 MB | - [1] | 9 s, 36 x, 200 MB [2] |"
    assert f"| 125,066 groups of four rows | 5,000 | 1,250 {row}" in text
    flat = " ".join(text.split())
    assert "[1] statsmodels: over 900 s." in flat
    assert "[2] mixedlm: did not reach the optimum, deviance +1.0e-04 (relative), one run only." in flat
    assert "met: 20 x lme4 (bar 20 x); open: no time of mixedlm-rs (bar: not slower)" in flat
    assert "2026-01-02, abacus: lme4 1.0, mixedlm 1.0, sparselmm 1.0" in flat
    assert max(len(line) for line in text.splitlines() if not line.startswith("|")) <= 120


def test_bars():
    found = {"sparselmm": entry(1.0), "lme4": entry(19.9)}
    assert Faster("lme4", 20).verdict(found).startswith("missed: 19.9 x")
    assert Faster("lme4", 19).verdict(found).startswith("met")
    assert Within(2, 1).verdict(found) == "met: 1 s, 0.2 GB (bar 2 s, 1 GB)"
    assert Within(2, 0.1).verdict(found).startswith("missed")
    assert Within(2, 1).verdict({"sparselmm": Entry(note="over 12 GB")}) == "missed: no fit (bar 2 s, 1 GB)"


def test_results_are_kept_and_pasted(tmp_path):
    readme, results = tmp_path / "README.md", tmp_path / "results" / "race.json"
    readme.write_text(f"above\n{report.START}\nold\n{report.END}\nbelow\n")
    given = kept(sparselmm=entry(0.25))
    command.save(results, readme, given)
    assert report.read(results) == json.loads(json.dumps(given))
    assert report.result_of(report.read(results)["units"]) == result(sparselmm=entry(0.25))
    text = readme.read_text()
    assert text.startswith("above\n") and text.endswith(f"{report.END}\nbelow\n") and "old" not in text
    assert "250 ms" in text
    with pytest.raises(ValueError, match="one <!-- race -->"):
        report.paste("no markers", "x")


def test_only_results_under_the_same_rules_share_a_table(capsys):
    given = kept(sparselmm=entry(0.25))
    assert command.comparable(given, Rules(scale=1.0, threads=2)) == given
    assert command.comparable(given, Rules(scale=0.1, threads=2)) == {}
    assert capsys.readouterr().err == "units: left out, it ran with scale 1, threads 2, reml False\n"


def test_the_readme_has_its_place():
    text = command.README.read_text()
    there = text.split(report.START)[1].split(report.END)[0].strip()
    assert report.paste(text, there) == text


# the command


def test_who_is_not_installed_is_skipped_with_a_line(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gpboost" else object())
    assert [c.name for c in command.present(["gpboost", "mixedlm"])] == ["sparselmm", "mixedlm"]
    assert capsys.readouterr().err == "gpboost is not installed and skipped: pip install gpboost\n"


def test_software_of_r_is_skipped_without_r(monkeypatch, capsys):
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert [c.name for c in command.present(["lme4"])] == ["sparselmm"]
    assert "lme4 is not installed and skipped: apt install r-cran-lme4" in capsys.readouterr().err


def test_problems_are_chosen_by_name():
    assert [p.name for p in command.chosen([])] == SMALL
    assert [p.name for p in command.chosen(["movielens27m"])] == ["movielens27m"]
    with pytest.raises(typer.BadParameter, match="unknown problem soap. Known are insteval"):
        command.chosen(["soap"])


def test_a_problem_that_is_not_timed_fails_the_command(monkeypatch):
    stopped = Result("units", 4, 1, {"sparselmm": Entry(note="over 1 s")}, "sparselmm did not fit", result().rules)
    monkeypatch.setattr(command, "race", lambda *given: stopped)
    monkeypatch.setattr(command, "present", lambda names: [])
    done = CliRunner().invoke(command.app, ["--problem", "units"])
    assert done.exit_code == 1 and "not timed: sparselmm did not fit" in done.output


def test_the_table_says_how_many_rounds_each_problem_had():
    """Two problems timed in different runs: the fewest and the most rounds."""
    made = {"date": "2026-01-01", "machine": "a machine"}
    results = {
        name: Result(name, 5000, 1250, {}, rules={"rounds": rounds, "threads": 2, "reml": False, "scale": 1})
        for name, rounds in [("units", 3), ("nested", 1), ("five", 2)]
    }
    text = report.circumstances(dict.fromkeys(results, made), results)
    assert "best of 1 to 3 interleaved processes" in text
    alone = {"units": results["units"]}
    assert "best of 3 interleaved processes" in report.circumstances({"units": made}, alone)
