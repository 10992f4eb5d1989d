"""A folder in a model directory for files that are not all written yet."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

_PREFIX = ".export-"


@contextmanager
def staging_folder(directory: Path) -> Iterator[Path]:
    """A temporary folder in a model directory. It is locked; unlocked ones, of runs that were killed, are removed."""
    with ExitStack() as stack:
        with _locked(directory, wait=True):  # until the new folder has its lock, so that no other run removes it
            for left in directory.glob(f"{_PREFIX}*"):
                with suppress(FileNotFoundError), _locked(left) as is_left:
                    if is_left:
                        shutil.rmtree(left, ignore_errors=True)
            folder = Path(stack.enter_context(TemporaryDirectory(dir=directory, prefix=_PREFIX)))
            stack.enter_context(_locked(folder))
        yield folder


@contextmanager
def _locked(folder: Path, *, wait: bool = False) -> Iterator[bool]:
    """Lock a folder; False where another process has the lock, or where the file system has no locks of folders."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        locked = False
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            locked = True
        yield locked
    finally:
        os.close(descriptor)
