"""Image and label files to arrays."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from trainer.datasets.errors import DatasetError, MissingFileError, UnreadableFileError

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

# Pillow spreads greys of fewer than eight bits over 0..255; as labels they are ids, and are brought back.
_SPREAD = {"L;2": 85, "L;4": 17}

Ids = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.int32]
"""A label map (H, W) of ids as the file holds them."""


def read_image(path: Path) -> NDArray[np.uint8]:
    """An image file as RGB, (H, W, 3) uint8; an EXIF orientation is not applied.

    Raises:
        DatasetError: The file is missing, broken, or has more than 8 bits per channel.
    """
    with opened(path) as image:
        return as_rgb(path, image)


def read_label_map(path: Path) -> Ids:
    """A label file whose pixels are ids, (H, W): a palette's indices, or greys of 1, 2, 4, 8, 16 or 32 bits.

    Raises:
        DatasetError: The file is missing, broken, or holds no ids.
    """
    with opened(path) as image:
        return as_ids(path, image)


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image file, from its header."""
    with opened(path) as image:
        return image.height, image.width


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """An image file while it is read; what goes wrong with it is a ``DatasetError`` that names it."""
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError:
        raise MissingFileError(f"{path} does not exist") from None
    except DatasetError:
        raise
    except BROKEN as error:
        raise UnreadableFileError(f"{path} cannot be read: {error}") from error


def as_rgb(path: Path, image: Image.Image) -> NDArray[np.uint8]:
    """An opened image as RGB, (H, W, 3) uint8."""
    if image.mode not in EIGHT_BIT_MODES:
        raise UnreadableFileError(f"{path} has mode {image.mode}, expected 8 bits per channel")
    if "transparency" in image.info:  # straight to RGB, Pillow would warn
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"), dtype=np.uint8)


def as_ids(path: Path, image: Image.Image) -> Ids:
    """An opened label file as ids, (H, W)."""
    if image.mode not in ID_MODES:
        raise UnreadableFileError(f"{path} has mode {image.mode}, expected labels in L or P, or a grey of 1 to 32 bits")
    spread = _SPREAD.get(_stored_mode(image), 1)  # asked before the pixels are read, which forgets it
    return np.array(image, dtype=np.uint8 if image.mode == "1" else None) // spread


def orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8 of an opened image; 1, upright, where it has none."""
    return int(image.getexif().get(ExifTags.Base.Orientation, 1))


def _stored_mode(image: Image.Image) -> str:
    tiles = getattr(image, "tile", None)
    stored = tiles[0].args if tiles else image.mode
    return str(stored[0] if isinstance(stored, tuple) and stored else stored)
