"""The queue as a worker sees it: slots are given in turn, waited for, held, and free again; by its public calls."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from functools import partial
from threading import Barrier, Event
from typing import Any

import numpy as np
import pytest

from service.errors import DeadlineExceeded, Draining, EngineDown
from service.inference.codec_threads import CodecThreads
from service.workers.channel import Channel, socket_pair
from service.workers.messages import MODEL, SUBMISSION, Kind
from service.workers.remote_queue import RemoteQueue, RemoteSlot
from service.workers.slots import Layout
from tests.support.batcher_bench import JumpingLoop

Story = Callable[["Side"], Coroutine[Any, Any, None]]


class Side:
    """The worker's side of model 5 with two slots; the other end is read by hand."""

    def __init__(self) -> None:
        ours, self.theirs = socket_pair()
        self.theirs.setblocking(False)
        self.expected = 0
        self.queue: RemoteQueue
        self.channel = Channel(ours, lambda *_: None, lambda: None)
        layout = Layout(slots=2, input_size=(4, 4), output_shape=(1, 1, 1), output_dtype=np.dtype(np.float32))
        self.queue = RemoteQueue(
            self.channel, 5, layout, max_batch_size=3, expected=self._expect, caller=lambda: b"who"
        )
        kind, fields = self.sent()[0]
        assert (kind, fields) == (Kind.REGION, MODEL.pack(5))

    def _expect(self, queue: RemoteQueue) -> int:
        assert queue is self.queue
        return self.expected

    def sent(self) -> list[tuple[int, bytes]]:
        """Messages to the engine process since the last call."""
        found: list[tuple[int, bytes]] = []
        while True:
            try:
                packet, *_ = self.theirs.recvmsg(1 << 16, socket.CMSG_SPACE(4))
            except BlockingIOError:
                return found
            found.append((packet[0], packet[1:]))

    def submissions(self) -> list[tuple[int, tuple[Any, ...]]]:
        """Kinds and fields of messages that are submissions."""
        return [(kind, SUBMISSION.unpack_from(fields)) for kind, fields in self.sent()]

    def run(self, slot: RemoteSlot, deadline: float = 100.0, **options: Any) -> asyncio.Task[Any]:
        return asyncio.create_task(slot.run(deadline, **options))


def play(story: Story, loop: Callable[[], asyncio.AbstractEventLoop] = JumpingLoop) -> None:
    """On a clock that jumps, unless threads take part, for which it does not wait."""

    async def on_side() -> None:
        side = Side()
        try:
            await story(side)
        finally:
            side.channel.close()
            side.theirs.close()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(on_side())


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_an_image_is_sent_and_answered() -> None:
    async def story(side: Side) -> None:
        started: list[bool] = []
        async with side.queue.slot(100) as slot:
            side.expected = 4
            slot.image[:] = 7
            row = side.run(slot, 50.0, on_start=lambda: started.append(True))
            await settle()
            ((kind, fields),) = side.sent()
            assert kind == Kind.SUBMIT
            assert SUBMISSION.unpack_from(fields) == (5, 0, 1, 50.0)
            assert fields[SUBMISSION.size :] == b"who"
            assert side.queue.region.expected == 4
            assert (side.queue.region.image(0) == 7).all()
            side.queue.region.output(0)[:] = 2.5
            side.queue.succeed(0, 1, 3.0, 4.0)
            done = await row
            assert (done.output.item(), done.started, done.ended) == (2.5, 3.0, 4.0)
            assert done.queued > 0
            assert started == [True]
        assert side.queue.free_slots == 2

    play(story)


def test_the_slot_that_was_used_last_is_the_next() -> None:
    async def story(side: Side) -> None:
        for expected in ("first", "again"):
            async with side.queue.slot(100) as slot:
                assert slot.image.ctypes.data == side.queue.region.image(0).ctypes.data, expected
                async with side.queue.slot(100) as other:
                    assert other.image.ctypes.data == side.queue.region.image(1).ctypes.data

    play(story)


def test_a_slot_is_waited_for_in_turn() -> None:
    async def story(side: Side) -> None:
        held = [await side.queue.take(100) for _ in range(2)]
        waiting = [asyncio.create_task(side.queue.take(100)) for _ in range(2)]
        await settle()
        assert not any(task.done() for task in waiting)
        side.queue.give_back(held[1])
        assert await waiting[0] is held[1]
        waiting[1].cancel()
        await settle()
        side.queue.give_back(held[0])
        assert side.queue.free_slots == 1

    play(story)


def test_a_slot_is_waited_for_until_the_deadline() -> None:
    async def story(side: Side) -> None:
        held = [await side.queue.take(100) for _ in range(2)]
        for deadline in (30, 40):
            with pytest.raises(DeadlineExceeded):
                async with side.queue.slot(deadline):
                    pass
            assert asyncio.get_running_loop().time() == deadline
        for slot in held:
            side.queue.give_back(slot)
        assert side.queue.free_slots == 2

    play(story)


