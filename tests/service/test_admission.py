from __future__ import annotations

import asyncio

import pytest

from service.admission import Admission
from service.errors import DeadlineExceeded, Draining, Overloaded

pytestmark = pytest.mark.anyio


async def hold(admission: Admission, inside: asyncio.Event) -> None:
    """Come in and stay."""
    async with admission.permit():
        inside.set()
        await asyncio.Event().wait()


async def entered(admission: Admission) -> asyncio.Task[None]:
    """A request that is inside and stays."""
    inside = asyncio.Event()
    task = asyncio.create_task(hold(admission, inside))
    await inside.wait()
    return task


async def test_one_more_than_the_capacity_is_refused_with_the_time_it_would_wait() -> None:
    admission = Admission(capacity=2, timeout_s=60, seconds_per_image=lambda: 2.6)
    tasks = [await entered(admission), await entered(admission)]
    with pytest.raises(Overloaded, match="2 requests") as refusal:
        async with admission.permit():
            pytest.fail("admitted")
    assert refusal.value.headers["Retry-After"] == "6"
    assert admission.in_flight == 2
    tasks[0].cancel()
    await asyncio.wait(tasks[:1])
    async with admission.permit():
        assert admission.in_flight == 2
    tasks[1].cancel()
    await asyncio.wait(tasks)
    assert admission.in_flight == 0


async def test_body_is_cut_off_at_its_deadline() -> None:
    admission = Admission(capacity=1, timeout_s=0.001, seconds_per_image=lambda: 0.0)
    with pytest.raises(DeadlineExceeded, match=r"within 0\.001 s"):
        await hold(admission, asyncio.Event())
    assert admission.in_flight == 0


async def test_error_of_the_body_passes_and_gives_the_place_back() -> None:
    admission = Admission(capacity=1, timeout_s=60, seconds_per_image=lambda: 0.0)
    with pytest.raises(TimeoutError, match="of its own"):
        async with admission.permit():
            raise TimeoutError("of its own")
    assert admission.in_flight == 0


async def test_drain_waits_for_those_inside_and_admits_nobody() -> None:
    admission = Admission(capacity=2, timeout_s=60, seconds_per_image=lambda: 0.0)
    leave, inside = asyncio.Event(), asyncio.Event()

    async def visit() -> str:
        async with admission.permit():
            inside.set()
            await leave.wait()
            return "answered"

    visitor = asyncio.create_task(visit())
    await inside.wait()
    drain = asyncio.create_task(admission.drain(60))
    await asyncio.sleep(0)
    with pytest.raises(Draining):
        async with admission.permit():
            pytest.fail("admitted")
    leave.set()
    assert await visitor == "answered"
    await drain


async def test_drain_cuts_off_who_is_left_when_its_time_is_over() -> None:
    admission = Admission(capacity=2, timeout_s=60, seconds_per_image=lambda: 0.0)
    tasks = [await entered(admission), await entered(admission)]
    await admission.drain(0)
    for task in tasks:
        with pytest.raises(Draining, match="before this request was answered"):
            await task
