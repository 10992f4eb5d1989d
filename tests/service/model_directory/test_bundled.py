from __future__ import annotations

from pathlib import Path

import pytest

from service.model_directory.bundled import bundled_model_dir
from service.model_directory.manifest import MANIFEST_NAME, ManifestError


def add_model(directory: Path) -> Path:
    directory.mkdir(parents=True)
    (directory / MANIFEST_NAME).touch()
    return directory


def test_the_only_model_directory_is_found(tmp_path: Path) -> None:
    (tmp_path / "models" / "empty").mkdir(parents=True)
    model = add_model(tmp_path / "models" / "small")
    assert bundled_model_dir([tmp_path / "nowhere", tmp_path / "models"]) == model


def test_the_first_place_with_a_model_counts(tmp_path: Path) -> None:
    wheel = add_model(tmp_path / "bundled" / "small")
    add_model(tmp_path / "models" / "small")
    assert bundled_model_dir([tmp_path / "bundled", tmp_path / "models"]) == wheel


def test_no_model_is_told_with_the_places_and_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="--model-dir") as failure:
        bundled_model_dir([tmp_path / "bundled", tmp_path / "models"])
    assert str(tmp_path / "bundled") in str(failure.value)
    assert str(tmp_path / "models") in str(failure.value)


def test_several_models_are_told_by_name(tmp_path: Path) -> None:
    add_model(tmp_path / "large")
    add_model(tmp_path / "small")
    with pytest.raises(ManifestError, match=r"several.*large.*small.*--model-dir"):
        bundled_model_dir([tmp_path])
