"""An image as JSON: ``{"image": ...}`` with base64 or a data URI. Addresses are never fetched.

A body of the usual form is decoded in pieces, between which other threads run; any other goes through a JSON parser.
"""

from __future__ import annotations

import binascii
import re

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from service.answers.schemas import ImageBody
from service.errors import BadRequest, InvalidParameter, ServiceError
from service.request.json_bounds import PIECE_BYTES, check_json

# All but the text; its marks are those of base64 and of a data URI.
_USUAL = re.compile(rb'\s*\{\s*"image"\s*:\s*"')
_USUAL_END = re.compile(rb'"\s*\}\s*')
_LONGEST_END = 64
_DATA_URI = re.compile(r"data:", re.IGNORECASE)
# Of a data URI before its comma: media type, parameters, base64.
_MAX_URI_HEADER = 1024
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_SHOWN = 64
# Of a body that is refused in any case, with the value at fault; they are parsed within some milliseconds.
_MAX_VALUES = 100_000
_WHITESPACE = b" \t\r\n"
_CONTROL = bytes(range(32))


def parse_json_image(body: bytes) -> bytes:
    """The image file in a JSON body.

    Raises:
        BadRequest: The body is not JSON, or has too many members.
        PayloadTooLarge: It has too many values.
        InvalidParameter: Another key, no ``image`` or one that is not text, an address, or text that is not base64.
    """
    check_json(body, _MAX_VALUES, "send {'image': ...} alone")
    image = _decode_usual(body)
    if image is not None:
        return image
    try:
        text = ImageBody.model_validate_json(body).image
    except ValidationError as error:
        raise _fault(error.errors(include_url=False)[0]) from None
    return _decode(text, _payload(text))


def _decode_usual(body: bytes) -> bytes | None:
    """The file in a body of the usual form; None for any other body, valid or not."""
    start = _USUAL.match(body)
    end = _USUAL_END.fullmatch(body, body.rfind(b'"', -_LONGEST_END))
    if start is None or end is None:
        return None
    first = start.end()
    if body[first : first + 5].lower() == b"data:":
        comma = body.find(b",", first, first + _MAX_URI_HEADER)
        if comma < 0 or not body[first:comma].lower().endswith(b";base64"):
            return None
        first = comma + 1
    return _decode_pieces(body, first, end.start())


def _decode_pieces(body: bytes, start: int, end: int) -> bytes | None:
    """Undo base64 within a JSON text; None if it is anything else, or escaped in an unusual way."""
    decoded = bytearray()
    rest = b""
    while start < end:
        stop = min(end, start + PIECE_BYTES)
        stop += stop < end and body[stop - 1 : stop] == b"\\"
        piece = body[start:stop]
        if piece.translate(None, _CONTROL) != piece:
            return None
        if b"\\" in piece:
            piece = piece.replace(b"\\/", b"/").replace(b"\\n", b"").replace(b"\\r", b"")
        piece = rest + piece.translate(None, b" ")
        whole = len(piece) if stop == end else len(piece) // 4 * 4
        if stop < end and b"=" in piece:
            return None
        try:
            decoded += binascii.a2b_base64(piece[:whole], strict_mode=True)
        except ValueError:
            return None
        rest, start = piece[whole:], stop
    return bytes(decoded)


def _payload(text: str) -> str:
    """The base64 of a data URI, or all of the text."""
    if not _DATA_URI.match(text):
        if _ADDRESS.match(text[:_MAX_URI_HEADER]):
            raise _invalid(
                f"image is {_short(text)}, and addresses are not fetched: send the file's bytes as base64", text
            )
        return text
    comma = text.find(",", 0, _MAX_URI_HEADER)
    if comma < 0 or not text[:comma].lower().endswith(";base64"):
        raise _invalid(f"image is the data URI {_short(text)}, expected one with ;base64", text)
    return text[comma + 1 :]


def _decode(text: str, payload: str) -> bytes:
    try:
        return _unpack(payload.encode("ascii").translate(None, _WHITESPACE))
    except ValueError as error:
        reason = "it has other characters" if isinstance(error, UnicodeError) else str(error)
        raise _invalid(
            f"image is {_short(text)}, which is not base64: {reason[:1].lower()}{reason[1:]}", text
        ) from None


def _unpack(packed: bytes) -> bytes:
    """Undo base64 in pieces, between which other threads run; padding within the text is refused as a whole."""
    step = len(packed) if b"=" in packed[:-2] else PIECE_BYTES // 4 * 4
    starts = range(0, len(packed), step or 1)
    return b"".join(binascii.a2b_base64(packed[start : start + step], strict_mode=True) for start in starts)


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


def _invalid(reason: str, text: str) -> InvalidParameter:
    return InvalidParameter(reason, extra={"parameter": "image", "value": text[:_SHOWN]})


def _short(value: object) -> str:
    shown = repr(value[: _SHOWN + 1] if isinstance(value, str) else value)
    return shown if len(shown) <= _SHOWN + 2 else f"{shown[:_SHOWN]}..."
