"""The writes of an answer to its connection."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


class AnswerTransport:
    """Transport of one answer, which sends its head together with the first piece of its body, in one system call.

    The head of an answer whose length is not known, which may come bit by bit, leaves at once.
    """

    def __init__(self, cycle: RequestResponseCycle) -> None:
        """Write to the transport that ``cycle`` has."""
        self._cycle = cycle
        self._transport = cycle.transport
        self._has_begun = False
        self._head: bytes | None = None

    def write(self, data: bytes) -> None:
        cycle = self._cycle
        if self._head is not None:
            self._transport.writelines((self._head, data))
            self._head = None
        elif cycle.response_started and not self._has_begun and _has_body(cycle):
            self._head = data
        else:
            self._transport.write(data)
        self._has_begun = cycle.response_started

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        if self._head is not None:
            self.write(b"")
        self._transport.close()


def _has_body(cycle: RequestResponseCycle) -> bool:
    """True if a body of known length follows the head, which is being written."""
    return cycle.chunked_encoding is False and cycle.scope["method"] != "HEAD"
