"""Memory that can be had: of the machine, and of the control groups that a container or a batch system sets."""

import os
from collections.abc import Iterator
from pathlib import Path

# Version 2 of control groups, then 1: where the hierarchy is mounted, the limit, what is used, and the line of
# memory.stat with the cache that gives way to a program.
VERSIONS = {
    "": ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    "memory": ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def available_memory(root: Path = Path("/")) -> float:
    """Bytes that can be had without swapping or being killed; infinity where the system does not tell."""
    return min([_of_the_machine(root), *_of_control_groups(root)])


def _of_the_machine(root: Path) -> float:
    free = _entry(root / "proc/meminfo", "MemAvailable:")
    if free is not None:
        return 1024.0 * free
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return float("inf")
    return float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")


def _of_control_groups(root: Path) -> Iterator[float]:
    """What is left in each group that this process is in, and in those around it."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for name in controllers.split(","):
            if name in VERSIONS:
                yield from _left(root, path, *VERSIONS[name])


def _left(root: Path, path: str, mount: str, limit: str, usage: str, cache: str) -> Iterator[float]:
    """Limit less use of the group `path` and its parents, up to the mount, which in a container is the group itself."""
    top = root / mount
    group = top / path.lstrip("/")
    for folder in [group, *group.parents]:
        most, used = _number(folder / limit), _number(folder / usage)
        if most is not None and used is not None:
            yield max(0.0, most - used + (_entry(folder / "memory.stat", cache) or 0.0))
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
