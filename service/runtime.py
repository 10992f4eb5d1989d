"""All that lives as long as the process: model, engine thread, codec threads, batcher, pipeline, metrics, state."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version

from model_export.manifest import Manifest
from service.admission import Admission
from service.batcher import Batcher
from service.engines.base import Engine, EngineError, warm_up
from service.errors import Draining, NotReady, Unavailable
from service.lifecycle import Lifecycle, State
from service.metrics import Metrics
from service.pipeline import Pipeline
from service.settings import Settings

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
        prove: Callable[[Engine], None] = warm_up,
    ) -> None:
        """Prepare; nothing is loaded and no thread runs before ``start``.

        Args:
            settings: How to run.
            manifest: What the engine runs.
            load_engine: Gives the engine.
            prove: Raises ``EngineError`` unless the engine is fit to serve.
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
        self._codec = ThreadPoolExecutor(settings.codec_threads, thread_name_prefix="codec")
        self._pipeline: Pipeline | None = None
        self._batcher: Batcher | None = None
        self._admission = Admission(
            capacity=settings.max_queue_size,
            timeout_s=settings.request_timeout_s,
            seconds_per_image=lambda: self._batcher.seconds_per_image if self._batcher else 0.0,
        )
        self._loading: asyncio.Task[None] | None = None
        self.metrics.watch_readiness(lambda: self.lifecycle.is_ready)

    @property
    def pipeline(self) -> Pipeline:
        """Where requests go.

        Raises:
            NotReady: The model is not loaded.
        """
        if self._pipeline is None:
            raise self._not_ready()
        return self._pipeline

    def check_ready(self) -> None:
        """Whether a load balancer should send requests here.

        Raises:
            NotReady, Draining: Not yet, or no longer.
        """
        if self.lifecycle.state in {State.DRAINING, State.STOPPED}:
            raise Draining("the process is stopping")
        if not self.lifecycle.is_ready:
            raise self._not_ready()

    def check_alive(self) -> None:
        """Whether the process can still do its work; a supervisor should replace it if not.

        Raises:
            Unavailable: The model could not be loaded, the engine is stuck, or the batcher has died.
        """
        if self.lifecycle.failure:
            raise Unavailable(self.lifecycle.failure)
        if self._batcher is None or self.lifecycle.state is State.STOPPED:
            return
        if not self._batcher.is_running:
            raise Unavailable("the batcher has stopped; the log has the reason")
        if self._batcher.busy_s > self.settings.request_timeout_s:
            raise Unavailable(f"the engine has been busy with one batch for {self._batcher.busy_s:.0f} s")

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
        self._codec.shutdown(wait=False, cancel_futures=True)
        self.lifecycle.advance(State.STOPPED)

    async def _load(self) -> None:
        try:
            engine = await asyncio.get_running_loop().run_in_executor(self._engine_thread, self._load_and_prove)
            self._open(engine)
        except EngineError as error:
            self.lifecycle.fail(str(error))
        except Exception as error:
            logger.exception("the start failed")
            self.lifecycle.fail(f"the start failed: {str(error) or type(error).__name__}")
        finally:
            self.started.set()

    def _load_and_prove(self) -> Engine:
        engine = self._load_engine()
        try:
            self._prove(engine)
        except BaseException:
            engine.close()
            raise
        return engine

    def _open(self, engine: Engine) -> None:
        """Let requests in."""
        self.engine = engine
        self._batcher = batcher = Batcher(
            engine.infer,
            self._engine_thread,
            max_batch_size=min(self.settings.max_batch_size or engine.max_batch_size, engine.max_batch_size),
            max_queue_size=self.settings.max_queue_size,
            window_s=self.settings.batch_window_ms / 1000,
            observer=self.metrics,
        )
        batcher.start()
        self._pipeline = Pipeline(
            settings=self.settings,
            manifest=self.manifest,
            graph=engine.graph,
            admission=self._admission,
            batcher=batcher,
            codec=self._codec,
        )
        self.metrics.watch(queue_depth=lambda: batcher.depth, in_flight=lambda: self._admission.in_flight)
        self.metrics.describe(self.manifest, engine.name, engine.graph, release())
        self.lifecycle.advance(State.READY)

    def _not_ready(self) -> Unavailable:
        return NotReady(self.lifecycle.failure or "the model is being loaded", retry_after_s=1)


def release() -> str:
    """Version of the installed package."""
    try:
        return version("ecenet")
    except PackageNotFoundError:
        return "0+unknown"
