"""One version of a model that serves: its engine with a thread of its own, its batcher, its pipeline."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextvars import Context
from dataclasses import dataclass

from service.answers.cache import AnswerCache
from service.engines.base import EngineError
from service.engines.runtimes import CPU_RUNTIMES
from service.errors import LoadFailure
from service.inference.admission import Admission
from service.inference.batch_policy import BatchPolicy, choose_batch_policy
from service.inference.batcher import Batcher, BatchTrace
from service.inference.pipeline import Pipeline
from service.inference.tiled_inference import BATCHES_IN_FLIGHT
from service.model_directory.manifest import ManifestError
from service.model_metrics import ModelMetrics
from service.models.source import FoundModel, LoadedModel, ModelSource
from service.settings import Settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Shared:
    """Resources that all models of a process share.

    Attributes:
        settings: How to run.
        admission: Bounds the requests of all of them.
        codec: Threads that decode and encode.
        cache: Answers of all of them.
        tile_lock: Held by the one image that goes through a model in windows.
        batch_trace: Told of the batches of all of them, if somebody wants to know.
    """

    settings: Settings
    admission: Admission
    codec: Executor
    cache: AnswerCache
    tile_lock: asyncio.Lock
    batch_trace: BatchTrace | None = None


class Model:
    """Serves from its creation until ``retire`` or ``stop``.

    Attributes:
        found: Where it is from.
        manifest: The model.
        engine: What runs it.
        batcher: The line before the engine.
        pipeline: Where requests go.
    """

    def __init__(
        self, found: FoundModel, loaded: LoadedModel, thread: ThreadPoolExecutor, shared: Shared, metrics: ModelMetrics
    ) -> None:
        """``thread`` is the one in which the engine was made; it is this model's from here on."""
        self.found = found
        self.manifest = loaded.manifest
        self.engine = engine = loaded.engine
        self._thread = thread
        self._stacking = ThreadPoolExecutor(1, thread_name_prefix="stacking")
        policy = _batch_policy(loaded, shared.settings)
        self.batcher = Batcher(
            engine.infer,
            thread,
            max_batch_size=policy.max_batch_size,
            # One image at a time may be there in windows.
            max_queued_images=shared.settings.max_requests_in_flight + BATCHES_IN_FLIGHT * policy.max_batch_size,
            window_s=policy.window_s,
            observer=metrics,
            engine_timeout_s=policy.engine_timeout_s,
            # Where the CPU is the engine, copying beside it would only take its time.
            stacking=None if engine.name in CPU_RUNTIMES else self._stacking,
            expects_more=lambda: shared.admission.expects(self.batcher),
            seconds_per_image=policy.seconds_per_image,
            trace=shared.batch_trace,
        )
        self.pipeline = Pipeline(
            settings=shared.settings,
            manifest=self.manifest,
            graph=engine.graph,
            engine_name=engine.name,
            admission=shared.admission,
            batcher=self.batcher,
            codec=shared.codec,
            cache=shared.cache,
            tile_lock=shared.tile_lock,
        )
        # In a context of its own: what it logs does not belong to the request that has the model loaded.
        Context().run(self.batcher.start)

    @property
    def version(self) -> str:
        """The manifest's."""
        return self.manifest.version

    async def retire(self) -> None:
        """Answer the requests inside, of which there will be no more, then ``stop``."""
        await self.pipeline.until_unused()
        await self.stop()

    async def stop(self) -> None:
        """Drop everything and give the engine's memory back; an engine that is stuck is left behind."""
        await self.batcher.drain(0)
        await self.batcher.close()
        self._thread.submit(self.engine.close)
        self._thread.shutdown(wait=False)
        self._stacking.shutdown(wait=False)


async def load_model(source: ModelSource, found: FoundModel, shared: Shared, metrics: ModelMetrics) -> Model:
    """Load a version in a thread of its own, let it prove itself, and make it ready to serve.

    Cancelled, or after ``load_timeout_s``, it leaves the thread to finish, and what that loads is closed.

    Raises:
        LoadFailure: The text says why it cannot be served.
    """
    if found.problem:
        raise LoadFailure(found.problem)
    thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
    job = thread.submit(source.load, found)
    limit_s = shared.settings.load_timeout_s
    try:
        async with asyncio.timeout(limit_s) as limit:
            loaded = await asyncio.wrap_future(job)
        return Model(found, loaded, thread, shared, metrics)
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
