"""One worker as the engine process sees it: submissions, calls, and its end; by the messages on the connection."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import numpy as np
import pytest

from service.errors import Draining, EngineDown, ServiceError, pack_error
from service.inference.work import Work
from service.workers.channel import Channel, read_json, socket_pair
from service.workers.messages import MODEL, RESULT, SERIAL, SUBMISSION, Kind
from service.workers.slots import Layout, Region
from service.workers.worker_link import WorkerLink

pytestmark = pytest.mark.anyio

SLOTS = 300
LAYOUT = Layout(slots=SLOTS, input_size=(4, 4), output_shape=(1, 1, 1), output_dtype=np.dtype(np.float32))


class Graph:
    input_size = (4, 4)
    output = "logits"
    logits_type = "float32"

    def output_shape(self, batch: int, num_classes: int) -> tuple[int, ...]:
        return (batch, num_classes, 1, 1)


class Queue:
    """Takes images, and gives none back by itself."""

    def __init__(self) -> None:
        self.works: list[Work] = []
        self.withdrawn: list[Work] = []
        self.wakes = 0
        self.error: ServiceError | None = None

    def enqueue(self, image: Any, output: Any, deadline: float, *, on_start: Any, caller: Any) -> Work:
        if self.error is not None:
            raise self.error
        row = asyncio.get_running_loop().create_future()
        self.works.append(Work(image, output, deadline, 0.0, 0.0, on_start, row, caller))
        return self.works[-1]

    def withdraw(self, work: Work) -> bool:
        self.withdrawn.append(work)
        return True

    def wake(self) -> None:
        self.wakes += 1


class Model:
    def __init__(self) -> None:
        self.queue = Queue()
        self.graph = Graph()
        self.manifest = type("Manifest", (), {"num_classes": 1})
        self.engine = None


class Host:
    """An engine process with the model 1."""

    def __init__(self) -> None:
        self.served: Any = Model()
        self.events: list[Any] = []

    def model(self, number: int) -> Any:
        return self.served if number == 1 else None

    def caller(self, trace: bytes) -> Any:
        return trace.decode()

    def queue_changed(self, number: int) -> None:
        self.events.append(("queue", number))

    async def call(self, method: str, arguments: list[Any]) -> Any:
        if method == "fail":
            raise Draining("no more")
        return {"sum": sum(arguments)}

    def link_changed(self) -> None:
        self.events.append("changed")

    def link_closed(self, link: WorkerLink) -> None:
        self.events.append(("closed", link))


class Worker:
    """The worker's end, and the link at the other one."""

    def __init__(self) -> None:
        ours, theirs = socket_pair()
        self.host = Host()
        self.messages: list[tuple[int, bytes, int]] = []
        self.link = WorkerLink(theirs, self.host, lambda _: SLOTS)
        self.channel = Channel(ours, lambda *message: self.messages.append(message), lambda: None)

    @property
    def queue(self) -> Queue:
        queue: Queue = self.host.served.queue
        return queue

    def allocate(self) -> Region:
        """Make the slots of model 1, and send them."""
        descriptor = Region.allocate(LAYOUT)
        self.channel.send(Kind.REGION, MODEL.pack(1), descriptor)
        region = Region(LAYOUT, descriptor)
        os.close(descriptor)
        return region

    def submit(self, slot: int, generation: int = 1, *, model: int = 1, deadline: float = 9.5) -> None:
        self.channel.send(Kind.SUBMIT, SUBMISSION.pack(model, slot, generation, deadline) + b"trace")

    def json(self) -> list[tuple[int, Any]]:
        """Kinds and values of the messages so far, which are JSON."""
        found = [(kind, read_json(fields, descriptor)) for kind, fields, descriptor in self.messages]
        self.messages.clear()
        return found

    def results(self) -> list[tuple[Any, ...]]:
        """The results so far."""
        assert all(kind == Kind.OUTPUT for kind, _, _ in self.messages)
        found = [row for _, fields, _ in self.messages for row in RESULT.iter_unpack(fields)]
        self.messages.clear()
        return found


@pytest.fixture
async def worker() -> Any:
    worker = Worker()
    yield worker
    worker.channel.close()
    worker.link.close()


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def finish(work: Work, started: float = 1.5, ended: float = 2.5) -> None:
    row = type("Row", (), {"started": started, "ended": ended})
    work.row.set_result(row)  # type: ignore[arg-type]


async def test_an_image_goes_to_the_queue_and_its_times_come_back(worker: Worker) -> None:
    region = worker.allocate()
    region.image(7)[:] = 9
    worker.submit(7, 3)
    await settle()
    (work,) = worker.queue.works
    assert (work.deadline, work.caller) == (9.5, "trace")
    assert (work.image == 9).all()
    assert worker.link.images == 1
    assert not region.has_started(7)
    work.on_start()
    assert region.has_started(7)
    work.output[:] = 4.25
    finish(work)
    await settle()
    assert region.output(7).item() == 4.25
    assert worker.results() == [(1, 7, 3, 1.5, 2.5)]
    assert worker.link.images == 0
    assert worker.host.events == [("queue", 1)] * 3  # its slots, its image, its answer


