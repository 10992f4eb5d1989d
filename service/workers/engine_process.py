"""The engine process: all models with their engines and queues; workers send it pixels, never clients' bytes.

It ends when the supervisor is gone. An engine that stays down ends it too: the supervisor restarts it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from service.errors import Draining, ServiceError
from service.inference.batch_observers import BatchTrace
from service.logs import watch_drops
from service.metrics import Metrics
from service.models.entry import Choice
from service.models.model import Model
from service.models.repository import Repository
from service.models.source import ModelSource
from service.models.starting import report_failed_start
from service.settings import Settings
from service.workers.catalog_message import CatalogNews, EntryNews, ModelNews, StartState
from service.workers.channel import Channel
from service.workers.messages import Control
from service.workers.signs_of_life import send_signs
from service.workers.slots import slots_for
from service.workers.worker_link import WorkerLink

logger = logging.getLogger(__name__)

# Exit statuses: of a start that failed, and of an engine that should be restarted.
FAILED, ENGINE_DOWN = 1, 3
# An engine that comes back within this time was stuck, not broken.
_DOWN_FOR_S = 5.0
_WATCH_INTERVAL_S = 0.25
# A worker that does not take a catalog in this time is stuck, and must not hold the others up.
_APPLY_TIMEOUT_S = 5.0


class EngineProcess:
    """Serves the workers until the supervisor closes its channel."""

    def __init__(
        self,
        settings: Settings,
        source: ModelSource,
        metrics: Metrics,
        *,
        workers: int,
        first_workers: int,
        batch_trace: BatchTrace | None = None,
        choices: Mapping[str, Sequence[str] | None] | None = None,
        read_caller: Callable[[bytes], Any] = lambda _: None,
        describe: Callable[[Model], str] = lambda _: "",
    ) -> None:
        """List the versions in the folder; ``run`` loads and serves.

        Args:
            settings: How to run.
            source: Where the models are.
            metrics: Those of this process.
            workers: Most workers, for the number of their slots.
            first_workers: Number of workers at the start.
            batch_trace: Notified of each batch.
            choices: The last ``CHOICES`` of the engine process before this one.
            read_caller: Gives the request of a submission, for ``batch_trace``.
            describe: Gives the first lines for a user, when the workers know the default model.

        Raises:
            ManifestError, SettingsError: See ``Repository``.
        """
        self.settings = settings
        self.workers = workers
        self.batch_trace = batch_trace
        self._metrics = metrics
        watch_drops(metrics.log_line_dropped)
        self._first_workers = first_workers
        self._read_caller = read_caller
        self._describe = describe
        self._links: set[WorkerLink] = set()
        self._numbers = itertools.count(1)
        self._number_of: dict[Model, int] = {}
        self._models: dict[int, Model] = {}
        self._state: StartState = "starting"
        self._failure = ""
        self._serial = 0
        self._told: CatalogNews | None = None
        self._sent: dict[str, Any] = {}
        self._changed: set[int] = set()
        self._progress = asyncio.Event()
        self._hung_up = asyncio.Event()
        self._end: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        chosen = {name: None if choice is None else Choice(*choice) for name, choice in (choices or {}).items()}
        self._repository = Repository(source, self, metrics, settings.default_model, chosen)

    async def run(self, control: socket.socket) -> int:
        """Serve; gives the exit status.

        Args:
            control: To the supervisor.
        """
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._hung_up.set)
        self._control = Channel(control, self._obey, lambda: self._finish(0))
        self._keep(send_signs(self._control))
        self._keep(self._start())
        self._keep(self._watch())
        self._keep(self._follow_hang_ups())
        status = await self._end
        self._control.close()
        for link in tuple(self._links):
            link.close()
        return status

    # What models need of their process, see ``service.models.model.Host``.

    def expects(self, model: Model) -> bool:
        """See ``Host``."""
        number = self._number_of.get(model)
        return any(number in link.regions and link.regions[number].expected > 0 for link in self._links)

    async def until_unused(self, model: Model) -> None:
        """See ``Host``."""
        number, serial = self._number_of[model], self._serial
        await self._until(lambda: all(link.applied >= serial and number not in link.regions for link in self._links))
        del self._models[number], self._number_of[model]

    def models_changed(self) -> None:
        """See ``Host``."""
        for model in self._repository.models:
            if model not in self._number_of:
                number = next(self._numbers)
                self._number_of[model], self._models[number] = number, model
        catalog = self._catalog()
        if catalog != self._told:
            self._told = catalog
            self._sent = catalog.pack()
            self._serial += 1
            for link in self._links:
                link.send_catalog(self._serial, self._sent)

    # What a link needs, see ``service.workers.worker_link.EngineHost``.

    def model(self, number: int) -> Model | None:
        """See ``EngineHost``."""
        return self._models.get(number)

    def caller(self, trace: bytes) -> Any:
        """See ``EngineHost``."""
        return self._read_caller(trace)

    def queue_changed(self, number: int) -> None:
        """See ``EngineHost``; workers see it after the messages at hand."""
        if not self._changed:
            asyncio.get_running_loop().call_soon(self._publish)
        self._changed.add(number)

    async def call(self, method: str, arguments: list[Any]) -> Any:
        """See ``EngineHost``."""
        if method == "load":
            name, version = arguments
            model = await self._repository.load(name, version)
            self._send_choices()
            await self._until_applied()
            return model.version
        if method == "unload":
            await self._repository.unload(*arguments)
            self._send_choices()
            await self._until_applied()
            return None
        if method == "index":
            return [asdict(entry) for entry in await self._repository.index()]
        raise ServiceError(f"the engine process knows no call {method!r}")

    def link_changed(self) -> None:
        """See ``EngineHost``."""
        self._progress.set()

    def link_closed(self, link: WorkerLink) -> None:
        """See ``EngineHost``."""
        self._links.discard(link)
        self._progress.set()

    def _catalog(self) -> CatalogNews:
        return CatalogNews(
            self._repository.default,
            self._state,
            self._failure,
            {
                name: EntryNews(entry.newest, entry.is_coming, entry.failure, self._news(entry.serving))
                for name, entry in self._repository.entries.items()
            },
        )

    def _news(self, model: Model | None) -> ModelNews | None:
        if model is None:
            return None
        return ModelNews(
            self._number_of[model],
            model.manifest,
            model.graph,
            model.engine_name,
            model.queue.max_batch_size,
            model.queue.down,
            model.unfused_attentions,
        )

    def _publish(self) -> None:
        """Write the state of queues into the slots of all workers."""
        changed, self._changed = self._changed, set()
        for number in changed:
            model = self._models.get(number)
            if model is None:
                continue
            queue = model.queue
            depth, backlog, seconds = queue.depth, queue.backlog, queue.seconds_per_image
            free_at, first_s, full_s = queue.free_at, queue.first_s, queue.full_s
            for link in self._links:
                if (region := link.regions.get(number)) is not None:
                    region.note_queue(depth=depth, backlog=backlog, is_waiting=0 < depth == backlog)
                    region.note_times(seconds_per_image=seconds, free_at=free_at, first_s=first_s, full_s=full_s)

    def _obey(self, kind: int, _: bytes, descriptor: int) -> None:
        """Follow the supervisor's messages."""
        if kind == Control.WORKER:
            link = WorkerLink(socket.socket(fileno=descriptor), self, self._slots)
            self._links.add(link)
            self.models_changed()
            link.send_catalog(self._serial, self._sent)
        elif kind == Control.CLOSE:
            self._repository.close()

    def _slots(self, model: Model) -> int:
        return slots_for(self.settings.max_requests_in_flight, self.workers, model.queue.max_batch_size)

    async def _start(self) -> None:
        with report_failed_start(self._fail):
            self.models_changed()
            await self._repository.start()
            # No worker says that it is ready before all of them can answer.
            await self._until_applied(self._first_workers)
            self._state = "ready"
            self.models_changed()
            await self._until_applied()
            self._send_ready(self._repository.entries[self._repository.default].serving)
            await self._repository.start_others()
            self.models_changed()

    def _send_ready(self, model: Model | None) -> None:
        """Report to the supervisor; the default model serves, unless it was unloaded."""
        seconds = 0.0 if model is None else model.queue.seconds_per_image
        lines = "" if model is None else self._describe(model)
        self._control.send_json(Control.READY, {"images_per_s": 1 / seconds if seconds else 0.0, "lines": lines})

    def _send_choices(self) -> None:
        self._control.send_json(Control.CHOICES, self._repository.choices)

    def _fail(self, reason: str) -> None:
        if self._state == "ready":
            logger.error("some models could not be loaded: %s", reason)
            return
        self._state, self._failure = "failed", reason
        self._control.send_json(Control.FAILED, {"status": FAILED, "message": reason})
        self._finish(FAILED)
        self.models_changed()

    async def _follow_hang_ups(self) -> None:
        """Rescan after SIGHUP; further signals during a rescan cause one more."""
        while True:
            await self._hung_up.wait()
            self._hung_up.clear()
            await self._rescan()

    async def _rescan(self) -> None:
        try:
            logger.info("rescanned the models: %s", await self._repository.rescan())
        except Draining:
            logger.info("the models are not rescanned: the process is stopping")
        except Exception:
            logger.exception("the models could not be rescanned")
        self._send_choices()
        self.models_changed()

    async def _watch(self) -> None:
        """Notify workers of engines that go down or up, and end with one that stays down."""
        down_since: dict[int, float] = {}
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_WATCH_INTERVAL_S)
            self.models_changed()
            for number in self._models:
                self.queue_changed(number)
            down = {number for number, model in self._models.items() if model.queue.down}
            down_since = {number: down_since.get(number, loop.time()) for number in down}
            if any(loop.time() - since >= _DOWN_FOR_S for since in down_since.values()):
                logger.error("an engine has been down for %g s: the engine process ends", _DOWN_FOR_S)
                self._finish(ENGINE_DOWN)

    async def _until_applied(self, workers: int = 0) -> None:
        """Wait until all workers, and as many as given, use the latest catalog."""
        serial = self._serial
        try:
            async with asyncio.timeout(_APPLY_TIMEOUT_S):
                await self._until(
                    lambda: len(self._links) >= workers and all(link.applied >= serial for link in self._links)
                )
        except TimeoutError:
            logger.warning("a worker has not acknowledged the change of models for %g s", _APPLY_TIMEOUT_S)

    async def _until(self, is_reached: Callable[[], bool]) -> None:
        """Wait for a state that only a link can bring."""
        while not is_reached():
            self._progress.clear()
            await self._progress.wait()

    def _finish(self, status: int) -> None:
        if not self._end.done():
            self._end.set_result(status)

    def _keep(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._end_task)

    def _end_task(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:  # a bug, which only a new process can cure
            logger.error("the engine process ends", exc_info=task.exception())
            self._finish(ENGINE_DOWN)
