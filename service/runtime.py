"""Everything that lives as long as the process: the models, the codec threads, admission, metrics, state."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakKeyDictionary

from service.answers.cache import AnswerCache
from service.errors import Draining, NotReady, Unavailable
from service.idle_memory import trim_when_idle
from service.inference.admission import Admission
from service.inference.batch_observers import BatchTrace
from service.inference.codec_threads import CodecThreads
from service.inference.decoder_pool import DecoderPool
from service.inference.forecast import Forecast
from service.inference.ledger import Ledger
from service.inference.pipeline import Pipeline
from service.lifecycle import Lifecycle, State
from service.logs import watch_drops
from service.metrics import Metrics
from service.models.catalog import Loaded, ServedModel
from service.models.entry import IndexEntry
from service.models.model import Model
from service.models.repository import Repository
from service.models.source import ModelSource
from service.models.starting import report_failed_start
from service.release import release
from service.settings import Settings

logger = logging.getLogger(__name__)


class Models(Protocol):
    """The models that a process serves, here or in an engine process; see ``Repository`` for the methods."""

    @property
    def default(self) -> str: ...
    @property
    def default_version(self) -> str: ...
    @property
    def models(self) -> Sequence[ServedModel]: ...
    @property
    def open_models(self) -> Collection[ServedModel]: ...
    def resolve(self, name: str | None) -> str: ...
    def serving(self, name: str | None = None, version: str | None = None) -> ServedModel: ...
    def check_engines(self) -> None: ...
    def check_alive(self) -> None: ...
    async def connect(self) -> None: ...
    async def start(self) -> None: ...
    async def start_others(self) -> None: ...
    async def load(self, name: str, version: str | None = None) -> Loaded: ...
    async def unload(self, name: str) -> None: ...
    async def index(self) -> list[IndexEntry]: ...
    def close(self) -> None: ...
    async def stop(self) -> None: ...


# Makes the models of a process, given its settings, metrics and admission.
MakeModels = Callable[[Settings, Metrics, Admission], Models]


class Runtime:
    """Starts, drains and stops the service.

    Attributes:
        models: Models that are served.
        started: Set when the start is over, well (state ready) or not (``lifecycle.failure`` says why).
    """

    def __init__(
        self,
        settings: Settings,
        make_models: MakeModels,
        *,
        default_only: bool = False,
        metrics: Metrics | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        """Prepare; nothing is loaded and no thread runs before ``start``.

        Args:
            settings: How to run.
            make_models: Makes the models.
            default_only: Load no other model than the default one.
            metrics: Those of this process; new ones if not given.
            ledger: Counts the requests inside, of several processes where it is shared.

        Raises:
            ManifestError, SettingsError: See ``Repository``.
        """
        self.settings = settings
        self.metrics = Metrics(release()) if metrics is None else metrics
        watch_drops(self.metrics.log_line_dropped)
        self.lifecycle = Lifecycle()
        self.started = asyncio.Event()
        self._default_only = default_only
        self._codec = CodecThreads(settings.codec_threads)
        self._admission = Admission(
            capacity=settings.max_requests_in_flight,
            max_pixels=settings.max_pixels_in_flight,
            timeout_s=settings.request_timeout_s,
            forecast=Forecast(lambda: [model.queue for model in self.models.open_models]),
            observer=self.metrics,
            ledger=ledger,
        )
        self._decoders = DecoderPool(settings.codec_threads)
        self._cache = AnswerCache(settings.cache_bytes)
        self._tile_lock = asyncio.Lock()
        self._pipelines: WeakKeyDictionary[ServedModel, Pipeline] = WeakKeyDictionary()
        self.models = make_models(settings, self.metrics, self._admission)
        self._starting: asyncio.Task[None] | None = None
        self._trimming: asyncio.Task[None] | None = None
        self.metrics.watch(
            in_flight=lambda: self._admission.in_flight,
            in_flight_pixels=lambda: self._admission.pixels,
            is_ready=lambda: self.is_ready,
        )

    def pipeline(self, name: str | None = None, version: str | None = None) -> Pipeline:
        """The pipeline of a model; of the default model if no name is given.

        Nothing may be awaited before ``Pipeline.admit``: from there on it stays open.

        Raises:
            UnknownModel, NotReady, EngineDown: See ``Repository.serving``.
        """
        try:
            return self._pipeline_of(self.models.serving(name, version))
        except Unavailable as error:
            self.metrics.request_rejected(error)
            raise

    def _pipeline_of(self, model: ServedModel) -> Pipeline:
        pipeline = self._pipelines.get(model)
        if pipeline is None:
            pipeline = self._pipelines[model] = Pipeline(
                settings=self.settings,
                manifest=model.manifest,
                graph=model.graph,
                engine_name=model.engine_name,
                admission=self._admission,
                queue=model.queue,
                codec=self._codec,
                decoders=self._decoders,
                cache=self._cache,
                tile_lock=self._tile_lock,
            )
        return pipeline

    @property
    def is_ready(self) -> bool:
        """True if ``check_ready`` would pass."""
        try:
            self.check_ready()
        except Unavailable:
            return False
        return True

    def check_ready(self) -> None:
        """Check that a load balancer may send requests here.

        Raises:
            NotReady, Draining: Not yet, or no longer.
            EngineDown: Not now.
        """
        self.models.check_engines()
        self.check_accepting()
        if self.lifecycle.failure:
            raise NotReady(self.lifecycle.failure, retry_after_s=1)
        if not self.lifecycle.is_ready:
            raise NotReady("the model is being loaded", retry_after_s=1)
        self.models.serving()

    def check_accepting(self) -> None:
        """Raises ``Draining`` from the first signal on, but not in a worker that is replaced."""
        if self.lifecycle.state in {State.DRAINING, State.STOPPED} and not self.lifecycle.is_ready:
            raise Draining("the process is stopping")

    def check_alive(self) -> None:
        """Check that the process can do its work; otherwise a supervisor should replace it.

        Raises:
            Unavailable: The default model could not be loaded at the start.
            EngineDown: An engine of this process is stuck, fails on everything, or a batcher has died.
        """
        if self.lifecycle.failure:
            raise Unavailable(self.lifecycle.failure)
        self.models.check_alive()

    async def start(self) -> None:
        """Begin to load the models, in the background: the health checks answer meanwhile."""
        await self.models.connect()
        self._starting = asyncio.create_task(self._start(), name="start")
        trimming = trim_when_idle(lambda: self._admission.in_flight_here, lambda: self._admission.admitted_here)
        self._trimming = asyncio.create_task(trimming, name="trim")

    def begin_drain(self) -> None:
        """Let load balancers see that the process is about to stop; requests are still served."""
        self.lifecycle.advance(State.DRAINING)
        self.models.close()

    async def drain(self, timeout_s: float) -> None:
        """Take no more requests; answer those inside within ``timeout_s``, and the rest with 503."""
        self.begin_drain()
        await self._admission.drain(timeout_s)

    async def stop(self) -> None:
        """Drop everything; an engine that is stuck is left behind."""
        self.begin_drain()
        if self._trimming is not None:
            self._trimming.cancel()
        await self.models.stop()
        if self._starting is not None:
            await self._starting
        self._codec.close()
        self._decoders.close()
        self.lifecycle.advance(State.STOPPED)

    async def _start(self) -> None:
        try:
            with report_failed_start(self._fail):
                await self.models.start()
                if self.lifecycle.state is State.STARTING:  # and not draining since
                    self.lifecycle.advance(State.READY)
                self.started.set()
                if not self._default_only:
                    await self.models.start_others()
        finally:
            self.started.set()

    def _fail(self, reason: str) -> None:
        """The start failed; once the default model serves, the rest is an error in the log."""
        if self.lifecycle.state is State.STARTING:
            self.lifecycle.fail(reason)
        else:
            logger.error("some models could not be loaded: %s", reason)


def local_models(source: ModelSource, batch_trace: BatchTrace | None = None) -> MakeModels:
    """Models whose engines run in this process.

    Args:
        source: Where the models are.
        batch_trace: Notified of each batch of the engines.
    """

    def make(settings: Settings, metrics: Metrics, admission: Admission) -> Models:
        return Repository(source, _LocalHost(settings, admission, batch_trace), metrics, settings.default_model)

    return make


@dataclass(frozen=True, slots=True)
class _LocalHost:
    """The ``Host`` of models in the process that serves them."""

    settings: Settings
    admission: Admission
    batch_trace: BatchTrace | None
    workers: int = 1

    def expects(self, model: Model) -> bool:
        return self.admission.expected(model.queue) > 0

    async def until_unused(self, model: Model) -> None:
        await self.admission.until_unused(model.queue)

    def models_changed(self) -> None:
        """Nothing to do: requests ask the models themselves."""
