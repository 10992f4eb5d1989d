"""Takes connections from a socket on which several processes listen, so that each gets as many as the others.

The kernel wakes all of them for a connection, and the first takes it. libuv's own server then takes whatever else
waits, so that of eight connections, which may last for hours, one of two processes often has eight.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable

from service.connections.counts import ConnectionCounts

logger = logging.getLogger(__name__)

# Connections that the kernel completes before they are accepted; net.core.somaxconn may allow fewer.
_BACKLOG = 2048
# How long a process that has more connections than another leaves the next to that one, which may be busy, or stopped.
_YIELD_S = 0.002
# So many more are no reason to wait: a burst of connections is accepted by all processes at once.
_SLACK = 1
# Before the event loop does other work.
_AT_ONCE = 16
# Until the next try of a process that has no file handle left.
_RETRY_S = 0.5


class Acceptor:
    """Accepts connections while no other process has fewer."""

    def __init__(
        self,
        listening: socket.socket,
        make_protocol: Callable[[], asyncio.Protocol],
        counts: ConnectionCounts,
        *,
        tls: ssl.SSLContext | None = None,
        handshake_timeout_s: float,
    ) -> None:
        """Begin to accept; for a running event loop.

        Args:
            listening: A bound socket.
            make_protocol: Gives the protocol of one connection, which counts it in ``counts``.
            counts: Connections of this process and of the others.
            tls: What connections are encrypted with.
            handshake_timeout_s: Seconds within which a connection has been encrypted.
        """
        self._loop = asyncio.get_running_loop()
        self._listening = listening
        self._make_protocol = make_protocol
        self._counts = counts
        self._tls = tls
        self._handshake_timeout_s = handshake_timeout_s if tls else None
        self._pause: asyncio.TimerHandle | None = None
        # Accepted, and not yet counted by their protocols.
        self._opening: set[asyncio.Task[None]] = set()
        listening.listen(_BACKLOG)
        listening.setblocking(False)
        counts.begin_accepting()
        self._watch()

    async def close(self) -> None:
        """Accept no more; the socket stays open. Connections that are accepted have a protocol, or are closed."""
        self._counts.end_accepting()
        self._loop.remove_reader(self._listening)
        if self._pause is not None:
            self._pause.cancel()
        if self._opening:
            await asyncio.wait(self._opening, timeout=_YIELD_S)
        for task in self._opening:
            task.cancel()

    def _watch(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listening, self._on_connections)

    def _on_connections(self) -> None:
        for _ in range(_AT_ONCE):
            if self._counts.others_have_fewer(len(self._opening) - _SLACK):
                self._pause_for(_YIELD_S, self._accept_late)
                return
            if not self._accept():
                return

    def _accept_late(self) -> None:
        self._watch()
        self._accept()

    def _pause_for(self, seconds: float, then: Callable[[], None]) -> None:
        self._loop.remove_reader(self._listening)
        self._pause = self._loop.call_later(seconds, then)

    def _accept(self) -> bool:
        try:
            connection, _ = self._listening.accept()
        except (BlockingIOError, ConnectionAbortedError):  # another process was faster, or the client has left
            return False
        except OSError as error:
            logger.warning("a connection cannot be accepted, and is tried again in %g s: %s", _RETRY_S, error)
            self._pause_for(_RETRY_S, self._watch)
            return False
        task = self._loop.create_task(self._open(connection))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        return True

    async def _open(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(
                self._make_protocol, connection, ssl=self._tls, ssl_handshake_timeout=self._handshake_timeout_s
            )
        except OSError as error:  # the client has left, or does not speak TLS
            logger.debug("a connection was not opened: %s", error)
            connection.close()
