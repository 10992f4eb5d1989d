"""``ecenet-train data import``: archives, EXIF, what is written, and what is refused."""

from __future__ import annotations

import base64
import errno
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.trainer.datasets.importing.conftest import HEIGHT, WIDTH, Workshop
from trainer.data import TOOLS, main
from trainer.datasets.importing.convert import READERS

LABELLED = [[2, 2], [8, 2], [8, 8], [2, 8]]


def labelme(name: str, points: Any = LABELLED, size: tuple[int, int] = (HEIGHT, WIDTH)) -> dict[str, Any]:
    shapes = [{"label": "car", "points": points, "shape_type": "polygon"}]
    return {"shapes": shapes, "imagePath": name, "imageData": None, "imageHeight": size[0], "imageWidth": size[1]}


def exif(orientation: int) -> Image.Exif:
    block = Image.Exif()
    block[0x0112] = orientation
    return block


def annotate(workshop: Workshop, *stems: str) -> None:
    for stem in stems:
        workshop.photo(f"{stem}.jpg")
        workshop.json(f"{stem}.json", labelme(f"{Path(stem).name}.jpg"))


def test_the_folder_holds_images_as_they_are_labels_and_classes(workshop: Workshop) -> None:
    annotate(workshop, *(f"day/{name} ü" for name in "abcde"))
    dataset = workshop.convert("labelme", "--split", "0.2")
    (val,) = dataset.splits["val"]
    assert len(dataset.splits["train"]) == 4
    assert (workshop.output / f"images/val/{val}.jpg").read_bytes() == (workshop.root / f"{val}.jpg").read_bytes()
    with Image.open(workshop.output / f"labels/val/{val}.png") as labels:
        assert labels.mode == "P"
        assert (labels.getpalette() or [])[:6] == [0, 0, 0, *dataset.classes["car"]]
    assert json.loads((workshop.output / "classes.json").read_text(encoding="utf-8")) == {
        "classes": [{"name": name, "color": list(color)} for name, color in dataset.classes.items()],
        "ignore": [255],
    }
    assert f"{workshop.output}: train 4 images, val 1 image" in dataset.output
    assert dataset.output.endswith(f"next: ecenet-train data check {workshop.output}\n")
    assert main(["check", str(workshop.output), "--output", str(workshop.root / "sheet.png")]) == 0


