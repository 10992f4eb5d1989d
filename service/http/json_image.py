"""An image as JSON: ``{"image": ...}`` with base64 or a data URI. What an address points to is never fetched."""

from __future__ import annotations

import binascii
import re

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from service.answers.schemas import ImageBody
from service.errors import BadRequest, InvalidParameter, ServiceError

_DATA_URI = re.compile(r"data:([^,;]*)((?:;[^,;]*)*),", re.IGNORECASE)
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_SHOWN = 64


def parse_json_image(body: bytes) -> bytes:
    """The image file in a JSON body.

    Raises:
        BadRequest: The body is no JSON.
        InvalidParameter: Another key, no ``image`` or one that is no text, an address, or text that is no base64.
    """
    try:
        text = ImageBody.model_validate_json(body).image
    except ValidationError as error:
        raise _fault(error.errors(include_url=False)[0]) from None
    return _decode(_payload(text))


def _payload(text: str) -> str:
    """The base64 of a data URI, or all of the text."""
    data_uri = _DATA_URI.match(text)
    if data_uri is None:
        if _ADDRESS.match(text):
            raise _invalid(
                f"image is {_short(text)}, and addresses are not fetched: send the file's bytes as base64", text
            )
        return text
    if not data_uri[2].lower().endswith(";base64"):
        raise _invalid(f"image is the data URI {_short(text)}, expected one with ;base64", text)
    return text[data_uri.end() :]


def _decode(text: str) -> bytes:
    try:
        return binascii.a2b_base64("".join(text.split()), strict_mode=True)
    except ValueError as error:
        raise _invalid(
            f"image is {_short(text)}, which is not base64: {str(error)[:1].lower()}{str(error)[1:]}", text
        ) from None


def _fault(entry: ErrorDetails) -> ServiceError:
    if entry["type"] == "json_invalid":
        return BadRequest(f"the body is no JSON: {entry['ctx']['error']}")
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


def _invalid(reason: str, text: str) -> InvalidParameter:
    return InvalidParameter(reason, extra={"parameter": "image", "value": text[:_SHOWN]})


def _short(value: object) -> str:
    shown = repr(value[: _SHOWN + 1] if isinstance(value, str) else value)
    return shown if len(shown) <= _SHOWN + 2 else f"{shown[:_SHOWN]}..."
