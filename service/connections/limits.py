"""The limits of a connection, and the answers to requests that exceed one."""

from __future__ import annotations

import logging
import resource
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Literal, get_args

logger = logging.getLogger(__name__)

# nginx takes 4 x 8 KB of headers, Envoy 60 KB and 100 fields.
MAX_HEADER_BYTES = 64 * 1024
MAX_HEADER_FIELDS = 100
# Bytes of a body that are read on behind a refusal, so that a client that reads only then sees it.
MAX_REFUSED_BYTES = 64 << 20
# Requests, and bytes of their bodies, that are sent before the answer to an earlier one.
MAX_PIPELINED_REQUESTS = 16
MAX_PIPELINED_BYTES = 64 * 1024
# Pieces of a body, such as chunks: so many of any size, and one more for each so many bytes. Each costs 2 us.
FREE_PIECES = 4096
MEAN_PIECE_BYTES = 64
# File handles for the model, logs, and the files of answers.
RESERVED_HANDLES = 64

Refusal = Literal[
    "connections", "client_connections", "header_timeout", "header_size", "malformed", "host", "transfer_coding",
    "slow_body", "small_pieces", "slow_answer", "unsent_answers", "refused_body", "pipelining",
]  # fmt: skip
REFUSALS: tuple[Refusal, ...] = get_args(Refusal)
# Status and text of the refusals that can be answered: the others end a connection on which an answer is under way.
TEXTS: dict[Refusal, tuple[HTTPStatus, str]] = {
    "connections": (
        HTTPStatus.SERVICE_UNAVAILABLE,
        "the service has as many connections as it may, at most {limits.connections}",
    ),
    "client_connections": (
        HTTPStatus.SERVICE_UNAVAILABLE,
        "your address has {limits.per_client} connections, which is the limit",
    ),
    "header_timeout": (
        HTTPStatus.REQUEST_TIMEOUT,
        "the request's headers did not arrive within {limits.header_timeout_s:g} s",
    ),
    "header_size": (
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        f"the request's headers exceed {MAX_HEADER_BYTES} bytes or {MAX_HEADER_FIELDS} fields",
    ),
    "malformed": (HTTPStatus.BAD_REQUEST, "the request is not HTTP/1.1"),
    "host": (HTTPStatus.BAD_REQUEST, "the request has no header Host, or more than one"),
    "transfer_coding": (
        HTTPStatus.NOT_IMPLEMENTED,
        "the request's body has another Transfer-Encoding than chunked, which alone is read",
    ),
    "slow_body": (
        HTTPStatus.REQUEST_TIMEOUT,
        "the request's body arrives slower than {limits.min_bytes_per_s} bytes per second",
    ),
    "small_pieces": (
        HTTPStatus.BAD_REQUEST,
        f"the request's body comes in more than {FREE_PIECES} pieces and less than {MEAN_PIECE_BYTES} bytes for each",
    ),
}


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits of all connections of the service.

    Attributes:
        connections: Open connections.
        per_client: Open connections of one client address.
        header_timeout_s: Seconds from the opening of a connection, or from the first byte of a further request, until
            the headers have arrived.
        min_bytes_per_s: Bytes per second of a body or of an answer, as a mean of each ``transfer_grace_s``.
        transfer_grace_s: Seconds after which the rate is checked.
        max_unsent_bytes: Bytes of answers that clients have not read, over all connections; beyond them the answer that
            has waited longest is given up.
        of_process: Open connections of one process, which the file handles limit; None if they do not.
    """

    connections: int
    per_client: int
    header_timeout_s: float
    min_bytes_per_s: int = 1000
    transfer_grace_s: float = 10.0
    max_unsent_bytes: int = 256 << 20
    of_process: int | None = None

    def within_handles(self) -> ConnectionLimits:
        """The same limits, with that of the file handles that a process may open, less ``RESERVED_HANDLES``."""
        handles, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if handles == resource.RLIM_INFINITY or self.connections <= handles - RESERVED_HANDLES:
            return self
        connections = max(1, handles - RESERVED_HANDLES)
        logger.warning(
            "max_connections is %d, and a process may open %d files: %d connections are its limit; raise ulimit -n",
            self.connections,
            handles,
            connections,
        )
        return replace(self, of_process=connections)
