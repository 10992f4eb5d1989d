from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager

import pytest

from service.errors import (
    ClientGone,
    DeadlineExceeded,
    Draining,
    NotAnImage,
    Overloaded,
    PixelsOverloaded,
    ServiceError,
)
from service.inference.admission import Admission, Ticket, TimeLimit
from service.inference.forecast import Forecast
from service.inference.image_queue import Slot
from service.inference.ledger import LocalLedger
from service.inference.stopwatch import WorkStage
from tests.support.batcher_bench import JumpingLoop

pytestmark = pytest.mark.anyio


class Observer:
    def __init__(self) -> None:
        self.events: list[str] = []

    def client_left(self, stage: WorkStage) -> None:
        self.events.append(f"left in {stage}")

    def request_rejected(self, error: ServiceError) -> None:
        self.events.append(f"rejected: {error.slug}")

    def request_expired(self, stage: WorkStage) -> None:
        self.events.append(f"expired in {stage}")


class Line:
    """An empty queue of an engine; see ``ImageQueue``."""

    max_batch_size, down, depth, backlog = 1, "", 0, 0

    def __init__(self, seconds_per_image: float) -> None:
        self.seconds_per_image = seconds_per_image

    def line_s(self, more: int) -> float:
        return more * self.seconds_per_image

    def slot(self, deadline: float) -> AbstractAsyncContextManager[Slot]:
        raise NotImplementedError

    def wake(self) -> None: ...


def make(
    *,
    capacity: int = 2,
    max_pixels: int = 1000,
    timeout_s: float = 60,
    seconds_per_image: float = 0.0,
    ledger: LocalLedger | None = None,
) -> tuple[Admission, Observer]:
    observer = Observer()
    admission = Admission(
        capacity=capacity,
        max_pixels=max_pixels,
        timeout_s=timeout_s,
        forecast=Forecast(lambda: [Line(seconds_per_image)]),
        observer=observer,
        ledger=ledger,
    )
    return admission, observer


async def hold(admission: Admission, inside: asyncio.Event) -> None:
    """Come in and stay."""
    async with admission.permit():
        inside.set()
        await asyncio.Event().wait()


async def reach(admission: Admission, stage: WorkStage, error: ServiceError | None = None) -> None:
    """Come in, reach a stage, and fail there or stay."""
    async with admission.permit() as ticket:
        ticket.enter(stage)
        if error is not None:
            raise error
        await asyncio.Event().wait()


async def entered(admission: Admission) -> asyncio.Task[None]:
    """A request that is inside and stays."""
    inside = asyncio.Event()
    task = asyncio.create_task(hold(admission, inside))
    await inside.wait()
    return task


async def test_one_more_than_the_capacity_is_refused_with_the_time_it_would_wait() -> None:
    admission, observer = make(capacity=2, seconds_per_image=2.6)
    tasks = [await entered(admission), await entered(admission)]
    with pytest.raises(Overloaded, match="2 requests") as refusal:
        async with admission.permit():
            pytest.fail("admitted")
    assert refusal.value.headers["Retry-After"] == "6"
    assert observer.events == ["rejected: overloaded"]
    assert admission.in_flight == 2
    tasks[0].cancel()
    await asyncio.wait(tasks[:1])
    async with admission.permit():
        assert admission.in_flight == 2
    tasks[1].cancel()
    await asyncio.wait(tasks)
    assert admission.in_flight == 0


async def test_time_to_wait_is_at_least_one_second() -> None:
    admission, _ = make(capacity=1, seconds_per_image=0.001)
    async with admission.permit():
        with pytest.raises(Overloaded) as refusal:
            await hold(admission, asyncio.Event())
    assert refusal.value.headers["Retry-After"] == "1"


def limit(seconds: float) -> TimeLimit:
    """A limit from now on."""
    return TimeLimit(seconds, asyncio.get_running_loop().time())


