"""The race as text: a Markdown table with notes and bars, and what is kept of it on disk."""

import json
import os
import platform
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from .bars import OURS
from .contenders import CONTENDERS
from .course import Entry, Result
from .problems import RACE

START, END = "<!-- race -->", "<!-- /race -->"
WIDTH = 120


def markdown(kept: Mapping[str, Any]) -> str:
    """Table, circumstances, notes and bars of all that is kept."""
    results = {name: result_of(kept[name]) for name in RACE if name in kept}
    columns = [name for name in CONTENDERS if any(name in r.entries for r in results.values())]
    lines = ["| problem | rows | random effects | " + " | ".join(columns) + " |"]
    lines.append("|---|---:|---:|" + "---:|" * len(columns))
    notes: list[str] = []
    for name, result in results.items():
        cells = [cell(result, column, notes) for column in columns]
        lines.append("| " + " | ".join([RACE[name].title, f"{result.rows:,}", f"{result.effects:,}", *cells]) + " |")
    bars = [f"- {RACE[name].title}: {footer(result)}" for name, result in results.items()]
    marks = [f"[{i}] {note}" for i, note in enumerate(notes, 1)]
    parts = [
        "\n".join(lines),
        wrap(circumstances(kept, results)),
        wrap(". ".join([*marks, ""]).strip()),
        wrap_list(bars),
    ]
    return "\n\n".join(part for part in parts if part)


def cell(result: Result, name: str, notes: list[str]) -> str:
    """Time, its ratio to ours and peak memory, with a mark for what has to be said."""
    entry = result.entries.get(name)
    if entry is None:
        return "not asked"
    remark = remark_of(entry, name, result.rules["rounds"])
    mark = f" [{mark_of(notes, remark)}]" if remark else ""
    if entry.seconds is None:
        return "-" + mark
    ours = result.entries[OURS].seconds if OURS in result.entries else None
    ratio = f", {figure(entry.seconds / ours)} x" if ours and name != OURS else ""
    return f"{duration(entry.seconds)}{ratio}, {memory(entry.peak)}{mark}"


def remark_of(entry: Entry, name: str, rounds: int) -> str:
    """What a reader must know of an entry."""
    if entry.note:
        return f"{name}: {entry.note}"
    said = {"above": "did not reach the optimum", "below": "another criterion"}.get(entry.verdict)
    said = said if said is None or CONTENDERS[name].exact else "approximates the likelihood"
    remarks = [f"{said}, deviance {entry.gap:+.1e} (relative)"] if said else []
    remarks += [] if entry.converged else ["says that it did not converge"]
    remarks += ["one run only"] if len(entry.runs) == 1 < rounds else []
    return f"{name}: {', '.join(remarks)}" if remarks else ""


def mark_of(notes: list[str], remark: str) -> int:
    """Number of a note, a new one if need be."""
    if remark not in notes:
        notes.append(remark)
    return notes.index(remark) + 1


def footer(result: Result) -> str:
    """Where the bar of the problem was met or missed, and lower deviances of ours."""
    parts = [bar.verdict(result.entries) for bar in RACE[result.problem].bars]
    lower = [n for n, e in result.entries.items() if n != OURS and e.verdict == "above"]
    parts += [f"{OURS}'s deviance is lower than that of {', '.join(lower)}"] if lower else []
    others = [n for n, e in result.entries.items() if n != OURS and e.deviance is not None]
    parts += [] if others else ["no other deviance to compare with"]
    return "; ".join([f"not timed: {result.stopped}", *parts] if result.stopped else parts)


def circumstances(kept: Mapping[str, Any], results: Mapping[str, Result]) -> str:
    """What was measured, when, where and with which versions."""
    entries = [(name, entry) for result in results.values() for name, entry in result.entries.items()]
    rules = next(iter(results.values())).rules
    kind, counts = "REML" if rules["reml"] else "ML", sorted({result.rules["rounds"] for result in results.values()})
    return " ".join(
        [
            "Seconds from a table in memory to a fitted model with standard errors,",
            f"{kind}, warm, {rules['threads']} threads, best of {' to '.join(map(str, counts[:1] + counts[1:][-1:]))} "
            "interleaved processes;",
            f"how many times {OURS}'s that is; and peak memory of the process, libraries and table included.",
            "The deviances were compared first (1e-6, relative).",
            *([] if rules["scale"] == 1 else [f"Sizes times {rules['scale']:g}."]),
            f"{ends(kept[name]['date'] for name in results)}, {ends(kept[name]['machine'] for name in results)}:",
            ", ".join(sorted({f"{name} {entry.version}" for name, entry in entries if entry.version}))
            + "; made by `make race`.",
        ]
    )


def ends(values: Iterable[str]) -> str:
    """The first and the last of some texts, or the only one."""
    low, *rest = sorted(set(values))
    return f"{low} to {rest[-1]}" if rest else low


def duration(value: float) -> str:
    """Two digits and a unit."""
    return f"{figure(1000 * value)} ms" if value < 1 else f"{figure(value)} s"


def figure(value: float) -> str:
    """Two digits, without an exponent."""
    return f"{float(f'{value:.2g}'):,.10g}"


def memory(peak: int) -> str:
    """Megabytes or gigabytes of 10^6 and 10^9."""
    return f"{peak / 1e6:.0f} MB" if peak < 1e9 else f"{peak / 1e9:.1f} GB"


def wrap(text: str) -> str:
    """Lines as wide as the other documents'."""
    return textwrap.fill(text, WIDTH, break_on_hyphens=False, break_long_words=False)


def wrap_list(items: list[str]) -> str:
    """The same for a list."""
    hang = {"subsequent_indent": "  ", "break_on_hyphens": False, "break_long_words": False}
    return "\n".join(textwrap.fill(item, WIDTH, **hang) for item in items)


def machine() -> str:
    """Name of the processor, cores, Python."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores, Python {platform.python_version()}"


def record(result: Result) -> dict[str, Any]:
    """What is kept of a result."""
    return asdict(result) | {"date": str(date.today()), "machine": machine()}


def result_of(kept: Mapping[str, Any]) -> Result:
    """A result as it was."""
    entries = {name: Entry(**e | {"runs": tuple(e["runs"])}) for name, e in kept["entries"].items()}
    return Result(kept["problem"], kept["rows"], kept["effects"], entries, kept["stopped"], kept["rules"])


def read(path: Path) -> dict[str, Any]:
    """Earlier results by problem; nothing where there are none."""
    return json.loads(path.read_text()) if path.exists() else {}


def save(path: Path, kept: Mapping[str, Any]) -> None:
    """Write the results of all problems."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(kept, indent=1) + "\n")


def paste(text: str, table: str, start: str = START, end: str = END) -> str:
    """`text` with what stands between the markers replaced. Errors: ValueError without both of them."""
    if text.count(start) != 1 or text.count(end) != 1:
        raise ValueError(f"there must be one {start} and one {end}")
    before, rest = text.split(start)
    return f"{before}{start}\n{table}\n{end}{rest.split(end)[1]}"
