"""LabelMe: shapes of every kind, embedded images, and paths as Windows writes them."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.trainer.datasets.importing.conftest import HEIGHT, WIDTH, Workshop

Draw = Callable[..., list[str]]


def shape(label: str, points: Sequence[Sequence[float]], kind: str = "polygon", **keys: Any) -> dict[str, Any]:
    return {
        "label": label,
        "points": points,
        "group_id": None,
        "description": "",
        "shape_type": kind,
        "flags": {},
        **keys,
    }


def labelme(*shapes: dict[str, Any], path: str = "a.jpg", **keys: Any) -> dict[str, Any]:
    size = {"imageHeight": HEIGHT, "imageWidth": WIDTH}
    return {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": path, "imageData": None, **size, **keys}


def png(pixels: Any) -> str:
    stream = io.BytesIO()
    Image.fromarray(np.asarray(pixels)).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


SQUARE = [[2, 2], [8, 2], [8, 8], [2, 8]]


def test_shapes_are_drawn_in_the_order_of_the_file(workshop: Workshop, drawing: Draw) -> None:
    workshop.photo("a.jpg")
    workshop.json("a.json", labelme(shape("car", SQUARE), shape("tree", [[12, 6], [5, 4]], "rectangle")))
    dataset = workshop.convert("labelme")
    assert dataset.drawn("a") == drawing(("c", 2, 2, 8, 8), ("t", 5, 4, 12, 6))
    assert list(dataset.classes) == ["background", "car", "tree"]
    assert len(set(dataset.classes.values())) == 3


def test_a_circle_is_given_by_its_centre_and_a_point_on_it(workshop: Workshop) -> None:
    workshop.photo("a.jpg", (80, 100))
    content = labelme(shape("car", [[50, 40], [50, 70]], "circle"), imageHeight=80, imageWidth=100)
    workshop.json("a.json", content)
    y, x = np.mgrid[:80, :100] + 0.5
    expected = (x - 50) ** 2 + (y - 40) ** 2 < 30**2
    assert (workshop.convert("labelme").labels("a") != expected).mean() < 0.003


def test_a_mask_lies_in_its_box(workshop: Workshop, drawing: Draw) -> None:
    pixels = np.ones((4, 5), bool)
    pixels[1:3, 1:3] = False
    workshop.photo("a.jpg")
    workshop.json("a.json", labelme(shape("car", [[3, 2], [7, 5]], "mask", mask=png(pixels))))
    assert workshop.convert("labelme").drawn("a") == drawing(("c", 3, 2, 8, 6), (".", 4, 3, 6, 5))


def test_shapes_without_an_area_are_left_out_and_counted(workshop: Workshop, drawing: Draw) -> None:
    workshop.photo("a.jpg")
    lines = [shape("car", [[1, 1], [5, 5]], kind) for kind in ("line", "linestrip")]
    points = [shape("car", [[1, 1]], "point")]
    path = workshop.json("a.json", labelme(shape("car", SQUARE), *lines, *points))
    dataset = workshop.convert("labelme")
    assert dataset.drawn("a") == drawing(("c", 2, 2, 8, 8))
    assert f"note: 1 shape left out, the first in {path}: a line has no area" in dataset.output


def test_ignored_shapes_are_void(workshop: Workshop, drawing: Draw) -> None:
    workshop.photo("a.jpg")
    workshop.json("a.json", labelme(shape("car", SQUARE), shape("__ignore__", [[3, 3], [5, 5]], "rectangle")))
    dataset = workshop.convert("labelme")
    assert dataset.drawn("a") == drawing(("c", 2, 2, 8, 8), ("-", 3, 3, 5, 5))
    assert list(dataset.classes) == ["background", "car"]


def test_labels_txt_gives_the_order_and_labelmes_background_is_the_background(
    workshop: Workshop, drawing: Draw
) -> None:
    workshop.photo("a.jpg")
    workshop.text("labels.txt", "__ignore__\n_background_\ntree\ncar\n")
    hole = shape("_background_", [[3, 3], [5, 5]], "rectangle")
    workshop.json("a.json", labelme(shape("tree", [[0, 0], [1, 1]], "rectangle"), shape("car", SQUARE), hole))
    dataset = workshop.convert("labelme")
    assert list(dataset.classes) == ["_background_", "tree", "car"]
    assert dataset.labels("a")[[0, 2, 4, 11], [0, 2, 4, 11]].tolist() == [1, 2, 0, 0]


def test_the_colours_of_older_files_are_kept(workshop: Workshop) -> None:
    workshop.photo("a.jpg")
    workshop.json(
        "a.json", labelme({**shape("car", SQUARE), "line_color": [0, 255, 0, 128], "fill_color": [9, 8, 7, 128]})
    )
    assert workshop.convert("labelme").classes["car"] == (9, 8, 7)


def test_windows_paths_lead_to_the_image(workshop: Workshop) -> None:
    workshop.photo("images/day 1/a.jpg")
    workshop.json("json/day 1/a.json", labelme(shape("car", SQUARE), path="..\\..\\images\\day 1\\a.jpg"))
    assert workshop.convert("labelme").splits == {"train": ["day 1/a"]}


def test_an_embedded_image_is_taken_where_there_is_no_file(workshop: Workshop) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    workshop.json("a.json", labelme(shape("car", SQUARE), path="C:\\photos\\IMG 1.png", imageData=png(pixels)))
    dataset = workshop.convert("labelme")
    assert np.array_equal(dataset.image("a"), pixels)
    assert (workshop.output / "images" / "train" / "a.png").is_file()


@pytest.mark.parametrize("named", [{}, {"imagePath": None}, {"imagePath": "b.jpg"}, {"imagePath": "../b.jpg"}])
def test_an_embedded_image_is_taken_before_a_file_of_the_name_elsewhere(
    workshop: Workshop, named: dict[str, Any], drawing: Draw
) -> None:
    workshop.photo("other/b.jpg")
    workshop.photo("other/a.jpg")
    pixels = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    content = labelme(shape("car", SQUARE), imageData=png(pixels))
    del content["imagePath"]
    workshop.json("day/a.json", content | named)
    dataset = workshop.convert("labelme")
    assert np.array_equal(dataset.image("day/a"), pixels)
    assert dataset.drawn("day/a") == drawing(("c", 2, 2, 8, 8))


def test_a_file_that_is_named_is_taken_before_an_embedded_image(workshop: Workshop) -> None:
    path = workshop.photo("photos/a.png")
    workshop.json(
        "day/a.json", labelme(shape("car", SQUARE), path="../photos/a.png", imageData=png(np.zeros((9, 9), np.uint8)))
    )
    with Image.open(path) as image:
        assert np.array_equal(workshop.convert("labelme").image("photos/a"), np.asarray(image))


def test_a_file_without_a_name_or_an_image_is_named(workshop: Workshop) -> None:
    workshop.photo("a.jpg")
    path = workshop.json("a.json", labelme(shape("car", SQUARE)) | {"imagePath": None})
    assert workshop.refused("labelme") == f"{path}: 'imagePath' is missing, expected text"


def test_without_file_and_embedded_image_the_image_is_missing(workshop: Workshop) -> None:
    path = workshop.json("a.json", labelme(shape("car", SQUARE)))
    assert f"{path} names the image a.jpg, which is not there" in workshop.refused("labelme")


def test_an_image_without_json_is_told(workshop: Workshop) -> None:
    workshop.photo("a.jpg")
    other = workshop.photo("b.jpg")
    workshop.json("a.json", labelme(shape("car", SQUARE)))
    dataset = workshop.convert("labelme")
    assert dataset.splits == {"train": ["a"]}
    assert f"note: 1 image without an annotation left out: {other}" in dataset.output


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"images": []}, "'shapes' is missing, expected a list"),
        (
            labelme(shape("car", [[1, 2], [3]])),
            "shapes[0], 'points' is [[1, 2], [3]], expected 1 or more pairs",
        ),
        (labelme(shape("car", [[1, 2], [3, 4]])), "'points' is [[1, 2], [3, 4]], expected 3 or more pairs of numbers"),
        (labelme(shape("car", [[1e300, 2], [3, 4], [5, 6]])), "expected numbers within -100000..100000"),
        (labelme(shape("car", SQUARE, "star")), "'shape_type' is 'star', expected one of"),
        (labelme(shape(" ", SQUARE)), "shapes[0]: 'label' is ' ', expected text"),
        (labelme(shape("car", SQUARE[:2], "mask", mask="?")), "shapes[0]: 'mask' is not base64"),
        (labelme(shape("car", SQUARE[:2], "mask", mask="AAAA")), "shapes[0]: 'mask' is not an image"),
        ([1], "is [1], expected an object"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(workshop: Workshop, content: Any, expected: str) -> None:
    workshop.photo("a.jpg")
    path = workshop.json("a.json", content)
    error = workshop.refused("labelme")
    assert error.startswith(str(path))
    assert expected in error