async def test_a_request_whose_time_is_too_short_for_those_ahead_is_refused_on_arrival() -> None:
    admission, observer = make(capacity=10, seconds_per_image=3.0)
    model = Model(admission, 3.0)
    async with admission.permit(owner=model), admission.permit(owner=model):
        with pytest.raises(Overloaded, match=r"behind .* would take about 9\.0 s; the request has 9\.5 s") as refusal:
            async with admission.permit(limit(9.5), owner=model):
                pytest.fail("admitted")
        async with admission.permit(limit(10.2), owner=model):  # a tenth is for what nobody knows
            pass
    assert refusal.value.headers["Retry-After"] == "1"
    assert refusal.value.extra == {"value": 9.0, "limit": pytest.approx(9.5, abs=0.1), "unit": "seconds"}
    assert observer.events == ["rejected: overloaded"]


async def test_the_time_until_a_retry_is_that_until_enough_is_done() -> None:
    admission, _ = make(capacity=10, seconds_per_image=10)
    model = Model(admission, 10)
    async with admission.permit(owner=model), admission.permit(owner=model):
        with pytest.raises(Overloaded) as refusal:
            async with admission.permit(limit(20), owner=model):
                pytest.fail("admitted")
    assert refusal.value.headers["Retry-After"] == "13"  # 30 s of work, of which 18 may be left


async def test_with_nothing_ahead_a_request_is_admitted_however_short_its_time() -> None:
    admission, _ = make(seconds_per_image=3.0)
    async with admission.permit(limit(0.4), owner=Model(admission, 3.0)) as ticket:
        assert ticket.is_open


async def test_a_request_alone_is_admitted_with_all_of_its_places_however_short_its_time() -> None:
    admission, observer = make(capacity=10, seconds_per_image=3.0)
    model = Model(admission, 3.0)
    async with admission.permit(limit(5), owner=model), admission.permit(limit(5), owner=model, places=1):
        async with admission.permit(limit(5), owner=model, places=2):
            assert admission.in_flight == 3
        with pytest.raises(Overloaded, match=r"behind .* would take about 9\.0 s; the request has 5\.0 s"):
            async with admission.permit(limit(5), owner=model, places=1):  # one of the two is another's
                pytest.fail("admitted")
    assert observer.events == []


async def test_parts_of_an_admitted_request_are_admitted_whatever_is_ahead() -> None:
    admission, _ = make(capacity=10, timeout_s=10, seconds_per_image=30)
    model = Model(admission, 30)
    async with admission.permit(owner=model), admission.permit(owner=model, accepted=True):
        assert admission.in_flight == 2


async def test_requests_are_ahead_in_all_processes_until_their_images_have_reached_the_queue() -> None:
    ledger = LocalLedger()
    (here, _), (there, _) = (make(capacity=10, timeout_s=10, seconds_per_image=30, ledger=ledger) for _ in range(2))
    queue = Model(here, 30)
    async with there.permit(owner=Model(there, 30)) as ticket:
        with pytest.raises(Overloaded):
            async with here.permit(owner=queue):
                pytest.fail("admitted")
        ticket.enter("decode")
        assert ledger.total("expected") == 1
        ticket.enter("queue")
        assert ledger.total("expected") == 0
        async with here.permit(owner=queue):
            assert ledger.total("expected") == 1
    assert ledger.total("expected") == 0


def test_a_slow_body_is_ahead_of_nobody_and_not_waited_for() -> None:
    async def story() -> None:
        ledger = LocalLedger()
        admission, _ = make(ledger=ledger)
        model = Model(admission)
        async with admission.permit(owner=model) as ticket:
            await asyncio.sleep(0.9)
            assert ledger.total("expected") == admission.expected(model) == 1
            await asyncio.sleep(0.2)
            assert ledger.total("expected") == admission.expected(model) == 0
            assert model.woken == [True, False]
            ticket.enter("decode")
            assert ledger.total("expected") == admission.expected(model) == 1
        assert ledger.total("expected") == admission.expected(model) == 0

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(story())


