"""Image files as real encoders write them, with all that they write beside the pixels. ``FILES`` names them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin

from tests.support.hostile import encoded, jpeg_segment, jpeg_with, noise, png_chunk, png_with

PICTURE = Image.radial_gradient("L").resize((403, 301)).convert("RGB")
XMP = b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta/>"
EXTENDED_XMP = jpeg_segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + bytes(65_000)) * 16
PHOTOSHOP = jpeg_segment(0xED, b"Photoshop 3.0\0" + bytes(60_000))
MOTION_PHOTO = b"\0\0\0\x18ftypmp42" + np.random.default_rng(0).bytes(2_000_000)


def exif_with_thumbnail(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x927C] = bytes(20_000)
    block = exif.tobytes()
    return block + encoded(PICTURE.resize((160, 120)), "JPEG")


def tiff(image: Image.Image, compression: str | None = None, **tags: Any) -> bytes:
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    for name, value in tags.items():
        directory[int(name[1:])] = value
    return encoded(image, "TIFF", compression=compression, tiffinfo=directory)


def tiled_tiff(side: int) -> bytes:
    """An uncompressed RGB TIFF in tiles, as GDAL writes it; Pillow writes strips alone."""
    width, height = PICTURE.size
    across, down = -(-width // side), -(-height // side)
    padded = np.zeros((down * side, across * side, 3), np.uint8)
    padded[:height, :width] = np.asarray(PICTURE)
    tiles = padded.reshape(down, side, across, side, 3).swapaxes(1, 2).tobytes()
    size = side * side * 3
    count = across * down
    lists = struct.pack("<3H", 8, 8, 8) + b"\0\0"
    lists += struct.pack(f"<{count}I", *(8 + size * index for index in range(count)))
    lists += struct.pack(f"<{count}I", *[size] * count)
    at = 8 + len(tiles)
    entries = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, at), (259, 3, 1, 1), (262, 3, 1, 2), (277, 3, 1, 3),
        (322, 4, 1, side), (323, 4, 1, side), (324, 4, count, at + 8), (325, 4, count, at + 8 + 4 * count),
    ]  # fmt: skip
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<I", at + len(lists)) + tiles + lists + directory + bytes(4)


def grey16() -> Image.Image:
    return Image.fromarray(np.asarray(PICTURE)[..., 0].astype(np.uint16) * 257)


FILES: dict[str, Callable[[], bytes]] = {
    **{
        f"jpeg {quality} {sampling}": partial(encoded, PICTURE, "JPEG", quality=quality, subsampling=sampling)
        for quality in (1, 95)
        for sampling in (0, 1, 2)
    },
    "jpeg grey": lambda: encoded(PICTURE.convert("L"), "JPEG"),
    "jpeg cmyk": lambda: encoded(PICTURE.convert("CMYK"), "JPEG"),
    "jpeg progressive": lambda: encoded(noise(200, 100), "JPEG", progressive=True),
    "jpeg progressive grey": lambda: encoded(PICTURE.convert("L"), "JPEG", progressive=True, quality=10),
    "jpeg restarts": lambda: encoded(noise(200, 100), "JPEG", restart_marker_rows=1),
    "jpeg optimised": lambda: encoded(PICTURE, "JPEG", optimize=True),
    "jpeg blank": lambda: encoded(Image.new("RGB", (1500, 1000), "white"), "JPEG"),
    "jpeg blank progressive": lambda: encoded(Image.new("RGB", (1500, 1000), "white"), "JPEG", progressive=True),
    "jpeg exif and thumbnail": lambda: encoded(PICTURE, "JPEG", exif=exif_with_thumbnail(1)),
    "jpeg icc 3 MB": lambda: encoded(PICTURE, "JPEG", icc_profile=np.random.default_rng(0).bytes(3_000_000)),
    "jpeg extended xmp": lambda: jpeg_with(jpeg_segment(0xE1, XMP) + EXTENDED_XMP, encoded(PICTURE, "JPEG")),
    "jpeg photoshop": lambda: jpeg_with(PHOTOSHOP, encoded(PICTURE, "JPEG")),
    "jpeg motion photo": lambda: encoded(PICTURE, "JPEG", progressive=True) + MOTION_PHOTO,
    "jpeg padded end": lambda: encoded(PICTURE, "JPEG") + b"\xff" * 5000,
    "jpeg multi picture": lambda: encoded(PICTURE, "MPO", save_all=True, append_images=[PICTURE.rotate(90)]),
    "jpeg comment": lambda: encoded(PICTURE, "JPEG", comment=b"\xff\xd9\xff\xda" * 100),
    "jpeg aligned segments": lambda: jpeg_with(b"\xff" * 512, encoded(PICTURE, "JPEG")),
    "png": lambda: encoded(noise(300, 200), "PNG"),
    "png 16 bits": lambda: encoded(grey16(), "PNG"),
    "png 1 bit": lambda: encoded(PICTURE.convert("1"), "PNG"),
    "png palette": lambda: encoded(PICTURE.quantize(200), "PNG", transparency=3),
    "png alpha": lambda: encoded(PICTURE.convert("RGBA"), "PNG"),
    "png grey alpha": lambda: encoded(PICTURE.convert("LA"), "PNG"),
    "png blank": lambda: encoded(Image.new("RGB", (1500, 1000)), "PNG", compress_level=9),
    "png small chunks": lambda: png_with(b"".join(png_chunk(b"abCd", bytes(20)) for _ in range(3000))),
    "png icc": lambda: encoded(PICTURE, "PNG", icc_profile=bytes(700_000)),
    "png exif": lambda: encoded(PICTURE, "PNG", exif=exif_with_thumbnail(1)),
    "png animated": lambda: encoded(PICTURE, "PNG", save_all=True, append_images=[noise(403, 301)] * 3),
    "gif": lambda: encoded(PICTURE.quantize(256), "GIF"),
    "gif interlaced": lambda: encoded(PICTURE.quantize(16), "GIF", interlace=1),
    "gif animated": lambda: encoded(
        PICTURE.quantize(16), "GIF", save_all=True, append_images=[noise(403, 301).quantize(8)] * 20, loop=0
    ),
    "gif transparent": lambda: encoded(PICTURE.quantize(16), "GIF", transparency=2, comment=b"c" * 30_000),
    "bmp": lambda: encoded(PICTURE, "BMP"),
    "bmp palette": lambda: encoded(PICTURE.quantize(256), "BMP"),
    "bmp 1 bit": lambda: encoded(PICTURE.convert("1"), "BMP"),
    "bmp grey": lambda: encoded(PICTURE.convert("L"), "BMP"),
    "bmp alpha": lambda: encoded(PICTURE.convert("RGBA"), "BMP"),
    "webp": lambda: encoded(PICTURE, "WEBP"),
    "webp lossless": lambda: encoded(PICTURE.convert("RGBA"), "WEBP", lossless=True),
    "webp animated": lambda: encoded(PICTURE, "WEBP", save_all=True, append_images=[noise(403, 301)] * 5),
    "webp metadata": lambda: encoded(PICTURE, "WEBP", icc_profile=bytes(3_000_000), xmp=bytes(1_000_000)),
    "webp blank": lambda: encoded(Image.new("RGB", (2000, 2000)), "WEBP"),
    **{
        f"tiff {name}": partial(tiff, PICTURE, name)
        for name in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "lzma", "zstd")
    },
    **{f"tiff {name}": partial(tiff, PICTURE.convert("1"), name) for name in ("group3", "group4")},
    "tiff 16 bits": lambda: tiff(grey16()),
    "tiff cmyk": lambda: tiff(PICTURE.convert("CMYK"), "tiff_lzw"),
    "tiff alpha": lambda: tiff(PICTURE.convert("RGBA"), "tiff_adobe_deflate"),
    "tiff palette": lambda: tiff(PICTURE.quantize(200), "tiff_lzw"),
    "tiff strips of a row": lambda: tiff(PICTURE, "tiff_lzw", t278=1),
    "tiff pages": lambda: encoded(PICTURE, "TIFF", save_all=True, append_images=[noise(50, 50)] * 300),
    "tiff metadata": lambda: tiff(
        PICTURE, "tiff_lzw", t700=bytes(1_000_000), t34675=bytes(3_000_000), t34377=bytes(500_000)
    ),
    "tiff tiles of 64": lambda: tiled_tiff(64),
    "tiff tiles of 256": lambda: tiled_tiff(256),
    "avif": lambda: encoded(PICTURE, "AVIF"),
}  # fmt: skip
