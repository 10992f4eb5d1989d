"""The image of a request: the field ``file`` of a multipart form, or the body itself; bounded while it arrives."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.requests import ClientDisconnect, Request

from service.errors import ClientGone, PayloadTooLarge, UnsupportedMedia
from service.multipart_form import read_form_file

FILE_FIELD = "file"
MULTIPART = "multipart/form-data"
OCTET_STREAM = "application/octet-stream"
# Boundaries, part headers and small fields around the file.
FORM_OVERHEAD_BYTES = 64 * 1024


async def read_image(request: Request, max_image_bytes: int) -> bytes:
    """Read the bytes of the request's image; never holds more than the limit, a chunk and the form around it.

    Raises:
        UnsupportedMedia: Neither a form nor an image.
        PayloadTooLarge: More bytes than allowed, by ``Content-Length`` or while they arrive.
        BadRequest, InvalidParameter: See ``read_form_file``.
        ClientGone: The client left before the end of the body.
    """
    content_type = request.headers.get("content-type", "")
    media_type = content_type.partition(";")[0].strip().lower()
    try:
        if media_type == MULTIPART:
            return await _read_form(request, content_type, max_image_bytes)
        if media_type.startswith("image/") or media_type == OCTET_STREAM:
            return await _read_body(request, max_image_bytes)
    except ClientDisconnect:
        raise ClientGone("the client left before the end of the body") from None
    raise UnsupportedMedia(
        f"content type is {media_type or 'missing'}, accepted are {MULTIPART} with a field '{FILE_FIELD}', "
        f"image/* and {OCTET_STREAM}",
        extra={"value": media_type},
    )


async def _read_body(request: Request, max_image_bytes: int) -> bytes:
    async with aclosing(_bounded(request, max_image_bytes, max_image_bytes)) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def _read_form(request: Request, content_type: str, max_image_bytes: int) -> bytes:
    async with aclosing(_bounded(request, max_image_bytes + FORM_OVERHEAD_BYTES, max_image_bytes)) as chunks:
        data = await read_form_file(content_type, chunks, FILE_FIELD)
    if len(data) > max_image_bytes:
        raise _too_large(len(data), max_image_bytes)
    return data


async def _bounded(request: Request, max_bytes: int, max_image_bytes: int) -> AsyncGenerator[bytes]:
    """The body's chunks, until they add up to more than ``max_bytes``; ``max_image_bytes`` is the limit to tell."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise _too_large(int(announced), max_image_bytes)
    received = 0
    async with aclosing(request.stream()) as chunks:
        async for chunk in chunks:
            received += len(chunk)
            if received > max_bytes:
                raise _too_large(received, max_image_bytes)
            yield chunk


def _too_large(value: int, limit: int) -> PayloadTooLarge:
    detail = f"the body has {value} bytes or more, an image of at most {limit} is accepted"
    return PayloadTooLarge(detail, extra={"value": value, "limit": limit, "unit": "bytes"})
