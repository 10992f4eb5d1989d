"""Exports that would become wrong labels without a word: each is refused, or read as it was meant."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.trainer.datasets.importing.conftest import HEIGHT, WIDTH, Workshop
from trainer.datasets.folder_files import IMAGE_EXTENSIONS
from trainer.datasets.importing.sources import files_below

RED, BLUE, BLACK = [255, 0, 0], [0, 0, 255], [0, 0, 0]
CLASSES = [
    {"name": "background", "color": BLACK},
    {"name": "red", "color": RED},
    {"name": "blue", "color": BLUE},
]


def halves(left: int, right: int) -> np.ndarray[Any, Any]:
    """A mask of two values."""
    mask = np.full((HEIGHT, WIDTH), left, np.uint8)
    mask[:, WIDTH // 2 :] = right
    return mask


def two_palettes(workshop: Workshop) -> None:
    """Two masks whose value 1 has another colour in each."""
    for name, color in (("a", RED), ("b", BLUE)):
        workshop.photo(f"images/{name}.png")
        workshop.mask(f"masks/{name}.png", halves(0, 1), palette=[*BLACK, *color])


def test_masks_of_two_palettes_are_refused_until_it_is_told_what_counts(workshop: Workshop) -> None:
    two_palettes(workshop)
    assert "b.png shows the value 1 as (0, 0, 255), and another mask as (255, 0, 0)" in workshop.refused("masks")
    workshop.json("classes.json", {"classes": CLASSES})
    assert "b.png shows the value 1 in the colour (0, 0, 255), which is another class's" in workshop.refused("masks")
    workshop.json("classes.json", {"classes": CLASSES, "encoding": "colors"})
    dataset = workshop.convert("masks")
    assert [dataset.drawn(name)[0][-1] for name in "ab"] == ["r", "b"]


def test_ids_count_where_the_list_says_so(workshop: Workshop) -> None:
    two_palettes(workshop)
    workshop.json("classes.json", {"classes": CLASSES, "encoding": "ids"})
    dataset = workshop.convert("masks")
    assert [dataset.drawn(name)[0][-1] for name in "ab"] == ["r", "r"]


def test_colours_that_a_list_ignores_are_void(workshop: Workshop) -> None:
    workshop.photo("images/a.png")
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:, 8:], pixels[:, 12:] = RED, (1, 2, 3)
    workshop.mask("masks/a.png", pixels)
    workshop.json("classes.json", {"classes": CLASSES[:2], "ignore": ["#010203"]})
    assert workshop.convert("masks").drawn("a")[0] == "........rrrr----"


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"exif": False}, 'has "exif": false; add --no-exif'),
        ({"splits": {}}, "has 'splits', which an import does not read"),
        ({"encoding": "colours"}, "'colours' is unknown; did you mean 'colors'?"),
    ],
)
def test_what_an_import_does_not_take_over_is_refused(workshop: Workshop, keys: dict[str, Any], expected: str) -> None:
    workshop.photo("images/a.png")
    workshop.mask("masks/a.png", halves(0, 1))
    workshop.json("classes.json", {"classes": CLASSES[:2], **keys})
    assert expected in workshop.refused("masks")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("_classes.csv", "Pixel Value, Class\n0, sky\n1, sign\n1, car\n", "has two entries of the value 1"),
        ("classes.txt", "sky\nsign\nsign\n", "has two entries of the name 'sign'"),
        ("classes.txt", "sky\nSign\nsign\n", "class 1 'Sign' and class 2 'sign' have the same name"),
        ("classes.json", '[{"name": "a", "id": 1}, {"name": "b"}]', "has two entries of the value 1"),
        ("classes.json", '{"classes": [{"name": "a"}, {"name": "b"}], "ignore": [1]}', "two entries of the value 1"),
    ],
)
def test_a_list_with_one_value_or_name_twice_is_refused(
    workshop: Workshop, name: str, content: str, expected: str
) -> None:
    workshop.photo("images/a.png")
    workshop.mask("masks/a.png", halves(0, 1))
    workshop.text(name, content)
    assert expected in workshop.refused("masks")


@pytest.mark.parametrize("turn", [2, 3, 6])
def test_masks_with_an_orientation_of_their_own_are_turned_as_their_images(workshop: Workshop, turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    path = workshop.photo("images/a.png", exif=exif.tobytes())
    with Image.open(path) as image:
        stored = np.asarray(image)[..., 0] > 127  # of the pixels as they are stored
    workshop.mask("masks/a.png", stored.astype(np.uint8), exif=exif.tobytes())
    dataset = workshop.convert("masks")
    assert np.array_equal(dataset.labels("a") == 1, dataset.image("a")[..., 0] > 127)


def test_images_in_a_folder_of_a_mask_word_are_images(workshop: Workshop) -> None:
    workshop.photo("facemask/images/a.png")
    workshop.mask("facemask/masks/a.png", halves(0, 1))
    assert workshop.convert("masks").splits == {"train": ["facemask/a"]}


@pytest.mark.parametrize("broken", [b"", b"\x89PNG\r\n\x1a\n" + bytes(20)])
def test_a_broken_mask_alone_is_left_out_if_asked(workshop: Workshop, broken: bytes) -> None:
    for name in "ab":
        workshop.photo(f"images/{name}.png")
        workshop.mask(f"masks/{name}.png", halves(0, 1))
    (workshop.root / "masks/b.png").write_bytes(broken)
    assert "b.png cannot be read" in workshop.refused("masks")
    dataset = workshop.convert("masks", "--incomplete", "--split", "0")
    assert dataset.splits == {"train": ["a"]}
    assert "b.png cannot be read" in dataset.output


@pytest.mark.parametrize("cut", [0.5, 0.9])
@pytest.mark.parametrize("suffix", ["tar", "tgz"])
def test_an_archive_that_is_cut_off_is_refused(workshop: Workshop, suffix: str, cut: float) -> None:
    for name in "abcdefgh":
        workshop.photo(f"images/{name}.png", (60, 80))
        workshop.mask(f"masks/{name}.png", np.zeros((60, 80), np.uint8))
    archive = workshop.root.parent / f"export.{suffix}"
    with tarfile.open(archive, "w:gz" if suffix == "tgz" else "w") as tar:
        tar.add(workshop.root, "export")
    content = archive.read_bytes()
    archive.write_bytes(content[: int(cut * len(content))])
    assert "cannot be unpacked" in workshop.refused("masks", export=archive)


def test_an_archive_with_a_broken_header_is_refused(workshop: Workshop) -> None:
    for name in "ab":
        workshop.photo(f"images/{name}.png")
        workshop.mask(f"masks/{name}.png", halves(0, 1))
    archive = workshop.root.parent / "export.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(workshop.root, "export")
    with tarfile.open(archive) as tar:
        member = tar.getmembers()[-1]
    content = bytearray(archive.read_bytes())
    content[member.offset] ^= 1
    archive.write_bytes(content)
    assert "it is damaged or cut off behind export/" in workshop.refused("masks", export=archive)


def coco(images: list[dict[str, Any]], categories: list[dict[str, Any]]) -> dict[str, Any]:
    box = {"id": 1, "image_id": images[0]["id"], "category_id": categories[0]["id"], "bbox": [0, 0, 5, 5]}
    return {"images": images, "annotations": [box], "categories": categories}


IMAGE = {"id": 1, "file_name": "a.jpg", "width": WIDTH, "height": HEIGHT}
CAR = {"id": 1, "name": "car"}


@pytest.mark.parametrize(
    ("images", "categories", "expected"),
    [
        ([IMAGE, IMAGE | {"file_name": "b.jpg"}], [CAR], "'id' is 1, as of another entry ('a.jpg' and 'b.jpg')"),
        ([IMAGE], [CAR, CAR | {"name": "sign"}], "'id' is 1, as of another entry ('car' and 'sign')"),
        ([IMAGE], [CAR | {"name": "a\nb"}], r"the name of a class is 'a\nb', which has the control character '\n'"),
        ([IMAGE], [CAR | {"name": "\ud800"}], r"the name of a class is '\ud800'"),
    ],
)
def test_coco_entries_of_one_id_and_names_that_nothing_shows_are_refused(
    workshop: Workshop, images: list[dict[str, Any]], categories: list[dict[str, Any]], expected: str
) -> None:
    workshop.photo("a.jpg")
    (workshop.root / "a.json").write_text(json.dumps(coco(images, categories)))
    assert expected in workshop.refused("coco")


def test_images_in_another_folder_than_the_annotation_names_are_noted(workshop: Workshop) -> None:
    photo = workshop.photo("second/a.jpg")
    workshop.json("a.json", coco([IMAGE | {"file_name": "first/a.jpg"}], [CAR]))
    output = workshop.convert("coco").output
    assert "1 image found by name alone, in another folder than the annotation's: " in output
    assert f"first/a.jpg is {photo}" in output


def test_a_supercategory_may_be_anything(workshop: Workshop) -> None:
    workshop.photo("a.jpg")
    workshop.json("a.json", coco([IMAGE], [CAR | {"supercategory": ["vehicle"]}]))
    assert list(workshop.convert("coco").classes) == ["background", "car"]


def test_two_images_of_one_supervisely_annotation_are_refused(workshop: Workshop) -> None:
    workshop.json("meta.json", {"classes": [{"title": "car", "color": "#ff0000"}]})
    workshop.json("ds/ann/a.json", {"size": {"height": HEIGHT, "width": WIDTH}, "objects": []})
    for kind in ("bmp", "png"):
        workshop.photo(f"ds/img/a.{kind}")
    assert "may be of" in workshop.refused("supervisely")


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ('rle="5" left="0" top="0" width="1000000000" height="1000000"', "1000000000x1000000 pixels, at most"),
        (f'rle="{"9" * 5000}" left="0" top="0" width="5" height="4"', "whole numbers of 9 digits at most"),
    ],
)
def test_a_cvat_mask_is_no_larger_than_an_image(workshop: Workshop, shape: str, expected: str) -> None:
    workshop.photo("a.jpg")
    image = f'<image id="0" name="a.jpg" width="{WIDTH}" height="{HEIGHT}"><mask label="car" {shape}/></image>'
    workshop.text("annotations.xml", f"<annotations>{image}</annotations>")
    assert expected in workshop.refused("cvat")


@pytest.mark.parametrize("encoding", ["foo", "utf-7", "big5"])
def test_an_xml_in_an_encoding_that_nothing_reads_is_refused(workshop: Workshop, encoding: str) -> None:
    workshop.text("annotations.xml", f'<?xml version="1.0" encoding="{encoding}"?><annotations/>')
    assert "cannot be read as XML" in workshop.refused("cvat")


def test_labels_of_labelme_are_utf_8(workshop: Workshop) -> None:
    workshop.json("a.json", {"imagePath": "a.jpg", "shapes": [], "imageWidth": WIDTH, "imageHeight": HEIGHT})
    (workshop.root / "labels.txt").write_bytes(b"stra\xdfe")
    assert "labels.txt cannot be read" in workshop.refused("labelme")


@pytest.mark.parametrize(("number", "url"), [([1], "a.jpg"), ({}, "a.jpg"), ("r", "http://[bad/a.jpg")])
def test_label_studio_results_of_any_id_and_images_of_any_address_are_told(
    workshop: Workshop, number: Any, url: str
) -> None:
    result = {"id": number, "type": "rectanglelabels", "value": {"rectanglelabels": ["car"]}}
    workshop.json("a.json", [{"data": {"image": url}, "annotations": [{"result": [result]}]}])
    assert workshop.refused("labelstudio")


def test_a_folder_that_no_import_made_is_kept(workshop: Workshop) -> None:
    workshop.photo("images/a.png")
    workshop.mask("masks/a.png", halves(0, 1))
    other = workshop.output.with_name("my-data.partial")
    other.mkdir()
    (other / "thesis.txt").write_text("kept")
    status, _, err = workshop.run("masks")
    assert (status, (other / "thesis.txt").read_text()) == (1, "kept")
    assert "exists and is not of an import; rename it" in err


def test_the_current_folder_is_no_new_one(workshop: Workshop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    workshop.photo("images/a.png")
    workshop.mask("masks/a.png", halves(0, 1))
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    workshop.output = Path()
    status, _, err = workshop.run("masks")
    assert (status, err.strip().endswith("is a folder that exists; name a new one")) == (1, True)


def test_images_beside_the_export_must_be_there(workshop: Workshop) -> None:
    workshop.mask("masks/a.png", halves(0, 1))
    assert workshop.refused("masks", "--images", "nowhere") == "--images nowhere is no folder"


def test_links_that_lead_back_and_pipes_are_left_out(workshop: Workshop) -> None:
    photo = workshop.photo("images/a.png")
    for name in ("back", "again"):
        (workshop.root / "images" / name).symlink_to(workshop.root)
    os.mkfifo(workshop.root / "images" / "pipe.png")
    workshop.photo("elsewhere/b.png")
    (workshop.root / "images" / "more").symlink_to(workshop.root / "elsewhere")
    images = workshop.root / "images"
    found = [path.relative_to(images).as_posix() for path in files_below(images, IMAGE_EXTENSIONS)]
    assert found[:1] == [photo.name]
    assert "more/b.png" in found
    assert not any("pipe" in name or name.count("images") > 1 for name in found)
