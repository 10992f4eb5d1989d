"""Cityscapes as pix2pix published it: JPEGs of 512x256, the photo on the left and its labels in colour on the right.

Layout: ``{train,val}/NUMBER.jpg``, as in ``cityscapes/`` of https://github.com/prakashpandey9/BicycleGAN (2,975 and 500
files; pix2pix: Isola et al., CVPR 2017). Each half is 256x256, squeezed from 2048x1024, and is stretched back to 2:1.

JPEG blurs the colours. A pixel gets the class of the nearest colour of Cityscapes' palette, and is void where that
colour is void or further than ``MAX_DISTANCE``. Cityscapes' terms allow neither its images nor copies to be passed on.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainer.datasets.base import PublishedDataset, hex_color
from trainer.datasets.cityscapes import CITYSCAPES_CLASSES
from trainer.datasets.errors import UnreadableFileError
from trainer.datasets.files import Files, files_in
from trainer.datasets.label_coding import IGNORE_INDEX
from trainer.datasets.reading import read_image

MAX_DISTANCE = 25.0
"""Largest distance of a class's colour from the palette's, in RGB of 0..255."""

# Unlabelled, dynamic, ground, parking, rail track, guard rail, bridge, tunnel, caravan and trailer.
_VOID_COLORS = "000000 6f4a00 510051 faaaa0 e6968c b4a5b4 966464 96785a 00005a 00006e"
_PALETTE = np.array(
    [info.color for info in CITYSCAPES_CLASSES] + [hex_color(digits) for digits in _VOID_COLORS.split()], np.int32
)


class CityscapesPairs(PublishedDataset):
    """2,975 train and 500 val images of 512x256, stretched from 256x256."""

    name = "cityscapes_pairs"
    classes = CITYSCAPES_CLASSES
    splits = ("train", "val")
    tops = ("cityscapes", "")
    upright = False

    @classmethod
    def anchor(cls, top: Path, split: str) -> Path:
        return top / split

    @classmethod
    def find(cls, top: Path, split: str) -> Files:
        files = files_in(top / split, ".jpg")
        return Files(tuple((files[key], files[key]) for key in sorted(files)))

    def image(self, index: int) -> NDArray[np.uint8]:
        photo = _halves(self.pairs[index][0])[0]
        height, width = photo.shape[:2]
        return np.array(Image.fromarray(photo).resize((2 * width, height), Image.Resampling.BICUBIC))

    def read_labels(self, path: Path) -> NDArray[np.uint8]:
        return nearest_classes(_halves(path)[1]).repeat(2, axis=1)


def nearest_classes(colors: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Class indices (H, W) of colours (H, W, 3), ``IGNORE_INDEX`` where no class is near."""
    pixels = colors.astype(np.int32)
    # |x - p|² without |x|², which is the same for all colours of the palette.
    offsets = (_PALETTE**2).sum(1) - 2 * pixels @ _PALETTE.T
    nearest = offsets.argmin(-1)
    distance = np.take_along_axis(offsets, nearest[..., None], -1)[..., 0] + (pixels**2).sum(-1)
    is_class = (nearest < len(CITYSCAPES_CLASSES)) & (distance <= MAX_DISTANCE**2)
    return np.where(is_class, nearest, IGNORE_INDEX).astype(np.uint8)


def _halves(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Photo and coloured labels (S, S, 3) of a file."""
    both = read_image(path, upright=False)
    height, width = both.shape[:2]
    if width != 2 * height:
        raise UnreadableFileError(
            f"{path} is {width}x{height} pixels, expected a photo and its labels side by side, both square"
        )
    return both[:, :height], both[:, height:]
