"""Codec threads: results, errors, context, order, cancellation, and their end."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Iterator
from contextvars import ContextVar

import pytest

from service.errors import Overloaded
from service.inference.codec_threads import CodecThreads

pytestmark = pytest.mark.anyio

_CALLER: ContextVar[str] = ContextVar("caller", default="nobody")


@pytest.fixture
def threads() -> Iterator[CodecThreads]:
    threads = CodecThreads(1)
    yield threads
    threads.close()


class Gate:
    """A job that has begun, and waits until it may end."""

    def __init__(self) -> None:
        self.begun, self.opened = threading.Event(), threading.Event()

    def __call__(self) -> str:
        self.begun.set()
        self.opened.wait()
        return "through"


async def test_a_job_gives_its_result_from_another_thread(threads: CodecThreads) -> None:
    assert await threads.run(lambda: threading.current_thread().name) == "codec_0"


async def test_the_error_of_a_job_is_raised_as_it_is(threads: CodecThreads) -> None:
    error = LookupError("missing")

    def fail() -> None:
        raise error

    with pytest.raises(LookupError) as caught:
        await threads.run(fail)
    assert caught.value is error


async def test_no_memory_for_a_job_is_a_refusal(threads: CodecThreads) -> None:
    def fail() -> None:
        raise MemoryError

    with pytest.raises(Overloaded, match="not enough free memory"):
        await threads.run(fail)


async def test_a_job_sees_the_context_of_its_caller(threads: CodecThreads) -> None:
    _CALLER.set("the caller")
    assert await threads.run(_CALLER.get) == "the caller"


async def test_jobs_run_in_order(threads: CodecThreads) -> None:
    order: list[int] = []
    await asyncio.gather(*(threads.run(lambda number=number: order.append(number)) for number in range(20)))  # type: ignore[misc]
    assert order == list(range(20))


async def test_as_many_jobs_run_at_once_as_there_are_threads() -> None:
    threads, barrier = CodecThreads(3), threading.Barrier(3)
    await asyncio.gather(*(threads.run(barrier.wait) for _ in range(3)))
    threads.close()


async def test_a_job_that_is_cancelled_in_the_line_never_runs(threads: CodecThreads) -> None:
    gate, ran = Gate(), threading.Event()
    first, second = threads.submit(gate), threads.submit(ran.set)
    second.result.cancel()
    gate.opened.set()
    assert await first.result == "through"
    await threads.run(lambda: None)
    assert not ran.is_set()
    assert not second.is_running


async def test_a_job_that_is_cancelled_while_it_runs_reports_its_end(threads: CodecThreads) -> None:
    gate, ended = Gate(), asyncio.Event()
    job = threads.submit(gate)
    await asyncio.to_thread(gate.begun.wait)
    job.result.cancel()
    assert job.is_running
    job.on_end(ended.set)
    gate.opened.set()
    await ended.wait()
    assert not job.is_running
    assert job.result.cancelled()


async def test_closing_drops_the_line_and_ends_the_threads(threads: CodecThreads) -> None:
    gate = Gate()
    first, second = threads.submit(gate), threads.submit(lambda: None)
    await asyncio.to_thread(gate.begun.wait)
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "codec_0")
    threads.close()
    assert second.result.cancelled()
    gate.opened.set()
    assert await first.result == "through"
    await asyncio.to_thread(thread.join)


async def test_an_idle_thread_keeps_neither_a_job_nor_its_error_alive(threads: CodecThreads) -> None:
    class Image:
        """Stands for what a job holds."""

    def fail(image: Image) -> None:
        raise ValueError(type(image))

    image = Image()
    trace = weakref.ref(image)
    gc.disable()
    try:
        with pytest.raises(ValueError, match="Image"):
            await threads.run(lambda image=image: fail(image))  # type: ignore[misc]
        del image
        await threads.run(lambda: None)
        assert trace() is None
    finally:
        gc.enable()


def refuse(_: threading.Thread) -> None:
    """Fail as ``Thread.start`` does where the system has no more threads."""
    raise RuntimeError("can't start new thread")


async def test_without_a_thread_a_job_is_refused_and_the_next_one_starts_it(
    threads: CodecThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(Overloaded, match="cannot start a thread"):
            threads.submit(lambda: None)
    assert await threads.run(lambda: "done") == "done"


async def test_one_thread_serves_where_no_second_one_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = CodecThreads(2)
    await threads.run(lambda: None)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert await threads.run(lambda: threading.current_thread().name) == "codec_0"
    threads.close()
