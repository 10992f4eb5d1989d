"""Rows of samples to PNG files."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from functools import reduce

import numpy as np
from numpy.typing import NDArray

# Bytes of rows that are filtered and compressed in one go: they stay in the processor's cache.
_STRIP_BYTES = 1 << 18
# Samples of a pixel by colour type: grey, RGB, palette, RGBA.
_CHANNELS = {0: 1, 2: 3, 3: 1, 6: 4}


def write_png(samples: NDArray[np.uint8], *, colour_type: int, palette: bytes = b"") -> bytes:
    """Write rows of samples, (H, W * channels), as PNG.

    A row is stored as its difference to the row above, and run lengths are the only matches. On label maps
    and overlays alike this takes half the time of Pillow's fastest setting, at about the same size.
    """
    height, row_bytes = samples.shape
    width = row_bytes // _CHANNELS[colour_type]
    strip_rows = max(1, _STRIP_BYTES // row_bytes)
    encoder = zlib.compressobj(level=1, strategy=zlib.Z_RLE)
    body = [encoder.compress(_differences(samples, top, strip_rows).data) for top in range(0, height, strip_rows)]
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            *_chunk(b"IHDR", [header]),
            *(_chunk(b"PLTE", [palette]) if palette else []),
            *_chunk(b"IDAT", [*body, encoder.flush()]),
            *_chunk(b"IEND", []),
        ]
    )


def _differences(samples: NDArray[np.uint8], top: int, strip_rows: int) -> NDArray[np.uint8]:
    """Rows of samples from ``top`` on, each less the one above, after a byte that names this filter."""
    strip = samples[top : top + strip_rows]
    rows = np.empty((len(strip), 1 + strip.shape[1]), np.uint8)
    rows[:, 0] = 2  # the filter "up"
    rows[0, 1:] = strip[0] - samples[top - 1] if top else strip[0]
    np.subtract(strip[1:], strip[:-1], out=rows[1:, 1:])
    return rows


def _chunk(kind: bytes, body: Sequence[bytes]) -> list[bytes]:
    """A chunk in pieces: joined once, with all others, as an image may be hundreds of megabytes."""
    checksum = reduce(lambda value, piece: zlib.crc32(piece, value), body, zlib.crc32(kind))
    return [struct.pack(">I", sum(map(len, body))), kind, *body, struct.pack(">I", checksum)]
