"""Cityscapes, fine annotations, 19 classes for training and evaluation.

Layout: ``leftImg8bit/{train,val}/CITY/NAME_leftImg8bit.png``, and ``gtFine/{train,val}/CITY/`` with
``NAME_gtFine_labelTrainIds.png``, which cityscapesScripts makes, or else ``NAME_gtFine_labelIds.png`` as downloaded.
Names, colours, ids and train ids are those of ``cityscapesscripts/helpers/labels.py``
(https://github.com/mcordts/cityscapesScripts); what has no train id is ignored. The test split's labels are not
published.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainer.datasets.base import PublishedDataset, class_table
from trainer.datasets.files import Files, files_in, match
from trainer.datasets.label_coding import IGNORE_INDEX, IdCoding
from trainer.datasets.reading import read_label_map

CITYSCAPES_CLASSES = class_table("""
804080 road
f423e8 sidewalk
464646 building
66669c wall
be9999 fence
999999 pole
faaa1e traffic light
dcdc00 traffic sign
6b8e23 vegetation
98fb98 terrain
4682b4 sky
dc143c person
ff0000 rider
00008e car
000046 truck
003c64 bus
005064 train
0000e6 motorcycle
770b20 bicycle
""")

# The id of each class; the other ids of 0..33 are void.
_LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_TRAIN_IDS = IdCoding({**{index: index for index in range(19)}, 255: IGNORE_INDEX})
_TRAIN_ID_FILES = "_gtFine_labelTrainIds.png"
_LABEL_ID_FILES = "_gtFine_labelIds.png"


class Cityscapes(PublishedDataset):
    """2,975 train and 500 val images of 2048x1024."""

    name = "cityscapes"
    classes = CITYSCAPES_CLASSES
    splits = ("train", "val")
    tops = ("cityscapes", "")
    coding = IdCoding({**dict.fromkeys(range(34), IGNORE_INDEX), **{raw: i for i, raw in enumerate(_LABEL_IDS)}})

    @classmethod
    def anchor(cls, top: Path, split: str) -> Path:
        return top / "leftImg8bit" / split

    @classmethod
    def find(cls, top: Path, split: str) -> Files:
        images, labels = cls.anchor(top, split), top / "gtFine" / split
        by_ids, by_train_ids = (files_in(labels, end, below="*/") for end in (_LABEL_ID_FILES, _TRAIN_ID_FILES))
        return match(files_in(images, "_leftImg8bit.png", below="*/"), by_ids | by_train_ids, labels)

    def read_labels(self, path: Path) -> NDArray[np.uint8]:
        coding = _TRAIN_IDS if path.name.lower().endswith(_TRAIN_ID_FILES.lower()) else self.coding
        return coding.decode(path, read_label_map(path))
