"""Record locks between processes, which the kernel takes from a process that is killed."""

from __future__ import annotations

import errno
import fcntl
import os


def lock_record(descriptor: int, length: int = 0, start: int = 0) -> None:
    """Wait for a part of a file that no other process has locked; threads of this one are not kept out.

    The kernel refuses a lock where processes seem to wait for each other in a circle. It does not know threads: two
    processes of which each holds the lock of one file in one thread, and waits for that of another file in a second
    one, make such a circle. No thread here holds two locks, so the circle opens by itself.

    Args:
        descriptor: The file.
        length: Bytes of the part; all that follow if 0.
        start: First byte of the part.

    Raises:
        OSError: It cannot be locked.
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
