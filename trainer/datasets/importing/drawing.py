"""An annotated image to its upright label map, with the facts that the split needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainer.datasets.errors import SizeMismatchError
from trainer.datasets.importing.records import AnnotatedImage
from trainer.datasets.orientation import SIDEWAYS, UPRIGHT, turned_upright
from trainer.datasets.reading import decode_image, orientation, pixel_digest


@dataclass(frozen=True, slots=True)
class Drawn:
    """A label map, and the content of its image.

    Attributes:
        labels: (H, W) uint8 ids.
        present: The ids that occur.
        digest: Of the image's pixels: equal images have equal ones, whatever their files are called.
        format: Of the image's file, as JPEG.
    """

    labels: NDArray[np.uint8]
    present: frozenset[int]
    digest: bytes
    format: str


def draw(image: AnnotatedImage, ids: Mapping[str, int], unlabelled: int, *, exif: bool = True) -> Drawn:
    """Draw the layers of an image one over the other.

    Annotation tools show photos upright, and their sizes say so: layers are drawn on the upright image. Where the
    stated size is that of the stored pixels of a photo on its side, they are drawn on these and turned with the photo.

    Args:
        image: The image with its layers.
        ids: The id of each class.
        unlabelled: The id of pixels that no layer covers.
        exif: Whether the image's EXIF orientation is applied.

    Raises:
        DatasetError: The image is broken, or the annotation is for another size.
    """
    data = image.image if isinstance(image.image, bytes) else image.image.read_bytes()
    where = Path(image.name) if isinstance(image.image, bytes) else image.image
    decoded = decode_image(where, data)
    pixels = decoded.pixels
    turn = orientation(where, data)
    frame, labels_turn = _frame(image, where, (pixels.shape[0], pixels.shape[1]), turn if exif else None, turn)
    labels = np.full(frame, unlabelled, np.uint8)
    for layer in image.layers:
        layer.draw(labels, ids)
    labels = np.ascontiguousarray(turned_upright(labels, labels_turn))
    return Drawn(
        labels, frozenset(np.flatnonzero(np.bincount(labels.ravel())).tolist()), pixel_digest(pixels), decoded.format
    )


def _frame(
    image: AnnotatedImage, path: Path, upright: tuple[int, int], applied: int | None, turn: int
) -> tuple[tuple[int, int], int]:
    """(height, width) that the layers are drawn on, and the turn that aligns them with the image."""
    stored = upright[::-1] if turn in SIDEWAYS else upright
    wanted = upright if applied is not None else stored
    if image.size in (None, wanted):
        return wanted, UPRIGHT
    if image.size == stored and applied is not None:
        return stored, applied
    assert image.size is not None
    stated, found = (f"{size[1]}x{size[0]}" for size in (image.size, wanted))
    raise SizeMismatchError(f"{path} is {found} pixels, its annotation in {image.source} is for {stated}")
