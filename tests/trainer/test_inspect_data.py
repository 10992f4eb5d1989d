"""``ecenet-train data check``: the report, the contact sheet, broken files by name, and faults with their mends."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike
from PIL import Image

from trainer.data import main
from trainer.datasets import CAMVID_CLASSES, CamVid, Sample
from trainer.datasets.contact_sheet import CELL_HEIGHT, CELL_WIDTH, Entry, contact_sheet, thumbnails
from trainer.inspect_data import sheet_file, spread


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_sound_dataset_is_counted(tiny_camvid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["camvid", str(tiny_camvid), "--json", "out/data.json"]) == 0
    text = capsys.readouterr().out
    assert "train: 8 images, all 64x48; 0.5 % of the pixels are void" in text
    assert "val: 2 images" in text
    assert "no test split here" in text
    assert "no problem: every file exists and can be used" in text
    report = json.loads((tmp_path / "out" / "data.json").read_text(encoding="utf-8"))
    assert (report["dataset"], report["problems"], len(report["classes"])) == ("camvid", 0, 11)
    train = report["splits"]["train"]
    labels = np.stack([CamVid(tiny_camvid, "train").labels(index) for index in range(8)])
    assert train["class_pixels"]["Road"] == (labels == 3).sum()
    assert train["class_images"]["Road"] == (labels == 3).any((1, 2)).sum()
    assert train["class_shares"]["Road"] == pytest.approx((labels == 3).sum() / (labels != 255).sum())
    assert sum(train["class_shares"].values()) == pytest.approx(1)
    assert train["void_share"] == pytest.approx(16 / (48 * 64))
    assert train["sizes"] == {"64x48": 8}


def test_every_broken_file_is_named_and_the_rest_is_counted(
    tiny_camvid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = tiny_camvid / "train", tiny_camvid / "trainannot"
    (images / "00.png").write_bytes((images / "00.png").read_bytes()[:-40])
    (labels / "01.png").write_bytes(b"")
    Image.fromarray(np.full((48, 64), 12, np.uint8)).save(labels / "02.png")
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(labels / "03.png")
    (labels / "04.png").unlink()
    (images / "05.png").unlink()
    (images / "06.png").write_bytes(b"both")
    (labels / "06.png").write_bytes(b"are broken")
    assert main(["camvid", str(tiny_camvid), "--json", "data.json", "--workers", "3"]) == 1
    problems = json.loads((tmp_path / "data.json").read_text(encoding="utf-8"))["splits"]["train"]["problems"]
    named = {kind: [Path(text.split()[0]) for text in texts] for kind, texts in problems.items()}
    assert named == {
        "missing": [images / "04.png", labels / "05.png"],
        "labels compressed with loss": [],
        "unreadable": [images / "00.png", labels / "01.png", images / "06.png", labels / "06.png"],
        "labels out of range": [labels / "02.png"],
        "sizes differ": [images / "03.png"],
        "unusable": [],
    }
    text = capsys.readouterr().out
    assert "train: 6 images" in text
    assert "8 problems" in text
    assert all(it in text for texts in problems.values() for it in texts)
    assert (tmp_path / "contact-sheet.png").is_file()


def test_a_split_that_does_not_open_is_a_problem_beside_the_others(
    tiny_camvid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["camvid", str(tiny_camvid), "--split", "val", "test"]) == 1
    text = capsys.readouterr().out
    assert "val: 2 images" in text
    assert "test: 0 images" in text
    assert f"test: {tiny_camvid}/test does not exist" in text


def test_what_cannot_be_opened_is_one_sentence(tiny_camvid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, expected in (
        (["camvid", "absent"], "absent is not a folder; it should hold the dataset camvid"),
        (["camvit", str(tiny_camvid)], "dataset 'camvit' is unknown; did you mean 'camvid'?"),
        (["camvid", str(tiny_camvid), "--split", "vall"], "split of camvid 'vall' is unknown; did you mean 'val'?"),
        (["voc", str(tiny_camvid)], "train.txt does not exist; it belongs to the layout of voc"),
        (["camvid", str(tiny_camvid), "--output", "sheet.txt"], "sheet.txt is not a picture file"),
    ):
        assert main(arguments) == 1
        written = capsys.readouterr()
        assert written.out == ""
        (line,) = written.err.splitlines()
        assert line.startswith("ecenet-train data check: ")
        assert expected in line


def test_classes_without_a_pixel_are_told(tiny_camvid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (tiny_camvid / "valannot").iterdir():
        Image.fromarray(np.full((48, 64), 3, np.uint8)).save(path)
    assert main(["camvid", str(tiny_camvid)]) == 0
    assert "val has no pixel of: Sky, Building, Pole, Pavement, Tree" in capsys.readouterr().out


def test_sizes_are_told_from_the_smallest_to_the_largest(tiny_camvid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for index, (height, width) in enumerate([(10, 20), (300, 5)]):
        for folder, depth in (("train", (3,)), ("trainannot", ())):
            Image.fromarray(np.zeros((height, width, *depth), np.uint8)).save(tiny_camvid / folder / f"0{index}.png")
    assert main(["camvid", str(tiny_camvid), "--split", "train"]) == 0
    assert "train: 8 images, 20x10 to 64x48, most often 64x48 (75 %)" in capsys.readouterr().out


def test_a_dataset_without_a_sound_pair_has_no_sheet(tiny_camvid: Path, tmp_path: Path) -> None:
    for path in (tiny_camvid / "val").iterdir():
        path.write_bytes(b"")
    assert main(["camvid", str(tiny_camvid), "--split", "val"]) == 1
    assert not (tmp_path / "contact-sheet.png").exists()


def test_the_sheet_goes_to_a_file_or_into_a_folder(tmp_path: Path) -> None:
    assert sheet_file(tmp_path / "a" / "b.png") == tmp_path / "a" / "b.png"
    assert sheet_file(tmp_path / "new") == tmp_path / "new" / "contact-sheet.png"
    (tmp_path / "with.dot").mkdir()
    assert sheet_file(tmp_path / "with.dot") == tmp_path / "with.dot" / "contact-sheet.png"
    assert (tmp_path / "a").is_dir()
    assert (tmp_path / "new").is_dir()


@pytest.mark.parametrize("option", ["--json", "--output"])
def test_a_full_disk_is_told_with_the_file(
    option: str, tiny_camvid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "full.png"
    target.symlink_to("/dev/full")
    assert main(["camvid", str(tiny_camvid), option, str(target)]) == 1
    error = capsys.readouterr().err
    assert error == f"ecenet-train data check: [Errno 28] No space left on device: '{target}'\n"


def test_samples_are_spread_over_the_split() -> None:
    assert spread(range(100, 201), 5) == [100, 125, 150, 175, 200]
    assert spread([3, 7], 5) == [3, 7]
    assert spread([], 5) == []


def test_thumbnails_show_the_image_and_its_labels_in_colour() -> None:
    labels = np.full((480, 640), 1, np.uint8)
    labels[:, 320:] = 255
    image, colored = thumbnails(Sample(np.full((480, 640, 3), 100, np.uint8), labels), CAMVID_CLASSES)
    assert image.size == colored.size == (CELL_WIDTH, CELL_HEIGHT)
    assert image.getpixel((10, 10)) == (100, 100, 100)
    pixel = colored.getpixel((10, 10))
    assert isinstance(pixel, tuple)
    red, green, blue = pixel
    assert red == pytest.approx(0.4 * 100 + 0.6 * 128, abs=1)
    assert green == blue == pytest.approx(40, abs=1)
    assert colored.getpixel((300, 10)) == (green, green, green)


def test_the_sheet_holds_every_entry_and_the_legend() -> None:
    sample = Sample(np.full((240, 320, 3), 77, np.uint8), np.zeros((240, 320), np.uint8))
    sheets = [contact_sheet([Entry("one", sample)] * count, CAMVID_CLASSES) for count in (1, 2, 3)]
    assert sheets[0].size == sheets[1].size
    assert sheets[2].height - sheets[1].height > CELL_HEIGHT
    colors = {color for _, color in sheets[0].getcolors(1 << 20) or []}
    assert (77, 77, 77) in colors
    assert {info.color for info in CAMVID_CLASSES} <= colors


def test_a_caption_too_long_is_cut_at_its_front() -> None:
    sample = Sample(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8))
    sheet = contact_sheet([Entry("x" * 500, sample)], CAMVID_CLASSES)
    right = np.asarray(sheet)[:20, 2 * CELL_WIDTH + 16 :]
    assert (right == 255).all()


ROAD, SKY = {"name": "road", "color": [128, 64, 128]}, {"name": "sky", "color": [70, 130, 180]}
HALVES = [[0, 0, 1, 1]] * 3


class Mine:
    """A folder of one's own with images that differ, and the check of it."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root = root
        self._capsys = capsys
        self._photos = 0
        self.describe([ROAD, SKY])

    def describe(self, classes: list[dict[str, Any]], **keys: Any) -> None:
        self.root.mkdir(exist_ok=True)
        (self.root / "classes.json").write_text(json.dumps({"classes": classes, **keys}), encoding="utf-8")

    def add(self, split: str, name: str, labels: ArrayLike, photo: ArrayLike | None = None, **options: Any) -> None:
        array = np.asarray(labels, np.uint8)
        self._photos += 1
        pixels = np.full((*array.shape[:2], 3), 10 * self._photos, np.uint8) if photo is None else photo
        for kind, content in (("images", pixels), ("labels", array)):
            path = self.root / kind / split / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.asarray(content)).save(path, **(options if kind == "images" else {}))

    def check(self, *arguments: str) -> tuple[int, str]:
        status = main(["check", str(self.root), *arguments])
        return status, self._capsys.readouterr().out


