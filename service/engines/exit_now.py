"""The end of a process that does not wait for its threads."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from typing import NoReturn


def exit_now(status: int) -> NoReturn:
    """Flush logs and streams, and end without Python's teardown, whatever the threads do."""
    logging.shutdown()
    for stream in filter(None, (sys.stdout, sys.stderr)):  # one that was closed at the start is None
        with suppress(OSError, ValueError):  # nobody reads it, its disk is full, or it is closed
            stream.flush()
    os._exit(status)
