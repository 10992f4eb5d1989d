"""Roboflow: COCO and semantic masks, with its splits and what it makes of names."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.trainer.datasets.importing.conftest import HEIGHT, WIDTH, Workshop

Draw = Callable[..., list[str]]
LONG = "my-photo_jpg.rf.0123456789abcdef0123456789abcdef"


def semantic(workshop: Workshop, folder: str, stem: str = LONG) -> None:
    pixels = np.zeros((HEIGHT, WIDTH))
    pixels[2:8, 2:8], pixels[4:6, 5:12] = 1, 2
    workshop.text(f"{folder}/_classes.csv", "Pixel Value, Class\n0, background\n1, car\n2, tree\n")
    workshop.photo(f"{folder}/{stem}.jpg")
    workshop.mask(f"{folder}/{stem}_mask.png", pixels)


def test_semantic_masks_hold_the_values_of_their_list(workshop: Workshop, drawing: Draw) -> None:
    for folder in ("train", "valid", "test"):
        semantic(workshop, folder, f"{folder}_{LONG}")
    dataset = workshop.convert("roboflow", "--split", "0.2")
    splits = {"train": [f"train_{LONG}"], "val": [f"valid_{LONG}"], "test": [f"test_{LONG}"]}
    assert dataset.splits == splits
    assert dataset.drawn(f"train_{LONG}") == drawing(("c", 2, 2, 8, 8), ("t", 5, 4, 12, 6))
    assert list(dataset.classes) == ["background", "car", "tree"]


def test_background_of_semantic_masks_is_void_if_asked(workshop: Workshop, drawing: Draw) -> None:
    semantic(workshop, "train")
    dataset = workshop.convert("roboflow", "--unlabelled", "void", "--split", "0")
    assert dataset.drawn(LONG) == drawing(("c", 2, 2, 8, 8), ("t", 5, 4, 12, 6), ground="-")
    assert list(dataset.classes) == ["car", "tree"]


def test_a_value_that_the_list_lacks_is_named(workshop: Workshop) -> None:
    semantic(workshop, "train")
    workshop.text("train/_classes.csv", "Pixel Value, Class\n0, background\n1, car\n")
    expected = f"train/{LONG}_mask.png has label 2 in 14 of 192 pixels, the first at x 5, y 4, expected 0..1, 255"
    assert workshop.refused("roboflow").endswith(expected)


def test_a_mask_without_an_image_is_named(workshop: Workshop) -> None:
    semantic(workshop, "train")
    (workshop.root / "train" / f"{LONG}.jpg").unlink()
    assert f"train/{LONG}_mask.png has no image" in workshop.refused("roboflow")


def test_coco_lacks_the_category_that_stands_for_all(workshop: Workshop, drawing: Draw) -> None:
    categories = [
        {"id": 0, "name": "street-things", "supercategory": "none"},
        {"id": 1, "name": "car", "supercategory": "street-things"},
        {"id": 2, "name": "tree", "supercategory": "street-things"},
    ]
    square = [2.0, 2.0, 8.0, 2.0, 8.0, 8.0, 2.0, 8.0]
    for folder in ("train", "valid"):
        workshop.photo(f"{folder}/{folder}_{LONG}.jpg")
        image = {"id": 0, "license": 1, "file_name": f"{folder}_{LONG}.jpg", "height": HEIGHT, "width": WIDTH}
        shapes = [
            {"id": 0, "image_id": 0, "category_id": 1, "bbox": [2, 2, 6, 6], "segmentation": [square], "iscrowd": 0},
            {"id": 1, "image_id": 0, "category_id": 2, "bbox": [5, 4, 7, 2], "segmentation": [], "iscrowd": 0},
        ]
        content = {"info": {}, "licenses": [], "categories": categories, "images": [image], "annotations": shapes}
        workshop.json(f"{folder}/_annotations.coco.json", content)
    dataset = workshop.convert("roboflow")
    assert dataset.splits == {"train": [f"train_{LONG}"], "val": [f"valid_{LONG}"]}
    assert dataset.drawn(f"train_{LONG}") == drawing(("c", 2, 2, 8, 8), ("t", 5, 4, 12, 6))
    assert list(dataset.classes) == ["background", "car", "tree"]


def test_a_folder_of_neither_is_named(workshop: Workshop) -> None:
    workshop.photo("train/a.jpg")
    assert "has neither _annotations.coco.json nor _classes.csv in a folder" in workshop.refused("roboflow")
