"""Reports of the batcher: texts of errors, lines of the log, times, traces and counts; on the clock that jumps."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from service.errors import DeadlineExceeded, Draining, EngineDown, EngineFailure, ServiceError
from service.inference.work import Work
from tests.support.batcher_bench import Bench, play_on_bench
from tests.support.fake_engine import POISON

LOGGER = "service.inference.batcher"


def loop_time() -> float:
    return asyncio.get_running_loop().time()


def enqueue(bench: Bench, value: int, deadline: float = 1000.0, caller: Any = None) -> Work:
    image = np.full((4, 4, 3), value, np.uint8)
    return bench.batcher.enqueue(image, np.empty((1, 1, 1), np.float32), deadline, caller=caller)


async def run(bench: Bench, *values: int) -> None:
    """Run images of these values as one batch."""
    rows = [bench.submit(value) for value in values]
    await bench.until_busy()
    bench.engine.run()
    await asyncio.wait(rows)
    await bench.settle()


async def error_of(awaited: Any, kind: type[ServiceError]) -> ServiceError:
    with pytest.raises(kind) as caught:
        await awaited
    return caught.value


class Trace:
    """Names the callers, and keeps what was traced."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.open = 0

    def caller(self) -> str:
        return "current"

    @contextmanager
    def batch(self, callers: Sequence[Any]) -> Iterator[None]:
        self.batches.append(list(callers))
        self.open += 1
        yield
        self.open -= 1


def test_refusals_say_why_and_when_to_come_again() -> None:
    async def story(bench: Bench) -> None:
        running, late = bench.submit(1), bench.submit(2, deadline=3)
        assert (await error_of(late, DeadlineExceeded)).detail == (
            "the time of the request was over before the model answered"
        )
        down = await error_of(running, EngineDown)
        assert down.headers == {"Retry-After": "1"}
        refused = await error_of(bench.submit(3), EngineDown)
        assert (refused.detail, refused.headers) == (down.detail, {"Retry-After": "1"})

    play_on_bench(story, engine_timeout_s=5)


def test_a_drain_says_why_it_refuses_and_why_it_gives_up() -> None:
    async def story(bench: Bench) -> None:
        cut_off = bench.submit(1)
        await bench.settle()
        await bench.batcher.drain(20)
        stopping = await error_of(bench.submit(2), Draining)
        assert stopping.detail == "the service is stopping"
        assert (await error_of(cut_off, Draining)).detail == "the service stopped before this request was run"

    play_on_bench(story)


def test_a_drain_ends_with_its_last_image() -> None:
    async def story(bench: Bench) -> None:
        rows = [bench.submit(value) for value in range(6)]
        await bench.settle()
        drain = asyncio.create_task(bench.batcher.drain(20))
        bench.engine.run()
        await bench.settle()
        assert not drain.done()  # two wait still
        bench.engine.run()
        await drain
        assert bench.now == 0.0
        assert all(row.done() for row in rows)

    play_on_bench(story)


def test_work_is_withdrawn_once_and_only_from_the_queue() -> None:
    async def story(bench: Bench) -> None:
        queued, taken = enqueue(bench, 1), enqueue(bench, 2)
        assert bench.batcher.withdraw(queued)
        assert not bench.batcher.withdraw(queued)
        await bench.until_busy()
        assert not bench.batcher.withdraw(taken)
        assert bench.observer.drops == ["cancelled"]

    play_on_bench(story)


def test_a_closed_batcher_runs_no_more() -> None:
    async def story(bench: Bench) -> None:
        assert bench.batcher.is_running
        await bench.batcher.close()
        assert not bench.batcher.is_running

    play_on_bench(story)


def test_slots_have_the_size_of_the_engine() -> None:
    async def story(bench: Bench) -> None:
        async with bench.batcher.slot(1000) as slot:
            assert slot.image.shape == (4, 4, 3)

    play_on_bench(story)


def test_a_failed_batch_is_logged_with_its_size_and_traceback(caplog: pytest.LogCaptureFixture) -> None:
    async def story(bench: Bench) -> None:
        await run(bench, POISON, 1)
        await bench.until_busy()

    play_on_bench(story)
    (record,) = caplog.records
    assert (record.name, record.levelno) == (LOGGER, logging.ERROR)
    assert record.getMessage() == "the engine failed on a batch of 2"
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "poisoned"


def test_a_bug_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(bench: Bench) -> None:
        monkeypatch.setattr(bench.observer, "image_started", None)
        await error_of(bench.submit(1), EngineDown)

    play_on_bench(story)
    record = next(record for record in caplog.records if record.getMessage() == "the batcher has stopped")
    assert record.exc_info is not None


def test_a_row_has_the_times_of_its_image() -> None:
    async def story(bench: Bench) -> None:
        await asyncio.sleep(1)
        row = bench.submit(1)
        await bench.until_busy()
        await asyncio.sleep(4)
        bench.engine.run()
        done = await row
        assert (done.queued, done.started, done.ended) == (1.0, 11.0, 15.0)
        assert bench.observer.waits == [10.0]

    play_on_bench(story, clock=loop_time)


