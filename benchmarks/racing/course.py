"""One problem: every contender fits it once, the deviances are compared, and only then the clock decides."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from . import tables
from .agreement import Verdict, judge
from .bars import OURS
from .contenders import CONTENDERS, WORKER_R, Contender
from .problems import RaceProblem
from .processes import Outcome, run

ROOT = Path(__file__).parents[2]
WARM = 0.01  # scale of the table on which a process warms up


@dataclass(frozen=True, slots=True)
class Rules:
    """scale of the problems; rounds of timing; a fit above `once` seconds is not repeated; limits of a process."""

    scale: float = 1.0
    rounds: int = 3
    once: float = 180.0
    limit: float = 900.0
    memory: float = 12e9
    threads: int = os.cpu_count() or 1
    reml: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """One contender on one problem. runs: seconds; empty where `note` says why there are none.

    verdict: how its deviance stands ("" without one), gap: relative to the reference; peak: bytes, the largest.
    """

    note: str = ""
    runs: tuple[float, ...] = ()
    deviance: float | None = None
    converged: bool = True
    peak: int = 0
    version: str = ""
    verdict: str = ""
    gap: float = 0.0

    @property
    def seconds(self) -> float | None:
        """Of the best run."""
        return min(self.runs, default=None)


@dataclass(frozen=True, slots=True)
class Result:
    """One problem: its size, its entries, and why it was not timed ("" if it was)."""

    problem: str
    rows: int
    effects: int
    entries: dict[str, Entry]
    stopped: str = ""
    rules: dict[str, Any] = field(default_factory=dict)


class Track(Protocol):
    """Where fits happen: in processes, or in a test."""

    def fit(self, contender: Contender) -> Outcome: ...


@dataclass(frozen=True, slots=True)
class Processes:
    """Each fit in a process of its own; the tables lie in `folder`."""

    problem: RaceProblem
    folder: Path
    rules: Rules

    def write(self) -> int:
        """Generate the table, and a small one to warm up with; count the rows."""
        self._worker("write", self.problem.name, str(self.folder / "warm"), str(min(WARM, self.rules.scale)))
        return int(self._worker("write", self.problem.name, str(self.folder / "race"), str(self.rules.scale))["rows"])

    def fit(self, contender: Contender) -> Outcome:
        """Measure one fit."""
        paths = [str(self.folder / "race"), str(self.folder / "warm"), "reml" if self.rules.reml else "ml"]
        if contender.fit is None:
            command = ["Rscript", str(WORKER_R), contender.package, self.problem.formula, *paths]
        else:
            command = [*_worker_command(), "fit", contender.name, self.problem.name, *paths]
        return run(command, environment(self.rules.threads), self.rules.limit, self.rules.memory)

    def _worker(self, *arguments: str) -> dict[str, Any]:
        rules = self.rules
        outcome = run([*_worker_command(), *arguments], environment(rules.threads), rules.limit, rules.memory)
        if outcome.answer is None:
            raise RuntimeError(f"{' '.join(arguments)}: {outcome.why}")
        return outcome.answer


def _worker_command() -> list[str]:
    return [sys.executable, "-m", "benchmarks.racing.worker"]


def environment(threads: int) -> dict[str, str]:
    """The same number of threads for everybody, and this checkout first on the path."""
    names = ("OMP", "OPENBLAS", "MKL", "NUMBA", "RAYON")
    many = {f"{name}_NUM_THREADS": str(threads) for name in names} | {"POLARS_MAX_THREADS": str(threads)}
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    quiet = {"RUST_BACKTRACE": "0"}  # so that the last line says what happened
    return os.environ | many | quiet | {"PYTHONPATH": path}


def race(problem: RaceProblem, contenders: Sequence[Contender], rules: Rules) -> Result:
    """Write the tables, then check and time."""
    with TemporaryDirectory() as name:
        track = Processes(problem, Path(name), rules)
        say(f"{problem.name}: generating")
        rows, levels = track.write(), tables.levels(Path(name) / "race")
        effects = sum((1 + effects.count("+")) * levels_of(group, levels) for effects, group in problem.random)
        able = entrants(problem, contenders, rules.reml)
        entries, stopped = check_and_time(track, able, rules)
        barred = {c.name: Entry(note=why) for c in contenders if (why := c.cannot(problem, rules.reml))}
    order = {c.name: (entries | barred)[c.name] for c in contenders if c.name in entries | barred}
    return Result(problem.name, rows, effects, order, stopped, asdict(rules))


def levels_of(group: str, levels: Mapping[str, int]) -> int:
    """Levels of a factor; of a:b the product, which is right where all combinations occur."""
    out = 1
    for name in group.split(":"):
        out *= levels[name]
    return out


def entrants(problem: RaceProblem, contenders: Sequence[Contender], reml: bool) -> list[Contender]:
    """Those who can fit the problem."""
    return [c for c in contenders if (not problem.only or c.name in problem.only) and not c.cannot(problem, reml)]


def check_and_time(track: Track, able: Sequence[Contender], rules: Rules) -> tuple[dict[str, Entry], str]:
    """The deviances first; then rounds in which everybody runs once, so that a busy machine is busy for all."""
    first = {c.name: _say_outcome(c.name, track.fit(c)) for c in able}
    entries, stopped = check(first)
    if stopped:
        return entries, stopped
    for turn in range(rules.rounds):
        for contender in able:
            entry = entries[contender.name]
            if entry.note or (first[contender.name].answer or {})["seconds"] > rules.once:
                continue
            outcome = _say_outcome(f"round {turn + 1}: {contender.name}", track.fit(contender))
            entries[contender.name] = _timed(entry, outcome)
    return {name: _single(entry, first[name]) for name, entry in entries.items()}, ""


def check(first: Mapping[str, Outcome]) -> tuple[dict[str, Entry], str]:
    """An entry for each first fit, with its verdict, and why the clock must stay still ("" if it may run)."""
    deviances = {name: o.answer["deviance"] for name, o in first.items() if o.answer is not None}
    approximate = {name for name in deviances if name in CONTENDERS and not CONTENDERS[name].exact}
    verdicts, stopped = judge(deviances, approximate=approximate)
    entries = {name: _entry(outcome, verdicts.get(name)) for name, outcome in first.items()}
    if OURS in entries and entries[OURS].note:
        stopped = f"{OURS} did not fit: {entries[OURS].note}"
    return entries, stopped


def _entry(outcome: Outcome, verdict: Verdict | None) -> Entry:
    answer = outcome.answer
    if answer is None or verdict is None:
        return Entry(note=outcome.why, peak=outcome.peak)
    return Entry(
        deviance=answer["deviance"], converged=answer["converged"], peak=outcome.peak, version=answer["version"],
        verdict=verdict.word, gap=verdict.gap,
    )  # fmt: skip


def _timed(entry: Entry, outcome: Outcome) -> Entry:
    values = {name: getattr(entry, name) for name in Entry.__slots__}
    if outcome.answer is None:
        return Entry(**values | {"note": f"failed in a later round: {outcome.why}", "runs": ()})
    runs = (*entry.runs, outcome.answer["seconds"])
    return Entry(**values | {"runs": runs, "peak": max(entry.peak, outcome.peak)})


def _single(entry: Entry, first: Outcome) -> Entry:
    """A fit too slow to be repeated has its first time."""
    if entry.runs or entry.note or first.answer is None:
        return entry
    return _timed(entry, first)


def _say_outcome(name: str, outcome: Outcome) -> Outcome:
    answer = outcome.answer
    if answer is None:
        say(f"  {name}: {outcome.why}")
    else:
        say(f"  {name}: {answer['seconds']:.3g} s, {outcome.peak / 1e9:.2f} GB, deviance {answer['deviance']:.4f}")
    return outcome


def say(text: str) -> None:
    """A line of progress."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
