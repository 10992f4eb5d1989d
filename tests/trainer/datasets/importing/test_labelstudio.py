"""Label Studio: JSON with regions of every kind, JSON_MIN, and the folder of PNGs."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.trainer.datasets.importing.conftest import HEIGHT, WIDTH, Workshop

Draw = Callable[..., list[str]]
SIZES = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}


def percent(*points: tuple[float, float]) -> list[list[float]]:
    return [[100 * x / WIDTH, 100 * y / HEIGHT] for x, y in points]


def region(kind: str, label: str, number: str = "r", **value: Any) -> dict[str, Any]:
    keys = {"id": number, "from_name": "tag", "to_name": "image", "origin": "manual", "type": kind}
    return {**keys, **SIZES, "value": {**value, kind: [label]}}


def polygon(label: str, left: int, top: int, right: int, bottom: int, *, number: str = "p") -> dict[str, Any]:
    corners = percent((left, top), (right, top), (right, bottom), (left, bottom))
    return region("polygonlabels", label, number, points=corners, closed=True)


def rectangle(label: str, left: int, top: int, right: int, bottom: int, *, rotation: float = 0) -> dict[str, Any]:
    ((x, y), (width, height)) = percent((left, top), (right - left, bottom - top))
    return region("rectanglelabels", label, "b", x=x, y=y, width=width, height=height, rotation=rotation)


def brush(label: str, mask: NDArray[np.bool_], number: str = "m", **options: int) -> dict[str, Any]:
    return region("brushlabels", label, number, format="rle", rle=packed(mask, **options))


def packed(mask: NDArray[np.bool_], run_from: int = 2) -> list[int]:
    """A mask as Label Studio packs it: RGBA in runs of equal values and stretches of others."""
    values = np.zeros((*mask.shape, 4), np.uint8)
    values[mask] = (255, 255, 255, 255)
    flat = values.ravel()
    sizes = (3, 4, 8, 16)
    bits = [f"{flat.size:032b}", f"{8 - 1:05b}", *(f"{size - 1:04b}" for size in sizes)]
    edges = [0, *(np.flatnonzero(np.diff(flat)) + 1).tolist(), flat.size]
    for first, last in pairwise(edges):
        for start in range(first, last, 1 << 16):
            count = min(last - start, 1 << 16)
            choice = next(index for index, size in enumerate(sizes) if count <= 1 << size)
            is_run = count >= run_from
            body = f"{flat[start]:08b}" * (1 if is_run else count)
            bits.append(f"{is_run:b}{choice:02b}{count - 1:0{sizes[choice]}b}{body}")
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return [int(text[at : at + 8], 2) for at in range(0, len(text), 8)]


def task(*results: dict[str, Any], image: str = "/data/upload/1/0a1b2c3d-a.jpg", **keys: Any) -> dict[str, Any]:
    annotation = {"id": 11, "completed_by": 1, "result": list(results), "was_cancelled": False, "ground_truth": False}
    content = {"id": 1, "annotations": [annotation], "file_upload": "0a1b2c3d-a.jpg", "data": {"image": image}}
    return {**content, "predictions": [], "meta": {}, **keys}


def test_regions_are_drawn_in_the_order_of_the_annotation(workshop: Workshop, drawing: Draw) -> None:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[1:11, 9:15], mask[3:5, 10:12] = True, False
    workshop.photo("a.jpg")
    workshop.json("export.json", [task(polygon("car", 2, 2, 8, 8), rectangle("tree", 5, 4, 12, 6), brush("sky", mask))])
    assert workshop.convert("labelstudio").drawn("a") == drawing(
        ("c", 2, 2, 8, 8), ("t", 5, 4, 12, 6), ("s", 9, 1, 15, 11), (".", 10, 3, 12, 5), ("t", 10, 4, 12, 5)
    )


@pytest.mark.parametrize("run_from", [1, 2, 5, 1 << 20])
def test_the_brush_gives_every_pixel_back(workshop: Workshop, run_from: int) -> None:
    mask = np.random.default_rng(5).random((HEIGHT, WIDTH)) < 0.4
    workshop.photo("a.jpg")
    workshop.json("export.json", [task(brush("car", mask, run_from=run_from))])
    assert np.array_equal(workshop.convert("labelstudio").labels("a"), mask)


def bitmask_url(mask: NDArray[np.bool_]) -> str:
    """A mask as Label Studio's bitmask writes it: black on transparent."""
    stream = io.BytesIO()
    Image.fromarray(np.dstack([*[np.zeros(mask.shape, np.uint8)] * 3, mask * np.uint8(255)])).save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def test_a_bitmask_gives_every_pixel_back(workshop: Workshop) -> None:
    mask = np.random.default_rng(5).random((HEIGHT, WIDTH)) < 0.4
    workshop.photo("a.jpg")
    workshop.json("export.json", [task(region("bitmasklabels", "car", imageDataURL=bitmask_url(mask)))])
    assert np.array_equal(workshop.convert("labelstudio").labels("a"), mask)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (bitmask_url(np.ones((3, 4), bool)), f"the bitmask is 4x3 pixels, its image {WIDTH}x{HEIGHT}"),
        ("data:image/png;base64,####", "'imageDataURL' is not base64"),
        ("data:image/png;base64,AAAA", "'imageDataURL' holds a PNG that cannot be read"),
        ("https://example.org/a.png", "expected a PNG that begins with data:image/png;base64,"),
    ],
)
def test_a_bitmask_that_cannot_be_read_is_named(workshop: Workshop, url: str, message: str) -> None:
    workshop.photo("a.jpg")
    workshop.json("export.json", [task(region("bitmasklabels", "car", imageDataURL=url))])
    assert message in workshop.refused("labelstudio")


