"""Images to compare or to calibrate on: those of a folder, as the service would resize them, or generated ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.imaging.resize import resize_to_input
from service.model_directory.sizes import Size
from trainer.datasets import DatasetError, guess_dataset, open_dataset, read_image
from trainer.datasets.folder_files import IMAGE_EXTENSIONS


def sample_images(source: Path | None, size: Size, count: int) -> list[NDArray[np.uint8]]:
    """The first ``count`` images of ``image_files``, upright, as the service would resize them, or generated ones.

    Raises:
        ValueError: The folder holds no image, or ``count`` is below 1.
    """
    if count < 1:
        raise ValueError(f"the number of images to compare on is {count}, expected 1 or more")
    if source is None:
        return generated_images(size, count)
    files = image_files(source)[:count]
    return [resize_to_input(read_image(path), size) for path in files]


def image_files(source: Path) -> list[Path]:
    """The images of a folder, in the order of their names; those that a dataset learns from; or an image file alone.

    Raises:
        ValueError: There is none.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise ValueError(f"{source} does not exist, expected an image or a folder of images")
    files = _learned_from(source) or sorted(p for p in source.iterdir() if p.suffix.lower() in IMAGE_EXTENSIONS)
    if not files:
        raise ValueError(f"{source} holds no image, and no dataset with a train split")
    return files


def _learned_from(root: Path) -> list[Path]:
    """The images of the train split, if the folder holds a dataset."""
    try:
        return [image for image, _ in open_dataset(guess_dataset(root), root, "train", incomplete=True).pairs]
    except DatasetError:
        return []


def generated_images(size: Size, count: int, seed: int = 0) -> list[NDArray[np.uint8]]:
    """Smooth random images (H, W, 3) uint8, for want of real ones: noise at several scales."""
    rng = np.random.default_rng(seed)
    return [_smooth_noise(size, rng) for _ in range(count)]


def _smooth_noise(size: Size, rng: np.random.Generator) -> NDArray[np.uint8]:
    total = np.zeros((*size, 3), np.float64)
    for cells in (4, 16, 64):
        noise = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        total += np.asarray(Image.fromarray(noise).resize(size[::-1], Image.Resampling.BICUBIC))
    return np.rint(total / 3).astype(np.uint8)
