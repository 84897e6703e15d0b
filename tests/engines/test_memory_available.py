"""Memory that can be had, on made-up systems: files as Linux documents them (proc(5), cgroup-v1 and cgroup-v2)."""

import pytest

from sparselmm.engines.memory import available_memory

GB = 1e9
UNLIMITED_V1 = "9223372036854771712"


def system(root, files):
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


MACHINE = {"proc/meminfo": "MemTotal: 64000000 kB\nMemAvailable:   32000000 kB\nCached: 1 kB\n"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({}, 32.768, id="no groups"),
        pytest.param(
            {
                "proc/self/cgroup": "0::/user/job\n",
                "sys/fs/cgroup/user/job/memory.max": "max\n",
                "sys/fs/cgroup/user/job/memory.current": "1000000000\n",
                "sys/fs/cgroup/user/memory.max": "8000000000\n",
                "sys/fs/cgroup/user/memory.current": "3000000000\n",
                "sys/fs/cgroup/user/memory.stat": "anon 1\ninactive_file 500000000\n",
            },
            5.5,
            id="the group around it",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "5:cpu:/job\n4:memory:/docker/0a1b\n0::/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "2000000000\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "1500000000\n",
                "sys/fs/cgroup/memory/memory.stat": "cache 9\ntotal_inactive_file 100000000\n",
            },
            0.6,
            id="a container that sees its own group as the mount",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "4:memory:/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{UNLIMITED_V1}\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "1500000000\n",
            },
            32.768,
            id="no limit",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "0::/job\n",
                "sys/fs/cgroup/job/memory.max": "1000000000\n",
                "sys/fs/cgroup/job/memory.current": "1100000000\n",
            },
            0.0,
            id="more in use than allowed",
        ),
    ],
)
def test_the_least_of_machine_and_groups(tmp_path, files, expected):
    assert available_memory(system(tmp_path, MACHINE | files)) == pytest.approx(expected * GB)


def test_this_machine_has_some():
    assert 1e6 < available_memory() < 1e15


def test_without_proc_the_memory_that_is_built_in(tmp_path):
    assert available_memory(tmp_path) > 1e8
