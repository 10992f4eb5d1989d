"""Label maps to the polygons of the service, these to each tool's annotation, and through the import to label maps."""

from __future__ import annotations

import base64
import io
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.answers.contours import trace
from tests.trainer.datasets.importing.conftest import Workshop

NAMES = ("sky", "road", "car", "tree")
Labels = NDArray[np.uint8]
Outline = tuple[str, list[list[int]], list[list[list[int]]]]


@pytest.fixture
def labels() -> Labels:
    """Blobs of four classes with holes and islands, of every size down to a pixel."""
    rng = np.random.default_rng(11)
    noise = Image.fromarray(rng.integers(0, 256, (9, 13), np.uint8)).resize((90, 60), Image.Resampling.BICUBIC)
    blobs = np.digitize(np.asarray(noise), (90, 128, 166)).astype(np.uint8)
    speckles = rng.random(blobs.shape) < 0.01
    return np.where(speckles, (blobs + 1) % 4, blobs).astype(np.uint8)


def outlines(labels: Labels) -> list[Outline]:
    """Class, outer ring and holes of each polygon, the largest first: what fills a hole is drawn after its owner."""
    found = [(NAMES[index], polygon) for index, polygons in trace(labels).items() for polygon in polygons]
    found.sort(key=lambda it: -np.prod(np.ptp(it[1][0], axis=0)))
    return [(name, outer.tolist(), [hole.tolist() for hole in holes]) for name, (outer, *holes) in found]


def coco(labels: Labels) -> dict[str, Any]:
    height, width = labels.shape
    annotations = [
        {"image_id": 1, "category_id": NAMES.index(name), "segmentation": [np.ravel(outer).tolist()], "iscrowd": 0}
        for name, outer, _ in outlines(labels)
    ]
    images = [{"id": 1, "file_name": "a.png", "height": height, "width": width}]
    categories = [{"id": index, "name": name} for index, name in enumerate(NAMES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def labelme(labels: Labels) -> dict[str, Any]:
    shapes = [{"label": name, "points": outer, "shape_type": "polygon"} for name, outer, _ in outlines(labels)]
    return {"shapes": shapes, "imagePath": "a.png", "imageHeight": len(labels), "imageWidth": labels.shape[1]}


def labelstudio(labels: Labels) -> list[dict[str, Any]]:
    height, width = labels.shape
    results = [
        {
            "type": "polygonlabels",
            "original_width": width,
            "original_height": height,
            "value": {"points": [[100 * x / width, 100 * y / height] for x, y in outer], "polygonlabels": [name]},
        }
        for name, outer, _ in outlines(labels)
    ]
    return [{"id": 1, "data": {"image": "a.png"}, "annotations": [{"id": 1, "result": results}]}]


def cvat(labels: Labels) -> str:
    shapes = (
        f'<polygon label="{name}" points="{";".join(f"{x},{y}" for x, y in outer)}" z_order="0"/>'
        for name, outer, _ in outlines(labels)
    )
    image = f'<image id="0" name="a.png" width="{labels.shape[1]}" height="{len(labels)}">{"".join(shapes)}</image>'
    return f"<annotations>{image}</annotations>"


def supervisely(labels: Labels) -> dict[str, Any]:
    """A bitmap for each polygon with its holes; its own polygons lie on pixels, not between them."""
    objects = [dict(_bitmap(labels, index)) for index in range(len(NAMES))]
    return {"size": {"height": len(labels), "width": labels.shape[1]}, "objects": objects}


def _bitmap(labels: Labels, index: int) -> Iterator[tuple[str, Any]]:
    stream = io.BytesIO()
    Image.fromarray(labels == index).save(stream, "PNG")
    data = base64.b64encode(zlib.compress(stream.getvalue())).decode()
    yield from {"geometryType": "bitmap", "classTitle": NAMES[index]}.items()
    yield "bitmap", {"data": data, "origin": [0, 0]}


WRITERS: dict[str, Callable[[Workshop, Labels], object]] = {
    "coco": lambda workshop, labels: workshop.json("a.json", coco(labels)),
    "labelme": lambda workshop, labels: workshop.json("a.json", labelme(labels)),
    "labelstudio": lambda workshop, labels: workshop.json("a.json", labelstudio(labels)),
    "cvat": lambda workshop, labels: workshop.text("annotations.xml", cvat(labels)),
    "masks": lambda workshop, labels: workshop.mask("masks/a.png", labels + 1),
}


@pytest.mark.parametrize("tool", WRITERS)
def test_the_label_map_comes_back_pixel_for_pixel(workshop: Workshop, labels: Labels, tool: str) -> None:
    workshop.photo("a.png", labels.shape)
    WRITERS[tool](workshop, labels)
    dataset = workshop.convert(tool)
    names = [f"class {index + 1}" for index in range(4)] if tool == "masks" else NAMES
    order = [list(dataset.classes).index(name) for name in names]
    assert np.array_equal(dataset.labels("a"), np.array(order)[labels])


def test_bitmaps_of_supervisely_come_back_pixel_for_pixel(workshop: Workshop, labels: Labels) -> None:
    workshop.photo("ds/img/a.png", labels.shape)
    workshop.json("meta.json", {"classes": [{"title": name, "color": "#ffffff"} for name in NAMES]})
    workshop.json("ds/ann/a.png.json", supervisely(labels))
    dataset = workshop.convert("supervisely")
    assert list(dataset.classes) == list(NAMES)
    assert np.array_equal(dataset.labels("ds/a"), labels)


def test_polygons_of_supervisely_come_back_within_a_pixel(workshop: Workshop, labels: Labels) -> None:
    objects = [
        {"geometryType": "polygon", "classTitle": name, "points": {"exterior": outer, "interior": holes}}
        for name, outer, holes in outlines(labels)
    ]
    workshop.photo("ds/img/a.png", labels.shape)
    workshop.json("meta.json", {"classes": [{"title": name, "color": "#ffffff"} for name in NAMES]})
    size = {"height": len(labels), "width": labels.shape[1]}
    workshop.json("ds/ann/a.png.json", {"size": size, "objects": objects})
    dataset = workshop.convert("supervisely")
    found = np.array([*dataset.classes])[dataset.labels("ds/a")]
    near = np.stack([np.roll(labels, (y, x), (0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1)])
    inner = np.array(NAMES)[near][:, 1:-1, 1:-1]
    assert (found[1:-1, 1:-1] == inner).any(0).all()
