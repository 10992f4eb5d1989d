"""Who may come in: bounds the requests inside the service, from arrival to answer, their pixels, and their time.

One bound over all stages, taken before the body is read, keeps memory bounded and makes a refusal cheap. Every refusal
here is a 503: this process cannot take the request now, another may, and load balancers try the next one. 429 is left
to the limits of a single client, which no other process would lift.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from service.errors import (
    ClientGone,
    DeadlineExceeded,
    Draining,
    Overloaded,
    PixelsOverloaded,
    ServiceError,
    Unavailable,
)
from service.inference.stopwatch import WORK_STAGES, Stopwatch, WorkStage

_BEFORE_QUEUE: frozenset[WorkStage] = frozenset({"read", "decode"})


class AdmissionObserver(Protocol):
    """Who wants to know how requests leave; the metrics."""

    def client_left(self, stage: WorkStage) -> None:
        """A client hung up while its request was in ``stage``."""

    def request_rejected(self, error: ServiceError) -> None:
        """A request was refused for no fault of its own."""

    def request_expired(self, stage: WorkStage) -> None:
        """The time of a request was over while it was in ``stage``."""


@dataclass(frozen=True, slots=True)
class TimeLimit:
    """The time that a request has.

    Attributes:
        seconds: From its arrival to its answer.
        arrived: When that was, on the event loop's clock.
        source: Who set the limit: a setting or a header.
    """

    seconds: float
    arrived: float
    source: str = "request_timeout_s"

    @property
    def deadline(self) -> float:
        """When the time is over, on the event loop's clock."""
        return self.arrived + self.seconds


class Ticket:
    """A request that was let in.

    Attributes:
        limit: The time that it has.
        stopwatch: Seconds that its stages took.
        stage: The stage that it is in, or in line for.
        pixels: Decoded pixels that it may hold.
    """

    def __init__(self, limit: TimeLimit, clock: Callable[[], float], owner: object = None) -> None:
        self.limit = limit
        self.stopwatch = Stopwatch()
        self.stage: WorkStage = WORK_STAGES[0]
        self.pixels = 0
        self._clock = clock
        self._owner = owner
        self._is_open = True

    @property
    def deadline(self) -> float:
        """When its time is over, on the event loop's clock."""
        return self.limit.deadline

    def comes_to(self, owner: object) -> bool:
        """Whether it is for ``owner``, and has not reached the queue yet."""
        return self._owner is owner and self.stage in _BEFORE_QUEUE

    def enter(self, stage: WorkStage) -> None:
        """Go on to a stage; from any thread.

        Raises:
            DeadlineExceeded: Nobody wants the answer any more: the time is over, or the request has left.
        """
        if not self._is_open or self._clock() >= self.deadline:
            raise DeadlineExceeded(f"the time of the request was over before stage '{stage}'")
        self.stage = stage

    def mark(self, stage: WorkStage) -> None:
        """Say that a stage has begun, for one that others let in."""
        self.stage = stage

    @contextmanager
    def measure(self, stage: WorkStage) -> Iterator[None]:
        """Enter a stage, and count the time of the body to it; from any thread.

        Raises:
            DeadlineExceeded: See ``enter``.
        """
        self.enter(stage)
        with self.stopwatch.measure(stage):
            yield

    def close(self) -> None:
        """The request has left: no further stage begins."""
        self._is_open = False


