"""Failures behind the batcher: guilty images, a stuck engine, a broken one, a bug; run by hand, the clock jumps."""

from __future__ import annotations

import asyncio

import pytest

from service.errors import EngineDown, EngineFailure
from tests.support.batcher_bench import Bench, Play, output_of
from tests.support.fake_engine import POISON


def test_only_the_guilty_image_of_a_batch_fails(play: Play) -> None:
    async def story(bench: Bench) -> None:
        rows = [bench.submit(number) for number in (1, POISON, 3)]
        await asyncio.sleep(11)
        await bench.run_until_done(rows)
        assert output_of(await rows[0]) == 2
        assert output_of(await rows[2]) == 6
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
        assert output_of(await good) == 8

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
        assert output_of(await good) == 8

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
