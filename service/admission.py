"""Who may come in: bounds the requests inside the service, from arrival to answer, and the time that each has.

One bound over all stages, taken before the body is read, keeps memory bounded and makes a refusal cheap.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from service.errors import DeadlineExceeded, Draining, Overloaded, ServiceError


class Admission:
    """Hands out permits, at most ``capacity`` at once."""

    def __init__(self, *, capacity: int, timeout_s: float, seconds_per_image: Callable[[], float]) -> None:
        """Begin to admit.

        Args:
            capacity: Requests inside at once.
            timeout_s: Seconds that each has.
            seconds_per_image: The service's measured time per image, from which ``Retry-After`` is told.
        """
        self._capacity = capacity
        self._timeout_s = timeout_s
        self._seconds_per_image = seconds_per_image
        self._inside: set[asyncio.Timeout] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._open = True

    @property
    def in_flight(self) -> int:
        """Requests inside."""
        return len(self._inside)

    @asynccontextmanager
    async def permit(self) -> AsyncIterator[float]:
        """Let one request in; gives its deadline on the event loop's clock, at which the body is cancelled.

        Raises:
            Overloaded: ``capacity`` requests are inside.
            Draining: The service takes no more requests, or has stopped waiting for this one.
            DeadlineExceeded: The body was cut off at its deadline.
        """
        self._check_room()
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        scope = asyncio.timeout_at(deadline)
        self._inside.add(scope)
        self._empty.clear()
        try:
            async with scope:
                yield deadline
        except TimeoutError:
            if not scope.expired():
                raise
            raise self._cut_off(deadline) from None
        finally:
            self._leave(scope)

    async def drain(self, timeout_s: float) -> None:
        """Admit nobody more, wait ``timeout_s`` for those inside, then cut them off with ``Draining``."""
        self._open = False
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._empty.wait()
        now = asyncio.get_running_loop().time()
        for scope in self._inside:
            if not scope.expired():
                scope.reschedule(now)
        await self._empty.wait()

    def _check_room(self) -> None:
        if not self._open:
            raise Draining("the service is stopping; send the request to another instance", retry_after_s=1)
        if len(self._inside) >= self._capacity:
            wait_s = self._capacity * self._seconds_per_image()
            raise Overloaded(
                f"{self._capacity} requests are in the service already",
                retry_after_s=wait_s,
                extra={"limit": self._capacity},
            )

    def _cut_off(self, deadline: float) -> ServiceError:
        if asyncio.get_running_loop().time() < deadline:
            return Draining("the service stopped before this request was answered", retry_after_s=1)
        return DeadlineExceeded(f"no answer within {self._timeout_s:g} s", extra={"limit": self._timeout_s})

    def _leave(self, scope: asyncio.Timeout) -> None:
        self._inside.discard(scope)
        if not self._inside:
            self._empty.set()
