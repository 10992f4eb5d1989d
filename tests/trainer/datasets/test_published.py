"""ADE20K, PASCAL-Context, Cityscapes and VOC, each in a small tree of exactly its published layout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from trainer.datasets import IGNORE_INDEX, DatasetError, open_dataset, splits_in

Write = Callable[..., Path]
V = IGNORE_INDEX


@pytest.fixture
def ade(tmp_path: Path, write: Write, photo: Write) -> Path:
    top = tmp_path / "ADEChallengeData2016"
    for folder, names in (("training", ("ADE_train_00000001", "ADE_train_00000002")), ("validation", ("ADE_val_1",))):
        for name in names:
            photo(top / "images" / folder / f"{name}.jpg")
            write(top / "annotations" / folder / f"{name}.png", [[0, 1, 2], [149, 150, 0]])
    return tmp_path


def test_ade20k_ignores_label_0_and_shifts_the_rest_down(ade: Path) -> None:
    dataset = open_dataset("ade20k", ade, "train")
    assert len(dataset) == 2
    assert dataset[1].labels.tolist() == [[V, 0, 1], [148, 149, V]]
    assert dataset[1].image.shape == (2, 3, 3)
    assert dataset.pairs[0][0].name == "ADE_train_00000001.jpg"


def test_ade20k_val_is_its_validation_folder(ade: Path) -> None:
    dataset = open_dataset("ade20k", ade / "ADEChallengeData2016", "val")
    assert [image.name for image, _ in dataset.pairs] == ["ADE_val_1.jpg"]


def test_endings_in_capitals_are_read_too(ade: Path) -> None:
    top = ade / "ADEChallengeData2016"
    image, label = (top / kind / "training" / "ADE_train_00000001" for kind in ("images", "annotations"))
    image.with_suffix(".jpg").rename(image.with_suffix(".JPG"))
    label.with_suffix(".png").rename(label.with_suffix(".Png"))
    assert len(open_dataset("ade20k", ade, "train")) == 2
    image.with_suffix(".jpg").touch()
    with pytest.raises(DatasetError, match=r"00001\.JPG and .*00001\.jpg have the same name; remove one of the two"):
        open_dataset("ade20k", ade, "train")


def test_ade20k_label_151_is_out_of_range(ade: Path, write: Write) -> None:
    path = write(ade / "ADEChallengeData2016/annotations/validation/ADE_val_1.png", [[0, 1, 2], [151, 255, 0]])
    with pytest.raises(DatasetError, match=rf"{path} has labels 151, 255 in 2 of 6 .* x 0, y 1, expected 0\.\.150"):
        open_dataset("ade20k", ade, "val")[0]


def test_a_truncated_jpeg_is_named(ade: Path, photo: Write) -> None:
    path = photo(ade / "ADEChallengeData2016/images/validation/ADE_val_1.jpg", (64, 64))
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(DatasetError, match=f"{path} cannot be read: .*truncated"):
        open_dataset("ade20k", ade, "val")[0]


def lists(folder: Path, **names: Sequence[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for split, entries in names.items():
        (folder / f"{split}.txt").write_text("".join(f"{name}\n" for name in entries), encoding="utf-8")


@pytest.fixture
def context(tmp_path: Path, write: Write, photo: Write) -> Path:
    top = tmp_path / "VOCdevkit" / "VOC2010"
    lists(top / "ImageSets" / "SegmentationContext", train=["2008_000002", "2008_000003"], val=["2008_000007"])
    for name in ("2008_000002", "2008_000003", "2008_000007", "2009_000001"):
        photo(top / "JPEGImages" / f"{name}.jpg")
        write(top / "SegmentationClassContext" / f"{name}.png", [[0, 1, 2], [58, 59, 0]])
    return tmp_path


@pytest.mark.parametrize("name", ["pascal_context", "pascal_context_60"])
def test_pascal_context_has_60_classes_with_background(context: Path, name: str) -> None:
    dataset = open_dataset(name, context, "train")
    assert (len(dataset), len(dataset.classes)) == (2, 60)
    assert dataset[0].labels.tolist() == [[0, 1, 2], [58, 59, 0]]


def test_pascal_context_59_ignores_background(context: Path) -> None:
    dataset = open_dataset("pascal_context_59", context, "val")
    assert (len(dataset), len(dataset.classes)) == (1, 59)
    assert dataset[0].labels.tolist() == [[V, 0, 1], [57, 58, V]]


@pytest.mark.parametrize("name", ["pascal_context", "pascal_context_59"])
def test_pascal_context_label_60_is_out_of_range(context: Path, write: Write, name: str) -> None:
    write(context / "VOCdevkit/VOC2010/SegmentationClassContext/2008_000007.png", [[60, 0, 0], [0, 0, 0]])
    with pytest.raises(DatasetError, match=r"2008_000007\.png has label 60 .* expected 0\.\.59"):
        open_dataset(name, context, "val")[0]


def test_a_list_that_names_a_missing_file_is_an_error(context: Path) -> None:
    (context / "VOCdevkit/VOC2010/SegmentationClassContext/2008_000007.png").unlink()
    with pytest.raises(DatasetError, match=r"val\.txt lists 2008_000007, but .*2008_000007\.png does not exist"):
        open_dataset("pascal_context", context, "val")


@pytest.fixture
def cityscapes(tmp_path: Path, write: Write, photo: Write) -> Path:
    for split, city, name in (("train", "aachen", "aachen_000000_000019"), ("val", "lindau", "lindau_000000_000019")):
        photo(tmp_path / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png")
        truth = tmp_path / "gtFine" / split / city
        write(truth / f"{name}_gtFine_labelIds.png", [[0, 7, 33], [34 - 1, 4, 18]])
        write(truth / f"{name}_gtFine_instanceIds.png", [[0, 7, 33], [33, 4, 18]])
        write(truth / f"{name}_gtFine_color.png", [[[0, 0, 0]] * 3] * 2)
        (truth / f"{name}_gtFine_polygons.json").write_text("{}", encoding="utf-8")
    return tmp_path


def test_cityscapes_label_ids_become_train_ids(cityscapes: Path, write: Write) -> None:
    dataset = open_dataset("cityscapes", cityscapes, "train")
    assert dataset[0].labels.tolist() == [[V, 0, 18], [18, V, V]]
    write(dataset.pairs[0][1], [list(range(34))])
    # The evaluated ids of helpers/labels.py in the order of their train ids.
    train_ids = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    expected = [train_ids.index(label) if label in train_ids else V for label in range(34)]
    assert dataset.labels(0).tolist() == [expected]


def test_cityscapes_train_ids_are_read_where_they_are(cityscapes: Path, write: Write) -> None:
    path = cityscapes / "gtFine/val/lindau/lindau_000000_000019_gtFine_labelTrainIds.png"
    write(path, [[0, 7, 18], [255, 10, 3]])
    dataset = open_dataset("cityscapes", cityscapes, "val")
    assert dataset.pairs[0][1] == path
    assert dataset[0].labels.tolist() == [[0, 7, 18], [V, 10, 3]]


@pytest.mark.parametrize(
    ("kind", "label", "expected"), [("labelIds", 34, r"0\.\.33$"), ("labelTrainIds", 19, r"0\.\.18, 255$")]
)
def test_cityscapes_labels_out_of_range(cityscapes: Path, write: Write, kind: str, label: int, expected: str) -> None:
    write(cityscapes / f"gtFine/val/lindau/lindau_000000_000019_gtFine_{kind}.png", [[label, 0, 0], [0, 0, 0]])
    with pytest.raises(DatasetError, match=rf"{kind}\.png has label {label} .*expected {expected}"):
        open_dataset("cityscapes", cityscapes, "val")[0]


def test_cityscapes_images_and_labels_pair_within_their_city(cityscapes: Path, photo: Write) -> None:
    path = photo(cityscapes / "leftImg8bit/val/bonn/bonn_000000_000019_leftImg8bit.png")
    with pytest.raises(DatasetError, match=f"{path} has no label in {cityscapes}/gtFine/val"):
        open_dataset("cityscapes", cityscapes, "val")


@pytest.fixture
def voc(tmp_path: Path, write: Write, photo: Write) -> Path:
    top = tmp_path / "VOCdevkit" / "VOC2012"
    names = {"train": ["2007_000032"], "val": ["2007_000033"], "trainval": ["2007_000032", "2007_000033"]}
    lists(top / "ImageSets" / "Segmentation", **names)
    colors = [channel for index in range(256) for channel in (index, 255 - index, 7)]
    for name in names["trainval"]:
        photo(top / "JPEGImages" / f"{name}.jpg")
        write(top / "SegmentationClass" / f"{name}.png", [[0, 1, 20], [255, 255, 15]], colors)
    return tmp_path


def test_voc_borders_are_void_and_palette_indices_are_classes(voc: Path) -> None:
    dataset = open_dataset("voc", voc, "train")
    assert dataset[0].labels.tolist() == [[0, 1, 20], [V, V, 15]]
    assert len(open_dataset("voc", voc / "VOCdevkit" / "VOC2012", "trainval")) == 2


def test_voc_label_21_is_out_of_range(voc: Path, write: Write) -> None:
    write(voc / "VOCdevkit/VOC2012/SegmentationClass/2007_000033.png", [[0, 21, 0], [0, 0, 0]])
    with pytest.raises(
        DatasetError, match=r"has label 21 in 1 of 6 pixels, the first at x 1, y 0, expected 0\.\.20, 255"
    ):
        open_dataset("voc", voc, "val")[0]


def test_voc_trainaug_adds_labels_to_images_that_voc_has_none_of(voc: Path, write: Write, photo: Write) -> None:
    top = voc / "VOCdevkit" / "VOC2012"
    with pytest.raises(DatasetError, match=r"Segmentation/trainaug\.txt does not exist"):
        open_dataset("voc", voc, "trainaug")
    lists(top / "ImageSets" / "Segmentation", trainaug=["2007_000032", "2008_000002"])
    photo(top / "JPEGImages" / "2008_000002.jpg")
    for name in ("2007_000032", "2008_000002"):
        write(top / "SegmentationClassAug" / f"{name}.png", [[3, 3, 3], [3, 3, 3]])
    dataset = open_dataset("voc", voc, "trainaug")
    assert [label.parent.name for _, label in dataset.pairs] == ["SegmentationClass", "SegmentationClassAug"]
    assert dataset[1].labels.tolist() == [[3, 3, 3], [3, 3, 3]]
    assert splits_in("voc", voc) == ("train", "val", "trainval", "trainaug")


def test_lists_from_windows_are_read(voc: Path) -> None:
    path = voc / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    assert len(open_dataset("voc", voc, "val")) == 1


def test_a_name_that_is_listed_twice_is_an_error(voc: Path) -> None:
    path = voc / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt"
    path.write_text(f"{path.read_text()}\n{path.read_text()}", encoding="utf-8")
    with pytest.raises(DatasetError, match=rf"{path} lists more than once: 200"):
        open_dataset("voc", voc, "val")


def test_an_empty_list_is_an_error(voc: Path) -> None:
    (voc / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt").write_text("\n", encoding="utf-8")
    with pytest.raises(DatasetError, match="split 'val' of voc, is empty"):
        open_dataset("voc", voc, "val")


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("camvid", "train"),
        ("ade20k", "images/training"),
        ("pascal_context_59", "ImageSets/SegmentationContext/train.txt"),
        ("cityscapes", "leftImg8bit/train"),
        ("voc", "ImageSets/Segmentation/train.txt"),
    ],
)
def test_a_folder_of_another_layout_is_told_what_it_lacks(tmp_path: Path, name: str, part: str) -> None:
    for attempt in (lambda: open_dataset(name, tmp_path, "train"), lambda: splits_in(name, tmp_path)):
        with pytest.raises(DatasetError, match=f"{tmp_path}/{part} does not exist; it belongs to the layout of {name}"):
            attempt()
