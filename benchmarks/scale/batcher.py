"""``service.inference.batcher`` in simulated time: bounded batches, oldest first, formed when the engine is free.

The service forms the next batch of a GPU engine early if it is full. It holds the same oldest images as one that is
formed when the engine is free, so here it is formed then, but begins without the pause in which rows are passed on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

from simpy import Environment, Event

from benchmarks.scale.service_model import Limits


@dataclass(eq=False, slots=True)
class Work:
    """An image in line for the engine.

    Attributes:
        row: Happens when its batch is done.
        window_end: Until when it waits for others on an idle engine.
    """

    row: Event
    window_end: float


@dataclass(slots=True)
class BatchLog:
    """Record of the engine: the size of each batch, and the seconds of all."""

    sizes: list[int] = field(default_factory=list)
    busy_s: float = 0.0


class Batcher:
    """Gathers work into batches and runs one at a time."""

    def __init__(
        self,
        env: Environment,
        limits: Limits,
        engine_seconds: Callable[[int], float],
        handoff_seconds: Callable[[int], float],
        expects_more: Callable[[], bool],
    ) -> None:
        """Begin to run batches.

        Args:
            env: The simulated world.
            limits: Batch size and window.
            engine_seconds: How long a batch of a size takes; asked once per batch.
            handoff_seconds: How long after a batch of a size the next can begin if it was not formed ahead; asked once
                per batch.
            expects_more: True while a request is on its way to the queue; without one the window is skipped.
        """
        self.log = BatchLog()
        self._env = env
        self._limits = limits
        self._engine_seconds = engine_seconds
        self._handoff_seconds = handoff_seconds
        self._expects_more = expects_more
        self._queue: deque[Work] = deque()
        self._changed: Event | None = None
        self._runs = False
        self._delay_s = 0.0
        env.process(self._run())

    @property
    def is_busy(self) -> bool:
        """True while a batch runs or images wait for the next one."""
        return self._runs or bool(self._queue)

    def delay(self, seconds: float) -> None:
        """Let the batch that runs, if one does, take longer."""
        if self._runs:
            self._delay_s += seconds

    def submit(self) -> Work:
        """Queue an image."""
        work = Work(self._env.event(), self._env.now + self._limits.window_s)
        self._queue.append(work)
        self.wake()
        return work

    def withdraw(self, work: Work) -> None:
        """Take work that nobody wants any more out of the queue, if it is still there."""
        if work in self._queue:
            self._queue.remove(work)

    def wake(self) -> None:
        """Check again if a batch should form."""
        if self._changed is not None and not self._changed.triggered:
            self._changed.succeed()

    def _run(self) -> Generator[Event, None, None]:
        while True:
            while not self._should_form():
                yield self._change()
            size = min(len(self._queue), self._limits.max_batch_size)
            batch = [self._queue.popleft() for _ in range(size)]
            self.log.sizes.append(size)
            yield from self._engine(self._engine_seconds(size))
            for work in batch:
                work.row.succeed()
            if not (self._limits.forms_ahead and self._is_full()):
                yield self._env.timeout(self._handoff_seconds(size))

    def _engine(self, seconds: float) -> Generator[Event, None, None]:
        """Run for so long, and for the delays that occur meanwhile."""
        self._runs, self._delay_s = True, seconds
        while self._delay_s:
            seconds, self._delay_s = self._delay_s, 0.0
            self.log.busy_s += seconds
            yield self._env.timeout(seconds)
        self._runs = False

    def _is_full(self) -> bool:
        return len(self._queue) >= self._limits.max_batch_size

    def _should_form(self) -> bool:
        """Check, while the engine is idle, whether the next batch should start: waiting would add no image to it."""
        if not self._queue:
            return False
        return self._is_full() or self._queue[0].window_end <= self._env.now or not self._expects_more()

    def _change(self) -> Event:
        """Happens when there is a reason to look again, at the latest when the oldest image's window is over."""
        self._changed = self._env.event()
        if not self._queue:
            return self._changed
        return self._changed | self._env.timeout(self._queue[0].window_end - self._env.now)
