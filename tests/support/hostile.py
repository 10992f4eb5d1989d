"""Image files that are small, and would take a decoder minutes or gigabytes; each keeps within the pixel limit.

``ATTACKS`` names them. The default pixel limit is 50 million, the default file 20 MiB at most. ``IMAGE_JSON`` and
``INFERENCE_JSON`` name bodies in JSON that would hold the interpreter while they are parsed at once.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image

FILE_BYTES = 16 << 20
# Just within the pixel limit.
SIDE = 7000


def encoded(image: Image.Image, image_format: str, **options: Any) -> bytes:
    """The image as a file."""
    stream = io.BytesIO()
    image.save(stream, image_format, **options)
    return stream.getvalue()


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """An RGB image of random samples."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


# JPEG


def jpeg_segment(marker: int, content: bytes) -> bytes:
    """A marker with its length and content, at most 65,533 bytes."""
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def jpeg_with(inserted: bytes, jpeg: bytes | None = None) -> bytes:
    """A JPEG with bytes behind its SOI marker."""
    jpeg = encoded(noise(64, 48), "JPEG") if jpeg is None else jpeg
    return jpeg[:2] + inserted + jpeg[2:]


def repeated(part: bytes, num_bytes: int = FILE_BYTES) -> bytes:
    """As many whole copies of ``part`` as fit."""
    return part * (num_bytes // len(part))


def jpeg_of_scans(width: int, height: int, scans: int, *, progressive: bool = True, between: bytes = b"") -> bytes:
    """A JPEG whose scans hold nothing, so that each passes over all blocks; ``between`` precedes each."""
    frame = struct.pack(">BHHB", 8, height, width, 3) + bytes([1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0])
    table = bytes([0, 1, *[0] * 15, 0]), bytes([0x10, 1, *[0] * 15, 0])
    tables = jpeg_segment(0xDB, bytes([0, *[1] * 64])) + b"".join(jpeg_segment(0xC4, part) for part in table)
    first = jpeg_segment(0xDA, bytes([3, 1, 0, 2, 0, 3, 0, 0, 0, 0] if progressive else [1, 1, 0, 0, 63, 0]))
    further = jpeg_segment(0xDA, bytes([1, 1, 0, 1, 63, 0]) if progressive else bytes([1, 1, 0, 0, 63, 0]))
    data = bytes(64 + width * height * 3 // 512)
    return (
        b"\xff\xd8" + jpeg_segment(0xC2 if progressive else 0xC0, frame) + tables + first + data
        + (between + further + b"\0") * scans + b"\xff\xd9"
    )  # fmt: skip


def jpeg_of_repeated_scans(image: Image.Image, times: int) -> bytes:
    """A progressive JPEG of an encoder whose scans come many times."""
    jpeg = encoded(image, "JPEG", progressive=True, quality=30)
    start = jpeg.index(b"\xff\xda")
    return jpeg[:start] + jpeg[start:-2] * times + jpeg[-2:]


def jpeg_between_scans(inserted: bytes) -> bytes:
    """A progressive JPEG with bytes before its second scan."""
    jpeg = encoded(noise(64, 48), "JPEG", progressive=True)
    at = jpeg.index(b"\xff\xda", jpeg.index(b"\xff\xda") + 2)
    return jpeg[:at] + inserted + jpeg[at:]


def jpeg_with_end(inserted: bytes) -> bytes:
    """A JPEG of one scan with bytes before its end."""
    jpeg = encoded(noise(64, 48), "JPEG")
    return jpeg[:-2] + inserted + jpeg[-2:]


def jpeg_filled(num_bytes: int, *, in_scan: bool) -> bytes:
    """A JPEG with a run of fill bytes before its first segment, or within its scan."""
    jpeg = encoded(noise(64, 48), "JPEG")
    at = jpeg.index(b"\xff\xda") + 40 if in_scan else 2
    return jpeg[:at] + b"\xff" * num_bytes + jpeg[at:]


# PNG, GIF, BMP, WebP


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk with its length and checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_with(chunks: bytes, *, before: bytes = b"IDAT") -> bytes:
    """A PNG with chunks before the pixels, or before its end."""
    png = encoded(noise(64, 48), "PNG")
    at = png.index(before) - 4
    return png[:at] + chunks + png[at:]


def png_zeros(width: int, height: int) -> bytes:
    """A grey PNG of zeros, packed row by row."""
    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(bytes((width + 1) * (1 << 16))) for _ in range(height >> 16))
    rows += packer.compress(bytes((width + 1) * (height & 0xFFFF))) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def png_claiming(width: int, height: int) -> bytes:
    """A PNG whose header states another size than it has."""
    png = encoded(noise(64, 48), "PNG")
    header = struct.pack(">II", width, height) + png[24:29]
    return png[:8] + png_chunk(b"IHDR", header) + png[33:]


def gif_with(blocks: bytes) -> bytes:
    """A GIF with blocks before its first frame."""
    gif = encoded(noise(64, 48).quantize(16), "GIF")
    at = 13 + (3 << (gif[10] & 7) + 1)
    return gif[:at] + blocks + gif[at:]


def gif_comment(length: int, num_blocks: int) -> bytes:
    """A comment of many blocks."""
    return b"!\xfe" + (bytes([length]) + b"c" * length) * num_blocks + b"\0"


def bmp_rle(width: int, height: int, bits: int, content: bytes) -> bytes:
    """A BMP of 8 or 4 bits with run-length encoding."""
    palette = bytes(4 << bits)
    offset = 54 + len(palette)
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 1 if bits == 8 else 2, len(content), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", offset + len(content), 0, 0, offset) + header + palette + content


def bmp_of_colours(colours: int) -> bytes:
    """A BMP of 8 bits whose palette has more colours than 8 bits can name."""
    header = struct.pack("<IiiHHIIiiII", 40, 64, 64, 1, 8, 0, 0, 0, 0, colours, 0)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + 4 * colours) + header + bytes(4 * colours) + bytes(64 * 64)


