"""From an export to a data set: read, draw, split, write."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from trainer.datasets.errors import DatasetError, unknown_name
from trainer.datasets.files import plural, summary
from trainer.datasets.folder_files import IMAGE_EXTENSIONS
from trainer.datasets.importing.class_table import ClassTable, check_count, class_table
from trainer.datasets.importing.coco import read_coco
from trainer.datasets.importing.collector import Source
from trainer.datasets.importing.cvat import read_cvat
from trainer.datasets.importing.drawing import Drawn, draw
from trainer.datasets.importing.errors import ImportingError
from trainer.datasets.importing.labelme import read_labelme
from trainer.datasets.importing.labelstudio import read_labelstudio_json
from trainer.datasets.importing.labelstudio_png import read_labelstudio_png, stroke_files
from trainer.datasets.importing.masks import read_masks
from trainer.datasets.importing.names import key_of, unique_key
from trainer.datasets.importing.records import AnnotatedImage, Export
from trainer.datasets.importing.roboflow import read_roboflow
from trainer.datasets.importing.split import Item, sizes, split_images
from trainer.datasets.importing.supervisely import read_supervisely
from trainer.datasets.importing.write import new_folder, write_image, write_labels, write_spec
from trainer.datasets.label_coding import IGNORE_INDEX

Progress = Callable[[Iterator["_Entry | str"], int], Iterable["_Entry | str"]]


def read_labelstudio(source: Source) -> Export:
    """Read Label Studio's JSON, or its folder of PNGs where there is one."""
    return read_labelstudio_png(source) if stroke_files(source.root) else read_labelstudio_json(source)


READERS: Mapping[str, Callable[[Source], Export]] = {
    "coco": read_coco,
    "labelme": read_labelme,
    "labelstudio": read_labelstudio,
    "cvat": read_cvat,
    "roboflow": read_roboflow,
    "supervisely": read_supervisely,
    "masks": read_masks,
}


@dataclass(frozen=True, slots=True)
class Options:
    """Options of the conversion of an export into a data set.

    Attributes:
        unlabelled: ``background`` or ``void``.
        only: The classes to keep; all if empty.
        share: Of val, 0..1.
        by: ``sequence``, ``class`` or ``auto``.
        exif: Whether EXIF orientations are applied.
        incomplete: Import the remainder where files are missing or broken.
        workers: Threads that read and draw.
    """

    unlabelled: str = "background"
    only: tuple[str, ...] = ()
    share: float = 0.2
    by: str = "auto"
    exif: bool = True
    incomplete: bool = False
    workers: int = 1


@dataclass(frozen=True, slots=True)
class Imported:
    """Result of an import: images of each split, the classes, and notes on the conversion."""

    sizes: Mapping[str, int]
    classes: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Entry:
    """An image whose label map is in a file."""

    image: AnnotatedImage
    item: Item
    labels: Path
    extension: str


def convert(kind: str, source: Source, output: Path, options: Options, progress: Progress | None = None) -> Imported:
    """Import an export.

    Args:
        kind: One of ``READERS``.
        source: The export.
        output: The folder to write; it must be new or empty.
        options: How.
        progress: Gets the iterator of images and their number, and gives back an iterator.

    Raises:
        DatasetError: The export cannot be read, lacks files, or makes no data set.
    """
    if kind not in READERS:
        raise unknown_name("kind of export", kind, READERS)
    export = READERS[kind](source)
    if export.missing and not options.incomplete:
        hint = "name the folder of the images with --images, or import the rest with --incomplete"
        raise ImportingError(f"{plural(len(export.missing), 'file')} missing: {summary(export.missing)}; {hint}")
    if not export.images:
        raise ImportingError(f"{source.path} has no image with an annotation{_why(export)}")
    table = class_table(export, options.unlabelled, options.only)
    check_count(table, least=1)
    with new_folder(output) as folder:
        entries, notes = _draw_all(export, table, folder, options, progress or (lambda drawn, _: drawn))
        notes += _unseen(table, entries)
        if table.adds_background and not any(0 in entry.item.classes for entry in entries):
            table = _without_background(table, entries)
        check_count(table)
        split = split_images([entry.item for entry in entries], options.share, options.by)
        _place(entries, split.of, folder)
        write_spec(folder, table, list(sizes(split.of)), exif=options.exif)
    return Imported(sizes(split.of), table.names, (split.how, *export.missing, *export.notes, *notes))


