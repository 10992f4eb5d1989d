"""Label Studio's bitmask (https://labelstud.io/tags/bitmasklabels): black pixels on a transparent PNG."""

from __future__ import annotations

import base64
import binascii
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from trainer.datasets.importing.errors import ImportingError
from trainer.datasets.importing.fields import Fields
from trainer.datasets.importing.labelstudio_brush import HALF
from trainer.datasets.importing.regions import Bitmap, Labels
from trainer.datasets.reading import BROKEN

KEY = "imageDataURL"
_PREFIX = "data:image/png;base64,"


@dataclass(frozen=True, slots=True)
class Bitmask:
    """The pixels of a PNG that are not transparent.

    Attributes:
        png: The file.
        where: The place in the export, for errors.
    """

    png: bytes
    where: str

    def paint(self, labels: Labels, value: int) -> None:
        try:
            with Image.open(io.BytesIO(self.png), formats=["PNG"]) as image:
                if image.size != labels.shape[::-1]:
                    mask, photo = (f"{size[0]}x{size[1]}" for size in (image.size, labels.shape[::-1]))
                    raise ImportingError(f"{self.where}: the bitmask is {mask} pixels, its image {photo}")
                alpha = np.asarray(image.convert("RGBA"))[..., -1]
        except BROKEN as error:
            if isinstance(error, ImportingError):
                raise
            raise ImportingError(f"{self.where}: '{KEY}' holds a PNG that cannot be read: {error}") from error
        Bitmap(alpha >= HALF).paint(labels, value)


def bitmask(value: Fields) -> Bitmask:
    """The bitmask of a region's value.

    Raises:
        ImportingError: It is not a PNG as a data URL.
    """
    url = value.text(KEY)
    if not url.startswith(_PREFIX):
        raise value.wrong(KEY, f"a PNG that begins with {_PREFIX}")
    try:
        return Bitmask(base64.b64decode(url.removeprefix(_PREFIX), validate=True), value.where)
    except binascii.Error as error:
        raise ImportingError(f"{value.where}: '{KEY}' is not base64: {error}") from error
