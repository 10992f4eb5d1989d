"""``--explain-engine``: a table per model, and the reason for one that cannot be served."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from service.model_directory.engine_store import STATE_VARIABLE
from service.models.explanation import explain_engines
from service.settings import Settings
from tests.support.brightness_model import WriteModel


@pytest.fixture
def models(tmp_path: Path, write_model: WriteModel, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path / "state"))
    root = tmp_path / "models"
    write_model(root / "good")
    broken = write_model(root / "broken", name="broken")
    (broken / "manifest.json").write_text("{}")
    return root


def test_every_model_is_explained(models: Path) -> None:
    text = explain_engines(Settings(model_dir=models, exact=True, engine_threads=1))
    good, broken = sorted(text.split("\n\n"))
    assert good.splitlines()[1] == "-> onnxruntime fp32: the settings leave no choice to measure"
    assert broken.startswith("broken cannot be served: ")
    assert "manifest.json" in broken


def test_the_command_prints_the_explanation_and_ends(models: Path) -> None:
    command = [sys.executable, "-m", "service", "--explain-engine", "--exact", "--model-dir", str(models / "good")]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[1:] == ["-> onnxruntime fp32: the settings leave no choice to measure"]


def test_no_model_is_an_error_of_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "service", "--explain-engine", "--model-dir", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "is not a model directory" in ended.stderr
