"""Facts about an image file, read from its bytes before a decoder sees them."""

from __future__ import annotations

from dataclasses import dataclass

# Pillow keeps three samples in four bytes, and turning an image upright holds it twice.
_COPIES = 2
_RGB_BYTES = 3
# Pixels are converted in strips of so many, with some copies.
_STRIP_PIXELS = 1 << 20
_STRIP_BYTES = 12


@dataclass(frozen=True, slots=True)
class Structure:
    """Facts about an image file.

    Attributes:
        size: (width, height) of the image that will be decoded; None where only the decoder finds it.
        stored_bytes: Bytes of a pixel in Pillow's image, 1 to 4.
        decoder_bytes: Bytes of a pixel that the decoder holds beside that image.
        buffer_bytes: Bytes that do not depend on the number of pixels, such as a strip's.
        unusual: Why decoding may take more than for other files of that size; empty for an ordinary file.
        shortfall: Why the file cannot hold all pixels; empty if it may.
        parts: Ranges of bytes that the decoder needs, where the rest costs it time; None for the whole file.
    """

    size: tuple[int, int] | None
    stored_bytes: int
    decoder_bytes: float = 0.0
    buffer_bytes: int = 0
    unusual: str = ""
    shortfall: str = ""
    parts: tuple[slice, ...] | None = None

    def needed(self, data: bytes) -> bytes:
        """The part of the file that the decoder needs; the file itself where that is all of it."""
        return data if self.parts is None else b"".join([data[part] for part in self.parts])

    def decoding_bytes(self, pixels: int, file_bytes: int) -> int:
        """Bytes that decoding takes at its peak, the RGB pixels that it gives included, the file's own excluded."""
        per_pixel = max(
            self.decoder_bytes + self.stored_bytes, _COPIES * self.stored_bytes, self.stored_bytes + _RGB_BYTES
        )
        copied = 0 if self.parts is None else file_bytes
        strip = min(pixels, _STRIP_PIXELS) * _STRIP_BYTES
        return int(pixels * per_pixel) + strip + self.buffer_bytes + copied
