"""Threads that decode and encode images beside the event loop.

The end of a job is one callback on the event loop. A future of ``concurrent.futures`` would make a lock, a condition
and a chain of callbacks for each job.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Generic, TypeVar, cast

from service.errors import Overloaded
from service.lack_of_memory import report_lack_of_memory

T = TypeVar("T")
logger = logging.getLogger(__name__)


class CodecJob(Generic[T]):
    """A job in a thread, or in the line for one.

    Attributes:
        result: Result of the job, on its event loop; cancelling it takes the job out of the line.
        is_running: True from before its first instruction until the event loop has its result.
    """

    def __init__(self, work: Callable[[], T], loop: asyncio.AbstractEventLoop) -> None:
        """``work`` sees the context variables of the caller, as with ``asyncio.to_thread``."""
        self.result: asyncio.Future[T] = loop.create_future()
        self.is_running = False
        self._work = work
        self._context = copy_context()
        self._loop = loop
        self._on_end: Callable[[], None] | None = None

    def on_end(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` on the event loop when the job, which is running, has ended."""
        assert self.is_running
        self._on_end = callback

    def run(self) -> None:
        """Run in this thread, unless the job has been cancelled."""
        # First: a caller that cancels meanwhile sees either this, or is seen.
        self.is_running = True
        value: T | None = None
        failure: BaseException | None = None
        try:
            if not self.result.cancelled():
                with report_lack_of_memory():
                    value = self._context.run(self._work)
        except BaseException as error:  # the caller gets it
            failure = error
        with suppress(RuntimeError):  # the event loop is closed, and nobody waits
            self._loop.call_soon_threadsafe(self._end, value, failure)
        del self, failure  # a traceback refers to this frame

    def _end(self, value: T | None, failure: BaseException | None) -> None:
        self.is_running = False
        if not self.result.done():
            if failure is None:
                self.result.set_result(cast(T, value))
            else:
                self.result.set_exception(failure)
        if self._on_end is not None:
            self._on_end()


class CodecThreads:
    """A fixed number of threads, started as jobs arrive, which take jobs in the order of their arrival."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._line: SimpleQueue[CodecJob[Any] | None] = SimpleQueue()
        self._threads: list[Thread] = []

    def submit(self, work: Callable[[], T]) -> CodecJob[T]:
        """Put a job into the line; call it on the event loop that gets the result.

        The result is what ``work`` gives or raises, or ``Overloaded`` where it finds no memory.

        Raises:
            Overloaded: There is no thread, and the system starts none.
        """
        if len(self._threads) < self._count:
            self._start_thread()
        job = CodecJob(work, asyncio.get_running_loop())
        self._line.put(job)
        return job

    async def run(self, work: Callable[[], T], /) -> T:
        """The result of a job; see ``submit``."""
        return await self.submit(work).result

    def close(self) -> None:
        """Let each thread end with the job that it is at; jobs in the line are dropped."""
        with suppress(Empty):
            while (job := self._line.get_nowait()) is not None:
                job.result.cancel()
        for _ in self._threads:
            self._line.put(None)

    def _start_thread(self) -> None:
        # A daemon: a job that hangs does not keep the process from its end.
        thread = Thread(target=self._take_jobs, name=f"codec_{len(self._threads)}", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the system has no more threads to give
            if not self._threads:
                raise Overloaded("the service cannot start a thread for this image now", retry_after_s=1) from None
            return
        self._threads.append(thread)

    def _take_jobs(self) -> None:
        while (job := self._line.get()) is not None:
            try:
                job.run()
            except MemoryError:  # none even to report the end: the request waits for its deadline, others do not
                logger.exception("a codec thread has no memory")
            del job  # and its image, while this thread waits
