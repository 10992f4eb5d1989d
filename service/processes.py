"""The processes of the service: supervisor, engine process and workers, and the parts of each."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
from collections.abc import Callable
from importlib import import_module
from typing import Any

from service.banner import address_of, announce, banner
from service.engines.cpus import available_cpus
from service.engines.exit_now import exit_now
from service.http.shared_buckets import SharedTokenBuckets
from service.idle_memory import keep_freed_memory
from service.metrics import Metrics
from service.model_directory.manifest import ManifestError
from service.models.source import ModelSource
from service.release import release
from service.settings import Settings, SettingsError
from service.shared_metrics.metric_pages import MetricPages
from service.shared_metrics.process_totals import with_children
from service.workers.channel import sealed_memory
from service.workers.child import limit_address_space
from service.workers.messages import Control
from service.workers.shared_connections import SharedConnections
from service.workers.shared_ledger import SharedLedger
from service.workers.supervisor import Supervisor

# CPU seconds of all processes for a request of 480x360 on a slow core, measured by benchmarks.feed, rounded up.
_SECONDS_PER_REQUEST = 0.009
_MOST_WORKERS = 64
# Where the CPU is the engine, more workers would only take its time.
_CPU_WORKERS = 2


def serve(settings: Settings, make_source: Callable[[], ModelSource], bound: socket.socket) -> tuple[int, str]:
    """Serve until a signal; gives the exit status, and what to say about it.

    Args:
        settings: How to run.
        make_source: Makes the source of the models, in the engine process.
        bound: The socket to listen on.
    """
    processes = _Processes(settings, make_source, bound)
    supervisor = Supervisor(
        processes,
        bound,
        processes.ledger,
        workers=processes.workers,
        max_workers=processes.most_workers,
        drain_timeout_s=settings.drain_timeout_s,
        process_timeout_s=settings.process_timeout_s,
    )
    return supervisor.run()


def workers_for(images_per_s: float, cpus: int) -> int:
    """Number of workers that an engine can use.

    Args:
        images_per_s: Of the engine; 0 if it is not known.
        cpus: Processors that this process may use; one is left to the engine process.
    """
    wanted = math.ceil(images_per_s * _SECONDS_PER_REQUEST)
    return max(min(_CPU_WORKERS, cpus), min(wanted, cpus - 1, _MOST_WORKERS))


class _Processes:
    """The main functions of the processes; see ``Mains``.

    Attributes:
        workers: Number of workers; at the start that of the first ones.
        most_workers: Most workers.
        ledger: Counts of the processes.
    """

    def __init__(self, settings: Settings, make_source: Callable[[], ModelSource], bound: socket.socket) -> None:
        cpus = available_cpus()
        self.workers = min(_CPU_WORKERS, cpus) if settings.workers is None else settings.workers
        self.most_workers = min(_MOST_WORKERS, max(cpus, self.workers)) if settings.workers is None else self.workers
        # Of a row and a page for each worker, the last is the engine process's.
        self.ledger = SharedLedger.create(self.most_workers + 1)
        self._connections = SharedConnections.create(self.most_workers)
        self._pages = MetricPages.create(self.most_workers + 1)
        self._settings = settings
        self._make_source = make_source
        self._bound = bound
        self._address = address_of(bound)
        self._pid = os.getpid()
        rate = settings.rate_limit_per_s
        self._buckets = None if rate is None else SharedTokenBuckets(rate, settings.rate_limit_burst)

    def engine(self, control: socket.socket, choices: Any) -> int:
        """See ``Mains``."""
        metrics = self._metrics(self.most_workers)
        metrics.engine_started()  # first, so that a process that dies at once counts too
        import uvloop  # noqa: PLC0415

        from service.traces import BatchSpans, close_provider, read_caller, tracer_provider  # noqa: PLC0415
        from service.workers.engine_process import EngineProcess  # noqa: PLC0415

        # Where all processes get the signal, as from systemd, workers still need this one; the supervisor ends it.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        settings, address = self._settings, self._address

        async def run() -> int:
            try:
                provider = tracer_provider(settings)
                process = EngineProcess(
                    settings,
                    self._make_source(),
                    metrics,
                    workers=self.most_workers,
                    first_workers=self.workers,
                    batch_trace=None if provider is None else BatchSpans(provider),
                    choices=choices,
                    read_caller=read_caller,
                    describe=lambda model: banner(settings, model, address),
                )
            except (ManifestError, SettingsError) as error:
                return _report(control, error)
            status = await process.run(control)
            await close_provider(provider)
            return status

        return uvloop.run(run())

    def prepare_workers(self) -> None:
        """See ``Mains``."""
        for module in ("uvloop", "service.http.app", "service.server", "service.workers.remote_models"):
            import_module(module)

    def worker(self, number: int, control: socket.socket) -> int:
        """See ``Mains``."""
        from service.http.api_keys import ApiKeysError  # noqa: PLC0415
        from service.http.app import build_app  # noqa: PLC0415
        from service.inference.admission import Admission  # noqa: PLC0415
        from service.runtime import Models, Runtime  # noqa: PLC0415
        from service.server import Server  # noqa: PLC0415
        from service.traces import pack_caller, tracer_provider  # noqa: PLC0415
        from service.workers.remote_models import RemoteModels  # noqa: PLC0415

        settings = self._share(self._settings)
        keep_freed_memory()
        limit_address_space(settings.max_worker_bytes)

        made: list[RemoteModels] = []

        def make_models(settings: Settings, metrics: Metrics, admission: Admission) -> Models:
            models = RemoteModels(
                settings,
                metrics,
                admission,
                control=control,
                workers=self.most_workers,
                caller=bytes if provider is None else pack_caller,
                on_orphaned=lambda: exit_now(1),
            )
            made.append(models)
            return models

        try:
            provider = tracer_provider(settings)
            metrics = self._metrics(number)
            runtime = Runtime(settings, make_models, metrics=metrics, ledger=self.ledger.of(number))
            app = build_app(runtime, provider, self._buckets)
        except (ApiKeysError, SettingsError) as error:
            return _report(control, error)
        (models,) = made
        connections = self._connections.of(number)
        connections.clear()
        Server(app, self._bound, on_ready=models.report_ready, connections=connections).serve_until_signal()
        return 0

    def announce(self, lines: str) -> None:
        """See ``Mains``."""
        announce(self._settings, lines)

    def workers_for(self, images_per_s: float) -> int:
        """See ``Mains``."""
        return workers_for(images_per_s, available_cpus()) if self._settings.workers is None else self.workers

    def share_among(self, workers: int) -> None:
        """See ``Mains``."""
        self.workers = workers

    def _share(self, settings: Settings) -> Settings:
        """The settings of one worker: its share of threads and memory."""
        shared = ("codec_threads", "cache_bytes", "many_images_memory_bytes")
        parts = {
            name: max(1, -(-getattr(settings, name) // self.workers)) for name in shared if getattr(settings, name)
        }
        return settings.model_copy(update=parts)

    def _metrics(self, page: int) -> Metrics:
        self._pages.open(page)
        return Metrics(release(), self._pages, lambda: with_children(self._pid))


def _report(control: socket.socket, error: Exception) -> int:
    """Report to the supervisor why the service cannot start; gives the exit status."""
    status = 1 if isinstance(error, ManifestError) else 2
    # In a file, as the text may name all models.
    failure = sealed_memory("failure", json.dumps({"status": status, "message": str(error)}).encode())
    socket.send_fds(control, [bytes((Control.FAILED,))], [failure])
    return status
