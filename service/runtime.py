"""All that lives as long as the process: model, engine thread, codec threads, batcher, pipeline, metrics, state."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version

from model_export.manifest import Manifest
from service.admission import Admission
from service.batcher import Batcher
from service.engines.base import Engine, EngineError, warm_up
from service.engines.names import CPU_RUNTIMES
from service.errors import Draining, EngineDown, NotReady, Unavailable
from service.lifecycle import Lifecycle, State
from service.metrics import Metrics
from service.pipeline import Pipeline
from service.settings import Settings
from service.threads import ContextThreads
from service.tiled_inference import BATCHES_IN_FLIGHT
from service.tuning import Tuning, tune

logger = logging.getLogger(__name__)


class Runtime:
    """Starts, drains and stops the service.

    Attributes:
        engine: The engine, once it is loaded.
        started: Set when the start is over, well (state ready) or not (``lifecycle.failure`` says why).
    """

    def __init__(
        self,
        settings: Settings,
        manifest: Manifest,
        load_engine: Callable[[], Engine],
        prove: Callable[[Engine], Mapping[int, float]] = warm_up,
    ) -> None:
        """Prepare; nothing is loaded and no thread runs before ``start``.

        Args:
            settings: How to run.
            manifest: What the engine runs.
            load_engine: Gives the engine.
            prove: Raises ``EngineError`` unless the engine is fit to serve; gives the seconds of a batch by its size.
        """
        self.settings = settings
        self.manifest = manifest
        self.metrics = Metrics()
        self.lifecycle = Lifecycle()
        self.engine: Engine | None = None
        self.started = asyncio.Event()
        self._load_engine = load_engine
        self._prove = prove
        self._engine_thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._codec = ContextThreads(settings.codec_threads, thread_name_prefix="codec")
        self._pipeline: Pipeline | None = None
        self._batcher: Batcher | None = None
        self._stacking = ThreadPoolExecutor(1, thread_name_prefix="stacking")
        self._admission = Admission(
            capacity=settings.max_queue_size,
            max_pixels=settings.max_queue_pixels,
            timeout_s=settings.request_timeout_s,
            backlog_s=self._backlog_s,
            observer=self.metrics,
        )
        self._loading: asyncio.Task[None] | None = None
        self.metrics.watch(
            queue_depth=lambda: self._batcher.depth if self._batcher else 0,
            in_flight=lambda: self._admission.in_flight,
            in_flight_pixels=lambda: self._admission.pixels,
            is_ready=lambda: self.is_ready,
            engine_is_up=lambda: self._batcher is not None and not self._batcher.down,
        )

    @property
    def pipeline(self) -> Pipeline:
        """Where requests go.

        Raises:
            NotReady: The model is not loaded.
            EngineDown: The engine does not work.
        """
        try:
            self._check_engine()
            if self._pipeline is None:
                raise self._not_ready()
        except Unavailable as error:
            self.metrics.request_rejected(error)
            raise
        return self._pipeline

    @property
    def is_ready(self) -> bool:
        """Whether ``check_ready`` would pass."""
        return self.lifecycle.is_ready and self._batcher is not None and not self._batcher.down

    def check_ready(self) -> None:
        """Whether a load balancer should send requests here.

        Raises:
            NotReady, Draining: Not yet, or no longer.
            EngineDown: Not now.
        """
        self._check_engine()
        if self.lifecycle.state in {State.DRAINING, State.STOPPED}:
            raise Draining("the process is stopping")
        if not self.lifecycle.is_ready:
            raise self._not_ready()

    def check_alive(self) -> None:
        """Whether the process can still do its work; a supervisor should replace it if not.

        Raises:
            Unavailable: The model could not be loaded.
            EngineDown: The engine is stuck, fails on everything, or the batcher has died.
        """
        if self.lifecycle.failure:
            raise Unavailable(self.lifecycle.failure)
        self._check_engine()

    async def start(self) -> None:
        """Begin to load the model, in the background: the health checks answer meanwhile."""
        self._loading = asyncio.create_task(self._load(), name="load")

    def begin_drain(self) -> None:
        """Tell load balancers that the process is about to stop; requests are still served."""
        self.lifecycle.advance(State.DRAINING)
        if self._loading is not None:
            self._loading.cancel()

    async def drain(self, timeout_s: float) -> None:
        """Take no more requests; answer those inside within ``timeout_s``, and the rest with 503."""
        self.begin_drain()
        await self._admission.drain(timeout_s)

    async def stop(self) -> None:
        """Drop everything; an engine that is stuck is left behind."""
        self.begin_drain()
        if self._batcher is not None:
            await self._batcher.drain(0)
            await self._batcher.close()
        if self.engine is not None:
            self._engine_thread.submit(self.engine.close)
        self._engine_thread.shutdown(wait=False)
        self._stacking.shutdown(wait=False)
        self._codec.shutdown(wait=False, cancel_futures=True)
        self.lifecycle.advance(State.STOPPED)

    async def _load(self) -> None:
        try:
            engine, seconds = await asyncio.get_running_loop().run_in_executor(
                self._engine_thread, self._load_and_prove
            )
            self._open(engine, self._tune(engine, seconds))
        except EngineError as error:
            self._fail(str(error))
        except Exception as error:
            logger.exception("the start failed")
            self._fail(f"the start failed: {str(error) or type(error).__name__}")
        finally:
            self.started.set()

    def _load_and_prove(self) -> tuple[Engine, Mapping[int, float]]:
        engine = self._load_engine()
        try:
            return engine, self._prove(engine)
        except BaseException:
            engine.close()
            raise

    def _fail(self, reason: str) -> None:
        self.metrics.model_loaded("failure")
        self.lifecycle.fail(reason)

    def _tune(self, engine: Engine, seconds: Mapping[int, float]) -> Tuning:
        window_ms = self.settings.batch_window_ms
        tuning = tune(
            seconds,
            most=engine.max_batch_size,
            max_batch_size=self.settings.max_batch_size,
            window_s=None if window_ms is None else window_ms / 1000,
            engine_timeout_s=self.settings.engine_timeout_s,
        )
        logger.info(
            "batches of up to %d, a window of %.1f ms, %.1f s for the engine; an image takes %.0f ms",
            tuning.max_batch_size,
            tuning.window_s * 1000,
            tuning.engine_timeout_s,
            tuning.seconds_per_image * 1000,
        )
        return tuning

    def _open(self, engine: Engine, tuning: Tuning) -> None:
        """Let requests in."""
        self.engine = engine
        self._batcher = batcher = Batcher(
            engine.infer,
            self._engine_thread,
            max_batch_size=tuning.max_batch_size,
            # One image at a time may be there in windows.
            max_queue_size=self.settings.max_queue_size + BATCHES_IN_FLIGHT * tuning.max_batch_size,
            window_s=tuning.window_s,
            observer=self.metrics,
            engine_timeout_s=tuning.engine_timeout_s,
            # Where the CPU is the engine, copying beside it would only take its time.
            stacking=None if engine.name in CPU_RUNTIMES else self._stacking,
            somebody_comes=lambda: self._admission.somebody_comes,
            seconds_per_image=tuning.seconds_per_image,
        )
        self._admission.when_one_leaves(batcher.look_again)
        batcher.start()
        self._pipeline = Pipeline(
            settings=self.settings,
            manifest=self.manifest,
            graph=engine.graph,
            engine_name=engine.name,
            admission=self._admission,
            batcher=batcher,
            codec=self._codec,
        )
        self.metrics.model_loaded("success")
        self.metrics.describe(self.manifest, engine.name, engine.graph, release())
        self.lifecycle.advance(State.READY)

    def _check_engine(self) -> None:
        if self._batcher is not None and self._batcher.down:
            raise EngineDown(self._batcher.down, retry_after_s=1)

    def _backlog_s(self, requests: int) -> float:
        """Seconds until ``requests``, or the images that they have brought, are done."""
        if self._batcher is None:
            return 0.0
        return max(requests, self._batcher.backlog) * self._batcher.seconds_per_image

    def _not_ready(self) -> Unavailable:
        return NotReady(self.lifecycle.failure or "the model is being loaded", retry_after_s=1)


def release() -> str:
    """Version of the installed package."""
    try:
        return version("ecenet")
    except PackageNotFoundError:
        return "0+unknown"
