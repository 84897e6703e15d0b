"""Memory that can be had: of the machine, and of the control groups that a container or a batch system sets."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# Version 2 of control groups, then 1: where the hierarchy is mounted, the limit, what is used, and the line of
# memory.stat with the cache that gives way to a program.
VERSIONS = {
    "": ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    "memory": ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
NO_LIMIT = 2.0**62  # what version 1 says for none is 2^63 less a page


def available_memory(root: Path = Path("/")) -> float:
    """Bytes that can be had without swapping or being killed; infinity where the system does not tell."""
    return min([_of_the_machine(root), *(group.left() for group in _groups(root))])


def _of_the_machine(root: Path) -> float:
    free = _entry(root / "proc/meminfo", "MemAvailable:")
    if free is not None:
        return 1024.0 * free
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return float("inf")
    return float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class _Group:
    """A control group with a limit, in bytes; where it tells what is used, and what of that is cache."""

    limit: float
    usage: Path
    statistics: Path
    cache: str

    def left(self) -> float:
        used = _number(self.usage) or 0.0
        return max(0.0, self.limit - used + (_entry(self.statistics, self.cache) or 0.0))


@cache
def _groups(root: Path) -> tuple[_Group, ...]:
    """The groups with limits that this process is in, looked for once."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return ()
    fields = [line.split(":", 2) for line in lines]
    pairs = [(name, path) for _, controllers, path in fields for name in controllers.split(",") if name in VERSIONS]
    return tuple(group for name, path in pairs for group in _limited(root, path, *VERSIONS[name]))


def _limited(root: Path, path: str, mount: str, limit: str, usage: str, cache: str) -> Iterator[_Group]:
    """`path` and its parents up to the mount, which in a container is the group itself."""
    top = root / mount
    group = top / path.lstrip("/")
    for folder in [group, *group.parents]:
        most = _number(folder / limit)
        if most is not None and most < NO_LIMIT:
            yield _Group(most, folder / usage, folder / "memory.stat", cache)
        if folder == top:
            return


def _number(file: Path) -> float | None:
    """What a file holds; none where there is no such file, or `max`."""
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return float(text) if text.isdecimal() else None


def _entry(file: Path, name: str) -> float | None:
    """The number behind a name at the beginning of a line."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return None
    return next((float(line.split()[1]) for line in lines if line.split()[:1] == [name]), None)
