"""Changes of the served models, one after the other; a change continues if its caller is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from service.errors import Draining

T = TypeVar("T")


class ChangeQueue:
    """Makes changes in the order of their calls, until ``close``."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_closed = False

    async def run(self, change: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Make a change after those before it; it continues if the caller is cancelled.

        Raises:
            Draining: The queue is closed, or this change was cancelled.
        """
        if self._is_closed:
            raise Draining("the service is stopping and does not change its models any more", retry_after_s=1)

        async def alone() -> T:
            async with self._lock:
                return await change()

        task = self.background(alone())
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise Draining("the service is stopping and cancelled this change", retry_after_s=1) from None
            raise

    def background(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start work beside the queue; ``close`` cancels it too."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def close(self) -> None:
        """Cancel all changes, and refuse new ones."""
        self._is_closed = True
        for task in self._tasks:
            task.cancel()

    async def until_closed(self) -> None:
        """``close``, and wait until all changes have ended."""
        self.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)
