"""Forms of ``classes.json``, and the errors of wrong ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainer.datasets import IGNORE_INDEX, DatasetError
from trainer.datasets.folder_spec import read_spec

Describe = Callable[..., Path]
TWO = [{"name": "a", "color": [1, 2, 3]}, {"name": "b", "color": [4, 5, 6]}]


def test_a_bare_list_of_classes_will_do(tmp_path: Path) -> None:
    text = '[{"id": 0, "name": "a", "color": [1, 2, 3]}, {"id": 1, "name": "b", "color": "#0405Ff"}]'
    (tmp_path / "classes.json").write_text(text, encoding="utf-8")
    spec = read_spec(tmp_path)
    assert [(info.id, info.name, info.color) for info in spec.classes] == [(0, "a", (1, 2, 3)), (1, "b", (4, 5, 255))]
    assert spec.ids == {0: 0, 1: 1, 255: IGNORE_INDEX}


@pytest.mark.parametrize("text", ['{"a": [1, 2, 3], "b": "0405ff"}', '{"classes": {"a": "#010203", "b": [4, 5, 255]}}'])
def test_an_object_of_names_and_colours_will_do(text: str, tmp_path: Path) -> None:
    (tmp_path / "classes.json").write_text(text, encoding="utf-8-sig")
    infos = read_spec(tmp_path).classes
    assert [(info.id, info.name, info.color) for info in infos] == [(0, "a", (1, 2, 3)), (1, "b", (4, 5, 255))]


def test_a_misspelt_classes_is_told_its_name(tmp_path: Path) -> None:
    (tmp_path / "classes.json").write_text('{"clases": [{"name": "a", "color": "#010203"}]}', encoding="utf-8")
    with pytest.raises(DatasetError, match=r"key of the file 'clases' is unknown; did you mean 'classes'\?"):
        read_spec(tmp_path)


def test_ignore_holds_ids_and_colours(describe: Describe) -> None:
    spec = read_spec(describe(ignore=[7, [0, 0, 0], 9, "#ffffff"]))
    assert spec.ids == {0: 0, 1: 1, 2: 2, 7: IGNORE_INDEX, 9: IGNORE_INDEX}
    assert spec.colors[3:] == (((0, 0, 0), IGNORE_INDEX), ((255, 255, 255), IGNORE_INDEX))
    assert read_spec(describe(ignore=3)).ids[3] == IGNORE_INDEX


def test_folders_of_a_split_have_defaults(describe: Describe) -> None:
    root = describe(splits={"night": {"labels": "masks"}})
    night = read_spec(root).splits["night"]
    assert (night.images, night.labels, night.list_file) == (root / "images" / "night", root / "masks", None)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"clases": []}, r"key of the file 'clases' is unknown; did you mean 'classes'\?"),
        ({"classes": TWO[:1]}, r"'classes' has 1 entries, expected a list of 2\.\.255"),
        ({"classes": {"a": [1, 2, 3]}}, r"'classes' has 1 entries, expected a list of 2\.\.255"),
        ({"classes": "a b"}, "'classes' is 'a b', expected a list"),
        ({"classes": [*TWO, "c"]}, "class 2 is 'c', expected an object"),
        (
            {"classes": [*TWO, {"name": "c", "colour": [1, 2, 3]}]},
            "key of class 2 'colour' is unknown; did you mean 'c",
        ),
        ({"classes": [*TWO, {"name": "c"}]}, "class 'c' has no 'color'"),
        ({"classes": [*TWO, {"color": [1, 2, 3]}]}, "name of class 2 is None, expected text"),
        ({"classes": [*TWO, {"name": " ", "color": [1, 2, 3]}]}, "class 2 has no name"),
        (
            {"classes": [*TWO, {"name": "c", "color": [1, 2, 256]}]},
            r"colour \[1, 2, 256\], expected \[red, green, blue\]",
        ),
        ({"classes": [*TWO, {"name": "c", "color": "#12345"}]}, "colour '#12345', expected"),
        ({"classes": [*TWO, {"name": "A", "color": [1, 2, 3]}]}, "class 0 'a' and class 2 'A' have the same name"),
        ({"classes": [*TWO, {"name": "c", "color": [1, 2, 3], "id": 1}]}, "two classes have the id 1"),
        ({"classes": [*TWO, {"name": "c", "color": [1, 2, 3], "id": 65536}]}, r"id 65536, expected .* 0\.\.65535"),
        ({"ignore": [1]}, "'ignore' has id 1, which is a class's"),
        ({"ignore": [-1]}, "id -1, expected a whole number"),
        ({"ignore": [True]}, "id True, expected a whole number"),
        ({"encoding": "color"}, "encoding 'color' is unknown; did you mean 'colors'"),
        ({"splits": ["train"]}, r"'splits' is \['train'\], expected an object"),
        ({"splits": {"train": {"label": "x"}}}, "key of split 'train' 'label' is unknown; did you mean 'labels'"),
        ({"splits": {"train": {"images": 3}}}, "images is 3, expected text"),
        ({"label_suffix": 1}, "label_suffix is 1, expected text"),
    ],
)
def test_faults_are_named(describe: Describe, keys: dict[str, Any], expected: str) -> None:
    with pytest.raises(DatasetError, match=rf"classes\.json: {expected}"):
        read_spec(describe(**keys))


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"classes\.json does not exist; it must name the classes"):
        read_spec(tmp_path)
    (tmp_path / "classes.json").write_text('{"classes": [', encoding="utf-8")
    with pytest.raises(DatasetError, match=r"classes\.json cannot be read: Expecting value"):
        read_spec(tmp_path)
    (tmp_path / "classes.json").write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(DatasetError, match=r"classes\.json cannot be read: "):
        read_spec(tmp_path)
