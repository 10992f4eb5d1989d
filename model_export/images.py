"""Images to compare or to calibrate on: those of a folder, as the service would resize them, or generated ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.imaging.resize import resize_to_input
from service.model_directory.sizes import Size
from trainer.datasets import DatasetError, guess_dataset, open_dataset, read_image
from trainer.datasets.folder_files import IMAGE_EXTENSIONS


@dataclass(frozen=True, slots=True)
class Photo:
    """An image file.

    Attributes:
        path: The file.
        read: Gives its pixels (H, W, 3) uint8 as its dataset does: upright, unless ``classes.json`` says otherwise.
    """

    path: Path
    read: Callable[[], NDArray[np.uint8]]


def sample_images(source: Path | None, size: Size, count: int) -> list[NDArray[np.uint8]]:
    """The first ``count`` of ``photos_in``, as the service would resize them, or generated ones.

    Raises:
        ValueError: The folder holds no image, or ``count`` is below 1.
    """
    if count < 1:
        raise ValueError(f"the number of images to compare on is {count}, expected 1 or more")
    if source is None:
        return generated_images(size, count)
    return [resize_to_input(photo.read(), size) for photo in photos_in(source)[:count]]


def photos_in(source: Path) -> list[Photo]:
    """The images of a folder, in the order of their names; those that a dataset learns from; or an image file alone.

    Hidden files are left out, such as macOS's ``._a.jpg``.

    Raises:
        ValueError: There is none.
    """
    if source.is_file():
        return [_photo(source)]
    if not source.is_dir():
        raise ValueError(f"{source} does not exist, expected an image or a folder of images")
    shown = (path for path in sorted(source.iterdir()) if not path.name.startswith("."))
    images = (path for path in shown if path.suffix.lower() in IMAGE_EXTENSIONS)
    photos = _learned_from(source) or [_photo(path) for path in images]
    if not photos:
        raise ValueError(f"{source} holds no image, and no dataset with a train split")
    return photos


def _photo(path: Path) -> Photo:
    return Photo(path, partial(read_image, path))


def _learned_from(root: Path) -> list[Photo]:
    """The images of the train split, if the folder holds a dataset."""
    try:
        dataset = open_dataset(guess_dataset(root), root, "train", incomplete=True)
    except DatasetError:
        return []
    return [Photo(image, partial(dataset.image, index)) for index, (image, _) in enumerate(dataset.pairs)]


def generated_images(size: Size, count: int, seed: int = 0) -> list[NDArray[np.uint8]]:
    """Smooth random images (H, W, 3) uint8, in place of real ones: noise at several scales."""
    rng = np.random.default_rng(seed)
    return [_smooth_noise(size, rng) for _ in range(count)]


def _smooth_noise(size: Size, rng: np.random.Generator) -> NDArray[np.uint8]:
    total = np.zeros((*size, 3), np.float64)
    for cells in (4, 16, 64):
        noise = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        total += np.asarray(Image.fromarray(noise).resize(size[::-1], Image.Resampling.BICUBIC))
    return np.rint(total / 3).astype(np.uint8)
