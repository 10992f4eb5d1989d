"""CVAT: "CVAT for images 1.1" and "Segmentation mask 1.1".

The XML (https://docs.cvat.ai/docs/other/xml_format) has polygons, boxes, ellipses and masks, drawn by ``z_order`` and
then in the order of the file. A mask is the lengths of runs along the rows of its box, that of zeros first. The other
is the layout of Pascal VOC with ``labelmap.txt``.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np

from trainer.datasets.errors import UnreadableFileError
from trainer.datasets.folder_files import IMAGE_EXTENSIONS
from trainer.datasets.importing.class_lists import read_class_list
from trainer.datasets.importing.collector import Collector, Source
from trainer.datasets.importing.colors import parse_color
from trainer.datasets.importing.errors import ImportingError
from trainer.datasets.importing.fields import Fields
from trainer.datasets.importing.mask_files import LabelFile
from trainer.datasets.importing.mask_values import listed_coding
from trainer.datasets.importing.records import Export, Shape
from trainer.datasets.importing.regions import Bitmap, Polygon, Region, ellipse, rectangle
from trainer.datasets.importing.sources import ImageFiles, files_below
from trainer.datasets.reading import MAX_IMAGE_PIXELS, label_size
from trainer.datasets.split_names import split_of

LABEL_MAP = "labelmap.txt"
WITH_AREA = ("polygon", "box", "ellipse", "mask")
WITHOUT_AREA = ("polyline", "points", "cuboid", "skeleton")


def read_cvat(source: Source) -> Export:
    """Read either export, by its files.

    Raises:
        DatasetError: It is neither, or one of its files is not as it should be.
    """
    xmls = [source.path] if source.path.is_file() else files_below(source.path, (".xml",))
    if xmls:
        collector = Collector(source)
        for path in xmls:
            _read_xml(path, collector)
        return collector.export()
    label_maps = [path for path in files_below(source.root, (".txt",)) if path.name == LABEL_MAP]
    if not label_maps:
        raise ImportingError(
            f"{source.path} has neither annotations.xml nor {LABEL_MAP}; export one of these from CVAT"
        )
    return _read_masks(source, label_maps[0])


def _read_xml(path: Path, collector: Collector) -> None:
    try:
        root = ET.fromstring(path.read_bytes())  # noqa: S314 - expat bounds what entities expand to
    except (ET.ParseError, OSError, LookupError, ValueError) as error:  # an encoding that Python or expat lacks
        raise UnreadableFileError(f"{path} cannot be read as XML: {error}") from error
    if root.tag != "annotations" or root.find("track") is not None:
        found = "tracks, as CVAT for video" if root.tag == "annotations" else f"<{root.tag}>"
        raise ImportingError(f"{path} holds {found}; export as 'CVAT for images 1.1'")
    for label in root.iterfind("meta//labels/label"):
        name = (label.findtext("name") or "").strip()
        if name and label.find("parent") is None:
            collector.category(name, parse_color(f"{path}, label {name!r},", label.findtext("color")))
    for image in root.iterfind("image"):
        _read_image(Fields(f"{path}, image {image.get('name')!r}", dict(image.attrib)), image, path, collector)


def _read_image(fields: Fields, image: ET.Element, path: Path, collector: Collector) -> None:
    shapes: list[tuple[float, Shape]] = []
    for place, element in enumerate(image):
        shape = Fields(f"{fields.where}, {element.tag} {place}", dict(element.attrib))
        if element.tag in WITHOUT_AREA:
            collector.leave_out(path, f"a {element.tag} has no area")
        elif element.tag in WITH_AREA:
            label = collector.category(shape.text("label"))
            order = shape.number("z_order") if "z_order" in shape.values else 0.0
            shapes.append((order, Shape(label, _region(element.tag, shape))))
    drawn = [shape for _, shape in sorted(shapes, key=lambda it: it[0])]
    name = fields.text("name")
    # The frame of a video is named without the extension of its image.
    endings = () if name.lower().endswith(IMAGE_EXTENSIONS) else IMAGE_EXTENSIONS
    found = collector.find([name, *(f"{name}{ending}" for ending in endings)], path)
    if found is not None:
        split = split_of(fields.values.get("subset", ""))
        collector.add(found, drawn, path, size=fields.size(), split=split)


def _region(tag: str, shape: Fields) -> Region:
    degrees = shape.number("rotation") if "rotation" in shape.values else 0.0
    if tag == "polygon":
        pairs = [pair.split(",") for pair in shape.text("points").split(";")]
        return Polygon(Fields(shape.where, {"points": pairs}).ring("points", 3))
    if tag == "box":
        left, top, right, bottom = (shape.number(key) for key in ("xtl", "ytl", "xbr", "ybr"))
        return rectangle(left, top, right, bottom, degrees)
    if tag == "ellipse":
        x, y, radius_x, radius_y = (shape.number(key) for key in ("cx", "cy", "rx", "ry"))
        return ellipse(x, y, radius_x, radius_y, degrees)
    return _mask(shape)


def _mask(shape: Fields) -> Bitmap:
    width, height = (shape.whole(key, 1) for key in ("width", "height"))
    if width * height > MAX_IMAGE_PIXELS:
        raise ImportingError(f"{shape.where} has {width}x{height} pixels, at most {MAX_IMAGE_PIXELS:,} are accepted")
    text = shape.text("rle")
    if not re.fullmatch(r"\s*\d{1,9}\s*(,\s*\d{1,9}\s*)*", text, re.ASCII):
        raise shape.wrong("rle", "whole numbers of 9 digits at most with commas between")
    runs = [int(run) for run in text.split(",")]
    if sum(runs) != width * height:
        raise ImportingError(
            f"{shape.where}: 'rle' has runs of {sum(runs):,} pixels, expected {width}x{height} = {width * height:,}"
        )
    pixels = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    return Bitmap(pixels, (shape.whole("left", -width), shape.whole("top", -height)))


def _read_masks(source: Source, label_map: Path) -> Export:
    """Masks of colours in ``SegmentationClass``, images in ``JPEGImages`` or folders given beside the export."""
    root = label_map.parent
    classes = read_class_list(label_map)
    coding = listed_coding(classes, by_color=True)
    masks = files_below(root / "SegmentationClass", (".png",))
    if not masks:
        raise ImportingError(f"{root / 'SegmentationClass'} has no mask")
    files = ImageFiles(source.roots)
    files.paths = [path for path in files.paths if not path.is_relative_to(root) or _is_photo(path, root)]
    collector = Collector(source, files)
    for category in coding.categories:
        collector.category(category.name, category.color)
    splits = _listed_splits(root)
    images = {_without_extension(path.relative_to(folder)): path for folder, path in _below(files, root, source)}
    for mask in masks:
        name = _without_extension(mask.relative_to(root / "SegmentationClass"))
        if name in images:
            split = splits.get(name)
            collector.add(images[name], [LabelFile(mask, coding)], mask, size=label_size(mask), split=split)
        else:
            hint = "export with 'Save images', or name their folder with --images"
            collector.missing.append(f"{mask} has no image {name} in {root / 'JPEGImages'}; {hint}")
    return collector.export(unlabelled=coding.unlabelled, is_dense=True)


def _is_photo(path: Path, root: Path) -> bool:
    return not path.relative_to(root).parts[0].startswith("Segmentation")


def _below(files: ImageFiles, root: Path, source: Source) -> list[tuple[Path, Path]]:
    """Each image with the folder that masks' paths are relative to."""
    folders = (root / "JPEGImages", root, *source.image_folders)
    return [(next(it for it in folders if path.is_relative_to(it)), path) for path in files.paths]


def _listed_splits(root: Path) -> dict[str, str]:
    """The split of each image in the lists of ``ImageSets/Segmentation``; CVAT's default is none."""
    lists = files_below(root / "ImageSets" / "Segmentation", (".txt",))
    named = [(split, path) for path in lists if (split := split_of(path.stem))]
    return {line.strip(): split for split, path in named for line in path.read_text(encoding="utf-8-sig").splitlines()}


def _without_extension(path: Path) -> str:
    return path.with_suffix("").as_posix()
