"""Processes that are measured: what Linux reports of them, their environment, and that none stays behind."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.settings import ENV_PREFIX


def environment(**variables: str) -> dict[str, str]:
    """The environment of this process without the service's settings, and with these variables."""
    return {key: value for key, value in os.environ.items() if not key.startswith(ENV_PREFIX)} | variables


@contextmanager
def unwinding_on_sigterm() -> Iterator[None]:
    """Let SIGTERM unwind every ``with`` and ``finally`` of the block, as Ctrl-C does, so that no server stays behind.

    For the main thread alone; the exit status is 143, as a shell gives it.
    """
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def cpu_s(pid: int) -> float:
    """CPU seconds that all threads of a process have used.

    Raises:
        OSError: It has ended.
    """
    return _cpu_s(str(pid))


def main_thread_cpu_s(pid: int) -> float:
    """CPU seconds of the thread that a process began with; in ours it runs the event loop.

    Raises:
        OSError: The process has ended.
    """
    return _cpu_s(f"{pid}/task/{pid}")


def is_zombie(pid: int) -> bool:
    """Check whether a process has ended and its parent has not collected its status.

    Raises:
        OSError: It is gone.
    """
    return _stat(str(pid))[0] == "Z"


def pss_mib(pid: int) -> float:
    """Memory of a process; what n processes share counts as an n-th.

    Raises:
        OSError: It has ended.
    """
    return _memory_mib(pid, "Pss:")


def rss_mib(pid: int) -> float:
    """Memory of a process, with all that it shares.

    Raises:
        OSError: It has ended.
    """
    return _memory_mib(pid, "Rss:")


def _memory_mib(pid: int, field: str) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def _cpu_s(place: str) -> float:
    user, system = _stat(place)[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _stat(place: str) -> list[str]:
    """Fields of ``/proc/PLACE/stat`` behind the name, which may hold anything."""
    return Path(f"/proc/{place}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
