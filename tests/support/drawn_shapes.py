"""A small data set as an annotation tool exports it: shapes drawn on photographs of scikit-image, with COCO polygons.

``python tests/support/drawn_shapes.py FOLDER`` writes 60 of them, as for the pages on own photos.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from skimage import data as photographs

SHAPES = {"disc": (48, (200, 60, 50)), "box": (4, (50, 90, 200)), "triangle": (3, (230, 190, 40))}
"""Corners and mean colour of each class."""

_PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket")


def write_export(folder: Path, count: int, size: tuple[int, int], seed: int = 0) -> None:
    """Write ``images/*.jpg`` and ``annotations.json``.

    Args:
        folder: Where to; made.
        count: Images, each of two to four shapes.
        size: (height, width) of the images.
        seed: Of places, colours and photographs.
    """
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(seed)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(count):
        picture = _crop(size, rng)
        entry = {"id": index, "file_name": f"{_name(index)}.jpg", "height": size[0], "width": size[1]}
        images.append(entry)
        for category in rng.permutation([0, 1, 2, *rng.integers(0, 3, 1)])[: rng.integers(2, 5)].tolist():
            polygon = _draw(picture, category, rng)
            annotations.append(_annotation(len(annotations), index, category, polygon))
        picture.save(folder / "images" / str(entry["file_name"]), quality=92)
    categories = [{"id": number, "name": name} for number, name in enumerate(SHAPES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content))


def _name(index: int) -> str:
    """A name that tells of no sequence."""
    return f"{'abcdefghijklmnopqrstuvwxyz'[index % 26]}{'klmnopqrst'[index // 26]}"


def _crop(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    photo = Image.fromarray(getattr(photographs, str(rng.choice(_PHOTOGRAPHS)))())
    share = rng.uniform(0.5, 1.0)
    width, height = (share * side for side in photo.size)
    left, top = (rng.uniform(0, whole - part) for whole, part in zip(photo.size, (width, height), strict=True))
    return photo.resize(size[::-1], Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))


def _draw(picture: Image.Image, category: int, rng: np.random.Generator) -> list[tuple[float, float]]:
    corners, color = list(SHAPES.values())[category]
    radius = rng.uniform(0.12, 0.25) * min(picture.size)
    x, y = (rng.uniform(radius, side - radius) for side in picture.size)
    turn = rng.uniform(0, 2 * math.pi)
    angles = [turn + 2 * math.pi * corner / corners for corner in range(corners)]
    polygon = [(round(x + radius * math.cos(angle), 1), round(y + radius * math.sin(angle), 1)) for angle in angles]
    shade = tuple(int(np.clip(channel + rng.integers(-25, 26), 0, 255)) for channel in color)
    ImageDraw.Draw(picture).polygon(polygon, fill=shade)
    return polygon


def _annotation(number: int, image: int, category: int, polygon: list[tuple[float, float]]) -> dict[str, Any]:
    xs, ys = zip(*polygon, strict=True)
    box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    points = [coordinate for point in polygon for coordinate in point]
    return {"id": number, "image_id": image, "category_id": category, "segmentation": [points], "bbox": box,
            "area": box[2] * box[3], "iscrowd": 0}  # fmt: skip


if __name__ == "__main__":
    write_export(Path(sys.argv[1]), 60, (360, 480))
