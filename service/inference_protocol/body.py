"""The body of a request: bounded while it arrives and while it is decompressed, then cut into JSON and binary data."""

from __future__ import annotations

import re
import zlib
from contextlib import aclosing

from starlette.requests import ClientDisconnect, Request

from service.errors import BadRequest, ClientGone, PayloadTooLarge, UnsupportedMedia

HEADER_LENGTH = "Inference-Header-Content-Length"
_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)
# What zlib calls the formats: 16 + 15 is gzip, 15 is zlib, which HTTP calls deflate.
_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Read a body as it came, never more than ``max_bytes`` and a chunk.

    Raises:
        PayloadTooLarge: More bytes, by ``Content-Length`` or while they arrive.
        ClientGone: The client left before the end.
    """
    announced = request.headers.get("content-length", "")
    if _NUMBER.fullmatch(announced) and int(announced) > max_bytes:
        raise _too_large(announced, max_bytes)
    body = bytearray()
    try:
        async with aclosing(request.stream()) as chunks:
            async for chunk in chunks:
                body += chunk
                if len(body) > max_bytes:
                    raise _too_large(f"{len(body)} or more", max_bytes)
    except ClientDisconnect:
        raise ClientGone("the client left before the end of the body") from None
    return bytes(body)


def decompress(body: bytes, content_encoding: str, max_bytes: int) -> bytes:
    """Undo a request's content encoding, never making more than ``max_bytes`` and one.

    Raises:
        UnsupportedMedia: Neither gzip, deflate nor none.
        BadRequest: The body is not in that encoding, cut off, or goes on after its end.
        PayloadTooLarge: It is larger than ``max_bytes``.
    """
    encoding = content_encoding.strip().lower()
    if encoding in {"", "identity"}:
        return body
    if encoding not in _WINDOW_BITS:
        raise UnsupportedMedia(f"content encoding is {content_encoding!r}, accepted are gzip, deflate and identity")
    decoder = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        data = decoder.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise BadRequest(f"the body is not in the content encoding {encoding}: {error}") from None
    if len(data) > max_bytes:
        raise _too_large(f"{len(data)} or more when decompressed", max_bytes)
    if not decoder.eof:
        raise BadRequest(f"the body in the content encoding {encoding} is cut off")
    if decoder.unused_data:
        raise BadRequest(f"the body goes on for {len(decoder.unused_data)} bytes after the end of its {encoding} data")
    return data


def split_body(body: bytes, header_length: str | None) -> tuple[bytes, memoryview]:
    """The JSON and the binary data of a decompressed body; all is JSON where no length was sent.

    Raises:
        BadRequest: The length is no number, or larger than the body.
    """
    if header_length is None:
        return body, memoryview(b"")
    if not _NUMBER.fullmatch(header_length):
        raise BadRequest(f"{HEADER_LENGTH} is {header_length[:40]!r}, expected the length of the JSON in bytes")
    length = int(header_length)
    if length > len(body):
        raise BadRequest(f"{HEADER_LENGTH} is {length}, but the body has {len(body)} bytes")
    return body[:length], memoryview(body)[length:]


def _too_large(value: str, limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body's bytes are {value}, at most {limit} are accepted", extra={"limit": limit})
