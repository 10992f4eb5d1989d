"""Tensors on the wire: binary (little-endian, row by row) or JSON, both ways.

``BYTES`` elements are a length of four bytes and the content; in JSON, which holds text only, they are base64.
"""

from __future__ import annotations

import json
import math
import re
import reprlib
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json

from service.errors import BadRequest
from service.request.json_bounds import PIECE_BYTES, WHITESPACE, Inner, base64_of_text, pieces_of_list

_LENGTH = struct.Struct("<I")
_BRACKETS_TO_SPACES = bytes.maketrans(b"[]", b"  ")
_NUMBERS = b"-0123456789"
_LIST = re.compile(rb"\s*\[")
# Numbers that are written in one go, in some milliseconds.
_ELEMENTS = 1 << 14


def pixels_from_binary(name: str, data: memoryview, shape: Sequence[int]) -> NDArray[np.uint8]:
    """The UINT8 tensor ``name`` of ``shape``; a read-only view of ``data``.

    Raises:
        BadRequest: ``data`` has another size.
    """
    if len(data) != math.prod(shape):
        raise BadRequest(
            f"input '{name}' has {len(data)} bytes of binary data, expected {math.prod(shape)} for shape {list(shape)}"
        )
    return np.frombuffer(data, np.uint8).reshape(shape)


def pixels_from_json(name: str, items: Inner, shape: Sequence[int]) -> NDArray[np.uint8]:
    """The UINT8 tensor ``name`` of ``shape`` from a list in JSON, flat or nested like the shape.

    Args:
        name: Name of the tensor.
        items: The items of the list.
        shape: Extents of 1 or more.

    Raises:
        BadRequest: Another number of elements or nesting, or an element that is not an integer of 0..255.
    """
    count = math.prod(shape)
    marks = _Marks(items, shape)
    pixels = bytearray()
    try:
        for piece in pieces_of_list(items):
            pixels += _pixels(name, piece)
            if len(pixels) > count:
                raise BadRequest(
                    f"input '{name}' has more elements in its data than {count}, as shape {list(shape)} has"
                )
            if not marks.take(piece):
                raise BadRequest(f"input '{name}' has lists in its data that are not nested like shape {list(shape)}")
    except ValueError:
        raise BadRequest(f"input '{name}' holds something that is not a number in its data") from None
    if len(pixels) != count or not marks.are_complete:
        raise BadRequest(
            f"input '{name}' has {len(pixels)} elements in its data, expected {count} for shape {list(shape)}"
        )
    return np.frombuffer(pixels, np.uint8).reshape(shape)


def byte_strings_from_binary(name: str, data: memoryview, count: int) -> list[bytes]:
    """The ``count`` elements of the BYTES tensor ``name``.

    Raises:
        BadRequest: ``data`` ends inside an element, or does not end after the last.
    """
    elements, start = [], 0
    for index in range(count):
        content = start + _LENGTH.size
        if content > len(data):
            raise BadRequest(f"input '{name}' ends after {index} elements, expected {count} by its shape")
        (length,) = _LENGTH.unpack_from(data, start)
        if length > len(data) - content:
            raise BadRequest(
                f"element {index} of input '{name}' states {length} bytes, but {len(data) - content} are left"
            )
        elements.append(bytes(data[content : content + length]))
        start = content + length
    if start != len(data):
        raise BadRequest(f"input '{name}' has {len(data) - start} bytes after its last element, expected none")
    return elements


def byte_strings_from_json(name: str, items: Inner, count: int) -> list[bytes]:
    """The ``count`` elements of the BYTES tensor ``name``, in base64.

    Raises:
        BadRequest: Another number of elements, or one that is not base64.
    """
    elements: list[bytes] = []
    start = items.start
    while start <= items.end:
        end = items.json.find(b",", start, items.end)
        end = items.end if end < 0 else end
        if len(elements) == count:
            raise BadRequest(f"input '{name}' has more elements in its data than {count}, as its shape has")
        elements.append(_from_base64(name, len(elements), Inner(items.json, start, end)))
        start = end + 1
    if len(elements) != count:
        raise BadRequest(f"input '{name}' has {len(elements)} elements in its data, expected {count} by its shape")
    return elements


def to_binary(array: NDArray[Any]) -> bytes:
    """An array in the protocol's byte order."""
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def to_json(array: NDArray[Any]) -> bytes:
    """The elements of a finite array that is not empty, flat and between commas, without the brackets."""
    flat = array.ravel()
    return b",".join(_to_json(flat[start : start + _ELEMENTS]) for start in range(0, flat.size, _ELEMENTS))


def _to_json(flat: NDArray[Any]) -> bytes:
    return json.dumps(flat.tolist(), separators=(",", ":"), allow_nan=False)[1:-1].encode()


def _pixels(name: str, piece: bytes) -> bytes:
    """The pixels of a piece of a list, wherever its brackets are.

    Raises:
        BadRequest: An element is not an integer of 0..255.
        ValueError: The piece is not a list in JSON.
    """
    values: list[Any] = from_json(b"[" + piece.translate(_BRACKETS_TO_SPACES) + b"]", allow_inf_nan=False)
    if found := set(map(type, values)) - {int}:
        names = ", ".join(sorted(kind.__name__ for kind in found))
        raise BadRequest(f"input '{name}' holds {names} in its data, expected integers of 0..255")
    try:
        return bytes(values)
    except ValueError:
        outside = min(values) if min(values) < 0 else max(values)
        shown = reprlib.repr(outside)
        raise BadRequest(f"input '{name}' holds {shown} in its data, expected integers of 0..255") from None


class _Marks:
    """Brackets and commas of a list, flat or nested like a shape: the same for each of its elements."""

    def __init__(self, items: Inner, shape: Sequence[int]) -> None:
        is_nested = _LIST.match(items.json, items.start, min(items.end, items.start + PIECE_BYTES))
        self._element = b"[" + _nested_marks(shape[1:]) + b"]," if is_nested else b","
        self._total = len(self._element) * (shape[0] if is_nested else math.prod(shape))
        self._place = 0

    def take(self, piece: bytes) -> bool:
        """Compare the marks of the next piece, which ends before a comma or with the list."""
        compact = piece.translate(None, WHITESPACE)
        if b"[," in compact or b",]" in compact or compact.startswith(b"]") or compact.endswith(b"["):
            return False
        marks = compact.translate(None, _NUMBERS) + b","
        start = self._place % len(self._element)
        expected = self._element * ((start + len(marks)) // len(self._element) + 1)
        self._place += len(marks)
        return expected[start : start + len(marks)] == marks

    @property
    def are_complete(self) -> bool:
        """True once the pieces make up the whole list."""
        return self._place == self._total


def _nested_marks(shape: Sequence[int]) -> bytes:
    """Brackets and commas of nested lists, without the outermost brackets."""
    marks = b"," * (shape[-1] - 1)
    for extent in reversed(shape[:-1]):
        marks = b",".join([b"[" + marks + b"]"] * extent)
    return marks


def _from_base64(name: str, index: int, element: Inner) -> bytes:
    start = element.json.find(b'"', element.start, element.end) + 1
    end = element.json.rfind(b'"', start, element.end)
    if start == 0 or end < 0 or (element.json[element.start : start - 1] + element.json[end + 1 : element.end]).strip():
        raise BadRequest(f"element {index} of input '{name}' is not a text, expected base64")
    try:
        return base64_of_text(Inner(element.json, start, end))
    except ValueError as error:
        raise BadRequest(
            f"element {index} of input '{name}' is not base64 ({error}): send image files in base64 or as binary data"
        ) from None
