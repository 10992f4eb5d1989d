"""Structure of PNG files: their chunks, and the metadata that a decoder of pixels does not need."""

from __future__ import annotations

import struct

from service.imaging.structure.limits import PNG_CHUNKS
from service.imaging.structure.structure import Structure

_HEADER = struct.Struct(">I4s")
_MEAN_CHUNK_BYTES = 1024
# Text and colour profiles, most of them compressed: Pillow unpacks up to 1 MB of each.
_DROPPED = frozenset({b"iCCP", b"iTXt", b"tEXt", b"zTXt"})
# Samples of a pixel by colour type.
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# A bit of deflate stands for at most 258 bytes in 2 bits.
_MOST_DEFLATED = 1032


def scan_png(data: bytes) -> Structure:
    """The structure of a PNG file.

    Raises:
        PayloadTooLarge: More chunks than allowed.
        struct.error: No header.
    """
    width, height, depth, colour_type = struct.unpack_from(">IIBB", data, 16)
    channels = _CHANNELS.get(colour_type, 4)
    row_bytes = 1 + (width * depth * channels + 7) // 8
    shortfall = ""
    if len(data) * _MOST_DEFLATED < row_bytes * height:
        shortfall = f"{len(data)} bytes cannot hold {width}x{height} pixels"
    return Structure(
        size=(width, height),
        stored_bytes=4 if channels > 1 else 2 if depth == 16 else 1,
        buffer_bytes=4 * row_bytes,
        shortfall=shortfall,
        parts=_parts(data),
    )


def _parts(data: bytes) -> tuple[slice, ...] | None:
    """The file without metadata; None if it has none. The decoder refuses broken chunks."""
    allowance = len(data) // _MEAN_CHUNK_BYTES
    kept, start, position, chunks = [], 0, 8, 0
    while position + _HEADER.size <= len(data):
        chunks += 1
        PNG_CHUNKS.check(chunks, allowance)
        length, kind = _HEADER.unpack_from(data, position)
        end = position + length + 12
        if kind == b"IEND":
            break
        if kind in _DROPPED:
            kept.append(slice(start, position))
            start = end
        position = end
    return (*kept, slice(start, None)) if kept else None
