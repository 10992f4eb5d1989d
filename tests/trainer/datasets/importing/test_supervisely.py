"""Supervisely: polygons with holes, bitmaps and rectangles of a project with several data sets."""

from __future__ import annotations

import base64
import io
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.trainer.datasets.importing.conftest import HEIGHT, WIDTH, Workshop

Draw = Callable[..., list[str]]
META = {
    "classes": [
        {"title": "car", "shape": "polygon", "color": "#208B5E", "geometry_config": {}, "id": 1, "hotkey": ""},
        {"title": "tree", "shape": "bitmap", "color": "#ff0000", "geometry_config": {}, "id": 2, "hotkey": ""},
    ],
    "tags": [],
    "projectType": "images",
}


def thing(title: str, kind: str, **geometry: Any) -> dict[str, Any]:
    keys = {"id": 5, "classId": 1, "description": "", "labelerLogin": "me", "tags": []}
    return {**keys, "geometryType": kind, "classTitle": title, **geometry}


def polygon(title: str, exterior: list[list[int]], *interior: list[list[int]], kind: str = "polygon") -> dict[str, Any]:
    return thing(title, kind, points={"exterior": exterior, "interior": list(interior)})


def bitmap(title: str, mask: Any, origin: list[int], mode: str = "P") -> dict[str, Any]:
    stream = io.BytesIO()
    pixels = np.asarray(mask, np.uint8)
    if mode == "RGBA":
        Image.fromarray(np.repeat(pixels[..., None] * 255, 4, axis=2)).save(stream, "PNG")
    else:
        image = Image.fromarray(pixels)
        image.putpalette([0, 0, 0, 255, 255, 255])
        image.save(stream, "PNG", transparency=0, optimize=0)
    data = base64.b64encode(zlib.compress(stream.getvalue())).decode()
    return thing(title, "bitmap", bitmap={"data": data, "origin": origin})


def annotation(*objects: dict[str, Any]) -> dict[str, Any]:
    return {"description": "", "tags": [], "size": {"height": HEIGHT, "width": WIDTH}, "objects": list(objects)}


def square(left: int, top: int, right: int, bottom: int) -> list[list[int]]:
    """Corners whose pixels belong to the square: of the last column and row, not after them."""
    return [[left, top], [right - 1, top], [right - 1, bottom - 1], [left, bottom - 1]]


def project(workshop: Workshop, *objects: dict[str, Any], name: str = "ds0", photo: str = "a.jpg") -> None:
    workshop.json("meta.json", META)
    workshop.photo(f"{name}/img/{photo}")
    workshop.json(f"{name}/ann/{photo}.json", annotation(*objects))


def test_objects_are_drawn_in_the_order_of_the_file(workshop: Workshop, drawing: Draw) -> None:
    corners = [[5, 4], [11, 5]]
    project(workshop, polygon("car", square(2, 2, 8, 8)), polygon("tree", corners, kind="rectangle"))
    dataset = workshop.convert("supervisely")
    assert dataset.drawn("ds0/a") == drawing(("c", 2, 2, 8, 8), ("t", 5, 4, 12, 6))
    assert dataset.classes == {"background": (0, 0, 0), "car": (32, 139, 94), "tree": (255, 0, 0)}


def test_holes_are_cut_out(workshop: Workshop, drawing: Draw) -> None:
    project(workshop, polygon("tree", square(0, 0, 3, 3)), polygon("car", square(1, 1, 12, 11), square(4, 4, 8, 7)))
    assert workshop.convert("supervisely").drawn("ds0/a") == drawing(
        ("t", 0, 0, 3, 3), ("c", 1, 1, 12, 11), (".", 4, 4, 8, 7)
    )


@pytest.mark.parametrize("mode", ["P", "RGBA"])
def test_bitmaps_lie_at_their_origin(workshop: Workshop, drawing: Draw, mode: str) -> None:
    mask = np.ones((4, 5))
    mask[1:3, 1:3] = 0
    project(workshop, bitmap("tree", mask, [3, 2], mode))
    assert workshop.convert("supervisely").drawn("ds0/a") == drawing(("t", 3, 2, 8, 6), (".", 4, 3, 6, 5))


def test_bitmaps_may_reach_over_the_edge(workshop: Workshop, drawing: Draw) -> None:
    project(workshop, bitmap("tree", np.ones((4, 5)), [-2, 10]), bitmap("car", np.ones((3, 3)), [20, 20]))
    assert workshop.convert("supervisely").drawn("ds0/a") == drawing(("t", 0, 10, 3, 12))


def test_data_sets_of_a_project_keep_their_names(workshop: Workshop) -> None:
    for name in ("day 1", "day 2", "nested/datasets/day 3"):
        project(workshop, polygon("car", square(2, 2, 8, 8)), name=name, photo="ä.jpg")
    names = ["day 1/ä", "day 2/ä", "nested/datasets/day 3/ä"]
    assert workshop.convert("supervisely").splits == {"train": names}


def test_data_sets_named_after_splits_are_these(workshop: Workshop) -> None:
    both = (polygon("car", square(2, 2, 8, 8)), polygon("tree", square(0, 0, 1, 1)))
    project(workshop, *both, name="train")
    project(workshop, *both, name="val", photo="b.png")
    assert workshop.convert("supervisely").splits == {"train": ["a"], "val": ["b"]}


def test_older_annotations_lack_the_images_extension(workshop: Workshop, drawing: Draw) -> None:
    project(workshop)
    (workshop.root / "ds0/ann/a.jpg.json").unlink()
    old = polygon("car", square(2, 2, 8, 8))
    del old["geometryType"]
    workshop.json("ds0/ann/a.json", annotation(old))
    assert workshop.convert("supervisely").drawn("ds0/a") == drawing(("c", 2, 2, 8, 8))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (polygon("bus", [[0, 0]] * 3), "objects[0]: 'classTitle' is 'bus', expected a class of meta.json: car, tree"),
        (polygon("car", [[0, 0]] * 3, [[1]]), "interior[0] is [[1]], expected 1 or more pairs of numbers"),
        (
            thing("car", "bitmap", bitmap={"data": "####", "origin": [0, 0]}),
            "'data' is not a PNG in zlib in base64",
        ),
        (
            thing("car", "bitmap", bitmap={"data": "AAAA", "origin": [0, 0]}),
            "'data' is not a PNG in zlib in base64",
        ),
        (thing("car", "star", points={}), "'geometryType' is 'star', expected one of polygon, bitmap"),
    ],
)
def test_what_is_wrong_in_an_object_is_named(workshop: Workshop, found: dict[str, Any], expected: str) -> None:
    project(workshop, found)
    error = workshop.refused("supervisely")
    assert error.startswith(str(workshop.root / "ds0/ann/a.jpg.json"))
    assert expected in error


def test_what_is_missing_is_named(workshop: Workshop) -> None:
    project(workshop, polygon("car", square(2, 2, 8, 8)))
    (workshop.root / "ds0/img/a.jpg").unlink()
    assert f"names the image {workshop.root}/ds0/img/a.jpg, which is not there" in workshop.refused("supervisely")
    (workshop.root / "meta.json").unlink()
    assert "has no meta.json; give the folder of a Supervisely project" in workshop.refused("supervisely")
