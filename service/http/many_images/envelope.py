"""The answers to many images as one stream: a ZIP file, or a multipart message (RFC 2046), sent while it is made."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from urllib.parse import quote

from service.answers.negotiation import negotiate
from service.http.many_images.zip_stream import stream_zip

INDEX_NAME = "index.json"


class Envelope(StrEnum):
    """What holds the answers."""

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
    """What was asked for, or what the ``Accept`` header likes best.

    Raises:
        NotAcceptable: The header takes neither.
    """
    return asked or negotiate(accept, _OFFERS, "envelope")[1]


def new_boundary() -> str:
    """What separates the parts of one answer; no image could have known it."""
    return f"ecenet-{uuid.uuid4().hex}"


def content_headers(envelope: Envelope, boundary: str) -> dict[str, str]:
    """Headers that tell what the answer is."""
    if envelope is Envelope.ZIP:
        return {"Content-Type": envelope.media_type, "Content-Disposition": 'attachment; filename="answers.zip"'}
    return {"Content-Type": f"{envelope.media_type}; boundary={boundary}"}


def stream(envelope: Envelope, boundary: str, parts: AsyncIterator[Part]) -> AsyncGenerator[bytes]:
    """The bytes of the answer, those of a part as soon as it is there; never holds more than one."""
    return stream_zip(_files(parts)) if envelope is Envelope.ZIP else _stream_multipart(boundary, parts)


async def _files(parts: AsyncIterator[Part]) -> AsyncGenerator[tuple[str, bytes]]:
    """Name and content of the files of a ZIP file."""
    entries = []
    async for part in parts:
        entries.append(index_entry(part))
        yield part.file, part.content
    yield INDEX_NAME, index(entries)


def index(entries: Sequence[Mapping[str, Any]]) -> bytes:
    """The last file of a ZIP file: what the others are."""
    return json.dumps({"images": entries}, indent=1).encode()


def index_entry(part: Part) -> dict[str, Any]:
    """A part's line in the index."""
    tag = part.headers.get("ETag")
    return {"index": part.index, "name": part.name, "status": part.status, "file": part.file, "etag": tag}


async def _stream_multipart(boundary: str, parts: AsyncIterator[Part]) -> AsyncGenerator[bytes]:
    async for part in parts:
        yield head(boundary, part)
        yield part.content
        yield b"\r\n"
    yield end(boundary)


def head(boundary: str, part: Part) -> bytes:
    """What stands before a part's content.

    The parameter ``name`` is the image's as it was sent, ``Status`` what it would have been answered alone.
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
    """What stands after the last part; an answer without it is not whole."""
    return f"--{boundary}--\r\n".encode("ascii")


def _parameter(name: str, value: str) -> str:
    """A parameter of a header, whatever its value holds (RFC 8187)."""
    is_plain = value.isascii() and value.isprintable() and not set('"\\') & set(value)
    return f'{name}="{value}"' if is_plain else f"{name}*=UTF-8''{quote(value, safe='')}"
