"""Files that are whole or not there. Standard library only."""

from __future__ import annotations

import secrets
from pathlib import Path

PART_SUFFIX = ".part"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file in one step: readers see the old file until the new one is whole, and a failure leaves the old one.

    Folders are made.

    Raises:
        OSError: It cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}{PART_SUFFIX}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
