"""COCO's object detection format, as COCO itself, CVAT, Label Studio and Roboflow write it.

``{"images": [...], "annotations": [...], "categories": [...]}`` (https://cocodataset.org/#format-data); a segmentation
is a list of polygons, or run lengths, compressed or not. Annotations are drawn in the order of the file. The polygons
of one annotation are joined. An annotation without a segmentation is its box.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from trainer.datasets.importing.collector import Collector, Source
from trainer.datasets.importing.colors import parse_color
from trainer.datasets.importing.errors import ImportingError
from trainer.datasets.importing.fields import MAX_PLACE, Fields, as_number, as_object, as_ring, read_json, shown
from trainer.datasets.importing.records import Export, Shape
from trainer.datasets.importing.regions import CocoRle, Polygon, Region, rectangle
from trainer.datasets.importing.sources import files_below
from trainer.datasets.split_names import split_of

KEYS = frozenset({"images", "annotations", "categories"})
_WITHOUT_ALL = "neither a segmentation nor a box"
_WITHOUT_CORNERS = "no polygon of the segmentation has 3 corners or more, and a box counts only without a segmentation"


def read_coco(source: Source) -> Export:
    """Read every COCO file of an export.

    Raises:
        DatasetError: There is none, or one is not in COCO's form.
    """
    collector = Collector(source)
    for path, content in _coco_files(source.path):
        _read_file(as_object(str(path), content), path, collector)
    return collector.export()


def _coco_files(path: Path) -> list[tuple[Path, Any]]:
    """The annotation files with their content; of COCO's own ones those of instances, not captions or key points."""
    if path.is_file():
        content = read_json(path)
        missing = KEYS - as_object(str(path), content).values.keys()
        if missing:
            raise ImportingError(f"{path} has no {', '.join(map(repr, sorted(missing)))}; it is not a COCO file")
        return [(path, content)]
    contents = [(file, read_json(file)) for file in files_below(path, (".json",))]
    found = [(file, content) for file, content in contents if isinstance(content, dict) and content.keys() >= KEYS]
    if not found:
        raise ImportingError(f"{path} has no COCO file: a .json with 'images', 'annotations' and 'categories'")
    instances = [(file, content) for file, content in found if file.name.startswith("instances_")]
    return instances or found


def _read_file(content: Fields, path: Path, collector: Collector) -> None:
    annotations = list(content.objects("annotations"))
    names = _categories(content, {annotation.whole("category_id") for annotation in annotations}, collector)
    images = _by_id(content, "images", "file_name")
    shapes: dict[int, list[Shape]] = {image: [] for image in images}
    for annotation in annotations:
        image, category = annotation.whole("image_id"), annotation.whole("category_id")
        if image not in images:
            raise ImportingError(f"{annotation.where}: 'image_id' is {image}, which no entry of 'images' has")
        if category not in names:
            raise ImportingError(f"{annotation.where}: 'category_id' is {category}, which no entry of 'categories' has")
        regions = list(_regions(annotation, images[image].size()))
        if not regions:
            collector.leave_out(path, _WITHOUT_CORNERS if annotation.values.get("segmentation") else _WITHOUT_ALL)
        shapes[image] += [Shape(names[category], region) for region in regions]
    split = _file_split(path)
    for number, image_fields in images.items():
        found = collector.find([image_fields.text("file_name")], path)
        if found is not None:
            collector.add(found, shapes[number], path, size=image_fields.size(), split=split)


def _categories(content: Fields, used: Iterable[int], collector: Collector) -> dict[int, str]:
    """Names by id, without Roboflow's first category, which no annotation has and which stands for all the others."""
    entries = _by_id(content, "categories", "name")
    parents = {parent for entry in entries.values() if isinstance(parent := entry.values.get("supercategory"), str)}
    names: dict[int, str] = {}
    for number, entry in entries.items():
        is_parent = entry.values.get("supercategory") in (None, "", "none") and entry.text("name") in parents
        if number in used or not is_parent:
            color = parse_color(entry.where, entry.values.get("color"))
            names[number] = collector.category(entry.text("name"), color)
    return names


def _by_id(content: Fields, key: str, name: str) -> dict[int, Fields]:
    """Entries by their id, which only one may have: of joined files, others would get its shapes."""
    entries: dict[int, Fields] = {}
    for entry in content.objects(key):
        number = entry.whole("id")
        if number in entries:
            both = f"{entries[number].text(name)!r} and {entry.text(name)!r}"
            raise ImportingError(f"{entry.where}: 'id' is {number}, as of another entry ({both})")
        entries[number] = entry
    return entries


def _regions(annotation: Fields, size: tuple[int, int] | None) -> Iterator[Region]:
    value = annotation.values.get("segmentation")
    if isinstance(value, dict):
        yield _run_lengths(annotation.object("segmentation"), size)
    elif value:
        yield from _polygons(annotation)
    elif annotation.values.get("bbox"):
        left, top, width, height = _numbers(f"{annotation.where}, 'bbox'", annotation.list("bbox"), 4)
        yield rectangle(left, top, left + width, top + height)


def _run_lengths(fields: Fields, size: tuple[int, int] | None) -> CocoRle:
    height, width = (int(side) for side in _numbers(f"{fields.where}, 'size'", fields.list("size"), 2))
    if size is not None and size != (height, width):
        raise ImportingError(f"{fields.where}: 'size' is {[height, width]}, its image has {list(size)}")
    counts = fields.values.get("counts")
    if isinstance(counts, str):
        return CocoRle((height, width), counts, fields.where)
    runs = fields.list("counts")
    if not all(type(run) is int and run >= 0 for run in runs):
        raise fields.wrong("counts", "a text or a list of whole numbers from 0")
    return CocoRle((height, width), tuple(runs), fields.where)


def _polygons(annotation: Fields) -> Iterator[Polygon]:
    rings = annotation.list("segmentation")
    for index, flat in enumerate([rings] if isinstance(rings[0], int | float) else rings):
        where = f"{annotation.where}, segmentation[{index}]"
        if not isinstance(flat, list) or len(flat) % 2:
            raise ImportingError(f"{where} is {shown(flat)}, expected x, y of 3 or more corners")
        ring = as_ring(where, [flat[at : at + 2] for at in range(0, len(flat), 2)], 0)
        if len(ring) > 2:
            yield Polygon(ring)


def _numbers(where: str, values: list[Any], count: int) -> list[float]:
    numbers = [it for value in values if (it := as_number(value)) is not None and abs(it) <= MAX_PLACE]
    if not len(values) == len(numbers) == count:
        raise ImportingError(f"{where} is {shown(values)}, expected {count} numbers within -{MAX_PLACE}..{MAX_PLACE}")
    return numbers


def _file_split(path: Path) -> str | None:
    """The split that a file's name states, as ``instances_val2017.json``."""
    return next((split for part in re.split(r"[._-]", path.stem) if (split := split_of(part))), None)


def has_coco(root: Path) -> Mapping[str, Path]:
    """Roboflow's COCO files of an export by their folder's name."""
    return {path.parent.name: path for path in files_below(root, (".coco.json",))}
