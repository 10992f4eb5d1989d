"""The batcher with an engine that the test runs by hand and a clock that jumps: nothing sleeps, nothing is timed."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from service.errors import DeadlineExceeded, Draining, Overloaded
from tests.support.batcher_bench import Bench, Play, output_of


def test_full_batch_runs_without_waiting_for_the_window(play: Play) -> None:
    async def story(bench: Bench) -> None:
        rows = [bench.submit(number) for number in range(4)]
        await bench.until_busy()
        assert bench.now == 0.0
        bench.engine.run()
        assert [output_of(await row) for row in rows] == [0, 2, 4, 6]
        assert bench.engine.batches == [[0, 1, 2, 3]]
        assert bench.observer.sizes == [4]

    play(story)


def test_window_counts_from_the_oldest_image(play: Play) -> None:
    async def story(bench: Bench) -> None:
        bench.submit(1)
        await asyncio.sleep(7)
        bench.submit(2)
        await asyncio.sleep(2.9)
        assert not bench.engine.is_busy
        await asyncio.sleep(0.2)
        assert bench.engine.is_busy
        bench.engine.run()
        assert bench.engine.batches == [[1, 2]]

    play(story)


def test_images_gather_while_the_engine_is_busy_and_run_at_once_when_it_is_free(play: Play) -> None:
    async def story(bench: Bench) -> None:
        bench.submit(1)
        await asyncio.sleep(11)
        waiting = [bench.submit(number) for number in (2, 3)]
        await asyncio.sleep(11)
        freed_at = bench.now
        bench.engine.run()
        await bench.until_busy()
        assert bench.now == freed_at
        bench.engine.run()
        assert [output_of(await row) for row in waiting] == [4, 6]
        assert bench.engine.batches == [[1], [2, 3]]

    play(story)


def test_batch_is_cut_at_its_limit_and_the_oldest_go_first(play: Play) -> None:
    async def story(bench: Bench) -> None:
        for number in range(6):
            bench.submit(number)
        await bench.until_busy()
        bench.engine.run()
        await asyncio.sleep(11)
        bench.engine.run()
        assert bench.engine.batches == [[0, 1, 2, 3], [4, 5]]

    play(story)


def test_row_of_a_batch_equals_the_single_call(play: Play) -> None:
    async def story(bench: Bench) -> None:
        together = [bench.submit(number) for number in (5, 6, 7, 8)]
        await bench.until_busy()
        bench.engine.run()
        alone = bench.submit(7)
        await asyncio.sleep(11)
        bench.engine.run()
        assert output_of(await together[2]) == output_of(await alone)

    play(story)


def test_full_queue_is_refused_with_the_time_it_needs(play: Play) -> None:
    async def story(bench: Bench) -> None:
        first = bench.submit(0)
        await asyncio.sleep(11)
        for number in range(6):
            bench.submit(number)
        await bench.settle()
        bench.batcher.seconds_per_image = 1.4
        with pytest.raises(Overloaded, match="6 images are waiting for the model, which is the limit") as refusal:
            await bench.submit(9)
        assert refusal.value.headers["Retry-After"] == "10"  # the one that runs, and 6
        bench.engine.run()
        assert output_of(await first) == 0

    play(story)


def test_image_of_a_departed_client_never_runs(play: Play) -> None:
    async def story(bench: Bench) -> None:
        stay, leave = bench.submit(1), bench.submit(2)
        await bench.settle()
        leave.cancel()
        await asyncio.sleep(11)
        bench.engine.run()
        assert output_of(await stay) == 2
        assert bench.engine.batches == [[1]]
        assert bench.observer.drops == ["cancelled"]

    play(story)


def test_departure_during_the_batch_harms_nobody(play: Play) -> None:
    async def story(bench: Bench) -> None:
        stay, leave = bench.submit(1), bench.submit(2)
        await asyncio.sleep(11)
        leave.cancel()
        await bench.settle()
        bench.engine.run()
        assert output_of(await stay) == 2
        assert bench.observer.drops == []

    play(story)


def test_drain_finishes_what_waits_at_once_and_accepts_nothing_more(play: Play) -> None:
    async def story(bench: Bench) -> None:
        rows = [bench.submit(number) for number in (1, 2)]
        await bench.settle()
        drain = asyncio.create_task(bench.batcher.drain(20))
        await bench.until_busy()
        assert bench.now == 0.0
        with pytest.raises(Draining):
            await bench.submit(3)
        bench.engine.run()
        await drain
        assert [output_of(await row) for row in rows] == [2, 4]

    play(story)


def test_drain_fails_the_leftovers_when_its_time_is_over(play: Play) -> None:
    async def story(bench: Bench) -> None:
        running = bench.submit(1)
        await asyncio.sleep(11)
        queued = bench.submit(2)
        await bench.settle()
        await bench.batcher.drain(20)
        for row in (running, queued):
            with pytest.raises(Draining):
                await row
        assert bench.now == pytest.approx(31)
        assert bench.observer.drops == ["drained"]
        await bench.batcher.close()

    play(story)


def test_idle_batcher_drains_at_once(play: Play) -> None:
    async def story(bench: Bench) -> None:
        await bench.batcher.drain(20)
        await bench.batcher.close()
        assert bench.now == 0.0

    play(story)


def test_window_is_not_waited_for_when_nobody_comes(play: Play) -> None:
    async def story(bench: Bench) -> None:
        bench.expects_more = False
        bench.submit(1)
        await bench.until_busy()
        assert bench.now == 0.0

    play(story)


def test_window_ends_when_the_last_one_on_its_way_has_turned_back(play: Play) -> None:
    async def story(bench: Bench) -> None:
        bench.submit(1)
        await asyncio.sleep(3)
        assert not bench.engine.is_busy
        bench.expects_more = False
        bench.batcher.wake()
        await bench.until_busy()
        assert bench.now == 3.0

    play(story)


def test_full_batch_goes_ahead_to_an_engine_that_takes_two(play: Play) -> None:
    async def story(bench: Bench) -> None:
        first = bench.submit(0)
        await asyncio.sleep(11)
        assert bench.engine.handed_over == 1
        waiting = [bench.submit(number) for number in (1, 2)]
        await asyncio.sleep(11)
        waiting.append(bench.submit(3))
        await bench.settle()
        assert (bench.engine.handed_over, bench.batcher.depth) == (1, 3)  # not full: others may still join
        waiting.append(bench.submit(4))
        await bench.settle()
        assert (bench.engine.handed_over, bench.batcher.depth) == (2, 0)
        assert len(bench.engine.batches) == 0
        bench.engine.run()
        bench.engine.run()
        assert [output_of(await row) for row in (first, *waiting)] == [0, 2, 4, 6, 8]
        assert bench.engine.batches == [[0], [1, 2, 3, 4]]

    play(story, batches_at_once=2)


def test_who_leaves_a_batch_that_went_ahead_is_not_waited_for(play: Play) -> None:
    async def story(bench: Bench) -> None:
        bench.submit(0)
        await asyncio.sleep(11)
        waiting = [bench.submit(number, deadline=20 if number == 3 else 1000) for number in (1, 2, 3, 4)]
        await bench.settle()
        waiting[1].cancel()
        await asyncio.sleep(10)
        with pytest.raises(DeadlineExceeded):
            await waiting[2]
        bench.engine.run()
        bench.engine.run()
        assert [output_of(await waiting[index]) for index in (0, 3)] == [2, 8]
        assert bench.engine.batches == [[0], [1, 2, 3, 4]]

    play(story, batches_at_once=2)


def test_never_more_than_one_batch_ahead(play: Play) -> None:
    async def story(bench: Bench) -> None:
        bench.submit(0)
        await asyncio.sleep(11)
        rows = [bench.submit(number) for number in range(1, 5)]
        await bench.settle()
        rows += [bench.submit(number) for number in range(5, 10)]
        await bench.settle()
        assert (bench.batcher.depth, bench.batcher.backlog) == (5, 10)
        await bench.run_until_done(rows)
        assert bench.engine.batches == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9]]

    play(story, batches_at_once=2)


def test_start_of_an_image_is_told(play_in_process: Play) -> None:
    started: list[int] = []

    async def story(bench: Bench) -> None:
        bench.submit(1, on_start=lambda: started.append(1))
        bench.submit(2, on_start=lambda: started.append(2))
        await asyncio.sleep(9)
        assert started == []
        await bench.until_busy()
        assert started == [1, 2]
        assert len(bench.observer.waits) == 2

    play_in_process(story)


def test_rows_are_let_go_once_they_are_answered(play_in_process: Play) -> None:
    """While the batcher waits for the next batch, and without the garbage collector: they can hold a lot of memory."""

    async def story(bench: Bench) -> None:
        rows = [bench.submit(value) for value in range(4)]
        await bench.run_until_done(rows)
        output = weakref.ref(rows[0].result().output)
        assert output() is not None
        rows.clear()
        await bench.settle()
        assert output() is None

    gc.disable()
    try:
        play_in_process(story)
    finally:
        gc.enable()
