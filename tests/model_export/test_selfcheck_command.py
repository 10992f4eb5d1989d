"""``ecenet-export selfcheck``: what it prints, and when it fails."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from model_export.__main__ import main
from service.model_directory.manifest import FileInfo, file_sha256, read_manifest, write_manifest


@pytest.fixture
def directory(exported_dir: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(exported_dir, tmp_path / "tiny"))


def test_each_batch_size_has_a_row(exported_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["selfcheck", str(exported_dir), "--repeats", "1"]) == 0
    title, header, *rows = capsys.readouterr().out.splitlines()
    assert title == "tiny 2.0.0 on onnxruntime: model.onnx, 72x90, fp32, logits"
    assert header.split() == ["batch", "ms/batch", "ms/image", "agreement", "with", "PyTorch"]
    assert [row.split()[0] for row in rows] == ["1", "2", "4", "8"]
    assert all(row.endswith("equal labels 100.000%") for row in rows)
    batch, milliseconds, each = map(float, rows[3].split()[:3])
    assert each == pytest.approx(milliseconds / batch, abs=0.06)


def test_another_precision_is_checked_by_its_own_bounds(exported_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["selfcheck", str(exported_dir), "--precision", "fp16", "--repeats", "1"]) == 0
    assert "model-72x90-fp16.onnx, 72x90, fp16" in capsys.readouterr().out


def test_the_engine_is_the_one_that_serves_by_measurement(
    exported_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECENET_EXACT", "false")
    monkeypatch.setenv("ECENET_STATE_DIR", str(tmp_path))
    assert main(["selfcheck", str(exported_dir), "--repeats", "1"]) == 0
    (kept,) = (tmp_path / "engine-choices").glob("*.json")
    timed = [trial for trial in json.loads(kept.read_text()) if trial["timing"] is not None]
    best = min(timed, key=lambda trial: trial["timing"]["alone"] * trial["timing"]["per_image"])["candidate"]
    title = capsys.readouterr().out.splitlines()[0]
    assert f" on {best['runtime']}: " in title
    assert f", {best['precision']}, " in title


def test_other_outputs_are_exit_status_1(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = read_manifest(directory)
    arrays = dict(np.load(directory / "golden.npz"))
    arrays["72x90/logits"] += np.float32(0.25)
    np.savez(directory / "golden.npz", **arrays)
    golden = FileInfo("golden.npz", file_sha256(directory / "golden.npz"))
    write_manifest(directory, dataclasses.replace(manifest, golden=golden))
    assert main(["selfcheck", str(directory)]) == 1
    assert "differs from PyTorch on the golden inputs: largest logit error 2.50e-01 (at most 1e-03)" in (
        capsys.readouterr().err
    )


def test_a_runtime_that_is_not_there_is_exit_status_1(exported_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["selfcheck", str(exported_dir), "--engine", "tensorrt"]) == 1
    assert "ecenet-export: --engine tensorrt cannot be used: tensorrt is not installed" in capsys.readouterr().err


def test_a_directory_without_golden_inputs_tells_what_to_do(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_manifest(directory, dataclasses.replace(read_manifest(directory), golden=None))
    assert main(["selfcheck", str(directory)]) == 1
    assert "no golden inputs; export the checkpoint again with ecenet-export onnx" in capsys.readouterr().err


def test_repeats_below_1_are_refused(exported_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["selfcheck", str(exported_dir), "--repeats", "0"]) == 1
    assert "--repeats is 0, expected 1 or more" in capsys.readouterr().err


def test_seconds_of_load_must_be_positive(exported_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["selfcheck", str(exported_dir), "--seconds", "0"]) == 1
    assert "--seconds is 0, expected more than 0" in capsys.readouterr().err
