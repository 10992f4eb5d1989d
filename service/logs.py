"""Log lines for people or for machines, from this package and all libraries alike.

A line that belongs to a request carries its id, from whichever module it comes. Nothing that a client sends can begin a
line of its own or steer a terminal: JSON escapes control characters, and so does the console format.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TextIO

from service.log_pipe import PipeHandler
from service.settings import LogFormat, LogLevel

_request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
_client: ContextVar[str] = ContextVar("client", default="")

# Attributes of a record without ``extra``, and those that a formatter adds; all others are the line's own fields.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "request_id"}


@contextmanager
def request_lines(request_id: str, client: str = "") -> Iterator[None]:
    """Lines from inside the body belong to a request; so do those of tasks and of ``asyncio.to_thread`` begun there.

    Args:
        request_id: Id of the request.
        client: Address that it comes from, see ``client_of_request``.
    """
    token, client_token = _request_id.set(request_id), _client.set(client)
    try:
        yield
    finally:
        _request_id.reset(token)
        _client.reset(client_token)


def client_of_request() -> str:
    """The address that the request at hand comes from; empty outside of requests."""
    return _client.get()


class RequestIdFilter(logging.Filter):
    """Notes the request on each record; a handler's filter, because a logger's misses child loggers."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Set ``request_id``, None outside of requests, unless the record was made with one."""
        if not hasattr(record, "request_id"):
            record.request_id = _request_id.get()
        return True


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``ts``, ``level``, ``logger``, ``message``, ``request_id`` and the line's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; values that JSON does not know become text."""
        line: dict[str, Any] = {
            "ts": timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id := getattr(record, "request_id", None):
            line["request_id"] = request_id
        line |= {name: value for name, value in vars(record).items() if name not in _STANDARD and name not in line}
        if trace := _trace(self, record):
            line["exception"] = trace
        return json.dumps(line, default=str)


class ConsoleFormatter(logging.Formatter):
    """Time, level, logger, message and request id on a line; the traceback of an exception is indented below."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, with everything that is not printable escaped."""
        request_id = getattr(record, "request_id", None)
        line = f"{timestamp(record.created)} {record.levelname} {record.name}: {record.getMessage()}"
        lines = [f"{line} [{request_id}]" if request_id else line, *_trace(self, record).splitlines()]
        return "\n    ".join(escape(part) for part in lines)


def timestamp(seconds: float) -> str:
    """Seconds since 1970 in RFC 3339, UTC, with milliseconds: ``2025-01-31T12:00:00.000Z``."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def escape(text: str) -> str:
    r"""Replace characters that control a terminal: line ends, escape sequences, marks of text direction."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def make_handler(log_format: LogFormat, stream: TextIO) -> logging.Handler:
    """A handler that writes to ``stream`` in one of the formats, and drops lines that nobody reads."""
    handler = PipeHandler(stream)
    handler.setFormatter(JsonFormatter() if log_format == "json" else ConsoleFormatter())
    handler.addFilter(RequestIdFilter())
    return handler


def watch_drops(on_drop: Callable[[], None]) -> None:
    """Have a function called for each line of the log that is dropped in this process."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, PipeHandler):
            handler.on_drop = on_drop


def configure_logging(log_level: LogLevel, log_format: LogFormat) -> None:
    """Send all logs and warnings of this process and its libraries to standard error, replacing earlier settings."""
    logging.basicConfig(level=log_level.upper(), handlers=[make_handler(log_format, sys.stderr)], force=True)
    logging.captureWarnings(True)
    if log_level == "info":
        logging.getLogger("uvicorn").setLevel(logging.WARNING)
    # Odd metadata in a client's file says nothing about this process, and contents of files do not belong in logs.
    warnings.filterwarnings("ignore", module="PIL")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    logging.getLogger("python_multipart").setLevel(max(logging.INFO, logging.getLogger().level))


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = [formatter.formatException(record.exc_info)] if record.exc_info else []
    if record.stack_info:
        parts.append(formatter.formatStack(record.stack_info))
    return "\n".join(parts)
