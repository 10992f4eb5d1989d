"""COCO: polygons, run lengths of both kinds, crowds, boxes, and where the images lie."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from tests.trainer.datasets.importing.conftest import HEIGHT, WIDTH, Workshop

Draw = Callable[..., list[str]]
CATEGORIES = [
    {"id": 1, "name": "car", "supercategory": "vehicle", "color": [0, 0, 142]},
    {"id": 7, "name": "tree", "supercategory": "plant", "color": "#6b8e23"},
]


def box(left: int, top: int, right: int, bottom: int) -> list[int]:
    return [left, top, right, top, right, bottom, left, bottom]


def pixels(encoded: Any) -> NDArray[np.uint8]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools is behind NumPy
        return np.asarray(coco_mask.decode(encoded))


def annotation(category: int, segmentation: Any, image: int = 3, **keys: Any) -> dict[str, Any]:
    return {"id": 1, "image_id": image, "category_id": category, "segmentation": segmentation, "iscrowd": 0, **keys}


def coco(*annotations: dict[str, Any], name: str = "a.jpg", **keys: Any) -> dict[str, Any]:
    images = [{"id": 3, "file_name": name, "width": WIDTH, "height": HEIGHT, "license": 1}]
    return {
        "info": {},
        "licenses": [],
        "images": images,
        "annotations": list(annotations),
        "categories": CATEGORIES,
        **keys,
    }


def test_polygons_are_drawn_in_the_order_of_the_file_and_colours_are_kept(workshop: Workshop, drawing: Draw) -> None:
    workshop.photo("images/a.jpg")
    workshop.json(
        "annotations/instances_default.json", coco(annotation(1, [box(2, 2, 8, 8)]), annotation(7, [box(5, 4, 12, 6)]))
    )
    dataset = workshop.convert("coco")
    assert dataset.drawn("a") == drawing(("c", 2, 2, 8, 8), ("t", 5, 4, 12, 6))
    assert dataset.classes == {"background": (0, 0, 0), "car": (0, 0, 142), "tree": (107, 142, 35)}


def test_the_polygons_of_one_annotation_are_joined(workshop: Workshop, drawing: Draw) -> None:
    workshop.photo("a.jpg")
    workshop.json("a.json", coco(annotation(1, [box(1, 1, 4, 4), box(3, 3, 9, 9)])))
    assert workshop.convert("coco").drawn("a") == drawing(("c", 1, 1, 4, 4), ("c", 3, 3, 9, 9))


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("crowd", [0, 1])
def test_run_lengths_keep_every_pixel_and_holes(workshop: Workshop, compressed: bool, crowd: int) -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[1:11, 2:14], mask[4:8, 5:9], mask[0, 0] = 1, 0, 1
    encoded: Any = coco_mask.encode(np.asfortranarray(mask))
    counts: Any = encoded["counts"].decode()
    if not compressed:
        flat = np.concatenate(([0], mask.ravel("F")))
        edges = np.flatnonzero(np.diff(flat))
        counts = np.diff(np.concatenate(([0], edges, [mask.size]))).tolist()
    workshop.photo("a.jpg")
    segmentation = {"size": [HEIGHT, WIDTH], "counts": counts}
    workshop.json("a.json", coco(annotation(7, segmentation, iscrowd=crowd)))
    dataset = workshop.convert("coco")
    assert np.array_equal(dataset.labels("a") == list(dataset.classes).index("tree"), mask)


def test_random_run_lengths_come_back(workshop: Workshop) -> None:
    rng = np.random.default_rng(1)
    mask = (rng.random((HEIGHT, WIDTH)) < 0.5).astype(np.uint8)
    workshop.photo("a.jpg")
    encoded: Any = coco_mask.encode(np.asfortranarray(mask))
    counts = encoded["counts"].decode()
    workshop.json("a.json", coco(annotation(1, {"size": [HEIGHT, WIDTH], "counts": counts})))
    assert np.array_equal(workshop.convert("coco").labels("a") == 1, mask)


def test_polygons_are_rasterised_as_pycocotools_does(workshop: Workshop) -> None:
    ring = [1.3, 2.2, 14.6, 0.4, 9.5, 11.7, 6.1, 5.2]
    rings: Any = [ring]
    (encoded,) = coco_mask.frPyObjects(rings, HEIGHT, WIDTH)
    expected = pixels(encoded)
    workshop.photo("a.jpg")
    workshop.json("a.json", coco(annotation(1, [ring])))
    assert np.array_equal(workshop.convert("coco").labels("a"), expected)


def test_an_annotation_without_a_segmentation_is_its_box(workshop: Workshop, drawing: Draw) -> None:
    workshop.photo("a.jpg")
    workshop.json("a.json", coco(annotation(1, [], bbox=[2, 3, 5, 4])))
    assert workshop.convert("coco").drawn("a") == drawing(("c", 2, 3, 7, 7))


def test_polygons_without_an_area_are_left_out(workshop: Workshop, drawing: Draw) -> None:
    workshop.photo("a.jpg")
    workshop.json("a.json", coco(annotation(1, [[], [1, 2, 3, 4], box(2, 2, 8, 8)]), annotation(7, [[1, 2]])))
    dataset = workshop.convert("coco")
    assert dataset.drawn("a") == drawing(("c", 2, 2, 8, 8))
    assert "1 shape left out" in dataset.output


def test_a_box_does_not_stand_in_for_a_segmentation_without_corners(workshop: Workshop, drawing: Draw) -> None:
    workshop.photo("a.jpg")
    empty, line = annotation(7, [[]], bbox=[2, 3, 5, 4]), annotation(7, [[1, 2, 3, 4]], bbox=[2, 3, 5, 4])
    path = workshop.json("a.json", coco(empty, line, annotation(7, []), annotation(1, [box(2, 2, 8, 8)])))
    dataset = workshop.convert("coco")
    assert dataset.drawn("a") == drawing(("c", 2, 2, 8, 8))
    reason = "no polygon of the segmentation has 3 corners or more, and a box counts only without a segmentation"
    assert f"note: 2 shapes left out, the first in {path}: {reason}\n" in dataset.output
    assert f"note: 1 shape left out, the first in {path}: neither a segmentation nor a box\n" in dataset.output


def test_more_classes_than_labels_can_hold_are_refused(workshop: Workshop) -> None:
    workshop.photo("a.jpg")
    many = [{"id": number, "name": f"class {number}"} for number in range(300)]
    workshop.json("a.json", coco(annotation(1, [box(2, 2, 8, 8)]), categories=many))
    assert workshop.refused("coco").startswith("the number of classes is 301 ('background', 'class 0', ")


def test_what_reaches_over_the_edge_is_cut(workshop: Workshop, drawing: Draw) -> None:
    workshop.photo("a.jpg")
    workshop.json("a.json", coco(annotation(1, [box(-5, -5, 4, 4), box(12, 8, 40, 40), box(50, 50, 60, 60)])))
    assert workshop.convert("coco").drawn("a") == drawing(("c", 0, 0, 4, 4), ("c", 12, 8, 16, 12))


def test_unlabelled_pixels_are_void_if_asked(workshop: Workshop, drawing: Draw) -> None:
    workshop.photo("a.jpg")
    workshop.json("a.json", coco(annotation(1, [box(2, 2, 8, 8)]), annotation(7, [box(5, 4, 12, 6)])))
    dataset = workshop.convert("coco", "--unlabelled", "void", "--split", "0")
    assert dataset.drawn("a") == drawing(("c", 2, 2, 8, 8), ("t", 5, 4, 12, 6), ground="-")
    assert list(dataset.classes) == ["car", "tree"]


def test_no_background_is_added_where_every_pixel_is_labelled(workshop: Workshop) -> None:
    workshop.photo("a.jpg")
    workshop.json("a.json", coco(annotation(1, [box(0, 0, 16, 12)]), annotation(7, [box(8, 0, 16, 12)])))
    dataset = workshop.convert("coco")
    assert list(dataset.classes) == ["car", "tree"]
    assert dataset.labels("a").tolist() == [[0] * 8 + [1] * 8] * HEIGHT


def test_only_some_classes_are_kept_if_asked(workshop: Workshop, drawing: Draw) -> None:
    workshop.photo("a.jpg")
    workshop.json("a.json", coco(annotation(1, [box(2, 2, 8, 8)]), annotation(7, [box(5, 4, 12, 6)])))
    dataset = workshop.convert("coco", "--only", "car", "--split", "0")
    assert dataset.drawn("a") == drawing(("c", 2, 2, 8, 8), (".", 5, 4, 12, 6))
    assert list(dataset.classes) == ["background", "car"]


def test_the_splits_of_the_files_are_kept(workshop: Workshop) -> None:
    for split in ("train", "val"):
        workshop.photo(f"{split}2017/000{split}.jpg")
        content = coco(annotation(1, [box(2, 2, 8, 8)]), annotation(7, [box(1, 1, 2, 2)]), name=f"000{split}.jpg")
        workshop.json(f"annotations/instances_{split}2017.json", content)
        workshop.json(f"annotations/captions_{split}2017.json", {**content, "annotations": [{"caption": "a street"}]})
    assert workshop.convert("coco", "--split", "0.5").splits == {"train": ["000train"], "val": ["000val"]}


@pytest.mark.parametrize(
    "reference", ["images\\a b ü.jpg", "/home/else/images/a b ü.jpg", "A B Ü.JPG", "a b u\u0308.jpg"]
)
def test_images_are_found_by_what_other_machines_call_them(workshop: Workshop, reference: str) -> None:
    workshop.photo("images/a b ü.jpg")
    workshop.json("result.json", coco(annotation(1, [box(2, 2, 8, 8)]), name=reference))
    assert workshop.convert("coco").splits == {"train": ["a b ü"]}


@pytest.mark.parametrize("reference", ["../../outside.jpg", "{above}/outside.jpg"])
def test_no_image_outside_of_the_export_is_taken(workshop: Workshop, reference: str) -> None:
    """Also where the export is one file, whose images are beside it or in ``images`` beside its folder."""
    outside = workshop.photo("../outside.jpg")
    named = reference.format(above=outside.parent.resolve())
    path = workshop.json("annotations/a.json", coco(annotation(1, [box(2, 2, 8, 8)]), name=named))
    for export in (path, workshop.root):
        error = workshop.refused("coco", export=export)
        assert f"{path} names the image {named}, which is outside of the export" in error
    workshop.photo("images/outside.jpg")
    path.write_text(path.read_text().replace(named, "../images/outside.jpg"))
    assert workshop.convert("coco", export=path).splits == {"train": ["outside"]}


def test_images_may_lie_elsewhere(workshop: Workshop) -> None:
    photo = workshop.photo("../photos/deep/a.jpg")
    path = workshop.json("a.json", coco(annotation(1, [box(2, 2, 8, 8)])))
    assert "1 file missing" in workshop.refused("coco", export=path)
    dataset = workshop.convert("coco", "--images", str(photo.parent.parent), export=path)
    assert dataset.splits == {"train": ["deep/a"]}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"image_id": 9}, "annotations[0]: 'image_id' is 9, which no entry of 'images' has"),
        ({"category_id": 2}, "annotations[0]: 'category_id' is 2, which no entry of 'categories' has"),
        ({"category_id": "car"}, "annotations[0]: 'category_id' is 'car', expected a whole number from 0"),
        ({"segmentation": [], "bbox": [0, 0, 1e300, 1]}, "'bbox' is [0, 0, 1e+300, 1], expected 4 numbers within"),
        ({"segmentation": [[1, 2, 3]]}, "segmentation[0] is [1, 2, 3], expected x, y of 3 or more corners"),
        (
            {"segmentation": [[1, 2, 3, 4, 5, "x"]]},
            "segmentation[0] is [[1, 2], [3, 4], [5, 'x']], expected pairs of numbers",
        ),
        ({"segmentation": {"size": [9, 9], "counts": [81]}}, "'size' is [9, 9], its image has [12, 16]"),
        ({"segmentation": {"size": [12, 16], "counts": [5, 6]}}, "runs of 11 pixels, expected 16x12 = 192"),
        ({"segmentation": {"size": [12, 16], "counts": "~"}}, "has the character '~' in 'counts'"),
        ({"segmentation": {"size": [12, 16], "counts": "5"}}, "runs of 5 pixels, expected 16x12 = 192"),
        ({"segmentation": {"size": [12, 16], "counts": [1, -1]}}, "'counts' is [1, -1], expected"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(workshop: Workshop, change: dict[str, Any], expected: str) -> None:
    workshop.photo("a.jpg")
    path = workshop.json("a.json", coco({**annotation(1, [box(2, 2, 8, 8)]), **change}))
    error = workshop.refused("coco")
    assert error.startswith(str(path))
    assert expected in error


def test_a_file_that_is_no_json_is_named(workshop: Workshop) -> None:
    path = workshop.text("a.json", '{"images": [')
    assert f"{path} cannot be read as JSON" in workshop.refused("coco", export=path)
    assert f"{workshop.json('b.json', {'images': []})} has no 'annotations', 'categories'" in workshop.refused(
        "coco", export=workshop.root / "b.json"
    )


def test_an_image_of_another_size_is_named_with_both(workshop: Workshop) -> None:
    photo = workshop.photo("a.jpg", (10, 20))
    path = workshop.json("a.json", coco(annotation(1, [box(2, 2, 8, 8)])))
    assert workshop.refused("coco") == f"{photo} is 20x10 pixels, its annotation in {path} is for 16x12"


def test_a_missing_image_is_named_and_left_out_if_asked(workshop: Workshop) -> None:
    workshop.photo("a.jpg")
    content = coco(annotation(1, [box(2, 2, 8, 8)]))
    content["images"].append({"id": 4, "file_name": "gone.jpg", "width": WIDTH, "height": HEIGHT})
    path = workshop.json("a.json", content)
    assert f"1 file missing: {path} names the image gone.jpg, which is not there" in workshop.refused("coco")
    dataset = workshop.convert("coco", "--incomplete", "--split", "0")
    assert dataset.splits == {"train": ["a"]}
    assert f"note: {path} names the image gone.jpg, which is not there" in dataset.output


def test_a_broken_image_is_named_and_left_out_if_asked(workshop: Workshop) -> None:
    workshop.photo("a.jpg")
    broken = workshop.text("b.jpg", "no image")
    content = coco(annotation(1, [box(2, 2, 8, 8)]))
    content["images"].append({"id": 4, "file_name": "b.jpg", "width": WIDTH, "height": HEIGHT})
    workshop.json("a.json", content)
    assert workshop.refused("coco").startswith(f"{broken} cannot be read: ")
    assert f"note: {broken} cannot be read: " in workshop.convert("coco", "--incomplete", "--split", "0").output


def test_an_image_without_shapes_is_background_or_left_out(workshop: Workshop, drawing: Draw) -> None:
    workshop.photo("a.jpg")
    workshop.photo("b.jpg")
    content = coco(annotation(1, [box(2, 2, 8, 8)]), annotation(7, [box(1, 1, 2, 2)]))
    content["images"].append({"id": 4, "file_name": "b.jpg", "width": WIDTH, "height": HEIGHT})
    workshop.json("a.json", content)
    dataset = workshop.convert("coco", "--unlabelled", "void", "--split", "0")
    assert dataset.splits == {"train": ["a"]}
    assert "note: 1 image without a shape, void all over, and left out: b.jpg" in dataset.output
    (workshop.output / "x").mkdir()
    assert "exists and is not empty" in workshop.run("coco")[2]
    workshop.output = workshop.output.with_name("other")
    dataset = workshop.convert("coco")
    assert dataset.drawn("b") == drawing()
    assert "note: 1 image without a shape, background all over: b.jpg" in dataset.output
