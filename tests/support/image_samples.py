"""A small image in every format that is accepted, plainly encoded and decoded."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.imaging.codec import DecodedImage, decode

PIXELS = np.random.default_rng(0).integers(0, 256, (13, 22, 3), np.uint8)
LOSSLESS: dict[str, dict[str, Any]] = {"PNG": {}, "WEBP": {"lossless": True}, "BMP": {}, "TIFF": {}}


def decoded(data: bytes, max_image_bytes: int = 2**20, max_image_pixels: int = 2**20) -> DecodedImage:
    return decode(data, max_image_bytes=max_image_bytes, max_image_pixels=max_image_pixels)


def encoded(image: Image.Image | NDArray[Any], image_format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, image_format, **options)
    return stream.getvalue()


def exif_block(orientation: int, order: str = "<") -> bytes:
    """An EXIF block with a maker and an orientation."""
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order]
    maker = struct.pack(f"{order}HHI", 0x010F, 2, 4) + b"Abc\0"
    entry = struct.pack(f"{order}HHIHH", 0x0112, 3, 1, orientation, 0)
    return b"Exif\0\0" + mark + struct.pack(f"{order}IH", 8, 2) + maker + entry + bytes(4)


SAMPLES = {
    "JPEG": encoded(PIXELS, "JPEG", exif=exif_block(6)),
    "JPEG, progressive": encoded(PIXELS, "JPEG", progressive=True),
    "JPEG, CMYK": encoded(Image.fromarray(PIXELS).convert("CMYK"), "JPEG"),
    "PNG": encoded(PIXELS, "PNG", exif=exif_block(8)),
    "PNG, palette": encoded(Image.fromarray(PIXELS).quantize(16), "PNG", transparency=3),
    "PNG, animated": encoded(PIXELS, "PNG", save_all=True, append_images=[Image.fromarray(PIXELS[::-1])]),
    "WEBP": encoded(PIXELS, "WEBP", exif=exif_block(3)),
    "BMP": encoded(PIXELS, "BMP"),
    "TIFF": encoded(PIXELS, "TIFF"),
    "TIFF, LZW": encoded(PIXELS, "TIFF", compression="tiff_lzw"),
    "GIF": encoded(PIXELS, "GIF"),
}
