"""Changes that are made one after the other, whether or not somebody waits for them, until the process drains."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from service.errors import Draining

T = TypeVar("T")


class Turns:
    """Takes changes until ``close``."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_closed = False

    async def take(self, change: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Make a change when those before it are made; it goes on if the caller is cancelled.

        Raises:
            Draining: No more changes are made, or this one was given up.
        """
        if self._is_closed:
            raise Draining("the process is stopping, its models do not change any more", retry_after_s=1)

        async def alone() -> T:
            async with self._turn:
                return await change()

        task = self.background(alone())
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise Draining("the process is stopping, and the load was given up", retry_after_s=1) from None
            raise

    def background(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin something that takes no turn, and that ``close`` ends too."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def close(self) -> None:
        """Give up what is going on, and take nothing more."""
        self._is_closed = True
        for task in self._tasks:
            task.cancel()

    async def until_closed(self) -> None:
        """``close``, and wait for the ends."""
        self.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)
