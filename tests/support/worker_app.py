"""The application of a worker, with its engine process on the same event loop: the seam between processes, in one."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

import service.http.app
from service.engines.base import Engine
from service.inference.admission import Admission
from service.inference.batcher import Batcher
from service.metrics import Metrics
from service.model_directory.manifest import Manifest
from service.models.source import GivenModel
from service.runtime import Models, Runtime
from service.settings import Settings
from service.traces import BatchSpans, pack_caller, read_caller
from service.workers.channel import socket_pair
from service.workers.engine_process import EngineProcess
from service.workers.messages import Control
from service.workers.remote_models import RemoteModels


class WorkerApp:
    """A worker and an engine process.

    Attributes:
        app: The application of the worker.
    """

    def __init__(self, settings: Settings, engine: Engine, manifest: Manifest) -> None:
        """``engine`` runs what ``manifest`` describes."""
        self._settings = settings
        self._source = GivenModel(engine, manifest)
        self._metrics = Metrics()
        # Tests of traces put a provider of their own there.
        self._provider = vars(service.http.app)["tracer_provider"](settings)
        self._to_worker, self._of_worker = socket_pair()
        runtime = Runtime(settings, self._make_models, metrics=self._metrics)
        self.app = service.http.app.build_app(runtime, self._provider)
        inner = self.app.router.lifespan_context

        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[None]:
            to_engine, of_engine = socket_pair()
            trace = None if self._provider is None else BatchSpans(self._provider)
            self._process = EngineProcess(
                settings,
                self._source,
                self._metrics,
                workers=1,
                first_workers=1,
                batch_trace=trace,
                read_caller=read_caller,
            )
            task = asyncio.create_task(self._process.run(of_engine))
            one, other = socket_pair()
            with self._to_worker, to_engine, one, other:
                socket.send_fds(to_engine, [bytes((Control.WORKER, 0))], [one.fileno()])
                socket.send_fds(self._to_worker, [bytes((Control.ENGINE,))], [other.fileno()])
                async with inner(app):
                    yield
            await task

        self.app.router.lifespan_context = lifespan

    @property
    def batcher(self) -> Batcher:
        """The queue of the engine process."""
        model = self._process.model(1)
        assert model is not None
        return model.queue

    def _make_models(self, settings: Settings, metrics: Metrics, admission: Admission) -> Models:
        return RemoteModels(
            settings,
            metrics,
            admission,
            control=self._of_worker,
            workers=1,
            caller=bytes if self._provider is None else pack_caller,
            on_orphaned=lambda: None,
        )