async def test_the_time_of_the_work_around_the_engine_is_learned() -> None:
    admission, _ = make(capacity=10, seconds_per_image=1.0)
    model = Model(admission, 1.0)
    for _ in range(100):
        async with admission.permit(owner=model) as ticket:
            ticket.stopwatch.record("decode", 0.0, 1.5)
            ticket.stopwatch.record("infer", 2.0, 9.0)
            ticket.stopwatch.record("encode", 9.0, 10.0)
    async with admission.permit(owner=model):
        with pytest.raises(Overloaded, match=r"would take about 4\.5 s"):
            async with admission.permit(limit(4.9), owner=model):
                pytest.fail("admitted")


async def test_pixels_of_all_inside_are_bounded() -> None:
    admission, observer = make(capacity=3, max_pixels=1000, seconds_per_image=1.5)
    async with admission.permit() as first, admission.permit() as second:
        admission.count_pixels(first, 600)
        with pytest.raises(PixelsOverloaded, match=r"have 600 pixels; with the 401 .* the limit of 1000") as refusal:
            async with admission.permit() as third:
                admission.count_pixels(third, 401)
        assert refusal.value.headers["Retry-After"] == "5"  # three inside, 1.5 s each
        assert refusal.value.extra == {"value": 1001, "limit": 1000, "unit": "pixels"}
        assert observer.events == ["rejected: overloaded-pixels"]
        admission.count_pixels(second, 400)
        assert admission.pixels == 1000
    assert admission.pixels == 0


async def test_image_larger_than_the_bound_is_taken_when_it_is_alone() -> None:
    admission, _ = make(max_pixels=1000)
    async with admission.permit() as ticket:
        admission.count_pixels(ticket, 5000)
        async with admission.permit() as other:
            with pytest.raises(PixelsOverloaded):
                admission.count_pixels(other, 1)
    async with admission.permit() as ticket:
        admission.count_pixels(ticket, 1)


def test_body_is_cut_off_at_its_deadline_and_the_error_names_limit_and_stage() -> None:
    async def story() -> None:
        admission, observer = make(timeout_s=0.001)
        with pytest.raises(DeadlineExceeded, match=r"within 0\.001 s \(request_timeout_s\); .* 'queue'") as failure:
            await reach(admission, "queue")
        assert failure.value.extra == {"limit": 0.001, "unit": "seconds", "stage": "queue"}
        assert observer.events == ["expired in queue"]
        assert admission.in_flight == 0

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(story())


async def test_time_counts_from_the_arrival() -> None:
    admission, observer = make()
    arrived = asyncio.get_running_loop().time() - 2
    with pytest.raises(DeadlineExceeded, match=r"within 1\.5 s \(X-Request-Timeout-Ms\)"):
        async with admission.permit(TimeLimit(1.5, arrived, "X-Request-Timeout-Ms")):
            pytest.fail("admitted")
    assert observer.events == ["expired in read"]
    async with admission.permit(TimeLimit(30, arrived)) as ticket:
        assert ticket.deadline == arrived + 30


async def test_error_of_a_stage_that_gave_up_is_told_with_the_limit() -> None:
    admission, observer = make()
    with pytest.raises(DeadlineExceeded, match=r"no answer within 60 s \(request_timeout_s\); .* 'infer'"):
        await reach(admission, "infer", DeadlineExceeded("of the batcher"))
    assert observer.events == ["expired in infer"]


async def test_error_of_the_body_passes_and_gives_the_place_back() -> None:
    admission, observer = make()
    with pytest.raises(TimeoutError, match="of its own"):
        async with admission.permit():
            raise TimeoutError("of its own")
    with pytest.raises(NotAnImage):
        async with admission.permit():
            raise NotAnImage("no image")
    assert admission.in_flight == 0
    assert observer.events == []


async def test_a_request_with_further_places_is_counted_once() -> None:
    admission, observer = make(capacity=2)
    with pytest.raises(Overloaded):
        async with admission.permit(), admission.permit(places=1), admission.permit(places=2):
            pytest.fail("admitted")
    assert observer.events == ["rejected: overloaded"]
    assert admission.in_flight == 0