@pytest.fixture
def mine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Mine:
    return Mine(tmp_path / "my data", capsys)


def sound(mine: Mine) -> Mine:
    mine.add("train", "a", HALVES)
    mine.add("val", "b", HALVES)
    return mine


def mended(text: str, fault: str) -> str:
    """The line that mends a fault."""
    lines = text.splitlines()
    return next(after for line, after in pairwise(lines) if fault in line)


def test_a_sound_folder_passes_and_its_kind_is_found(mine: Mine) -> None:
    status, text = sound(mine).check()
    assert status == 0
    assert "no problem" in text


def test_a_folder_without_val_fails_and_the_split_that_is_there_is_named(mine: Mine) -> None:
    mine.add("train", "a", HALVES)
    mine.add("test", "b", HALVES)
    status, text = mine.check()
    assert status == 1
    assert "there is no val split, so nothing shows how well it learns; there is: test, train" in text
    assert f"mv '{mine.root}/images/test' '{mine.root}/images/val'" in mended(text, "there is no val split")
    assert mine.check("--split", "train")[0] == 0


def test_val_may_be_called_valid(mine: Mine) -> None:
    mine.add("train", "a", HALVES)
    mine.add("valid", "b", HALVES)
    status, text = mine.check()
    assert status == 0
    assert "val: 1 image" in text


