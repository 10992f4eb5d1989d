"""A log handler that never waits for its reader: lines that nobody reads are dropped and counted.

A blocking write to a full pipe would hold the handler's lock, and with it every thread that logs. Lines that cannot be
written, to a full disk or to a reader that has left, are dropped and counted too.
"""

from __future__ import annotations

import logging
import os
import select
import time
from collections.abc import Callable
from typing import TextIO

# Bytes that a pipe takes at once if it takes any.
_PIECE_BYTES = select.PIPE_BUF
# A longer line is a trace of an odd kind.
_MAX_LINE_BYTES = 64 * 1024
# Seconds for a reader that is behind; after them it gets no more time until it has caught up.
PATIENCE_S = 0.1


class PipeHandler(logging.StreamHandler[TextIO]):
    """Writes to the descriptor of a stream, or to the stream where it has none.

    Attributes:
        dropped: Lines that were dropped since the last one that was written.
        on_drop: Called for each line that is dropped; for the metrics.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.dropped = 0
        self.on_drop: Callable[[], None] = lambda: None
        self._reason = ""
        self._is_line_open = False
        self._poll: select.poll | None = None
        try:
            self._descriptor = stream.fileno()
        except OSError:  # io.UnsupportedOperation too
            return
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLOUT)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or count it as dropped."""
        if self._poll is None:
            super().emit(record)
            return
        try:
            lines = [self.format(record)]
            if self.dropped:
                lines.insert(0, self._notice())
            text = "".join(f"{line}\n" for line in lines)
            if self._write(text.encode(errors="backslashreplace")[:_MAX_LINE_BYTES]):
                self.dropped = 0
            else:
                self._drop("nobody read them")
        except OSError as error:
            self._drop(error.strerror or type(error).__name__)
        except Exception:
            self.handleError(record)

    def _drop(self, reason: str) -> None:
        self._reason = reason
        self.dropped += 1
        self.on_drop()

    def _notice(self) -> str:
        text = "%d lines of the log were dropped: %s"
        notice = logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, (self.dropped, self._reason), None)
        return self.format(notice)

    def _write(self, content: bytes) -> bool:
        """Write as long as the reader takes it; False if it did not take all."""
        patience_ends = time.monotonic() + (0 if self.dropped else PATIENCE_S)
        if self._is_line_open:
            content = b"\n" + content
        for start in range(0, len(content), _PIECE_BYTES):
            if not self._is_writable(patience_ends):
                self._is_line_open = self._is_line_open or start > 0
                return False
            os.write(self._descriptor, content[start : start + _PIECE_BYTES])
        self._is_line_open = False
        return True

    def _is_writable(self, until: float) -> bool:
        assert self._poll is not None
        wait_ms = max(0.0, until - time.monotonic()) * 1000
        return any(events & select.POLLOUT for _, events in self._poll.poll(wait_ms))
