"""One version of a model that serves: its engine with its own thread, and the queue before it."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Context
from typing import Protocol

from service.engines.base import EngineError, output_dtype, unfused_attentions
from service.errors import LoadFailure
from service.inference.batch_observers import BatchTrace
from service.inference.batch_policy import BatchPolicy, choose_batch_policy
from service.inference.batcher import Batcher
from service.inference.tiled_inference import BATCHES_IN_FLIGHT
from service.inference.watched_engine import runner_of
from service.model_directory.manifest import GraphInfo, ManifestError
from service.model_metrics import ModelMetrics
from service.models.source import FoundModel, LoadedModel, ModelSource
from service.settings import Settings

logger = logging.getLogger(__name__)


class Host(Protocol):
    """The process around the models.

    Attributes:
        settings: How to run.
        workers: Most processes whose requests the models answer.
        batch_trace: Notified of the batches of all models, if given.
    """

    @property
    def settings(self) -> Settings: ...
    @property
    def workers(self) -> int: ...
    @property
    def batch_trace(self) -> BatchTrace | None: ...

    def expects(self, model: Model) -> bool:
        """True while an image for ``model`` may be on its way to the queue."""
        ...

    async def until_unused(self, model: Model) -> None:
        """Wait until no request is inside that ``model`` has to answer; there will be no new one."""

    def models_changed(self) -> None:
        """A model serves, or serves no longer; or its engine has gone down or up."""


class Model:
    """Serves from its creation until ``stop``.

    Attributes:
        found: Its source.
        manifest: The model.
        engine: The engine that runs it.
        queue: The queue before the engine.
    """

    def __init__(
        self, found: FoundModel, loaded: LoadedModel, thread: ThreadPoolExecutor, host: Host, metrics: ModelMetrics
    ) -> None:
        """``thread`` is the one in which the engine was made; it is this model's from here on."""
        self.found = found
        self.manifest = loaded.manifest
        self.engine = engine = loaded.engine
        self._thread = thread
        infer, batches_at_once = runner_of(engine)
        # The thread in which the engine was made, unless one is not enough.
        self._threads = thread if batches_at_once == 1 else ThreadPoolExecutor(batches_at_once, "engine")
        policy = _batch_policy(loaded, host.settings)
        self.queue = Batcher(
            infer,
            self._threads,
            input_size=engine.graph.input_size,
            output_shape=engine.graph.output_shape(1, engine.num_classes)[1:],
            output_dtype=output_dtype(engine.graph),
            max_batch_size=policy.max_batch_size,
            # One image at a time may go through in windows, in each process.
            max_queued_images=host.settings.max_requests_in_flight
            + host.workers * BATCHES_IN_FLIGHT * policy.max_batch_size,
            window_s=policy.window_s,
            observer=metrics,
            engine_timeout_s=policy.engine_timeout_s,
            batches_at_once=batches_at_once,
            expects_more=lambda: host.expects(self),
            seconds_per_image=policy.seconds_per_image,
            batch_seconds=loaded.seconds,
            trace=host.batch_trace,
        )
        # In its own context: its log lines do not belong to the request that has the model loaded.
        Context().run(self.queue.start)

    @property
    def version(self) -> str:
        """The manifest's."""
        return self.manifest.version

    @property
    def graph(self) -> GraphInfo:
        """The engine's."""
        return self.engine.graph

    @property
    def engine_name(self) -> str:
        """The engine's runtime."""
        return self.engine.name

    @property
    def unfused_attentions(self) -> int:
        """Attentions of the engine that are not recognised as fused."""
        return unfused_attentions(self.engine)

    async def stop(self) -> None:
        """Drop everything and give the engine's memory back; an engine that is stuck is left behind."""
        await self.queue.drain(0)
        await self.queue.close()
        self._thread.submit(self.engine.close)
        self._thread.shutdown(wait=False)
        self._threads.shutdown(wait=False)


async def load_model(source: ModelSource, found: FoundModel, host: Host, metrics: ModelMetrics) -> Model:
    """Load a version in its own thread, check it, and make it ready to serve.

    Cancelled, or after ``load_timeout_s``, it leaves the thread to finish, and what that loads is closed.

    Raises:
        LoadFailure: The text says why it cannot be served.
    """
    if found.problem:
        raise LoadFailure(found.problem)
    thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
    job = thread.submit(source.load, found)
    limit_s = host.settings.load_timeout_s
    try:
        async with asyncio.timeout(limit_s) as limit:
            loaded = await asyncio.wrap_future(job)
        return Model(found, loaded, thread, host, metrics)
    except BaseException as error:
        job.add_done_callback(_close_unused)
        thread.shutdown(wait=False)
        if not isinstance(error, Exception):
            raise
        if limit.expired():
            raise LoadFailure(f"{found.title} was not ready within {limit_s:g} s (--load-timeout-s)") from error
        raise LoadFailure(_reason(found, error)) from error


def _close_unused(job: Future[LoadedModel]) -> None:
    if not job.cancelled() and job.exception() is None:
        job.result().engine.close()


def _reason(found: FoundModel, error: Exception) -> str:
    if isinstance(error, EngineError | ManifestError):
        return str(error)
    logger.error("loading %s failed", found.title, exc_info=error)
    return f"loading {found.title} failed: {str(error) or type(error).__name__}"


def _batch_policy(loaded: LoadedModel, settings: Settings) -> BatchPolicy:
    window_ms = settings.batch_window_ms
    policy = choose_batch_policy(
        loaded.seconds,
        engine_limit=loaded.engine.max_batch_size,
        max_batch_size=settings.max_batch_size,
        window_s=None if window_ms is None else window_ms / 1000,
        engine_timeout_s=settings.engine_timeout_s,
    )
    logger.info(
        "%s %s: batches of at most %d images, window %.1f ms, engine timeout %.1f s, %.0f ms per image",
        loaded.manifest.name,
        loaded.manifest.version,
        policy.max_batch_size,
        policy.window_s * 1000,
        policy.engine_timeout_s,
        policy.seconds_per_image * 1000,
    )
    return policy
