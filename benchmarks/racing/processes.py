"""A command under a limit of time and memory, with the peak of its memory."""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POLL = 0.02
BESIDE = "Execution halted", "note: "  # lines behind the reason of a failure


@dataclass(frozen=True, slots=True)
class Outcome:
    """answer: the JSON of the last line, None if it failed; why then says so. peak: bytes (0: unknown)."""

    answer: dict[str, Any] | None
    peak: int
    why: str = ""


def run(command: Sequence[str], env: Mapping[str, str], seconds: float, memory: float) -> Outcome:
    """Run a command; beyond `seconds` or `memory` bytes it is killed.

    The peak is what the kernel counted for this child (ru_maxrss). That begins with the parent's memory: where it says
    no more, the high-water mark of the child's own memory, as last seen, is the answer.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, env=dict(env))
        inherited = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        status, usage, killed, seen = _wait(process.pid, seconds, memory)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        text, errors = out.read().decode(errors="replace"), err.read().decode(errors="replace")
    counted = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    peak = counted if usage.ru_maxrss > inherited or not seen else seen
    if killed or process.returncode:
        return Outcome(None, peak, killed or _last_line(errors) or f"exit {process.returncode}")
    return Outcome(json.loads(text.splitlines()[-1]), peak)


def _wait(pid: int, seconds: float, memory: float) -> tuple[int, Any, str, int]:
    """Exit status, resources, why it was killed ("" if it was not) and the last high-water mark."""
    end, killed, seen = time.monotonic() + seconds, "", 0
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            return status, usage, killed, seen
        seen = _high_water(pid) or seen
        late, large = time.monotonic() > end, _resident(pid) > memory
        if not killed and (late or large):
            killed = f"over {seconds:g} s" if late else f"over {memory / 1e9:.3g} GB"
            os.kill(pid, 9)
        time.sleep(POLL)


def _resident(pid: int) -> int:
    """Bytes in memory now; 0 where /proc does not say."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _high_water(pid: int) -> int:
    """Largest bytes in memory so far; 0 where /proc does not say."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return 1024 * next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)
    except OSError:
        return 0


def _last_line(text: str) -> str:
    """Where R and Rust have not gone on to say what they do next."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith(BESIDE)]
    return lines[-1][:160] if lines else ""
