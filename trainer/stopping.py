"""SIGTERM and Ctrl-C during a run: a request to stop at the next place where nothing is lost."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StoppedError(RuntimeError):
    """A run that was asked to stop; its last checkpoint holds the last step that it did.

    Args:
        text: The last step, and how to continue.
        number: The signal that asked.
    """

    def __init__(self, text: str, number: int = signal.SIGTERM) -> None:
        super().__init__(text)
        self.exit_status = 128 + number  # as a shell states the end by a signal


class StopRequest(threading.Event):
    """An event that a signal sets."""

    number: int = signal.SIGTERM


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """An event that SIGTERM and Ctrl-C set, in place of ending the process between two steps.

    A second Ctrl-C ends the process at once.
    """
    stop = StopRequest()

    def request(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, before[signal.SIGINT])
            print("\nstopping with a checkpoint; Ctrl-C again stops at once", file=sys.stderr)  # noqa: T201
        stop.number = number
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, request) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
