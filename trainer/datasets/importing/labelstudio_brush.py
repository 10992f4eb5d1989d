"""Label Studio's brush: RGBA of the whole image in packed runs, of which alpha is the mask.

The packing is that of thi.ng/rle-pack (https://github.com/thi-ng/umbrella/tree/develop/packages/rle-pack), most
significant bit first: 32 bits with the number of values, 5 with the bits per value less one, four times 4 with the bits
of a run's length less one; then runs: one bit that states whether the values are equal, two with the choice of the
length's bits, the length less one, and one value or each of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.datasets.importing.errors import ImportingError
from trainer.datasets.importing.regions import Bitmap, Labels

HALF = 128
CHANNELS = 4
_HEADER_BITS = 32 + 5 + 4 * 4


@dataclass(frozen=True, slots=True)
class Brush:
    """The pixels under a brush.

    Attributes:
        packed: Bytes, 0..255 each.
        size: (height, width).
        where: The place in the file, for errors.
    """

    packed: list[Any]
    size: tuple[int, int]
    where: str

    def paint(self, labels: Labels, value: int) -> None:
        if self.size != labels.shape:
            brush, image = (f"{size[1]}x{size[0]}" for size in (self.size, labels.shape))
            raise ImportingError(f"{self.where}: the brush is {brush} pixels, its image {image}")
        values = unpack(self.packed, self.size[0] * self.size[1] * CHANNELS, self.where)
        alpha = values.reshape(*self.size, CHANNELS)[..., -1]
        Bitmap(alpha >= HALF).paint(labels, value)


def unpack(packed: list[Any], expected: int, where: str) -> NDArray[np.uint8]:
    """The values of packed runs.

    Raises:
        ImportingError: There are not ``expected`` values of 8 bits or fewer, or they end too soon.
    """
    if not all(type(byte) is int and 0 <= byte < 256 for byte in packed):
        raise ImportingError(f"{where}: 'rle' holds values that are not bytes, expected 0..255")
    bits = _Bits(np.unpackbits(np.array(packed, np.uint8)), where)
    count = bits.read(32) if len(packed) * 8 >= _HEADER_BITS else 0
    if count != expected:
        raise ImportingError(f"{where}: 'rle' holds {count:,} values, expected {expected:,}: 4 for each pixel")
    width = bits.read(5) + 1
    if width > 8:
        raise ImportingError(f"{where}: 'rle' has values of {width} bits, at most 8 are expected")
    lengths = [bits.read(4) + 1 for _ in range(4)]
    values = np.zeros(count, np.uint8)
    start = 0
    while start < count:
        is_run = bits.read(1)
        end = min(start + bits.read(lengths[bits.read(2)]) + 1, count)
        values[start:end] = bits.read(width) if is_run else bits.read_many(end - start, width)
        start = end
    return values


class _Bits:
    """Numbers from single bits."""

    def __init__(self, bits: NDArray[np.uint8], where: str) -> None:
        self._bits = bits
        self._text = (bits + ord("0")).tobytes()
        self._at = 0
        self._where = where

    def read(self, width: int) -> int:
        return int(self._text[self._take(width) : self._at], 2)

    def read_many(self, count: int, width: int) -> NDArray[np.uint8]:
        start = self._take(count * width)
        rows = self._bits[start : self._at].reshape(count, width)
        return np.right_shift(np.packbits(rows, axis=1)[:, 0], np.uint8(8 - width))

    def _take(self, width: int) -> int:
        start, self._at = self._at, self._at + width
        if self._at > len(self._bits):
            raise ImportingError(
                f"{self._where}: 'rle' ends after {len(self._bits) // 8} bytes, in the middle of a run"
            )
        return start
