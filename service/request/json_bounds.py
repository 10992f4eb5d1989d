"""Bounds of JSON in requests, so that no step of reading it holds the interpreter long.

A parser runs from the first byte to the last while no other thread does. It sees small texts alone: the one long text
or list of a request is cut out first, and read in pieces.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pydantic_core import from_json

from service.errors import BadRequest, PayloadTooLarge

# Of JSON that is parsed in one go, in a millisecond or two.
MAX_JSON_BYTES = 1 << 16
MAX_MEMBERS = 1000
# Bytes that are counted, parsed or decoded in one go: some milliseconds at worst.
PIECE_BYTES = 1 << 18
WHITESPACE = b" \t\r\n"
_LONGEST_ESCAPE = len("\\u0041")


def check_json(data: bytes, beside: str) -> None:
    """Check that JSON is small enough to be parsed in one go; colons inside of texts count too.

    Args:
        data: The JSON.
        beside: The part of the request that may be larger, for the error.

    Raises:
        PayloadTooLarge: More than ``MAX_JSON_BYTES``.
        BadRequest: More than ``MAX_MEMBERS`` members of objects.
    """
    if len(data) > MAX_JSON_BYTES:
        raise PayloadTooLarge(
            f"the JSON has {len(data)} bytes beside {beside}, at most {MAX_JSON_BYTES} are accepted",
            extra={"value": len(data), "limit": MAX_JSON_BYTES, "unit": "bytes"},
        )
    members = data.count(b":")
    if members > MAX_MEMBERS:
        raise BadRequest(f"the JSON has {members} colons, at most {MAX_MEMBERS} are accepted in a request")


@dataclass(frozen=True, slots=True)
class Inner:
    """The part of a JSON text between the brackets of a list, or between the quotes of a text; not copied.

    Attributes:
        json: All of the JSON.
        start: Place of the first byte.
        end: Place behind the last.
    """

    json: bytes
    start: int
    end: int


def key_before(name: str, opening: str) -> re.Pattern[bytes]:
    """Pattern of a key and the mark that opens its value; a quote within a text has a backslash before it."""
    return re.compile(rf'(?<!\\)"{name}"\s*:\s*{re.escape(opening)}'.encode())


def cut_out(
    text: bytes, key: re.Pattern[bytes], end_of: Callable[[bytes, int], int], beside: str
) -> tuple[bytes, Inner | None]:
    """Cut JSON into a small text whose one long value is empty, and that value; None if there is no such key.

    Args:
        text: The JSON.
        key: See ``key_before``; it is within the first ``MAX_JSON_BYTES``.
        end_of: Gives the place of the mark that closes the value, by the text and the place behind the opening one.
        beside: See ``check_json``, which the small text has passed.
    """
    found = key.search(text, 0, MAX_JSON_BYTES)
    value = None if found is None else Inner(text, found.end(), end_of(text, found.end()))
    rest = text if value is None else text[: value.start] + text[value.end :]
    check_json(rest, beside)
    return rest, value


def pieces_of_list(items: Inner) -> Iterator[bytes]:
    """The items of a list, cut at commas into pieces of up to ``PIECE_BYTES``.

    Raises:
        ValueError: There is no comma in so many bytes.
    """
    start = items.start
    while items.end - start > PIECE_BYTES:
        stop = items.json.rfind(b",", start, start + PIECE_BYTES)
        if stop < 0:
            raise ValueError(f"no value has {PIECE_BYTES} bytes")
        yield items.json[start:stop]
        start = stop + 1
    yield items.json[start : items.end]


def base64_of_text(text: Inner) -> bytes:
    """Decode the base64 in a text; white space in it does not count.

    Raises:
        ValueError: It is not base64, or not a text.
    """
    decoded = []
    rest, is_padded = b"", False
    for piece in _pieces_of_text(text):
        packed = rest + _characters(piece)
        if is_padded and packed:
            raise ValueError("it goes on behind its padding")
        whole = len(packed) // 4 * 4
        decoded.append(binascii.a2b_base64(packed[:whole], strict_mode=True))
        rest, is_padded = packed[whole:], is_padded or packed[:whole].endswith(b"=")
    if rest:
        raise ValueError("its length is not a multiple of 4")
    return b"".join(decoded)


def _pieces_of_text(text: Inner) -> Iterator[bytes]:
    """Pieces of up to ``PIECE_BYTES`` that do not end within an escape."""
    start = text.start
    while start < text.end:
        stop = min(text.end, start + PIECE_BYTES)
        if stop < text.end and (escape := text.json.rfind(b"\\", stop - _LONGEST_ESCAPE, stop)) >= 0:
            stop = escape
        yield text.json[start:stop]
        start = stop


def _characters(piece: bytes) -> bytes:
    """The characters of a piece without white space and escapes."""
    if b"\\" not in piece:
        return piece.translate(None, b" ")
    try:
        characters = str(from_json(b'"' + piece + b'"')).encode("ascii")
    except ValueError:
        raise ValueError("it has other characters") from None
    return characters.translate(None, WHITESPACE)