def test_labels_that_are_void_all_over_fail(mine: Mine) -> None:
    mine.add("train", "a", [[255] * 4] * 3)
    mine.add("val", "b", HALVES)
    status, text = mine.check()
    assert status == 1
    assert "all labels of train are void: no pixel counts" in text
    assert '"id"' in mended(text, "are void: no pixel")


def test_one_void_image_of_several_is_told_and_passes(mine: Mine) -> None:
    sound(mine).add("train", "void", [[255] * 4] * 3)
    status, text = mine.check()
    assert status == 0
    assert "train has 1 image whose labels are void all over" in text


def test_a_class_that_train_does_not_show_fails_and_the_line_leaves_it_out(mine: Mine) -> None:
    moon = {"name": "moon", "color": [1, 2, 3]}
    mine.describe([ROAD, moon, SKY])
    mine.add("train", "a", [[0, 0, 2, 2]] * 3)
    mine.add("val", "b", [[0, 1, 2, 2]] * 3)
    status, text = mine.check()
    assert status == 1
    assert "train has no pixel of moon" in text
    line = mended(text, "no pixel of moon: what")
    mine.describe([{**ROAD, "id": 0}, {**SKY, "id": 2}], ignore=[1, 255])
    assert json.dumps([{**ROAD, "id": 0}, {**SKY, "id": 2}]) in line
    assert '"ignore": [1, 255]' in line
    assert mine.check()[0] == 0