def webp_blank(width: int, height: int) -> bytes:
    """A lossless WebP of one colour, some tens of bytes, whose codes take no bits for a pixel."""
    blank = bytearray(encoded(Image.new("RGB", (16, 16)), "WEBP", lossless=True))
    sides = int.from_bytes(blank[21:25], "little") >> 28 << 28 | (height - 1) << 14 | (width - 1)
    blank[21:25] = sides.to_bytes(4, "little")
    return bytes(blank)


def webp_canvas(width: int, height: int) -> bytes:
    """An animation of one frame of 16x16 pixels on a large canvas."""
    frame = encoded(noise(16, 16), "WEBP", lossless=True)[12:]
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    small = (15).to_bytes(3, "little") * 2
    anmf = bytes(6) + small + bytes(3) + b"\0" + frame
    chunks = b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + sides
    chunks += b"ANIM" + struct.pack("<I", 6) + bytes(6) + b"ANMF" + struct.pack("<I", len(anmf)) + anmf
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


def webp_of_chunks(num_bytes: int) -> bytes:
    """A WebP with a great many empty chunks behind its pixels."""
    chunks = encoded(noise(16, 16), "WEBP", lossless=True, exif=b"Exif\0\0")[12:] + repeated(b"abcd\0\0\0\0", num_bytes)
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


# TIFF

_TIFF_TYPES = {"H": 3, "I": 4, "2I": 5, "s": 7}


def tiff(tags: Mapping[int, tuple[str, Any]], pixels: bytes = b"", *, after: bytes = b"", extra: int = 0) -> bytes:
    """A little-endian TIFF of one directory.

    Args:
        tags: By number the type, ``H``, ``I``, ``2I`` or ``s``, and a value, a list of them or bytes. A list may be a
            pair of count and place, ``("I", (count, place))``, to point anywhere.
        pixels: Content at place 8; the directory follows.
        after: What comes at the end.
        extra: The tag count is so much larger than that of ``tags``.
    """
    directory = 8 + len(pixels) + len(pixels) % 2
    values = directory + 2 + 12 * len(tags) + 4
    entries, stored = b"", b""
    for number, (kind, value) in sorted(tags.items()):
        if isinstance(value, tuple):
            entries += struct.pack("<HHII", number, _TIFF_TYPES[kind], *value)
            continue
        items = [value] if isinstance(value, int) else value
        content = items if isinstance(items, bytes) else struct.pack(f"<{len(items)}{kind}", *items)
        entries += struct.pack("<HHI", number, _TIFF_TYPES[kind], len(items))
        if len(content) <= 4:
            entries += content.ljust(4, b"\0")
        else:
            entries += struct.pack("<I", values + len(stored))
            stored += content + b"\0" * (len(content) % 2)
    body = struct.pack("<H", len(tags) + extra) + entries + bytes(4) + stored + after
    return b"II*\0" + struct.pack("<I", directory) + pixels + b"\0" * (len(pixels) % 2) + body


