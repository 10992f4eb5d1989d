"""Structure of GIF files up to their first frame, which alone is decoded."""

from __future__ import annotations

import struct

from service.errors import NotAnImage
from service.imaging.structure.limits import GIF_BLOCKS
from service.imaging.structure.structure import Structure

_EXTENSION, _FRAME, _TRAILER = b"!,;"
_GRAPHIC_CONTROL = b"!\xf9"
_SCREEN_BYTES = 13
_KEPT_BLOCKS = 64


def scan_gif(data: bytes) -> Structure:
    """The structure of a GIF file.

    Raises:
        NotAnImage: No frame.
        PayloadTooLarge: More blocks than allowed before the first frame.
        struct.error: No header.
    """
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    start = _SCREEN_BYTES + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    frame, blocks, controls = _find_frame(data, start)
    left, top, columns, rows = struct.unpack_from("<HHHH", data, frame + 1)
    is_bulky = blocks > _KEPT_BLOCKS
    return Structure(
        size=(max(width, left + columns), max(height, top + rows)),
        stored_bytes=1,
        # A frame that is to be disposed of is kept a second time.
        decoder_bytes=1.0,
        parts=(slice(start), *controls, slice(frame, None)) if is_bulky else None,
    )


def _find_frame(data: bytes, position: int) -> tuple[int, int, list[slice]]:
    """Place of the first frame, the number of blocks before it, and its last graphic control."""
    blocks = 0
    controls: list[slice] = []
    while position < len(data) and (kind := data[position]) != _TRAILER:
        if kind == _FRAME:
            return position, blocks, controls
        start = position
        position += 1
        blocks += 1
        if kind == _EXTENSION:
            position += 1
            while position < len(data) and (length := data[position]):
                position += 1 + length
                blocks += 1
                GIF_BLOCKS.check(blocks)
            position += 1
            if data.startswith(_GRAPHIC_CONTROL, start):
                controls = [slice(start, position)]
        GIF_BLOCKS.check(blocks)
    raise NotAnImage("the GIF image is truncated or corrupt: it has no frame")
