"""The line before the engine, as the engine process writes it and a worker reads it."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

import numpy as np
import pytest

from service.errors import EngineDown
from service.workers.channel import Channel, socket_pair
from service.workers.messages import Kind
from service.workers.remote_queue import RemoteQueue
from service.workers.slots import Layout, Region
from tests.support.batcher_bench import JumpingLoop, RemoteBench
from tests.support.limits import HANG_S


def test_a_worker_estimates_as_the_engine_process_does() -> None:
    async def story() -> None:
        bench = RemoteBench(batch_seconds={1: 4.0, 4: 10.0})
        try:
            await bench.settle()
            region, batcher = bench.link.regions[1], bench.batcher
            for number in range(3):
                bench.submit(number)
            await asyncio.sleep(11)
            for number in range(6):
                bench.submit(number)
            await bench.settle()
            publish(region, bench)
            for more in range(7):
                assert bench.queue.line_s(more) == batcher.line_s(more) > 0
            assert bench.queue.line_s(0) == 7.0 + 10.0 + 6.0  # 8 s for three, of which one is over; six wait
            await asyncio.sleep(20)
            assert bench.queue.line_s(0) == 10.0 + 6.0
        finally:
            bench.close()

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(story())


def test_the_engine_process_never_sees_an_image_in_its_queue_as_still_on_its_way() -> None:
    """It would wait a window for the next image, though none is coming."""
    sent: list[list[int]] = []

    async def story() -> None:
        ours, theirs = socket_pair()
        theirs.setblocking(False)
        layout = Layout(slots=1, input_size=(4, 4), output_shape=(1, 1, 1), output_dtype=np.dtype(np.float32))

        def expected(_: RemoteQueue) -> int:
            sent.append(kinds(theirs))
            return 0

        channel = Channel(ours, lambda *_: None, lambda: None)
        queue = RemoteQueue(channel, 1, layout, max_batch_size=4, expected=expected)
        deadline = asyncio.get_running_loop().time() + HANG_S
        with theirs:
            assert kinds(theirs) == [Kind.REGION]
            async with queue.slot(deadline) as slot:
                running = asyncio.create_task(slot.run(deadline))
                await asyncio.sleep(0)
                assert kinds(theirs) == [Kind.SUBMIT]
                queue.close("the test is over")
                with pytest.raises(EngineDown):
                    await running
            channel.close()

    asyncio.run(story())
    assert sent == [[]]


def kinds(connection: socket.socket) -> list[int]:
    """Kinds of the messages that have arrived, which are taken."""
    found = []
    with suppress(BlockingIOError):
        while packet := connection.recv(1 << 16):
            found.append(packet[0])
    return found


def publish(region: Region, bench: RemoteBench) -> None:
    """Write what the engine process does, see ``EngineProcess``."""
    batcher = bench.batcher
    region.note_queue(depth=batcher.depth, backlog=batcher.backlog, is_waiting=False)
    region.note_times(
        seconds_per_image=batcher.seconds_per_image,
        free_at=batcher.free_at,
        first_s=batcher.first_s,
        full_s=batcher.full_s,
    )
