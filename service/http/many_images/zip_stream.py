"""A ZIP file that is sent while it grows."""

from __future__ import annotations

import asyncio
import zipfile
from collections.abc import AsyncGenerator, AsyncIterator


async def stream_zip(files: AsyncIterator[tuple[str, bytes]]) -> AsyncGenerator[bytes]:
    """The bytes of a ZIP file of (name, content), uncompressed, piece by piece; never holds more than one file."""
    sink = _Sink()
    with zipfile.ZipFile(sink, "w") as archive:
        async for name, content in files:
            # Checksums take their time, so they are made beside the event loop.
            await asyncio.to_thread(archive.writestr, zipfile.ZipInfo(name), content)
            yield sink.take()
    yield sink.take()


class _Sink:
    """A file that can only be written to, and is emptied in between."""

    def __init__(self) -> None:
        self._written: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._written.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Nothing is to be closed."""

    def take(self) -> bytes:
        """What was written since the last time."""
        data = b"".join(self._written)
        self._written.clear()
        return data