def tiff_tags(width: int, height: int, **changes: tuple[str, Any]) -> dict[int, tuple[str, Any]]:
    """The tags of a grey image of 8 bits without compression, or others by ``t`` and their number."""
    tags: dict[int, tuple[str, Any]] = {
        256: ("I", width),
        257: ("I", height),
        258: ("H", 8),
        259: ("H", 1),
        262: ("H", 1),
        277: ("H", 1),
    }
    return tags | {int(name[1:]): value for name, value in changes.items()}


def tiff_tile(side: int, compression: int = 8, samples: int = 1) -> bytes:
    """An image of 16x16 pixels with one large tile of zeros."""
    packed = zlib.compress(bytes(1 << 20), 9)
    photometric = 1 if samples == 1 else 2
    tags = tiff_tags(
        16, 16, t259=("H", compression), t262=("H", photometric), t277=("H", samples), t258=("H", [8] * samples),
        t322=("I", side), t323=("I", side), t324=("I", 8), t325=("I", len(packed)),
    )  # fmt: skip
    return tiff(tags, packed)


def tiff_strips(width: int, height: int, rows: int, count: int) -> bytes:
    """An uncompressed image whose strips all lie at one place."""
    pixels = bytes(width * rows)
    return tiff(
        tiff_tags(width, height, t273=("I", [8] * count), t278=("I", rows), t279=("I", [len(pixels)] * count)), pixels
    )


def tiff_small(**changes: tuple[str, Any]) -> bytes:
    """An image of 16x16 pixels with further tags."""
    strip = {"t273": ("I", 8), "t278": ("I", 16), "t279": ("I", 256)}
    return tiff(tiff_tags(16, 16, **(strip | changes)), bytes(256))


def tiff_of_tags(count: int) -> bytes:
    """An image of 16x16 pixels with tags that nobody knows."""
    return tiff_small(**{f"t{40000 + number}": ("I", number) for number in range(count)})


def tiff_of_exif_tags() -> bytes:
    """An image of 16x16 pixels whose EXIF directory has 60,000 tags."""
    exif = struct.pack("<H", 60_000) + struct.pack("<HHII", 37_510, 7, 4, 0) * 60_000 + bytes(4)
    pixels = bytes(256) + exif
    return tiff(tiff_tags(16, 16, t273=("I", 8), t278=("I", 16), t279=("I", 256), t34665=("I", 264)), pixels)


def tiff_twice(tag: int, value: int) -> bytes:
    """An image in tiles of 16x16 pixels with a second value of a tag behind the first."""
    tags = tiff_tags(16, 16, t322=("I", 16), t323=("I", 16), t324=("I", 8), t325=("I", 256))
    data = bytearray(tiff(tags, bytes(256)))
    entry = struct.pack("<HHI", tag, 4, 1)
    at = data.index(entry) + 12
    data[at:at] = entry + struct.pack("<I", value)
    data[264:266] = struct.pack("<H", len(tags) + 1)
    return bytes(data)


def tiff_of_jpeg(jpeg: bytes, side: int) -> bytes:
    """A JPEG of three components as the one strip of an image."""
    return tiff(
        tiff_tags(
            side, side, t258=("H", [8, 8, 8]), t259=("H", 7), t262=("H", 6), t277=("H", 3), t273=("I", 8),
            t278=("I", side), t279=("I", len(jpeg)), t530=("H", [1, 1]),
        ),
        jpeg,
    )  # fmt: skip


def gif_sized(width: int, height: int) -> bytes:
    """A GIF whose first frame states another size than it has."""
    gif = bytearray(gif_with(b""))
    at = gif.index(b",", 13 + (3 << (gif[10] & 7) + 1))
    gif[at + 5 : at + 9] = struct.pack("<HH", width, height)
    return bytes(gif)


_EXIF = jpeg_segment(0xE1, b"Exif\0\0" + bytes(60_000))
_SMALL_EXIF = jpeg_segment(0xE1, b"Exif\0\0")
_BIM = b"Photoshop 3.0\0" + b"8BIM\0\1\0\0\0\0\0\0" * 5000

