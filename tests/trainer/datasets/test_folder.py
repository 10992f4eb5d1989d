"""A folder of one's own: how images and labels pair, and how labels are coded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainer.datasets import IGNORE_INDEX, DatasetError, open_dataset, splits_in

Write = Callable[..., Path]
Describe = Callable[..., Path]
V = IGNORE_INDEX
ROAD, SKY, CAR = [128, 64, 128], [70, 130, 180], [0, 0, 142]


@pytest.fixture
def label(describe: Describe, write: Write, photo: Write) -> Callable[..., list[list[int]]]:
    """The class indices that a label file of some pixels becomes; further keywords go into ``classes.json``."""

    def decode(pixels: Any, palette: list[int] | None = None, **keys: Any) -> list[list[int]]:
        root = describe(**keys)
        array = np.asarray(pixels)
        photo(root / "images" / "train" / "a.jpg", array.shape[:2])
        write(root / "labels" / "train" / "a.png", array, palette)
        sample = open_dataset("folder", root, "train")[0]
        assert sample.labels.dtype == np.uint8
        return sample.labels.tolist()

    return decode


def test_grey_labels_are_ids(label: Callable[..., Any]) -> None:
    assert label([[0, 1, 2], [255, 2, 1]]) == [[0, 1, 2], [V, 2, 1]]


def test_palette_labels_are_their_indices(label: Callable[..., Any]) -> None:
    assert label([[0, 1, 2], [255, 2, 1]], palette=[9, 9, 9] * 256) == [[0, 1, 2], [V, 2, 1]]


def test_16_bit_labels_are_ids(label: Callable[..., Any]) -> None:
    classes = [{"name": "a", "color": ROAD, "id": 1000}, {"name": "b", "color": SKY, "id": 65535}]
    pixels = np.array([[1000, 65535], [7, 1000]], np.uint16)
    assert label(pixels, classes=classes, ignore=[7]) == [[0, 1], [V, 0]]


def test_ids_may_be_given_and_need_no_order(label: Callable[..., Any]) -> None:
    classes = [{"name": "a", "color": ROAD, "id": 255}, {"name": "b", "color": SKY, "id": 0}]
    assert label([[0, 255, 0]], classes=classes) == [[1, 0, 1]]


def test_two_class_labels_of_one_bit(label: Callable[..., Any]) -> None:
    assert label(np.array([[True, False, True]])) == [[1, 0, 1]]


def test_rgb_labels_are_colours(label: Callable[..., Any]) -> None:
    assert label([[ROAD, SKY, CAR], [[0, 0, 0], CAR, ROAD]], ignore=["#000000"]) == [[0, 1, 2], [V, 2, 0]]


def test_alpha_of_coloured_labels_is_not_looked_at(label: Callable[..., Any]) -> None:
    assert label([[[*ROAD, 0], [*SKY, 128], [*CAR, 255]]]) == [[0, 1, 2]]


def test_palette_colours_count_where_the_encoding_says_so(label: Callable[..., Any]) -> None:
    assert label([[0, 1, 2]], palette=[*CAR, *ROAD, *SKY], encoding="colors") == [[2, 0, 1]]


def test_an_id_of_no_class_is_an_error(label: Callable[..., Any]) -> None:
    expected = r"labels/train/a\.png has labels 3, 200 in 2 of 6 pixels, the first at x 2, y 0, expected 0\.\.2, 255$"
    with pytest.raises(DatasetError, match=expected):
        label([[0, 1, 200], [2, 3, 0]])


def test_a_colour_of_no_class_is_an_error(label: Callable[..., Any]) -> None:
    expected = (
        r"labels/train/a\.png has colour \(1, 2, 3\) in 1 of 3 pixels, the first at x 1, y 0, which no class has$"
    )
    with pytest.raises(DatasetError, match=expected):
        label([[ROAD, [1, 2, 3], CAR]])


def test_a_wide_id_is_named_as_it_is(label: Callable[..., Any]) -> None:
    with pytest.raises(DatasetError, match="has labels 3, 300 in 2 of 3 pixels"):
        label(np.array([[0, 300, 3]], np.uint16))


def test_one_colour_for_two_classes_cannot_code_labels(label: Callable[..., Any]) -> None:
    classes = [{"name": "a", "color": ROAD}, {"name": "b", "color": ROAD}]
    assert label([[0, 1]], classes=classes) == [[0, 1]]
    with pytest.raises(DatasetError, match=r"colour \(128, 64, 128\) stands for several classes"):
        label([[ROAD, ROAD]], classes=classes)


def test_coloured_labels_with_the_encoding_ids_are_an_error(label: Callable[..., Any]) -> None:
    with pytest.raises(DatasetError, match=r"a\.png has mode RGB, expected labels in L or P"):
        label([[ROAD, SKY, CAR]], encoding="ids")


def test_pairs_match_by_path_and_stem(describe: Describe, write: Write, photo: Write) -> None:
    root = describe()
    names = ["b/7.JPG", "a/7.jpeg", "a/b/x.png", "8.webp", "9.bmp", "10.tif"]
    for level, name in enumerate(names):
        photo(root / "images" / "val" / name, level=level)
        write(root / "labels" / "val" / Path(name).with_suffix(".png"), [[level % 3] * 3] * 2)
    (root / "images" / "val" / "notes.txt").write_text("no image", encoding="utf-8")
    (root / "images" / "val" / "a" / ".hidden.png").write_bytes(b"no image")
    dataset = open_dataset("folder", root, "val")
    order = [image.relative_to(root / "images" / "val").as_posix() for image, _ in dataset.pairs]
    assert order == ["10.tif", "8.webp", "9.bmp", "a/7.jpeg", "a/b/x.png", "b/7.JPG"]
    for index, name in enumerate(order):
        assert dataset[index].labels[0, 0] == names.index(name) % 3


def test_splits_are_the_folders_of_images_unless_told(describe: Describe, photo: Write) -> None:
    root = describe()
    with pytest.raises(DatasetError, match="has no split: neither a folder images/SPLIT nor 'splits'"):
        splits_in("folder", root)
    photo(root / "images" / "val" / "a.png")
    photo(root / "images" / "train" / "a.png")
    assert splits_in("folder", root) == ("train", "val")
    with pytest.raises(DatasetError, match=r"split of .*classes\.json 'test' is unknown; there is: train, val"):
        open_dataset("folder", root, "test")
    with pytest.raises(DatasetError, match="labels/val does not exist"):
        open_dataset("folder", root, "val")


def test_splits_name_folders_and_lists(describe: Describe, write: Write, photo: Write) -> None:
    splits = {
        "train": {"images": "photos", "labels": "masks", "list": "train.txt"},
        "val": {"images": "photos", "labels": "masks", "list": "val.txt"},
    }
    root = describe(splits=splits, image_suffix="_rgb", label_suffix="_mask")
    for name in ("a/1", "a/2", "3"):
        photo(root / "photos" / f"{name}_rgb.png")
        write(root / "masks" / f"{name}_mask.png", [[int(name[-1]) - 1] * 3] * 2)
    (root / "train.txt").write_text("3_rgb.png\na/1_rgb\n\n", encoding="utf-8")
    (root / "val.txt").write_text("a/2_rgb.png\nb/9.jpg\n", encoding="utf-8")
    train = open_dataset("folder", root, "train")
    assert [int(train[index].labels[0, 0]) for index in range(len(train))] == [2, 0]
    with pytest.raises(DatasetError, match=r"val\.txt lists b/9, but .*photos has no such image"):
        open_dataset("folder", root, "val")


def test_images_and_labels_may_share_a_folder(describe: Describe, write: Write, photo: Write) -> None:
    root = describe(splits={"train": {"images": "all", "labels": "all"}})
    photo(root / "all" / "a.jpg")
    write(root / "all" / "a.png", [[2] * 3] * 2)
    assert open_dataset("folder", root, "train")[0].labels.tolist() == [[2] * 3] * 2
    describe(splits={"train": {"images": "both", "labels": "both"}}, label_suffix="_mask")
    photo(root / "both" / "a.png")
    write(root / "both" / "a_mask.png", [[1] * 3] * 2)
    assert [image.name for image, _ in open_dataset("folder", root, "train").pairs] == ["a.png"]
    describe(splits={"train": {"images": "third", "labels": "third"}}, image_suffix="_rgb")
    photo(root / "third" / "a_rgb.png")
    write(root / "third" / "a.png", [[1] * 3] * 2)
    assert [path.name for path in open_dataset("folder", root, "train").pairs[0]] == ["a_rgb.png", "a.png"]


def test_a_file_without_its_counterpart_is_named(describe: Describe, write: Write, photo: Write) -> None:
    root = describe()
    photo(root / "images" / "train" / "a.png")
    write(root / "labels" / "train" / "b.png", [[0]])
    expected = (
        r"lacks 2 files: .*images/train/a\.png has no label in .*labels/train; .*labels/train/b\.png has no image"
    )
    with pytest.raises(DatasetError, match=expected):
        open_dataset("folder", root, "train")


def test_two_images_of_one_name_are_an_error(describe: Describe, write: Write, photo: Write) -> None:
    root = describe()
    photo(root / "images" / "train" / "a.png")
    photo(root / "images" / "train" / "a.jpg")
    write(root / "labels" / "train" / "a.png", [[0]])
    with pytest.raises(DatasetError, match=r"a\.jpg and .*a\.png have one name"):
        open_dataset("folder", root, "train")


@pytest.mark.parametrize(("label_size", "turned"), [((4, 2), True), ((2, 4), False)])
def test_a_sideways_photo_is_turned_where_its_labels_are_upright(
    describe: Describe, write: Write, label_size: tuple[int, int], turned: bool
) -> None:
    root = describe()
    exif = Image.Exif()
    exif[0x0112] = 6  # the stored rows, turned by a quarter to the right, are the picture
    stored = np.arange(24).reshape(2, 4, 3)
    write(root / "images" / "train" / "a.png", stored, exif=exif)
    write(root / "labels" / "train" / "a.png", np.zeros(label_size))
    image = open_dataset("folder", root, "train")[0].image
    assert np.array_equal(image, np.rot90(stored, -1) if turned else stored)


def test_images_of_16_bits_are_an_error(describe: Describe, write: Write) -> None:
    root = describe()
    write(root / "images" / "train" / "a.png", np.zeros((2, 3), np.uint16))
    write(root / "labels" / "train" / "a.png", np.zeros((2, 3)))
    with pytest.raises(DatasetError, match=r"images/train/a\.png has mode I;16, expected 8 bits per channel"):
        open_dataset("folder", root, "train")[0]
