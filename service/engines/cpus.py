"""The number of CPUs that this process may use: its affinity mask, cut by the CPU quota of its cgroups.

ONNX Runtime and ``os.cpu_count`` see the whole machine; threads beyond a container's quota are throttled together.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def available_cpus(root: Path = Path("/")) -> int:
    """Whole CPUs for this process, at least 1.

    A quota is rounded down: one thread too many is throttled, and the others wait for it at every layer.

    Args:
        root: Where ``proc`` and ``sys`` are; tests put files of their own there.
    """
    allowed = len(os.sched_getaffinity(0))
    return max(1, min([allowed, *(int(quota) for quota in _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """CPU quotas in CPUs of the process's cgroups and of all their ancestors, versions 1 and 2."""
    for controllers, group in _cgroups(root):
        for ancestor in (group, *group.parents):
            relative = str(ancestor).lstrip("/")
            if controllers == "":
                yield from _quota_v2(root / "sys/fs/cgroup" / relative)
            elif "cpu" in controllers.split(","):
                yield from _quota_v1(root / "sys/fs/cgroup/cpu" / relative)


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
