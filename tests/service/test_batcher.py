"""The batcher with an engine that the test runs by hand and a clock that jumps: nothing sleeps, nothing is timed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from service.batcher import BatchRow
from service.errors import DeadlineExceeded, Draining, EngineFailure, Overloaded

POISON = 201
# Fixtures' types, which live in conftest.py.
Bench = Any
Play = Any


def value(row: BatchRow) -> float:
    """Twice the value of the image, as the engine on the bench computes it."""
    return float(row.output.item())


def test_full_batch_runs_without_waiting_for_the_window(play: Play) -> None:
    async def story(bench: Bench) -> None:
        rows = [bench.submit(number) for number in range(4)]
        await bench.until_busy()
        assert bench.now == 0.0
        bench.engine.run()
        assert [value(await row) for row in rows] == [0, 2, 4, 6]
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
        assert [value(await row) for row in waiting] == [4, 6]
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
        assert value(await together[2]) == value(await alone)

    play(story)


def test_full_queue_is_refused_with_the_time_it_needs(play: Play) -> None:
    async def story(bench: Bench) -> None:
        first = bench.submit(0)
        await asyncio.sleep(11)
        for number in range(6):
            bench.submit(number)
        await bench.settle()
        bench.batcher.seconds_per_image = 1.4
        with pytest.raises(Overloaded, match="6 images wait already") as refusal:
            await bench.submit(9)
        assert refusal.value.headers["Retry-After"] == "9"
        bench.engine.run()
        assert value(await first) == 0

    play(story)


def test_image_of_a_departed_client_never_runs(play: Play) -> None:
    async def story(bench: Bench) -> None:
        stay, leave = bench.submit(1), bench.submit(2)
        await bench.settle()
        leave.cancel()
        await asyncio.sleep(11)
        bench.engine.run()
        assert value(await stay) == 2
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
        assert value(await stay) == 2
        assert bench.observer.drops == []

    play(story)


def test_only_the_guilty_image_of_a_batch_fails(play: Play) -> None:
    async def story(bench: Bench) -> None:
        rows = [bench.submit(number) for number in (1, POISON, 3)]
        await asyncio.sleep(11)
        await bench.run_until_done(rows)
        assert value(await rows[0]) == 2
        assert value(await rows[2]) == 6
        with pytest.raises(EngineFailure, match="poisoned"):
            await rows[1]
        assert bench.engine.batches == [[1, POISON, 3], [1], [POISON], [3]]
        assert bench.observer.failures == 2

    play(story)


def test_engine_works_on_after_a_failure(play: Play) -> None:
    async def story(bench: Bench) -> None:
        guilty = bench.submit(POISON)
        await asyncio.sleep(11)
        bench.engine.run()
        with pytest.raises(EngineFailure):
            await guilty
        good = bench.submit(4)
        await asyncio.sleep(11)
        bench.engine.run()
        assert value(await good) == 8

    play(story)


def test_wrong_number_of_outputs_is_a_failure_of_the_engine(play: Play) -> None:
    async def story(bench: Bench) -> None:
        bench.engine.outputs = 7
        row = bench.submit(1)
        await asyncio.sleep(11)
        bench.engine.run()
        with pytest.raises(EngineFailure, match="7 outputs for 1 images"):
            await row

    play(story)


def test_expired_image_never_runs(play: Play) -> None:
    async def story(bench: Bench) -> None:
        first = bench.submit(1)
        await asyncio.sleep(11)
        late = bench.submit(2, deadline=bench.now + 5)
        with pytest.raises(DeadlineExceeded):
            await late
        bench.engine.run()
        await first
        await asyncio.sleep(11)
        assert bench.engine.batches == [[1]]
        assert bench.observer.drops == ["expired"]
        assert bench.batcher.depth == 0

    play(story)


def test_deadline_is_checked_when_the_batch_forms(play: Play) -> None:
    async def story(bench: Bench) -> None:
        late = bench.submit(1, deadline=bench.now)
        rows = [bench.submit(number) for number in (2, 3, 4)]
        await bench.until_busy()
        bench.engine.run()
        with pytest.raises(DeadlineExceeded):
            await late
        assert [value(await row) for row in rows] == [4, 6, 8]
        assert bench.observer.drops == ["expired"]

    play(story)


def test_callers_of_a_stuck_engine_are_answered_at_their_deadline(play: Play) -> None:
    async def story(bench: Bench) -> None:
        stuck = bench.submit(1, deadline=30)
        await asyncio.sleep(11)
        assert bench.engine.is_busy
        with pytest.raises(DeadlineExceeded):
            await stuck
        assert bench.now == pytest.approx(30)
        assert bench.batcher.busy_s == pytest.approx(20)

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
        assert [value(await row) for row in rows] == [2, 4]

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


def test_seconds_per_image_follow_the_measured_batches(play: Play) -> None:
    async def story(bench: Bench) -> None:
        row = bench.submit(1)
        await asyncio.sleep(11)
        bench.engine.run()
        assert bench.batcher.seconds_per_image == 0.0
        assert (await row).infer_s == bench.batcher.seconds_per_image > 0.0

    play(story)