def _why(export: Export) -> str:
    return f": {summary([*export.missing, *export.notes])}" if export.missing or export.notes else ""


def _draw_all(
    export: Export, table: ClassTable, folder: Path, options: Options, progress: Progress
) -> tuple[list[_Entry], list[str]]:
    """Every image's label map in a file, and the shapes left out."""
    bare = [image.name for image in export.images if not image.layers]
    images = [image for image in export.images if image.layers or options.unlabelled == "background"]
    taken: set[str] = set()
    keys = [unique_key(key_of(image.name), taken) for image in images]

    def drawn(image: AnnotatedImage, key: str) -> _Entry | str:
        try:
            result = draw(image, table.ids, table.unlabelled, exif=options.exif)
        except (DatasetError, OSError) as error:
            if options.incomplete:
                return str(error)
            raise
        return _write_drawn(image, result, key, table, folder)

    with ThreadPoolExecutor(options.workers) as pool:
        done = list(progress(pool.map(drawn, images, keys), len(images)))
    entries = [entry for entry in done if not isinstance(entry, str)]
    if not entries:
        raise ImportingError(f"no image can be used: {summary([it for it in done if isinstance(it, str)])}")
    notes = [entry for entry in done if isinstance(entry, str)]
    if bare:
        fate = "background all over" if options.unlabelled == "background" else "void all over, and left out"
        notes.append(f"{plural(len(bare), 'image')} without a shape, {fate}: {summary(bare, 3)}")
    return entries, notes


def _write_drawn(image: AnnotatedImage, result: Drawn, key: str, table: ClassTable, folder: Path) -> _Entry:
    path = folder / "drawn" / f"{key}.png"
    write_labels(path, result.labels, table)
    suffix = PurePosixPath(image.name.replace("\\", "/")).suffix.lower()
    extension = suffix if suffix in IMAGE_EXTENSIONS else f".{result.format.lower()}"
    item = Item(key, result.digest, result.present - {IGNORE_INDEX}, image.split)
    return _Entry(image, item, path, extension)


def _without_background(table: ClassTable, entries: Sequence[_Entry]) -> ClassTable:
    """Number the classes from 0 in every label map, as no pixel was left for the background."""
    smaller = table.without_unlabelled()
    for entry in entries:
        with Image.open(entry.labels) as image:
            labels = np.array(image, np.uint8)
        labels[labels != IGNORE_INDEX] -= 1
        write_labels(entry.labels, labels, smaller)
    return smaller


def _place(entries: Sequence[_Entry], splits: Sequence[str], folder: Path) -> None:
    for entry, split in zip(entries, splits, strict=True):
        write_image(folder / "images" / split / f"{entry.item.name}{entry.extension}", entry.image)
        labels = folder / "labels" / split / f"{entry.item.name}.png"
        labels.parent.mkdir(parents=True, exist_ok=True)
        entry.labels.rename(labels)
    for left in sorted((folder / "drawn").rglob("*"), reverse=True):
        left.rmdir()
    (folder / "drawn").rmdir()


def _unseen(table: ClassTable, entries: Sequence[_Entry]) -> list[str]:
    """A sentence on the export's classes that no image shows."""
    seen = {number for entry in entries for number in entry.item.classes}
    own = list(enumerate(table.names))[table.adds_background :]
    unseen = [name for number, name in own if number not in seen]
    if not unseen:
        return []
    return [f"no pixel of {summary(unseen)}: leave such classes out with --only, as they cannot be learned"]