def test_a_large_brush_is_read_in_little_time(workshop: Workshop) -> None:
    y, x = np.mgrid[:1000, :1500]
    mask = (x - 700) ** 2 + (y - 500) ** 2 < 400**2
    workshop.photo("a.jpg", mask.shape)
    sizes = {"original_width": 1500, "original_height": 1000}
    workshop.json("export.json", [task({**brush("car", mask), **sizes})])
    assert np.array_equal(workshop.convert("labelstudio").labels("a"), mask)


def test_a_rectangle_is_turned_around_its_corner(workshop: Workshop, drawing: Draw) -> None:
    workshop.photo("a.jpg")
    workshop.json("export.json", [task(rectangle("car", 10, 3, 14, 5, rotation=90))])
    assert workshop.convert("labelstudio").drawn("a") == drawing(("c", 8, 3, 10, 7))


def test_an_ellipse_has_two_radii(workshop: Workshop) -> None:
    workshop.photo("a.jpg", (100, 200))
    value = region("ellipselabels", "car", x=50, y=50, radiusX=20, radiusY=10, rotation=0)
    workshop.json("export.json", [task({**value, "original_width": 200, "original_height": 100})])
    y, x = np.mgrid[:100, :200] + 0.5
    expected = ((x - 100) / 40) ** 2 + ((y - 50) / 10) ** 2 < 1
    assert (workshop.convert("labelstudio").labels("a") != expected).mean() < 0.003


def test_labels_may_stand_in_a_result_of_their_own(workshop: Workshop, drawing: Draw) -> None:
    shape = {**polygon("", 2, 2, 8, 8), "type": "polygon"}
    del shape["value"]["polygonlabels"]
    choice = {**shape, "type": "labels", "value": {**shape["value"], "labels": ["car"]}}
    workshop.photo("a.jpg")
    workshop.json("export.json", [task(shape, choice)])
    assert workshop.convert("labelstudio").drawn("a") == drawing(("c", 2, 2, 8, 8))


def test_relations_and_key_points_are_not_drawn(workshop: Workshop, drawing: Draw) -> None:
    relation = {"from_id": "p", "to_id": "k", "type": "relation", "direction": "right"}
    choice = {"id": "c", "type": "choices", "value": {"choices": ["blurred"]}, "from_name": "q", "to_name": "image"}
    point = region("keypointlabels", "car", "k", x=10, y=10, width=0.5)
    workshop.photo("a.jpg")
    workshop.json("export.json", [task(point, polygon("car", 2, 2, 8, 8), relation, choice)])
    dataset = workshop.convert("labelstudio")
    assert dataset.drawn("a") == drawing(("c", 2, 2, 8, 8))
    assert "1 shape left out" in dataset.output
    assert "keypointlabels is not a polygon, rectangle, ellipse, brush or bitmask" in dataset.output


def test_json_min_is_read_too(workshop: Workshop, drawing: Draw) -> None:
    shape = polygon("car", 2, 2, 8, 8)
    content = [
        {"image": "/data/upload/1/0a1b2c3d-a.jpg", "id": 1, "label": [{**shape["value"], **SIZES}], "annotator": 1}
    ]
    workshop.photo("a.jpg")
    workshop.json("export.json", content)
    assert workshop.convert("labelstudio").drawn("a") == drawing(("c", 2, 2, 8, 8))


@pytest.mark.parametrize(
    "image",
    [
        "/data/upload/1/0a1b2c3d-my%20phot%C3%B6.jpg",
        "/data/local-files/?d=day%5Cmy%20phot%C3%B6.jpg",
        "s3://bucket/day/my photö.jpg",
        "http://localhost:8080/data/upload/1/my%20phot%C3%B6.jpg?x=1",
    ],
)
def test_images_are_found_by_their_address(workshop: Workshop, image: str) -> None:
    workshop.photo("day/my photö.jpg")
    workshop.json("export.json", [task(polygon("car", 2, 2, 8, 8), image=image, file_upload=None)])
    assert workshop.convert("labelstudio").splits == {"train": ["day/my photö"]}


