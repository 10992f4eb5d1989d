"""Images in, images out: bytes to upright RGB, label maps and RGB to PNG.

Limits are checked on the header, before a pixel is decoded. Everything here is safe in threads. Pillow's own
``Image.open`` is passed by: it would try every plugin, and its check against decompression bombs is a process-wide
setting that warns or raises by size; the limit here is the caller's.

Pillow warns of odd metadata in TIFF files. A process that serves images should ignore these
(``warnings.filterwarnings("ignore", module="PIL")``); where warnings are errors, such a file is refused.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import BmpImagePlugin, GifImagePlugin, Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin
from PIL.ImageFile import ImageFile

from service.errors import NotAnImage, PayloadTooLarge, UnsupportedImage

# What Pillow raises on corrupt files, as found by fuzzing; Warning for where warnings are errors.
_DECODE_FAULTS = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    Warning,
    struct.error,
    zlib.error,
)

_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION_TAG = 0x0112


class _JpegFile(JpegImagePlugin.JpegImageFile):
    """A JPEG whose EXIF block Pillow leaves alone: it would look for the resolution, and warn of corrupt blocks."""

    def getexif(self) -> Image.Exif:
        return Image.Exif()


# Signature, name and reader of the formats that are read.
_READERS: tuple[tuple[re.Pattern[bytes], str, Callable[[io.BytesIO], ImageFile]], ...] = (
    (re.compile(rb"\xff\xd8\xff"), "JPEG", _JpegFile),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "PNG", PngImagePlugin.PngImageFile),
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), "WEBP", WebPImagePlugin.WebPImageFile),
    (re.compile(rb"BM"), "BMP", BmpImagePlugin.BmpImageFile),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), "TIFF", TiffImagePlugin.TiffImageFile),
    (re.compile(rb"GIF8[79]a"), "GIF", GifImagePlugin.GifImageFile),
)
FORMATS = tuple(name for _, name, _ in _READERS)

# Signature and name of formats that are known to be images, and refused as such.
_REFUSED = (
    (re.compile(rb".{4}ftyp(?:avif|avis)", re.DOTALL), "AVIF"),
    (re.compile(rb".{4}ftyp(?:hei|hev|mif|msf)", re.DOTALL), "HEIF"),
    (re.compile(rb"\0\0\0\x0cjP {2}|\xff\x4f\xff\x51"), "JPEG 2000"),
    (re.compile(rb"\0\0\0\x0cJXL |\xff\x0a"), "JPEG XL"),
    (re.compile(rb"\x00\x00[\x01\x02]\x00"), "ICO"),
    (re.compile(rb"8BPS"), "PSD"),
    (re.compile(rb"P[1-7f]\s", re.IGNORECASE), "PNM"),
    (re.compile(rb"DDS "), "DDS"),
    (re.compile(rb"v/1\x01"), "OpenEXR"),
    (re.compile(rb"qoif"), "QOI"),
    (re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:<(?:\?xml|!DOCTYPE|!--)[^>]*>\s*)*<svg[\s>]", re.IGNORECASE), "SVG"),
)


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """An upright image.

    Attributes:
        pixels: (H, W, 3) uint8, RGB, contiguous and read-only.
        format: Format of the file, one of ``FORMATS``.
    """

    pixels: NDArray[np.uint8]
    format: str


def decode(data: bytes, *, max_image_bytes: int, max_image_pixels: int) -> DecodedImage:
    """Decode the first frame of an image, turned upright by its EXIF orientation.

    Transparent pixels are blended with white. Greyscale of 16 bits is scaled to 8, ``round(value / 257)``. Colour
    profiles are not applied.

    Raises:
        PayloadTooLarge: More bytes or, by the header, more pixels than allowed.
        NotAnImage: No image, or a truncated or corrupt one.
        UnsupportedImage: An image in another format, or with samples that have no agreed range.
    """
    if len(data) > max_image_bytes:
        raise _too_large("bytes", len(data), max_image_bytes)
    image, name = _open(data)
    width, height = image.size
    if width * height > max_image_pixels:
        raise _too_large("pixels", width * height, max_image_pixels, f" ({width}x{height})")
    with _faults_of(name):
        image.load()
    return DecodedImage(_rgb(_upright(image), name), name)


def encode_label_png(labels: NDArray[np.uint8], palette: bytes) -> bytes:
    """Encode (H, W) class ids as a PNG of 8 bits whose samples are the ids.

    ``palette`` holds the RGB triples of the classes, ``3 * K`` bytes; every id must be below K.
    """
    return _png(labels, colour_type=3, palette=palette)


def encode_rgb_png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode (H, W, 3) uint8 RGB as PNG."""
    return _png(pixels.reshape(len(pixels), -1), colour_type=2)


