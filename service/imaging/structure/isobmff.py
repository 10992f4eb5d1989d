"""Structure of AVIF and HEIF files: the sizes that the properties of their items state, ISO/IEC 23008-12."""

from __future__ import annotations

import struct

from service.imaging.structure.limits import BOXES
from service.imaging.structure.structure import Structure

_BOX = struct.Struct(">I4s")
# An item may be coded in whole blocks of 64 pixels, and cropped by another property.
_PADDING = 63
# Planes of the decoder with up to 16 bits a sample, its RGBA, and the copy that Pillow takes.
_DECODER_BYTES = 12.0
# Frames and threads of the decoder.
_BUFFER_BYTES = 32 << 20


def scan_isobmff(data: bytes) -> Structure:
    """The structure of an AVIF or HEIF file.

    The size is the least that its largest item may have, None where no item states one.

    Raises:
        PayloadTooLarge: More boxes than allowed.
    """
    sizes = _sizes(data, *_find_box(data, b"meta"))
    return Structure(
        size=max(sizes, key=lambda size: size[0] * size[1], default=None),
        stored_bytes=4,
        decoder_bytes=_DECODER_BYTES,
        buffer_bytes=_BUFFER_BYTES + len(data),
        unusual="AVIF or HEIF, whose coded frames may be larger than their items",
    )


def _find_box(data: bytes, wanted: bytes) -> tuple[int, int]:
    """Start and end of the first box of a kind; an empty range if there is none."""
    position = boxes = 0
    while position + _BOX.size <= len(data):
        length, kind = _BOX.unpack_from(data, position)
        if length == 1:
            length = int.from_bytes(data[position + 8 : position + 16])
        length = len(data) if length == 0 else max(length, _BOX.size)
        if kind == wanted:
            return position, min(position + length, len(data))
        position += length
        boxes += 1
        BOXES.check(boxes)
    return position, position


def _sizes(data: bytes, start: int, end: int) -> list[tuple[int, int]]:
    """(width, height) of all ``ispe`` properties, found by their name."""
    sizes = []
    while (start := data.find(b"ispe", start, end)) != -1 and start + 16 <= end:
        width, height = struct.unpack_from(">II", data, start + 8)
        sizes.append((max(1, width - _PADDING), max(1, height - _PADDING)))
        start += 16
        BOXES.check(len(sizes))
    return sizes
