"""Image and label files to arrays."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from service.imaging.codec import DECODE_ERRORS, DecodedImage, decode, read_size
from trainer.datasets.errors import DatasetError, MissingFileError, UnreadableFileError
from trainer.datasets.label_files import LOSSY_FORMATS, lossy_label
from trainer.datasets.orientation import SIDEWAYS, UPRIGHT, turned_back

EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"})
ID_MODES = frozenset({"1", "L", "P", "I", "I;16", "I;16B", "I;16L"})
COLOR_MODES = frozenset({"RGB", "RGBA"})

# What Pillow's decoders answer broken files with.
BROKEN = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

MAX_IMAGE_BYTES = 1 << 30
MAX_IMAGE_PIXELS = 178_956_970
"""Pixels of an image, as many as Pillow takes."""

# Pillow spreads greys of fewer than eight bits over 0..255; as labels they are ids, and are brought back.
_SPREAD = {"L;2": 85, "L;4": 17}

Ids = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.int32]
"""A label map (H, W) of ids as the file holds them."""


def read_image(path: Path, *, upright: bool = True) -> NDArray[np.uint8]:
    """An image file as RGB, (H, W, 3) uint8, as the service reads it: also with 16 bits, AVIF and HEIF.

    Args:
        path: The file.
        upright: Turn the image by its EXIF orientation, as the service does; else pixels stay as stored.

    Raises:
        DatasetError: The file is missing, broken, or no image.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise MissingFileError(f"{path} does not exist") from None
    except OSError as error:
        raise UnreadableFileError(f"{path} cannot be read: {error}") from error
    pixels = decode_image(path, data).pixels
    return np.array(pixels if upright else turned_back(pixels, orientation(path)), np.uint8)


def decode_image(path: Path, data: bytes) -> DecodedImage:
    """The upright image that the bytes of a file hold.

    Raises:
        DatasetError: It is broken or no image; the text names ``path``.
    """
    try:
        return decode(data, max_image_bytes=MAX_IMAGE_BYTES, max_image_pixels=MAX_IMAGE_PIXELS)
    except DECODE_ERRORS as error:
        raise UnreadableFileError(f"{path} cannot be read: {error}") from error


def orientation(path: Path, data: bytes | None = None) -> int:
    """EXIF orientation 1..8 of an image file, or of its bytes, from its header; 1 where it has none.

    HEIF, which turns its pixels itself, and unreadable files have none: ``read_image`` reports the latter.
    """
    try:
        with opened(path, data) as image:
            return _orientation(image)
    except UnreadableFileError:
        return UPRIGHT


def _orientation(image: Image.Image) -> int:
    exif, block = Image.Exif(), image.info.get("exif")
    if image.format == "TIFF":
        exif = image.getexif()
    elif isinstance(block, bytes):
        try:
            exif.load(block)
        except BROKEN:
            return UPRIGHT  # the service, too, does not turn an image with a broken EXIF block
    value = exif.get(ExifTags.Base.Orientation, UPRIGHT)
    return value if value in range(1, 9) else UPRIGHT


def read_label_map(path: Path) -> Ids:
    """A label file whose pixels are ids, (H, W): a palette's indices, or greys of 1, 2, 4, 8, 16 or 32 bits.

    Raises:
        DatasetError: The file is missing, broken, or holds no ids.
    """
    with opened_label(path) as image:
        return as_ids(path, image)


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image file once it is upright, from its header.

    Raises:
        DatasetError: The file is missing, broken, or no image.
    """
    try:
        with opened(path) as image:
            size = (image.height, image.width)
            by_reader = image.format == "TIFF"  # whose size Pillow gives upright
            return size[::-1] if _orientation(image) in SIDEWAYS and not by_reader else size
    except UnreadableFileError:
        return _heif_size(path)


def _heif_size(path: Path) -> tuple[int, int]:
    """The size of a file that Pillow alone does not read; HEIF needs no turn."""
    try:
        width, height = read_size(path.read_bytes(), max_image_pixels=MAX_IMAGE_PIXELS)
    except DECODE_ERRORS as error:
        raise UnreadableFileError(f"{path} cannot be read: {error}") from error
    return height, width


@contextmanager
def opened_label(path: Path) -> Iterator[Image.Image]:
    """A label file while it is read.

    Raises:
        DatasetError: The file is missing, broken, or compressed with loss.
    """
    with opened(path) as image:
        if image.format in LOSSY_FORMATS:
            raise lossy_label(path)
        yield image


def label_size(path: Path) -> tuple[int, int]:
    """(height, width) of a label file, from its header."""
    with opened_label(path) as image:
        return image.height, image.width


@contextmanager
def opened(path: Path, data: bytes | None = None) -> Iterator[Image.Image]:
    """An image file, or its bytes, while it is read; its faults raise a ``DatasetError`` that names it."""
    try:
        with Image.open(path if data is None else io.BytesIO(data)) as image:
            yield image
    except FileNotFoundError:
        raise MissingFileError(f"{path} does not exist") from None
    except DatasetError:
        raise
    except UnidentifiedImageError:
        raise UnreadableFileError(f"{path} cannot be read: it is not an image") from None
    except BROKEN as error:
        raise UnreadableFileError(f"{path} cannot be read: {error}") from error


def label_orientation(path: Path) -> int:
    """EXIF orientation 1..8 that a label file's pixels are still to be turned by; Pillow has turned those of TIFF."""
    with opened_label(path) as image:
        return UPRIGHT if image.format == "TIFF" else _orientation(image)


def as_rgb(path: Path, image: Image.Image) -> NDArray[np.uint8]:
    """An opened image as RGB, (H, W, 3) uint8."""
    if image.mode not in EIGHT_BIT_MODES:
        raise UnreadableFileError(f"{path} has mode {image.mode}, expected colours of 8 bits per channel")
    if "transparency" in image.info:  # straight to RGB, Pillow would warn
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"), dtype=np.uint8)


def as_ids(path: Path, image: Image.Image) -> Ids:
    """An opened label file as ids, (H, W)."""
    if image.mode not in ID_MODES:
        raise UnreadableFileError(f"{path} has mode {image.mode}, expected labels in L or P, or a grey of 1 to 32 bits")
    spread = _SPREAD.get(_stored_mode(image), 1)  # asked before the pixels are read, which forgets it
    return np.array(image, dtype=np.uint8 if image.mode == "1" else None) // spread


def palette_colors(image: Image.Image, ids: Ids) -> dict[int, tuple[int, int, int]]:
    """The colour of each value that an opened label file of a palette holds; empty where it has no palette."""
    if image.mode != "P":
        return {}
    colors = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3).tolist()
    used = np.flatnonzero(np.bincount(ids.ravel())).tolist()
    return {value: (colors[value][0], colors[value][1], colors[value][2]) for value in used if value < len(colors)}


def pixel_digest(image: NDArray[np.uint8]) -> bytes:
    """Equal for images of equal size and pixels, whatever their files are called and however they are coded."""
    return hashlib.sha256(str(image.shape).encode() + image.tobytes()).digest()


def as_grey(path: Path, image: Image.Image) -> NDArray[np.uint8]:
    """An opened image as brightness, (H, W) uint8."""
    if image.mode not in EIGHT_BIT_MODES:
        raise UnreadableFileError(f"{path} has mode {image.mode}, expected 8 bits per channel")
    return np.array(image.convert("L"), dtype=np.uint8)


def _stored_mode(image: Image.Image) -> str:
    tiles = getattr(image, "tile", None)
    stored = tiles[0].args if tiles else image.mode
    return str(stored[0] if isinstance(stored, tuple) and stored else stored)
