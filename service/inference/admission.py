"""Admission: bounds the requests inside the service, from arrival to answer, their pixels, and their time.

One bound over all stages, taken before the body is read, keeps memory bounded and makes a refusal cheap. Every refusal
here is a 503: this process cannot take the request now, another may, and load balancers try the next one. 429 is left
to the limits of a single client, which no other process would lift.

A request is also refused if its time would be over before the engine has done the work ahead of it: refused at once it
costs nothing, and its client may try elsewhere. Admitted, it would wait and expire, and so would those behind it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
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
from service.inference.forecast import Forecast
from service.inference.image_queue import ImageQueue
from service.inference.ledger import Ledger, LocalLedger
from service.inference.stopwatch import WORK_STAGES, Stage, Stopwatch, WorkStage

_BEFORE_QUEUE: frozenset[WorkStage] = frozenset({"read", "decode"})
# A body that takes longer is not waited for: requests that arrive meanwhile are done before it.
_READ_GRACE_S = 1.0
# Share of a request's time that the estimate of its end may take; the remainder covers what no estimate knows.
_SHARE_OF_TIME = 0.9
_SMOOTHING = 0.1
_AROUND_ENGINE: tuple[Stage, ...] = ("wait", "decode", "post", "encode")


class AdmissionObserver(Protocol):
    """Counts the requests that leave without an answer; the metrics."""

    def client_left(self, stage: WorkStage) -> None:
        """A client hung up while its request was in ``stage``."""

    def request_rejected(self, error: ServiceError) -> None:
        """A request was refused for no fault of its own."""

    def request_expired(self, stage: WorkStage) -> None:
        """The time of a request was over while it was in ``stage``."""


@dataclass(frozen=True, slots=True)
class TimeLimit:
    """Time limit of a request.

    Attributes:
        seconds: From its arrival to its answer.
        arrived: Its arrival, on the event loop's clock.
        source: The setting or the header that set the limit.
    """

    seconds: float
    arrived: float
    source: str = "request_timeout_s"

    @property
    def deadline(self) -> float:
        """End of the time, on the event loop's clock."""
        return self.arrived + self.seconds


class Ticket:
    """An admitted request: its time limit and its way through the stages.

    Attributes:
        limit: Its time limit.
        owner: Receiver of the request.
        stopwatch: Times of its stages.
        current_stage: The stage that it is in, or waits for.
        pixels: Decoded pixels that it may hold.
        is_open: False from its end on: no further stage begins.
        is_late: True once its body has taken longer than usual.
        is_expected: True while it counts as expected; see ``Admission``.
    """

    def __init__(
        self,
        limit: TimeLimit,
        clock: Callable[[], float],
        owner: ImageQueue | None = None,
        on_stage: Callable[[Ticket], None] = lambda _: None,
    ) -> None:
        """Begin with the first stage; ``on_stage`` is called with each further one."""
        self.limit = limit
        self.owner = owner
        self.stopwatch = Stopwatch()
        self.current_stage: WorkStage = WORK_STAGES[0]
        self.pixels = 0
        self.is_open = True
        self.is_late = False
        self.is_expected = False
        self._clock = clock
        self._on_stage = on_stage

    @property
    def deadline(self) -> float:
        """End of its time, on the event loop's clock."""
        return self.limit.deadline

    @property
    def seconds_left(self) -> float:
        """Seconds until the end of its time; 0 after it."""
        return max(0.0, self.deadline - self._clock())

    @property
    def is_before_queue(self) -> bool:
        """True until its image has reached the queue of the engine."""
        return self.current_stage in _BEFORE_QUEUE

    def enter(self, stage: WorkStage, *, check: bool = True) -> None:
        """Go on to a stage whose time is measured elsewhere; from any thread.

        Args:
            stage: The stage.
            check: False if the work of the stage has started already.

        Raises:
            DeadlineExceeded: The answer is not wanted any more: the time is over, or the request has left.
        """
        if check and (not self.is_open or self._clock() >= self.deadline):
            raise DeadlineExceeded(f"the time of the request was over before stage '{stage}'")
        self.current_stage = stage
        self._on_stage(self)

    @contextmanager
    def stage(self, stage: WorkStage) -> Iterator[None]:
        """Go on to a stage and record the time of the block as a pass through it; from any thread.

        Raises:
            DeadlineExceeded: See ``enter``.
        """
        self.enter(stage)
        started = time.perf_counter()
        try:
            yield
        finally:
            self.stopwatch.record(stage, started, time.perf_counter())

    def close(self) -> None:
        """End the request: no further stage begins."""
        self.is_open = False


