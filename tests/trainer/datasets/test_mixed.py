"""Classes of one dataset as those of another, and mixtures of datasets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from service.model_directory.manifest import ClassInfo
from trainer.datasets import (
    CAMVID_CLASSES,
    IGNORE_INDEX,
    DatasetError,
    Sample,
    open_dataset,
)
from trainer.datasets.cityscapes import CITYSCAPES_CLASSES
from trainer.datasets.files import Pair
from trainer.datasets.mapped import NAMED_MAPS, Mapped, named_map
from trainer.datasets.mixed import Mixed, mixed
from trainer.datasets.source import Source

V = IGNORE_INDEX
Write = Callable[..., Path]


class Rows:
    """Images of 1 x K pixels; image i has the grey ``first + i`` and each class once."""

    def __init__(
        self, count: int, *, name: str = "rows", classes: Sequence[str] = ("a", "b", "c"), first: int = 0
    ) -> None:
        self.name, self._first = name, first
        self.classes = tuple(ClassInfo(index, name, (index, 0, 0)) for index, name in enumerate(classes))
        self.pairs: Sequence[Pair] = [
            (Path(f"{name}-{index}.png"), Path(f"{name}-{index}.png")) for index in range(count)
        ]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        labels = self.labels(index)
        return Sample(np.full((*labels.shape, 3), self._first + index, np.uint8), labels)

    def labels(self, index: int) -> NDArray[np.uint8]:
        return np.array([[*range(len(self.classes)), V]], np.uint8)


def greys(mixed: Mixed) -> Counter[int]:
    return Counter(int(mixed[index].image[0, 0, 0]) for index in range(len(mixed)))


def test_classes_are_mapped_by_name_and_others_keep_theirs() -> None:
    target = Rows(1, classes=("road", "car", "b")).classes
    mapped = Mapped(Rows(2), target, {"a": "car", "c": "void"})
    assert mapped.labels(1).tolist() == mapped[1].labels.tolist() == [[1, 2, V, V]]
    assert mapped[1].image.max() == 1
    assert mapped.classes == target
    assert len(mapped) == len(mapped.pairs) == 2


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"a": "car"}, "class 'b' of rows has no counterpart; map it to 'void' or to one of road, car"),
        ({"a": "car", "b": "rode", "c": "car"}, "class 'b' of rows is mapped to 'rode', which there is not; map it"),
        ({"d": "car"}, "class of rows 'd' is unknown; there is: a, b, c"),
    ],
)
def test_a_class_without_counterpart_and_an_unknown_one_are_errors(names: dict[str, str], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        Mapped(Rows(1), Rows(1, classes=("road", "car")).classes, names)


def test_the_named_maps_are_whole() -> None:
    names = named_map("cityscapes-to-camvid")
    assert list(NAMED_MAPS) == ["cityscapes-to-camvid"]
    assert set(names) == {info.name for info in CITYSCAPES_CLASSES}
    assert set(names.values()) == {info.name for info in CAMVID_CLASSES}
    with pytest.raises(
        DatasetError, match="map of classes 'cityscape' is unknown; did you mean 'cityscapes-to-camvid'"
    ):
        named_map("cityscape")


def test_weights_say_how_often_an_image_is_seen_in_an_epoch() -> None:
    mixed = Mixed([(Rows(4), 3.0), (Rows(10, first=100), 0.5)], seed=0)
    assert len(mixed) == 4 * 3 + 5
    seen = greys(mixed)
    assert {grey: seen[grey] for grey in range(4)} == dict.fromkeys(range(4), 3)
    assert sum(seen[grey] for grey in range(100, 110)) == 5
    assert mixed.name == "rows+rows"
    assert mixed.labels(0).tolist() == [[0, 1, 2, V]]


def test_a_weight_below_one_shows_every_image_once_in_several_epochs() -> None:
    mixed = Mixed([(Rows(10), 0.5)], seed=3)
    first, second = mixed, mixed.at_epoch(1)
    assert greys(first) + greys(second) == Counter(range(10))
    assert greys(mixed.at_epoch(2)) != greys(first)  # another pass has another order


def test_an_epoch_follows_from_seed_and_number_alone() -> None:
    def names(seed: int, epoch: int) -> list[str]:
        parts = [(Rows(7), 0.7), (Rows(5, first=50), 1.0)]
        return [image.name for image, _ in Mixed(parts, seed=seed).at_epoch(epoch).pairs]

    assert names(1, 4) == names(1, 4) != names(2, 4)
    assert len(names(1, 0)) == len(names(1, 9)) == 10


def test_a_mixture_needs_equal_classes_and_positive_weights() -> None:
    with pytest.raises(DatasetError, match="a mixture has no dataset"):
        Mixed([], seed=0)
    with pytest.raises(DatasetError, match=r"the weight of rows is -1, expected more than 0"):
        Mixed([(Rows(1), -1.0)], seed=0)
    with pytest.raises(DatasetError, match=r"other has other classes than rows; map them to those"):
        Mixed([(Rows(1), 1.0), (Rows(1, name="other", classes=("a", "b")), 1.0)], seed=0)


def test_sources_are_mapped_to_the_classes_of_the_first(tiny_camvid: Path, tmp_path: Path, write: Write) -> None:
    road, terrain = CITYSCAPES_CLASSES[0].color, CITYSCAPES_CLASSES[9].color
    pixels = [[(9, 9, 9), (9, 9, 9), road, terrain]] * 2
    write(tmp_path / "pairs" / "train" / "1.jpg", pixels, format="PNG")
    names = named_map("cityscapes-to-camvid")
    source = Source(dataset="cityscapes_pairs", root=str(tmp_path / "pairs"), weight=2.0, classes=names)
    camvid = open_dataset("camvid", tiny_camvid, "train")
    pairs = open_dataset("cityscapes_pairs", tmp_path / "pairs", "train")
    both = mixed((camvid, 0.5), [(pairs, source)], seed=0)
    assert len(both) == 4 + 2
    assert both.places == (("camvid", 4), ("cityscapes_pairs", 2))
    assert both.labels(5).tolist() == [[3, 3, 5, 5]] * 2  # Road and Tree
    assert both.classes == CAMVID_CLASSES
