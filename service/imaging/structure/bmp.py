"""Structure of BMP files. Run-length encoding is refused: nobody sends it, and Pillow decodes it in Python."""

from __future__ import annotations

import struct

from service.errors import UnsupportedImage
from service.imaging.structure.limits import BMP_COLOURS
from service.imaging.structure.structure import Structure

_CORE_HEADER = 12
_TOP_DOWN = 0xFF
_RAW, _BITFIELDS = 0, 3


def scan_bmp(data: bytes) -> Structure:
    """The structure of a BMP file.

    Raises:
        UnsupportedImage: It is compressed.
        PayloadTooLarge: More colours than allowed.
        struct.error: No header.
    """
    (offset, header_size) = struct.unpack_from("<II", data, 10)
    if header_size == _CORE_HEADER:
        width, height, _planes, bits = struct.unpack_from("<HHHH", data, 18)
    else:
        width, height, _planes, bits, compression = struct.unpack_from("<IIHHI", data, 18)
        height = 2**32 - height if data[25] == _TOP_DOWN else height
        if compression not in {_RAW, _BITFIELDS}:
            raise UnsupportedImage(
                f"the BMP image has compression {compression}, accepted are uncompressed ones; send a PNG instead",
                extra={"value": compression, "accepted": [_RAW, _BITFIELDS]},
            )
        _check_colours(data, bits)
    row_bytes = (width * bits + 31) // 32 * 4
    return Structure(
        size=(width, height),
        stored_bytes=1 if bits <= 8 else 4,
        buffer_bytes=row_bytes,
        shortfall=_shortfall(len(data) - offset, row_bytes, (width, height)),
    )


def _check_colours(data: bytes, bits: int) -> None:
    if bits <= 8:
        BMP_COLOURS.check(*struct.unpack_from("<I", data, 46))


def _shortfall(num_bytes: int, row_bytes: int, size: tuple[int, int]) -> str:
    """All rows but the last, whose padding some encoders leave out."""
    if num_bytes < row_bytes * (size[1] - 1):
        return f"{max(0, num_bytes)} bytes of pixels cannot hold {size[0]}x{size[1]} pixels"
    return ""
