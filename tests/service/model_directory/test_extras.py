"""Packages of extras: the one that is missing is named, with a command that works."""

from __future__ import annotations

import importlib
import tomllib
from pathlib import Path

import pytest

from service.model_directory.extras import MissingExtraError, install_command, needing_extra

ROOT = Path(__file__).resolve().parents[3]
SOURCES = [path for root in ("service", "trainer", "model_export") for path in (ROOT / root).rglob("*.py")]


def test_a_missing_package_is_told_with_its_extra() -> None:
    message = r"^torch2 is not installed: pip install '\.\[train\]' in the folder of"
    with pytest.raises(MissingExtraError, match=message), needing_extra("train"):
        importlib.import_module("torch2.nn")


@pytest.mark.parametrize("name", ["trainer.absent", "service.absent"])
def test_a_missing_module_of_this_project_is_a_bug_and_stays_one(name: str) -> None:
    with pytest.raises(ModuleNotFoundError, match=name), needing_extra("train"):
        importlib.import_module(name)


def test_no_text_names_a_package_that_no_index_has() -> None:
    assert [path for path in SOURCES if "install 'ecenet[" in path.read_text(encoding="utf-8")] == []
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert {"cpu", "gpu", "rtx", "otel", "train", "export"} <= set(extras)
    assert install_command("gpu") == "pip install '.[gpu]' in the folder of ECENet's source"
