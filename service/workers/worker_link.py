"""One worker, as the engine process sees it: its slots, the images that it has sent, and its calls."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from service.engines.base import DirectEngine
from service.errors import EngineDown, ServiceError, pack_error
from service.inference.work import Work
from service.models.model import Model
from service.workers.channel import Channel, read_json
from service.workers.messages import MODEL, RESULT, SERIAL, SUBMISSION, Kind
from service.workers.slots import Layout, Region

logger = logging.getLogger(__name__)

# Results of a message.
_MAX_RESULT_BYTES = 256 * RESULT.size

Call = Callable[[str, list[Any]], Coroutine[Any, Any, Any]]


class EngineHost(Protocol):
    """The engine process, as a link needs it."""

    def model(self, number: int) -> Model | None:
        """The open model with a number."""

    def caller(self, trace: bytes) -> Any:
        """The request of a submission, for the traces of batches."""

    def queue_changed(self, number: int) -> None:
        """The queue of a model has changed."""

    async def call(self, method: str, arguments: list[Any]) -> Any:
        """Do what a worker asks for, on behalf of a client; gives JSON."""

    def link_changed(self) -> None:
        """A link has taken a catalog, given a model up, or closed."""

    def link_closed(self, link: WorkerLink) -> None:
        """The worker is gone."""


class WorkerLink:
    """Serves one worker.

    Attributes:
        applied: Serial of the catalog that the worker goes by.
        regions: Slots of the models that the worker may use, by the model's number.
    """

    def __init__(self, connection: socket.socket, host: EngineHost, slots: Callable[[Model], int]) -> None:
        """``slots`` gives the number of slots that a worker has for a model."""
        self.applied = 0
        self.regions: dict[int, Region] = {}
        self._host = host
        self._slots = slots
        self._works: dict[tuple[int, int], tuple[int, Work]] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self._results = bytearray()
        self._loop = asyncio.get_running_loop()
        self._channel = Channel(connection, self._receive, self._close)

    @property
    def is_open(self) -> bool:
        """True while the worker runs."""
        return self._channel.is_open

    @property
    def images(self) -> int:
        """Images that the worker waits for."""
        return len(self._works)

    def send_catalog(self, serial: int, catalog: dict[str, Any]) -> None:
        """Send the worker the models that serve."""
        self._channel.send_json(Kind.CATALOG, {"serial": serial, "catalog": catalog})

    def close(self) -> None:
        """Leave the worker."""
        self._channel.close()
        self._close()

    def _receive(self, kind: int, fields: bytes, descriptor: int) -> None:
        if kind == Kind.SUBMIT:
            self._submit(fields)
        elif kind == Kind.CANCEL:
            self._cancel(fields)
        elif kind == Kind.WAKE:
            model = self._host.model(_number(fields))
            if model is not None:
                model.queue.wake()
        elif kind == Kind.REGION:
            self._map(_number(fields), descriptor)
        elif kind == Kind.UNUSED:
            self.regions.pop(_number(fields), None)
            self._host.link_changed()
        elif kind == Kind.CALL:
            self._start_call(read_json(fields, descriptor))
        elif kind == Kind.APPLIED:
            (self.applied,) = SERIAL.unpack(fields)
            self._host.link_changed()

    def _map(self, number: int, descriptor: int) -> None:
        """Map the slots that the worker has made for a model."""
        try:
            model = self._host.model(number)
            if model is not None:
                layout = Layout.of(model.graph, model.manifest.num_classes, self._slots(model))
                pin = model.engine.pin if isinstance(model.engine, DirectEngine) else None
                self.regions[number] = Region(layout, descriptor, pin)
                self._host.queue_changed(number)
        finally:
            os.close(descriptor)

    def _submit(self, fields: bytes) -> None:
        number, slot, generation, deadline = SUBMISSION.unpack_from(fields)
        model, region = self._host.model(number), self.regions.get(number)
        if model is None or region is None or slot >= region.layout.slots:
            logger.error("a worker has sent slot %d of model %d, which it does not have", slot, number)
            self._fail(number, slot, generation, EngineDown("the model is no longer served", retry_after_s=1))
            return

        def start() -> None:
            region.mark_started(slot)

        try:
            caller = self._host.caller(fields[SUBMISSION.size :])
            region.pin(slot)
            image, output = region.image(slot), region.output(slot)
            work = model.queue.enqueue(image, output, deadline, on_start=start, caller=caller)
        except ServiceError as error:
            self._fail(number, slot, generation, error)
            return
        self._works[number, slot] = generation, work
        work.row.add_done_callback(lambda _: self._answer(number, slot, generation, work))
        self._host.queue_changed(number)

    def _cancel(self, fields: bytes) -> None:
        number, slot, generation, _ = SUBMISSION.unpack(fields)
        current = self._works.get((number, slot))
        model = self._host.model(number)
        if current is None or current[0] != generation or model is None:
            return
        # The answer follows from the end of its future, now or after its batch: then the slot is free again.
        if model.queue.withdraw(current[1]):
            current[1].row.cancel()

    def _answer(self, number: int, slot: int, generation: int, work: Work) -> None:
        """Report to the worker that the output of an image is in its slot, or why there is none."""
        del self._works[number, slot]
        self._host.queue_changed(number)
        if work.row.cancelled():
            self._report(RESULT.pack(number, slot, generation, 0.0, 0.0))
            return
        error = work.row.exception()
        if isinstance(error, ServiceError):
            self._fail(number, slot, generation, error)
            return
        row = work.row.result()
        self._report(RESULT.pack(number, slot, generation, row.started, row.ended))

    def _report(self, result: bytes) -> None:
        """Report an output to the worker, in one message with those of the same batch."""
        if not self._results:
            self._loop.call_soon(self._send_results)
        self._results += result

    def _send_results(self) -> None:
        for start in range(0, len(self._results), _MAX_RESULT_BYTES):
            self._channel.send(Kind.OUTPUT, bytes(self._results[start : start + _MAX_RESULT_BYTES]))
        self._results.clear()

    def _fail(self, number: int, slot: int, generation: int, error: ServiceError) -> None:
        self._channel.send_json(Kind.FAILURE, [number, slot, generation, pack_error(error)])

    def _start_call(self, message: list[Any]) -> None:
        call = asyncio.create_task(self._call(*message))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)

    async def _call(self, number: int, method: str, arguments: list[Any]) -> None:
        try:
            answer = {"result": await self._host.call(method, arguments)}
        except ServiceError as error:
            answer = {"error": pack_error(error)}
        except Exception:
            logger.exception("a call of %s failed", method)
            answer = {"error": pack_error(ServiceError("unexpected error; the log has it"))}
        self._channel.send_json(Kind.REPLY, {"id": number, **answer})

    def _close(self) -> None:
        """The worker is gone, and its images are nobody's."""
        for (number, _), (_, work) in list(self._works.items()):
            model = self._host.model(number)
            if model is not None:
                model.queue.withdraw(work)
            work.row.cancel()
        self.regions.clear()
        self._host.link_closed(self)


def _number(fields: bytes) -> int:
    """The number of a model."""
    number: int = MODEL.unpack(fields)[0]
    return number
