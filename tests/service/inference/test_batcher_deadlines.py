"""Deadlines and measured times in the batcher, with an engine that the test runs by hand and a clock that jumps."""

from __future__ import annotations

import asyncio

import pytest

from service.errors import DeadlineExceeded, EngineDown
from tests.support.batcher_bench import Bench, Play, output_of


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
        assert [output_of(await row) for row in rows] == [4, 6, 8]
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

    play(story)


def test_seconds_per_image_follow_the_measured_batches(play: Play) -> None:
    async def story(bench: Bench) -> None:
        row = bench.submit(1)
        await asyncio.sleep(11)
        bench.engine.run()
        assert bench.batcher.seconds_per_image == 0.0
        assert (await row).infer_s == bench.batcher.seconds_per_image > 0.0

    play(story)


def test_slow_batch_that_was_given_up_does_not_count_for_the_speed(play: Play) -> None:
    async def story(bench: Bench) -> None:
        stuck = bench.submit(1)
        with pytest.raises(EngineDown):
            await stuck
        bench.engine.run()
        await bench.settle()
        assert bench.batcher.seconds_per_image == 0.5

    play(story, engine_timeout_s=1e-9, seconds_per_image=0.5)


def test_image_that_would_be_done_too_late_is_failed_at_once_and_never_runs(play: Play) -> None:
    async def story(bench: Bench) -> None:
        bench.expects_more = False
        late = bench.submit(1, deadline=5.9)
        with pytest.raises(DeadlineExceeded):
            await late
        assert bench.now == 0.0
        assert not bench.engine.is_busy
        assert bench.observer.drops == ["expired"]
        in_time = bench.submit(2, deadline=6.1)
        await bench.until_busy()
        bench.engine.run()
        assert output_of(await in_time) == 4

    play(story, batch_seconds={1: 6.0})


def test_batch_is_no_larger_than_its_deadlines_allow(play: Play) -> None:
    async def story(bench: Bench) -> None:
        rows = [bench.submit(1, deadline=14), bench.submit(2, deadline=100), bench.submit(3, deadline=100)]
        await asyncio.sleep(10)
        await bench.until_busy()
        bench.engine.run()
        assert [output_of(await row) for row in rows[1:]] == [4, 6]
        assert bench.engine.batches == [[2, 3]]  # three would take 6 s
        await bench.until_busy()
        bench.engine.run()
        assert output_of(await rows[0]) == 2

    play(story, batch_seconds={1: 2.0, 4: 8.0})


def test_batch_goes_ahead_without_the_image_that_is_too_late_behind_the_one_that_runs(play: Play) -> None:
    async def story(bench: Bench) -> None:
        bench.submit(0)
        await asyncio.sleep(11)
        # The engine is free at 13, and a full batch takes until 19.
        waiting = [bench.submit(number, deadline=18 if number == 3 else 1000) for number in (1, 2, 3, 4)]
        await bench.settle()
        bench.engine.run()
        bench.engine.run()
        assert [output_of(await waiting[index]) for index in (0, 1, 3)] == [2, 4, 8]
        assert bench.engine.batches == [[0], [1, 2, 4]]

    play(story, batches_at_once=2, batch_seconds={1: 3.0, 4: 6.0})


def test_of_two_batches_at_once_each_is_timed_from_the_end_of_the_one_before(play: Play) -> None:
    async def story(bench: Bench) -> None:
        rows = [bench.submit(number) for number in range(4)]
        await bench.settle()
        rows += [bench.submit(number) for number in range(4, 8)]
        await bench.settle()
        await asyncio.sleep(4)
        bench.engine.run()
        await bench.settle()
        await asyncio.sleep(4)
        bench.engine.run()
        assert [output_of(await row) for row in rows] == [2 * number for number in range(8)]
        assert bench.observer.seconds == [4.0, 4.0]
        assert bench.batcher.seconds_per_image == 1.0

    play(story, batches_at_once=2, clock=lambda: asyncio.get_running_loop().time())


def test_a_slow_time_of_the_engine_is_not_believed_for_ever(play: Play) -> None:
    async def story(bench: Bench) -> None:
        bench.expects_more = False
        refused = 0
        while not bench.engine.is_busy:
            row = bench.submit(1, deadline=bench.now + 5)
            await bench.settle()
            refused += row.done() and row.exception() is not None
        assert refused == 10  # 6 s become less than 5
        bench.engine.run()
        assert output_of(await row) == 2

    play(story, batch_seconds={1: 6.0})


def test_the_line_is_told_in_seconds(play: Play) -> None:
    async def story(bench: Bench) -> None:
        line = bench.batcher.line_s
        assert (line(0), line(1), line(3), line(4), line(5)) == (0.0, 4.0, 8.0, 10.0, 14.0)
        bench.submit(0)
        await asyncio.sleep(11)
        assert line(0) == 3.0  # one second of the batch is over
        for number in range(1, 7):
            bench.submit(number)
        await bench.settle()
        assert (line(0), line(1)) == (3.0 + 10.0 + 6.0, 3.0 + 10.0 + 8.0)
        await asyncio.sleep(9)
        assert line(0) == 10.0 + 6.0

    play(story, batch_seconds={1: 4.0, 2: 6.0, 4: 10.0})


def test_a_batch_that_was_formed_ahead_is_in_the_line(play: Play) -> None:
    async def story(bench: Bench) -> None:
        bench.submit(0)
        await asyncio.sleep(11)
        for number in range(1, 6):
            bench.submit(number)
        await bench.settle()
        assert bench.batcher.depth == 1
        assert bench.batcher.line_s(0) == 3.0 + 10.0 + 4.0

    play(story, batches_at_once=2, batch_seconds={1: 4.0, 4: 10.0})
