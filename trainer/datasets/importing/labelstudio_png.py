"""Label Studio's "Brush labels to PNG": a folder of masks, one for each stroke.

A mask is ``task-TASK-annotation-ANNOTATION-by-USER-TAG-LABEL-NUMBER.png``, 0 and 255 of the image's size. The names do
not name the image: the JSON export of the same project beside them does, or images named ``TASK.jpg`` or
``task-TASK.jpg``.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.datasets.importing.collector import Collector, Source
from trainer.datasets.importing.errors import ImportingError
from trainer.datasets.importing.fields import Fields
from trainer.datasets.importing.labelstudio import chosen_annotation, json_files, references, tasks_of
from trainer.datasets.importing.labelstudio_brush import HALF
from trainer.datasets.importing.labelstudio_colors import label_colors
from trainer.datasets.importing.records import Export, Shape
from trainer.datasets.importing.regions import Bitmap, Labels
from trainer.datasets.importing.sources import ImageFiles, files_below, missing_image, natural
from trainer.datasets.reading import as_grey, image_size, opened

_NAME = re.compile(r"task-(\d+)-annotation-(\d+)-by-(.+)-(\d+)$")


@dataclass(frozen=True, slots=True)
class _Stroke:
    """A mask file: its task, its annotation, and the rest of its name up to the number, user, tag and label."""

    path: Path
    task: int
    annotation: int
    text: str
    number: int


@dataclass(frozen=True, slots=True)
class MaskFile:
    """The pixels of a mask of 0 and 255."""

    path: Path

    def paint(self, labels: Labels, value: int) -> None:
        with opened(self.path) as image:
            Bitmap(as_grey(self.path, image) >= HALF).paint(labels, value)


def stroke_files(root: Path) -> list[Path]:
    """The masks of a PNG export."""
    return [path for path in files_below(root, (".png",)) if _NAME.match(path.stem)]


def read_labelstudio_png(source: Source) -> Export:
    """Read a folder of masks.

    Raises:
        DatasetError: A task has no image.
    """
    masks = set(stroke_files(source.root))
    files = ImageFiles(source.roots)
    files.paths = [path for path in files.paths if path not in masks]
    collector = Collector(source, files)
    for name, color in label_colors(source.root).items():
        collector.category(name, color)
    tasks = {it.whole("id"): it for path in json_files(source.root) for it in tasks_of(path)}
    strokes: dict[int, list[_Stroke]] = {}
    for path in sorted(masks, key=lambda path: natural(path.name)):
        stroke = _stroke(path)
        strokes.setdefault(stroke.task, []).append(stroke)
    for task, drawn in sorted(strokes.items()):
        _add(task, _chosen(drawn, tasks.get(task)), tasks.get(task), collector)
    return collector.export()


def _stroke(path: Path) -> _Stroke:
    found = _NAME.match(path.stem)
    assert found is not None
    task, annotation, text, number = found.groups()
    return _Stroke(path, int(task), int(annotation), text, int(number))


def _chosen(strokes: list[_Stroke], task: Fields | None) -> list[_Stroke]:
    """The strokes of the annotation that counts, which without the JSON is the newest."""
    annotation = chosen_annotation(task) if task else None
    number = annotation.whole("id") if annotation else max(stroke.annotation for stroke in strokes)
    return [stroke for stroke in strokes if stroke.annotation == number]


def _add(number: int, strokes: list[_Stroke], task: Fields | None, collector: Collector) -> None:
    if not strokes:
        return
    first = strokes[0].path
    image = collector.find(references(task), first) if task else _image_of(number, first, collector)
    order = _order(task)
    ends = sorted(strokes, key=lambda stroke: _place(stroke, order))
    shapes = [Shape(collector.category(_label(stroke, order)), MaskFile(stroke.path)) for stroke in ends]
    if image is not None:
        collector.add(image, shapes, first, size=image_size(first))


def _image_of(number: int, mask: Path, collector: Collector) -> Path | None:
    """The image that is named after the task."""
    names = (str(number), f"task-{number}")
    found = [path for path in collector.files.paths if path.stem in names]
    if len(found) > 1:
        raise ImportingError(f"task {number} may be {found[0]} or {found[1]}")
    if not found:
        hint = "put the JSON export of the same project beside the masks, or name the image after the task"
        collector.missing.append(f"{missing_image(f'of task {number}', mask)}; {hint}")
    return found[0] if found else None


def _order(task: Fields | None) -> dict[tuple[str, int], tuple[int, str]]:
    """Place and label of each stroke of a task by the end of its name: ``TAG-LABEL`` and the number."""
    annotation = chosen_annotation(task) if task else None
    counts: Counter[str] = Counter()
    order: dict[tuple[str, int], tuple[int, str]] = {}
    for place, result in enumerate(annotation.objects("result") if annotation else ()):
        value = result.object("value").values
        labels = value.get("brushlabels") or value.get("labels")
        if isinstance(labels, list) and labels:
            end = "-".join([str(result.values.get("from_name")), *map(str, labels)])
            order[end, counts[end]] = (place, str(labels[0]))
            counts[end] += 1
    return order


def _known(stroke: _Stroke, order: dict[tuple[str, int], tuple[int, str]]) -> tuple[int, str] | None:
    ends = [it for (end, number), it in order.items() if number == stroke.number and stroke.text.endswith(f"-{end}")]
    return ends[0] if ends else None


def _place(stroke: _Stroke, order: dict[tuple[str, int], tuple[int, str]]) -> int:
    known = _known(stroke, order)
    return known[0] if known else np.iinfo(np.int64).max


def _label(stroke: _Stroke, order: dict[tuple[str, int], tuple[int, str]]) -> str:
    known = _known(stroke, order)
    return known[1] if known else stroke.text.rpartition("-")[2]
