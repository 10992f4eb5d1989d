"""Locks between processes that have several threads."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import pytest

from service.workers.channel import sealed_memory
from service.workers.record_lock import RecordLock
from service.workers.shared_connections import SharedConnections
from service.workers.shared_ledger import SharedLedger
from tests.support.forked import fork, fresh, wait_all

SECONDS = 0.5


def count_in_two_threads() -> list[int]:
    """Exit statuses of two workers that each count pixels in one thread, and connections in another."""
    ledger, connections = SharedLedger.create(2), SharedConnections.create(2)

    def count(row: int) -> Callable[[], None]:
        def pixels() -> None:
            mine = ledger.of(row)
            while time.monotonic() < end:
                mine.add_within("pixels", 1, 1 << 40)
            finished.append(row)

        def run() -> None:
            mine = connections.of(row)
            thread = threading.Thread(target=pixels)
            thread.start()
            while time.monotonic() < end:
                mine.open("192.0.2.1")
            thread.join()
            assert finished == [row]

        return run

    finished: list[int] = []
    end = time.monotonic() + SECONDS
    return wait_all(*(fork(count(row)) for row in range(2)))


def test_threads_of_two_workers_are_not_taken_for_a_deadlock() -> None:
    assert fresh(count_in_two_threads) == [0, 0]


def test_what_cannot_be_locked_is_an_error() -> None:
    descriptor = sealed_memory("test", size=8)
    os.close(descriptor)
    with pytest.raises(OSError, match="Bad file descriptor"), RecordLock(descriptor):
        pass
