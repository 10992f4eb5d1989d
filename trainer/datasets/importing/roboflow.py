"""Roboflow: "COCO Segmentation" and "Semantic Segmentation Masks".

Both have folders train, valid and test. The one has ``_annotations.coco.json`` in each, beside the images; the other
``_classes.csv`` and, for every image, ``NAME_mask.png`` of the values that ``_classes.csv`` lists.
"""

from __future__ import annotations

from pathlib import Path

from trainer.datasets.importing.class_lists import read_class_list
from trainer.datasets.importing.coco import has_coco, read_coco
from trainer.datasets.importing.collector import Collector, Source
from trainer.datasets.importing.errors import ImportingError
from trainer.datasets.importing.mask_files import LabelFile
from trainer.datasets.importing.mask_values import listed_coding
from trainer.datasets.importing.records import Export
from trainer.datasets.importing.sources import ImageFiles, files_below
from trainer.datasets.reading import label_size

CLASS_LIST = "_classes.csv"
MASK_END = "_mask.png"


def read_roboflow(source: Source) -> Export:
    """Read either export, by its files.

    Raises:
        DatasetError: It is neither, or one of its files is not as it should be.
    """
    lists = [path for path in files_below(source.root, (CLASS_LIST,)) if path.name == CLASS_LIST]
    if source.path.is_file() or has_coco(source.root):
        return read_coco(source)
    if not lists:
        raise ImportingError(f"{source.path} has neither _annotations.coco.json nor {CLASS_LIST} in a folder")
    files = ImageFiles(source.roots)
    masks = [path for path in files.paths if path.name.endswith(MASK_END)]
    files.paths = [path for path in files.paths if not path.name.endswith(MASK_END)]
    collector = Collector(source, files)
    unlabelled = [
        _read_folder(path, [mask for mask in masks if mask.parent == path.parent], collector) for path in lists
    ]
    return collector.export(unlabelled=next(filter(None, unlabelled), None), is_dense=True)


def _read_folder(class_list: Path, masks: list[Path], collector: Collector) -> str | None:
    coding = listed_coding(read_class_list(class_list), by_color=False)
    for category in coding.categories:
        collector.category(category.name, category.color)
    images = {path.stem: path for path in collector.files.paths if path.parent == class_list.parent}
    for mask in masks:
        stem = mask.name.removesuffix(MASK_END)
        if stem in images:
            collector.add(images[stem], [LabelFile(mask, coding)], mask, size=label_size(mask))
        else:
            collector.missing.append(f"the mask {mask} has no image")
    return coding.unlabelled
