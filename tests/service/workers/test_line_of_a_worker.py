"""The line before the engine, as the engine process writes it and a worker reads it."""

from __future__ import annotations

import asyncio

from service.workers.slots import Region
from tests.support.batcher_bench import JumpingLoop, RemoteBench


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