def test_a_slot_that_comes_with_the_departure_is_not_lost() -> None:
    async def story(side: Side) -> None:
        held = [await side.queue.take(100) for _ in range(2)]
        waiting = asyncio.create_task(side.queue.take(100))
        await settle()
        side.queue.give_back(held[0])
        waiting.cancel()
        await settle()
        assert await side.queue.take(100) is held[0]
        assert side.queue.free_slots == 0

    play(story)


def test_an_image_without_an_answer_expires_and_its_slot_stays_with_the_engine() -> None:
    async def story(side: Side) -> None:
        started: list[bool] = []
        with pytest.raises(DeadlineExceeded):
            async with side.queue.slot(20) as slot:
                await slot.run(20, on_start=lambda: started.append(True))
        assert asyncio.get_running_loop().time() == 20
        submit, cancel = side.submissions()
        assert submit == (Kind.SUBMIT, (5, 0, 1, 20.0))
        assert cancel == (Kind.CANCEL, (5, 0, 1, 0.0))
        assert side.queue.free_slots == 1
        side.queue.succeed(0, 2, 0.0, 0.0)  # of another use
        side.queue.succeed(1, 1, 0.0, 0.0)  # of another slot
        assert side.queue.free_slots == 1
        side.queue.succeed(0, 1, 0.0, 0.0)
        assert side.queue.free_slots == 2
        assert started == []

    play(story)


def test_a_start_is_told_also_to_a_caller_that_leaves() -> None:
    async def story(side: Side) -> None:
        started: list[bool] = []
        async with side.queue.slot(100) as slot:
            side.queue.region.mark_started(0)  # of an earlier use
            row = side.run(slot, on_start=lambda: started.append(True))
            await settle()
            assert not side.queue.region.has_started(0)
            side.queue.region.mark_started(0)
            row.cancel()
            await settle()
            assert started == [True]

    play(story)


def test_a_failure_is_raised_and_frees_the_slot() -> None:
    async def story(side: Side) -> None:
        error = Draining("the service is stopping")
        async with side.queue.slot(100) as slot:
            row = side.run(slot)
            await settle()
            side.queue.fail(0, 1, error)
            with pytest.raises(Draining) as caught:
                await row
            assert caught.value is error
            side.queue.fail(0, 1, error)  # once more is nothing
        assert side.queue.free_slots == 2
        assert [kind for kind, _ in side.sent()] == [Kind.SUBMIT]

    play(story)


def test_a_slot_is_held_until_its_jobs_have_ended() -> None:
    async def story(side: Side) -> None:
        threads = CodecThreads(2)
        done = threads.submit(lambda: None)
        await done.result
        begun, ends = Barrier(3), (Event(), Event())

        def wait_for(end: Event) -> None:
            begun.wait()
            end.wait()

        jobs = [threads.submit(partial(wait_for, end)) for end in ends]
        begun.wait()
        waiting = threads.submit(lambda: None)
        waiting.result.cancel()  # no thread will run it
        async with side.queue.slot(100) as slot:
            for job in (done, *jobs, waiting):
                slot.hold(job)
        for job, end, free in zip(jobs, ends, (1, 2), strict=True):
            assert side.queue.free_slots == 1
            end.set()
            await job.result
            assert side.queue.free_slots == free
        threads.close()

    play(story, asyncio.new_event_loop)


def test_the_engine_process_is_woken_only_where_it_waits_in_vain() -> None:
    async def story(side: Side) -> None:
        region = side.queue.region
        for expected, is_waiting, woken in ((0, False, False), (2, True, False), (0, True, True)):
            side.expected = expected
            region.note_queue(depth=0, backlog=0, is_waiting=is_waiting)
            side.queue.wake()
            assert region.expected == expected
            assert side.sent() == ([(Kind.WAKE, MODEL.pack(5))] if woken else [])

    play(story)


def test_an_engine_process_that_is_gone_fails_all() -> None:
    async def story(side: Side) -> None:
        async with side.queue.slot(100) as slot:
            row = side.run(slot)
            await side.queue.take(100)
            waiting = asyncio.create_task(side.queue.take(100))
            await settle()
            side.queue.close("it has crashed")
            for task in (row, waiting):
                with pytest.raises(EngineDown, match=r"^it has crashed$") as caught:
                    await task
                assert caught.value.headers == {"Retry-After": "1"}
            with pytest.raises(EngineDown, match=r"^it has crashed$") as caught:
                await slot.run(100)
            assert caught.value.headers == {"Retry-After": "1"}
        with pytest.raises(EngineDown):
            await side.queue.take(100)
        assert side.queue.down == "it has crashed"

    play(story)


def test_the_line_is_that_of_the_engine_process() -> None:
    async def story(side: Side) -> None:
        region = side.queue.region
        region.note_queue(depth=2, backlog=5, is_waiting=False)
        region.note_times(seconds_per_image=0.5, free_at=7.0, first_s=2.0, full_s=4.0)
        assert (side.queue.depth, side.queue.backlog, side.queue.seconds_per_image) == (2, 5, 0.5)
        await asyncio.sleep(3)
        assert side.queue.line_s(1) == 4.0 + 4.0
        await asyncio.sleep(10)
        assert side.queue.line_s(1) == 4.0

    play(story)
