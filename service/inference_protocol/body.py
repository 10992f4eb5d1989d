"""The body of a request: decompressed within a bound, then cut into JSON and binary data."""

from __future__ import annotations

import re
import zlib

from service.errors import BadRequest, UnsupportedMedia
from service.request.body import too_large

HEADER_LENGTH = "Inference-Header-Content-Length"
_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)
# What zlib calls the formats: 16 + 15 is gzip, 15 is zlib, which HTTP calls deflate.
_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}


def decompress(body: bytes, content_encoding: str, max_bytes: int) -> bytes:
    """Undo a request's content encoding, never making more than ``max_bytes`` and one.

    Raises:
        UnsupportedMedia: Neither gzip, deflate nor none.
        BadRequest: The body is not in that encoding, is cut off, or continues after its end.
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
        raise too_large(len(data), max_bytes, "decompressed body")
    if not decoder.eof:
        raise BadRequest(f"the body in the content encoding {encoding} is cut off")
    if decoder.unused_data:
        raise BadRequest(f"the body has {len(decoder.unused_data)} bytes after the end of its {encoding} data")
    return data


def split_body(body: bytes, header_length: str | None) -> tuple[bytes, memoryview]:
    """The JSON and the binary data of a decompressed body; all is JSON where no length was sent.

    Raises:
        BadRequest: The length is not a number, or larger than the body.
    """
    if header_length is None:
        return body, memoryview(b"")
    if not _NUMBER.fullmatch(header_length):
        raise BadRequest(f"{HEADER_LENGTH} is {header_length[:40]!r}, expected the length of the JSON in bytes")
    length = int(header_length)
    if length > len(body):
        raise BadRequest(f"{HEADER_LENGTH} is {length}, but the body has {len(body)} bytes")
    return body[:length], memoryview(body)[length:]
