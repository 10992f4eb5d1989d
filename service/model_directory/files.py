"""Files written in one step, and bounded reading of untrusted files. Standard library only."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PART_SUFFIX = ".part"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file in one step: readers see the old file until the new one is whole, and a failure leaves the old one.

    Folders are made.

    Raises:
        OSError: It cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the name of the file, which may be as long as the file system allows.
    temporary = path.with_name(f".{secrets.token_hex(8)}{PART_SUFFIX}")
    try:
        with named_in_errors(path):
            temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def named_in_errors(path: Path) -> Iterator[None]:
    """Name a file in the error of a write that names none, as on a full disk."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """The content of a regular file; a pipe or a device is not opened for reading, which could wait forever.

    Raises:
        OSError: It cannot be read, is not a regular file, or has more bytes.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as stream:  # noqa: PTH123 - of a descriptor
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("it is not a regular file")
        # Of a file that is too large nothing is read; one that grows, or states no size, is read up to the limit.
        content = b"" if status.st_size > max_bytes else stream.read(max_bytes + 1)
    if max(status.st_size, len(content)) > max_bytes:
        raise OSError(f"it has {max(status.st_size, len(content))} bytes, at most {max_bytes} are accepted")
    return content
