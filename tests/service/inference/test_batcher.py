"""The batcher with an engine that the test runs by hand and a clock that jumps: nothing sleeps, nothing is timed."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from service.errors import DeadlineExceeded, Draining, EngineDown, EngineFailure, Overloaded
from service.inference.image_queue import BatchRow
from tests.support.batcher_bench import Bench, Play

POISON = 201


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
        with pytest.raises(Overloaded, match="6 images are waiting for the model, which is the limit") as refusal:
            await bench.submit(9)
        assert refusal.value.headers["Retry-After"] == "10"  # the one that runs, and 6
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
        assert [value(await row) for row in (first, *waiting)] == [0, 2, 4, 6, 8]
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
        assert [value(await waiting[index]) for index in (0, 3)] == [2, 8]
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


def test_stuck_engine_fails_who_waits_and_who_comes_with_the_reason(play: Play) -> None:
    async def story(bench: Bench) -> None:
        running = bench.submit(1)
        await asyncio.sleep(11)
        waiting = bench.submit(2)
        for row in (running, waiting):
            with pytest.raises(EngineDown, match="kept a batch of 1 for more than 5 s"):
                await row
        assert bench.now == pytest.approx(15)
        with pytest.raises(EngineDown, match="for more than 5 s"):
            await bench.submit(3)
        assert bench.now == pytest.approx(15)
        assert bench.batcher.down
        assert bench.observer.drops == ["engine-down"]

    play(story, engine_timeout_s=5)


def test_stuck_engine_that_comes_back_is_used_again(play: Play) -> None:
    async def story(bench: Bench) -> None:
        stuck = bench.submit(1)
        with pytest.raises(EngineDown):
            await stuck
        bench.engine.run()
        await bench.settle()
        assert not bench.batcher.down
        good = bench.submit(4)
        await bench.until_busy()
        bench.engine.run()
        assert value(await good) == 8

    play(story, engine_timeout_s=5)


def test_batch_that_went_ahead_fails_with_the_stuck_engine(play: Play) -> None:
    async def story(bench: Bench) -> None:
        bench.submit(0)
        await asyncio.sleep(11)
        rows = [bench.submit(number) for number in (1, 2, 3, 4)]
        for row in rows:
            with pytest.raises(EngineDown):
                await row
        with pytest.raises(EngineDown):
            await bench.submit(5)
        bench.engine.run()
        bench.engine.run()
        await bench.settle()
        assert not bench.batcher.down
        assert bench.batcher.backlog == 0

    play(story, engine_timeout_s=5, batches_at_once=2)


def test_engine_that_fails_on_everything_is_down_until_a_trial_passes(play: Play) -> None:
    async def story(bench: Bench) -> None:
        bench.engine.is_broken = True
        for number in range(3):
            row = bench.submit(number + 1)
            await bench.until_busy()
            bench.engine.run()
            with pytest.raises(EngineFailure, match="broken"):
                await row
        await bench.until_busy()
        bench.engine.run()
        await bench.settle()
        assert bench.engine.batches[-1] == [0]
        with pytest.raises(EngineDown, match="on every image, on a black one too: broken"):
            await bench.submit(9)
        bench.engine.is_broken = False
        await bench.until_busy()
        bench.engine.run()
        await bench.settle()
        assert not bench.batcher.down

    play(story)


def test_guilty_images_alone_do_not_bring_the_engine_down(play: Play) -> None:
    async def story(bench: Bench) -> None:
        rows = [bench.submit(POISON) for _ in range(4)]
        await bench.run_until_done(rows)
        failures = await asyncio.gather(*rows, return_exceptions=True)
        assert [type(failure) for failure in failures] == [EngineFailure] * 4
        while bench.engine.is_busy:
            bench.engine.run()
            await bench.settle()
        assert [0] in bench.engine.batches
        assert not bench.batcher.down

    play(story)


def test_bug_in_the_batcher_fails_who_waits(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(bench: Bench) -> None:
        monkeypatch.setattr(bench.observer, "image_started", None)
        row = bench.submit(1)
        with pytest.raises(EngineDown, match="the batcher has stopped"):
            await row
        with pytest.raises(EngineDown, match="the batcher has stopped"):
            await bench.submit(2)

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
        assert value(await in_time) == 4

    play(story, batch_seconds={1: 6.0})


def test_batch_is_no_larger_than_its_deadlines_allow(play: Play) -> None:
    async def story(bench: Bench) -> None:
        rows = [bench.submit(1, deadline=14), bench.submit(2, deadline=100), bench.submit(3, deadline=100)]
        await asyncio.sleep(10)
        await bench.until_busy()
        bench.engine.run()
        assert [value(await row) for row in rows[1:]] == [4, 6]
        assert bench.engine.batches == [[2, 3]]  # three would take 6 s
        await bench.until_busy()
        bench.engine.run()
        assert value(await rows[0]) == 2

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
        assert [value(await waiting[index]) for index in (0, 1, 3)] == [2, 4, 8]
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
        assert [value(await row) for row in rows] == [2 * number for number in range(8)]
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
        assert value(await row) == 2

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
