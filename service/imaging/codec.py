"""Images in, images out: bytes to upright RGB, label maps and RGB to PNG.

Limits are checked on the header, before a pixel is decoded. Everything here is safe in threads. Pillow's own
``Image.open`` is not used: it would try every plugin, and its check against decompression bombs is a process-wide
setting that warns or raises by size; the limit here is the caller's.

Pillow warns of odd metadata in TIFF files. A process that serves images should ignore these
(``warnings.filterwarnings("ignore", module="PIL")``); where warnings are errors, such a file is refused.
"""

from __future__ import annotations

import importlib
import io
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
from PIL.ImageFile import ImageFile

from service.errors import NotAnImage, PayloadTooLarge, UnsupportedImage
from service.imaging.png_writer import write_png
from service.imaging.shared_pixels import shared_pixels
from service.imaging.structure.bmp import scan_bmp
from service.imaging.structure.gif import scan_gif
from service.imaging.structure.isobmff import scan_isobmff
from service.imaging.structure.jpeg import scan_jpeg
from service.imaging.structure.limits import SIDE
from service.imaging.structure.png import scan_png
from service.imaging.structure.structure import Structure
from service.imaging.structure.tiff import scan_tiff
from service.imaging.structure.webp import scan_webp
from service.imaging.tiff_messages import discard_tiff_messages

# Every error of ``decode`` and ``read_size``.
DECODE_ERRORS = (NotAnImage, PayloadTooLarge, UnsupportedImage)
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

WHITE = (255, 255, 255)
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
# Pixels that are converted in one go.
_STRIP_PIXELS = 1 << 20


class _JpegFile(JpegImagePlugin.JpegImageFile):
    """A JPEG whose EXIF block Pillow leaves alone: it would read the resolution from it, and warn of corrupt blocks."""

    def getexif(self) -> Image.Exif:
        return Image.Exif()


def _avif_file(stream: io.BytesIO) -> ImageFile:
    if not AvifImagePlugin.SUPPORTED:
        raise _absent("AVIF", "a Pillow that was built with libavif")
    return AvifImagePlugin.AvifImageFile(stream)


def _heif_file(stream: io.BytesIO) -> ImageFile:
    try:
        heif = importlib.import_module("pillow_heif")
    except ImportError:
        raise _absent("HEIF", "the package pillow-heif") from None
    image: ImageFile = heif.HeifImageFile(stream)
    return image


def _absent(name: str, missing: str) -> UnsupportedImage:
    return UnsupportedImage(
        f"the image is {name}, for which this service lacks {missing}; send one of {', '.join(FORMATS)}",
        extra={"value": name, "accepted": list(FORMATS)},
    )


def _tiff_file(stream: io.BytesIO) -> ImageFile:
    discard_tiff_messages()
    return TiffImagePlugin.TiffImageFile(stream)


@dataclass(frozen=True, slots=True)
class _Format:
    """A format that is read.

    Attributes:
        signature: Start of its files.
        scan: Reads the structure, before ``read`` sees the file.
        read: Reads the header.
    """

    name: str
    signature: re.Pattern[bytes]
    scan: Callable[[bytes], Structure]
    read: Callable[[io.BytesIO], ImageFile]


_FORMATS = (
    _Format("JPEG", re.compile(rb"\xff\xd8\xff"), scan_jpeg, _JpegFile),
    _Format("PNG", re.compile(rb"\x89PNG\r\n\x1a\n"), scan_png, PngImagePlugin.PngImageFile),
    _Format("WEBP", re.compile(rb"RIFF.{4}WEBP", re.DOTALL), scan_webp, WebPImagePlugin.WebPImageFile),
    _Format("BMP", re.compile(rb"BM"), scan_bmp, BmpImagePlugin.BmpImageFile),
    _Format("TIFF", re.compile(rb"II[*+]\0|MM\0[*+]"), scan_tiff, _tiff_file),
    _Format("GIF", re.compile(rb"GIF8[79]a"), scan_gif, GifImagePlugin.GifImageFile),
)
FORMATS = tuple(form.name for form in _FORMATS)

