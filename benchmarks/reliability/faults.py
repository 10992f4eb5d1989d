"""Faults of a machine that other processes do not see: a disk that is full, and a clock that jumps."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_DISK_BYTES = 4 << 20
_OFFSET = struct.Struct("d")
_VARIABLE = "ECENET_TEST_CLOCK"
# Python runs it at the start of each process that has its folder on PYTHONPATH. A fork inherits the mapped file.
_SITE = f"""
import mmap, os, struct, time

with open(os.environ["{_VARIABLE}"], "r+b") as file:
    offset = mmap.mmap(file.fileno(), 8)
now, now_ns = time.time, time.time_ns
time.time = lambda: now() + struct.unpack("d", offset)[0]
time.time_ns = lambda: now_ns() + int(struct.unpack("d", offset)[0] * 1e9)
"""


class JumpingClock:
    """The wall clock of Python in the processes that are started meanwhile."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.move(0.0)

    def move(self, seconds: float) -> None:
        """Let it be so many seconds off, at once and in all processes."""
        with os.fdopen(os.open(self._file, os.O_WRONLY | os.O_CREAT), "wb", buffering=0) as file:
            file.write(_OFFSET.pack(seconds))


@contextmanager
def jumping_clock(folder: Path) -> Iterator[JumpingClock]:
    """Give the processes that are started in the block a clock that can be moved.

    Args:
        folder: A new one.
    """
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_SITE, encoding="utf-8")
    clock = JumpingClock(folder / "offset")
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(folder), before)))
    os.environ[_VARIABLE] = str(folder / "offset")
    try:
        yield clock
    finally:
        del os.environ[_VARIABLE]
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before


@contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """A file system of 4 MiB at a new folder; None where this process may mount none."""
    folder.mkdir()
    options = f"size={_DISK_BYTES}"
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        is_mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        is_mounted = False
    try:
        yield folder if is_mounted else None
    finally:
        if is_mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
        with suppress(OSError):
            folder.rmdir()
