"""Several runs of an engine at once: all CPUs for an image that is alone, one share of them per run under load.

Threads of one run wait for each other at every layer; runs of a thread each do not. So a queue is served faster by
several runs, and an image alone by one run of all threads. The runner is chosen at the start of each run. The images of
a batch are shared out over the streams.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Condition
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.engines.base import Engine, EngineError, Rows

RunnerT = TypeVar("RunnerT")


def concurrent_runs(engine: Engine) -> int:
    """Calls of ``infer`` that an engine takes at once, from a thread each: its ``num_streams``, or 1."""
    return int(getattr(engine, "num_streams", 1))


def threads_per_stream(num_threads: int, num_streams: int) -> int:
    """CPU threads of each run when ``num_streams`` runs share ``num_threads``.

    Raises:
        EngineError: There are more runs than threads, or none.
    """
    if not 1 <= num_streams <= num_threads:
        raise EngineError(f"{num_streams} streams do not fit {num_threads} CPU threads, expected 1 to {num_threads}")
    return num_threads // num_streams


class Streams(Generic[RunnerT]):
    """Hands a runner to each run; at most as many at once as there are streams, further ones wait."""

    def __init__(self, alone: RunnerT, streams: Sequence[RunnerT]) -> None:
        """Prepare.

        Args:
            alone: Uses all threads.
            streams: Each uses its share; empty for an engine that only ``alone`` runs.
        """
        self._alone = alone
        self._free = list(streams)
        self._most = max(1, len(streams))
        self._threads = ThreadPoolExecutor(self._most, thread_name_prefix="stream") if len(streams) > 1 else None
        self._running = 0
        self._changed = Condition()

    def infer(self, images: NDArray[np.uint8], run: Callable[[RunnerT, NDArray[np.uint8]], Rows]) -> Rows:
        """Rows of a batch (B, h, w, 3), B >= 1; several images are shared out over streams that run at once.

        Raises:
            Exception: Whatever ``run`` raises.
        """
        parts = np.array_split(images, min(len(images), self._most))
        if self._threads is None or len(parts) == 1:
            with self.runner() as runner:
                return run(runner, images)
        rows: Rows = np.concatenate(list(self._threads.map(lambda part: self._infer_beside(part, run), parts)))
        return rows

    def _infer_beside(self, images: NDArray[np.uint8], run: Callable[[RunnerT, NDArray[np.uint8]], Rows]) -> Rows:
        with self.runner(beside_others=True) as runner:
            return run(runner, images)

    @contextmanager
    def runner(self, *, beside_others: bool = False) -> Iterator[RunnerT]:
        """A runner until the end of the block: ``alone`` if nothing else runs, else one of the streams.

        Args:
            beside_others: Whether other runs begin at the same time, so that it is one of the streams in any case.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._running < self._most)
            # At most ``_most - 1`` others run, so that a stream is free for a run beside them.
            stream = self._free.pop() if self._running or beside_others else None
            self._running += 1
        try:
            yield self._alone if stream is None else stream
        finally:
            with self._changed:
                self._running -= 1
                if stream is not None:
                    self._free.append(stream)
                self._changed.notify()
