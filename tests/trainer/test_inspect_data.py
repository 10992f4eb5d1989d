"""``ecenet-train data``: the report, the contact sheet, and every broken file by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainer.datasets import CAMVID_CLASSES, CamVid, Sample
from trainer.datasets.contact_sheet import CELL_HEIGHT, CELL_WIDTH, Entry, contact_sheet, thumbnails
from trainer.inspect_data import main, sheet_file, spread


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_sound_dataset_is_counted(tiny_camvid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["camvid", str(tiny_camvid), "--json", "out/data.json"]) == 0
    text = capsys.readouterr().out
    assert "train: 8 images, all 64x48; 0.5 % of the pixels are void" in text
    assert "val: 2 images" in text
    assert "no test split here" in text
    assert "no problem: every file is there and can be used" in text
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
        (["camvid", "absent"], "absent is no folder; it should hold the dataset camvid"),
        (["camvit", str(tiny_camvid)], "dataset 'camvit' is unknown; did you mean 'camvid'?"),
        (["camvid", str(tiny_camvid), "--split", "vall"], "split of camvid 'vall' is unknown; did you mean 'val'?"),
        (["voc", str(tiny_camvid)], "train.txt does not exist; it belongs to the layout of voc"),
        (["camvid", str(tiny_camvid), "--output", "sheet.txt"], "sheet.txt is no picture file"),
    ):
        assert main(arguments) == 1
        written = capsys.readouterr()
        assert written.out == ""
        (line,) = written.err.splitlines()
        assert line.startswith("ecenet-train data: ")
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
    red, green, blue = colored.getpixel((10, 10))
    assert red == pytest.approx(0.4 * 100 + 0.6 * 128, abs=1)
    assert green == blue == pytest.approx(40, abs=1)
    assert colored.getpixel((300, 10)) == (green, green, green)


def test_the_sheet_holds_every_entry_and_the_legend() -> None:
    sample = Sample(np.full((240, 320, 3), 77, np.uint8), np.zeros((240, 320), np.uint8))
    sheets = [contact_sheet([Entry("one", sample)] * count, CAMVID_CLASSES) for count in (1, 2, 3)]
    assert sheets[0].size == sheets[1].size
    assert sheets[2].height - sheets[1].height > CELL_HEIGHT
    colors = {color for _, color in sheets[0].getcolors(1 << 20)}
    assert (77, 77, 77) in colors
    assert {info.color for info in CAMVID_CLASSES} <= colors


def test_a_caption_too_long_is_cut_at_its_front() -> None:
    sample = Sample(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8))
    sheet = contact_sheet([Entry("x" * 500, sample)], CAMVID_CLASSES)
    right = np.asarray(sheet)[:20, 2 * CELL_WIDTH + 16 :]
    assert (right == 255).all()
