"""Your own images and labels: a folder with ``classes.json``.

.. code-block:: json

    {
      "classes": [
        {"name": "road", "color": [128, 64, 128]},
        {"name": "sky", "color": "#4682b4"},
        {"name": "car", "color": [0, 0, 142], "id": 26}
      ],
      "ignore": [255, [0, 0, 0]],
      "splits": {
        "train": {"images": "photos", "labels": "masks", "list": "train.txt"},
        "val": {"images": "photos", "labels": "masks", "list": "val.txt"}
      },
      "label_suffix": "_mask"
    }

Only ``classes`` is needed; the file may be these alone.

- ``classes``: 2..255, in the order of the model's outputs; a list, or an object of colours by name. ``id`` is the
  class's value in label files of ids; without it, its place in the list, from 0.
- ``ignore``: ids and colours that count as no class; 255 unless given. A mask of 0 and 255 names the class that is 255
  with ``"id": 255``. Every other value that no class has is an error.
- ``splits``: folders and list file of each, relative to ``classes.json``. Without it, every folder ``images/SPLIT`` is
  a split, with its labels in ``labels/SPLIT``. A list file names an image per line, relative to the images' folder,
  with or without extension.
  ``valid`` and ``validation`` are other names for ``val``, ``training`` for ``train``, ``testing`` for ``test``.
- ``image_suffix``, ``label_suffix``: what their names have before the extension, as ``_mask`` in ``a/7_mask.png``.
- ``encoding``: ``ids`` or ``colors``. Without it, label files of mode RGB or RGBA hold colours, and all others ids:
  greys of 1 to 32 bits, and a palette's indices. ``colors`` is for palette files whose colours count, not indices. A
  palette that shows an index in the colour of another class is an error until ``encoding`` tells which counts.

An image's label has the same path and name below its folder; folders may be nested. Images are what the service reads:
JPEG, PNG, BMP, TIFF, WebP, GIF, AVIF, and HEIC with the extra ``heif``. Labels are PNG, BMP or TIFF; in a folder that
holds both, a PNG without suffix is a label. Hidden files are left out.

Images and labels are turned upright by the images' EXIF orientation, as the service turns its images: labels of the
size of the stored image are turned with it, all others are upright already, as annotation tools write them.
``"exif": false`` leaves both unturned, for labels that were drawn on the stored pixels of photos that are
square or upside down.
"""

from __future__ import annotations

import shlex
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainer.datasets.base import PairedFiles
from trainer.datasets.errors import DatasetError, unknown_name
from trainer.datasets.folder_files import find
from trainer.datasets.folder_spec import SPEC_NAME, read_spec
from trainer.datasets.label_coding import Color, ColorCoding, IdCoding, check_palette
from trainer.datasets.reading import COLOR_MODES, as_ids, as_rgb, opened_label, palette_colors


class Folder(PairedFiles):
    """A split of a folder with ``classes.json``.

    Args:
        root: The folder that holds ``classes.json``.
        split: One of its splits.
        incomplete: Take the complete pairs where files are missing, instead of raising.

    Raises:
        DatasetError: ``classes.json`` or the split is wrong, or files are missing.
    """

    name = "folder"

    def __init__(self, root: Path, split: str, *, incomplete: bool = False) -> None:
        self.spec = read_spec(root)
        self.classes = self.spec.classes
        if split not in self.spec.splits:
            raise unknown_name(f"split of {root / SPEC_NAME}", split, self.spec.splits)
        self.upright = self.spec.exif
        self._ids = IdCoding(self.spec.ids)
        files = find(self.spec, self.spec.splits[split])
        super().__init__(f"{root}, split {split!r},", files, incomplete=incomplete)

    @classmethod
    def splits_in(cls, root: Path) -> tuple[str, ...]:
        splits = tuple(read_spec(root).splits)
        if not splits:
            raise DatasetError(
                f"{root} has no split: neither a folder images/SPLIT nor 'splits' in {SPEC_NAME}; "
                f"to split it: ecenet-train data import {shlex.quote(str(root))} --from masks -o FOLDER --split 0.2"
            )
        return splits

    @cached_property
    def _colors(self) -> ColorCoding:
        return ColorCoding(distinct(self.spec.colors))

    def read_labels(self, path: Path) -> NDArray[np.uint8]:
        with opened_label(path) as image:
            by_color = image.mode in COLOR_MODES if self.spec.encoding is None else self.spec.encoding == "colors"
            if by_color:
                return self._colors.decode(path, as_rgb(path, image))
            ids = as_ids(path, image)
            if self.spec.encoding is None:
                colors = ((info.color, info.id) for info in self.classes)
                check_palette(path, palette_colors(image, ids), self.spec.ids, colors)
            return self._ids.decode(path, ids)


def distinct(colors: tuple[tuple[Color, int], ...]) -> dict[Color, int]:
    """Class index by colour.

    Raises:
        DatasetError: Two classes, or a class and an ignored value, have the same colour.
    """
    by_color: dict[Color, int] = {}
    for color, index in colors:
        if by_color.setdefault(color, index) != index:
            raise DatasetError(
                f"{SPEC_NAME}: colour {color} stands for several classes; labels in colours need one each"
            )
    return by_color