def _too_large(unit: str, value: int, limit: int, note: str = "") -> PayloadTooLarge:
    detail = f"the image has {value} {unit}{note}, at most {limit} are accepted"
    return PayloadTooLarge(detail, extra={"value": value, "limit": limit, "unit": unit})


@contextmanager
def _faults_of(name: str) -> Iterator[None]:
    """Tell what Pillow raises on a corrupt file as ``NotAnImage``; only calls into Pillow belong inside."""
    try:
        yield
    except Image.DecompressionBombError as error:
        raise PayloadTooLarge(f"the {name} image is too large: {error}") from error
    except _DECODE_FAULTS as error:
        raise NotAnImage(f"the {name} image is truncated or corrupt: {error}") from error


def _open(data: bytes) -> tuple[ImageFile, str]:
    """Read the header by the reader of the signature."""
    for signature, name, reader in _READERS:
        if signature.match(data):
            with _faults_of(name):
                return reader(io.BytesIO(data)), name
    for signature, name in _REFUSED:
        if signature.match(data[:1024]):
            raise UnsupportedImage(f"the image is {name}, accepted are {', '.join(FORMATS)}", extra={"value": name})
    start = f"they start with {data[:8]!r}" if data else "there are none"
    raise NotAnImage(f"the bytes are no image of {', '.join(FORMATS)}: {start}")


def _upright(image: ImageFile) -> Image.Image:
    """Apply the EXIF orientation; Pillow's TIFF reader has done so already."""
    exif = image.info.get("exif")
    transposition = _TRANSPOSITIONS.get(_orientation(exif)) if isinstance(exif, bytes) else None
    return image if transposition is None else image.transpose(transposition)


def _orientation(exif: bytes) -> int:
    """The orientation 1..8 that an EXIF block states, 1 where it states none or is corrupt; never warns."""
    block = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(f"{order}I", block, 4)
        (entries,) = struct.unpack_from(f"{order}H", block, directory)
        for entry in range(entries):
            tag, _kind, _count, value = struct.unpack_from(f"{order}HHIH", block, directory + 2 + 12 * entry)
            if tag == _ORIENTATION_TAG:
                return int(value)
    except struct.error:
        pass
    return 1


def _rgb(image: Image.Image, name: str) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 of an image in any mode."""
    if image.mode == "F":
        raise UnsupportedImage(f"the {name} image has floating-point samples, expected 8 or 16 bits per sample")
    if image.mode.startswith("I"):
        return _rgb_of_16_bits(image, name)
    with _faults_of(name):
        opaque = _on_white(image) if image.has_transparency_data else image.convert("RGB")
        return np.asarray(opaque)


def _rgb_of_16_bits(image: Image.Image, name: str) -> NDArray[np.uint8]:
    with _faults_of(name):
        grey = np.asarray(image)
    if grey.min() < 0 or grey.max() > 0xFFFF:
        raise UnsupportedImage(f"the {name} image has samples {grey.min()}..{grey.max()}, expected 0..65535")
    scaled = ((grey.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return np.repeat(scaled[..., None], 3, axis=2)


def _on_white(image: Image.Image) -> Image.Image:
    layer = image.convert("RGBA")
    white = Image.new("RGB", layer.size, "white")
    white.paste(layer, mask=layer)
    return white


def _png(samples: NDArray[np.uint8], *, colour_type: int, palette: bytes = b"") -> bytes:
    """Write rows of samples, (H, W * channels), as PNG.

    A row is stored as its difference to the row above, and run lengths are the only matches looked for. On label maps
    and overlays alike this takes half the time of Pillow's fastest setting, at about the same size.
    """
    height, row_bytes = samples.shape
    width = row_bytes // (3 if colour_type == 2 else 1)
    rows = np.empty((height, row_bytes + 1), np.uint8)
    rows[:, 0] = 2  # the filter "up"
    rows[0, 1:] = samples[0]
    np.subtract(samples[1:], samples[:-1], out=rows[1:, 1:])
    encoder = zlib.compressobj(level=1, strategy=zlib.Z_RLE)
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    chunks = [_chunk(b"IHDR", header)]
    if palette:
        chunks.append(_chunk(b"PLTE", palette))
    chunks += [_chunk(b"IDAT", encoder.compress(rows.data) + encoder.flush()), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))
