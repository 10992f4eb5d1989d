"""uvicorn's server with our own shutdown: a drain in two steps.

On the first SIGTERM ``/readyz`` turns 503 while everything else continues for ``drain_delay_s``: a load
balancer sees that and sends its requests elsewhere before anything is refused. Then the listening socket closes, and
the requests inside are answered, within ``drain_timeout_s`` of the signal in all. A further one changes nothing: one
for the service comes from the supervisor, and where all processes get it, as from systemd, from outside too. The
supervisor ends the service at once on its second one. On SIGINT, which the supervisor sends to a worker that another
one replaces, ``/readyz`` stays 200, for the service stays ready.
"""

from __future__ import annotations

import asyncio
import math
import signal
import socket
import time
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any, cast

import uvicorn
from fastapi import FastAPI

from service.connections.acceptor import Acceptor
from service.connections.counts import ConnectionCounts
from service.connections.guard import ConnectionGuard
from service.connections.limits import ConnectionLimits
from service.connections.protocol import LimitedProtocol
from service.lifecycle import State
from service.runtime import Runtime

# For answers that are already made when the drain is over.
_WRITE_TIMEOUT_S = 1


class Server(uvicorn.Server):
    """Serves one app on one bound socket."""

    def __init__(
        self,
        app: FastAPI,
        bound: socket.socket,
        *,
        on_ready: Callable[[], None] = lambda: None,
        connections: ConnectionCounts | None = None,
    ) -> None:
        """Prepare; nothing runs before ``serve_until_signal``.

        Args:
            app: From ``build_app``.
            bound: The socket to listen on.
            on_ready: Called when the default model serves.
            connections: Counts those of all workers.
        """
        self._runtime: Runtime = app.state.runtime
        settings = self._runtime.settings
        self._guard = _guard(self._runtime, connections)
        super().__init__(
            uvicorn.Config(
                app,
                loop="uvloop",
                http=cast(Any, partial(LimitedProtocol, self._guard)),
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
        self._bound = bound
        self._on_ready = on_ready
        self._watch: asyncio.Task[None] | None = None
        self._acceptor: Acceptor | None = None

    def serve_until_signal(self) -> None:
        """Run until a signal."""
        self.run(sockets=[self._bound])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002
        """Open the port; the model is loaded meanwhile."""
        await super().startup([])
        make_protocol: Callable[[], asyncio.Protocol] = partial(
            cast(Any, self.config.http_protocol_class),
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        self._acceptor = Acceptor(
            self._bound,
            make_protocol,
            self._guard.counts,
            tls=self.config.ssl,
            handshake_timeout_s=self._guard.limits.header_timeout_s,
        )
        self._watch = asyncio.create_task(self._follow_start())

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Drain, for the service's end if any signal says so."""
        self._runtime.lifecycle.is_replaced = sig == signal.SIGINT and not self.should_exit
        # uvicorn's own version would raise the signal again after a clean end, and the status would not be 0.
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Turn unready, keep serving for the delay, then close the port and answer the requests inside."""
        settings = self._runtime.settings
        deadline = time.monotonic() + settings.drain_timeout_s
        if self._runtime.lifecycle.state is State.READY:
            self._runtime.begin_drain()
            await asyncio.sleep(min(settings.drain_delay_s, settings.drain_timeout_s))
        if self._acceptor is not None:
            await self._acceptor.close()
        remaining_s = max(0.0, deadline - time.monotonic())
        self.config.timeout_graceful_shutdown = math.ceil(remaining_s) + _WRITE_TIMEOUT_S
        async with asyncio.TaskGroup() as group:
            group.create_task(self._runtime.drain(remaining_s))
            group.create_task(super().shutdown(sockets))

    async def _follow_start(self) -> None:
        await self._runtime.started.wait()
        if self._runtime.lifecycle.is_ready:
            self._on_ready()


def _guard(runtime: Runtime, counts: ConnectionCounts | None) -> ConnectionGuard:
    settings = runtime.settings
    per_client = settings.max_connections_per_client or -(-settings.max_connections // 2)
    limits = ConnectionLimits(settings.max_connections, per_client, settings.header_timeout_s).within_handles()
    return ConnectionGuard(limits, runtime.metrics.connection_refused, counts)