async def test_results_of_one_turn_go_together_in_messages_that_fit(worker: Worker) -> None:
    worker.allocate()
    for slot in range(SLOTS):
        worker.submit(slot)
    await settle()
    assert len(worker.queue.works) == SLOTS
    for work in worker.queue.works:
        finish(work)
    await settle()
    assert [len(fields) // RESULT.size for _, fields, _ in worker.messages] == [256, 44]
    assert [row[1] for row in worker.results()] == list(range(SLOTS))


@pytest.mark.parametrize(("model", "slot"), [(2, 0), (1, SLOTS)])
async def test_a_slot_that_there_is_not_is_refused(
    worker: Worker, model: int, slot: int, caplog: pytest.LogCaptureFixture
) -> None:
    worker.allocate()
    worker.submit(slot, 5, model=model)
    await settle()
    error = pack_error(EngineDown("the model is no longer served", retry_after_s=1))
    assert worker.json() == [(Kind.FAILURE, [model, slot, 5, error])]
    assert caplog.messages == [f"a worker has sent slot {slot} of model {model}, which it does not have"]
    assert worker.link.images == 0


async def test_an_image_without_slots_is_refused(worker: Worker) -> None:
    worker.submit(0)
    await settle()
    ((kind, (_, _, _, error)),) = worker.json()
    assert (kind, error["headers"]) == (Kind.FAILURE, {"Retry-After": "1"})
    assert worker.queue.works == []


async def test_a_refusal_of_the_queue_goes_back(worker: Worker) -> None:
    worker.allocate()
    worker.queue.error = Draining("the service is stopping")
    worker.submit(2, 8)
    await settle()
    assert worker.json() == [(Kind.FAILURE, [1, 2, 8, pack_error(worker.queue.error)])]
    assert worker.link.images == 0


async def test_an_image_that_failed_is_told_with_its_error(worker: Worker) -> None:
    worker.allocate()
    worker.submit(2, 8)
    await settle()
    error = EngineDown("stuck", retry_after_s=1)
    worker.queue.works[0].row.set_exception(error)
    await settle()
    assert worker.json() == [(Kind.FAILURE, [1, 2, 8, pack_error(error)])]


async def test_an_image_is_cancelled_by_its_generation(worker: Worker) -> None:
    worker.allocate()
    worker.submit(2, 8)
    for model, slot, generation in ((1, 2, 7), (1, 3, 8), (2, 2, 8)):
        worker.channel.send(Kind.CANCEL, SUBMISSION.pack(model, slot, generation, 0.0))
    await settle()
    assert worker.queue.withdrawn == []
    worker.channel.send(Kind.CANCEL, SUBMISSION.pack(1, 2, 8, 0.0))
    await settle()
    assert worker.queue.withdrawn == worker.queue.works
    assert worker.results() == [(1, 2, 8, 0.0, 0.0)]


async def test_an_image_that_a_batch_has_taken_is_answered_when_it_ends(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker.queue, "withdraw", lambda _: False)
    worker.allocate()
    worker.submit(2, 8)
    worker.channel.send(Kind.CANCEL, SUBMISSION.pack(1, 2, 8, 0.0))
    await settle()
    assert worker.messages == []
    finish(worker.queue.works[0])
    await settle()
    assert worker.results() == [(1, 2, 8, 1.5, 2.5)]


async def test_calls_are_answered_by_their_number(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    for number, method, arguments in ((4, "add", [1, 2]), (5, "fail", []), (6, "add", ["x"])):
        worker.channel.send_json(Kind.CALL, [number, method, arguments])
    await settle()
    assert worker.json() == [
        (Kind.REPLY, {"id": 4, "result": {"sum": 3}}),
        (Kind.REPLY, {"id": 5, "error": pack_error(Draining("no more"))}),
        (Kind.REPLY, {"id": 6, "error": pack_error(ServiceError("unexpected error; the log has it"))}),
    ]
    (record,) = caplog.records
    assert record.getMessage() == "a call of add failed"
    assert record.exc_info is not None


async def test_the_catalog_has_a_serial_that_comes_back(worker: Worker) -> None:
    worker.link.send_catalog(12, {"models": []})
    await settle()
    assert worker.json() == [(Kind.CATALOG, {"serial": 12, "catalog": {"models": []}})]
    assert worker.link.applied == 0
    worker.channel.send(Kind.APPLIED, SERIAL.pack(12))
    await settle()
    assert worker.link.applied == 12
    assert worker.host.events == ["changed"]


async def test_the_queue_is_woken_and_slots_are_given_up_by_model(worker: Worker) -> None:
    worker.allocate()
    for kind in (Kind.WAKE, Kind.UNUSED):
        worker.channel.send(kind, MODEL.pack(2))
    await settle()
    assert (worker.queue.wakes, list(worker.link.regions)) == (0, [1])
    for kind in (Kind.WAKE, Kind.UNUSED):
        worker.channel.send(kind, MODEL.pack(1))
    await settle()
    assert (worker.queue.wakes, worker.link.regions) == (1, {})
    assert worker.host.events == [("queue", 1), "changed", "changed"]


async def test_images_of_a_worker_that_is_gone_are_withdrawn(worker: Worker) -> None:
    worker.allocate()
    worker.submit(1)
    worker.submit(2)
    await settle()
    assert worker.link.is_open
    worker.channel.close()
    await settle()
    assert not worker.link.is_open
    assert worker.queue.withdrawn == worker.queue.works
    assert all(work.row.cancelled() for work in worker.queue.works)
    assert (worker.link.regions, worker.link.images) == ({}, 0)
    assert worker.host.events.count(("closed", worker.link)) == 1


async def test_slots_of_a_model_that_is_gone_are_not_kept(worker: Worker) -> None:
    descriptor = Region.allocate(LAYOUT)
    worker.channel.send(Kind.REGION, MODEL.pack(2), descriptor)
    os.close(descriptor)
    await settle()
    assert worker.link.regions == {}
    assert worker.host.events == []
