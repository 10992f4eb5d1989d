"""One process of the service in simulated time: admission, event loop, codec threads, batcher, deadline."""

from __future__ import annotations

from collections.abc import Callable, Generator
from enum import Enum
from random import Random

from simpy import Environment, Event, Resource

from benchmarks.scale.batcher import Batcher, BatchLog, Work
from benchmarks.scale.service_model import ServiceModel


class End(Enum):
    """Ends of a visit."""

    ANSWERED = "answered"
    EXPIRED = "expired"
    LOST = "lost"


class Visit:
    """A request inside a replica.

    Attributes:
        ended: Happens with an ``End`` as its value.
        work: Its place in the line for the engine, once it has one.
    """

    def __init__(self, env: Environment) -> None:
        self.ended: Event = env.event()
        self.work: Work | None = None

    @property
    def is_over(self) -> bool:
        """True once the visit has ended; no further stage begins then."""
        return self.ended.triggered


class Replica:
    """Serves visits as ``service.inference.pipeline`` does.

    Attributes:
        is_up: Whether it accepts connections.
    """

    def __init__(self, env: Environment, model: ServiceModel, random: Random, slowdown: float = 1.0) -> None:
        """Open an idle replica.

        Args:
            env: The simulated world.
            model: Times and settings.
            random: Draws the times.
            slowdown: Factor on all its times.
        """
        self.is_up = True
        self._env = env
        self._costs = model.costs
        self._limits = model.limits
        self._random = random
        self._slowdown = slowdown
        self._codec = Resource(env, model.limits.codec_threads)
        self._inside: set[Visit] = set()
        self._coming = 0
        self._loop = Resource(env, 1)
        self._batcher = Batcher(
            env,
            model.limits,
            self._engine_seconds,
            lambda size: size * self._draw(self._costs.handoff_s),
            lambda: self._coming > 0,
        )

    @property
    def log(self) -> BatchLog:
        """Record of its engine."""
        return self._batcher.log

    def enter(self, deadline: float) -> Visit | None:
        """Let a request in until ``deadline``; None if it is refused: the replica is full or down."""
        if not self.is_up or len(self._inside) >= self._limits.max_requests_in_flight:
            return None
        visit = Visit(self._env)
        self._inside.add(visit)
        self._coming += 1
        self._env.process(self._serve(visit))
        expiry = self._env.timeout(deadline - self._env.now)
        expiry.callbacks.append(lambda _: self._leave(visit, End.EXPIRED))
        return visit

    def kill(self) -> None:
        """Lose everything inside, and refuse connections until ``is_up`` is set again."""
        self.is_up = False
        for visit in list(self._inside):
            self._leave(visit, End.LOST)

    def _serve(self, visit: Visit) -> Generator[Event, None, None]:
        overhead_s = self._draw(self._costs.overhead_s)
        yield from self._use(self._loop, visit, lambda: overhead_s / 2)
        yield from self._use(self._codec, visit, self._before_engine_s)
        if visit.is_over:
            return
        self._coming -= 1
        visit.work = self._batcher.submit()
        yield visit.work.row
        yield from self._use(self._codec, visit, lambda: self._draw(self._costs.after_s))
        yield from self._use(self._loop, visit, lambda: overhead_s / 2)
        self._leave(visit, End.ANSWERED)

    def _use(self, threads: Resource, visit: Visit, seconds: Callable[[], float]) -> Generator[Event, None, None]:
        """Wait for a thread and use it; a thread that has begun is not interrupted.

        Args:
            threads: The threads.
            visit: Who waits.
            seconds: Gives for how long it is used; called when it is free.
        """
        with threads.request() as thread:
            yield thread
            if not visit.is_over:
                yield self._env.timeout(seconds())

    def _before_engine_s(self) -> float:
        """Seconds of a decode that begins now; the batch that runs meanwhile takes longer for it."""
        busy = self._batcher.is_busy
        self._batcher.delay(self._slowdown * self._costs.contention_s)
        return self._draw(self._costs.before_engine_s(busy=busy))

    def _leave(self, visit: Visit, end: End) -> None:
        if visit.is_over:
            return
        visit.ended.succeed(end)
        self._inside.remove(visit)
        if visit.work is None:
            self._coming -= 1
        else:
            self._batcher.withdraw(visit.work)
        self._batcher.wake()

    def _engine_seconds(self, size: int) -> float:
        return self._slowdown * self._costs.draw_engine_s(size, self._random)

    def _draw(self, samples: tuple[float, ...]) -> float:
        return self._slowdown * self._random.choice(samples)
