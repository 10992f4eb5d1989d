"""Record locks between processes, which the kernel takes from a process that is killed."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def record_lock(descriptor: int, length: int = 0, start: int = 0) -> Iterator[None]:
    """Keep other processes out of a part of a file during the block; threads of this one are not kept out.

    Args:
        descriptor: The file.
        length: Bytes of the part; all that follow if 0.
        start: First byte of the part.

    Raises:
        OSError: It cannot be locked.
    """
    _lock(descriptor, length, start)
    try:
        yield
    finally:
        fcntl.lockf(descriptor, fcntl.LOCK_UN, length, start)


def _lock(descriptor: int, length: int, start: int) -> None:
    """Wait for the lock.

    The kernel refuses it where processes seem to wait for each other in a circle. It does not know threads: two
    processes of which each holds the lock of one file in one thread, and waits for that of another file in a second
    one, make such a circle. No thread here holds two locks, so the circle opens by itself.
    """
    while True:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX, length, start)
        except OSError as error:
            if error.errno != errno.EDEADLK:
                raise
            os.sched_yield()
        else:
            return
