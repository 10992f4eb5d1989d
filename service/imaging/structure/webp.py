"""Structure of WebP files: the RIFF chunks, and the canvas, which an animation's frames need not fill."""

from __future__ import annotations

import struct

from service.imaging.structure.limits import WEBP_CHUNKS
from service.imaging.structure.structure import Structure

_CHUNK = struct.Struct("<4sI")
_FIRST_CHUNK = 12
_ANIMATION = 0x02
# The canvas, the one before it, and the answer of the decoder.
_DECODER_BYTES = 12.0
# Pixels that a file of any size may have, and those for a byte of it. A white page of 50 megapixels has 20 KB.
_FREE_PIXELS = 4_000_000
_PIXELS_PER_BYTE = 16_384


def scan_webp(data: bytes) -> Structure:
    """The structure of a WebP file.

    Raises:
        PayloadTooLarge: More chunks than allowed.
    """
    size, is_animated = _canvas(data)
    _check_chunks(data)
    shortfall = ""
    if size is not None and size[0] * size[1] > _FREE_PIXELS + len(data) * _PIXELS_PER_BYTE:
        shortfall = f"{len(data)} bytes are too few for {size[0]}x{size[1]} pixels"
    return Structure(
        size=size,
        stored_bytes=4,
        decoder_bytes=_DECODER_BYTES,
        buffer_bytes=len(data),
        unusual="animated WebP" if is_animated else "",
        shortfall=shortfall,
    )


def _canvas(data: bytes) -> tuple[tuple[int, int] | None, bool]:
    """(width, height), and True for an animation."""
    kind, content = data[12:16], data[20:30]
    if kind == b"VP8X" and len(content) == 10:
        sides = (1 + int.from_bytes(content[start : start + 3], "little") for start in (4, 7))
        return (next(sides), next(sides)), bool(content[0] & _ANIMATION)
    if kind == b"VP8L" and len(content) >= 5:
        bits = int.from_bytes(content[1:], "little")
        return ((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1), False
    if kind == b"VP8 " and len(content) == 10:
        bits = int.from_bytes(content[6:], "little")
        return (bits & 0x3FFF, bits >> 16 & 0x3FFF), False
    return None, False


def _check_chunks(data: bytes) -> None:
    position, chunks = _FIRST_CHUNK, 0
    while position + _CHUNK.size <= len(data):
        _, length = _CHUNK.unpack_from(data, position)
        position += _CHUNK.size + length + (length & 1)
        chunks += 1
        WEBP_CHUNKS.check(chunks)
