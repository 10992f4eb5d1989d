"""The models of a worker: what the engine process reports of them, and queues to their engines."""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from service.errors import Draining, EngineDown, LoadFailure, NotReady, ServiceError, UnknownModel, unpack_error
from service.inference.admission import Admission
from service.metrics import Metrics
from service.model_directory.manifest import GraphInfo, Manifest
from service.models.catalog import Catalog
from service.models.entry import IndexEntry
from service.settings import Settings
from service.workers.catalog_message import CatalogNews, ModelNews
from service.workers.channel import Channel, read_json
from service.workers.messages import MODEL, RESULT, SERIAL, Control, Kind
from service.workers.remote_queue import RemoteQueue
from service.workers.signs_of_life import send_signs
from service.workers.slots import Layout, slots_for

logger = logging.getLogger(__name__)

# Without an engine process a worker answers the health checks nevertheless.
_CONNECT_TIMEOUT_S = 5.0
_GONE = "the engine process has ended; it is being started again"


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class RemoteModel:
    """A version that serves in the engine process; see ``ServedModel``.

    Attributes:
        number: Of the version, in messages.
        unfused_attentions: See ``ModelNews``.
    """

    number: int
    manifest: Manifest
    graph: GraphInfo
    engine_name: str
    queue: RemoteQueue
    unfused_attentions: int

    @property
    def version(self) -> str:
        """The manifest's."""
        return self.manifest.version


@dataclass(frozen=True, slots=True)
class _Loaded:
    """See ``Loaded``."""

    version: str


@dataclass(frozen=True, slots=True)
class _Entry:
    """See ``CatalogEntry``."""

    newest: str
    is_coming: bool
    failure: str
    serving: RemoteModel | None


