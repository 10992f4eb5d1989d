"""PASCAL VOC 2012 segmentation: 20 objects and background.

Layout of the development kit: ``VOCdevkit/VOC2012/JPEGImages/NAME.jpg``, ``SegmentationClass/NAME.png`` (palette
indices 0..20, and 255 on the objects' borders), ``ImageSets/Segmentation/{train,val,trainval}.txt``. ``trainaug`` adds
the labels of Hariharan et al., "Semantic Contours from Inverse Detectors" (2011), where the tree has them as
mmsegmentation writes them: ``trainaug.txt`` and ``SegmentationClassAug/NAME.png``. Names and colours are those of the
development kit (``VOClabelcolormap``).
"""

from __future__ import annotations

from pathlib import Path

from trainer.datasets.base import PublishedDataset, class_table
from trainer.datasets.files import Files, Pair, listed
from trainer.datasets.label_coding import IGNORE_INDEX, IdCoding

VOC_CLASSES = class_table("""
000000 background
800000 aeroplane
008000 bicycle
808000 bird
000080 boat
800080 bottle
008080 bus
808080 car
400000 cat
c00000 chair
408000 cow
c08000 diningtable
400080 dog
c00080 horse
408080 motorbike
c08080 person
004000 pottedplant
804000 sheep
00c000 sofa
80c000 train
004080 tvmonitor
""")


class VOC(PublishedDataset):
    """1,464 train, 1,449 val and 10,582 trainaug images of up to 500x500."""

    name = "voc"
    classes = VOC_CLASSES
    splits = ("train", "val", "trainval", "trainaug")
    tops = ("VOCdevkit/VOC2012", "VOC2012", "")
    coding = IdCoding({**{info.id: info.id for info in VOC_CLASSES}, 255: IGNORE_INDEX})

    @classmethod
    def anchor(cls, top: Path, split: str) -> Path:
        return top / "ImageSets" / "Segmentation" / f"{split}.txt"

    @classmethod
    def find(cls, top: Path, split: str) -> Files:
        """The files of a split; an image of ``trainaug`` that VOC itself labels keeps VOC's own, finer labels."""

        def pair(name: str) -> Pair:
            image, label = top / "JPEGImages" / f"{name}.jpg", top / "SegmentationClass" / f"{name}.png"
            if split == "trainaug" and not label.is_file():
                label = top / "SegmentationClassAug" / label.name
            return image, label

        return listed(cls.anchor(top, split), pair)
