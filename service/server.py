"""uvicorn's server with our start and our end: a banner when the model is ready, and a drain in two steps.

On the first SIGTERM or SIGINT ``/readyz`` turns 503 while everything else goes on for ``drain_delay_s``: a load
balancer sees that and sends its requests elsewhere before anything is refused. Then the listening socket closes, and
the requests inside are answered, within ``drain_timeout_s`` of the signal in all. A second signal ends the process at
once. SIGHUP makes it look for models that have come, changed or gone; it never ends the process.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any, cast

import uvicorn
from fastapi import FastAPI

from service.banner import address_of, announce, banner
from service.connection import ConnectionGuard, ConnectionLimits, LimitedProtocol
from service.connection_counts import ConnectionCounts
from service.lifecycle import State
from service.runtime import Runtime

logger = logging.getLogger(__name__)

# For answers that are already made when the drain is over.
_WRITE_TIMEOUT_S = 1


class Server(uvicorn.Server):
    """Serves one app on one bound socket.

    Attributes:
        exit_status: What the process should end with: 0, or 1 when the model could not be used.
    """

    def __init__(
        self,
        app: FastAPI,
        bound: socket.socket,
        *,
        on_ready: Callable[[], None] | None = None,
        connections: ConnectionCounts | None = None,
    ) -> None:
        """Prepare; nothing runs before ``serve_until_signal``.

        Args:
            app: From ``build_app``.
            bound: The socket to listen on.
            on_ready: For one of several workers, whose supervisor says how to use the service and takes SIGHUP: called
                when this one is ready.
            connections: Counts those of all workers.
        """
        self._runtime: Runtime = app.state.runtime
        settings = self._runtime.settings
        super().__init__(
            uvicorn.Config(
                app,
                loop="uvloop",
                http=cast(Any, partial(LimitedProtocol, _guard(self._runtime, connections))),
                ws="none",
                lifespan="on",
                log_config=None,
                server_header=False,
                access_log=False,
                timeout_keep_alive=settings.keep_alive_timeout_s,
                ssl_certfile=settings.tls_cert,
                ssl_keyfile=settings.tls_key,
            )
        )
        self.exit_status = 0
        self._bound = bound
        self._on_ready = on_ready
        self._hung_up = False
        self._watch: asyncio.Task[None] | None = None

    def serve_until_signal(self) -> int:
        """Run until a signal, or until the model turns out to be unusable; gives the exit status."""
        if self._on_ready is None:
            signal.signal(signal.SIGHUP, self._hang_up)
        self.run(sockets=[self._bound])
        return self.exit_status

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the port; the model is loaded meanwhile."""
        await super().startup(sockets)
        self._watch = asyncio.create_task(self._follow_start())

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Drain on the first signal, leave on the second."""
        # uvicorn's own version would raise the signal again after a clean end, and the status would not be 0.
        if self.should_exit:
            os.write(sys.stderr.fileno(), b"ecenet-serve: second signal, leaving at once\n")
            os._exit(128 + sig)
        self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second while the server runs: act on what signals have noted."""
        if self._hung_up:
            self._hung_up = False
            self._runtime.rescan_soon()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Turn unready, serve on for the delay, then close the port and answer what is inside."""
        settings = self._runtime.settings
        deadline = time.monotonic() + settings.drain_timeout_s
        if self._runtime.lifecycle.state is State.READY:
            self._runtime.begin_drain()
            await asyncio.sleep(min(settings.drain_delay_s, settings.drain_timeout_s))
        remaining_s = max(0.0, deadline - time.monotonic())
        self.config.timeout_graceful_shutdown = math.ceil(remaining_s) + _WRITE_TIMEOUT_S
        async with asyncio.TaskGroup() as group:
            group.create_task(self._runtime.drain(remaining_s))
            group.create_task(super().shutdown(sockets))

    async def _follow_start(self) -> None:
        """When the start is over, print how to use the service, or why it cannot be used and end."""
        await self._runtime.started.wait()
        if self._on_ready is not None:
            if self._runtime.lifecycle.is_ready:
                self._on_ready()
            return
        if self._runtime.lifecycle.failure:
            self._tell_failure(self._runtime.lifecycle.failure)
            self.exit_status = 1
            self.should_exit = True
        elif self._runtime.lifecycle.is_ready:
            settings = self._runtime.settings
            announce(settings, banner(settings, self._runtime.models.serving(), address_of(self._bound)))

    def _hang_up(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self._hung_up = True

    def _tell_failure(self, failure: str) -> None:
        if self._logs_json:
            logger.critical(failure)
        else:
            print(f"ecenet-serve: {failure}", file=sys.stderr)  # noqa: T201

    @property
    def _logs_json(self) -> bool:
        """True if every line of output must be JSON."""
        return self._runtime.settings.log_format == "json"


def _guard(runtime: Runtime, counts: ConnectionCounts | None) -> ConnectionGuard:
    settings = runtime.settings
    per_client = settings.max_connections_per_client or -(-settings.max_connections // 2)
    limits = ConnectionLimits(settings.max_connections, per_client, settings.header_timeout_s).within_handles()
    return ConnectionGuard(limits, runtime.metrics.connection_refused, counts)