class RemoteModels(Catalog[RemoteModel]):
    """Follows the engine process, and the next one where that ends."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        admission: Admission,
        *,
        control: socket.socket,
        workers: int,
        caller: Callable[[], bytes] = bytes,
        on_orphaned: Callable[[], None],
    ) -> None:
        """Know of no model; ``start`` waits for them.

        Args:
            settings: How to run.
            metrics: Those of this worker.
            admission: Its requests.
            control: To the supervisor, which sends channels to engine processes.
            workers: Number of workers.
            caller: Identifies the request that calls, for the traces.
            on_orphaned: Called when the supervisor is gone.
        """
        super().__init__(settings.default_model or "", {})
        self._settings = settings
        self._metrics = metrics
        self._admission = admission
        self._control_socket = control
        self._workers = workers
        self._caller = caller
        self._on_orphaned = on_orphaned
        self._open: dict[int, RemoteModel] = {}
        self._channel: Channel | None = None
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._call_numbers = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed = False
        self._control: Channel | None = None
        self._connected = asyncio.Event()
        self._started = asyncio.Event()
        self._failure: ServiceError | None = None

    @property
    def open_models(self) -> Collection[RemoteModel]:
        """Those that serve, and those whose last requests are being answered."""
        return self._open.values()

    def check_alive(self) -> None:
        """Nothing to check: the supervisor restarts an engine process, and ends if that does not help."""

    async def connect(self) -> None:
        """Wait for the engine process's first report, so that no request precedes it; bounded if there is none."""
        self._control = Channel(self._control_socket, self._obey, self._on_orphaned)
        self._keep(send_signs(self._control))
        with suppress(TimeoutError):
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                await self._connected.wait()

    async def start(self) -> None:
        """Wait until the default model serves.

        Raises:
            LoadFailure: It cannot.
            Draining: See ``close``.
        """
        await self._started.wait()
        if self._failure is not None:
            raise self._failure

    def report_ready(self) -> None:
        """Report to the supervisor that this worker answers requests."""
        assert self._control is not None
        self._control.send(Control.SERVING)

    async def start_others(self) -> None:
        """Nothing to do: the engine process loads them."""

    async def load(self, name: str, version: str | None = None) -> _Loaded:
        """See ``Repository``."""
        return _Loaded(await self._call("load", name, version))

    async def unload(self, name: str) -> None:
        """See ``Repository``."""
        await self._call("unload", name)

    async def index(self) -> list[IndexEntry]:
        """See ``Repository``."""
        return [IndexEntry(**entry) for entry in await self._call("index")]

    def close(self) -> None:
        """Change nothing more: ``load`` and ``unload`` raise ``Draining``."""
        self._is_closed = True
        self._finish_start(Draining("the service is stopping", retry_after_s=1))

    async def stop(self) -> None:
        """Leave the engine process."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._channel is not None:
            self._channel.close()
        if self._control is not None:
            self._control.close()
        self._control_socket.close()

    def unknown(self, name: str, what: str) -> UnknownModel | NotReady:
        """See ``Catalog``; no name is unknown before the engine process has reported its models."""
        if not self.entries:
            return NotReady("the models are being loaded", retry_after_s=1)
        return super().unknown(name, what)

    async def _call(self, method: str, *arguments: Any) -> Any:
        if self._is_closed:
            raise Draining("the service is stopping and does not change its models any more", retry_after_s=1)
        if self._channel is None:
            raise EngineDown(_GONE, retry_after_s=1)
        number = next(self._call_numbers)
        self._calls[number] = answer = asyncio.get_running_loop().create_future()
        self._channel.send_json(Kind.CALL, [number, method, arguments])
        try:
            return await answer
        finally:
            del self._calls[number]

    def _obey(self, kind: int, _: bytes, descriptor: int) -> None:
        """Take the channel to a new engine process from the supervisor."""
        if kind == Control.ENGINE:
            if self._channel is not None:
                self._channel.close()
                self._lose_engine()
            self._channel = Channel(socket.socket(fileno=descriptor), self._receive, self._lose_engine)

    def _receive(self, kind: int, fields: bytes, descriptor: int) -> None:
        if kind == Kind.OUTPUT:
            for number, slot, generation, started, ended in RESULT.iter_unpack(fields):
                if number in self._open:
                    self._open[number].queue.succeed(slot, generation, started, ended)
        elif kind == Kind.FAILURE:
            number, slot, generation, error = read_json(fields, descriptor)
            if number in self._open:
                self._open[number].queue.fail(slot, generation, unpack_error(error))
        elif kind == Kind.CATALOG:
            message = read_json(fields, descriptor)
            news = CatalogNews.unpack(message["catalog"])
            try:
                self._follow(news)
            except OSError as error:  # of the memory of the slots
                self._report_no_room(news, error)
                return
            self._send(Kind.APPLIED, SERIAL.pack(message["serial"]))
        elif kind == Kind.REPLY:
            self._take_reply(read_json(fields, descriptor))

    def _take_reply(self, message: dict[str, Any]) -> None:
        call = self._calls.get(message["id"])
        if call is not None and not call.done():
            if "error" in message:
                call.set_exception(unpack_error(message["error"]))
            else:
                call.set_result(message["result"])

    def _follow(self, news: CatalogNews) -> None:
        """Switch to a new catalog."""
        before = {model.number: model for model in self.models}
        self.default = news.default
        self.entries = {
            name: _Entry(
                entry.newest,
                entry.is_coming,
                entry.failure,
                None if entry.serving is None else self._model(entry.serving),
            )
            for name, entry in news.entries.items()
        }
        after = {model.number: model for model in self.models}
        for number in before.keys() - after.keys():
            self._keep(self._retire(before[number]))
        self._show(before, after)
        self._connected.set()
        if news.state == "ready":
            self._finish_start()
        elif news.state == "failed":
            self._finish_start(LoadFailure(news.failure))

    def _report_no_room(self, news: CatalogNews, error: OSError) -> None:
        """End the first start; later the models stay as they are here, until the next catalog."""
        reason = (
            f"a worker has no room for the slots of the models: {error.strerror}; raise --max-worker-bytes, or lower "
            "--max-requests-in-flight"
        )
        if news.state == "starting" and not self._started.is_set():
            assert self._control is not None
            self._connected.set()
            self._control.send_json(Control.FAILED, {"status": 2, "message": reason})
        else:
            logger.error(reason)

    def _finish_start(self, failure: ServiceError | None = None) -> None:
        """End ``start``, once."""
        if not self._started.is_set():
            self._failure = failure
            self._started.set()

    def _model(self, news: ModelNews) -> RemoteModel:
        """The model with a number, with its latest state."""
        model = self._open.get(news.number)
        if model is None:
            model = self._open[news.number] = self._new_model(news)
        model.queue.down = news.down
        return model

    def _new_model(self, news: ModelNews) -> RemoteModel:
        assert self._channel is not None
        slots = slots_for(self._settings.max_requests_in_flight, self._workers, news.max_batch_size)
        queue = RemoteQueue(
            self._channel,
            news.number,
            Layout.of(news.graph, news.manifest.num_classes, slots),
            max_batch_size=news.max_batch_size,
            expected=self._admission.expected,
            caller=self._caller,
        )
        return RemoteModel(news.number, news.manifest, news.graph, news.engine_name, queue, news.unfused_attentions)

    def _show(self, before: dict[int, RemoteModel], after: dict[int, RemoteModel]) -> None:
        """Show the models that serve in the metrics."""
        for number, model in before.items():
            if number not in after:
                self._metrics.of_model(model.manifest.name).leave()
        for number, model in after.items():
            if number not in before:
                self._metrics.of_model(model.manifest.name).serve(model)

    async def _retire(self, model: RemoteModel) -> None:
        """Notify the engine process when the last request to a version has been answered."""
        await self._admission.until_unused(model.queue)
        if self._open.get(model.number) is model:  # and not one of the next engine process
            del self._open[model.number]
            self._send(Kind.UNUSED, MODEL.pack(model.number))

    def _lose_engine(self) -> None:
        """Fail everything that waits for an engine process that is gone; the next one has other models."""
        self._channel = None
        for model in self._open.values():
            model.queue.close(_GONE)
        self._open.clear()
        for call in self._calls.values():
            if not call.done():
                call.set_exception(EngineDown(_GONE, retry_after_s=1))

    def _send(self, kind: Kind, fields: bytes) -> None:
        if self._channel is not None:
            self._channel.send(kind, fields)

    def _keep(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
