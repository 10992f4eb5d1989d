"""Refusals of the admission: the text, the numbers and the pause that a client reads."""

from __future__ import annotations

import asyncio

import pytest

from service.errors import DeadlineExceeded, Draining, Overloaded, PixelsOverloaded, ServiceError
from service.inference.admission import Admission, Ticket, TimeLimit
from service.inference.forecast import Forecast


class Silent:
    """Counts nothing."""

    def client_left(self, stage: str) -> None: ...
    def request_rejected(self, error: ServiceError) -> None: ...
    def request_expired(self, stage: str) -> None: ...


def admission(capacity: int = 1, max_pixels: int = 100) -> Admission:
    return Admission(
        capacity=capacity, max_pixels=max_pixels, timeout_s=5.0, forecast=Forecast(list), observer=Silent()
    )


@pytest.mark.anyio
async def test_a_full_service_tells_its_limit() -> None:
    service = admission()
    async with service.permit():
        with pytest.raises(Overloaded) as error:
            async with service.permit():
                pass
    assert error.value.detail == "1 requests are in the service already, which is the limit"
    assert error.value.extra == {"limit": 1}


@pytest.mark.anyio
async def test_a_service_that_stops_names_another_instance() -> None:
    service = admission()
    await service.drain(0)
    with pytest.raises(Draining) as error:
        async with service.permit():
            pass
    assert error.value.detail == "the service is stopping; send the request to another instance"
    assert error.value.headers == {"Retry-After": "1"}


@pytest.mark.anyio
async def test_a_request_that_a_drain_cuts_off_is_told_so() -> None:
    service = admission()
    begun = asyncio.Event()

    async def request() -> None:
        async with service.permit():
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(request())
    await begun.wait()
    await service.drain(0)
    with pytest.raises(Draining) as error:
        await task
    assert error.value.detail == "the service stopped before this request was answered"
    assert error.value.headers == {"Retry-After": "1"}


@pytest.mark.anyio
async def test_pixels_of_a_request_add_up_and_are_all_given_back() -> None:
    service = admission(capacity=2)
    async with service.permit() as ticket:
        service.count_pixels(ticket, 40)
        service.count_pixels(ticket, 30)
        assert service.pixels == 70
        with pytest.raises(PixelsOverloaded) as error:
            service.count_pixels(ticket, 31)
    assert service.pixels == 0
    assert error.value.extra == {"value": 101, "limit": 100, "unit": "pixels"}
    assert error.value.detail.endswith("with the 31 of this one they would exceed the limit of 100")
    with pytest.raises(DeadlineExceeded, match="ended before its pixels were counted"):
        service.count_pixels(ticket, 1)


@pytest.mark.anyio
async def test_a_stage_begins_neither_after_the_end_of_the_time_nor_of_the_request() -> None:
    now = 10.0
    ticket = Ticket(TimeLimit(2.0, 9.0), lambda: now)
    assert (ticket.deadline, ticket.seconds_left) == (11.0, 1.0)
    ticket.enter("decode")
    now = 11.0
    assert ticket.seconds_left == 0
    with pytest.raises(DeadlineExceeded, match="over before stage 'infer'"):
        ticket.enter("infer")
    ticket.enter("infer", check=False)
    assert ticket.current_stage == "infer"
    now = 10.0
    ticket.close()
    with pytest.raises(DeadlineExceeded):
        ticket.enter("post")
