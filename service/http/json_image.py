"""An image as JSON: ``{"image": ...}`` with base64 or a data URI. Addresses are never fetched.

The text of the image is cut out and decoded in pieces, between which other threads run; a parser sees the rest.
"""

from __future__ import annotations

import re

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from service.answers.schemas import ImageBody
from service.errors import BadRequest, InvalidParameter, ServiceError
from service.request.json_bounds import Inner, base64_of_text, cut_out, key_before

_KEY = key_before("image", '"')
_DATA_URI = re.compile(rb"data:", re.IGNORECASE)
# Of a data URI before its comma: media type, parameters, base64.
_MAX_URI_HEADER = 1024
_ADDRESS = re.compile(rb"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_SHOWN = 64


def parse_json_image(body: bytes) -> bytes:
    """The image file in a JSON body.

    Raises:
        BadRequest: The body is not JSON, or has too many members.
        PayloadTooLarge: It is too large without the image.
        InvalidParameter: Another key, no ``image`` or one that is not text, an address, or text that is not base64.
    """
    rest, text = cut_out(body, _KEY, _end_of_text, "the text of 'image'")
    _check_rest(rest)
    return b"" if text is None else _decode(text)


def _end_of_text(body: bytes, start: int) -> int:
    end = body.find(b'"', start)
    if end < 0:
        raise BadRequest("the body is not JSON: the text of 'image' does not end")
    return end


def _check_rest(rest: bytes) -> None:
    """Check a body whose image is an empty text."""
    try:
        image = ImageBody.model_validate_json(rest).image
    except ValidationError as error:
        raise _fault(error.errors(include_url=False)[0]) from None
    if image:
        raise InvalidParameter("key 'image' is written with escapes, or there are two", extra={"parameter": "image"})


def _decode(text: Inner) -> bytes:
    head = text.json[text.start : min(text.end, text.start + _MAX_URI_HEADER)]
    try:
        return base64_of_text(Inner(text.json, text.start + _start_of_base64(head), text.end))
    except ValueError as error:
        raise _invalid(f"image is {_short(_shown(head))}, which is not base64: {error}", head) from None


def _start_of_base64(head: bytes) -> int:
    """The place of the base64 in a text that begins with ``head``, which may be a data URI."""
    if not _DATA_URI.match(head):
        if _ADDRESS.match(head):
            shown = _short(_shown(head))
            raise _invalid(f"image is {shown}, and addresses are not fetched: send the file's bytes as base64", head)
        return 0
    comma = head.find(b",")
    if comma < 0 or not head[:comma].lower().endswith(b";base64"):
        raise _invalid(f"image is the data URI {_short(_shown(head))}, expected one with ;base64", head)
    return comma + 1


def _fault(entry: ErrorDetails) -> ServiceError:
    if entry["type"] == "json_invalid":
        return BadRequest(f"the body is not JSON: {entry['ctx']['error']}")
    key = str(entry["loc"][0]) if entry["loc"] else ""
    value = entry["input"]
    match entry["type"]:
        case "extra_forbidden":
            reason = f"key {_short(key)} is unknown, expected 'image' alone; parameters belong into the query"
        case "missing":
            reason = "key 'image' is missing"
        case _ if key:
            reason = f"image is {_short(value)}, expected text"
        case _:
            reason = f"the body is {_short(value)}, expected an object with the key 'image'"
    return InvalidParameter(reason, extra={"parameter": key or "body"})


def _invalid(reason: str, text: bytes) -> InvalidParameter:
    return InvalidParameter(reason, extra={"parameter": "image", "value": _shown(text)[:_SHOWN]})


def _shown(text: bytes) -> str:
    """The beginning of a text for an error; escapes stay as they were sent."""
    return text[: 2 * _SHOWN].decode(errors="replace")


def _short(value: object) -> str:
    shown = repr(value[: _SHOWN + 1] if isinstance(value, str) else value)
    return shown if len(shown) <= _SHOWN + 2 else f"{shown[:_SHOWN]}..."
