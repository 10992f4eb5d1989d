"""Counts of connections, in all and by client, and of the bytes that clients have not read; of one process."""

from __future__ import annotations

from collections import Counter
from typing import Protocol


class ConnectionCounts(Protocol):
    """Counts of this process, and their totals over all processes of the service."""

    def open(self, client: str) -> tuple[int, int]:
        """Count a connection; gives the totals with it: all connections, and those of the client."""
        ...

    def close(self, client: str) -> None:
        """Count a connection as closed."""

    def unsent(self, here: int) -> int:
        """Give the unread bytes of all processes, of which ``here`` are this one's."""
        ...

    def begin_accepting(self) -> None:
        """Note that this process takes connections."""

    def end_accepting(self) -> None:
        """Note that it takes no more."""

    def others_have_fewer(self, more: int) -> bool:
        """Tell whether a process that takes connections has fewer than this one with ``more``, which may be below 0."""
        ...


class LocalConnectionCounts:
    """The counts of a single process."""

    def __init__(self) -> None:
        self._clients: Counter[str] = Counter()

    def open(self, client: str) -> tuple[int, int]:
        """See ``ConnectionCounts``."""
        self._clients[client] += 1
        return self._clients.total(), self._clients[client]

    def close(self, client: str) -> None:
        """See ``ConnectionCounts``."""
        self._clients[client] -= 1
        if self._clients[client] <= 0:
            del self._clients[client]

    def unsent(self, here: int) -> int:
        """See ``ConnectionCounts``."""
        return here

    def begin_accepting(self) -> None:
        """See ``ConnectionCounts``."""

    def end_accepting(self) -> None:
        """See ``ConnectionCounts``."""

    def others_have_fewer(self, more: int) -> bool:  # noqa: ARG002
        """See ``ConnectionCounts``."""
        return False