def test_seconds_per_image_move_a_fifth_of_the_way() -> None:
    async def story(bench: Bench) -> None:
        for seconds, expected in ((4.0, 4.0), (9.0, 5.0), (2.5, 4.5)):
            row = bench.submit(1)
            await bench.until_busy()
            await asyncio.sleep(seconds)
            bench.engine.run()
            await row
            assert bench.batcher.seconds_per_image == pytest.approx(expected)

    play_on_bench(story, clock=loop_time)


def test_the_line_counts_the_batch_that_is_still_run() -> None:
    async def story(bench: Bench) -> None:
        for _ in range(2):
            for value in range(4):
                bench.submit(value)
            await bench.settle()
        assert bench.batcher.line_s(0) == 20.0
        for left_s in (10.0, 0.0):
            await asyncio.sleep(10)
            bench.engine.run()
            await bench.settle()
            assert bench.batcher.line_s(0) == pytest.approx(left_s)

    play_on_bench(story, clock=loop_time, batches_at_once=2, batch_seconds={1: 4.0, 4: 10.0})


def test_a_success_forgets_the_failures_before_it() -> None:
    async def story(bench: Bench) -> None:
        for value in (POISON, POISON, 1, POISON, POISON, 2):
            await run(bench, value)
        assert [0] not in bench.engine.batches  # three in a row would have the engine try a black image

    play_on_bench(story)


def test_a_black_image_that_passes_forgets_the_failures() -> None:
    async def story(bench: Bench) -> None:
        guilty = asyncio.gather(*(bench.submit(POISON) for _ in range(3)), return_exceptions=True)
        while not bench.engine.batches or bench.engine.batches[-1] != [0]:
            await bench.until_busy()
            bench.engine.run()
            await bench.settle()
        assert [type(error) for error in await guilty] == [EngineFailure] * 3
        for _ in range(2):
            await run(bench, POISON)
        assert bench.engine.batches.count([0]) == 1

    play_on_bench(story)


def test_traces_have_the_requests_of_each_batch() -> None:
    trace = Trace()

    async def story(bench: Bench) -> None:
        enqueue(bench, 1)
        enqueue(bench, 2, caller="other")
        await bench.until_busy()
        assert (trace.batches, trace.open) == ([["current", "other"]], 1)
        bench.engine.run()
        await bench.settle()
        assert trace.open == 0

    play_on_bench(story, trace=trace)


def test_without_a_trace_nobody_is_asked_for_the_caller() -> None:
    async def story(bench: Bench) -> None:
        work = enqueue(bench, 1, caller="other")
        assert work.caller == "other"
        assert enqueue(bench, 2).caller is None

    play_on_bench(story)


def test_an_image_that_is_just_in_time_is_run() -> None:
    async def story(bench: Bench) -> None:
        bench.expects_more = False
        row = bench.submit(1, deadline=6.0)
        await bench.until_busy()
        bench.engine.run()
        assert (await row).output.item() == 2

    play_on_bench(story, batch_seconds={1: 6.0})


def test_an_expired_image_says_nothing_of_the_engine() -> None:
    async def story(bench: Bench) -> None:
        await asyncio.sleep(1)
        bench.expects_more = False
        for deadline in (0.5, 1.0):
            late = enqueue(bench, 1, deadline=deadline)
            await bench.settle()
            assert isinstance(late.row.exception(), DeadlineExceeded)
        assert bench.batcher.first_s == 6.0

    play_on_bench(story, batch_seconds={1: 6.0})


def test_a_batch_is_filled_up_behind_an_image_that_is_left_out_and_no_further() -> None:
    async def story(bench: Bench) -> None:
        values = enumerate((3.0, 100.0, 100.0, 100.0, 100.0, 100.0))
        rows = [bench.submit(value, deadline=deadline) for value, deadline in values]
        await bench.until_busy()
        bench.engine.run()
        assert bench.engine.batches == [[1, 2, 3, 4]]  # with the first it would have to be of one
        assert (await rows[1]).output.item() == 2

    play_on_bench(story, batch_seconds={1: 2.0, 4: 8.0})


def test_an_image_that_another_has_made_late_is_not_run_alone() -> None:
    async def story(bench: Bench) -> None:
        rows = [bench.submit(value, deadline=deadline) for value, deadline in ((POISON, 99.0), (1, 22.0), (2, 99.0))]
        for _ in range(3):  # together, then one by one
            await bench.until_busy()
            await asyncio.sleep(5)
            bench.engine.run()
            await bench.settle()
        assert bench.engine.batches == [[POISON, 1, 2], [POISON], [2]]
        assert (await error_of(rows[0], EngineFailure)).status == 500
        assert (await error_of(rows[1], DeadlineExceeded)).status == 504
        assert (await rows[2]).output.item() == 4
        assert not bench.batcher.down

    play_on_bench(story, clock=loop_time, batch_seconds={1: 5.0, 4: 5.0})
