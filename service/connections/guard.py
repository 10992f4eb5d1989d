"""The connections of a process: their number, unread answers, and the log of refusals."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from http import HTTPStatus
from typing import Protocol

from service.connections.counts import ConnectionCounts, LocalConnectionCounts
from service.connections.limits import TEXTS, ConnectionLimits, Refusal

logger = logging.getLogger(__name__)

_LOG_PAUSE_S = 1.0
_LOGGED_CLIENTS = 3


class Unread(Protocol):
    """A connection whose client reads slower than it is sent to.

    Attributes:
        unsent_bytes: Bytes of answers that the client has not read.
    """

    @property
    def unsent_bytes(self) -> int: ...

    def give_up(self, refusal: Refusal) -> None:
        """Drop the connection, and what its client has not read."""


class ConnectionGuard:
    """Counts the connections of a process, and logs refusals at most once a second.

    Attributes:
        limits: Of all connections.
        counts: Connections of this process and of the others.
    """

    def __init__(
        self,
        limits: ConnectionLimits,
        on_refuse: Callable[[Refusal], None],
        counts: ConnectionCounts | None = None,
    ) -> None:
        """Begin with no connection.

        Args:
            limits: Of all connections.
            on_refuse: Counts the refusals.
            counts: Of all processes, where there are several.
        """
        self.limits = limits
        self._on_refuse = on_refuse
        self.counts = LocalConnectionCounts() if counts is None else counts
        self._open_here = 0
        self._unlogged: Counter[Refusal] = Counter()
        self._strikes: Counter[str] = Counter()
        self._logged = float("-inf")
        # Connections whose clients read slower than they are sent to, the longest first.
        self._unread: dict[Unread, None] = {}

    def open(self, client: str) -> Refusal | None:
        """Count a connection; gives the limit that it exceeds, or None."""
        total, of_client = self.counts.open(client)
        self._open_here += 1
        if total > self.limits.connections or self._open_here > (self.limits.of_process or total):
            return "connections"
        return "client_connections" if of_client > self.limits.per_client else None

    def close(self, client: str) -> None:
        """Count a connection as closed."""
        self.counts.close(client)
        self._open_here -= 1

    @property
    def _unsent_bytes(self) -> int:
        """Bytes of answers that clients have not read, of all processes."""
        return self.counts.unsent(sum(connection.unsent_bytes for connection in self._unread))

    def begin_unread(self, connection: Unread) -> None:
        """Count an answer that its client does not read as fast as it is sent; gives up others if they are too many."""
        self._unread[connection] = None
        while self._unsent_bytes > self.limits.max_unsent_bytes and len(self._unread) > 1:
            longest = next(iter(self._unread))
            self.end_unread(longest)
            longest.give_up("unsent_answers")

    def end_unread(self, connection: Unread) -> None:
        """Note that the client has read the answer, or is gone."""
        if connection in self._unread:
            del self._unread[connection]
            self.counts.unsent(sum(other.unsent_bytes for other in self._unread))

    def refuse(self, refusal: Refusal, client: str) -> tuple[HTTPStatus, str] | None:
        """Count a refusal; gives its status and its text, or None if the client cannot be answered."""
        self._on_refuse(refusal)
        if not self._unlogged:
            loop = asyncio.get_running_loop()
            loop.call_at(max(loop.time(), self._logged + _LOG_PAUSE_S), self._log)
        self._unlogged[refusal] += 1
        self._strikes[client] += 1
        if refusal not in TEXTS:
            return None
        status, text = TEXTS[refusal]
        return status, text.format(limits=self.limits)

    def _log(self) -> None:
        counts = ", ".join(f"{name}: {count}" for name, count in self._unlogged.items())
        worst = ", ".join(f"{address}: {count}" for address, count in self._strikes.most_common(_LOGGED_CLIENTS))
        logger.warning("refused connections (%s), most of them from %s", counts, worst)
        self._unlogged.clear()
        self._strikes.clear()
        self._logged = asyncio.get_running_loop().time()
