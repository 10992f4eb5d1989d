"""Folders of images and masks: PNG, BMP or TIFF of values, of 0 and 255, or of colours.

Masks are in folders named as ``masks``, ``labels``, ``annotations``, ``gt`` or ``train_masks``, or their names end with
``_mask``, ``_label``, ``_gt`` or ``_seg``. A mask belongs to the image of the same path and name otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from trainer.datasets.errors import UnreadableFileError
from trainer.datasets.files import by_key, summary
from trainer.datasets.folder_files import IMAGE_EXTENSIONS, LABEL_EXTENSIONS
from trainer.datasets.importing.class_lists import found_list, read_class_list
from trainer.datasets.importing.collector import Collector, Source
from trainer.datasets.importing.errors import ImportingError
from trainer.datasets.importing.mask_files import LabelFile
from trainer.datasets.importing.mask_values import coding_of
from trainer.datasets.importing.records import Export
from trainer.datasets.importing.sources import ImageFiles, relative_name
from trainer.datasets.label_files import LOSSY_EXTENSIONS, lossy_label
from trainer.datasets.orientation import SIDEWAYS, UPRIGHT
from trainer.datasets.reading import label_orientation, label_size

_MASK_WORD = (
    r"(?:masks?|labels?|label_?ids|annot(?:ations?)?|gt|ground[_-]?truths?|seg(?:mentations?)?|segmentationclass)"
)
_MASK_FOLDER = re.compile(rf"^(.*?)[_ -]?{_MASK_WORD}$", re.IGNORECASE)
_PHOTO_FOLDER = re.compile(r"^(.*?)[_ -]?(?:images?|imgs?|photos?|pictures?|jpegimages)$", re.IGNORECASE)
_IMAGE_FOLDER = re.compile(rf"{_PHOTO_FOLDER.pattern}|^(.*?)[_ -]?rgb$", re.IGNORECASE)
_MASK_NAME = re.compile(r"^(.+?)[_ -](?:masks?|labels?|gt|seg(?:mentation)?)$", re.IGNORECASE)


def read_masks(source: Source) -> Export:
    """Read a folder of images and masks.

    Raises:
        DatasetError: There are no masks, two files share a name, or the masks' values are none of the classes'.
    """
    files = ImageFiles(source.roots)
    names = {path: relative_name(path, source.roots) for path in files.paths}
    mask_paths = [path for path in files.paths if is_mask(names[path])]
    if not mask_paths:
        raise ImportingError(
            f"{source.path} has no mask: neither a folder as masks/ or labels/, nor a name as photo_mask.png"
        )
    _refuse_lossy(mask_paths)
    masks = by_key((pair_key(names[path]), path) for path in mask_paths)
    taken = set(mask_paths)
    files.paths = [path for path in files.paths if path not in taken]
    images = by_key((pair_key(names[path]), path) for path in files.paths)
    collector = Collector(source, files)
    collector.missing += [f"the mask {masks[key]} has no image" for key in sorted(masks.keys() - images.keys())]
    return _with_layers(source, collector, [(images[key], masks[key]) for key in sorted(masks.keys() & images.keys())])


def _with_layers(source: Source, collector: Collector, pairs: list[tuple[Path, Path]]) -> Export:
    if not pairs:
        raise ImportingError(f"no mask has an image: {summary(collector.missing)}")
    path = source.class_list or found_list(source.root)
    listed = read_class_list(path) if path else None
    if listed is not None and not listed.exif and source.exif:
        raise ImportingError(f'{path} has "exif": false; add --no-exif, so that images and masks stay as they are')
    coding = coding_of([mask for _, mask in pairs], listed)
    for category in coding.categories:
        collector.category(category.name, category.color)
    for image, mask in pairs:
        size, turn = _frame(mask, exif=source.exif)
        collector.add(image, [LabelFile(mask, coding, turn)], mask, size=size)
    return collector.export(unlabelled=coding.unlabelled, is_dense=True)


def _frame(mask: Path, *, exif: bool) -> tuple[tuple[int, int] | None, int]:
    """(height, width) of a mask once it is turned by its own EXIF orientation, and that; none of a broken one."""
    try:
        size, turn = label_size(mask), label_orientation(mask) if exif else UPRIGHT
    except UnreadableFileError:
        return None, UPRIGHT
    return size[::-1] if turn in SIDEWAYS else size, turn


def is_mask(name: str) -> bool:
    """Check whether a path below the export names a mask."""
    *folders, last = PurePosixPath(name).parts
    if _MASK_NAME.match(PurePosixPath(last).stem):
        return True
    # The folder next to the file decides: facemask/images holds images, and masks/rgb masks.
    kinds = ("mask" if _MASK_FOLDER.match(part) else _PHOTO_FOLDER.match(part) for part in reversed(folders))
    return next(filter(None, kinds), None) == "mask"


def pair_key(name: str) -> str:
    """Key that an image shares with its mask: the path without the words for images and masks."""
    *folders, last = PurePosixPath(name).parts
    path = PurePosixPath(last)
    stem = path.stem if path.suffix.lower() in IMAGE_EXTENSIONS else last
    found = _MASK_NAME.match(stem)
    kept = [part for part in map(_bare, folders) if part]
    return "/".join([*kept, found.group(1) if found else stem])


def _bare(folder: str) -> str:
    found = _MASK_FOLDER.match(folder) or _IMAGE_FOLDER.match(folder)
    return next(filter(None, found.groups()), "") if found else folder


def _refuse_lossy(masks: Iterable[Path]) -> None:
    for path in masks:
        if path.suffix.lower() in LOSSY_EXTENSIONS:
            raise lossy_label(path)
        if path.suffix.lower() not in LABEL_EXTENSIONS:
            raise ImportingError(f"{path} is not a mask; masks are one of {', '.join(LABEL_EXTENSIONS)}")
