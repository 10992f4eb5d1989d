"""Names of datasets, and the classes that each publishes."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.datasets import (
    DATASETS,
    DatasetError,
    choose_dataset,
    dataset_classes,
    guess_dataset,
    open_dataset,
    splits_in,
)

PUBLISHED = [name for name in DATASETS if name != "folder"]
COUNTS = {"camvid": 11, "ade20k": 150, "pascal_context": 60, "pascal_context_60": 60, "pascal_context_59": 59}
COUNTS |= {"cityscapes": 19, "cityscapes_pairs": 19, "voc": 21}

# What each dataset's publication says of a class: its index, its name, its colour.
KNOWN = [
    ("camvid", 0, "Sky", (128, 128, 128)),
    ("camvid", 4, "Pavement", (60, 40, 222)),
    ("camvid", 10, "Bicyclist", (0, 128, 192)),
    ("ade20k", 0, "wall", (120, 120, 120)),
    ("ade20k", 2, "sky", (6, 230, 230)),
    ("ade20k", 7, "bed", (204, 5, 255)),
    ("ade20k", 12, "person", (150, 5, 61)),
    ("ade20k", 20, "car", (0, 102, 200)),
    ("ade20k", 76, "boat", (173, 255, 0)),
    ("ade20k", 149, "flag", (92, 0, 255)),
    ("pascal_context", 0, "background", (120, 120, 120)),
    ("pascal_context", 1, "aeroplane", (180, 120, 120)),
    ("pascal_context", 2, "bag", (6, 230, 230)),
    ("pascal_context", 55, "tvmonitor", (0, 0, 255)),
    ("pascal_context", 58, "window", (0, 173, 255)),
    ("pascal_context", 59, "wood", (31, 0, 255)),
    ("pascal_context_59", 0, "aeroplane", (180, 120, 120)),
    ("pascal_context_59", 36, "person", (102, 8, 255)),
    ("pascal_context_59", 58, "wood", (31, 0, 255)),
    ("cityscapes", 0, "road", (128, 64, 128)),
    ("cityscapes", 1, "sidewalk", (244, 35, 232)),
    ("cityscapes", 6, "traffic light", (250, 170, 30)),
    ("cityscapes", 11, "person", (220, 20, 60)),
    ("cityscapes", 13, "car", (0, 0, 142)),
    ("cityscapes", 18, "bicycle", (119, 11, 32)),
    ("voc", 0, "background", (0, 0, 0)),
    ("voc", 15, "person", (192, 128, 128)),
    ("voc", 20, "tvmonitor", (0, 64, 128)),
]


@pytest.mark.parametrize("name", PUBLISHED)
def test_classes_are_complete(name: str) -> None:
    classes = dataset_classes(name)
    assert [info.id for info in classes] == list(range(COUNTS[name]))
    assert len({info.name for info in classes}) == COUNTS[name]
    assert all(info.name == info.name.strip() != "" for info in classes)
    assert all(0 <= channel <= 255 for info in classes for channel in info.color)


@pytest.mark.parametrize(("name", "index", "class_name", "color"), KNOWN)
def test_classes_are_those_published(name: str, index: int, class_name: str, color: tuple[int, int, int]) -> None:
    info = dataset_classes(name)[index]
    assert (info.name, info.color) == (class_name, color)


@pytest.mark.parametrize("name", PUBLISHED)
def test_colours_tell_classes_apart(name: str) -> None:
    """mmsegmentation's palette of ADE20K has one colour twice: road and skyscraper; PASCAL-Context takes it over."""
    classes = dataset_classes(name)
    twice = [info.id for info in classes if [other.color for other in classes].count(info.color) > 1]
    first = {"ade20k": 6, "pascal_context": 6, "pascal_context_60": 6, "pascal_context_59": 5}.get(name)
    assert twice == ([] if first is None else [first, first + 42])


def test_voc_colours_are_the_development_kits_bits() -> None:
    """VOClabelcolormap: bits 0, 3, 6 of the index are red's highest bits, then 1, 4, 7 green's and 2, 5, 8 blue's."""
    for info in dataset_classes("voc"):
        channels = [sum((info.id >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(3)) for channel in range(3)]
        assert list(info.color) == channels


def test_pascal_context_is_in_alphabetical_order_as_its_converter_numbers_it() -> None:
    names = [info.name for info in dataset_classes("pascal_context_59")]
    assert names == sorted(names)
    assert [info.name for info in dataset_classes("pascal_context")] == ["background", *names]


def test_an_unknown_dataset_is_an_error_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"dataset 'cityscape' is unknown; did you mean 'cityscapes'.* camvid, ade"):
        open_dataset("cityscape", tmp_path, "train")
    for attempt in (dataset_classes, lambda name: splits_in(name, tmp_path)):
        with pytest.raises(DatasetError, match="dataset 'ade' is unknown"):
            attempt("ade")


def test_an_unknown_split_is_an_error_that_lists_the_splits(tiny_camvid: Path) -> None:
    expected = "split of camvid 'training' is unknown; did you mean 'train'.*there is: train, val, test"
    with pytest.raises(DatasetError, match=expected):
        open_dataset("camvid", tiny_camvid, "training")


def test_a_missing_root_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="absent is not a folder; it should hold the dataset voc"):
        open_dataset("voc", tmp_path / "absent", "train")


def test_classes_of_a_folder_are_in_the_folder() -> None:
    with pytest.raises(DatasetError, match=r"classes\.json"):
        dataset_classes("folder")


def test_splits_are_those_that_are_there(tiny_camvid: Path) -> None:
    assert splits_in("camvid", tiny_camvid) == ("train", "val")


@pytest.fixture
def contexts(tmp_path: Path) -> Path:
    """The folders of PASCAL Context, whose two sets of classes share a layout."""
    lists = tmp_path / "VOCdevkit" / "VOC2010" / "ImageSets" / "SegmentationContext"
    lists.mkdir(parents=True)
    (lists / "train.txt").touch()
    return tmp_path


def test_a_folder_is_read_as_what_the_model_was_trained_on_if_it_has_that_layout(contexts: Path) -> None:
    assert guess_dataset(contexts) == "pascal_context"
    assert choose_dataset(contexts, stated="pascal_context_59") == "pascal_context_59"
    for stated in ("camvid", "CamVid, train split (367 images)", None):
        assert choose_dataset(contexts, stated=stated) == "pascal_context"
    assert choose_dataset(contexts, "voc", stated="pascal_context_59") == "voc"


def test_a_folder_without_a_dataset_is_refused_whatever_the_model_states(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds no dataset: neither classes"):
        choose_dataset(tmp_path, stated="camvid")


def test_a_remedy_can_be_pasted(tmp_path: Path) -> None:
    folder = tmp_path / "my data"
    folder.mkdir()
    with pytest.raises(DatasetError, match=f"ecenet-train data import '{folder}' --from TOOL"):
        guess_dataset(folder)
    (folder / "images").mkdir()
    with pytest.raises(DatasetError, match=f"ecenet-train data import '{folder}' --from masks"):
        open_dataset("folder", folder, "train")
    (folder / "classes.json").write_text('{"road": "#804080", "sky": "#4682b4"}')
    with pytest.raises(DatasetError, match=f"ecenet-train data import '{folder}' --from masks"):
        splits_in("folder", folder)