def test_the_next_command_can_be_pasted(workshop: Workshop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    annotate(workshop, "a", "b")
    output = tmp_path / "my data"
    assert main(["import", str(workshop.root), "--from", "labelme", "-o", str(output)]) == 0
    assert capsys.readouterr().out.endswith(f"next: ecenet-train data check '{output}'\n")


@pytest.mark.parametrize("options", [[], ["--incomplete"]])
@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("PIL.Image.Image.save", "drawn/a.png"),
        ("pathlib.Path.write_bytes", "images/train/a.jpg"),
        ("pathlib.Path.write_text", "classes.json"),
    ],
)
def test_a_full_disk_is_told_with_the_file(
    workshop: Workshop, method: str, name: str, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = workshop.photo("a.jpg")
    workshop.json("a.json", {**labelme("a.jpg"), "imageData": base64.b64encode(photo.read_bytes()).decode()})
    photo.unlink()

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(method, fail)
    expected = f"[Errno 28] No space left on device: '{workshop.output}.partial/{name}'"
    assert workshop.refused("labelme", *options) == expected


@pytest.mark.parametrize("kind", ["zip", "tar", "gztar"])
def test_archives_are_unpacked(workshop: Workshop, tmp_path: Path, kind: str) -> None:
    annotate(workshop, "day/a")
    archive = shutil.make_archive(str(tmp_path / "packed"), kind, workshop.root)
    assert workshop.convert("labelme", export=Path(archive)).splits == {"train": ["day/a"]}


def test_a_broken_archive_is_named(workshop: Workshop) -> None:
    path = workshop.text("export.zip", "no archive")
    assert workshop.refused("coco", export=path).startswith(f"{path} cannot be unpacked: ")


def test_an_archive_that_leads_out_of_itself_is_refused(workshop: Workshop, tmp_path: Path) -> None:
    inside = workshop.text("a.json", "{}")
    with tarfile.open(tmp_path / "export.tar", "w") as archive:
        archive.add(inside, "../out.json")
    assert "cannot be unpacked: '../out.json' would be extracted to" in workshop.refused(
        "labelme", export=tmp_path / "export.tar"
    )


def test_an_export_that_is_not_there_is_named(workshop: Workshop) -> None:
    assert workshop.refused("coco") == f"{workshop.root} does not exist; it should be the export, a file or a folder"


def test_shapes_of_the_upright_size_are_drawn_upright(workshop: Workshop) -> None:
    photo = workshop.photo("a.jpg", (HEIGHT, WIDTH), exif=exif(6), quality=100)
    workshop.json("a.json", labelme("a.jpg", [[0, 0], [3, 0], [3, 5], [0, 5]], (WIDTH, HEIGHT)))
    dataset = workshop.convert("labelme")
    expected = np.zeros((WIDTH, HEIGHT), np.uint8)
    expected[:5, :3] = 1
    assert np.array_equal(dataset.labels("a"), expected)
    with Image.open(photo) as stored:
        assert np.array_equal(dataset.image("a"), np.rot90(np.asarray(stored), -1))


def test_shapes_of_the_stored_size_are_turned_with_the_photo(workshop: Workshop) -> None:
    workshop.photo("a.jpg", exif=exif(6))
    workshop.json("a.json", labelme("a.jpg", [[0, 0], [3, 0], [3, 5], [0, 5]]))
    stored = np.zeros((HEIGHT, WIDTH), np.uint8)
    stored[:5, :3] = 1
    assert np.array_equal(workshop.convert("labelme").labels("a"), np.rot90(stored, -1))


@pytest.mark.parametrize("orientation", [3, 6])
def test_exif_may_be_left_alone(workshop: Workshop, orientation: int) -> None:
    photo = workshop.photo("a.png", exif=exif(orientation))
    workshop.json("a.json", labelme("a.png", [[0, 0], [3, 0], [3, 5], [0, 5]]))
    dataset = workshop.convert("labelme", "--no-exif", "--split", "0")
    stored = np.zeros((HEIGHT, WIDTH), np.uint8)
    stored[:5, :3] = 1
    assert np.array_equal(dataset.labels("a"), stored)
    with Image.open(photo) as image:
        assert np.array_equal(dataset.image("a"), np.asarray(image))


def test_equal_images_in_two_splits_of_the_export_are_refused(workshop: Workshop) -> None:
    annotate(workshop, "train/a", "valid/b")
    shutil.copy(workshop.root / "train/a.jpg", workshop.root / "valid/b.jpg")
    error = workshop.refused("labelme")
    assert "the same image is in two splits, so that val would test what was learned: a in train and b in val" in error


def test_equal_images_never_come_apart(workshop: Workshop) -> None:
    annotate(workshop, *"abcdef")
    for copy, name in zip("abc", "def", strict=True):
        shutil.copy(workshop.root / f"{name}.jpg", workshop.root / f"{copy}.jpg")
    val = workshop.convert("labelme", "--split", "0.34").splits["val"]
    assert sorted(val) in (["a", "d"], ["b", "e"], ["c", "f"])


def test_names_that_clash_become_others(workshop: Workshop) -> None:
    for name in ("a.jpg", "a.png", "A.bmp"):
        workshop.photo(name)
        workshop.json(f"{name}.json", labelme(name))
    assert sorted(workshop.convert("labelme").splits["train"]) == ["A", "a-2", "a-3"]


@pytest.mark.parametrize(
    "reference", ["../outside.jpg", "..\\outside.jpg", "{above}/outside.jpg", "b/../../outside.jpg"]
)
def test_an_annotation_reaches_no_image_outside_of_the_export(workshop: Workshop, reference: str) -> None:
    outside = workshop.photo("../outside.jpg")
    named = reference.format(above=outside.parent.resolve())
    path = workshop.json("a.json", labelme(named))
    assert f"{path} names the image {named}, which is outside of the export; name" in workshop.refused("labelme")
    dataset = workshop.convert("labelme", "--images", str(outside.parent), "--split", "0")
    assert (dataset.root / "images" / "train" / "outside.jpg").read_bytes() == outside.read_bytes()


def test_a_reference_that_leads_out_is_read_as_the_image_of_that_name_inside(workshop: Workshop) -> None:
    workshop.photo("../images/a.jpg")
    inside = workshop.photo("photos/images/a.jpg")
    workshop.json("photos/json/a.json", labelme("../../../images/a.jpg"))
    dataset = workshop.convert("labelme", "--split", "0")
    (stored,) = (dataset.root / "images").rglob("*.jpg")
    assert stored.read_bytes() == inside.read_bytes()


def test_images_beside_an_archive_are_none_of_its_own(workshop: Workshop, tmp_path: Path) -> None:
    workshop.photo("../images/a.jpg")
    workshop.json("a.json", labelme("a.jpg"))
    archive = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", workshop.root))
    assert f"{archive}/a.json names the image a.jpg, which is not there" in workshop.refused("labelme", export=archive)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_errors_and_notes_name_the_member_of_the_archive(workshop: Workshop, tmp_path: Path, kind: str) -> None:
    annotate(workshop, "day/a", "day/b")
    workshop.photo("day/c.jpg")
    workshop.text("day/b.jpg", "no image")
    archive = Path(shutil.make_archive(str(tmp_path / "packed"), kind, workshop.root))
    broken = f"{archive}/day/b.jpg cannot be read: "
    assert workshop.refused("labelme", export=archive).startswith(broken)
    output = workshop.convert("labelme", "--incomplete", "--split", "0", export=archive).output
    assert f"note: {broken}" in output
    assert f"note: 1 image without an annotation left out: {archive}/day/c.jpg\n" in output


def test_an_unknown_class_is_named(workshop: Workshop) -> None:
    annotate(workshop, "a")
    assert workshop.refused("labelme", "--only", "cat") == "class 'cat' is unknown; did you mean 'car'? there is: car"


def test_a_share_is_below_1(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        workshop.run("coco", "--split", "1")
    assert "1 is not a share from 0 to below 1" in capsys.readouterr().err


def test_a_class_that_no_image_shows_is_told(workshop: Workshop) -> None:
    annotate(workshop, "a")
    workshop.text("labels.txt", "car\nmoon\n")
    dataset = workshop.convert("labelme")
    assert "note: no pixel of moon: leave such classes out with --only" in dataset.output
    assert list(dataset.classes) == ["background", "car", "moon"]


def test_the_command_offers_the_tools_that_can_be_read() -> None:
    assert set(TOOLS) == set(READERS)
