"""The limit of each key, on a clock that the test holds."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from service.http.token_buckets import TokenBuckets
from tests.support.api import Api, Serving
from tests.support.clock import Clock

pytestmark = pytest.mark.anyio


KEY, OTHER = "0123456789abcdef", "fedcba9876543210"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def limited(serving: Serving) -> AsyncIterator[Api]:
    """Two requests at once, then one in 1000 s."""
    keys = f"ci:{KEY},phone:{OTHER}"
    async with serving(api_keys=keys, rate_limit_per_s=0.001, rate_limit_burst=2) as api:
        yield api


def test_burst_then_rate(clock: Clock) -> None:
    buckets = TokenBuckets(2.0, 3, clock=clock)
    assert [buckets.take("ci") for _ in range(5)] == [0, 0, 0, 0.5, 0.5]
    clock.now = 0.25
    assert buckets.take("ci") == 0.25
    clock.now = 0.5
    assert [buckets.take("ci"), buckets.take("ci")] == [0, 0.5]


def test_told_wait_is_honest(clock: Clock) -> None:
    buckets = TokenBuckets(4.0, 1, clock=clock)
    buckets.take("ci")
    wait_s = buckets.take("ci")
    clock.now = wait_s - 0.125
    assert buckets.take("ci") == 0.125
    clock.now = wait_s
    assert buckets.take("ci") == 0


def test_bucket_never_holds_more_than_the_burst(clock: Clock) -> None:
    buckets = TokenBuckets(100.0, 2, clock=clock)
    buckets.take("ci")
    clock.now = 3600.0
    assert [buckets.take("ci") for _ in range(3)] == [0, 0, 0.01]


@pytest.mark.parametrize(("rate", "burst"), [(0.1, 1), (1.0, 1), (2.5, 3)])
def test_burst_is_what_a_second_gives(rate: float, burst: int) -> None:
    assert TokenBuckets(rate).burst == burst


def test_owners_have_buckets_of_their_own(clock: Clock) -> None:
    buckets = TokenBuckets(1.0, 1, clock=clock)
    assert [buckets.take(name) for name in ("a", "a", "b")] == [0, 1, 0]


def test_memory_is_bounded_and_the_longest_idle_is_forgotten(clock: Clock) -> None:
    buckets = TokenBuckets(1.0, 1, max_names=2, clock=clock)
    assert [buckets.take(name) for name in ("a", "b", "a", "c")] == [0, 0, 1, 0]
    assert len(buckets) == 2
    assert [buckets.take(name) for name in ("a", "b")] == [1, 0]


async def test_one_request_too_many_is_answered_429_for_its_key_alone(limited: Api) -> None:
    statuses = [(await limited.get("/models", **{"X-API-Key": KEY})).status_code for _ in range(2)]
    assert 429 not in statuses
    response = await limited.get("/models", **{"X-API-Key": KEY})
    problem = limited.check_problem(response, 429, "rate-limited", "ci", "0.001 requests a second", "2 at once")
    assert problem["limit"] == 0.001
    assert 990 < problem["retry_after_s"] <= 1000
    assert problem["retry_after_s"] <= int(response.headers["retry-after"]) <= 1000
    assert (await limited.get("/models", **{"X-API-Key": OTHER})).status_code != 429
    assert await limited.metric('ecenet_requests_rejected_total{reason="rate-limited"}') == 1


async def test_health_and_refused_requests_take_no_token(limited: Api) -> None:
    for _ in range(5):
        assert (await limited.get("/healthz", **{"X-API-Key": KEY})).status_code == 200
        assert (await limited.get("/models", **{"X-API-Key": KEY + "x"})).status_code == 401
    assert (await limited.get("/models", **{"X-API-Key": KEY})).status_code != 429
