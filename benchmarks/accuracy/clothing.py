"""Clothing Co-Parsing as images and masks at low resolution: 1,004 street photos with 59 classes of clothes.

    python -m benchmarks.accuracy.clothing DATA/clothing-co-parsing DATA/clothing-masks
    ecenet-train data import DATA/clothing-masks --from masks --by class --split 0.2 -o DATA/clothing

The data set (Yang, Luo and Lin, CVPR 2014; Apache-2.0) is https://github.com/bearpaw/clothing-co-parsing: photos of
about 550x830 pixels, and their labels as MATLAB files. Its class ``null`` is everything without a name: the background.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainer.datasets import DatasetError, MissingFileError, SizeMismatchError, UnreadableFileError, read_image

LONG_SIDE = 288
BACKGROUND = "background"


def convert(source: Path, output: Path, long_side: int = LONG_SIDE) -> int:
    """Write ``images/``, ``masks/`` and ``classes.json``; gives the number of photos.

    Args:
        source: The data set's folder.
        output: The folder to write; it must not exist.
        long_side: Pixels of the longer side of written images.

    Raises:
        DatasetError: A file is missing or is not as published.
        OSError: ``output`` exists, or cannot be written.
    """
    names = class_names(source / "label_list.mat")
    labels = sorted((source / "annotations" / "pixel-level").glob("*.mat"))
    if not labels:
        raise MissingFileError(f"{source / 'annotations' / 'pixel-level'} holds no .mat file")
    for folder in ("images", "masks"):
        (output / folder).mkdir(parents=True)
    (output / "classes.json").write_text(json.dumps({"classes": [{"name": name} for name in names]}), encoding="utf-8")
    for path in labels:
        photo = source / "photos" / f"{path.stem}.jpg"
        image, mask = _shrunk(photo, read_image(photo), _mask(path, len(names)), long_side)
        image.save(output / "images" / f"{path.stem}.png")
        mask.save(output / "masks" / f"{path.stem}.png")
    return len(labels)


def class_names(path: Path) -> list[str]:
    """The 59 names in the order of their ids."""
    names = [str(cell[0]) for cell in _variable(path, "label_list").ravel()]
    return [BACKGROUND if name == "null" else name for name in names]


def _mask(path: Path, num_classes: int) -> NDArray[np.uint8]:
    labels: NDArray[np.uint8] = _variable(path, "groundtruth")
    if labels.max() >= num_classes:
        raise UnreadableFileError(f"{path} has label {labels.max()}, expected 0..{num_classes - 1}")
    return labels


def _variable(path: Path, name: str) -> NDArray[Any]:
    if not path.is_file():
        raise MissingFileError(f"{path} does not exist")
    try:
        content: Mapping[str, NDArray[Any]] = importlib.import_module("scipy.io").loadmat(path)
        return content[name]
    except (ValueError, KeyError, OSError) as error:
        raise UnreadableFileError(f"{path} is not a MATLAB file with the variable {name!r}: {error}") from error


def _shrunk(
    path: Path, image: NDArray[np.uint8], mask: NDArray[np.uint8], long_side: int
) -> tuple[Image.Image, Image.Image]:
    """The photo as the mean of its pixels, the mask by the nearest one; the sides keep their ratio."""
    height, width = image.shape[:2]
    if mask.shape != (height, width):
        raise SizeMismatchError(f"{path} is {width}x{height} pixels, its labels are {mask.shape[1]}x{mask.shape[0]}")
    factor = long_side / max(height, width)
    size = round(factor * width), round(factor * height)
    nearest = Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)
    return Image.fromarray(image).resize(size, Image.Resampling.BOX), nearest


def main(arguments: list[str] | None = None) -> int:
    """The command line; gives the exit status."""
    parser = argparse.ArgumentParser(
        prog="clothing", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="folder of Clothing Co-Parsing")
    parser.add_argument("output", type=Path, help="folder to write; it must not exist")
    parser.add_argument("--long-side", type=int, default=LONG_SIDE, help="pixels (default: %(default)s)")
    args = parser.parse_args(arguments)
    try:
        count = convert(args.source, args.output, args.long_side)
    except (DatasetError, OSError) as error:
        print(f"clothing: {error}", file=sys.stderr)
        return 1
    print(f"{args.output}: {count} photos\nnext: ecenet-train data import {args.output} --from masks -o FOLDER")
    return 0


if __name__ == "__main__":
    sys.exit(main())