class Admission:
    """Hands out tickets, at most ``capacity`` at once."""

    def __init__(
        self,
        *,
        capacity: int,
        max_pixels: int,
        timeout_s: float,
        backlog_s: Callable[[int], float],
        observer: AdmissionObserver,
    ) -> None:
        """Begin to admit.

        Args:
            capacity: Requests inside at once.
            max_pixels: Decoded pixels of all requests inside; one alone may have more.
            timeout_s: Seconds that each has, unless it asks for other.
            backlog_s: Seconds until so many requests inside are done, by what was measured; ``Retry-After`` tells it.
            observer: Told of requests that leave without an answer.
        """
        self.pixels = 0
        self._capacity = capacity
        self._max_pixels = max_pixels
        self._timeout_s = timeout_s
        self._backlog_s = backlog_s
        self._observer = observer
        self._inside: dict[Ticket, asyncio.Timeout] = {}
        self._on_leave: Callable[[], None] | None = None
        self._stays = 0
        # Nobody inside; and nobody of whom more will come.
        self._empty, self._done = asyncio.Event(), asyncio.Event()
        self._empty.set()
        self._done.set()
        self._open = True
        self._gave_up = False

    @property
    def in_flight(self) -> int:
        """Requests inside."""
        return len(self._inside)

    def somebody_comes(self, owner: object = None) -> bool:
        """Whether a request for ``owner`` is inside that has not reached the queue yet."""
        return any(ticket.comes_to(owner) for ticket in self._inside)

    def when_one_leaves(self, callback: Callable[[], None]) -> None:
        """Call back whenever a request leaves."""
        self._on_leave = callback

    @asynccontextmanager
    async def permit(
        self, limit: TimeLimit | None = None, *, accepted: bool = False, owner: object = None
    ) -> AsyncIterator[Ticket]:
        """Let one request in; the body is cancelled at the ticket's deadline.

        Args:
            limit: The request's own limit; ``timeout_s`` from now if not given.
            accepted: Whether it is a part of one that was let in before; then it comes in during a drain too.
            owner: Whom it is for, see ``somebody_comes``.

        Raises:
            Overloaded: ``capacity`` requests are inside.
            Draining: The service takes no more requests, or has stopped waiting for this one.
            DeadlineExceeded: The time was over, at the door or inside.
        """
        loop = asyncio.get_running_loop()
        ticket = Ticket(limit or TimeLimit(self._timeout_s, loop.time()), loop.time, owner)
        with self._observed(ticket):
            self._check_room(accepted=accepted)
            scope = asyncio.timeout_at(ticket.deadline)
            self._inside[ticket] = scope
            self._empty.clear()
            self._done.clear()
            try:
                async with scope:
                    ticket.enter(ticket.stage)
                    yield ticket
            except DeadlineExceeded:
                raise self._cut_off(ticket) from None
            except TimeoutError:
                if not scope.expired():
                    raise
                raise self._cut_off(ticket) from None
            finally:
                self._leave(ticket)

    def count_pixels(self, ticket: Ticket, pixels: int) -> None:
        """Make room for the decoded pixels of a request, before they are decoded.

        Raises:
            PixelsOverloaded: Those inside hold too many already.
        """
        if self.pixels and self.pixels + pixels > self._max_pixels:
            raise PixelsOverloaded(
                f"the images in the service have {self.pixels} pixels, with the {pixels} of this one that is more than "
                f"{self._max_pixels}",
                retry_after_s=self._backlog_s(self.in_flight),
                extra={"value": self.pixels + pixels, "limit": self._max_pixels, "unit": "pixels"},
            )
        ticket.pixels += pixels
        self.pixels += pixels

    @contextmanager
    def stay(self) -> Iterator[None]:
        """Let a drain wait for the end of the block: a request whose parts come in one by one, ``accepted``."""
        self._stays += 1
        self._done.clear()
        try:
            yield
        finally:
            self._stays -= 1
            self._note_leaving()

    async def drain(self, timeout_s: float) -> None:
        """Admit nobody more, wait ``timeout_s`` for those inside, then cut them off with ``Draining``."""
        self._open = False
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._done.wait()
        self._gave_up = True
        now = asyncio.get_running_loop().time()
        for scope in self._inside.values():
            if not scope.expired():
                scope.reschedule(now)
        await self._empty.wait()

    def _check_room(self, *, accepted: bool) -> None:
        if self._gave_up or not (self._open or accepted):
            raise Draining("the service is stopping; send the request to another instance", retry_after_s=1)
        if len(self._inside) >= self._capacity:
            raise Overloaded(
                f"{self._capacity} requests are in the service already",
                retry_after_s=self._backlog_s(self.in_flight),
                extra={"limit": self._capacity},
            )

    @contextmanager
    def _observed(self, ticket: Ticket) -> Iterator[None]:
        """Tell the observer of a request that leaves without an answer."""
        try:
            yield
        except ClientGone:
            self._observer.client_left(ticket.stage)
            raise
        except Unavailable as error:
            self._observer.request_rejected(error)
            raise
        except DeadlineExceeded:
            self._observer.request_expired(ticket.stage)
            raise

    def _cut_off(self, ticket: Ticket) -> ServiceError:
        limit, stage = ticket.limit, ticket.stage
        if self._gave_up:
            return Draining("the service stopped before this request was answered", retry_after_s=1)
        return DeadlineExceeded(
            f"no answer within {limit.seconds:g} s ({limit.source}); the request was in stage '{stage}'",
            extra={"limit": limit.seconds, "unit": "seconds", "stage": stage},
        )

    def _note_leaving(self) -> None:
        if not self._inside:
            self._empty.set()
            if not self._stays:
                self._done.set()

    def _leave(self, ticket: Ticket) -> None:
        ticket.close()
        del self._inside[ticket]
        self.pixels -= ticket.pixels
        self._note_leaving()
        if self._on_leave is not None:
            self._on_leave()
