"""The image of a request: in a multipart form, in JSON, or the body itself; bounded while it arrives."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing

from starlette.requests import Request

from service.errors import UnsupportedMedia
from service.http.json_image import parse_json_image
from service.http.many_images.memory import Room
from service.http.multipart_form import FormFile, read_form_files
from service.request.body import bounded_chunks, read_body, too_large

FILE_FIELD = "file"
MULTIPART = "multipart/form-data"
OCTET_STREAM = "application/octet-stream"
JSON = "application/json"
# Boundaries, part headers and small fields around the file; line breaks in base64.
FORM_OVERHEAD_BYTES = 64 * 1024

RunJob = Callable[[Callable[[], bytes]], Awaitable[bytes]]


async def read_image(request: Request, max_image_bytes: int, run_job: RunJob) -> FormFile:
    """Read the request's image; its name is empty unless it is the file of a form.

    Never holds more than the limit, a chunk and the form around it. Of JSON the text is held, a third more, and the
    image.

    Args:
        request: Its body has not been read.
        max_image_bytes: Largest image file.
        run_job: Runs what takes long beside the event loop.

    Raises:
        UnsupportedMedia: Neither a form nor JSON nor an image.
        PayloadTooLarge: More bytes than allowed, by ``Content-Length`` or while they arrive.
        BadRequest, InvalidParameter: See ``read_form_files`` and ``parse_json_image``.
        ClientGone: The client left before the end of the body.
    """
    content_type = request.headers.get("content-type", "")
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == MULTIPART:
        return await _read_form(request, content_type, max_image_bytes)
    if media_type.startswith("image/") or media_type == OCTET_STREAM:
        return FormFile("", await read_body(request, max_image_bytes))
    if media_type == JSON:
        return FormFile("", await _read_json(request, max_image_bytes, run_job))
    raise UnsupportedMedia(
        f"content type is {media_type or 'missing'}, accepted are {MULTIPART} with a field '{FILE_FIELD}', "
        f"image/*, {OCTET_STREAM} and {JSON}",
        extra={"value": media_type},
    )


async def read_images(request: Request, max_images: int, max_bytes: int, room: Room) -> list[FormFile]:
    """Read all images of a form; never holds more than the limit, a chunk and a copy of one image.

    Args:
        request: Its body has not been read.
        max_images: Most images in one request.
        max_bytes: Largest body.
        room: Notified of the body's bytes.

    Raises:
        UnsupportedMedia: No form.
        PayloadTooLarge: More bytes than allowed, by ``Content-Length`` or while they arrive.
        Overloaded: No room.
        BadRequest, InvalidParameter: See ``read_form_files``.
        ClientGone: The client left before the end of the body.
    """
    content_type = request.headers.get("content-type", "")
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type != MULTIPART:
        raise UnsupportedMedia(
            f"content type is {media_type or 'missing'}, accepted is {MULTIPART} with fields '{FILE_FIELD}'",
            extra={"value": media_type},
        )
    async with aclosing(bounded_chunks(request, max_bytes, observer=room)) as chunks:
        return await read_form_files(content_type, chunks, FILE_FIELD, max_files=max_images)


async def _read_json(request: Request, max_image_bytes: int, run_job: RunJob) -> bytes:
    # Four characters for three bytes, with line breaks after as few as 64 of them.
    max_bytes = max_image_bytes // 3 * 4 * 65 // 64 + FORM_OVERHEAD_BYTES
    body = await read_body(request, max_bytes, stated_limit=max_image_bytes)
    data = await run_job(lambda: parse_json_image(body))
    check_image_bytes(len(data), max_image_bytes)
    return data


async def _read_form(request: Request, content_type: str, max_image_bytes: int) -> FormFile:
    form = bounded_chunks(request, max_image_bytes + FORM_OVERHEAD_BYTES, stated_limit=max_image_bytes)
    async with aclosing(form) as chunks:
        (file,) = await read_form_files(content_type, chunks, FILE_FIELD, max_files=1)
    check_image_bytes(len(file.content), max_image_bytes)
    return file


def check_image_bytes(value: int, limit: int) -> None:
    """Raises ``PayloadTooLarge`` for an image file of more bytes than are accepted."""
    if value > limit:
        raise too_large(value, limit, "image")
