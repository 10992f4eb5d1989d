"""Supervisely's project format (https://docs.supervisely.com/customization-and-integration/00_ann_format_navi).

``meta.json`` has the classes; every data set has ``img/NAME`` and ``ann/NAME.json``. Objects are drawn in the order of
the file. Corners of polygons and rectangles are pixels, which belong to the object. A bitmap is a PNG, compressed by
zlib and written in base64, at its origin. Lines, points and graphs have no area.
"""

from __future__ import annotations

import base64
import binascii
import io
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainer.datasets.importing.collector import Collector, Source
from trainer.datasets.importing.colors import parse_color
from trainer.datasets.importing.errors import ImportingError
from trainer.datasets.importing.fields import Fields, as_object, as_ring, read_json
from trainer.datasets.importing.labelstudio_brush import HALF
from trainer.datasets.importing.records import Export, Shape
from trainer.datasets.importing.regions import Bitmap, Polygon, Region
from trainer.datasets.importing.sources import files_below, missing_image
from trainer.datasets.reading import BROKEN

META = "meta.json"
WITHOUT_AREA = ("line", "point", "graph", "cuboid", "cuboid_2d", "polyline")
MAX_PNG_BYTES = 1 << 28
"""Largest PNG of a bitmap after zlib has unpacked it: 256 MiB."""


def read_supervisely(source: Source) -> Export:
    """Read every data set of a project.

    Raises:
        DatasetError: There is no ``meta.json``, or a file is not in Supervisely's form.
    """
    metas = [path for path in files_below(source.root, (META,)) if path.name == META]
    if not metas:
        raise ImportingError(f"{source.path} has no {META}; give the folder of a Supervisely project")
    collector = Collector(source)
    meta = as_object(str(metas[0]), read_json(metas[0]))
    for entry in meta.objects("classes"):
        collector.category(entry.text("title"), parse_color(entry.where, entry.values.get("color")))
    names = {entry.text("title") for entry in meta.objects("classes")}
    annotations = [path for path in files_below(source.root, (".json",)) if path.parent.name == "ann"]
    if not annotations:
        raise ImportingError(f"{source.path} has no annotation: a folder ann/ with a .json file per image")
    for path in annotations:
        _read_file(as_object(str(path), read_json(path)), path, names, collector)
    return collector.export()


def _read_file(content: Fields, path: Path, names: set[str], collector: Collector) -> None:
    shapes: list[Shape] = []
    for fields in content.objects("objects"):
        kind = _kind(fields)
        if kind in WITHOUT_AREA:
            collector.leave_out(path, f"a {kind} has no area")
            continue
        title = fields.text("classTitle")
        if title not in names:
            raise fields.wrong("classTitle", f"a class of {META}: {', '.join(sorted(names))}")
        shapes.append(Shape(title, _region(kind, fields)))
    image = _image(path, collector)
    if image is not None:
        collector.add(image, shapes, path, size=content.object("size").size())


def _image(path: Path, collector: Collector) -> Path | None:
    """``img/NAME`` of ``ann/NAME.json``; the name of older exports lacks the image's extension."""
    folder = path.parent.parent / "img"
    alike = [
        image for image in collector.files.paths if image.parent == folder and path.stem in (image.name, image.stem)
    ]
    exact = [image for image in alike if image.name == path.stem]
    if not alike:
        collector.missing.append(missing_image(str(folder / path.stem), path))
        return None
    found = exact or alike
    if len(found) > 1:
        raise ImportingError(f"{path} may be of {found[0]} or {found[1]}; remove one of the two")
    return found[0]


def _kind(fields: Fields) -> str:
    known = fields.values.get("geometryType")
    if known is not None:
        return fields.text("geometryType")
    return "bitmap" if isinstance(fields.values.get("bitmap"), dict) else "polygon"


def _region(kind: str, fields: Fields) -> Region:
    if kind in ("bitmap", "alpha_mask"):
        return _bitmap(fields.object("bitmap"))
    points = fields.object("points")
    if kind == "rectangle":
        (x, y), (other_x, other_y) = points.ring("exterior", 2)[:2].tolist()
        corners = np.array([(x, y), (other_x, y), (other_x, other_y), (x, other_y)])
        return Polygon(corners, corners_are_pixels=True)
    if kind != "polygon":
        raise fields.wrong("geometryType", f"one of polygon, bitmap, rectangle, alpha_mask, {', '.join(WITHOUT_AREA)}")
    inner = points.list("interior") if "interior" in points.values else []
    holes = [as_ring(f"{points.where}, interior[{index}]", ring, 1) for index, ring in enumerate(inner)]
    return Polygon(points.ring("exterior"), tuple(holes), corners_are_pixels=True)


def _bitmap(fields: Fields) -> Bitmap:
    ((x, y),) = as_ring(f"{fields.where}, 'origin'", [fields.list("origin")], 1).astype(int).tolist()
    try:
        packed = base64.b64decode(fields.text("data"), validate=True)
        png = zlib.decompressobj().decompress(packed, MAX_PNG_BYTES)
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            return Bitmap(_inside(image), (x, y))
    except (*BROKEN, binascii.Error) as error:
        raise ImportingError(f"{fields.where}: 'data' is not a PNG in zlib in base64: {error}") from error


def _inside(image: Image.Image) -> NDArray[np.bool_]:
    """Pixels that a PNG marks, (H, W) bool: the opaque ones where it has transparency, else those that are not zero."""
    if image.has_transparency_data:
        return np.asarray(image.convert("RGBA"))[..., 3] >= HALF
    return np.asarray(image if image.mode in ("1", "P", "L") else image.convert("L")) > 0
