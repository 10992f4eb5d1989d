"""Folders of images and masks: 0 and 255, ids, colours, palettes, and how masks are told from images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.trainer.datasets.importing.conftest import HEIGHT, WIDTH, Workshop
from trainer.datasets.importing.masks import is_mask, pair_key

Draw = Callable[..., list[str]]
ROAD, SKY = (128, 64, 128), (70, 130, 180)


def square(value: int, ground: int = 0) -> np.ndarray:
    pixels = np.full((HEIGHT, WIDTH), ground, np.uint8)
    pixels[2:8, 2:8] = value
    return pixels


def colored(pixels: np.ndarray, *colors: tuple[int, int, int]) -> np.ndarray:
    return np.array(colors, np.uint8)[pixels]


@pytest.mark.parametrize("as_rgb", [False, True])
def test_255_of_0_and_255_is_the_foreground(workshop: Workshop, drawing: Draw, as_rgb: bool) -> None:
    workshop.photo("images/a.jpg")
    mask = square(255)
    workshop.mask("masks/a.png", np.repeat(mask[..., None], 3, 2) if as_rgb else mask)
    dataset = workshop.convert("masks")
    assert dataset.drawn("a") == drawing(("f", 2, 2, 8, 8))
    assert list(dataset.classes) == ["background", "foreground"]


def test_one_bit_masks_are_0_and_1(workshop: Workshop) -> None:
    workshop.photo("images/a.jpg")
    workshop.mask("masks/a.png", square(1).astype(bool))
    dataset = workshop.convert("masks")
    assert np.array_equal(dataset.labels("a"), square(1))
    assert list(dataset.classes) == ["background", "class 1"]


def test_255_beside_other_ids_is_void(workshop: Workshop) -> None:
    workshop.photo("images/a.jpg")
    pixels = square(1)
    pixels[0] = 255
    workshop.mask("masks/a.png", pixels)
    assert np.array_equal(workshop.convert("masks").labels("a"), pixels)


def test_ids_are_named_by_a_list(workshop: Workshop, drawing: Draw) -> None:
    workshop.photo("images/a.jpg")
    workshop.mask("masks/a.png", np.where(square(1) > 0, 300, 20000).astype(np.uint16))
    path = workshop.json("names.json", [{"name": "road", "id": 20000, "color": "#804080"}, {"name": "car", "id": 300}])
    dataset = workshop.convert("masks", "--classes", str(path), "--split", "0")
    assert dataset.drawn("a") == drawing(("c", 2, 2, 8, 8), ground="r")
    assert dataset.classes["road"] == ROAD


def test_ids_that_classes_json_ignores_are_void(workshop: Workshop, drawing: Draw) -> None:
    workshop.photo("images/a.jpg")
    workshop.mask("labels/a.png", square(11))
    classes = [{"name": "road", "color": ROAD}, {"name": "sky", "color": SKY}]
    workshop.json("classes.json", {"classes": classes, "ignore": [11, 255]})
    dataset = workshop.convert("masks")
    assert dataset.drawn("a") == drawing(("-", 2, 2, 8, 8), ground="r")
    assert list(dataset.classes) == ["road", "sky"]


def test_a_palette_gives_the_colours(workshop: Workshop) -> None:
    workshop.photo("images/a.jpg")
    workshop.mask("masks/a.png", square(1), palette=[*SKY, *ROAD])
    assert workshop.convert("masks").classes == {"background": SKY, "class 1": ROAD}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("class_dict.csv", "name,r,g,b\nroad,128,64,128\nsky,70,130,180\n"),
        ("labelmap.txt", "# label:color_rgb:parts:actions\nroad:128,64,128::\nsky:70,130,180::\n"),
        ("label_colors.txt", "128 64 128\troad\n70 130 180\tsky\n"),
        ("classes.txt", "road 128 64 128\nsky 70 130 180\n"),
        ("classes.json", '{"road": "#804080", "sky": [70, 130, 180]}'),
    ],
)
def test_colours_are_named_by_a_list_beside_them(workshop: Workshop, drawing: Draw, name: str, content: str) -> None:
    workshop.photo("images/a.jpg")
    workshop.mask("labels/a.png", colored(square(1), ROAD, SKY))
    workshop.text(name, content)
    dataset = workshop.convert("masks")
    assert dataset.drawn("a") == drawing(("s", 2, 2, 8, 8), ground="r")
    assert dataset.classes == {"road": ROAD, "sky": SKY}


def test_colours_without_a_list_are_classes_of_their_own(workshop: Workshop) -> None:
    workshop.photo("images/a.jpg")
    workshop.photo("images/b.jpg")
    workshop.mask("masks/a.png", colored(square(1), (0, 0, 0), SKY))
    workshop.mask("masks/b.png", colored(square(1), (0, 0, 0), ROAD))
    dataset = workshop.convert("masks")
    assert dataset.classes == {"background": (0, 0, 0), "#4682b4": SKY, "#804080": ROAD}
    assert np.array_equal(dataset.labels("b"), square(2))


def test_masks_lie_beside_their_images(workshop: Workshop) -> None:
    workshop.photo("day 1/ä.png")
    workshop.photo("day 2/ä.jpg")
    workshop.mask("day 1/ä_mask.png", square(1))
    workshop.mask("day 2/ä_mask.png", square(1))
    assert workshop.convert("masks").splits == {"train": ["day 1/ä", "day 2/ä"]}


@pytest.mark.parametrize("layout", ["{kind}/{split}/a{split}", "{split}/{kind}/a{split}", "{split}_{kind}/a{split}"])
def test_splits_are_those_of_the_folders(workshop: Workshop, layout: str) -> None:
    for split in ("train", "val"):
        workshop.photo(layout.format(kind="images", split=split) + ".jpg")
        workshop.mask(layout.format(kind="masks", split=split) + ".png", square(1))
    assert workshop.convert("masks").splits == {"train": ["atrain"], "val": ["aval"]}


def test_what_images_and_masks_have_in_common() -> None:
    assert pair_key("train/images/a.b.jpg") == pair_key("train/labels/a.b_mask.png") == "train/a.b"
    assert pair_key("train/a.jpg") == pair_key("trainannot/a.png") == "train/a"
    assert is_mask("annotations/a.png")
    assert not is_mask("unmasked/photo.png")


def test_images_of_one_name_get_names_of_their_own(workshop: Workshop) -> None:
    for folder in ("images", "train/images"):
        workshop.photo(f"{folder}/a.jpg")
        workshop.mask(f"{folder.replace('images', 'masks')}/a.png", square(1))
    assert workshop.convert("masks").splits == {"train": ["a", "a-2"]}


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_jpeg_masks_are_refused(workshop: Workshop, name: str) -> None:
    workshop.photo("images/a.jpg")
    mask = workshop.mask(f"masks/{name}", square(255), format="JPEG")
    assert workshop.refused("masks").startswith(f"{mask} is compressed with loss, which changes the ids")


def test_shades_are_no_classes(workshop: Workshop) -> None:
    workshop.photo("images/a.jpg")
    mask = workshop.mask("masks/a.png", np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH))
    assert workshop.refused("masks").startswith(f"{mask} brings the masks to 192 different values, at most 100")


def test_a_mask_of_another_size_is_named(workshop: Workshop) -> None:
    photo = workshop.photo("images/a.jpg", (5, 7))
    mask = workshop.mask("masks/a.png", square(1))
    assert workshop.refused("masks") == f"{photo} is 7x5 pixels, its annotation in {mask} is for 16x12"


def test_a_mask_of_zeros_and_void_alone_makes_no_dataset(workshop: Workshop) -> None:
    workshop.photo("images/a.jpg")
    workshop.mask("masks/a.png", square(255))
    error = workshop.refused("masks", "--unlabelled", "void")
    assert error == (
        "the number of classes is 1 ('foreground'), expected 2..255; --unlabelled background makes the rest a class"
    )


def test_colours_and_values_do_not_mix(workshop: Workshop) -> None:
    for name in "ab":
        workshop.photo(f"images/{name}.jpg")
    grey = workshop.mask("masks/a.png", square(1))
    rgb = workshop.mask("masks/b.png", colored(square(1), ROAD, SKY))
    assert workshop.refused("masks") == f"{rgb} is a mask of colours and {grey} one of values; all must be alike"


def test_missing_counterparts_are_named(workshop: Workshop) -> None:
    workshop.photo("images/a.jpg")
    alone = workshop.photo("images/b.jpg")
    workshop.mask("masks/a.png", square(1))
    mask = workshop.mask("masks/c.png", square(1))
    assert f"the mask {mask} has no image" in workshop.refused("masks")
    output = workshop.convert("masks", "--incomplete", "--split", "0").output
    assert f"1 image without an annotation left out: {alone}" in output


def test_a_folder_without_masks_says_how_they_are_told(workshop: Workshop) -> None:
    workshop.photo("a.jpg")
    assert "has no mask: neither a folder as masks/ or labels/, nor a name as photo_mask.png" in workshop.refused(
        "masks"
    )


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("c.csv", "a,b\n1,2\n", "has the columns ['a', 'b'], expected one of class, class_name, label, name"),
        ("c.csv", "Pixel Value, Class\nx, car\n", "row 0 has 'x', expected a whole number within 0..65535"),
        ("c.csv", "name,r,g,b\ncar,1\n", "row 0 has 2 cells, expected 4"),
        ("c.txt", "", "names no class"),
        ("c.txt", "car 1 2 300\n", "line 1 has '300', expected a whole number within 0..255"),
        ("c.json", '{"classes": [{"color": "#ffffff"}]}', "class 0: 'name' is missing, expected text"),
        ("c.json", '[{"name": "car", "color": "reddish"}]', "class 0 has the colour 'reddish', expected '#rrggbb'"),
    ],
)
def test_what_is_wrong_in_a_list_is_named(workshop: Workshop, name: str, content: str, expected: str) -> None:
    workshop.photo("images/a.jpg")
    workshop.mask("masks/a.png", square(1))
    path = workshop.text(name, content)
    error = workshop.refused("masks", "--classes", str(path))
    assert error.startswith(str(path))
    assert expected in error
