"""The memory of requests of many images: bounded over all, given back whatever happens."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from service.errors import Overloaded
from service.http.many_images.memory import ManyImagesMemory

LIMIT = 1000


@pytest.fixture
def memory() -> ManyImagesMemory:
    return ManyImagesMemory(LIMIT, max_requests=2)


def test_bytes_are_counted_over_all_requests_and_given_back(memory: ManyImagesMemory) -> None:
    with memory.room(0.0) as first, memory.room(0.0) as second:
        first.receive(600)
        second.receive(400)
        assert (memory.held, first.held, second.held) == (1000, 600, 400)
    assert (memory.held, memory.requests) == (0, 0)


def test_bytes_that_do_not_fit_are_refused_with_value_and_limit(memory: ManyImagesMemory) -> None:
    with memory.room(0.0) as first, memory.room(0.0) as second:
        first.receive(600)
        with pytest.raises(Overloaded) as announced:
            second.expect(401)
        assert announced.value.extra == {"value": 1001, "limit": LIMIT, "unit": "bytes"}
        second.receive(400)
        with pytest.raises(Overloaded, match="hold 1000 bytes; with the 1 of this one"):
            second.receive(1)
        assert second.held == 400


def test_request_alone_may_have_more(memory: ManyImagesMemory) -> None:
    with memory.room(0.0) as room:
        room.expect(5000)
        room.receive(3000)
        room.receive(2000)
        assert room.is_tight


def test_too_many_requests_are_refused(memory: ManyImagesMemory) -> None:
    with memory.room(0.0), memory.room(0.0), pytest.raises(Overloaded, match="2 requests") as caught, memory.room(0.0):
        pytest.fail("a third came in")
    assert caught.value.extra == {"limit": 2}


def test_images_go_and_answers_come_until_they_are_sent(memory: ManyImagesMemory) -> None:
    with memory.room(0.0) as room:
        room.receive(500)
        room.settle(num_images=2, num_bytes=450)
        assert (memory.held, memory.images) == (450, 2)
        room.answered(image_bytes=200, answer_bytes=750)
        assert (memory.held, memory.images, room.is_tight) == (1000, 1, True)
        room.sent(750)
        assert (memory.held, room.is_tight) == (250, False)
    assert (memory.held, memory.images) == (0, 0)


def test_retry_after_is_the_time_of_the_images_that_wait(memory: ManyImagesMemory) -> None:
    with ExitStack() as stack:
        first, second = (stack.enter_context(memory.room(0.25)) for _ in range(2))
        first.receive(900)
        first.settle(num_images=20, num_bytes=900)
        for refused in (lambda: second.expect(500), lambda: stack.enter_context(memory.room(0.25))):
            with pytest.raises(Overloaded) as caught:
                refused()
            assert caught.value.headers == {"Retry-After": "5"}
