"""PASCAL-Context: the 59 most frequent classes, with background as class 0 (60) or ignored (59).

Layout as in mmsegmentation, whose converter makes it of the annotations (https://cs.stanford.edu/~roozbeh/pascal-context):
``VOCdevkit/VOC2010/JPEGImages/NAME.jpg``, ``SegmentationClassContext/NAME.png`` (0 background, 1..59 classes),
``ImageSets/SegmentationContext/{train,val}.txt``. The converter numbers the classes in the order of the 459 original
ids, which is the alphabet's; that of ``59_labels.txt`` is another. Colours as in mmsegmentation's
``PascalContextDataset``: the first 60 of ADE20K's palette, of which ``PascalContextDataset59`` leaves out the first.
"""

from __future__ import annotations

from pathlib import Path

from service.model_directory.manifest import ClassInfo
from trainer.datasets.ade20k import ADE20K_CLASSES
from trainer.datasets.base import PublishedDataset
from trainer.datasets.files import Files, Pair, listed
from trainer.datasets.label_coding import IGNORE_INDEX, IdCoding

# fmt: off
_NAMES = (
    "background", "aeroplane", "bag", "bed", "bedclothes", "bench", "bicycle", "bird", "boat", "book", "bottle",
    "building", "bus", "cabinet", "car", "cat", "ceiling", "chair", "cloth", "computer", "cow", "cup", "curtain",
    "dog", "door", "fence", "floor", "flower", "food", "grass", "ground", "horse", "keyboard", "light",
    "motorbike", "mountain", "mouse", "person", "plate", "platform", "pottedplant", "road", "rock", "sheep",
    "shelves", "sidewalk", "sign", "sky", "snow", "sofa", "table", "track", "train", "tree", "truck",
    "tvmonitor", "wall", "water", "window", "wood",
)
# fmt: on
PASCAL_CONTEXT_CLASSES = tuple(ClassInfo(index, name, ADE20K_CLASSES[index].color) for index, name in enumerate(_NAMES))
PASCAL_CONTEXT_59_CLASSES = tuple(ClassInfo(info.id - 1, info.name, info.color) for info in PASCAL_CONTEXT_CLASSES[1:])


class PascalContext(PublishedDataset):
    """4,996 train and 5,104 val images of up to 500x500; 60 classes."""

    name = "pascal_context"
    classes = PASCAL_CONTEXT_CLASSES
    splits = ("train", "val")
    tops = ("VOCdevkit/VOC2010", "VOC2010", "")
    coding = IdCoding({info.id: info.id for info in PASCAL_CONTEXT_CLASSES})

    @classmethod
    def anchor(cls, top: Path, split: str) -> Path:
        return top / "ImageSets" / "SegmentationContext" / f"{split}.txt"

    @classmethod
    def find(cls, top: Path, split: str) -> Files:
        def pair(name: str) -> Pair:
            return top / "JPEGImages" / f"{name}.jpg", top / "SegmentationClassContext" / f"{name}.png"

        return listed(cls.anchor(top, split), pair)


class PascalContext59(PascalContext):
    """The same images; 59 classes, background ignored."""

    name = "pascal_context_59"
    classes = PASCAL_CONTEXT_59_CLASSES
    coding = IdCoding({0: IGNORE_INDEX, **{info.id + 1: info.id for info in PASCAL_CONTEXT_59_CLASSES}})
