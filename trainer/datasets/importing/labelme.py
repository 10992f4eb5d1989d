"""LabelMe: a JSON file per image (https://github.com/wkentaro/labelme).

Shapes are drawn in the order of the file, as LabelMe's own ``shapes_to_label`` does. The image is the file that
``imagePath`` names or, where it is not there, the one that ``imageData`` embeds; where none is embedded, a file of the
name elsewhere in the export. Shapes without an area (line, linestrip, point, points) are left out. ``labels.txt`` in
the folder gives the order of the classes.
"""

from __future__ import annotations

import base64
import binascii
import io
from pathlib import Path, PureWindowsPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainer.datasets.files import read_list
from trainer.datasets.importing.collector import Collector, Source
from trainer.datasets.importing.colors import parse_color
from trainer.datasets.importing.errors import ImportingError
from trainer.datasets.importing.fields import Fields, as_object, read_json
from trainer.datasets.importing.records import IGNORED, Export, Shape
from trainer.datasets.importing.regions import Bitmap, Polygon, Region, ellipse, rectangle
from trainer.datasets.importing.sources import files_below
from trainer.datasets.reading import BROKEN

POLYGONS = frozenset({"polygon", "rotation", "oriented_rectangle"})
WITHOUT_AREA = frozenset({"line", "linestrip", "point", "points"})
KINDS = (*sorted(POLYGONS | WITHOUT_AREA), "circle", "mask", "rectangle")


def read_labelme(source: Source) -> Export:
    """Read LabelMe's files, one or those of a folder.

    Raises:
        DatasetError: There is none, or one is not in LabelMe's form.
    """
    collector = Collector(source)
    files = [source.path] if source.path.is_file() else files_below(source.path, (".json",))
    if not files:
        raise ImportingError(f"{source.path} has no .json file of LabelMe")
    contents = [(path, as_object(str(path), read_json(path))) for path in files]
    for name in _class_names(source.root, contents):
        collector.category(name)
    for path, content in contents:
        _read_file(content, path, collector)
    return collector.export()


def _class_names(root: Path, contents: list[tuple[Path, Fields]]) -> list[str]:
    """The lines of ``labels.txt``, then the other labels by name."""
    listed = root / "labels.txt"
    names = read_list(listed) if listed.is_file() else []
    used = {shape.text("label") for _, content in contents for shape in content.objects("shapes")}
    ordered = dict.fromkeys([*filter(None, map(str.strip, names)), *sorted(used)])
    return [name for name in ordered if name != IGNORED]


def _read_file(content: Fields, path: Path, collector: Collector) -> None:
    shapes: list[Shape] = []
    for fields in content.objects("shapes"):
        region = _region(fields)
        if region is None:
            collector.leave_out(path, f"a {fields.values.get('shape_type')} has no area")
            continue
        label = fields.text("label")
        if label != IGNORED:
            color = fields.values.get("fill_color") or fields.values.get("line_color")
            collector.category(label, parse_color(fields.where, color))
        shapes.append(Shape(label, region))
    size = content.size("imageHeight", "imageWidth")
    is_embedded = bool(content.values.get("imageData"))
    reference = content.text("imagePath") if content.values.get("imagePath") or not is_embedded else ""
    image = collector.files.named(reference, path.parent) if is_embedded else collector.find([reference], path)
    if image is not None:
        collector.add(image, shapes, path, size=size)
    elif is_embedded:
        name = path.with_suffix(PureWindowsPath(reference).suffix).relative_to(collector.files.roots[0]).as_posix()
        collector.add_embedded(name, _bytes(content, "imageData"), shapes, path, size)


def _region(fields: Fields) -> Region | None:
    """The area of a shape; None if it has none."""
    kind = fields.values.get("shape_type") or "polygon"
    points = fields.ring("points")
    if kind not in KINDS:
        raise fields.wrong("shape_type", f"one of {', '.join(KINDS)}")
    if kind in WITHOUT_AREA:
        return None
    if kind in POLYGONS or (kind == "rectangle" and len(points) > 2):
        return Polygon(fields.ring("points", 3))
    (x, y), (other_x, other_y) = fields.ring("points", 2)[:2].tolist()
    if kind == "mask":
        return Bitmap(_mask(fields), (int(x), int(y)))
    if kind == "circle":
        radius = float(np.hypot(other_x - x, other_y - y))
        return ellipse(x, y, radius, radius)
    return rectangle(min(x, other_x), min(y, other_y), max(x, other_x), max(y, other_y))


def _mask(fields: Fields) -> NDArray[np.bool_]:
    try:
        with Image.open(io.BytesIO(_bytes(fields, "mask"))) as image:
            return np.asarray(image.convert("L")) > 0
    except BROKEN as error:
        raise ImportingError(f"{fields.where}: 'mask' is not an image: {error}") from error


def _bytes(fields: Fields, key: str) -> bytes:
    try:
        return base64.b64decode(fields.text(key), validate=True)
    except binascii.Error as error:
        raise ImportingError(f"{fields.where}: '{key}' is not base64: {error}") from error
