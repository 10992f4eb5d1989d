"""Tensors on the wire: binary (little-endian, row by row) or JSON, both ways.

``BYTES`` elements are a length of four bytes and the content; in JSON, which holds text only, they are base64.
"""

from __future__ import annotations

import binascii
import json
import math
import struct
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import BadRequest

_LENGTH = struct.Struct("<I")


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


def pixels_from_json(name: str, data: list[Any], shape: Sequence[int]) -> NDArray[np.uint8]:
    """The UINT8 tensor ``name`` of ``shape`` from lists nested like it, or from one flat list.

    Raises:
        BadRequest: Another number of elements or nesting, or an element that is not an integer of 0..255.
    """
    flat = _flatten(name, data, shape)
    if (found := set(map(type, flat))) - {int}:
        names = ", ".join(sorted(kind.__name__ for kind in found - {int}))
        raise BadRequest(f"input '{name}' holds {names} in its data, expected integers of 0..255")
    try:
        return np.frombuffer(bytes(flat), np.uint8).reshape(shape)
    except ValueError:
        outside = min(flat) if min(flat) < 0 else max(flat)
        raise BadRequest(f"input '{name}' holds {outside} in its data, expected integers of 0..255") from None


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


def byte_strings_from_json(name: str, data: list[Any], count: int) -> list[bytes]:
    """The ``count`` elements of the BYTES tensor ``name``, in base64.

    Raises:
        BadRequest: Another number of elements, or one that is not base64.
    """
    if len(data) != count:
        raise BadRequest(f"input '{name}' has {len(data)} elements in its data, expected {count} by its shape")
    return [_from_base64(name, index, element) for index, element in enumerate(data)]


def to_binary(array: NDArray[Any]) -> bytes:
    """An array in the protocol's byte order."""
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def to_json(array: NDArray[Any]) -> bytes:
    """The elements of a finite array that is not empty, flat and between commas, without the brackets."""
    return json.dumps(array.ravel().tolist(), separators=(",", ":"), allow_nan=False)[1:-1].encode()


def _flatten(name: str, data: list[Any], shape: Sequence[int]) -> list[Any]:
    if data and not isinstance(data[0], list):
        if len(data) != math.prod(shape):
            raise BadRequest(
                f"input '{name}' has {len(data)} elements in its data, expected {math.prod(shape)} "
                f"for shape {list(shape)}"
            )
        return data
    _check_length(name, data, shape[0], 0)
    for axis, extent in enumerate(shape[1:], 1):
        for row in data:
            _check_length(name, row, extent, axis)
        data = list(chain.from_iterable(data))
    return data


def _check_length(name: str, row: Any, extent: int, axis: int) -> None:
    if not isinstance(row, list) or len(row) != extent:
        found = f"a list of {len(row)}" if isinstance(row, list) else type(row).__name__
        raise BadRequest(f"input '{name}' has {found} in its data at axis {axis}, expected a list of {extent}")


def _from_base64(name: str, index: int, element: Any) -> bytes:
    if not isinstance(element, str):
        raise BadRequest(f"element {index} of input '{name}' is {type(element).__name__}, expected text in base64")
    try:
        return binascii.a2b_base64(element, strict_mode=True)
    except ValueError as error:
        raise BadRequest(
            f"element {index} of input '{name}' is not base64 ({error}): send image files in base64 or as binary data"
        ) from None
