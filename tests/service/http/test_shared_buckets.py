"""Rate limits that several processes share."""

from __future__ import annotations

import pytest

from service.http.app import build_app
from service.http.shared_buckets import SharedTokenBuckets
from service.http.token_buckets import TokenBuckets
from service.model_directory.manifest import Manifest
from service.models.source import GivenModel
from service.runtime import Runtime, local_models
from service.settings import Settings
from tests.service.http import bucket_scenarios as scenarios
from tests.service.http.bucket_scenarios import Clock
from tests.support.api import Running
from tests.support.fake_engine import FakeEngine
from tests.support.forked import fresh

KEY = "0123456789abcdef"


def test_four_processes_get_the_burst_and_then_the_rate_and_no_token_more() -> None:
    per_round = scenarios.RATE_PER_S / 2
    assert fresh(scenarios.taken_by_four, 3) == [scenarios.BURST, per_round, per_round]


def test_process_killed_inside_takes_nothing_and_blocks_nobody() -> None:
    assert fresh(scenarios.take_after_the_holder_is_killed) == [0.0, 1.0]


def test_waits_are_those_of_the_buckets_of_one_process() -> None:
    clock = Clock()
    shared, own = SharedTokenBuckets(2.0, 3, clock=clock), TokenBuckets(2.0, 3, clock=clock)
    for step_s in (0, 0, 0, 0, 0.25, 0.25, 3600, 0, 0, 0):
        clock.now += step_s
        assert [shared.take(name) for name in ("ci", "phone")] == [own.take(name) for name in ("ci", "phone")]


@pytest.mark.parametrize(("rate", "burst"), [(0.1, 1), (2.5, 3)])
def test_burst_is_what_a_second_gives(rate: float, burst: int) -> None:
    assert SharedTokenBuckets(rate).burst == burst


def test_table_is_bounded_and_the_longest_idle_of_a_row_is_forgotten() -> None:
    clock = Clock()
    buckets = SharedTokenBuckets(0.001, 1, rows=1, clock=clock)
    for name in "abcdefgh":
        assert buckets.take(name) == 0
        clock.now += 1
    assert buckets.take("a") > 0
    clock.now += 1
    assert buckets.take("new") == 0
    assert buckets.take("a") > 0
    assert buckets.take("c") > 0
    assert buckets.take("b") == 0


@pytest.mark.anyio
async def test_apps_with_the_same_buckets_share_the_limit(
    engine: FakeEngine, manifest: Manifest, running: Running
) -> None:
    settings = Settings(api_keys=f"ci:{KEY}", rate_limit_per_s=0.001, rate_limit_burst=3)  # type: ignore[arg-type]
    buckets = SharedTokenBuckets(0.001, 3)
    statuses = []
    for _ in range(2):
        runtime = Runtime(settings, local_models(GivenModel(engine, manifest), None))
        async with running(build_app(runtime, None, buckets)) as api:
            statuses += [(await api.get("/models", **{"X-API-Key": KEY})).status_code for _ in range(2)]
    assert statuses == [200, 200, 200, 429]