@pytest.mark.parametrize("keys", [{}, {"ignore": []}])
def test_masks_of_0_and_255_fail_and_the_line_makes_255_a_class(mine: Mine, keys: Mapping[str, Any]) -> None:
    mine.describe([ROAD, SKY], **keys)
    mine.add("train", "a", [[0, 0, 255, 255]] * 3)
    mine.add("val", "b", [[0, 255, 255, 255]] * 3)
    status, text = mine.check()
    assert status == 1
    assert "the labels of train hold 0 and 255 alone, and 255 is read as" in text
    line = mended(text, "hold 0 and 255 alone")
    content = json.loads("{" + line[line.index('"classes"') :] + "}")
    mine.describe(**content)
    assert mine.check()[0] == 0


def test_the_same_image_in_two_splits_fails_whatever_its_files_are(mine: Mine) -> None:
    sound(mine)
    photo = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
    mine.add("train", "one", HALVES, photo)
    mine.add("val", "other", HALVES, photo, compress_level=0)
    status, text = mine.check()
    assert status == 1
    both = f"{mine.root}/images/train/one.png and {mine.root}/images/val/other.png"
    assert f"1 image of train also in val, which then tests what was learned: {both}" in text
    assert f"rm '{mine.root}/images/val/other.png'" in mended(text, "also in val")


def test_masks_in_jpeg_fail_as_what_they_are(mine: Mine) -> None:
    sound(mine)
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(mine.root / "labels" / "train" / "c.jpg")
    Image.fromarray(np.zeros((3, 4, 3), np.uint8)).save(mine.root / "images" / "train" / "c.jpg")
    status, text = mine.check()
    assert status == 1
    assert "labels compressed with loss: 1" in text
    assert "labels/train/c.jpg is compressed with loss" in text
    assert "fix: export the masks again as PNG" in text


def test_labels_out_of_range_fail_with_what_mends_them(mine: Mine) -> None:
    sound(mine).add("train", "c", [[0, 1, 7, 7]] * 3)
    status, text = mine.check()
    assert status == 1
    assert "has label 7 in 6 of 12 pixels" in text
    assert 'fix: in classes.json, give a class this value as its "id", or list it in "ignore"' in text


def test_photos_that_exif_turns_are_counted_and_shown(mine: Mine, tmp_path: Path) -> None:
    sound(mine)
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
    mine.add("train", "c", HALVES, stored, exif=exif)
    mine.add("train", "d", np.rot90(HALVES), stored[::-1].copy(), exif=exif)
    status, text = mine.check("--json", "report.json")
    assert status == 0
    assert "train has 2 photos that EXIF turns, 1 with upright labels and 1 whose labels are turned too" in text
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["splits"]["train"]["sizes"] == {"3x4": 2, "4x3": 1}
    assert (report["splits"]["train"]["turned_photos"], report["splits"]["train"]["turned_labels"]) == (2, 1)
    mine.describe([ROAD, SKY], exif=False)
    status, text = mine.check()
    assert status == 1
    assert "sizes differ: 1" in text


def test_faults_are_in_the_json(mine: Mine, tmp_path: Path) -> None:
    mine.add("train", "a", HALVES)
    mine.check("--json", "report.json")
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["problems"] == 1
    assert report["faults"] == [
        {
            "text": "there is no val split, so nothing shows how well it learns; there is: train",
            "mend": f"ecenet-train data import '{mine.root}' --from masks -o FOLDER --split 0.2",
        }
    ]


def test_the_line_for_a_missing_val_makes_one(mine: Mine, tmp_path: Path) -> None:
    for name in "abcdef":
        mine.add("train", name, HALVES)
    assert mine.check()[0] == 1
    assert main(["import", str(mine.root), "--from", "masks", "-o", str(tmp_path / "new"), "--split", "0.2"]) == 0
    assert main(["check", str(tmp_path / "new")]) == 0


def test_a_folder_of_nothing_says_how_to_import(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tmp_path)]) == 1
    assert f"ecenet-train data import {tmp_path} --from TOOL -o FOLDER" in capsys.readouterr().err


def test_without_a_command_the_two_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "ecenet-train data import EXPORT --from TOOL -o FOLDER" in capsys.readouterr().out
    assert main([]) == 2


def test_check_may_be_left_out(tiny_camvid: Path) -> None:
    assert main(["camvid", str(tiny_camvid)]) == 0
    assert main(["check", str(tiny_camvid)]) == 0
