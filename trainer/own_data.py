"""Settings that fit a folder of images: input size, views, and length of a run follow from their number and size."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from trainer.config import TrainConfig, load_config
from trainer.datasets import PairedFiles, guess_dataset, open_dataset
from trainer.datasets.reading import image_size
from trainer.inspect_data import spread
from trainer.weights.bundled import BUNDLED, bundled_checkpoint
from trainer.weights.pretrained import IMAGENET

logger = logging.getLogger(__name__)

RECIPE = "own_images"
LOOKED_AT = 500
"""Images whose sizes are read, at most."""

# Pixels of the input: fine enough for most photos, and a step takes seconds on a CPU, not minutes.
_AREA = 512 * 512
_MULTIPLE = 32  # the coarsest stride, so that all stages align
_LEAST_SIDE = 128  # four cells of the coarsest stage
_BATCH_SIZE = 8
_LEAST_VIEWS = 64  # of an epoch: fewer would spend the time on checkpoints
_EVALUATIONS = 20


def own_config(root: Path, overrides: Iterable[str] = ()) -> TrainConfig:
    """The configuration for a folder: the recipe ``own_images`` with settings that fit its train split.

    Args:
        root: Folder of any dataset that ``guess_dataset`` knows.
        overrides: E.g. ``schedule.epochs=10``; they have the last word.

    Raises:
        DatasetError: The folder holds no dataset, or an image cannot be read.
        ConfigError: An override is wrong.
    """
    if bundled_checkpoint() is None:
        logger.warning("warning: the bundled model's checkpoint is not installed; imagenet weights take its place")
    settings = [*fitting_settings(root), *overrides]
    epochs = load_config(Path(RECIPE), settings).schedule.epochs
    return load_config(Path(RECIPE), [*_pace(epochs), *settings])


def fitting_settings(root: Path) -> list[str]:
    """The settings as overrides, ``section.key=value``, but for those of ``_pace``."""
    kind = guess_dataset(root)
    train = open_dataset(kind, root, "train")
    size = input_size(_sizes(train))
    epochs, repeat = run_length(len(train))
    bundled = bundled_checkpoint()
    return [
        f"model.pretrained={IMAGENET if bundled is None else BUNDLED}",
        f"data.dataset={kind}",
        f"data.input_size={list(size)}",
        f"data.crop_size={[_multiple(0.75 * side) for side in size]}",
        *([f"data.repeat={repeat}"] if repeat > 1 else []),
        f"schedule.batch_size={_BATCH_SIZE}",
        f"schedule.epochs={epochs}",
    ]


def _pace(epochs: int) -> list[str]:
    """The settings that follow from the length of the run, which a user may have set."""
    return [f"schedule.warmup_epochs={0.05 * epochs:.2f}", f"runtime.evaluate_every={max(1, epochs // _EVALUATIONS)}"]


def input_size(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The input (height, width) for images of these sizes: their mean ratio, and no more pixels than they have.

    Images of both ratios, upright and lying, get a square. Small images are enlarged to 128 pixels.
    """
    shapes = np.array(sizes, np.float64)
    height, width = np.exp(np.median(np.log(shapes), 0))
    ratio = float(np.exp(np.mean(np.log(shapes[:, 0] / shapes[:, 1]))))
    area = min(float(height * width), _AREA)
    return _multiple(math.sqrt(area * ratio)), _multiple(math.sqrt(area / ratio))


def run_length(images: int) -> tuple[int, int]:
    """Epochs of a run, and how often each image is seen in one, for a number of images to learn from.

    The steps grow with the root of the images: 300 for one, 550 for 48, 2,500 for a thousand, 20,000 at most.
    """
    repeat = math.ceil(_LEAST_VIEWS / images)
    steps = min(max(80 * math.sqrt(images), 300), 20_000)
    return max(1, round(steps / (images * repeat // _BATCH_SIZE))), repeat


def _multiple(side: float) -> int:
    return max(_MULTIPLE * round(side / _MULTIPLE), _LEAST_SIDE)


def _sizes(dataset: PairedFiles) -> list[tuple[int, int]]:
    """Sizes of images, spread over all; upright, if the dataset is."""
    files = [dataset.pairs[index][0] for index in spread(range(len(dataset)), LOOKED_AT)]
    return [image_size(path) for path in files]
