from __future__ import annotations

import os
from pathlib import Path

import pytest

from service.engines.cpus import available_cpus, available_memory


@pytest.fixture(autouse=True)
def sixteen_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(16)))


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_without_cgroups_the_affinity_counts(tmp_path: Path) -> None:
    assert available_cpus(tmp_path) == 16


@pytest.mark.parametrize(
    ("cpu_max", "expected"),
    [("max 100000", 16), ("400000 100000", 4), ("350000 100000", 3), ("50000 100000", 1), ("6400000 100000", 16)],
)
def test_quota_of_version_2_is_rounded_down_to_at_least_one(tmp_path: Path, cpu_max: str, expected: int) -> None:
    files = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": cpu_max + "\n"}
    assert available_cpus(write(tmp_path, files)) == expected


def test_tightest_quota_of_the_ancestors_counts(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/pods/pod7/app\n",
        "sys/fs/cgroup/pods/pod7/app/cpu.max": "max 100000\n",
        "sys/fs/cgroup/pods/pod7/cpu.max": "200000 100000\n",
        "sys/fs/cgroup/pods/cpu.max": "800000 100000\n",
    }
    assert available_cpus(write(tmp_path, files)) == 2


@pytest.mark.parametrize(("quota", "expected"), [("-1", 16), ("300000", 3)])
def test_quota_of_version_1(tmp_path: Path, quota: str, expected: int) -> None:
    files = {
        "proc/self/cgroup": "4:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc\n",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": quota + "\n",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    }
    assert available_cpus(write(tmp_path, files)) == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8 << 30),
        ({"proc/self/cgroup": "0::/app\n", "sys/fs/cgroup/app/memory.max": "max\n"}, 8 << 30),
        ({"proc/self/cgroup": "0::/app\n", "sys/fs/cgroup/app/memory.max": "1073741824\n"}, 1 << 30),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/memory.max": "2147483648\n"}, 2 << 30),
        ({"proc/self/cgroup": "0::/app\n", "sys/fs/cgroup/app/memory.max": "99999999999\n"}, 8 << 30),
        (
            {
                "proc/self/cgroup": "4:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "536870912\n",
            },
            512 << 20,
        ),
    ],
    ids=["machine", "no limit", "limit", "limit of the parent", "limit above the machine", "version 1"],
)
def test_memory_is_the_machines_cut_by_the_limits(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    meminfo = {"proc/meminfo": "MemTotal:        8388608 kB\nMemFree:          100 kB\n"}
    assert available_memory(write(tmp_path, meminfo | files)) == expected
