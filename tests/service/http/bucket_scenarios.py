"""Processes that take tokens from shared buckets; each function runs in an interpreter of its own."""

from __future__ import annotations

import os
import signal
import threading
from functools import partial

from service.http.shared_buckets import SharedTokenBuckets
from tests.support.forked import fork, wait_all

RATE_PER_S, BURST = 4.0, 1000


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def taken_by_four(rounds: int) -> list[int]:
    """Tokens that four processes of two threads get in each round; half a second lies between two rounds."""
    clock, taken = Clock(), []
    buckets = SharedTokenBuckets(RATE_PER_S, BURST, clock=clock)
    for _ in range(rounds):
        reading, writing = os.pipe()
        pids = [fork(partial(_take, buckets, writing)) for _ in range(4)]
        os.close(writing)
        assert wait_all(*pids) == [0] * 4
        with os.fdopen(reading) as pipe:
            taken.append(sum(map(int, pipe)))
        clock.now += 0.5
    return taken


def _take(buckets: SharedTokenBuckets, writing: int) -> None:
    def run() -> None:
        tokens = sum(buckets.take("ci") == 0 for _ in range(BURST // 2))
        os.write(writing, f"{tokens}\n".encode())

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def take_after_the_holder_is_killed() -> list[float]:
    """Take twice from a bucket of two tokens, after a process was killed inside of its own ``take``."""
    reading, writing = os.pipe()
    stop_inside = False

    def clock() -> float:
        if stop_inside:
            os.write(writing, b".")
            signal.pause()
        return 1000.0

    buckets = SharedTokenBuckets(1.0, 2, clock=clock)

    def holder() -> None:
        nonlocal stop_inside
        stop_inside = True
        buckets.take("ci")

    def waiter() -> None:
        buckets.take("ci")
        os.write(writing, b"w")

    holding = fork(holder)
    assert os.read(reading, 1) == b"."
    waiting = fork(waiter)
    os.kill(holding, signal.SIGKILL)
    assert wait_all(holding, waiting) == [-signal.SIGKILL, 0]
    return [buckets.take("ci"), buckets.take("ci")]
