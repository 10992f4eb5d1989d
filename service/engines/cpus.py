"""The CPUs and the memory that this process may use: its affinity mask and the machine's, cut by its cgroups.

ONNX Runtime and ``os.cpu_count`` see the whole machine; threads beyond a container's quota are throttled together.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def available_cpus(root: Path = Path("/")) -> int:
    """Whole CPUs for this process, at least 1.

    A quota is rounded down: one thread too many is throttled, and the others wait for it at every layer.

    Args:
        root: Folder of ``proc`` and ``sys``; tests use their own.
    """
    allowed = len(os.sched_getaffinity(0))
    return max(1, min([allowed, *(int(quota) for quota in _quotas(root))]))


def available_memory(root: Path = Path("/")) -> int:
    """Bytes of memory for this process and those in its cgroups; those of the machine if nothing limits them.

    Args:
        root: Where ``proc`` and ``sys`` are.
    """
    fields = [line.split() for line in _read(root / "proc/meminfo").splitlines()]
    machine = next((int(size) << 10 for name, size, *_ in fields if name == "MemTotal:"), sys.maxsize)
    files = {"": "memory.max", "memory": "memory.limit_in_bytes"}
    limits = [_read(group / files[kind]).strip() for kind, group in _groups(root, "memory")]
    return min([machine, *(int(limit) for limit in limits if limit.isdecimal())])


def _quotas(root: Path) -> Iterator[float]:
    """CPU quotas in CPUs of the process's cgroups and of all their ancestors, versions 1 and 2."""
    for kind, group in _groups(root, "cpu"):
        yield from _quota_v1(group) if kind else _quota_v2(group)


def _groups(root: Path, controller: str) -> Iterator[tuple[str, Path]]:
    """Folders of the process's cgroups and of all their ancestors; with the controller for version 1, "" for 2."""
    for controllers, group in _cgroups(root):
        kind = controller if controller in controllers.split(",") else ""
        if kind or controllers == "":
            for ancestor in (group, *group.parents):
                yield kind, root / "sys/fs/cgroup" / kind / str(ancestor).lstrip("/")


def _cgroups(root: Path) -> Iterator[tuple[str, PurePosixPath]]:
    """(controllers, path) of each line ``hierarchy:controllers:path`` of ``/proc/self/cgroup``."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        yield controllers, PurePosixPath(path)


def _quota_v2(group: Path) -> Iterator[float]:
    fields = _read(group / "cpu.max").split()
    if len(fields) == 2 and fields[0] != "max":
        yield int(fields[0]) / int(fields[1])


def _quota_v1(group: Path) -> Iterator[float]:
    quota, period = (_read(group / name).strip() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
    if quota and period and int(quota) > 0:
        yield int(quota) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