class Admission:
    """The ledger of the requests inside: hands out tickets, at most ``capacity`` at once."""

    def __init__(
        self,
        *,
        capacity: int,
        max_pixels: int,
        timeout_s: float,
        forecast: Forecast,
        observer: AdmissionObserver,
        ledger: Ledger | None = None,
    ) -> None:
        """Begin to admit.

        Args:
            capacity: Most requests inside at once.
            max_pixels: Most decoded pixels of all requests inside; one request alone may have more.
            timeout_s: Time limit of a request that states none.
            forecast: Estimates when images will be done.
            observer: Counts requests that leave without an answer.
            ledger: Counts requests and pixels, of several processes where it is shared.
        """
        self._ledger = LocalLedger() if ledger is None else ledger
        self._lock = threading.Lock()
        self._capacity = capacity
        self._max_pixels = max_pixels
        self._timeout_s = timeout_s
        self._forecast = forecast
        self._observer = observer
        self._inside: dict[Ticket, asyncio.Timeout] = {}
        self._expected: Counter[ImageQueue | None] = Counter()
        self._held_open: list[ImageQueue | None] = []
        self._left = asyncio.Event()
        self._open = True
        self._gave_up = False
        self._admitted = 0
        self._around_s = 0.0

    @property
    def in_flight(self) -> int:
        """Requests inside, of all processes."""
        return self._ledger.total("requests")

    @property
    def in_flight_here(self) -> int:
        """Requests inside this process."""
        return len(self._inside)

    @property
    def admitted_here(self) -> int:
        """Requests that this process has admitted so far."""
        return self._admitted

    @property
    def pixels(self) -> int:
        """Decoded pixels of the requests inside, of all processes."""
        return self._ledger.total("pixels")

    def expected(self, owner: ImageQueue | None = None) -> int:
        """Requests for ``owner`` inside this process whose image is on its way to the queue, and not late."""
        return self._expected[owner]

    @asynccontextmanager
    async def permit(
        self,
        limit: TimeLimit | None = None,
        *,
        accepted: bool = False,
        places: int = 0,
        owner: ImageQueue | None = None,
    ) -> AsyncIterator[Ticket]:
        """Admit one request; the block is cancelled at the ticket's deadline.

        Args:
            limit: The request's own limit; ``timeout_s`` from now if not given.
            accepted: True for a part of a request that was admitted before; a drain admits it too.
            places: Of a request that is inside and takes one more, those that it has; a drain admits it too, and the
                observer counts the request alone.
            owner: Receiver of the request, see ``expected`` and ``until_unused``; woken when it comes and leaves.

        Raises:
            Overloaded: ``capacity`` requests are inside, or those inside will take until the time is over.
            Draining: The service admits no more requests, or has stopped waiting for this one.
            DeadlineExceeded: The time was over, on arrival or inside.
        """
        loop = asyncio.get_running_loop()
        ticket = Ticket(limit or TimeLimit(self._timeout_s, loop.time()), loop.time, owner, self._count_expected)
        with nullcontext() if places else self._observed(ticket):
            self._take_place(ticket, accepted=accepted, places=places)
            scope = asyncio.timeout_at(ticket.deadline)
            self._inside[ticket] = scope
            self._admitted += 1
            lateness = loop.call_later(_READ_GRACE_S, self._note_late, ticket)
            try:
                async with scope:
                    ticket.enter(ticket.current_stage)
                    if owner is not None:
                        owner.wake()
                    yield ticket
                    self._note_answered(ticket)
            except DeadlineExceeded:
                raise self._cut_off(ticket) from None
            except TimeoutError:
                if not scope.expired():
                    raise
                raise self._cut_off(ticket) from None
            finally:
                lateness.cancel()
                self._leave(ticket)

    def shorten(self, ticket: Ticket, limit: TimeLimit) -> None:
        """Give a request inside another limit, if that ends before its own."""
        if limit.deadline < ticket.deadline:
            ticket.limit = limit
            self._inside[ticket].reschedule(limit.deadline)

    def count_pixels(self, ticket: Ticket, pixels: int) -> None:
        """Count the pixels of a request's image, before they are decoded; from any thread.

        Raises:
            PixelsOverloaded: With them the requests inside would exceed ``max_pixels``.
            DeadlineExceeded: The request has left.
        """
        with self._lock:  # a ticket that leaves meanwhile would not give them back
            if not ticket.is_open:
                raise DeadlineExceeded("the request ended before its pixels were counted")
            if self._ledger.add_within("pixels", pixels, self._max_pixels, alone=True):
                ticket.pixels += pixels
                return
        inside = self.pixels
        raise PixelsOverloaded(
            f"the images in the service have {inside} pixels; with the {pixels} of this one they would "
            f"exceed the limit of {self._max_pixels}",
            retry_after_s=self._forecast.ahead_s(self._ledger.total("expected")),
            extra={"value": inside + pixels, "limit": self._max_pixels, "unit": "pixels"},
        )

    @contextmanager
    def hold_open(self, owner: ImageQueue | None = None) -> Iterator[None]:
        """Make drain and ``until_unused`` wait for the block: a request whose parts are admitted one by one."""
        self._held_open.append(owner)
        try:
            yield
        finally:
            self._held_open.remove(owner)
            self._left.set()

    async def until_unused(self, owner: ImageQueue | None = None) -> None:
        """Wait until no request for ``owner`` is inside, and none is held open."""
        await self._until(lambda: owner not in (*self._held_open, *(ticket.owner for ticket in self._inside)))

    async def drain(self, timeout_s: float) -> None:
        """Admit no more requests, wait ``timeout_s`` for those inside, then fail the rest with ``Draining``."""
        self._open = False
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._until(lambda: not self._inside and not self._held_open)
        self._gave_up = True
        now = asyncio.get_running_loop().time()
        for scope in self._inside.values():
            if not scope.expired():
                scope.reschedule(now)
        await self._until(lambda: not self._inside)

    async def _until(self, is_reached: Callable[[], bool]) -> None:
        """Wait for a state that only a request that leaves can bring."""
        while not is_reached():
            self._left.clear()
            await self._left.wait()

    def _take_place(self, ticket: Ticket, *, accepted: bool, places: int) -> None:
        if self._gave_up or not (self._open or accepted or places):
            raise Draining("the service is stopping; send the request to another instance", retry_after_s=1)
        if not accepted:
            self._check_time(ticket, places)
        if not self._ledger.add_within("requests", 1, self._capacity):
            raise Overloaded(
                f"{self._capacity} requests are in the service already, which is the limit",
                retry_after_s=self._forecast.ahead_s(self._ledger.total("expected")),
                extra={"limit": self._capacity},
            )

    def _check_time(self, ticket: Ticket, places: int) -> None:
        """Refuse a request that cannot be answered in time behind the work ahead of it.

        With nothing ahead but its own ``places`` it is admitted in any case: the estimate may be wrong, and a later try
        would not find less.
        """
        expected, left_s = self._ledger.total("expected"), ticket.seconds_left
        if ticket.owner is None or left_s == 0 or self._forecast.ahead_s(expected - places) <= 0:
            return
        done_s = self._forecast.done_s(ticket.owner, expected) + self._around_s
        excess_s = done_s - _SHARE_OF_TIME * left_s
        if excess_s > 0:
            raise Overloaded(
                f"behind the requests ahead of it the answer would take about {done_s:.1f} s; the request has "
                f"{left_s:.1f} s",
                retry_after_s=excess_s,
                extra={"value": round(done_s, 3), "limit": round(left_s, 3), "unit": "seconds"},
            )

    def _count_expected(self, ticket: Ticket) -> None:
        """Count a request as expected while its image is on its way to the queue; from any thread."""
        if not (ticket.is_expected or ticket.is_before_queue):
            return
        with self._lock:
            is_awaited = ticket.current_stage != "read" or not ticket.is_late
            is_expected = ticket.is_open and ticket.is_before_queue and is_awaited
            if is_expected != ticket.is_expected:
                ticket.is_expected = is_expected
                change = 1 if is_expected else -1
                self._expected[ticket.owner] += change
                if not self._expected[ticket.owner]:
                    del self._expected[ticket.owner]  # a model that is unloaded must not stay in memory
                self._ledger.add("expected", change)

    def _note_late(self, ticket: Ticket) -> None:
        ticket.is_late = True
        self._count_expected(ticket)
        if ticket.owner is not None:
            ticket.owner.wake()

    def _note_answered(self, ticket: Ticket) -> None:
        """Learn how long the work around the engine takes."""
        seconds = sum(ticket.stopwatch.seconds.get(stage, 0.0) for stage in _AROUND_ENGINE)
        self._around_s += _SMOOTHING * (seconds - self._around_s)

    @contextmanager
    def _observed(self, ticket: Ticket) -> Iterator[None]:
        """Report a request that leaves without an answer."""
        try:
            yield
        except ClientGone:
            self._observer.client_left(ticket.current_stage)
            raise
        except Unavailable as error:
            self._observer.request_rejected(error)
            raise
        except DeadlineExceeded:
            self._observer.request_expired(ticket.current_stage)
            raise

    def _cut_off(self, ticket: Ticket) -> ServiceError:
        limit, stage = ticket.limit, ticket.current_stage
        if self._gave_up:
            return Draining("the service stopped before this request was answered", retry_after_s=1)
        return DeadlineExceeded(
            f"no answer within {limit.seconds:g} s ({limit.source}); the request was in stage '{stage}'",
            extra={"limit": limit.seconds, "unit": "seconds", "stage": stage},
        )

    def _leave(self, ticket: Ticket) -> None:
        with self._lock:
            ticket.close()
        self._count_expected(ticket)
        del self._inside[ticket]
        self._ledger.add("requests", -1)
        self._ledger.add("pixels", -ticket.pixels)
        self._left.set()
        if ticket.owner is not None:
            ticket.owner.wake()