# The same for formats that need optional packages.
_OPTIONAL_FORMATS = (
    # The brand mif1 is common to both; what else the file is follows in the list of its brands.
    _Format(
        "AVIF",
        re.compile(rb".{4}ftyp(?:avi[fs]|(?:mif|msf)1.{4}(?:.{4}){0,8}?avi[fs])", re.DOTALL),
        scan_isobmff,
        _avif_file,
    ),
    _Format("HEIF", re.compile(rb".{4}ftyp(?:hei[cmsx]|hev[cmsx]|mif1|msf1)", re.DOTALL), scan_isobmff, _heif_file),
)

# Signature and name of formats that are known to be images, and refused as such.
_REFUSED = (
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
class ImageHeader:
    """Facts about an image file before its pixels are decoded.

    Attributes:
        format: Format of the file, one of ``FORMATS``, AVIF or HEIF.
        size: (width, height) before EXIF orientation.
        decoding_bytes: Bytes that decoding takes at its peak beside the file, the decoded pixels included.
        unusual: Why decoding may take more time than for other files of that size; empty for an ordinary file.
    """

    format: str
    size: tuple[int, int]
    decoding_bytes: int
    unusual: str


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """An upright image.

    Attributes:
        pixels: (H, W, 3) uint8, RGB, read-only; contiguous, or with four bytes from pixel to pixel.
        format: Format of the file, one of ``FORMATS``, AVIF or HEIF.
    """

    pixels: NDArray[np.uint8]
    format: str


class OpenedImage:
    """An image file whose header has been read; it is decoded once at most.

    Attributes:
        header: Facts that the structure of the file states.
    """

    def __init__(self, image: ImageFile, header: ImageHeader) -> None:
        """Use ``open_image``."""
        self._image: ImageFile | None = image
        self.header = header

    def decode(self, background: tuple[int, int, int] = WHITE) -> DecodedImage:
        """See the function ``decode``."""
        image, self._image, name = self._image, None, self.header.format
        assert image is not None, "the image has been decoded"
        with _faults_of(name):
            image.load()
        upright = _upright(image)
        del image  # where it was turned, it is held twice until here
        return DecodedImage(_rgb(upright, name, background), name)


def open_image(data: bytes, *, max_image_bytes: int, max_image_pixels: int) -> OpenedImage:
    """Check the structure of an image file, then let the reader of its format read the header; no pixel is decoded.

    Raises:
        PayloadTooLarge: More bytes or pixels than allowed, or more of something than ``structure.limits`` allow.
        NotAnImage, UnsupportedImage: See ``decode``.
    """
    if len(data) > max_image_bytes:
        raise _too_large("bytes", len(data), max_image_bytes)
    form = _format_of(data)
    with _faults_of(form.name):
        structure = form.scan(data)
    if structure.size is not None:
        _check_pixels(structure.size, max_image_pixels)
    if structure.shortfall:
        raise NotAnImage(f"the {form.name} image is truncated or corrupt: {structure.shortfall}")
    with _faults_of(form.name):
        image = form.read(io.BytesIO(structure.needed(data)))
    _check_pixels(image.size, max_image_pixels)
    width, height = image.size
    decoding_bytes = structure.decoding_bytes(width * height, len(data))
    return OpenedImage(image, ImageHeader(form.name, image.size, decoding_bytes, structure.unusual))


def decode(
    data: bytes, *, max_image_bytes: int, max_image_pixels: int, background: tuple[int, int, int] = WHITE
) -> DecodedImage:
    """Decode the first frame of an image, turned upright by its EXIF orientation.

    Transparent pixels are blended with ``background``, RGB 0..255. Greyscale of 16 bits is scaled to 8,
    ``round(value / 257)``. Colour profiles are not applied.

    Raises:
        PayloadTooLarge: More bytes or, by the header, more pixels than allowed.
        NotAnImage: No image, or a truncated or corrupt one.
        UnsupportedImage: An image in another format, one that this installation cannot read (AVIF, HEIF), or with
            samples that have no agreed range.
    """
    return open_image(data, max_image_bytes=max_image_bytes, max_image_pixels=max_image_pixels).decode(background)


def read_size(data: bytes, *, max_image_pixels: int) -> tuple[int, int]:
    """(width, height) of ``open_image``'s header."""
    return open_image(data, max_image_bytes=len(data), max_image_pixels=max_image_pixels).header.size


def encode_label_png(labels: NDArray[np.uint8], palette: bytes) -> bytes:
    """Encode (H, W) class ids as a PNG of 8 bits whose samples are the ids.

    ``palette`` holds the RGB triples of the classes, ``3 * K`` bytes; every id must be below K.
    """
    return write_png(labels, colour_type=3, palette=palette)


def encode_grey_png(samples: NDArray[np.uint8]) -> bytes:
    """Encode (H, W) uint8 as a grey PNG."""
    return write_png(samples, colour_type=0)


def encode_rgb_png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode (H, W, 3) uint8 RGB as PNG."""
    return write_png(pixels.reshape(len(pixels), -1), colour_type=2)


def _check_pixels(size: tuple[int, int], max_image_pixels: int) -> None:
    width, height = size
    if width * height > max_image_pixels:
        raise _too_large("pixels", width * height, max_image_pixels, f" ({width}x{height})")
    SIDE.check(max(size))


def _too_large(unit: str, value: int, limit: int, note: str = "") -> PayloadTooLarge:
    detail = f"the image has {value} {unit}{note}, at most {limit} are accepted"
    return PayloadTooLarge(detail, extra={"value": value, "limit": limit, "unit": unit})


@contextmanager
def _faults_of(name: str) -> Iterator[None]:
    """Turn Pillow's errors on a corrupt file into ``NotAnImage``; only calls into Pillow belong inside."""
    try:
        yield
    except Image.DecompressionBombError as error:
        raise PayloadTooLarge(f"the {name} image is too large: {error}") from error
    except _DECODE_FAULTS as error:
        raise NotAnImage(f"the {name} image is truncated or corrupt: {error}") from error


def _format_of(data: bytes) -> _Format:
    """The format whose signature the bytes have."""
    for form in (*_FORMATS, *_OPTIONAL_FORMATS):
        if form.signature.match(data):
            return form
    for signature, name in _REFUSED:
        if signature.match(data[:1024]):
            raise UnsupportedImage(f"the image is {name}, accepted are {', '.join(FORMATS)}", extra={"value": name})
    start = f"they start with {data[:8]!r}" if data else "there are none"
    raise NotAnImage(f"the bytes are not an image of {', '.join(FORMATS)}: {start}")


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


def _rgb(image: Image.Image, name: str, background: tuple[int, int, int]) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 of an image in any mode: Pillow's own memory, or converted strip by strip into one copy."""
    if image.mode == "F":
        raise UnsupportedImage(f"the {name} image has floating-point samples, expected 8 or 16 bits per sample")
    if image.mode == "RGB" and not image.has_transparency_data and (shared := shared_pixels(image)) is not None:
        return shared
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    strip_rows = _STRIP_PIXELS // image.width  # a row or more, by the limit of sides
    for top in range(0, image.height, strip_rows):
        bottom = min(image.height, top + strip_rows)
        with _faults_of(name):
            strip = image.crop((0, top, image.width, bottom))
        pixels[top:bottom] = _rgb_of_strip(strip, name, background)
    pixels.flags.writeable = False
    return pixels


def _rgb_of_strip(strip: Image.Image, name: str, background: tuple[int, int, int]) -> NDArray[np.uint8]:
    """(h, w, 3) uint8, or (h, w, 1) where all three are equal."""
    with _faults_of(name):
        if strip.mode.startswith("I"):
            samples = np.asarray(strip)
        else:
            return np.asarray(_on(background, strip) if strip.has_transparency_data else strip.convert("RGB"))
    if samples.min() < 0 or samples.max() > 0xFFFF:
        raise UnsupportedImage(f"the {name} image has samples {samples.min()}..{samples.max()}, expected 0..65535")
    return ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)[..., None]


def _on(background: tuple[int, int, int], image: Image.Image) -> Image.Image:
    layer = image.convert("RGBA")
    opaque = Image.new("RGB", layer.size, background)
    opaque.paste(layer, mask=layer)
    return opaque
