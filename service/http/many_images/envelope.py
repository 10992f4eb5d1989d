"""Envelopes of many answers: a ZIP file or a multipart message (RFC 2046), sent while it is made."""

from __future__ import annotations

import asyncio
import json
import uuid
import zipfile
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from urllib.parse import quote

from service.answers.negotiation import negotiate

INDEX_NAME = "index.json"


class Envelope(StrEnum):
    """Container of the answers."""

    ZIP = "zip"
    MULTIPART = "multipart"

    @property
    def media_type(self) -> str:
        return "application/zip" if self is Envelope.ZIP else "multipart/mixed"


_OFFERS = tuple((envelope.media_type, envelope) for envelope in Envelope)


@dataclass(frozen=True, slots=True)
class Part:
    """The answer to one image, or the problem with it.

    Attributes:
        index: Place of the image in the request, from 0.
        name: Name of the image as it was sent.
        status: HTTP status.
        file: Name for the answer, which is harmless anywhere.
        media_type: Its content type.
        content: The answer.
        headers: Those that the answer would have alone, such as ``ETag`` and ``Retry-After``.
    """

    index: int
    name: str
    status: int
    file: str
    media_type: str
    content: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def choose_envelope(asked: Envelope | None, accept: str | None) -> Envelope:
    """Give the envelope that was asked for, or the one that the ``Accept`` header prefers.

    Raises:
        NotAcceptable: The header accepts neither.
    """
    return asked or negotiate(accept, _OFFERS, "envelope")[1]


def new_boundary() -> str:
    """Make a boundary between the parts of one answer, which no image can contain on purpose."""
    return f"ecenet-{uuid.uuid4().hex}"


def content_headers(envelope: Envelope, boundary: str) -> dict[str, str]:
    """Give the headers that describe the answer."""
    if envelope is Envelope.ZIP:
        return {"Content-Type": envelope.media_type, "Content-Disposition": 'attachment; filename="answers.zip"'}
    return {"Content-Type": f"{envelope.media_type}; boundary={boundary}"}


def stream(envelope: Envelope, boundary: str, parts: AsyncIterator[Part]) -> AsyncGenerator[bytes]:
    """Give the bytes of the answer, those of a part as soon as it is ready; never holds more than one part."""
    return _stream_zip(_files(parts)) if envelope is Envelope.ZIP else _stream_multipart(boundary, parts)


async def _stream_zip(files: AsyncIterator[tuple[str, bytes]]) -> AsyncGenerator[bytes]:
    """Give a ZIP file of (name, content), uncompressed, piece by piece; never holds more than one file."""
    sink = _Sink()
    with zipfile.ZipFile(sink, "w") as archive:
        async for name, content in files:
            # Checksums take too long for the event loop.
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
        """Do nothing: nothing is buffered."""

    def close(self) -> None:
        """Do nothing: there is nothing to close."""

    def take(self) -> bytes:
        """Give the bytes written since the last call."""
        data = b"".join(self._written)
        self._written.clear()
        return data


async def _files(parts: AsyncIterator[Part]) -> AsyncGenerator[tuple[str, bytes]]:
    """Give name and content of the files of a ZIP file."""
    entries = []
    async for part in parts:
        entries.append(index_entry(part))
        yield part.file, part.content
    yield INDEX_NAME, index(entries)


def index(entries: Sequence[Mapping[str, Any]]) -> bytes:
    """Make the last file of a ZIP file, which describes the others."""
    return json.dumps({"images": entries}, indent=1).encode()


def index_entry(part: Part) -> dict[str, Any]:
    """Describe a part in the index."""
    tag = part.headers.get("ETag")
    return {"index": part.index, "name": part.name, "status": part.status, "file": part.file, "etag": tag}


async def _stream_multipart(boundary: str, parts: AsyncIterator[Part]) -> AsyncGenerator[bytes]:
    async for part in parts:
        yield head(boundary, part)
        yield part.content
        yield b"\r\n"
    yield end(boundary)


def head(boundary: str, part: Part) -> bytes:
    """Make the header of a part.

    The parameter ``name`` is the image's name in the request, ``Status`` the status of its own answer.
    """
    headers = {
        "Status": str(part.status),
        "Content-Type": part.media_type,
        "Content-Disposition": f'attachment; {_parameter("name", part.name)}; filename="{part.file}"',
        "Content-Length": str(len(part.content)),
        **part.headers,
    }
    lines = [f"--{boundary}", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode("ascii")


def end(boundary: str) -> bytes:
    """Make the end of the message; an answer without it is incomplete."""
    return f"--{boundary}--\r\n".encode("ascii")


def _parameter(name: str, value: str) -> str:
    """Make a parameter of a header, with any text as its value (RFC 8187)."""
    is_plain = value.isascii() and value.isprintable() and not set('"\\') & set(value)
    return f'{name}="{value}"' if is_plain else f"{name}*=UTF-8''{quote(value, safe='')}"
