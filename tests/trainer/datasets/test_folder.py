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


def test_a_palette_of_the_classes_colours_in_another_order_is_an_error(label: Callable[..., Any]) -> None:
    palette = [*CAR, *ROAD, *SKY]
    with pytest.raises(DatasetError, match=r"shows the value 0 in the colour \(.*\), which is another class's"):
        label([[0, 1, 2]], palette=palette)
    assert label([[0, 1, 2]], palette=palette, encoding="ids") == [[0, 1, 2]]


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
    with pytest.raises(DatasetError, match=r"a\.jpg and .*a\.png have the same name"):
        open_dataset("folder", root, "train")


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


TURNS: dict[int, Callable[[Any], Any]] = {
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: lambda stored: np.swapaxes(stored, 0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(np.swapaxes(stored, 0, 1), 2),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("size", [(2, 4), (3, 3)])
def test_photos_are_turned_upright_and_upright_labels_are_not(
    describe: Describe, write: Write, orientation: int, size: tuple[int, int]
) -> None:
    root = describe()
    stored = np.arange(size[0] * size[1] * 3).reshape(*size, 3)
    upright = TURNS[orientation](stored)
    labels = np.arange(size[0] * size[1]).reshape(upright.shape[:2]) % 3
    write(root / "images" / "train" / "a.png", stored, exif=exif_of(orientation))
    write(root / "labels" / "train" / "a.png", labels)
    sample = open_dataset("folder", root, "train")[0]
    assert np.array_equal(sample.image, upright)
    assert np.array_equal(sample.labels, labels)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_labels_of_the_stored_size_are_turned_with_the_photo(
    describe: Describe, write: Write, orientation: int
) -> None:
    root = describe()
    stored, labels = np.arange(24).reshape(2, 4, 3), np.arange(8).reshape(2, 4) % 3
    write(root / "images" / "train" / "a.png", stored, exif=exif_of(orientation))
    write(root / "labels" / "train" / "a.png", labels)
    dataset = open_dataset("folder", root, "train")
    assert np.array_equal(dataset[0].image, TURNS[orientation](stored))
    assert np.array_equal(dataset[0].labels, TURNS[orientation](labels))
    assert np.array_equal(dataset.labels(0), TURNS[orientation](labels))


def test_labels_with_an_orientation_of_their_own_are_turned_by_it(describe: Describe, write: Write) -> None:
    root = describe()
    stored, labels = np.arange(27).reshape(3, 3, 3), np.arange(9).reshape(3, 3) % 3
    write(root / "images" / "train" / "a.png", stored, exif=exif_of(3))
    write(root / "labels" / "train" / "a.png", labels, exif=exif_of(3))
    sample = open_dataset("folder", root, "train")[0]
    assert np.array_equal(sample.image, np.rot90(stored, 2))
    assert np.array_equal(sample.labels, np.rot90(labels, 2))


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_a_key_leaves_photos_as_they_are_stored(describe: Describe, write: Write, orientation: int, name: str) -> None:
    root = describe(exif=False)
    stored, labels = np.arange(24).reshape(2, 4, 3), np.arange(8).reshape(2, 4) % 3
    write(root / "images" / "train" / name, stored, exif=exif_of(orientation))
    write(root / "labels" / "train" / "a.png", labels)
    sample = open_dataset("folder", root, "train")[0]
    assert np.array_equal(sample.image, stored)
    assert np.array_equal(sample.labels, labels)


def test_photos_of_16_bits_are_scaled_as_in_the_service(describe: Describe, write: Write) -> None:
    root = describe()
    write(root / "images" / "train" / "a.png", np.array([[0, 257, 65535]], np.uint16))
    write(root / "labels" / "train" / "a.png", np.zeros((1, 3)))
    assert open_dataset("folder", root, "train")[0].image.tolist() == [[[0] * 3, [1] * 3, [255] * 3]]


def test_heic_photos_are_read_as_in_the_service(describe: Describe, write: Write) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    root = describe()
    (root / "images" / "train").mkdir(parents=True)
    heif = pillow_heif.from_pillow(Image.new("RGB", (64, 32), (200, 30, 30)))
    heif.save(root / "images" / "train" / "a.heic", quality=100)
    write(root / "labels" / "train" / "a.png", np.zeros((32, 64)))
    image = open_dataset("folder", root, "train")[0].image
    assert image.shape == (32, 64, 3)
    assert np.abs(image.astype(int) - (200, 30, 30)).max() < 8


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_masks_in_jpeg_are_an_error(describe: Describe, photo: Write, name: str) -> None:
    root = describe()
    photo(root / "images" / "train" / "a.jpg")
    photo(root / "labels" / "train" / name, format="JPEG")
    with pytest.raises(DatasetError, match=rf"labels/train/{name} is compressed with loss, which changes the ids"):
        open_dataset("folder", root, "train")[0]


@pytest.mark.parametrize(("folder", "split"), [("valid", "val"), ("Validation", "val"), ("training", "train")])
def test_splits_of_other_names_are_found(
    describe: Describe, write: Write, photo: Write, folder: str, split: str
) -> None:
    root = describe()
    photo(root / "images" / folder / "a.jpg")
    write(root / "labels" / folder / "a.png", np.zeros((2, 3)))
    assert splits_in("folder", root) == (split,)
    assert len(open_dataset("folder", root, split)) == 1


def test_two_folders_for_one_split_keep_their_names(describe: Describe, photo: Write) -> None:
    root = describe()
    photo(root / "images" / "valid" / "a.png")
    photo(root / "images" / "validation" / "a.png")
    assert splits_in("folder", root) == ("valid", "validation")
