"""Record locks between processes, which the kernel takes from a process that is killed."""

from __future__ import annotations

import errno
import fcntl
import os


class RecordLock:
    """Keeps other processes out of a part of a file during a block; threads of this one are not kept out.

    A block raises ``OSError`` if the part cannot be locked.
    """

    __slots__ = ("_descriptor", "_part")

    def __init__(self, descriptor: int, length: int = 0, start: int = 0) -> None:
        """Lock nothing yet.

        Args:
            descriptor: The file.
            length: Bytes of the part; all that follow if 0.
            start: First byte of the part.
        """
        self._descriptor = descriptor
        self._part = (length, start)

    def __enter__(self) -> None:
        _lock(self._descriptor, *self._part)

    def __exit__(self, *_: object) -> None:
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN, *self._part)


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