ATTACKS: dict[str, Callable[[], bytes]] = {
    "bmp rle8": lambda: bmp_rle(50_000_000, 1, 8, b"\1\1\0\0\0\1"),
    "bmp rle8 of one column": lambda: bmp_rle(1, 50_000_000, 8, b"\0\0"),
    "bmp rle4": lambda: bmp_rle(SIDE, SIDE, 4, b"\xff\x11" * 200_000),
    "bmp palette": lambda: bmp_of_colours(65_536),
    "jpeg scans": lambda: jpeg_of_scans(1024, 1024, 5000),
    "jpeg large scans": lambda: jpeg_of_scans(SIDE, SIDE, 95),
    "jpeg sequential scans": lambda: jpeg_of_scans(1024, 1024, 5000, progressive=False),
    "jpeg scans behind comments": lambda: jpeg_of_scans(
        1024, 1024, 5000, between=jpeg_segment(0xFE, b"\xff\xd9\xff\xd9")
    ),
    "jpeg repeated scans": lambda: jpeg_of_repeated_scans(noise(512, 512), 40),
    "jpeg exif": lambda: jpeg_with(repeated(_EXIF)),
    "jpeg small exif": lambda: jpeg_with(repeated(_SMALL_EXIF)),
    "jpeg comments": lambda: jpeg_with(repeated(jpeg_segment(0xFE, b""))),
    "jpeg app": lambda: jpeg_with(repeated(jpeg_segment(0xE5, b"x"))),
    "jpeg icc": lambda: jpeg_with(repeated(jpeg_segment(0xE2, b"ICC_PROFILE\0\1\1"))),
    "jpeg photoshop": lambda: jpeg_with(repeated(jpeg_segment(0xED, _BIM))),
    "jpeg tables": lambda: jpeg_with(repeated(jpeg_segment(0xDB, bytes([0, *[1] * 64]) * 1000))),
    "jpeg start markers": lambda: jpeg_with(repeated(b"\xff\xd8")),
    "jpeg junk": lambda: jpeg_with(bytes(FILE_BYTES)),
    "jpeg fill": lambda: jpeg_filled(FILE_BYTES, in_scan=False),
    "jpeg fill in scan": lambda: jpeg_filled(FILE_BYTES, in_scan=True),
    "jpeg comments in scan": lambda: jpeg_between_scans(repeated(jpeg_segment(0xFE, b""))),
    "jpeg intervals in scan": lambda: jpeg_between_scans(repeated(jpeg_segment(0xDD, b"\0\1"))),
    "jpeg comments before fill": lambda: jpeg_with_end(
        repeated(jpeg_segment(0xFE, b""), FILE_BYTES - 1000) + b"\xff" * 1000
    ),
    "jpeg blank": lambda: jpeg_of_scans(SIDE, SIDE, 0)[:400] + b"\xff\xd9",
    "png chunks": lambda: png_with(repeated(png_chunk(b"abCd", b""))),
    "png pixel chunks": lambda: png_with(repeated(png_chunk(b"IDAT", b"")), before=b"IEND"),
    "png late chunks": lambda: png_with(repeated(png_chunk(b"abCd", b"")), before=b"IEND"),
    "png texts": lambda: png_with(repeated(png_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1_000_000), 9)), 1 << 20)),
    "png profiles": lambda: png_with(repeated(png_chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(1_000_000), 9)))),
    "gif comments": lambda: gif_with(gif_comment(255, FILE_BYTES // 256)),
    "gif small comments": lambda: gif_with(gif_comment(1, FILE_BYTES // 2)),
    "gif extensions": lambda: gif_with(repeated(b"!\xf9\0")),
    "gif junk": lambda: gif_with(bytes(FILE_BYTES)),
    "webp blank": lambda: webp_blank(7000, 7000),
    "webp canvas": lambda: webp_canvas(7000, 7000),
    "webp chunks": lambda: webp_of_chunks(FILE_BYTES),
    "tiff tile": lambda: tiff_tile(46_336),
    "tiff tile of colours": lambda: tiff_tile(16_384, samples=3),
    "tiff strips": lambda: tiff_strips(4096, 4096, 2048, 4000),
    "tiff strip list": lambda: tiff_strips(16, 16, 1, 2_000_000),
    "tiff fractions": lambda: tiff_small(t282=("2I", (1_000_000, 8)), t700=("s", bytes(8_000_000))),
    "tiff numbers": lambda: tiff_small(t50000=("H", [1] * 8_000_000), t262=("H", 1)),
    "tiff tags": lambda: tiff_of_tags(20_000),
    "tiff exif tags": tiff_of_exif_tags,
    "tiff bytes": lambda: tiff_small(**{f"t{40000 + number}": ("s", (8_000_000, 8)) for number in range(1000)}),
    "tiff tile beyond": lambda: tiff_small(t322=("I", 46_336), t323=("I", 46_336)),
    "tiff tall tiles": lambda: tiff(
        tiff_tags(16, 3_000_000, t259=("H", 8), t322=("I", 4096), t323=("I", 16), t324=("I", [8] * 60_000)), bytes(64)
    ),
    "tiff two widths": lambda: tiff_twice(322, 46_336),
    "tiff jpeg of scans": lambda: tiff_of_jpeg(jpeg_of_scans(SIDE, SIDE, 90), SIDE),
    "png of one column": lambda: png_zeros(1, 50_000_000),
    "png of one row": lambda: png_zeros(50_000_000, 1),
    "png of few bytes": lambda: png_claiming(SIDE, SIDE),
    "gif frame beyond": lambda: gif_sized(65_535, 65_535),
}


# JSON

_JSON_BYTES = 20_000_000


def inference_json(data: bytes, name: str = "images", datatype: str = "UINT8", shape: str = "[1,576,768,3]") -> bytes:
    """A request of the Open Inference Protocol for a model of 576 x 768 pixels."""
    head = f'{{"inputs":[{{"name":"{name}","shape":{shape},"datatype":"{datatype}","data":['
    return head.encode() + data + b"]}]}"


def _copies(part: bytes, between: bytes = b",") -> bytes:
    return between.join([part] * (_JSON_BYTES // len(part + between)))


# Texts of a value in place of an image, and of members beside it.
IMAGE_JSON: Mapping[str, Callable[[], bytes]] = {
    "digits": lambda: b'{"image":[' + _copies(b"9" * 4000) + b"]}",
    "number": lambda: b'{"image":' + b"9" * _JSON_BYTES + b"}",
    "floats": lambda: b'{"image":[' + _copies(b"0.12345678901234567") + b"]}",
    "depth": lambda: b'{"image":' + b"[" * _JSON_BYTES,
    "members": lambda: b"{" + b",".join(b'"%d":0' % key for key in range(1_500_000)) + b"}",
    "key": lambda: b'{"' + b"a" * _JSON_BYTES + b'":0}',
    "space": lambda: b" " * _JSON_BYTES,
    "escapes": lambda: b'{"image":"' + _copies(b"\\u0041", b"") + b'"}',
    "pairs": lambda: b'{"image":"' + _copies(b"\\ud83d\\ude00", b"") + b'"}',
    "backslashes": lambda: b'{"image":"' + _copies(b"\\\\", b"") + b'"}',
    "padding": lambda: b'{"image":"' + b"=" * _JSON_BYTES + b'"}',
    "semicolons": lambda: b'{"image":"data:' + b";" * _JSON_BYTES + b'"}',
}
INFERENCE_JSON: Mapping[str, Callable[[], bytes]] = {
    "integers": lambda: inference_json(b",".join([b"7"] * 1_000_000)),
    "many integers": lambda: inference_json(_copies(b"7")),
    "floats": lambda: inference_json(_copies(b"0.12345678901234567")),
    "digits": lambda: inference_json(_copies(b"9" * 4000)),
    "number": lambda: inference_json(b"9" * _JSON_BYTES),
    "space": lambda: inference_json(b" " * _JSON_BYTES),
    "lists": lambda: inference_json(_copies(b"[]")),
    "depth": lambda: inference_json(b"[" * _JSON_BYTES),
    "texts": lambda: inference_json(_copies(b'"a"')),
    "texts of bytes": lambda: inference_json(_copies(b'"YQ=="'), "image_bytes", "BYTES", "[1]"),
    "escapes": lambda: inference_json(b'"' + _copies(b"\\u0041", b"") + b'="', "image_bytes", "BYTES", "[1]"),
    "id": lambda: b'{"id":"' + _copies(b"\\u00e9", b"") + b'",' + inference_json(b"")[1:],
    "parameters": lambda: b'{"parameters":{"x":[' + _copies(b"1e5") + b"]}," + inference_json(b"")[1:],
    "inputs": lambda: b'{"inputs":[' + _copies(b"7") + b"]}",
    "second list": lambda: inference_json(b"") + inference_json(_copies(b"7")),
}