def test_the_newest_annotation_counts_unless_one_is_the_truth(workshop: Workshop, drawing: Draw) -> None:
    older, newer, cancelled = (
        {"id": number, "updated_at": f"2026-01-0{number}T00:00:00Z", "result": [polygon("car", 2, 2, right, 8)]}
        for number, right in ((1, 5), (2, 8), (3, 12))
    )
    cancelled["was_cancelled"] = True
    workshop.photo("a.jpg")
    workshop.json("export.json", [task(annotations=[older, newer, cancelled])])
    assert workshop.convert("labelstudio").drawn("a") == drawing(("c", 2, 2, 8, 8))
    workshop.json("export.json", [task(annotations=[{**older, "ground_truth": True}, newer])])
    workshop.output = workshop.output.with_name("other")
    assert workshop.convert("labelstudio").drawn("a") == drawing(("c", 2, 2, 5, 8))


def test_colours_come_from_the_labelling_configuration(workshop: Workshop) -> None:
    workshop.photo("a.jpg")
    workshop.text(
        "config.xml",
        '<View><Image name="image" value="$image"/><PolygonLabels name="tag" toName="image">'
        '<Label value="Conifer" alias="tree" background="green"/>'
        '<Label value="car" background="rgba(255, 10, 0, 0.7)"/>'
        "</PolygonLabels></View>",
    )
    workshop.json("export.json", [task(polygon("car", 2, 2, 8, 8), polygon("tree", 0, 0, 1, 1, number="q"))])
    classes = workshop.convert("labelstudio").classes
    assert classes == {"background": (0, 0, 0), "tree": (0, 128, 0), "car": (255, 10, 0)}


def test_predictions_are_no_labels(workshop: Workshop) -> None:
    workshop.photo("a.jpg")
    workshop.json("export.json", [task(annotations=[], predictions=[{"result": [polygon("car", 2, 2, 8, 8)]}])])
    assert "has no image with an annotation" in workshop.refused("labelstudio")


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({**polygon("car", 1, 1, 5, 5), "image_rotation": 90}, "'image_rotation' is 90, expected 0"),
        ({**polygon("car", 1, 1, 5, 5), "original_width": None}, "'original_width' is missing, expected"),
        (
            region("brushlabels", "car", format="rle", rle=[0, 0, 0]),
            "'rle' holds 0 values, expected 768: 4",
        ),
        (region("brushlabels", "car", format="rle", rle=[300]), "'rle' holds values that are not bytes"),
        (region("polygonlabels", "car", points=[[1, "x"], [1, 2], [3, 4]]), "'points' is [[1, 'x'], [1, 2], [3, 4]]"),
    ],
)
def test_what_is_wrong_in_a_region_is_named(workshop: Workshop, result: dict[str, Any], expected: str) -> None:
    workshop.photo("a.jpg")
    path = workshop.json("export.json", [task(result)])
    error = workshop.refused("labelstudio")
    assert error.startswith(f"{path}, task 0, ")
    assert expected in error


def test_a_brush_that_is_cut_short_is_named(workshop: Workshop) -> None:
    workshop.photo("a.jpg")
    mask = np.random.default_rng(5).random((HEIGHT, WIDTH)) < 0.4
    workshop.json("export.json", [task(region("brushlabels", "car", format="rle", rle=packed(mask)[:40]))])
    assert "'rle' ends after 40 bytes, in the middle of a run" in workshop.refused("labelstudio")


def strokes(workshop: Workshop) -> dict[str, Any]:
    """The PNGs of two strokes of a task, and the task as its JSON has it."""
    first, second = np.zeros((2, HEIGHT, WIDTH), np.uint8)
    first[2:8, 2:8], second[4:6, 5:12] = 255, 255
    workshop.mask("task-1-annotation-11-by-1-tag-tree-top-0.png", second)
    workshop.mask("task-1-annotation-11-by-1-tag-car-0.png", first)
    return task(brush("tree-top", second > 0), brush("car", first > 0))


def test_the_png_folder_is_drawn_in_the_order_of_its_json(workshop: Workshop, drawing: Draw) -> None:
    workshop.photo("images/a.jpg")
    workshop.json("export.json", [strokes(workshop)])
    dataset = workshop.convert("labelstudio")
    assert dataset.drawn("a") == drawing(("t", 5, 4, 12, 6), ("c", 2, 2, 8, 8))
    assert list(dataset.classes) == ["background", "tree-top", "car"]


def test_the_png_folder_goes_by_the_names_of_images_without_a_json(workshop: Workshop) -> None:
    strokes(workshop)
    error = workshop.refused("labelstudio")
    assert "names the image of task 1, which is not there; put the JSON export of the same project beside" in error
    workshop.photo("photos/task-1.jpg")
    dataset = workshop.convert("labelstudio")
    assert dataset.splits == {"train": ["photos/task-1"]}
    assert set(dataset.classes) == {"background", "car", "top"}
