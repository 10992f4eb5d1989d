"""SIGTERM during a run: a request to stop at the next place where nothing is lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StoppedError(RuntimeError):
    """A run that was asked to stop; its last checkpoint holds the last step that it did."""


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """An event that SIGTERM sets, in place of ending the process between two steps."""
    stop = threading.Event()

    def request(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGTERM, request)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)