async def test_departure_is_told_with_its_stage() -> None:
    admission, observer = make()
    with pytest.raises(ClientGone):
        await reach(admission, "decode", ClientGone("left"))
    assert observer.events == ["left in decode"]


async def test_refusal_inside_is_told() -> None:
    admission, observer = make()
    with pytest.raises(Draining):
        await reach(admission, "queue", Draining("by the batcher"))
    assert observer.events == ["rejected: draining"]


async def test_no_stage_begins_for_a_request_that_has_left() -> None:
    admission, _ = make()
    async with admission.permit() as ticket:
        with ticket.stage("decode"):
            assert ticket.current_stage == "decode"
    with pytest.raises(DeadlineExceeded, match="before stage 'encode'"), ticket.stage("encode"):
        pytest.fail("begun")
    assert list(ticket.stopwatch.seconds) == ["decode"]


def test_no_stage_begins_after_the_deadline() -> None:
    now = [9.9]
    ticket = Ticket(TimeLimit(5, 5.0), lambda: now[0])
    ticket.enter("post")
    now[0] = 10.0
    with pytest.raises(DeadlineExceeded, match="before stage 'encode'"):
        ticket.enter("encode")
    assert ticket.current_stage == "post"


class Model(Line):
    """A queue that notes if more is expected for it, each time that it is woken."""

    def __init__(self, admission: Admission, seconds_per_image: float = 0.0) -> None:
        super().__init__(seconds_per_image)
        self.woken: list[bool] = []
        self._admission = admission

    def wake(self) -> None:
        self.woken.append(bool(self._admission.expected(self)))


async def test_a_request_is_expected_until_the_last_has_reached_the_queue_or_left() -> None:
    admission, _ = make()
    model = Model(admission)
    assert not admission.expected(model)
    async with admission.permit(owner=model) as first:
        assert admission.expected(model)
        first.enter("queue")
        assert not admission.expected(model)
        async with admission.permit(owner=model) as second:
            second.enter("decode")
            assert admission.expected(model)
        assert model.woken == [True, True, False]


async def test_owners_are_told_of_their_own_requests_alone() -> None:
    admission, _ = make()
    street, night = Model(admission), Model(admission)
    async with admission.permit(owner=street):
        assert not admission.expected(night)
        async with admission.permit(owner=night):
            assert admission.expected(night)
        assert night.woken == [True, False]
        assert street.woken == [True]


async def test_an_owner_is_unused_when_its_requests_have_left_and_none_is_held_open() -> None:
    admission, _ = make()
    street, night = Model(admission), Model(admission)
    async with admission.permit(owner=night):
        await admission.until_unused(street)
        with admission.hold_open(street):
            async with admission.permit(owner=street):
                unused = asyncio.create_task(admission.until_unused(street))
                await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert not unused.done()
        await unused


async def test_drain_waits_for_those_inside_and_admits_nobody() -> None:
    admission, observer = make()
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
    assert observer.events == ["rejected: draining"]


async def test_drain_waits_for_a_request_that_is_held_open_for_its_parts() -> None:
    admission, observer = make()
    with admission.hold_open():
        drain = asyncio.create_task(admission.drain(60))
        await asyncio.sleep(0)
        async with admission.permit(accepted=True):
            pass
        with pytest.raises(Draining):
            async with admission.permit():
                pytest.fail("admitted")
        assert not drain.done()
    await drain
    assert observer.events == ["rejected: draining"]


async def test_drain_does_not_wait_for_what_is_held_open_when_its_time_is_over() -> None:
    admission, _ = make()
    with admission.hold_open():
        await admission.drain(0)
        with pytest.raises(Draining):
            async with admission.permit(accepted=True):
                pytest.fail("admitted")


async def test_drain_cuts_off_who_is_left_when_its_time_is_over() -> None:
    admission, observer = make()
    tasks = [await entered(admission), await entered(admission)]
    await admission.drain(0)
    for task in tasks:
        with pytest.raises(Draining, match="before this request was answered"):
            await task
    assert observer.events == ["rejected: draining"] * 2
