"""Folders for files in a model directory: those of killed runs are removed, those of runs that go on are not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from model_export.staging import staging_folder

KILLED = """
import os, signal, sys
from pathlib import Path
from model_export.staging import staging_folder
with staging_folder(Path(sys.argv[1])) as folder:
    (folder / "model.onnx").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_folder_of_a_killed_run_is_removed_by_the_next(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    (left,) = tmp_path.iterdir()
    assert [path.name for path in left.iterdir()] == ["model.onnx"]
    with staging_folder(tmp_path) as folder:
        assert list(tmp_path.iterdir()) == [folder] != [left]
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_run_that_goes_on_stays(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").touch()
    with staging_folder(tmp_path) as first:
        (first / "file").touch()
        with staging_folder(tmp_path) as second:
            assert (first / "file").exists()
            assert set(tmp_path.iterdir()) == {first, second, tmp_path / "model.onnx"}
        assert (first / "file").exists()
    assert list(tmp_path.iterdir()) == [tmp_path / "model.onnx"]


def test_nothing_is_removed_where_folders_cannot_be_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(_descriptor: int, _operation: int) -> None:
        raise OSError("not supported")

    monkeypatch.setattr("fcntl.flock", flock)
    left = tmp_path / ".export-abc"
    left.mkdir()
    with staging_folder(tmp_path) as folder:
        assert set(tmp_path.iterdir()) == {folder, left}
